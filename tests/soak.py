"""Proof that nothing is lost: trainings killed at random moments, writes that fail one after the other, damaged files.

`make soak`. Every training is compared with one that nobody disturbed: history, predictions and weights must be the same
bytes. A damaged file gives a result or an error of mlkit's own, never another.
"""

import argparse
import errno
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import torch

import mlkit.files
import mlkit.training.loop
from mlkit.cli import main
from mlkit.data.formats import read_other, write_other
from mlkit.data.formats.statements import Options
from mlkit.data.images import load_image
from mlkit.data.labelfile import read_label_file, read_labels
from mlkit.errors import MlkitError
from mlkit.experiments.rerun import compare
from mlkit.files import environment, resolve
from mlkit.models.modelfile import load_model
from mlkit.models.torchfile import load_torch
from mlkit.runs import Run, outputs_root
from mlkit.training.loop import Training
from mlkit.training.recipe import Recipe

BASE = {
    "backbone": "shufflenet_v2_x0_5", "weights": "none", "image_size": 32, "batch_size": 8, "epochs": 2, "precision": "fp32",
}  # fmt: skip
SETTINGS: tuple[dict[str, Any], ...] = (
    {"accumulate": 2, "clip_norm": 1.0},
    {"mixup": 0.4, "ema_decay": 0.9, "label_smoothing": 0.1},
    {"warmup_epochs": 0.5, "schedule": "cosine", "optimizer": "adamw", "flip": 0.5},
    {"sampler": "balanced", "pos_weight": "none", "loss": "partial_bce"},
    {"loss": "ll_r", "pos_weight": "none"},
    {"loss": "ll_ct", "pos_weight": "none"},
    {"loss": "asl", "pos_weight": "none"},
    {"loss": "hill", "pos_weight": "none"},
    {"weights": "{whole}", "freeze": "backbone"},
    {"loss": "csl", "pos_weight": "none", "prior_run": "whole"},
)


def command(folder: Path, name: str, settings: dict[str, Any]) -> list[str]:
    """The command of a training on the data in `folder`."""
    values = {**BASE, **settings}
    pairs = [word for key, value in values.items() for word in ("-p", key, str(value))]
    data = ["--images", str(folder / "images"), "--labels", str(folder / "labels.csv")]
    return ["train", *data, *pairs, "--name", name]


def quiet(arguments: list[str]) -> tuple[int, str]:
    """Exit code of a command, and what it said on standard error."""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()) as said:
        code = main(arguments)
    return code, said.getvalue()


def differences(first: Run, second: Run) -> list[str]:
    """Files in which two finished runs differ, times and speeds aside."""

    files, _ = compare(first, second)
    files["split.csv"] = first.read_table("split.csv").equals(second.read_table("split.csv"))
    found = [file for file, same in files.items() if not same]
    states = [load_torch(run / "model.pth")["state_dict"] for run in (first, second)]
    same = all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    return found if same else [*found, "model.pth"]


def killed(arguments: list[str], moments: Callable[[], float]) -> int:
    """Train in processes that are killed after so many seconds each, until one comes to its end; returns how many died."""
    deaths = 0
    while True:
        sys.stdout.flush()
        if not (child := os.fork()):
            Training.checkpoint_seconds = 0.1
            os._exit(quiet(arguments)[0])
        end = time.monotonic() + moments()
        while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < end:
            time.sleep(0.01)
        if ended[0]:
            if ended[1]:
                raise AssertionError(f"a training that was not killed ended with {ended[1]}: {' '.join(arguments)}")
            return deaths
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        deaths += 1
        if Run(outputs_root() / arguments[-1]).finished:  # killed when all was written
            return deaths


def kill_all(folder: Path, kills: int, seed: int) -> int:
    """Kill trainings of all kinds until so many have died; returns how many did."""
    chance, deaths, number = random.Random(seed), 0, 0
    first = command(folder, "whole", {})
    if quiet(first)[0]:
        raise AssertionError("the first training failed")
    weights = outputs_root() / "whole" / "model.pth"
    while deaths < kills:
        asked = SETTINGS[number % len(SETTINGS)]
        settings = {name: str(value).format(whole=weights) for name, value in asked.items()}
        started = time.monotonic()
        if (outcome := quiet(command(folder, f"calm{number}", settings)))[0]:
            raise AssertionError(outcome[1])
        calm, left = time.monotonic() - started, min(4, kills - deaths)

        def moment(calm: float = calm) -> float:
            nonlocal left
            left -= 1
            return chance.uniform(0, calm) if left >= 0 else 1e9

        died = killed(command(folder, f"killed{number}", settings), moment)
        if wrong := differences(Run.open(f"calm{number}"), Run.open(f"killed{number}")):
            raise AssertionError(f"{settings}: {', '.join(wrong)} differ after {died} kills")
        print(f"{asked}: killed {died} times, the same bytes", flush=True)
        deaths, number = deaths + died, number + 1
    return deaths


@contextmanager
def failing(number: int, code: int) -> Iterator[list[str]]:
    """Let the file of that number fail to get its name, as on a full or broken disk; gives the files that were written."""
    real, seen, every = mlkit.files.move, list[str](), Training.checkpoint_seconds

    def move(source: Path, target: Path) -> None:
        seen.append(target.name)
        if len(seen) == number:
            raise OSError(code, os.strerror(code), str(target))
        real(source, target)

    mlkit.files.move = mlkit.training.loop.move = move
    Training.checkpoint_seconds = -1.0  # a checkpoint after every iteration
    try:
        yield seen
    finally:
        mlkit.files.move = mlkit.training.loop.move = real
        Training.checkpoint_seconds = every


def fail_writes(folder: Path, outputs: Path, numbers: Iterable[int]) -> int:
    """Let one write after the other fail, those of the pixel cache too, and go on; returns how many did."""
    arguments, failed = command(folder, "run", {"epochs": 1}), 0
    with environment(MLKIT_OUTPUTS=str(outputs / "undisturbed")):
        if quiet(arguments)[0]:
            raise AssertionError("the undisturbed training failed")
    for number in numbers:
        kind = errno.ENOSPC if number % 2 else errno.EIO
        with environment(MLKIT_OUTPUTS=str(outputs / f"{number}")):
            with failing(number, kind) as seen:
                code, said = quiet(arguments)
            if len(seen) < number:
                break
            where = f"write {number}, {seen[number - 1]}: exit {code}"
            if code not in (0, 1) or (code == 1 and os.strerror(kind) not in said):
                raise AssertionError(f"{where}, {said!r}")
            if code and quiet(arguments)[0]:
                raise AssertionError(f"{where}, does not go on")
        if wrong := differences(Run(outputs / "undisturbed" / "run"), Run(outputs / f"{number}" / "run")):
            raise AssertionError(f"{where}, {', '.join(wrong)} differ")
        print(f"{where}, {'went on' if code else 'did without'}, the same bytes", flush=True)
        failed += 1
    return failed


def full_disk(folder: Path, outputs: Path) -> None:
    """Train on a file system that is full before the end, make it larger, and go on. Needs root and Linux."""
    arguments, small = command(folder, "run", {"epochs": 1}), outputs / "small"
    small.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1200k", "tmpfs", small], check=True)
    try:
        with environment(MLKIT_OUTPUTS=str(small)):
            code, said = quiet(arguments)
            if code != 1 or os.strerror(errno.ENOSPC) not in said:
                raise AssertionError(f"full disk: exit {code}, {said!r}")
            subprocess.run(["mount", "-o", "remount,size=64m", small], check=True)
            if quiet(arguments)[0]:
                raise AssertionError("full disk: does not go on")
        if wrong := differences(Run(outputs / "undisturbed" / "run"), Run(small / "run")):
            raise AssertionError(f"full disk: {', '.join(wrong)} differ")
        print(f"a full disk: {said.strip()}; with more space it went on, the same bytes", flush=True)
    finally:
        subprocess.run(["umount", small], check=True)


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


def fuzz(folder: Path, inputs: int, seed: int) -> int:
    """Give mutated real files to all that reads files: a result, or one of mlkit's own errors; returns how many were given.

    Label files, those of other tools, images, parameter files and model files, the latter rarely, since each takes long.
    """
    chance, work = random.Random(seed), folder / "fuzz"
    work.mkdir()
    photos = [file for file in sorted(Path(__file__).with_name("photos").rglob("*.*")) if file.suffix not in (".md", ".csv")]
    labels = (folder / "labels.csv").read_bytes()
    write_other(read_labels(folder / "labels.csv"), work / "tasks.json")
    write_other(read_labels(folder / "labels.csv"), work / "labels.parquet")
    text = {
        "labels.csv": labels,
        "labels.tsv": labels.replace(b",", b"\t"),
        "labels.txt": b"\n".join(labels.replace(b",", b" ").splitlines()[1:]),
        "tags.csv": b"image,tags\na.jpg,haze|primary\nb.jpg,\nc.jpg,clear|haze\n",
        "tasks.json": (work / "tasks.json").read_bytes()[:4000] + b"]",
        "list_attr.txt": b"2\nSmiling Hat\na.jpg 1 -1\nb.jpg -1 1\n",
        "lines.jsonl": b'{"image": "a.jpg", "tags": ["x"]}\n{"image": "b.jpg", "tags": []}\n',
        "labels.parquet": (work / "labels.parquet").read_bytes(),
    }
    recipe = Path(resolve("notebooks/parameters/seed.yaml")).read_bytes()
    model = (outputs_root() / "whole" / "model.pth").read_bytes()
    for number in range(inputs):
        kind = "model" if not number % 2000 else chance.choice(("labels", "labels", "formats", "images", "images", "yaml"))
        name = {"model": "model.pth", "yaml": "recipe.yaml"}.get(kind) or chance.choice(list(text))
        source = model if kind == "model" else recipe if kind == "yaml" else text[name]
        if kind == "images":
            photo = chance.choice(photos)
            name, source = f"photo{photo.suffix}", photo.read_bytes()
        file = work / name
        file.write_bytes(mutated(source, chance))
        read = {
            "labels": lambda file=file: read_label_file(file),
            "formats": lambda file=file: read_other(file, Options(absent="NA")),
            "images": lambda file=file: load_image(file, 32),
            "yaml": lambda file=file: Recipe.read(str(file)),
            "model": lambda file=file: load_model(file),
        }[kind]
        signal.alarm(60)  # whatever takes so long never ends
        with suppress(MlkitError):
            read()
        signal.alarm(0)
    return inputs


if __name__ == "__main__":
    import tempfile

    from mlkit.data.sample import make_sample

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, help="let only every N-th write fail")
    parser.add_argument("--inputs", type=int, default=100_000, help="damaged files to read")
    options = parser.parse_args()
    torch.set_num_threads(1)  # a process that has begun threads cannot be forked
    with tempfile.TemporaryDirectory() as place:
        os.environ |= {"MLKIT_OUTPUTS": f"{place}/outputs", "MLKIT_PROGRESS": "off"}
        make_sample(f"{place}/data", count=60)
        data, outputs = Path(place, "data"), Path(place, "outputs")
        failed = fail_writes(data, outputs, itertools.count(1, options.every))
        if sys.platform == "linux" and os.geteuid() == 0:
            full_disk(data, outputs)
        died = kill_all(data, options.kills, options.seed)
        read = fuzz(data, options.inputs, options.seed)
        print(f"{read} damaged files were read or refused")
        print(f"{failed} writes failed, {died} trainings were killed: nothing lost")
