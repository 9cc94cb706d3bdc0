"""What can go wrong for a person, and what mlkit says: one line that names the place and the mend, never a traceback.

Exit code 2: the input is wrong; 1: what was asked for rightly failed.
"""

import errno
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import DATA
from PIL import Image
from tinynet import TINYNET

import mlkit.files
from mlkit.cli import main
from mlkit.models.torchfile import load_torch, save_torch

SMALL = [
    "-p",
    "epochs",
    "1",
    "-p",
    "image_size",
    "32",
    "-p",
    "weights",
    "none",
    "-p",
    "backbone",
    TINYNET,
    "-p",
    "batch_size",
    "16",
]
TRAIN = ["train", "--images", "photos", "--labels", "labels.csv", *SMALL]
AGAIN = ["train", "--images", DATA["images"], "--labels", DATA["labels"], *SMALL, "--name", "small"]  # what made `small`
ASK = ["predict", "photos/0.png"]
TUNE = ["tune", "--images", "photos", "--labels", "labels.csv", "--space", "space.yaml"]
BOTH, REPEAT, PLOT = ["ensemble", "small", "two"], ["rerun", "small"], ["run", "--only", "03", "--name", "small"]
ROWS = "image,x,y\n" + "".join(f"{i}.png,{i % 2},{i % 3 // 2}\n" for i in range(8))


class Code:
    """Pickled, it is executed by whoever unpickles it."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


def cut(*files):
    """Halves of files are lost."""
    return lambda _: [os.truncate(file, os.path.getsize(file) // 2) for file in files]


def lost(file):
    return lambda _: os.remove(file)


def twice(file):
    """The lines of a table stand in it twice."""
    return lambda _: Path(file).write_bytes((lines := Path(file).read_bytes()) + lines.partition(b"\n")[2])


def text(file, content):
    """A file holds this."""

    def write(_):
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


def stopped(file):
    """A training was interrupted, and this file of it is damaged."""
    return lambda _: (os.remove("outputs/small/metrics.json"), Path("outputs/small", file).write_bytes(b"PK"))


def model(form=1, **meta):
    """A model file with something else in it."""

    def write(_):
        content = load_torch("outputs/small/model.pth")
        save_torch("m.pth", content | {"format": form, "meta": content["meta"] | meta})

    return write


def packed(_):
    """A model file that unpacks to a thousand times its size."""
    with zipfile.ZipFile("m.pth", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("model/data.pkl", bytes(10_000_000))


def link(_):
    """A photo is a link to a file elsewhere."""
    os.remove("photos/0.png")
    os.symlink(os.path.abspath("labels.csv"), "photos/0.png")


def system(code):
    """The system refuses every new file."""

    def refuse(source, target):
        raise OSError(code, os.strerror(code), str(target))

    return lambda patch: patch.setattr(mlkit.files, "move", refuse)


def elsewhere(_):
    """`outputs` is a file."""
    shutil.rmtree("outputs")
    Path("outputs").touch()


def latin(_):
    """A folder's name is in another encoding than the system's."""
    os.rename("photos", b"ph\xf6tos")


def below(patch):
    """`outputs` is to be in a file."""
    patch.setenv("MLKIT_OUTPUTS", os.path.abspath("labels.csv/outputs"))


RUN = "outputs/small"
FAULTS = {  # what is done, the command, its exit code, what it says
    # the data
    "no label file": (None, ["train", "--images", "photos", "--labels", "gone.csv"], 2, "/gone.csv: no such label file"),
    "no images folder": (
        None,
        ["train", "--images", "gone", "--labels", "labels.csv"],
        2,
        "gone: no such images folder; check",
    ),
    "images alone": (None, ["train", "--images", "photos"], 2, "--images and --labels belong together: give both"),
    "one column": (text("labels.csv", "image\n0.png\n"), TRAIN, 2, "labels.csv"),
    "unknown value": (text("labels.csv", ROWS + "9.png,maybe,1\n"), TRAIN, 2, "labels.csv, line 10, column x"),
    "labels that are no text": (text("labels.csv", b"image,x\n0.png,\xff\n"), TRAIN, 2, "labels.csv"),
    "labels that are cut": (text("labels.csv", ROWS[:-3]), TRAIN, 2, "labels.csv, line 9"),
    "nothing is known": (text("labels.csv", ROWS.replace("1", "NA").replace(",0", ",NA")), TRAIN, 2, "labels.csv"),
    "outside of the folder": (text("labels.csv", ROWS + "../9.png,1,1\n"), TRAIN, 2, "labels.csv, line 10"),
    "a link": (link, TRAIN, 2, "links: true"),
    "a damaged image, strictly": (cut("photos/0.png"), [*TRAIN, "-p", "strict", "true"], 2, "0.png"),
    "few images": (text("labels.csv", ROWS[:30]), TRAIN, 2, "too few to split; label at least 4"),
    "a folder in Latin-1": (
        latin,
        ["train", "--images", "ph\udcf6tos", *TRAIN[3:]],
        2,
        "tos' is not in this system's encoding; rename",
    ),
    # an image that is asked about
    "no image": (None, ["predict", "gone.png"], 1, "/gone.png: no such file"),
    "an image that is cut": (cut("photos/0.png"), ASK, 1, "0.png: cannot be decoded (image file is truncated"),
    "an image of text": (text("photos/0.png", "hello"), ASK, 1, "0.png: not an image in any known format"),
    "an empty image": (text("photos/0.png", ""), ASK, 1, "0.png: the file is empty (0 bytes)"),
    **(
        {
            "a pipe": (
                lambda _: os.mkfifo("pipe.png"),
                ["predict", "pipe.png"],
                1,
                "pipe.png: no file, but a pipe or a device",
            )
        }
        if hasattr(os, "mkfifo")
        else {}
    ),
    # settings
    "columns that are numbers": (None, [*TRAIN, "-p", "attributes", "['x', 7]"], 2, "no column is called '7'"),
    "a list of no date": (None, [*TRAIN, "-p", "attributes", "[2020-13-01]"], 2, "it must be a list"),
    "unknown parameter": (None, [*TRAIN, "-p", "epoch", "1"], 2, "unknown parameter 'epoch'; did you mean 'epochs'?"),
    "wrong type": (None, [*TRAIN, "-p", "epochs", "three"], 2, "parameter epochs is 'three'; it must be a whole number"),
    "out of bounds": (None, [*TRAIN, "-p", "epochs", "0"], 2, "epochs is 0; it must be at least 1"),
    "no such loss": (None, [*TRAIN, "-p", "loss", "hil"], 2, "did you mean 'hill'?"),
    "no such network": (None, [*TRAIN, "-p", "backbone", "resnet19"], 2, "did you mean 'resnet18'?"),
    "no such weights": (None, [*TRAIN, "-p", "weights", "gone.pth"], 2, "gone.pth"),
    "weights of another network": (
        None,
        [*TRAIN, "-p", "backbone", "resnet18", "-p", "weights", f"{RUN}/model.pth"],
        2,
        "model.pth",
    ),
    "no such prior": (None, [*TRAIN, "-p", "loss", "csl", "-p", "prior_run", "gone"], 2, "gone is not a run folder"),
    "no such device": (None, [*TRAIN, "-p", "device", "tpu"], 2, "device 'tpu' cannot be used here"),
    "no parameter file": (None, ["train", "-f", "gone.yaml"], 2, "gone.yaml cannot be read"),
    "a file of aliases": (
        text("p.yaml", "a: &a [1]\nb: *a\n"),
        ["train", "-f", "p.yaml"],
        2,
        "p.yaml cannot be read (aliases",
    ),
    "a file of code": (
        text("p.yaml", "a: !!python/object/apply:os.mkdir [executed]"),
        ["train", "-f", "p.yaml"],
        2,
        "p.yaml cannot be",
    ),
    "a file of a list": (text("p.yaml", "- 1\n"), ["train", "-f", "p.yaml"], 2, "p.yaml must hold one `name: value` a line"),
    "no such notebook": (None, ["run", "--only", "12"], 2, "no notebook '12'"),
    "few folds": (None, ["train", "--folds", "1"], 2, "--folds is 1; it must be at least 2"),
    "folds twice": (None, ["train", "--folds", "3", "-p", "fold", "1"], 2, "leave out -p folds and -p fold"),
    "a seed in a study": (None, ["study", "-p", "seed", "3"], 2, "seed is '3', which a study decides by itself: give seeds"),
    "a loss in a study": (
        None,
        ["study", "-p", "loss", "asl"],
        2,
        "loss is 'asl', which a study decides by itself: give methods",
    ),
    "folds in a study": (None, ["study", "-p", "folds", "3"], 2, "folds is '3', which a study decides by itself"),
    "top of nothing": (None, ["tune", "--top", "5"], 2, "--top is 5, of the settings that --seeds repeats"),
    "trials and seeds": (
        None,
        ["tune", "--trials", "5", "--seeds", "1"],
        2,
        "--seeds repeats what was found, --trials is for a",
    ),
    "an unknown range": (
        text("space.yaml", "epoch: [1]\n"),
        TUNE,
        2,
        "space.yaml: there is no parameter 'epoch'; did you mean",
    ),
    "a range without an end": (text("space.yaml", "epochs: {low: 3}\n"), TUNE, 2, "space.yaml: epochs"),
    # models
    "no such model": (None, [*ASK, "--model", "gone.pth"], 2, "gone.pth: no such model"),
    "no such run": (None, [*ASK, "--model", "gone"], 2, "gone is not a run folder (no config.json); known runs: "),
    "a model that is cut": (
        cut(f"{RUN}/model.pth"),
        [*ASK, "--model", "small"],
        2,
        "small/model.pth is not a file of plain weights",
    ),
    "a model of code": (
        text("m.pth", pickle.dumps(Code(), 2)),
        [*ASK, "--model", "m.pth"],
        2,
        "m.pth is not a file of plain weights",
    ),
    "a model that unpacks": (packed, [*ASK, "--model", "m.pth"], 2, "m.pth would unpack to 10,000,"),
    "a newer model": (
        model(99),
        [*ASK, "--model", "m.pth"],
        2,
        "m.pth has format 99, this mlkit reads 1; read it with the mlkit",
    ),
    "a model of another network": (
        model(backbone="resnet18"),
        [*ASK, "--model", "m.pth"],
        2,
        "m.pth is no model that mlkit can",
    ),
    "a model of text": (text("m.pth", "hello"), [*ASK, "--model", "m.pth"], 2, "m.pth is not a file of plain weights"),
    # what a run has left
    **{
        f"{file} that is cut, {command[0]}": (cut(f"{RUN}/{file}"), command, 2, f"small/{file} is ")
        for file, commands in {
            "config.json": (REPEAT, BOTH, PLOT),
            "metrics.json": (["runs"], REPEAT, BOTH),
            "predictions.csv": (BOTH,),
            "split.csv": (BOTH,),
            "epochs.csv": (["runs"],),
        }.items()
        for command in commands
    },
    "no predictions": (lost(f"{RUN}/predictions.csv"), BOTH, 2, "small/predictions.csv is missing"),
    "a run of no images": (
        text(
            f"{RUN}/config.json",
            '{"created": "2026-01-01T00:00:00.000+00:00", "parameters": {}, "data": "x", "versions": {}}',
        ),
        BOTH,
        2,
        "small/config.json names no folder of images; train the run again",
    ),
    "predictions of others": (
        text(f"{RUN}/predictions.csv", "a,b\n1,2\n"),
        BOTH,
        2,
        "is damaged (no column split); train the run",
    ),
    "predictions twice": (
        twice(f"{RUN}/predictions.csv"),
        BOTH,
        2,
        "is damaged (it has not one row for each image and attribute)",
    ),
    "figures that are none": (
        text(f"{RUN}/metrics.json", '{"mean": {"AP": "x"}}'),
        ["runs"],
        2,
        "damaged (mean is {",
    ),
    "a date that is none": (
        text(f"{RUN}/config.json", '{"created": 1, "parameters": {}}'),
        REPEAT,
        2,
        "damaged (created is 1)",
    ),
    "an unfinished run": (
        lost(f"{RUN}/metrics.json"),
        BOTH,
        2,
        "small is not finished; go on with its training, or leave it out",
    ),
    "a config of others": (text(f"{RUN}/config.json", '{"created": "2030"}'), REPEAT, 2, "config.json is not of a run"),
    "a newer config": (
        text(f"{RUN}/config.json", '{"format": 99}'),
        REPEAT,
        2,
        "config.json has format 99, this mlkit reads 1;",
    ),
    "no checkpoint but a cut one": (stopped("last.pt"), AGAIN, 2, "last.pt"),
    "a manifest that is cut": (text(f"{RUN}/manifest.json", "{"), PLOT, 2, "manifest.json is damaged ("),
    "a search of others": (
        text("outputs/s/tuning.json", "{}"),
        ["tune", "--name", "s", "--recover"],
        2,
        "is not of a search",
    ),
    "a search that is cut": (
        text("outputs/s/tuning.json", "{"),
        ["tune", "--name", "s", "--recover"],
        2,
        "tuning.json is damaged (",
    ),
    "a finished run": (None, AGAIN, 2, "small holds a finished run; choose another name, or overwrite"),
    # names and places
    **{
        f"the name {name[:4]}": (None, [*TRAIN, "--name", name], 2, f"{name[:50]!r} cannot be the name of a folder in ")
        for name in ("a/b", "..", "CON", ".x", "x" * 201)
    },
    "at work elsewhere": (
        text("outputs/x/lock.by", '{"pid": 7, "host": "far"}'),
        [*TRAIN, "--name", "x"],
        2,
        "process 7 on far; wait",
    ),
    **{
        f"outputs are a file, {command[0]}": (
            elsewhere,
            command,
            2,
            "outputs is a file; the runs need a folder: set MLKIT_OUTPUTS",
        )
        for command in (["runs"], ASK, TRAIN, ["run", *TRAIN[1:5]], [*TUNE[:5]])
    },
    "outputs below a file": (below, TRAIN, 1, "cannot be made (Not a directory; choose another name"),
    "a table below a file": (
        None,
        [*ASK, "--out", "labels.csv/t.csv"],
        1,
        "t.csv cannot be written (File exists; choose another",
    ),
    "a table over a folder": (None, [*ASK, "--out", "photos"], 2, "photos: answers are written as .csv, .jsonl, .parquet"),
    "a table over another": (
        text("t.csv", "mine"),
        [*ASK, "--out", "t.csv"],
        2,
        "t.csv is there already; choose another name",
    ),
    "a full disk": (system(errno.ENOSPC), TRAIN, 1, "No space left on device; "),
    "a full disk for a table": (
        system(errno.ENOSPC),
        [*ASK, "--out", "t.csv"],
        1,
        "cannot be written (No space left on device; free",
    ),
    "a disk to read alone": (
        system(errno.EROFS),
        [*ASK, "--out", "t.csv"],
        1,
        "(Read-only file system; choose a folder that you may",
    ),
    "a loss that is not finite": (
        None,
        [*TRAIN, "-p", "learning_rate", "1e30", "-p", "epochs", "3", "-p", "batch_size", "2"],
        1,
        "diverged: lower learning_rate",
    ),
}


@pytest.fixture
def place(tiny, tmp_path, monkeypatch):
    """A folder to work in: photos, their labels, finished runs `small` and `two`."""
    shutil.copytree(tmp_path / "outputs" / "small", tmp_path / "outputs" / "two")
    (tmp_path / "photos").mkdir()
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 20, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    text(tmp_path / "labels.csv", ROWS)(None)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("break_it", "command", "code", "said"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_one_line(place, break_it, command, code, said, monkeypatch, capsys):
    if break_it:
        break_it(monkeypatch)
    outcome, error = main(command), capsys.readouterr().err
    assert (outcome, error.count("\n")) == (code, 1), error
    assert said in error
    assert not Path("executed").exists()


def test_a_damaged_run_is_named_where_runs_are_listed(place, capsys):
    cut("outputs/small/config.json")(None)
    assert main(["runs"]) == 0
    printed = capsys.readouterr().out
    assert "warning: left out: " in printed
    assert "small/config.json is damaged" in printed
    assert "two" in printed
