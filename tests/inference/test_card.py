import errno
import os
import re
import shutil

import pandas as pd
import pytest
from conftest import DATA
from tinynet import TINYNET

from mlkit.cli import main
from mlkit.errors import RunError
from mlkit.inference.card import write_card
from mlkit.runs import Run


def card(run):
    write_card(run)
    return (run / "MODEL.md").read_text(encoding="utf-8")


def test_says_what_the_run_folder_says(tiny):
    text, facts = card(tiny), tiny.read_json("metrics.json")
    assert text.startswith(f"# small\n\nA {TINYNET} that says of an image which of 4 attributes")
    counts = tiny.read_table("split.csv").split.value_counts()
    assert f"- {counts['train']} images taught\n- {counts['validation']} images chose" in text
    assert f"fingerprint of labels and images: `{tiny.config()['data']}`" in text
    for name, cells in facts["training_cells"].items():
        assert f"| {name} | {cells[0]} | {cells[1]} | {cells[2]} |" in text
    assert f"mAP {facts['mean']['AP']:.3f}" in text
    assert "- epochs: 1\n" in text
    assert "fewer than 10 known yes, or known no, judge them: nobody knows how good it is." in text


def test_numbers_of_the_training_cells_are_those_of_the_label_file(tiny):
    labels = pd.read_csv(DATA["labels"], index_col="image")
    taught = tiny.read_table("split.csv").query("split == 'train'").image
    for name, cells in tiny.read_json("metrics.json")["training_cells"].items():
        column = labels.loc[taught, name]
        assert cells == [(column == 1).sum(), (column == 0).sum(), column.isna().sum()]


def test_names_stay_what_they_are(tiny):
    names = list(tiny.read_json("metrics.json")["attributes"])
    new = dict(zip(names, ["<b>x</b>", "a|b", "*c*", "$d$"], strict=True))
    for file in ("metrics.json", "predictions.csv"):
        text = (tiny / file).read_text(encoding="utf-8")
        for old, name in new.items():
            text = re.sub(rf'(?<=[",]){old}(?=[",])', name, text)
        (tiny / file).write_text(text, encoding="utf-8")
    text = card(tiny)
    assert r"| \<b\>x\</b\> |" in text
    assert r"| a\|b |" in text
    assert "<b>" not in text
    table = next(part for part in text.split("\n\n") if part.startswith("| attribute | positives"))
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()} == {10}


def test_a_guarantee_and_an_ensemble_have_theirs(tiny, outputs, capsys):
    assert main(["thresholds", "small", "--policy", "guarantee:0.6"]) == 0
    assert "Yes, no, or unsure (`guarantee:0.6`)" in (tiny / "MODEL.md").read_text(encoding="utf-8")
    shutil.copytree(tiny.path, outputs / "other")
    assert main(["ensemble", "small", "other", "--name", "both"]) == 0
    assert "An ensemble of small, other that says" in (outputs / "both" / "MODEL.md").read_text(encoding="utf-8")


def test_an_unfinished_run_has_none(outputs):
    with pytest.raises(RunError, match="is not finished"):
        write_card(Run.create("a", {}, "data"))


def test_a_card_that_cannot_be_written_does_not_fail_the_training(tiny, monkeypatch, capsys):
    def full(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tiny / "MODEL.md").unlink(missing_ok=True)
    monkeypatch.setattr("mlkit.files.move", full)
    write_card(tiny)
    assert "MODEL.md cannot be written (No space left" in (said := capsys.readouterr().out)
    assert "this writes it again: mlkit thresholds small --policy f1" in said
