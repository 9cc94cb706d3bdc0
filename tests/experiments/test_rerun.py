"""A run can be repeated from its config.json, also where its data was moved, and it is said what differs."""

import shutil

import pandas as pd
from tinynet import TINYNET

from mlkit.cli import main
from mlkit.runs import Run


def test_run_is_repeated_with_the_same_bytes_or_it_is_said_what_differs(sample, outputs, tmp_path, capsys):
    moved = tmp_path / "moved"
    shutil.copytree(sample, moved)
    small = {"epochs": "1", "image_size": "16", "weights": "none", "backbone": TINYNET}
    pairs = [word for pair in small.items() for word in ("-p", *pair)]
    data = ["--images", str(moved / "images"), "--labels", str(moved / "labels.csv")]
    assert main(["train", *data, *pairs, "--name", "a"]) == 0
    moved.rename(tmp_path / "elsewhere")
    places = ["--images", str(tmp_path / "elsewhere" / "images"), "--labels", str(tmp_path / "elsewhere" / "labels.csv")]
    capsys.readouterr()
    assert main(["rerun", "a", *places]) == 0
    text = capsys.readouterr().out
    assert "history.csv: the same" in text
    assert "predictions.csv: the same" in text
    assert "versions, machine and data are the same" in text

    run = Run.open("a")
    run.write_json("config.json", run.config() | {"versions": run.config()["versions"] | {"torch": "1.0"}})
    run.write_table("history.csv", pd.read_csv(run / "history.csv").assign(loss=0.5))
    assert main(["rerun", "a", *places, "--name", "b"]) == 1
    text = capsys.readouterr().out
    assert "history.csv: differs" in text
    assert "1.0" in text.split("torch")[1]
