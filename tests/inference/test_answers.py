import io
import os

import pandas as pd
import pytest
from tinynet import TINYNET

from mlkit.cli import main
from mlkit.errors import FailureError, ParameterError, RunError
from mlkit.inference import answers as module
from mlkit.inference.answers import in_share, join_shares, share_of, write_answers
from mlkit.inference.predictor import Predictor
from mlkit.models.modelfile import save_model
from mlkit.models.networks import build_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model file of two attributes, one of which was never seen in training."""
    path, names = tmp_path_factory.mktemp("model") / "model.pth", ["a", "NA"]
    calibration = {name: {"slope": 1.0, "bias": 0.0} for name in names}
    thresholds = dict.fromkeys(names, 0.5)
    meta = {"backbone": TINYNET, "image_size": 32, "attributes": names, "thresholds": thresholds, "calibration": calibration}
    save_model(path, build_model(TINYNET, 2, "none", 32), meta | {"never_seen": ["NA"], "metrics": {"mAP": 0.5}})
    return path


@pytest.fixture
def photos(sample, tmp_path):
    """Twenty pictures below a folder, one of them broken; and a text."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for number, file in enumerate(sorted((sample / "images").iterdir())[:19]):
        os.link(file, folder / ("deep" if number % 3 else ".") / f"{number}, {file.name}")
    (folder / "broken.jpg").write_text("no image")
    (folder / "notes.txt").write_text("no image, and not called one")
    return folder


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(module, "PART", 8)


def predict(*arguments):
    return main(["predict", *map(str, arguments)])


def read(path):
    if path.suffix == ".csv":
        return pd.read_csv(path, keep_default_na=False)
    return pd.read_json(path, lines=True) if path.suffix == ".jsonl" else pd.read_parquet(path)


def test_files_of_every_kind_say_what_the_predictor_says_and_why_an_image_has_no_answer(model, photos, tmp_path, capsys):
    for suffix in module.SUFFIXES:
        assert predict(photos, "--model", model, "--out", tmp_path / f"table{suffix}", "--batch-size", 5) == 1
        output = capsys.readouterr()
        assert output.err.splitlines()[-1] == "mlkit: 1 of 20 images could not be read, see their errors"
        assert "passed over, no pictures: 1 (notes.txt)" in output.out
    tables = [read(tmp_path / f"table{suffix}") for suffix in module.SUFFIXES]
    whole = tables[2]
    assert len(whole) == 19 * 2 + 1
    assert whole.image.is_monotonic_increasing
    expected = Predictor.load(model).predict(list(whole.image[whole.error.isna()].unique()))
    for name in expected:
        column = whole[name][whole.error.isna()].reset_index(drop=True)
        pd.testing.assert_series_equal(
            *(c.astype(object).where(c.notna(), "NA") for c in (column, expected[name])), rtol=1e-4
        )
    (broken,) = whole[whole.error.notna()].to_dict("records")
    assert broken["image"] == str(photos / "broken.jpg")
    assert "not an image in any known format" in broken["error"]
    for table in tables[:2]:
        assert table.image.tolist() == whole.image.tolist()
        known = whole.probability.notna()
        assert table.probability[known].astype(float).tolist() == pytest.approx(whole.probability[known].tolist(), abs=1e-6)
    assert set(tables[0].decision) <= {"yes", "no", "NA"}
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        "table.csv",
        "table.jsonl",
        "table.parquet",
    ]


def test_a_call_goes_on_where_one_was_stopped_and_takes_nothing_of_another_model_or_file(
    model, photos, tmp_path, monkeypatch
):
    predictor, out, asked = Predictor.load(model), tmp_path / "table.csv", []
    images = sorted(photos.rglob("*.jpg"))
    real = Predictor.answers

    def answers(self, chunk, batch_size):
        asked.extend(chunk)
        if len(asked) == 16:
            raise KeyboardInterrupt
        yield from real(self, chunk, batch_size)

    monkeypatch.setattr(Predictor, "answers", answers)
    with pytest.raises(KeyboardInterrupt):
        write_answers(predictor, images, out)
    assert not out.exists()
    with pytest.raises(RunError, match=r"an earlier call has begun .*table.csv: go on with --resume, or delete"):
        write_answers(predictor, images, out)
    os.utime(images[1], (1, 1))  # of the part that was done
    assert asked == images[:16]
    assert write_answers(predictor, images, out, resume=True) == (20, 1)
    assert asked[16:] == images, "a file was touched"
    write_answers(predictor, images, tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == out.read_bytes()
    with pytest.raises(RunError, match=r"table.csv is there already; choose another name, or delete it"):
        write_answers(predictor, images, out, resume=True)


def test_finished_parts_are_taken_and_those_of_another_model_are_not(model, photos, tmp_path, monkeypatch):
    images, asked, real = sorted(photos.rglob("*.jpg")), [], module._join
    monkeypatch.setattr(module, "_join", lambda *_: 1 / 0)
    first, second = Predictor.load(model), Predictor.load(model)
    second.meta["thresholds"] = {"a": 0.1, "NA": 0.5}
    with pytest.raises(ZeroDivisionError):
        write_answers(first, images, tmp_path / "t.csv")
    monkeypatch.setattr(module, "_join", real)
    answers = Predictor.answers
    monkeypatch.setattr(Predictor, "answers", lambda self, chunk, size: asked.extend(chunk) or answers(self, chunk, size))
    assert write_answers(first, images, tmp_path / "t.csv", resume=True) == (20, 1)
    assert asked == []
    write_answers(second, images, tmp_path / "u.csv", resume=True)
    assert asked == images


def test_a_part_that_was_cut_is_made_again_and_what_somebody_put_there_stays(model, photos, tmp_path, monkeypatch):
    images, predictor, real = sorted(photos.rglob("*.jpg")), Predictor.load(model), module._join
    monkeypatch.setattr(module, "_join", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_answers(predictor, images, tmp_path / "t.csv")
    monkeypatch.setattr(module, "_join", real)
    parts = tmp_path / ".t.csv.parts"
    cut = sorted(parts.iterdir())[0]
    cut.write_bytes(cut.read_bytes()[:-50])
    (parts / "thesis.txt").write_text("mine")
    assert write_answers(predictor, images, tmp_path / "t.csv", resume=True) == (20, 1)
    assert [path.name for path in parts.iterdir()] == ["thesis.txt"]
    write_answers(predictor, images, tmp_path / "whole.csv")
    assert (tmp_path / "whole.csv").read_bytes() == (tmp_path / "t.csv").read_bytes()
    share_of(tmp_path / "u.csv", 1, 1).write_bytes(b"x")
    with pytest.raises(RunError, match=r"u.csv.1-of-1.parquet cannot be read, or are of something else; delete them"):
        join_shares(tmp_path / "u.csv")


def test_shares_are_joined_and_those_that_are_missing_are_named(model, photos, tmp_path, capsys):
    out = tmp_path / "all.csv"
    common = ["--model", model, "--out", out]
    assert predict("--join", "--out", out) == 2
    assert "there is no share of" in capsys.readouterr().err
    for share in ("1/3", "3/3"):
        assert predict(photos, *common, "--shard", share) in (0, 1)
    capsys.readouterr()
    assert predict("--join", "--out", out) == 1
    assert f"of {out} are missing: 2/3; make them with --shard, then join again" in capsys.readouterr().err
    assert predict(photos, *common, "--shard", "2/3") in (0, 1)
    assert predict("--join", "--out", out) == 1  # one image is broken
    assert "all.csv: joined of 3 shares\n" in capsys.readouterr().out
    assert predict(photos, "--model", model, "--out", tmp_path / "whole.csv") == 1
    tables = [
        read(tmp_path / f"{name}.csv").sort_values(["image", "attribute"], ignore_index=True) for name in ("all", "whole")
    ]
    pd.testing.assert_frame_equal(*tables)
    assert not list(tmp_path.glob("*-of-*"))


def test_shares_of_different_kinds_are_refused(model, photos, tmp_path):
    images, predictor, out = sorted(photos.rglob("*.jpg")), Predictor.load(model), tmp_path / "t.csv"
    for number, of in ((1, 2), (2, 2), (1, 3)):
        write_answers(predictor, images[:3], share_of(out, number, of))
    with pytest.raises(RunError, match=r"shares of .* of 2 and of 3; delete those of one kind"):
        join_shares(out)
    share_of(out, 1, 3).unlink()
    share_of(out, 2, 2).unlink()
    with pytest.raises(FailureError, match="are missing: 2/2"):
        join_shares(out)
    predictor.meta["thresholds"] = {"a": 0.1, "NA": 0.5}
    write_answers(predictor, images[:3], share_of(out, 2, 2))
    with pytest.raises(RunError, match=r"the shares of .* are of different models"):
        join_shares(out)


def test_a_share_is_the_same_wherever_the_folder_lies_and_all_shares_are_all_images():
    names = [f"{number}.jpg" for number in range(1000)]
    shares = [[name for name in names if in_share(name, number, 4)] for number in (1, 2, 3, 4)]
    assert sorted(name for share in shares for name in share) == sorted(names)
    assert all(200 < len(share) < 300 for share in shares)
    assert shares[0][:3] == ["2.jpg", "4.jpg", "5.jpg"]  # for good: machines may have different versions


def test_patterns_and_paths_on_standard_input_name_images(model, photos, capsys, monkeypatch):
    assert predict(photos / "deep" / "1*.jpg", "--model", model) == 0
    assert capsys.readouterr().out.count("prediction for") == 7
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(map(str, [*sorted(photos.glob("deep/1*"))[:2], ""]))))
    assert predict("-", "--model", model) == 0
    assert capsys.readouterr().out.count("prediction for") == 2
    assert predict(photos / "x*.jpg", "--model", model) == 2
    assert "x*.jpg: nothing has such a name; check the pattern" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no image was named"),
        (["x", "--batch-size", 0], "--batch-size is 0"),
        (["x", "--shard", "0/3", "--out", "t.csv"], "--shard is '0/3'; it must be I/N with I from 1 to N, such as 2/8"),
        (["x", "--shard", "1/3"], "--shard needs --out FILE"),
        (["x", "--join", "--out", "t.csv"], "--join joins the shares of --out FILE, and takes no images"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments, message, capsys):
    assert predict(*arguments) == 2
    assert message in capsys.readouterr().err


def test_a_file_of_another_kind_is_refused(model, photos, tmp_path):
    with pytest.raises(ParameterError, match=r"t.xlsx: answers are written as .csv, .jsonl, .parquet"):
        write_answers(Predictor.load(model), [], tmp_path / "t.xlsx")
