import io
import re

import numpy as np
import pytest
from PIL import Image

from mlkit.cli import main
from mlkit.curation.orders import ORDERS
from mlkit.curation.panel import _Asker
from mlkit.curation.review import Review, answers_of
from mlkit.curation.sheet import read_sheet, write_sheet
from mlkit.data.answers import Answer, votes
from mlkit.data.formats import write_other
from mlkit.data.labels import to_codes
from mlkit.errors import LabelError, ParameterError
from mlkit.inference.predictor import Predictor


@pytest.fixture
def review(tiny):
    return Review.of(tiny)


def test_the_model_is_asked_about_open_cells_of_images_that_do_not_judge(review):
    queue = review.queue(count=30)
    split = review.run.read_table("split.csv").set_index("image").split
    assert len(queue) == 30
    assert set(split[queue.image]) <= {"train", "validation"}
    assert (queue.before == "NA").all()
    assert not queue.duplicated(["image", "attribute"]).any()
    row = queue.iloc[0]
    predicted = Predictor.load(review.run.path).predict(review.run.images / row.image).set_index("attribute")
    assert row.probability == pytest.approx(predicted.probability[row.attribute], abs=2e-3)


def test_test_images_are_asked_about_where_that_is_said(review):
    split = review.run.read_table("split.csv").set_index("image").split
    assert "test" in set(split[review.queue(count=1000, fill_test=True).image])
    assert review.unknown(fill_test=True).sum() > review.unknown().sum()


@pytest.mark.parametrize("order", sorted({*ORDERS} - {"disagreement"}))
@pytest.mark.parametrize("by", ["cell", "image"])
def test_every_order_makes_a_queue(review, order, by):
    queue = review.queue(order, 10, by)
    assert len(queue) >= (order != "errors")
    assert (queue.before != "NA").all() if order == "errors" else (queue.before == "NA").all()


def test_an_order_that_needs_several_models_says_so(review):
    with pytest.raises(ParameterError, match="order disagreement needs several models"):
        review.queue("disagreement")


def test_answered_cells_are_not_asked_again_disagreed_ones_first_and_skipped_ones_last(review):
    queue = review.queue("random", 1000)
    cells = [queue.iloc[place] for place in range(4)]
    said = [("ann", "yes"), ("ann", "unclear"), ("ann", "skip"), ("ann", "yes"), ("bob", "no")]
    rows = [0, 1, 2, 3, 3]
    review.file.append(
        [
            Answer(cells[row].image, cells[row].attribute, word, who=who, digest=cells[row].digest)
            for row, (who, word) in zip(rows, said, strict=True)
        ]
    )
    after = review.queue("random", 1000)
    assert len(after) == len(queue) - 2
    places = {tuple(row): place for place, row in enumerate(after[["image", "attribute"]].to_numpy())}
    where = [places.get((cell.image, cell.attribute)) for cell in cells]
    assert where[:2] == [None, None]
    assert where[3] < 25  # the first block
    assert where[2] >= len(after) - 25
    assert np.isinf(after.score[where[3]])
    table = review.answered()
    assert table.loc["ann", ["yes", "no", "unclear", "disagreed"]].tolist() == [2, 0, 1, 1]
    assert review.summary().answered.sum() == 3


def test_questions_by_cell_come_in_blocks_of_one_attribute(review):
    first = review.queue("random", 25).attribute
    assert (first != first.shift()).sum() == first.nunique()


class Front:
    """What the panel's front end sees."""

    def __init__(self, review, count=5):
        self.told, self.buffers, self.number = {}, [], 0
        self.session = review.session(review.queue("random", count), "random")
        self.asker = _Asker(self.session, review.pictures(2), self.receive)
        self.send(do="start")

    def receive(self, told, buffers):
        self.told, self.buffers = told, buffers

    def send(self, **message):
        self.number += 1
        self.asker(None, {**message, "number": self.number}, [])
        assert self.told["number"] == self.number

    def press(self, key):
        self.send(do="answer", place=self.told["place"], key=key, seconds=1.0)


def test_the_panel_sends_pictures_before_they_are_asked_for(review):
    front = Front(review)
    assert [one["place"] for one in front.told["questions"]] == [0, 1]
    row = front.session.queue.iloc[0]
    with Image.open(io.BytesIO(front.buffers[0])) as picture, Image.open(review.run.images / row.image) as original:
        assert picture.size == original.size
    question = front.told["questions"][0]
    assert question["question"] == f"{row.attribute}?"
    assert {one["label"] for one in question["similar"]} <= {"yes", "no"}
    assert len(front.buffers) == 2 + sum(len(one["similar"]) for one in front.told["questions"])
    front.press("y")
    assert [one["place"] for one in front.told["questions"]] == [2]


def test_answers_are_on_the_disk_before_the_panel_goes_on(review):
    front = Front(review)
    front.press("y")
    front.press("n")
    assert review.file.read().answer.tolist() == ["yes", "no"]
    front.send(do="undo")
    assert front.told["place"] == 1
    assert votes(review.file.read()).code.tolist() == [1]
    front.send(do="answer", place=4, key="y", seconds=1.0)  # a key that was pressed while another question was open
    assert front.told["place"] == 1
    for key in "yyyy":
        front.press(key)
    assert front.told["place"] == front.told["count"] == 5
    assert "5 answered, 5 in the last hour; 0 left" in front.told["progress"]
    assert votes(review.file.read()).closed.all()


def test_an_answer_that_cannot_be_kept_is_told_and_asked_again(review, monkeypatch):
    front = Front(review)
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    front.press("y")
    assert front.told["place"] == 0
    assert "the answer was not kept (No space left on device; free some space" in front.told["said"]


def test_a_picture_that_is_gone_is_said_in_its_place(review):
    front = Front(review)
    pictures = review.pictures(1)
    front.session.queue["image"] = "gone.jpg"
    asker = _Asker(front.session, pictures, front.receive)
    asker(None, {"do": "start", "number": 1}, [])
    assert "gone.jpg: no such file" in front.told["questions"][0]["file"]


def filled(path, words):
    """A sheet with answers, as a spreadsheet saves it."""
    lines = path.read_text(encoding="utf-8").splitlines()
    header = lines[0].split(",")
    rows = [line.split(",") for line in lines[1:]]
    for row, word in zip(rows, words, strict=False):
        row[header.index("answer")] = word
    path.write_text("\ufeff" + "\r\n".join(";".join(row) for row in [header, *rows]) + "\r\n", encoding="utf-8")


def test_a_sheet_comes_back_from_a_spreadsheet(review, tmp_path):
    queue, path = review.queue("random", 6), tmp_path / "review.csv"
    write_sheet(review, queue, "random", path)
    filled(path, ["yes", "NO", "1", "0", "unclear", ""])
    assert read_sheet(review, path) == (5, 0, 0)
    assert read_sheet(review, path) == (0, 5, 0)
    table = review.file.read()
    assert table.answer.tolist() == ["yes", "no", "yes", "no", "unclear"]
    assert table.order.unique().tolist() == ["random"]
    codes = to_codes(review.labels)
    for row, code in zip(queue.head(5).itertuples(), [1, 0, 1, 0, -1], strict=True):
        assert codes[review.labels.index.get_loc(row.image), review.labels.columns.get_loc(row.attribute)] == code


def test_a_sheet_with_another_word_or_cell_is_refused_by_its_line(review, tmp_path):
    path = tmp_path / "review.csv"
    for word, change, message in (
        ("maybe", ("", ""), "line 2, column answer: 'maybe' is no answer; write yes, no or unclear"),
        ("yes", (review.queue("random", 1).image[0], "other.jpg"), "line 2: .* has no cell 'other.jpg'"),
    ):
        write_sheet(review, review.queue("random", 2), "random", path)
        filled(path, [word])
        path.write_text(
            path.read_text(encoding="utf-8").replace(*change, 1) if change[0] else path.read_text(), encoding="utf-8"
        )
        with pytest.raises(LabelError, match=message):
            read_sheet(review, path)
    assert review.file.read().empty


def test_label_studio_asks_and_answers(review, tmp_path):
    queue, path = review.queue("random", 4), tmp_path / "tasks.json"
    write_sheet(review, queue, "random", path)
    assert read_sheet(review, path) == (0, 0, 0)
    row = queue.iloc[0]
    labels = review.labels.loc[[row.image]].copy()
    labels.loc[row.image, row.attribute] = 1
    write_other(labels, tmp_path / "export.json")
    assert read_sheet(review, tmp_path / "export.json") == (1, 0, 0)
    assert review.file.read().iloc[0][["image", "attribute", "answer", "before"]].tolist() == [
        row.image,
        row.attribute,
        "yes",
        "NA",
    ]


def test_the_command_prints_and_takes_answers(review, tmp_path, capsys):
    assert main(["review", "queue", "small", "--count", "3", "--order", "random"]) == 0
    assert "3 questions by random; " in capsys.readouterr().out
    out = str(tmp_path / "r.csv")
    assert main(["review", "sheet", "small", "--count", "3", "--out", out]) == 0
    filled(tmp_path / "r.csv", ["yes", "no", "no"])
    assert main(["review", "read", "small", out]) == 0
    assert "3 answers kept" in capsys.readouterr().out
    assert len(review.file.read()) == 3
    assert main(["review", "queue", "small", "--order", "rear"]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_answers_lie_below_outputs_by_the_name_of_the_label_file(outputs):
    assert answers_of("photos/my labels.csv") == outputs / "review" / "my labels" / "answers.csv"


def test_answers_to_other_pictures_of_the_same_names_close_no_cell(review):
    queue = review.queue("random", 1)
    row = queue.iloc[0]
    review.file.append([Answer(row.image, row.attribute, "yes", who="ann", digest="of another picture")])
    assert len(review.queue("random", 1000)) == review.unknown().sum()
    assert review.unknown()[review.labels.index.get_loc(row.image), review.labels.columns.get_loc(row.attribute)]
    assert review.answered().empty
    assert review.summary().answered.sum() == 0
    session = review.session(queue, "random")
    session.pass_over()
    assert session.place == 0


def test_a_run_all_of_whose_images_judge_is_said_to_have_no_questions(review):
    split = review.run.read_table("split.csv")
    review.run.write_table("split.csv", split.assign(split="test"))
    with pytest.raises(ParameterError, match=r"all images of .* judge it, .*: give one of its members"):
        review.queue("random")
    assert len(review.queue("random", 5, fill_test=True)) == 5
    with pytest.raises(ParameterError, match="count is -3; ask at least 1 question"):
        review.queue("random", -3, "image")


def test_answers_of_no_cell_of_a_label_file_are_refused(review, tmp_path, capsys):
    review.file.append([Answer("other.jpg", "red", "yes")])
    images, labels = (str(review.run.config()["parameters"][name]) for name in ("images", "labels"))
    given = ["--images", images, "--answers", str(review.file.path), "--out", str(tmp_path / "new.csv")]
    assert main(["labels", "apply", labels, *given]) == 2
    assert "no answer is of an image and attribute of" in capsys.readouterr().err
    assert not (tmp_path / "new.csv").exists()


def test_tasks_of_other_pictures_are_left_out_and_counted(review, tmp_path):
    labels = review.labels.iloc[[0]].set_axis(["elsewhere.jpg"])
    write_other(labels, tmp_path / "export.json")
    assert read_sheet(review, tmp_path / "export.json") == (0, 0, 1)


def test_what_another_person_answers_meanwhile_is_passed_over(review):
    front = Front(review, 6)
    other = review.session(front.session.queue, "random")
    for _ in range(3):
        other.answer("yes", 1.0)
    front.press("y")  # of the first, which was open here
    assert front.told["place"] == 3
    front.send(do="undo")
    assert front.told["place"] == 0
    assert front.told["said"] == "Taken back."
    front.send(do="undo")
    assert "Nothing was answered here yet" in front.told["said"]


def test_help_names_every_order(capsys):
    with pytest.raises(SystemExit):
        main(["review", "queue", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert all(re.search(rf"\b{order}\b", said) for order in ORDERS)
