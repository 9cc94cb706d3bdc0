"""A run folder is taken up, refused or replaced as its contents say, and nothing is ever half written into it."""

import importlib.metadata
import json
import os
import platform
import stat
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import POSIX

from mlkit.cli import main
from mlkit.errors import ClaimError, FormatError, ParameterError, RunError, WriteError
from mlkit.experiments.comparison.ranking import results_folder
from mlkit.experiments.search import Tuning
from mlkit.files import atomic, project_root, resolve, shown, write_json
from mlkit.runs import Claim, Run, find_runs, list_runs, named_folder, names, outputs_root

PARAMETERS = {"images": "data/x", "epochs": 3, "learning_rate": 0.001, "strict": False}


def create(name="a", fingerprint="f1", overwrite=False, **changes):
    return Run.create(name, PARAMETERS | changes, fingerprint, overwrite)


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.name not in ("lock", "lock.by", ".written"))


# --- create


def test_config_holds_parameters_data_and_versions(outputs):
    run = create()
    assert run.path == outputs / "a"
    config = run.config()
    assert config["parameters"] == PARAMETERS
    assert config["data"] == "f1"
    assert config["python"] == platform.python_version()
    assert set(config["versions"]) >= {"mlkit", "torch", "torchvision", "numpy", "pandas"}
    assert config["versions"]["torch"] == importlib.metadata.version("torch")
    assert datetime.fromisoformat(config["created"]).tzinfo is not None
    assert not run.finished


def test_run_is_tied_to_the_content_of_the_files_it_was_made_from(tmp_path):
    weights, prior = tmp_path / "weights.pth", tmp_path / "prior" / "model.pth"
    prior.parent.mkdir()
    for file in (weights, prior):
        file.write_bytes(b"a")
    files = {"weights": str(weights), "prior_run": str(prior.parent)}
    run = create(**files)
    assert run.config()["contents"].keys() == files.keys()
    assert create("b", weights="imagenet").config()["contents"] == {}
    for name, file in (("weights", weights), ("prior_run", prior)):
        assert run.differences(PARAMETERS | files, "f1") == []
        file.write_bytes(b"b")
        assert run.differences(PARAMETERS | files, "f1")
        with pytest.raises(RunError, match=f"differs in the content of {name};"):
            create(**files)
        file.write_bytes(b"a")
    assert create(**files).path == run.path


def test_unfinished_run_with_the_same_parameters_is_taken_up():
    before = create().config()
    again = create()
    assert again.config() == before
    again.write_json("metrics.json", {})
    assert again.finished


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"epochs": 4}, "epochs"),
        ({"epochs": 4, "images": "data/y"}, "epochs"),
        ({"seed": 1}, "seed"),
        ({"fingerprint": "f2"}, "the data"),
    ],
)
def test_unfinished_run_that_differs_is_refused_and_left_alone(changes, differs):
    before = create().config()
    with pytest.raises(RunError, match=f"a holds an unfinished run that differs in {differs}; choose another name, or"):
        create(**changes)
    assert Run.open("a").config() == before


def test_data_that_was_moved_is_the_same_data():
    create()
    assert create(images="data/y").config()["parameters"]["images"] == "data/y"


def test_parameter_that_is_no_longer_given_is_a_difference():
    create(seed=1)
    with pytest.raises(RunError, match="differs in seed"):
        create()


def test_finished_run_is_refused_even_with_the_same_parameters():
    create().write_json("metrics.json", {"mAP": 0.5})
    with pytest.raises(RunError, match="a holds a finished run; choose another name, or overwrite"):
        create()
    assert Run.open("a").finished


def test_overwrite_removes_what_mlkit_wrote_and_nothing_else():
    run = create()
    for file in ("history.csv", "model.pth", "last.pt", "my title.png", "metrics.json"):
        run.new(file).write_text("{}")
    own = ["02_train_resnet18.ipynb", "evaluation.csv", "labels.csv", "manifest.json", "mine.pth", "notes.txt", "photo.png"]
    for file in own:
        (run / file).write_text("somebody's")
    new = create(overwrite=True, epochs=9)
    assert files(new.path) == sorted([*own, "config.json"])
    assert new.config()["parameters"]["epochs"] == 9
    assert new.id != run.config().get("created")
    (run / "history.csv").write_text("somebody's")  # a name that was mlkit's before
    assert files(create(overwrite=True).path) == sorted([*own, "config.json", "history.csv"])


def test_overwrite_of_a_run_from_before_there_was_a_record_goes_by_the_table_of_files():
    run = create()
    (run / ".written").unlink()
    write_json(run / "config.json", {key: value for key, value in run.config().items() if key != "id"})
    for file in ("history.csv", "labels.csv", "model.pth", "intervals.png", "photo.png"):
        (run / file).touch()
    assert run.id == run.config()["created"]
    assert files(create(overwrite=True).path) == ["config.json", "labels.csv", "photo.png"]


def test_a_config_of_something_else_is_left_alone(outputs):
    (outputs / "foreign").mkdir(parents=True)
    for content in ('{"architectures": ["ViT"]}', "[1]"):
        (outputs / "foreign" / "config.json").write_text(content)
        (outputs / "foreign" / "model.pth").touch()
        with pytest.raises(RunError, match=r"foreign/config\.json is not of a run; choose another name"):
            create("foreign", overwrite=True)
    assert files(outputs / "foreign") == ["config.json", "model.pth"]


@pytest.mark.parametrize("text", ["false", "true", 1, None])
def test_only_true_overwrites(text):
    create().write_json("metrics.json", {})
    with pytest.raises(ParameterError, match=r"overwrite is .*; it must be true or false"):
        create(overwrite=text)
    assert Run.open("a").finished


def test_interrupted_overwrite_leaves_no_checkpoint_for_another_training(monkeypatch):
    run = create()
    for file in ("history.csv", "model.pth", "last.pt"):
        run.new(file).touch()
    unlink = Path.unlink

    def interrupt(path, **options):
        if path.name == "history.csv":
            raise KeyboardInterrupt
        unlink(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", interrupt)
        with pytest.raises(KeyboardInterrupt):
            create(overwrite=True, epochs=9)
    with pytest.raises(RunError, match="differs in epochs"):
        create(epochs=9)
    assert not (run / "last.pt").exists()


def test_overwrite_deletes_nothing_from_a_folder_that_is_no_run(tmp_path):
    (tmp_path / "labels.csv").write_text("somebody's labels")
    create(tmp_path, overwrite=True)
    assert (tmp_path / "labels.csv").read_text(encoding="utf-8") == "somebody's labels"


def test_trainings_without_a_name_never_share_a_folder(monkeypatch):
    class Frozen(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2030, 1, 2, 3, 4, 5, tzinfo=tz)

    monkeypatch.setattr(names, "datetime", Frozen)
    assert [create("").name for _ in range(3)] == ["20300102-030405", "20300102-030405-2", "20300102-030405-3"]


@pytest.mark.parametrize(
    "name",
    [
        ".",
        "..",
        "a/b",
        "../x",
        "a\\b",
        "/tmp/x",
        "a:b",
        "a*",
        "nul",
        "com1.x",
        "cache",
        "x" * 300,
        "é" * 150,
        "a\nb",
        ".hidden",
        "-p",
        "a ",
        "README.md",
    ],
)
def test_a_name_is_that_of_a_plain_folder(name, outputs):
    outputs.mkdir()
    (outputs / "README.md").touch()
    for door in (create, named_folder, results_folder, lambda name: Tuning(name, {}, None, "").begin()):
        with pytest.raises(RunError, match=r"cannot be the name of a folder in .*; choose another"):
            door(name)
    assert files(outputs) == ["README.md"]
    assert files(outputs.parent) == ["outputs"]
    assert create("ü 1, (new)").path.is_dir()


@pytest.mark.parametrize("what", ["images", "labels"])
def test_a_folder_that_holds_the_data_is_never_a_run(what, outputs):
    inside = outputs / "mine" / ("photos" if what == "images" else "labels.csv")
    with pytest.raises(RunError, match=f"mine holds the {what} .*; give the run another name"):
        create("mine", **{what: str(inside)}, overwrite=True)


# --- claims

HOLD = """
import sys
from mlkit.runs import Run
run = Run.create("a", {"epochs": 3}, "data")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(outputs):
    """Another process, which trains into the run "a"."""
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_one_process_trains_in_a_folder_and_a_killed_one_leaves_no_claim(holder):
    for overwrite in (False, True):
        with pytest.raises(ClaimError, match=rf"a is at work in process {holder.pid}; wait until it ends"):
            Run.create("a", {"epochs": 3}, "data", overwrite)
    with pytest.raises(ClaimError, match="a is at work"), Run.open("a").claimed():
        pass
    assert main(["run", "--name", "a"]) == main(["train", "--name", "a", "--overwrite"]) == 2
    holder.kill()
    holder.wait()
    assert not Run.create("a", {"epochs": 3}, "data").finished


def test_a_claim_is_given_back_at_the_end_and_that_of_another_machine_is_taken_only_when_told(monkeypatch):
    run = create()
    with run.claimed():
        assert Run.create("a", PARAMETERS, "f1") == run  # this process has it already
        with pytest.raises(ClaimError, match=f"process {os.getpid()}"):
            Claim(run / "lock", "it")
    with Claim(run / "lock", "it"):
        holder = json.loads((run / "lock.by").read_text(encoding="utf-8"))
        assert holder == {"pid": os.getpid(), "host": platform.node()}
    (run / "lock.by").write_text(json.dumps({"pid": 7, "host": "elsewhere"}))
    with pytest.raises(ClaimError, match=r"it is at work in process 7 on elsewhere; .* \(mlkit --take-over ...\)"):
        Claim(run / "lock", "it")
    monkeypatch.setenv("MLKIT_TAKE_OVER", "yes")
    with Claim(run / "lock", "it"):
        (run / "lock.by").write_text(json.dumps({"pid": 7, "host": "elsewhere"}))
        with pytest.raises(ClaimError, match="it is at work in process 7 on elsewhere"):
            Claim(run / "lock", "it")


# --- tables


def test_no_cell_of_a_table_is_a_formula_and_all_are_read_back():
    run = create()
    names = ["=1+1", "'=x", "+49", "-", "@a", "plain", "a=b", "'quoted'"]
    table = pd.DataFrame({"image": names, "value": [-1.5] * 8, "count": range(8)})
    run.write_table("table.csv", table)
    text = (run / "table.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert [line.split(",")[0] for line in text] == ["'=1+1", "''=x", "'+49", "'-", "'@a", "plain", "a=b", "'quoted'"]
    assert text[0].endswith(",-1.5,0")
    pd.testing.assert_frame_equal(run.read_table("table.csv"), table, check_dtype=False)


# --- open


def test_run_is_opened_by_name_by_path_or_as_the_newest_that_is_finished(monkeypatch):
    create("untrained")
    for day, name in ((2, "b"), (3, "a"), (1, "c"), (4, "unfinished")):
        config = create(name).config()
        (outputs_root() / name / "model.pth").touch()
        if name != "unfinished":
            write_json(outputs_root() / name / "metrics.json", {})
        write_json(outputs_root() / name / "config.json", config | {"created": f"2030-01-0{day}T00:00:00.000+00:00"})
    (outputs_root() / "foreign").mkdir()
    (outputs_root() / "foreign" / "config.json").write_text("[1]")
    assert [run.name for run in list_runs()] == ["untrained", "c", "b", "a", "unfinished"]
    assert Run.open().name == "a"
    assert Run.open("unfinished").name == "unfinished"
    assert Run.open("c").path == outputs_root() / "c"
    assert Run.open(outputs_root() / "b") == Run.open("b") == Run.open(str(outputs_root() / "b"))
    monkeypatch.setenv("MLKIT_ROOT", str(outputs_root().parent))
    assert Run.open("outputs/b") == Run.open("b")
    assert str(Run.open("b")) == "outputs/b"


def test_unknown_run_is_refused_with_those_that_exist():
    with pytest.raises(RunError, match=r"no finished run in .*outputs yet; train one with notebook 02 or `mlkit train`$"):
        Run.open()
    with pytest.raises(RunError, match=r"x is not a run folder \(no config.json\); known runs: none"):
        Run.open("x")
    create("first")
    create("second")
    with pytest.raises(RunError, match=r"no finished run in .*; begun, and to be had by name: first, second"):
        Run.open()
    (outputs_root() / "cache").mkdir()
    with pytest.raises(RunError, match=r"cache is not a run folder \(no config.json\); known runs: first, second"):
        Run.open("cache")


def test_finished_runs_are_found_by_name_and_pattern_each_once():
    for name in ("b", "a-1", "a-2", "unfinished"):
        run = create(name)
        if name != "unfinished":
            run.write_json("metrics.json", {})
    names = {"everything": [], "pattern": ["a-*"], "order": ["a-2", "b", "a-*"]}
    found = {key: [run.name for run in find_runs(patterns)] for key, patterns in names.items()}
    assert found == {"everything": ["b", "a-1", "a-2"], "pattern": ["a-1", "a-2"], "order": ["a-2", "b", "a-1"]}
    with pytest.raises(RunError, match=r"unfinished is not finished; go on with its training"):
        find_runs(["b", "unfinished"])
    with pytest.raises(RunError, match=r"c-\* is not a run folder.*known runs: b, a-1"):
        find_runs(["c-*"])


@POSIX
def test_links_in_a_run_folder_lead_nothing_out_of_it(tmp_path):
    (tmp_path / "victim").write_text("precious")
    run = create()
    for name in ("lock", "lock.by", ".written"):
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(tmp_path / "victim")
    with run.claimed():
        run.new("history.csv")
    assert (tmp_path / "victim").read_text() == "precious"
    assert run.record() == ["history.csv"]


def test_a_run_whose_record_is_gone_is_not_overwritten_and_says_so():
    run = create()
    run.write_json("metrics.json", {})
    (run / ".written").unlink()
    with pytest.raises(RunError, match=r"a has no record \(.written\) of what mlkit wrote; delete the folder yourself"):
        create(overwrite=True)
    assert run.finished


def test_files_of_another_mlkit_are_refused_by_name():
    run = create()
    run.write_json("metrics.json", {"format": 2})
    with pytest.raises(FormatError, match=r"a/metrics.json has format 2, this mlkit reads 1; read it with the mlkit that"):
        run.read_json("metrics.json")
    (run / "config.json").write_text('{"format": "x"}')
    for use in (create, run.config, lambda: create(overwrite=True)):
        with pytest.raises(FormatError, match=r"a/config.json has format x"):
            use()


def test_what_the_run_does_not_have_yet_is_named():
    run = create()
    with pytest.raises(RunError, match=r"a/history.csv is missing; the run has not come so far: run notebook 02"):
        run.read_table("history.csv")
    with pytest.raises(RunError, match=r"a/metrics.json is missing"):
        run.read_json("metrics.json")
    with pytest.raises(RunError, match=r"a/split.csv is missing"):
        run.validation_images()


# --- contents


def test_table_comes_back_as_it_was_written():
    run = create()
    table = pd.DataFrame(
        {
            "image": ["0001", "a, b.jpg", "NA", 'é "x".png'],
            "attribute": ["null", "2024", "None", "bag"],
            "loss": [0.1 + 0.2, 1e-12, np.nan, 3.0],
            "epoch": [1, 2, 3, 4],
        }
    )
    run.write_table("t.csv", table)
    pd.testing.assert_frame_equal(run.read_table("t.csv"), table, check_dtype=False, check_exact=True)
    assert files(run.path) == ["config.json", "t.csv"]


def test_unknown_targets_come_back_as_missing():
    run = create()
    known = {"split": "test", "image": "a.jpg", "attribute": list("xyz"), "target": pd.array([1, None, 0], dtype="Int8")}
    run.write_table("predictions.csv", pd.DataFrame(known | {"logit": 0.0, "probability": 0.5}))
    assert run.read_table("predictions.csv").target.isna().tolist() == [False, True, False]


def test_validation_images_are_files_below_the_images_folder():
    run = create(images="data/x")
    run.write_table("split.csv", pd.DataFrame({"image": ["01", "deep/2.jpg"], "split": ["validation", "train"]}))
    assert run.validation_images() == [project_root() / "data" / "x" / "01"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_refuses_what_json_lacks_and_keeps_the_old_file(value):
    run = create()
    run.write_json("metrics.json", {"mAP": 0.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.write_json("metrics.json", {"mAP": value})
    assert run.read_json("metrics.json") == {"mAP": 0.5}
    assert files(run.path) == ["config.json", "metrics.json"]


# --- files


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "deep" / "t.txt"

    def write(text, error=None):
        with atomic(target) as temporary:
            assert temporary.suffix == ".txt"
            temporary.write_text(text)
            if error:
                raise error

    for error, told in ((OSError("disk"), WriteError), (KeyboardInterrupt(), KeyboardInterrupt)):
        with pytest.raises(told):
            write("half", error)
        assert files(target.parent) == []
    write("old")
    with pytest.raises(KeyboardInterrupt):
        write("half", KeyboardInterrupt)
    assert target.read_text(encoding="utf-8") == "old"
    write("new")
    assert target.read_text(encoding="utf-8") == "new"
    assert files(target.parent) == ["t.txt"]


def test_written_file_is_as_readable_as_any_other(tmp_path):
    (tmp_path / "plain").touch()
    write_json(tmp_path / "x.json", {"a": "é"})
    assert stat.S_IMODE((tmp_path / "x.json").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"format": 1, "a": "é"}


def test_shown_and_resolve_are_inverse_inside_the_project(tmp_path, monkeypatch):
    monkeypatch.setenv("MLKIT_ROOT", str(tmp_path / "project"))
    monkeypatch.chdir(tmp_path)
    for text in ("outputs/run", "data/a b/é.jpg", "x", "."):
        assert resolve(text) == tmp_path / "project" / text
        assert shown(text) == text
        assert resolve(shown(resolve(text))) == resolve(text)
        assert shown(resolve(text)) == text
    assert shown("data/../x/./y") == "x/y"
    outside = tmp_path / "elsewhere" / "a.jpg"
    assert shown(outside) == str(outside) == shown("../elsewhere/a.jpg")
    assert resolve("~/x") == Path.home() / "x"


def test_root_is_the_checkout_wherever_one_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (project_root() / "notebooks").is_dir()
    assert resolve("data") == project_root() / "data"
