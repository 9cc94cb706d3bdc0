"""The notebooks by papermill: the whole chain on the sample data, what is skipped, and how failures are told."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest
from conftest import DATA, HANG, POSIX

from mlkit.cli import main
from mlkit.errors import ParameterError, RunError
from mlkit.notebooks import CHAIN, TRAINING, NotebookError, digest, earlier_parameters, pipeline, run_notebooks, select
from mlkit.parameters import known_parameters, notebook_path
from mlkit.runs import Run
from mlkit.training.recipe import known_settings

ROOT = Path(__file__).parent.parent
SETTINGS = known_settings()
PLAIN = dict.fromkeys(("flip", "rotation", "scale", "translation", "brightness", "contrast", "saturation"), 0)
SMALL = [
    word
    for pair in {"image_size": 32, "epochs": 2, "permutations": 100, **PLAIN}.items()
    for word in ("-p", *map(str, pair))
]
EXECUTE = pipeline.execute


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """One run of the whole chain by the command line, on the sample data: its outputs folder and what it printed."""
    outputs = tmp_path_factory.mktemp("outputs")
    result = mlkit(outputs, "run", "--name", "chain", *SMALL)
    assert result.returncode == 0, result.stderr
    return outputs, result.stdout


def mlkit(outputs, *arguments):
    """The command line in this process, with another outputs folder: exit status and what it printed."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(stdout), redirect_stderr(stderr):
        patch.setenv("MLKIT_OUTPUTS", str(outputs))
        code = main(arguments)
    return SimpleNamespace(returncode=code, stdout=stdout.getvalue(), stderr=stderr.getvalue())


def test_chain_leaves_all_artifacts_and_says_so(chain):
    outputs, printed = chain
    artifacts = [
        "model.pth",
        "Aimonk_multilabel_problem.png",
        "history.csv",
        "metrics.json",
        "predictions.csv",
        "config.json",
    ]
    artifacts += ["prediction.csv", "prediction.png", "evaluation.csv", "errors.csv"]
    artifacts += [f"{name}.png" for name in ("intervals", "pr_curves", "reliability", "confusion", "scores", "errors")]
    for file in [*artifacts, *(f"{notebook}.ipynb" for notebook in CHAIN)]:
        assert (outputs / "chain" / file).stat().st_size > 0
        assert file in printed or file.endswith(".json")
    assert "left out, 1 missing: 1000.jpg" in printed
    assert "prediction for " in printed
    assert "epoch 2/2" in printed


def test_chain_learned_and_beats_the_majority(chain):
    mean = json.loads((chain[0] / "chain" / "metrics.json").read_text(encoding="utf-8"))["mean"]
    assert mean["AP"] >= 0.8 > mean["prevalence"]
    assert mean["accuracy"] > mean["majority_accuracy"]
    history = pd.read_csv(chain[0] / "chain" / "history.csv")
    assert history.loss.tail(10).mean() < 0.5 * history.loss.head(10).mean()


def test_executed_notebooks_are_complete_and_carry_no_progress_bars(chain):
    for notebook in CHAIN:
        content = nbformat.read(chain[0] / "chain" / f"{notebook}.ipynb", as_version=4)
        assert all(cell.execution_count for cell in content.cells if cell.cell_type == "code")
        assert "it/s" not in nbformat.writes(content)
        assert "widgets" not in content.metadata


def test_second_call_skips_what_did_not_change(chain):
    outputs, _ = chain
    before = (outputs / "chain" / "model.pth").stat().st_mtime_ns
    result = mlkit(outputs, "run", "--name", "chain", *SMALL)
    assert result.stdout.count("nothing changed, kept") == len(CHAIN)
    result = mlkit(outputs, "run", "--name", "chain", *SMALL, "-p", "smoothing", "0.5")
    assert result.stdout.count("nothing changed, kept") == len(CHAIN) - 1
    assert "03_plot_loss: done" in result.stdout
    assert (outputs / "chain" / "model.pth").stat().st_mtime_ns == before


def test_other_parameters_never_overwrite_a_named_run(chain):
    outputs, _ = chain
    result = mlkit(outputs, "run", "--name", "chain", *SMALL, "-p", "epochs", "5")
    assert result.returncode == 2
    assert "give another --name, or --overwrite" in result.stderr


def test_only_runs_one_notebook_again_with_the_parameters_that_the_run_was_given(chain):
    result = mlkit(chain[0], "run", "--name", "chain", "--only", "3", "-p", "title", "curve")
    assert result.returncode == 0
    assert "[1/1] 03_plot_loss" in result.stdout
    assert (chain[0] / "chain" / "curve.png").exists()


def test_a_run_made_without_notebooks_gets_them_with_its_own_parameters(finished, outputs):
    result = mlkit(outputs, "run", "--name", "small", "--only", "03")
    assert result.returncode == 0, result.stderr
    assert (finished / "Aimonk_multilabel_problem.png").exists()
    assert earlier_parameters("small", SETTINGS)["images"] == DATA["images"]
    assert "holds a run with other parameters" in mlkit(outputs, "run", "--name", "small").stderr


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epoch": 3}, "unknown parameter 'epoch'; did you mean 'epochs'"),
        ({"epochs": "three"}, "parameter epochs is 'three'; it must be a whole number"),
        ({"strict": 1}, "parameter strict is 1; it must be true or false"),
        ({"run": "x"}, "unknown parameter 'run'"),
    ],
)
def test_wrong_parameters_stop_before_anything_runs(given, message, outputs):
    with pytest.raises(ParameterError, match=message):
        run_notebooks(given, SETTINGS)
    assert not outputs.exists()


def test_parts_of_the_chain_are_named_by_number_or_name():
    assert select() == list(CHAIN)
    assert select(only="3") == ["03_plot_loss"]
    assert select(start="03_plot_loss") == list(CHAIN[2:])
    with pytest.raises(ParameterError, match="no notebook '9' in the chain"):
        select(only="9")


TRAINS = """
from mlkit.runs import Run
made = Run.create(run, {"images": images, "labels": labels, "epochs": epochs, "weights": weights}, "data", overwrite)
with made.claimed():
    made.write_json("metrics.json", {})
"""


@pytest.fixture
def executed(tiny_chain, monkeypatch):
    """The tiny chain without kernels; returns what was executed, as a list of numbers of notebooks."""
    numbers = []

    def execute(notebook, run, parameters, timeout=None, silent=False):
        numbers.append(CHAIN.index(notebook) + 1)
        if notebook == TRAINING:
            exec(TRAINS, known_parameters(notebook) | parameters)
        (run / f"{notebook}.ipynb").touch()

    monkeypatch.setattr(pipeline, "execute", execute)
    return numbers


@pytest.fixture
def in_kernel(tiny_chain, executed, monkeypatch):
    """The tiny chain without kernels but for the numbers that are put into this set."""
    played, numbers = pipeline.execute, set()

    def execute(notebook, *arguments, **options):
        (EXECUTE if CHAIN.index(notebook) + 1 in numbers else played)(notebook, *arguments, **options)

    monkeypatch.setattr(pipeline, "execute", execute)
    return numbers


@pytest.fixture
def tiny_chain(tmp_path, monkeypatch):
    """A project whose chain is one-cell notebooks; `write(number, source)` changes one of them."""
    monkeypatch.setenv("MLKIT_ROOT", str(tmp_path))
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "labels.csv").write_text("image,a\nx.jpg,1\n")

    def write(number, source=None):
        source = source or (TRAINS if number == 2 else "print('ran')")
        text = "images = 'data/images'\nlabels = 'data/labels.csv'\nrun = ''\noverwrite = False\n"
        text += {2: "epochs = 6\nweights = 'none'\nrecipe = ''", 3: "smoothing = 0.9", 5: "other = ''"}.get(number, "")
        cell = nbformat.v4.new_code_cell(text, metadata={"tags": ["parameters"]})
        spec = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        notebook = nbformat.v4.new_notebook(cells=[cell, nbformat.v4.new_code_cell(source)], metadata=spec)
        nbformat.write(notebook, tmp_path / "notebooks" / f"{CHAIN[number - 1]}.ipynb")

    for number in range(1, len(CHAIN) + 1):
        write(number)
    return write


@pytest.fixture
def recipe(tiny_chain, tmp_path):
    """The recipe of the tiny chain, on its own data."""
    folder = shutil.copytree(ROOT / "notebooks" / "parameters", tmp_path / "notebooks" / "parameters")
    (folder / "sample.yaml").write_text("images: data/images\n")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise ValueError('the\\nreason')", "ValueError: the reason"),
        ("import os; os._exit(9)", "the kernel died"),
        (f"import time; time.sleep({HANG})", "the cell took longer than 3 s"),
    ],
)
def test_failure_names_notebook_cell_and_error_and_the_run_can_go_on(tiny_chain, in_kernel, source, reason, capsys):
    tiny_chain(3, source)
    in_kernel.add(3)
    for number in "12":
        run_notebooks({}, SETTINGS, name="x", asked=select(only=number))
    with pytest.raises(NotebookError) as caught:
        run_notebooks({}, SETTINGS, name="x", timeout=3 if "sleep" in source else None)
    lines = str(caught.value).splitlines()
    assert lines[0] == "notebook: 03_plot_loss"
    assert lines[1].startswith("cell:     3 ")  # the injected parameters are a cell too
    assert reason in lines[2]
    assert len(lines) == 3
    run = caught.value.run
    assert not (run / "03_plot_loss.ipynb").exists()
    tiny_chain(3)
    in_kernel.clear()
    capsys.readouterr()
    run_notebooks({}, SETTINGS, name="x")
    assert capsys.readouterr().out.count("nothing changed, kept") == 2
    assert (run / "04_single_image_inference.ipynb").exists()


def test_command_line_prints_the_failure_and_the_command_that_resumes(tiny_chain, recipe, in_kernel, capsys, monkeypatch):
    # a notebook that only plays its execution is an empty file
    monkeypatch.setattr("mlkit.inference.report.write_report", lambda run: None)
    tiny_chain(2, "1 / 0")
    in_kernel.add(2)
    assert main(["run", "--name", "x", "-p", "labels", "data/labels.csv"]) == 1
    error = capsys.readouterr().err
    assert "error:    ZeroDivisionError: division by zero" in error
    assert "resume:   mlkit run --name x --from 02" in error
    tiny_chain(2)
    in_kernel.clear()
    assert main(["run", "--name", "x", "--from", "02"]) == 0


@POSIX
@pytest.mark.parametrize(
    ("number", "code", "what"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "ended by the system")]
)
def test_interrupt_is_told_like_a_failure(tiny_chain, recipe, number, code, what):
    tiny_chain(1, f"import time; print('asleep'); time.sleep({HANG})")
    command = [sys.executable, "-m", "mlkit", "run", "--name", "x", "-p", "labels", "data/labels.csv"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if "asleep" in line:
            break
    time.sleep(0.5)
    process.send_signal(number)
    _, error = process.communicate(timeout=HANG)
    assert process.returncode == code, error
    assert f"error:    {what}\nresume:   mlkit run --name x --from 01" in error


def test_unnamed_run_with_other_parameters_gets_a_folder_of_its_own(executed):
    first = run_notebooks({}, SETTINGS)
    assert run_notebooks({}, SETTINGS) == first
    (Path(os.environ["MLKIT_ROOT"]) / "data" / "labels.csv").write_text("image,a\nx.jpg,0\n")
    assert (first.name, run_notebooks({}, SETTINGS).name) == ("data", "data-2")


def test_a_finished_training_is_replaced_by_overwrite_alone(executed):
    run = run_notebooks({"epochs": 6}, SETTINGS, name="a")
    made = run.id
    for given, asked in (
        ({"epochs": 1}, select(only="02")),
        ({}, select(start="02")),
        ({"epochs": 6}, select(start="1")),
        ({"epochs": 1}, ()),
    ):
        with pytest.raises(RunError, match=r"a holds .*--overwrite"):
            run_notebooks(given, SETTINGS, name="a", asked=asked)
    with pytest.raises(RunError, match="a holds a run with other epochs, which decide its training"):
        run_notebooks({"epochs": 1}, SETTINGS, name="a", asked=select(only="05"))
    with pytest.raises(ParameterError, match="--overwrite replaces a training, and 05_evaluate train nothing"):
        run_notebooks({}, SETTINGS, name="a", asked=select(only="05"), overwrite=True)
    assert run.id == made
    assert executed == [1, 2, 3, 4, 5]
    run_notebooks({"epochs": 1}, SETTINGS, name="a", asked=select(start="02"), overwrite=True)
    assert run.id != made
    assert run.config()["parameters"]["epochs"] == 1


def test_part_of_the_chain_without_a_name_leaves_a_training_of_that_name_alone(executed):
    trained = Run.create("data", {"images": "data/images", "epochs": 6}, "data")
    with trained.claimed():
        trained.write_json("metrics.json", {})
    made = trained.id
    assert run_notebooks({}, SETTINGS, asked=select(start="02")).name == "data-2"
    with pytest.raises(RunError, match="data-2 holds this very training, finished; --from 03 goes on from it"):
        run_notebooks({}, SETTINGS, asked=select(start="02"))
    assert trained.id == made


def test_a_process_that_is_killed_after_the_training_trains_nothing_again(executed, monkeypatch):
    play = pipeline.execute

    def die(notebook, run, *arguments, **options):
        monkeypatch.setattr("mlkit.runs.claims._HELD", str(run.path))  # as in the kernel
        play(notebook, run, *arguments, **options)
        if notebook == TRAINING:
            raise NotebookError(run, notebook, 3, "the kernel died")

    for overwrite in (False, True):
        monkeypatch.setattr(pipeline, "execute", die)
        with pytest.raises(NotebookError):
            run_notebooks({}, SETTINGS, name="a", overwrite=overwrite)
        monkeypatch.setattr(pipeline, "execute", play)
        trained = Run.open("a").id
        with pytest.raises(RunError, match="a holds a run with other parameters"):
            run_notebooks({"epochs": 3}, SETTINGS, name="a")
        run_notebooks({}, SETTINGS, name="a")
        assert Run.open("a").id == trained
    assert executed == [1, 2, 2, 3, 4, 5, 1, 2, 2, 3, 4, 5]


def test_an_overwrite_that_is_killed_before_it_does_anything_has_trained_nothing(executed, monkeypatch):
    def die(notebook, run, *_, **__):
        raise NotebookError(run, notebook, 0, "the kernel died")

    run_notebooks({}, SETTINGS, name="a")
    monkeypatch.setattr(pipeline, "execute", die)
    with pytest.raises(NotebookError):
        run_notebooks({"epochs": 3}, SETTINGS, name="a", asked=select(start="02"), overwrite=True)
    with pytest.raises(RunError, match="a holds a run with other parameters"):
        run_notebooks({"epochs": 3}, SETTINGS, name="a")


def test_what_was_made_of_a_run_is_made_again_when_the_run_was_replaced(executed):
    run = run_notebooks({}, SETTINGS, name="a")
    other = run.config()["parameters"] | {"epochs": 9}
    with (new := Run.create("a", other, "data", overwrite=True)).claimed():
        new.write_json("metrics.json", {})
    with pytest.raises(RunError, match=r"or not made by `mlkit run`; .*--from 03 to go on from it"):
        run_notebooks({}, SETTINGS, name="a")
    manifest = run.read_json("manifest.json")
    (run / "manifest.json").write_text(json.dumps(manifest | {"parameters": {"gone since": 1, "smoothing": 0.5}}))
    given = earlier_parameters("a", SETTINGS, select(start="03"))
    assert given["smoothing"] == 0.5
    assert "gone since" not in given
    assert given["epochs"] == earlier_parameters("a", SETTINGS)["epochs"] == 9
    run_notebooks(given, SETTINGS, name="a", asked=select(start="03"))
    assert executed == [1, 2, 3, 4, 5, 3, 4, 5]
    (run / f"{CHAIN[3]}.ipynb").unlink()
    run_notebooks({}, SETTINGS, name="b")
    (run.path.parent / "b" / f"{CHAIN[3]}.ipynb").unlink()
    executed.clear()
    run_notebooks({}, SETTINGS, name="b")
    assert executed == [4], "what is gone"


def test_digest_knows_the_files_and_runs_that_parameters_name(executed, tmp_path):
    (tmp_path / "w.pth").write_text("1")
    with (second := Run.create("second", {}, "data")).claimed():
        pass
    given = {"weights": str(tmp_path / "w.pth"), "other": "second"}
    run_notebooks(given, SETTINGS, name="a")
    executed.clear()
    Run.create("second", {}, "data", overwrite=True)
    run_notebooks(given, SETTINGS, name="a")
    assert executed == [5]
    (tmp_path / "w.pth").write_text("other weights")
    with pytest.raises(RunError, match="other parameters, data or code"):
        run_notebooks(given, SETTINGS, name="a")
    assert second.id


def test_digest_is_of_the_code_that_a_notebook_reaches_and_not_of_comments(executed, tiny_chain, tmp_path, monkeypatch):
    code = shutil.copytree(ROOT / "mlkit", tmp_path / "mlkit", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr("mlkit.__file__", str(code / "__init__.py"))
    tiny_chain(3, "%matplotlib inline\nfrom mlkit import plots")

    def executed_after(file, text):
        with open(code / file, "a", encoding="utf-8") as module:
            module.write(text)
        digest._module.cache_clear()
        executed.clear()
        run_notebooks({}, SETTINGS, name="a")
        return executed

    assert executed_after("plots.py", "") == [1, 2, 3, 4, 5]
    assert executed_after("plots.py", "# a comment\n") == []
    assert executed_after("bench/__init__.py", "x = 1\n") == executed_after("cli/run.py", "x = 1\n") == []
    assert executed_after("plots.py", "x = 1\n") == [3]
    with pytest.raises(RunError, match="other parameters, data or code"):  # the training imports it
        executed_after("files.py", "x = 1\n")


def test_parameters_and_parts_that_would_be_ignored_are_refused(executed, capsys):
    for words, message in (
        (["--only", "02", "-p", "smoothing", "0.5"], "smoothing is of 03_plot_loss, which is not executed now"),
        (["--only", "02", "--from", "03"], "--only executes one notebook, --from several"),
    ):
        assert main(["run", "--name", "a", *words]) == 2
        assert message in capsys.readouterr().err
    assert executed == []


def test_folder_of_a_training_without_notebooks_is_not_taken_over(tiny_chain):
    Run.create("x", {}, "data")
    with pytest.raises(RunError, match="give another --name"):
        run_notebooks({}, SETTINGS, name="x")


def test_kernel_is_that_of_the_current_python_whatever_else_is_installed(tiny_chain, tmp_path, monkeypatch):
    (tmp_path / "kernels" / "python3").mkdir(parents=True)
    (tmp_path / "kernels" / "python3" / "kernel.json").write_text("{")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    tiny_chain(1, "import sys; print(sys.executable)")
    run = run_notebooks({}, SETTINGS, asked=select(only="1"))
    output = nbformat.read(run / f"{CHAIN[0]}.ipynb", as_version=4).cells[-1].outputs[0].text
    assert output.strip() == sys.executable


def test_project_root_is_where_the_notebooks_are():
    assert notebook_path(CHAIN[0]).is_file()
