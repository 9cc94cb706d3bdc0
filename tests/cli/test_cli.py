"""The command line as a person meets it."""

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import POSIX
from sklearn.metrics import average_precision_score
from tinynet import TINYNET

from mlkit.cli import COMMANDS, main
from mlkit.cli.given import data_options, given_parameters, given_recipe, typed_run
from mlkit.errors import MlkitError, RunError
from mlkit.evaluation.metrics import chance
from mlkit.files import project_root, write_json
from mlkit.runs import Run


@pytest.fixture(scope="module")
def run_and_output(sample, tmp_path_factory):
    """Folder of the run of a small training on the sample set, and what the command printed."""
    folder, printed = tmp_path_factory.mktemp("outputs"), io.StringIO()
    data = ["--images", str(sample / "images"), "--labels", str(sample / "labels.csv")]
    small = ["-p", "weights", "none", "-p", "epochs", "1", "-p", "image_size", "32", "-p", "backbone", TINYNET]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setenv("MLKIT_OUTPUTS", str(folder))
        assert main(["train", *data, *small, "--name", "t"]) == 0
    return folder / "t", printed.getvalue()


@pytest.fixture
def trained(run_and_output, sample, outputs):
    """Images of the sample set, after that training into the run `t`."""
    shutil.copytree(run_and_output[0], outputs / "t")
    return sample / "images"


def test_training_says_what_it_used_and_what_it_is_worth(run_and_output):
    run, printed = run_and_output
    assert "60 of 61 rows are used" in printed
    found = re.search(r"test mAP (.*) over (\d) of 4 attributes, chance (.*)", printed)
    facts = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert int(found[2]) == 4 - len(facts["left_out_of_mean"])
    every = [
        chance(int(row["positives"]), int(row["positives"] + row["negatives"]))
        for row in facts["attributes"].values()
        if row["AP"] is not None
    ]
    assert float(found[3]) == pytest.approx(np.mean(every), abs=5e-4), "not the prevalence"


def test_an_interrupted_training_says_what_goes_on_with_it(sample, outputs, capsys, monkeypatch):
    def train(dataset, config, run, **_):
        raise KeyboardInterrupt

    for module in ("mlkit.experiments.trainings", "mlkit.training.loop"):  # in this order: the first imports from the second
        monkeypatch.setattr(f"{module}.train", train)
    words = ["--images", str(sample / "images"), "--labels", str(sample / "labels.csv"), "-p", "image_size", "16"]
    assert main(["train", *words, "--overwrite"]) == 130
    (run,) = outputs.glob("2*")
    error = capsys.readouterr().err
    command = shlex.split(error.partition("this goes on where it stopped: ")[2])
    assert command[:2] == ["mlkit", "train"]
    assert sorted(command[2:]) == sorted([*words, "--name", run.name])
    assert main(command[1:]) == 130
    assert [run] == list(outputs.glob("2*"))
    assert main(["train", *words, "--folds", "2"]) == 130
    assert f"--name {sample.name} --folds 2" in capsys.readouterr().err
    assert main(["train", *words, "--folds", "2", "--overwrite"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "mlkit: interrupted"


def test_train_then_predict(trained, capsys):
    assert main(["predict", str(trained / "0000.jpg"), "--model", "t"]) == 0
    few, model, image, *lines = capsys.readouterr().out.splitlines()
    assert "outputs/t: threshold and calibration rest on fewer than 10 known yes, or known no, of the" in few
    assert "validation images: sleeves" in few
    assert (model[:7], image[:11]) == ("model: ", "prediction ")
    assert [line.split()[0] for line in lines] == ["sleeves", "plain", "long", "bag"]
    assert all(line.split()[2] in ("yes", "no") and 0 <= float(line.split()[1]) <= 1 for line in lines)


def test_predict_prints_one_line_per_broken_image_and_exits_1(trained, tmp_path, capsys):
    (tmp_path / "text.jpg").write_text("no image")
    assert main(["predict", str(tmp_path / "text.jpg"), str(tmp_path / "gone.jpg"), str(trained / "0000.jpg")]) == 1
    output = capsys.readouterr()
    assert output.err.splitlines()[2] == "mlkit: 2 of 3 images could not be read, see their errors"
    assert "text.jpg: not an image in any known format" in output.err
    assert "gone.jpg: no such file" in output.err
    assert "sleeves" in output.out


def test_folder_of_images_is_predicted_into_a_table(trained, tmp_path, capsys):
    assert main(["predict", str(trained), "--model", "t", "--csv", str(tmp_path / "table.csv")]) == 0
    table = pd.read_csv(tmp_path / "table.csv")
    assert len(table) == 60 * 4
    assert table.image.is_monotonic_increasing
    assert re.fullmatch(
        rf"model: .*outputs/t, {TINYNET} of epoch 1, trained 20.* UTC", capsys.readouterr().out.splitlines()[1]
    )


def given(*arguments):
    return given_parameters(data_options().parse_args(list(arguments)))


def test_what_is_typed_is_relative_to_the_person_and_what_is_in_a_file_to_the_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text("images: photos\nlabels: photos/labels.csv\nweights: w.pth\n", encoding="utf-8")
    assert given("-f", "own.yaml")["images"] == "photos"
    assert given("-f", "own.yaml")["weights"] == "w.pth"
    typed = given("-f", "own.yaml", "-p", "images", "photos", "-p", "image", "photos/7.jpg", "-p", "weights", "./w.pth")
    assert typed["images"] == str(tmp_path / "photos")
    assert typed["image"] == str(tmp_path / "photos" / "7.jpg")
    assert typed["weights"] == str(tmp_path / "w.pth")
    assert given("--images", "photos", "--labels", "l.csv")["labels"] == str(tmp_path / "l.csv")
    assert given("-p", "weights", "none")["weights"] == "none"
    monkeypatch.chdir(project_root())  # a path in the project stays one that moves with it
    assert given("-p", "images", "data/photos", "-p", "labels", "l.csv")["images"] == "data/photos"


@pytest.mark.parametrize("way", ["option", "parameter", "file"])
def test_own_data_gets_its_recipe_however_it_is_given(way, tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("images: a\nlabels: b.csv\n")
    arguments = {
        "option": ["--images", "a", "--labels", "b.csv"],
        "parameter": ["-p", "images", "a", "-p", "labels", "b.csv"],
        "file": ["-f", str(file)],
    }[way]
    assert given_recipe(given(*arguments)).config.image_size == 224
    assert given_recipe(given(*arguments, "-p", "image_size", "48")).config.image_size == 48
    for sample in ((), ("-p", "images", str(project_root() / "data/sample/images"))):
        assert given_recipe(given(*sample)).config.image_size == 64
        assert given(*sample)["labels"] == "data/sample/labels.csv"
    with pytest.raises(MlkitError, match="belong together"):
        given("-p", "images", "a")


def test_a_run_may_be_typed_as_a_shell_completes_it(outputs, tmp_path, monkeypatch):
    for name in ("single", "elsewhere"):
        write_json(outputs / name / "config.json", {"created": "2030", "parameters": {}})
    monkeypatch.chdir(tmp_path)
    for text in ("single", "./single", "single/"):
        assert Run.open(typed_run(text)).path == outputs / "single"
        assert Run.open(text).path == outputs / "single"
    monkeypatch.chdir(outputs)
    assert Run.open(typed_run("./single")).path == outputs / "single"
    monkeypatch.chdir(outputs / "single")
    assert Run.open(typed_run(".")).path == Run.open(typed_run("../single")).path == outputs / "single"
    assert typed_run("tune-*") == "tune-*"
    with pytest.raises(RunError, match=f"^{outputs}/gone is not a run folder"):
        Run.open(typed_run("../gone"))


def run_command(*arguments, **options):
    return subprocess.run([sys.executable, "-m", "mlkit", *arguments], text=True, stderr=subprocess.PIPE, **options)


@POSIX
def test_output_that_takes_no_more_is_no_traceback():
    reading, writing = os.pipe()
    os.close(reading)  # as `| head` does once it has enough
    closed = run_command("runs", stdout=writing)
    os.close(writing)
    assert (closed.returncode, closed.stderr) == (141, "")
    with open("/dev/full", "wb") as full:
        failed = run_command("runs", stdout=full)
    assert failed.returncode == 1
    assert (
        failed.stderr == "mlkit: the output: No space left on device; free some space, or choose a folder on another disk\n"
    )


@POSIX
def test_a_bare_environment_a_long_name_and_folders_to_read_alone_will_do(sample, finished, outputs, tmp_path):
    photos, run = tmp_path / "my photos" / "bücher 写真", outputs / ("ü" + 198 * "x")
    shutil.copytree(sample / "images", photos)
    finished.path.rename(run)
    (tmp_path / "here").mkdir()
    for folder in (photos, run, tmp_path / "here"):
        folder.chmod(0o555)
    kept = {"MLKIT_OUTPUTS": str(outputs), "PYTHONPATH": str(project_root()), "LC_ALL": "C"}  # no HOME, no PATH, no LANG
    asked = run_command("predict", photos, "--model", run.name, cwd=tmp_path / "here", env=kept, stdout=subprocess.PIPE)
    assert (asked.returncode, asked.stderr) == (0, "")
    assert "bücher 写真/0000.jpg" in asked.stdout


def test_a_name_that_the_terminal_cannot_show_is_printed_escaped(tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "MLKIT_OUTPUTS": str(tmp_path / "bücher")}
    shown = run_command("runs", stdout=subprocess.PIPE, env=environment)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "b\\xfccher" in shown.stdout


def test_a_folder_without_images_is_said_and_names_that_are_no_utf8_are_escaped(trained, tmp_path, capsys):
    folder = tmp_path / "few"
    folder.mkdir()
    assert main(["predict", str(folder), "--model", "t"]) == 2
    assert f"{folder}: no picture in it; check the path" in capsys.readouterr().err
    (folder / ".DS_Store").touch()
    (folder / "labels.csv").write_text("image,a\n", encoding="utf-8")
    assert main(["predict", str(folder), "--model", "t"]) == 2
    assert "no picture in it; passed over, no pictures: 2 (.DS_Store, ...); check the path" in capsys.readouterr().err
    assert main(["predict", str(folder / "labels.csv"), "--model", "t"]) == 1, "it was named"
    capsys.readouterr()
    shutil.copy(trained / "0000.jpg", os.fsencode(folder / "bad") + b"\xff.jpg")
    assert main(["predict", str(folder), "--model", "t"]) == 0
    output = capsys.readouterr().out
    assert "bad\\udcff.jpg" in output
    assert "\npassed over, no pictures: 2 (.DS_Store, ...)\n" in output


def test_folds_train_every_fold_put_them_together_and_keep_what_is_finished(sample, outputs, capsys):
    data = ["--images", str(sample / "images"), "--labels", str(sample / "labels.csv")]
    small = ["-p", "weights", "none", "-p", "epochs", "1", "-p", "image_size", "16", "-p", "backbone", TINYNET]
    small += ["--name", "cv", "--folds", "3"]
    assert main(["train", *data, *small]) == 0
    printed = capsys.readouterr().out
    assert "training 3 of 3" in printed
    assert "macro mean" in printed
    predictions = pd.read_csv(outputs / "cv-folds" / "predictions.csv")
    assert len(predictions) == 60 * 4, "each image is tested once"
    assert predictions.groupby("image").fold.nunique().eq(1).all()
    table = pd.read_csv(outputs / "cv-folds" / "folds.csv", index_col=["figure", "attribute"])
    folds = [json.loads((outputs / f"cv-fold{i}" / "metrics.json").read_text(encoding="utf-8")) for i in range(3)]
    accuracies = [fold["attributes"]["long"]["accuracy"] for fold in folds]
    row = table.loc[("accuracy", "long")]
    assert row["mean"] == pytest.approx(np.mean(accuracies))
    assert row["deviation"] == pytest.approx(np.std(accuracies, ddof=1))
    long = predictions[predictions.attribute == "long"].dropna()
    assert table.loc[("AP", "long")].pooled == pytest.approx(average_precision_score(long.target, long.probability))

    (outputs / "cv-fold2" / "metrics.json").unlink()  # as if interrupted there
    kept = [(outputs / f"cv-fold{i}" / "model.pth").stat().st_mtime_ns for i in range(3)]
    assert main(["train", *data, *small]) == 0
    assert capsys.readouterr().out.count("finished before, kept") == 2
    assert [(outputs / f"cv-fold{i}" / "model.pth").stat().st_mtime_ns == kept[i] for i in range(3)] == [True, True, False]
    pd.testing.assert_frame_equal(pd.read_csv(outputs / "cv-folds" / "folds.csv", index_col=["figure", "attribute"]), table)

    assert main(["train", *data, *small, "-p", "seed", "1"]) == 2
    assert "cv-fold0 holds a finished run" in capsys.readouterr().err


def test_help_groups_the_commands_by_what_a_person_wants(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = capsys.readouterr().out
    groups = dict(re.findall(r"^([\w ]+):\n((?:  .+\n)+)", text, re.M))
    assert list(groups) == ["start", "data", "many runs", "use a model", "machine", "options"]
    found = {title: re.findall(r"^  (\w+) ", lines, re.M) for title, lines in groups.items() if title != "options"}
    assert found == {title: [module.__name__.split(".")[-1] for module in modules] for title, modules in COMMANDS.items()}
    assert max(map(len, text.splitlines())) < 80
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert capsys.readouterr().err.endswith("the following arguments are required: COMMAND\n")


def test_help_and_import_load_no_torch():
    program = "import sys, mlkit.cli\ntry: mlkit.cli.main(['--help'])\nexcept SystemExit: print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "False"
