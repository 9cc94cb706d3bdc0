import multiprocessing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlkit.cli import main
from mlkit.data.answers import COLUMNS, Answer, AnswerFile, digests_of, merge, votes
from mlkit.data.labelfile import read_labels
from mlkit.data.labels import from_codes, to_codes
from mlkit.data.source import DataSource
from mlkit.errors import LabelError
from mlkit.training.config import TrainConfig
from mlkit.training.loop import split_dataset

PHOTOS = Path(__file__).parent.parent / "photos"


def said(*answers, **more):
    """Answers to a cell of a.png, by ann unless it says "bob:yes"."""
    pairs = [text.rpartition(":") for text in answers]
    return [Answer("a.png", "red", word, who=who or "ann", digest="1", **more) for who, _, word in pairs]


def outcome(tmp_path, *answers):
    """Code and whether it is closed that the answers to one cell come to."""
    file = AnswerFile(tmp_path / f"{len(list(tmp_path.iterdir()))}.csv")
    file.append(said(*answers))
    table = votes(file.read())
    return None if table.empty else (table.code.iloc[0], bool(table.closed.iloc[0]))


def test_the_newest_answer_counts_and_undo_takes_one_back(tmp_path):
    assert outcome(tmp_path, "yes") == (1, True)
    assert outcome(tmp_path, "yes", "no") == (0, True)
    assert outcome(tmp_path, "yes", "no", "undo") == (1, True)
    assert outcome(tmp_path, "yes", "undo") is None
    assert outcome(tmp_path, "unclear") == (-1, True)
    assert outcome(tmp_path, "undo", "yes") == (1, True)


def test_a_skipped_cell_stays_open_and_keeps_an_earlier_answer(tmp_path):
    assert outcome(tmp_path, "skip") == (-1, False)
    assert outcome(tmp_path, "yes", "skip") == (1, True)
    assert outcome(tmp_path, "skip", "undo") is None


def test_people_who_disagree_make_a_cell_unknown_and_open_until_most_agree(tmp_path):
    assert outcome(tmp_path, "yes", "bob:no") == (-1, False)
    assert outcome(tmp_path, "yes", "bob:unclear") == (-1, False)
    assert outcome(tmp_path, "yes", "bob:no", "cem:no") == (0, True)
    assert outcome(tmp_path, "yes", "bob:no", "ann:no") == (0, True)
    assert outcome(tmp_path, "yes", "bob:no", "bob:undo") == (1, True)  # of one's own answer only
    assert outcome(tmp_path, "yes", "bob:undo") == (1, True)


def test_a_file_gives_back_what_was_written(tmp_path):
    answers = [
        Answer('=1+1, "a".png', "rot, grün", "yes", "no", "ann", "2026-01-01", 1.5, "rare", "run", 0.25, "d"),
        *said("no"),
    ]
    file = AnswerFile(tmp_path / "new folder" / "answers.csv")
    assert file.read().empty
    for answer in answers:
        file.append([answer])
    table = file.read()
    assert table.image.tolist() == ['=1+1, "a".png', "a.png"]
    assert table.iloc[0].tolist() == list(vars(answers[0]).values())
    assert np.isnan(table.probability[1])
    assert "\n'=1+1" in file.path.read_text().replace('"', "")  # no formula for a spreadsheet


def test_a_line_that_was_cut_is_named_and_costs_no_other(tmp_path):
    file = AnswerFile(tmp_path / "answers.csv")
    file.append(said("yes"))
    with file.path.open("a") as cut:
        cut.write('"b.png,red,ye')
    file.append(said("no"))
    table = file.read()
    assert table.answer.tolist() == ["yes", "no"]
    assert "line 3: no whole answer, left out" in table.attrs["notes"][0]


def test_what_is_no_file_of_answers_is_refused(tmp_path):
    (tmp_path / "labels.csv").write_text("image,red\na.png,1\n")
    with pytest.raises(LabelError, match=r"labels\.csv, line 1: no file of answers; it must begin with image,attribute"):
        AnswerFile(tmp_path / "labels.csv").read()


def append_fifty(path, who):
    for number in range(50):
        AnswerFile(path).append([Answer(f"{number}.png", "red", "yes", who=who)])


def test_processes_that_answer_at_once_lose_nothing(tmp_path):
    workers = [multiprocessing.Process(target=append_fifty, args=(tmp_path / "a.csv", who)) for who in ("ann", "bob", "cem")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    table = AnswerFile(tmp_path / "a.csv").read()
    assert table.groupby("who").image.nunique().to_dict() == {"ann": 50, "bob": 50, "cem": 50}
    assert not table.attrs["notes"]


def test_merged_labels_have_the_answers_and_say_what_became_of_them():
    labels = from_codes([[-1, 0], [1, -1], [-1, -1]], ["a.png", "b.png", "c.png"], ["red", "wet"])
    rows = [
        ("a.png", "red", "yes", "1"),
        ("a.png", "wet", "yes", "1"),
        ("b.png", "wet", "unclear", "2"),
        ("c.png", "red", "yes", "of another picture"),
        ("gone.png", "red", "yes", "4"),
        ("a.png", "blue", "yes", "1"),
    ]
    table = pd.DataFrame([vars(Answer(i, a, answer, digest=d)) for i, a, answer, d in rows])[COLUMNS]
    merged = merge(labels, table, {"a.png": "1", "b.png": "2", "c.png": "3"})
    assert to_codes(merged).tolist() == [[1, 1], [1, -1], [-1, -1]]
    assert to_codes(labels).tolist() == [[-1, 0], [1, -1], [-1, -1]]
    assert merged.attrs["notes"] == [
        "answers of people: 1 unknown cells filled, 1 known cells changed",
        "1 answers left out: their images have been replaced by others",
        "2 answers left out: of images or attributes that are not among these labels",
    ]


@pytest.fixture
def answered(tmp_path):
    """A label file, its folder of images, and a file with one answer of a photo in it."""
    folder, labels = PHOTOS / "images", PHOTOS / "labels.csv"
    image = read_labels(labels).index[0]
    attribute = read_labels(labels).columns[0]
    answers = AnswerFile(tmp_path / "answers.csv")
    digest = digests_of(folder, pd.DataFrame({"image": [image]}))[image]
    answers.append([Answer(image, attribute, "yes", digest=digest), Answer(image, attribute, "no", digest=digest)])
    return folder, labels, answers.path, image, attribute


def test_a_data_set_reads_labels_and_answers(answered):
    folder, labels, answers, image, attribute = answered
    dataset = DataSource(str(folder), str(labels), str(answers)).open(32)
    assert dataset.labels.loc[image, attribute] == 0
    assert "answers of people" in str(dataset)
    assert dataset.fingerprint != DataSource(str(folder), str(labels)).open(32).fingerprint


def test_answers_do_not_move_the_split(answered):
    folder, labels, answers, *_ = answered
    config = TrainConfig(near_duplicates=False)
    sources = DataSource(str(folder), str(labels), str(answers)), DataSource(str(folder), str(labels))
    with_them, without = (split_dataset(source.open(32), config) for source in sources)
    assert with_them.equals(without)


def test_a_file_of_answers_that_is_not_there_is_named(answered, tmp_path):
    folder, labels, *_ = answered
    with pytest.raises(LabelError, match=r"gone\.csv: no such file of answers"):
        DataSource(str(folder), str(labels), str(tmp_path / "gone.csv")).open(32)


def test_apply_writes_a_new_label_file_and_leaves_the_old(answered, tmp_path, capsys):
    folder, labels, answers, image, attribute = answered
    before, out = labels.read_bytes(), tmp_path / "new.csv"
    call = ["labels", "apply", str(labels), "--images", str(folder), "--answers", str(answers), "--out", str(out)]
    assert main(call) == 0
    assert labels.read_bytes() == before
    assert read_labels(out).loc[image, attribute] == 0
    assert main(call) == 2
    assert "is there already" in capsys.readouterr().err


def answer_forever(path, said):
    for number in range(10_000):
        AnswerFile(path).append([Answer(f"{number}.png", "red", "yes")])
        said.send(number)


def test_a_process_that_is_killed_loses_no_answer_that_it_called_kept(tmp_path):
    heard, said = multiprocessing.Pipe(duplex=False)
    worker = multiprocessing.Process(target=answer_forever, args=(tmp_path / "a.csv", said))
    worker.start()
    last = [heard.recv() for _ in range(20)][-1]
    worker.kill()
    worker.join()
    table = AnswerFile(tmp_path / "a.csv").read()
    assert table.image.tolist()[: last + 1] == [f"{number}.png" for number in range(last + 1)]
    assert not table.attrs["notes"]
