"""Damaged files and texts given to all that reads them: a result or one of mlkit's own errors, never another.

By atheris (`pip install -e ".[fuzz]"`), which looks for what runs new lines of code; where it is not installed, by chance.
"""

import importlib.util
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

ATHERIS = importlib.util.find_spec("atheris") is not None
if looking := ATHERIS and __name__ == "__main__":
    import atheris

with atheris.instrument_imports(include=["mlkit", "PIL", "yaml"]) if looking else nullcontext():
    from mlkit.data.formats import read_other, write_other
    from mlkit.data.formats.statements import Options
    from mlkit.data.images import load_image
    from mlkit.data.labelfile import read_label_file, read_labels
    from mlkit.errors import MlkitError
    from mlkit.files import resolve
    from mlkit.models.modelfile import load_model
    from mlkit.training.recipe import Recipe


def read_settings(file: Path) -> Recipe:
    """Settings as `-p name value` gives them, one a line."""
    pairs = (line.partition(" ") for line in file.read_text(encoding="utf-8", errors="replace").split("\n"))
    return Recipe.read(settings={name: value for name, _, value in pairs if name})


READERS: dict[str, tuple[Callable[[Path], Any], float]] = {  # with their shares of the inputs; a model takes long
    "labels": (read_label_file, 0.3),
    "formats": (lambda file: read_other(file, Options(absent="NA")), 0.2),
    "images": (lambda file: load_image(file, 32), 0.3),
    "recipe": (lambda file: Recipe.read(str(file)), 0.1),
    "settings": (read_settings, 0.0995),
    "model": (load_model, 0.0005),
}
SETTINGS = b"epochs 3\nloss asl\nloss_settings gamma_neg: 2, clip: 0\nthreshold precision:0.9\nbatch_size auto\nflip 0.5\n"
SETTINGS += b'values {"1": "yes", "-1": "NA"}\nattributes ["a*", "!b"]\nvalue_range 0, 255\nlearning_rate 1e-3\nstrict false'


def real_files(folder: Path) -> dict[str, dict[str, bytes]]:
    """What is damaged: reader -> name -> content, from the label file and the model of `folder` among others."""
    labels, work = (folder / "labels.csv").read_bytes(), folder / "written"
    work.mkdir(exist_ok=True)
    for name in ("tasks.json", "labels.parquet"):
        write_other(read_labels(folder / "labels.csv"), work / name)
    tables = {
        "labels.csv": labels,
        "labels.tsv": labels.replace(b",", b"\t"),
        "labels.txt": b"\n".join(labels.replace(b",", b" ").splitlines()[1:]),
        "tags.csv": b"image,tags\na.jpg,haze|primary\nb.jpg,\nc.jpg,clear|haze\n",
        "tasks.json": (work / "tasks.json").read_bytes()[:4000] + b"]",
        "list_attr.txt": b"2\nSmiling Hat\na.jpg 1 -1\nb.jpg -1 1\n",
        "lines.jsonl": b'{"image": "a.jpg", "tags": ["x"]}\n{"image": "b.jpg", "tags": []}\n',
        "labels.parquet": (work / "labels.parquet").read_bytes(),
    }
    photos = [file for file in sorted(Path(__file__).with_name("photos").rglob("*.*")) if file.suffix not in (".md", ".csv")]
    return {
        "labels": tables,
        "formats": tables,
        "images": {photo.name: photo.read_bytes() for photo in photos},
        "recipe": {"recipe.yaml": Path(resolve("notebooks/parameters/seed.yaml")).read_bytes()},
        "settings": {"settings": SETTINGS},
        "model": {"model.pth": (folder / "runs" / "whole" / "model.pth").read_bytes()},
    }


def give(kind: str, name: str, content: bytes, work: Path) -> None:
    """Let a reader read a damaged file."""
    file = work / f"damaged{Path(name).suffix}"
    file.write_bytes(content)
    with suppress(MlkitError):
        READERS[kind][0](file)


def mutated(content: bytes, chance: random.Random) -> bytes:
    """A file with some bytes changed, cut, doubled or taken from elsewhere in it."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 6)):
        at, length = chance.randrange(len(data) + 1), chance.choice((1, 1, 1, 2, 8, 64))
        match chance.randrange(5):
            case 0:
                data[at : at + length] = chance.randbytes(length)
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = data[at : at + length] * chance.choice((1, 2, 50))
            case 3:
                data[at:at] = chance.choice(
                    (b",", b"\n", b'"', b"\t", b"[", b"{", b"NA", b"-1", b"\0", b"\xff", b"..", b"=1")
                )
            case 4:
                start = chance.randrange(len(data) + 1)
                data[at : at + length] = data[start : start + length]
    return bytes(data)


def fuzz(folder: Path, inputs: int, seed: int) -> None:
    """Give so many damaged files to all readers, see `real_files` for the folder."""
    counts = {kind: max(1, round(inputs * share)) for kind, (_, share) in READERS.items() if inputs}
    chance, files = random.Random(seed), real_files(folder)
    for kind, count in counts.items():
        if ATHERIS:
            words = [sys.executable, __file__, kind, str(folder), str(count), str(seed + 1)]
            done = subprocess.run(words, capture_output=True, encoding="utf-8", errors="replace", check=False)
            if done.returncode:
                raise AssertionError(f"{kind}: {done.stdout[-3000:]}{done.stderr[-3000:]}")
        for name in [] if ATHERIS else chance.choices(list(files[kind]), k=count):
            signal.alarm(60)  # whatever takes so long never ends
            give(kind, name, mutated(files[kind][name], chance), folder)
            signal.alarm(0)
    how = "looked for by atheris" if ATHERIS else "made by chance"
    print(f"{sum(counts.values())} damaged files were read or refused, {how}")


def look(kind: str, folder: Path, inputs: str, seed: str) -> None:
    """Let atheris look for what a reader stumbles over; ends the process."""
    files, corpus = real_files(folder)[kind], folder / f"corpus-{kind}"
    corpus.mkdir()
    for number, content in enumerate(files.values()):
        (corpus / f"{number}").write_bytes(bytes([number]) + content)  # the first byte tells the file's name
    names = list(files)

    def one(data: bytes) -> None:
        if data:
            give(kind, names[data[0] % len(names)], data[1:], folder)

    options = [
        f"-atheris_runs={inputs}",
        f"-seed={seed}",
        "-timeout=60",
        "-rss_limit_mb=8192",
        f"-artifact_prefix={folder}/",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    look(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
