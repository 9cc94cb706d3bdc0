"""The search: its space is checked, every trial runs once, and a killed worker loses nothing."""

import contextlib
import os
import re
import shutil
import signal
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import matplotlib as mpl
import nbformat
import numpy as np
import optuna
import pandas as pd
import pytest
import yaml
from conftest import HANG, wait_for
from forked import FORKED, warm
from played import play, serve_journal, worth

from mlkit.cli import main
from mlkit.errors import MlkitError, ParameterError, RunError
from mlkit.experiments.search import Tuning
from mlkit.experiments.search import worker as worker_module
from mlkit.experiments.search.plots import history, slices
from mlkit.experiments.search.plots import importance as importance_plot
from mlkit.experiments.search.pruning import Reporter
from mlkit.experiments.search.setup import go_on, set_up
from mlkit.experiments.search.space import Space
from mlkit.experiments.search.storage import STORAGE, open_storage, serve
from mlkit.experiments.search.trials import best, importance, promising, ranking, trials, write_best
from mlkit.experiments.search.tuning import values_of
from mlkit.experiments.search.worker import run_workers, work
from mlkit.files import digest_file
from mlkit.notebooks import TRAINING, NotebookError
from mlkit.runs import Claim, Run
from mlkit.training.config import TrainConfig
from mlkit.training.recipe import Recipe

mpl.use("Agg")
import matplotlib.pyplot as plt

CONFIG = asdict(TrainConfig(weights="none", epochs=3))
PARAMETERS = Recipe.of(CONFIG).parameters()
SPACE = Space({"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "batch_size": [16, 32]})


def space(tmp_path, text, **changes):
    file = tmp_path / "space.yaml"
    file.write_text(text)
    return Space.read(file, CONFIG | changes)


# --- the space


def test_space_holds_choices_and_ranges_of_the_parameters_own_types(tmp_path):
    text = "learning_rate: {low: 1e-4, high: 1e-2, log: true}\nepochs: {low: 1, high: 9, step: 2}\nflip: [0, 0.5]\n"
    made = space(tmp_path, text)
    assert made.ranges == {
        "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "epochs": {"low": 1, "high": 9, "step": 2, "log": False},
        "flip": [0.0, 0.5],
    }
    assert made.start({"learning_rate": 1e-3, "epochs": 2, "flip": 0.5, "seed": 1}) == {"learning_rate": 1e-3, "flip": 0.5}
    assert made.start({"learning_rate": 1.0, "epochs": 3, "flip": 0.25}) == {"epochs": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: [0.1]", "there is no parameter 'learning_rat'; did you mean 'learning_rate'"),
        ("images: [a, b]", "there is no parameter 'images'"),
        ("epochs: [1.5]", "parameter epochs is 1.5; it must be a whole number"),
        ("epochs: 3", "it must be a list of choices, or a range such as"),
        ("epochs: {low: 1}", "it must be a list of choices, or a range"),
        ("epochs: {low: 1, high: 3, stp: 1}", "it must be a list of choices, or a range"),
        ("loss: {low: 1, high: 3}", "loss is no number; give a list of choices"),
        ("loss: [masked_bce, focal]", "loss is 'focal'"),
        ("epochs: {low: 0, high: 3}", "epochs is 0; it must be at least 1"),
        ("flip: {low: 0, high: 1, log: true}", "true only with low above 0"),
        ("flip: {low: 0.5, high: 0.1}", "low must lie below high"),
        ("flip: [0.5, 0.5]", "give each choice once"),
        ("freeze: [none, backbone]", "freeze is 'backbone' and weights is 'none'"),
        ("{}", "holds no parameter to vary"),
    ],
)
def test_wrong_space_is_refused_with_its_file(text, message, tmp_path):
    with pytest.raises(ParameterError, match=message) as error:
        space(tmp_path, text)
    assert "space.yaml" in str(error.value)


def test_the_space_that_comes_with_the_project_starts_from_the_recipes():
    for file in ("sample", "seed"):
        given = yaml.safe_load(
            (worker_module.project_root() / "notebooks" / "parameters" / f"{file}.yaml").read_text(encoding="utf-8")
        )
        config = {**CONFIG, **{key: value for key, value in given.items() if key in CONFIG}}
        made = Space.read("notebooks/parameters/space.yaml", config)
        assert set(made.start(config)) == set(made.ranges)


def test_grid_has_every_combination(tmp_path):
    made = space(tmp_path, "epochs: {low: 1, high: 4, step: 2}\nflip: [0, 0.5]\nscale: {low: 0.1, high: 0.3, step: 0.1}")
    grid = made.grid()
    assert len(grid) == 2 * 2 * 3
    assert {setting["epochs"] for setting in grid} == {1, 3}
    np.testing.assert_allclose(sorted({setting["scale"] for setting in grid}), [0.1, 0.2, 0.3])
    with pytest.raises(ParameterError, match="learning_rate is a range without a step"):
        SPACE.grid()


# --- the search, with trainings that are played


def begin(name="s", **changes):
    tuning = replace(Tuning(name, PARAMETERS, SPACE, "data"), **changes)
    tuning.begin()
    return tuning


@pytest.fixture
def played(monkeypatch):
    """Trainings that take no time; returns the runs that were executed, in order, with their parameters."""
    executed = []

    def execute(notebook, run, parameters, **options):
        executed.append((run.name, parameters["settings"]))
        play(notebook, run, parameters)

    monkeypatch.setattr(worker_module, "execute", execute)
    return executed


def test_search_starts_from_the_given_values_and_has_as_many_trials_as_asked_for(played, capsys):
    tuning = begin()
    tuning.search(12)
    tuning.search(12)
    work(tuning)
    table = trials(tuning)
    assert len(table) == len(played) == 12
    assert set(table.state) <= {"complete", "pruned"}
    assert table.loc[0, ["learning_rate", "batch_size"]].tolist() == [0.001, 32]
    assert [name for name, _ in played] == [f"s-trial{i:03d}" for i in range(12)] == table.run.tolist()
    assert all(parameters["weights"] == "none" for _, parameters in played)
    assert table.learning_rate.between(1e-4, 1e-2).all()
    assert pd.read_csv(tuning.folder / "trials.csv").trial.tolist() == list(range(12))
    assert "trial 0: validation mAP 0.901" in capsys.readouterr().out
    tuning.search(13)
    work(tuning)
    assert len(trials(tuning)) == 13


def test_the_same_search_gives_the_same_trials():
    tables = []
    for name in ("a", "b"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(worker_module, "execute", play)
            tuning = begin(name)
            tuning.search(8)
            work(tuning)
            tables.append(trials(tuning).drop(columns="run"))
    pd.testing.assert_frame_equal(*tables)


def test_bad_trials_are_pruned_after_two_epochs_unless_told_not_to(played):
    for name, prune in (("pruned", True), ("whole", False)):
        tuning = begin(name, prune=prune)
        # the best first, so that the later ones lie below the median
        tuning.enqueue([{"learning_rate": 1e-3 * 1.2**i, "batch_size": 32} for i in range(10)])
        work(tuning)
        table = trials(tuning)
        late = table[table.index >= 5]
        assert (late.state == ("pruned" if prune else "complete")).all()
        assert (late.epochs == (2 if prune else 3)).all()
        assert (table.state[:5] == "complete").all()


def test_best_settings_are_those_with_the_highest_mean_over_seeds_and_repetitions_are_never_pruned(played):
    tuning = begin()
    with pytest.raises(ParameterError, match="has no finished trial yet; search first"):
        best(tuning)
    tuning.search(7)
    work(tuning)
    values = best(tuning)
    assert values == {"learning_rate": 0.001, "batch_size": 32}
    assert promising(tuning, 3)[0] == values
    assert len(promising(tuning, 3)) == 3
    tuning.enqueue([values, {"learning_rate": 1e-4, "batch_size": 16}], seeds=[1, 2])
    tuning.enqueue([values], seeds=[1, 2])  # there already
    work(tuning)
    table = trials(tuning)
    assert len(table) == 11
    assert (table.state[7:] == "complete").all()
    assert table.seed[7:].tolist() == [1, 2, 1, 2]
    assert [parameters["seed"] for _, parameters in played[7:]] == [1, 2, 1, 2]
    top = ranking(table, tuning).iloc[0]
    assert (top.seeds, top.trial, top.mAP) == (3, 0, pytest.approx(worth(values)))
    assert ranking(table, tuning).seeds[:2].tolist() == [3, 2], "what was repeated stands before what was not"
    content = yaml.safe_load(write_best(tuning).read_text(encoding="utf-8"))
    assert content == PARAMETERS | values


def test_importance_finds_the_parameter_that_decides(played):
    tuning = begin(prune=False)
    assert importance(tuning).empty
    tuning.search(30)
    work(tuning)
    weights = importance(tuning)
    assert weights.sum() == pytest.approx(1)
    assert weights.learning_rate > 0.8


def test_settings_found_after_a_repetition_can_be_repeated_too(played):
    tuning = begin()
    tuning.enqueue([{"learning_rate": 1e-4, "batch_size": 16}])
    work(tuning)
    tuning.enqueue(promising(tuning, 1), seeds=[1])
    tuning.enqueue([{"learning_rate": 1e-3, "batch_size": 16}])
    work(tuning)
    assert best(tuning)["learning_rate"] == 1e-4, "what was repeated ranks first"
    assert promising(tuning, 1)[0]["learning_rate"] == 1e-3


def test_repetitions_do_not_use_up_the_trials_of_the_search(played):
    tuning = begin()
    tuning.search(3)
    work(tuning)
    tuning.enqueue(promising(tuning, 3), seeds=[1, 2])
    tuning.search(4)
    assert len(tuning.queued()) == 6 + 1


def test_training_that_had_ended_before_its_worker_died_counts_in_full(monkeypatch):
    def ended(notebook, run, parameters, **options):
        with monkeypatch.context() as patch:
            patch.setattr(Reporter, "__call__", lambda self, epochs: False)  # nothing was told of it
            play(notebook, run, parameters)
        raise worker_module.InterruptedNotebook(run, notebook, 1, KeyboardInterrupt())

    tuning = begin()
    tuning.search(1)
    monkeypatch.setattr(worker_module, "execute", ended)
    with pytest.raises(KeyboardInterrupt):
        work(tuning)
    monkeypatch.setattr(worker_module, "execute", None)  # not called again
    work(tuning)
    table = trials(tuning)
    assert table.state.tolist() == ["fail", "complete"]
    assert table.mAP[1] == pytest.approx(worth({"learning_rate": 0.001, "batch_size": 32}))
    assert ranking(table, tuning).trial.tolist() == [1]


def test_last_trial_that_another_machine_takes_is_not_made_up_for(tmp_path, monkeypatch):
    """Machines that share a database alone do not see each other's locks; the storage decides who gets a trial."""
    monkeypatch.setenv(STORAGE, f"sqlite:///{tmp_path}/trials.db")
    tuning = begin()
    tuning.search(1)
    real = optuna.Study.get_trials

    def slow(study, *arguments, states=None, **options):
        found = real(study, *arguments, states=states, **options)
        if states and found:  # between the look and the grip
            study._storage.set_trial_state_values(found[0]._trial_id, optuna.trial.TrialState.RUNNING)
        return found

    monkeypatch.setattr(optuna.Study, "get_trials", slow)
    assert tuning.take() is None
    assert len(tuning.optuna_study().trials) == 1


def test_a_trial_is_given_back_once_with_all_its_values():
    tuning = begin()
    values = {"learning_rate": 0.002, "batch_size": 16}
    tuning.enqueue([values], seeds=[3])
    trial, claim = tuning.take()
    claim.release()
    for _ in range(2):  # two processes that recover at once
        tuning.give_back(trial.number)
    first, second = tuning.optuna_study().trials
    assert (first.state.name, second.state.name) == ("FAIL", "WAITING")
    assert values_of(second) == values
    first.params = {"learning_rate": 0.002}  # killed between two values
    assert values_of(first) == values


def test_every_point_of_a_grid_lies_in_the_space(tmp_path, played):
    made = space(tmp_path, "scale: {low: 0.1, high: 0.3, step: 0.1}\nbatch_size: [16, 32]\n")
    tuning = begin(space=made, parameters=PARAMETERS)
    tuning.enqueue(made.grid(), seeds=[0])
    work(tuning)
    assert (trials(tuning).state == "complete").all()
    assert importance(tuning).sum() == pytest.approx(1)


def test_figures_show_every_trial(played, monkeypatch):
    tuning = begin()
    tuning.search(12)
    work(tuning)
    table = trials(tuning)
    table.loc[12] = table.loc[0]
    table.loc[12, ["state", "mAP"]] = ["fail", np.nan]
    _, (left, right) = plt.subplots(1, 2)
    history(table, left)
    names = [line.get_label() for line in left.get_lines()]
    lines = {name: line.get_xydata() for name, line in zip(names, left.get_lines(), strict=True)}
    whole = table[table.state == "complete"]
    np.testing.assert_allclose(lines["finished"], np.column_stack([whole.index, whole.mAP]))
    np.testing.assert_allclose(lines["best so far"][:, 1], whole.mAP.cummax())
    assert lines["failed, or taken over"][:, 0].tolist() == [12]
    importance_plot(importance(tuning), right)
    assert right.patches[0].get_width() == importance(tuning).max()
    importance_plot(pd.Series(dtype=float), right)
    table["loss"] = "asl"
    figure = slices(table, ["learning_rate", "batch_size", "seed", "loss"], ["learning_rate"])
    panels = [ax for ax in figure.axes if ax.get_xlabel()]
    assert [ax.get_xlabel() for ax in panels] == ["learning_rate", "batch_size", "seed", "loss"]
    assert [ax.get_xscale() for ax in panels[:2]] == ["log", "linear"]
    shown = sum(len(dots.get_offsets()) for dots in panels[0].collections)
    assert shown == (table.state != "fail").sum()
    plt.close("all")


def test_grid_runs_every_combination_with_every_seed_once(played):
    grid = Space({"learning_rate": [1e-3, 1e-2], "batch_size": [16, 32]})
    tuning = begin(space=grid)
    for _ in range(2):
        tuning.enqueue(grid.grid(), seeds=[0, 1])
    work(tuning)
    table = trials(tuning)
    assert len(table) == len(table[["learning_rate", "batch_size", "seed"]].drop_duplicates()) == 8
    assert (table.state == "complete").all()


def test_failed_trial_is_told_and_replaced_and_many_in_a_row_stop_the_worker(monkeypatch, capsys):
    def execute(notebook, run, parameters, **options):
        if len(calls) != 1:
            calls.append(1)
            raise worker_module.MlkitError("out of memory")
        calls.append(1)
        play(notebook, run, parameters)

    calls = []
    monkeypatch.setattr(worker_module, "execute", execute)
    tuning = begin()
    tuning.search(9)
    with pytest.raises(MlkitError, match="3 trials in a row failed, the last: out of memory"):
        work(tuning)
    table = trials(tuning)
    assert table.state[:5].tolist() == ["fail", "complete", "fail", "fail", "fail"]
    assert table.error[0] == "out of memory"
    assert "trial 0 failed" in capsys.readouterr().out
    tuning.search(9)
    assert len(tuning.queued()) == 8


@pytest.mark.parametrize("interrupted", [True, False])
def test_interrupted_or_failed_trial_goes_back_into_the_queue_and_goes_on_in_its_own_run(interrupted, monkeypatch):
    def end(notebook, run, parameters, **options):
        if interrupted:
            raise worker_module.InterruptedNotebook(run, notebook, 1, KeyboardInterrupt())
        raise NotebookError(run, notebook, 1, "the kernel died")

    tuning, settings = begin(), [{"learning_rate": 0.002, "batch_size": 16}]
    tuning.enqueue(settings, seeds=[5])
    monkeypatch.setattr(worker_module, "execute", end)
    with pytest.raises(KeyboardInterrupt) if interrupted else contextlib.nullcontext():
        work(tuning)
    tuning.enqueue(settings, seeds=[5])
    assert len(tuning.queued()) == 1
    monkeypatch.setattr(worker_module, "execute", play)
    work(tuning)
    table = trials(tuning)
    assert table.state.tolist() == ["fail", "complete"]
    assert table.loc[1, ["learning_rate", "batch_size", "seed", "run"]].tolist() == [0.002, 16, 5, "s-trial000"]
    assert "0.002,16,5,3,1.0,s-trial000," in (tuning.folder / "trials.csv").read_text(encoding="utf-8"), "whole epochs"


def test_validation_images_without_both_classes_fail_the_trial_with_the_reason(monkeypatch):
    def execute(notebook, run, parameters, **options):
        play(notebook, run, parameters)
        run.write_table("epochs.csv", run.read_table("epochs.csv").assign(mAP=np.nan))

    monkeypatch.setattr(worker_module, "execute", execute)
    tuning = begin()
    tuning.search(1)
    work(tuning)
    assert "the validation mAP of" in trials(tuning).error[0]


def test_another_search_is_refused_and_the_same_is_joined(tmp_path, outputs):
    begin()
    begin()
    with pytest.raises(RunError, match="holds a search with other space; choose another --name"):
        begin(space=Space({"epochs": [1, 2]}))
    with pytest.raises(RunError, match="holds a search with other data, prune"):
        begin(data="others", prune=False)
    with pytest.raises(RunError, match="cannot be the name of a folder"):
        begin("a/b")
    (outputs / "x-trial000").mkdir()
    with pytest.raises(RunError, match="x-trial000 is of something else; choose another --name, or delete it"):
        begin("x")
    with pytest.raises(RunError, match="there is no search 'y'"):
        Tuning.open("y")
    assert Tuning.open("s") == Tuning("s", PARAMETERS, SPACE, "data")


def test_trial_that_saw_other_data_does_not_count(played):
    begin().search(1)
    work(replace(Tuning.open("s"), data="before"))
    tuning = Tuning.open("s")
    (trial,) = trials(tuning).itertuples()
    assert trial.state == "fail"
    assert "labels or images have changed since the search began" in trial.error


def test_search_does_not_go_on_with_other_labels_or_weights(sample, tmp_path, played, capsys):
    labels, weights = tmp_path / "labels.csv", tmp_path / "weights.pth"
    text = (sample / "labels.csv").read_text(encoding="utf-8")
    labels.write_text(text)
    weights.write_bytes(b"a")
    data = ["--images", str(sample / "images"), "--labels", str(labels)]
    settings = ["-p", "image_size", "16", "-p", "weights", str(weights)]
    set_up("s", Recipe.of({"images": data[1], "labels": data[3], "image_size": 16, "weights": str(weights)}))
    assert go_on("s").contents == {"weights": digest_file(weights)}
    for file, other in ((labels, text.replace("1", "0", 1)), (weights, "b")):
        before = file.read_bytes()
        file.write_text(other)
        assert main(["tune", "--name", "s"]) == 2
        assert "labels, images or weights have changed since the search s began" in capsys.readouterr().err
        assert main(["tune", "--name", "s", *data, *settings]) == 2
        assert "holds a search with other" in capsys.readouterr().err
        file.write_bytes(before)
    assert go_on("s") == Tuning.open("s")


def test_database_serves_a_search_but_sqlite_only_one_worker(played, monkeypatch, tmp_path):
    address = f"sqlite:///{tmp_path}/trials.db"
    monkeypatch.setenv(STORAGE, address)
    tuning = begin()
    tuning.search(4)
    with pytest.raises(MlkitError, match=r"--workers is 2\. A SQLite database is for a single worker"):
        run_workers(tuning, 2)
    with (
        Claim(tuning.folder / "claims" / "sqlite.lock", "s"),
        pytest.raises(MlkitError, match=r"s is at work in process \d+"),
    ):
        work(tuning)
    work(tuning)
    assert len(trials(tuning)) == 4
    monkeypatch.delenv(STORAGE)
    with pytest.raises(RunError, match=r"trials of s are kept in sqlite:.*give --storage"):
        Tuning.open("s")


def test_password_of_a_database_is_written_nowhere(monkeypatch, outputs):
    monkeypatch.setenv(STORAGE, "postgresql://me:secret@nowhere.invalid/trials")
    with pytest.raises(MlkitError, match=r"postgresql://me:\*\*\*@nowhere.invalid/trials cannot be used") as error:
        begin()
    assert "secret" not in str(error.value)
    monkeypatch.setenv(STORAGE, "no address")
    with pytest.raises(MlkitError, match="it must be the address of a database"):
        begin()


def test_machines_that_share_a_database_alone_join_the_same_search_only(played, monkeypatch, tmp_path):
    monkeypatch.setenv(STORAGE, f"sqlite:///{tmp_path}/trials.db")
    begin().search(2)
    monkeypatch.setenv("MLKIT_OUTPUTS", str(tmp_path / "machine2"))
    second = begin(parameters=PARAMETERS | {"images": "elsewhere"})
    assert len(second.queued()) == 2
    monkeypatch.setenv("MLKIT_OUTPUTS", str(tmp_path / "machine3"))
    with pytest.raises(RunError, match="holds another search called 's'"):
        begin(data="others")


def test_trials_of_a_lost_machine_are_given_back_by_its_name(monkeypatch):
    tuning = begin()
    tuning.search(2)
    claims = []
    for host in ("here", "there"):
        with monkeypatch.context() as patch:
            patch.setattr("platform.node", lambda host=host: host)
            claims.append(tuning.take()[1])
    claims[1].release()
    monkeypatch.setattr("platform.node", lambda: "here")
    assert tuning.abandoned() == []
    (left,) = tuning.abandoned("there")
    assert left.number == 1
    assert [trial.number for trial in tuning.running()] == [0, 1]


# --- the command


def test_command_begins_joins_and_says_what_was_found(sample, played, monkeypatch, capsys, tmp_path):
    def in_this_process(tuning, workers, dask):
        work(tuning)

    monkeypatch.setattr(worker_module, "run_workers", in_this_process)
    data = ["--images", str(sample / "images"), "--labels", str(sample / "labels.csv"), "--name", "s"]
    small = ["-p", "image_size", "16", "-p", "weights", "none"]
    assert main(["tune", *data, *small, "--trials", "3"]) == 0
    printed = capsys.readouterr().out
    assert "3 trials to run" in printed
    assert "3 trials: 3 complete" in printed
    assert "use them: mlkit run -f" in printed
    assert played[0][1]["learning_rate"] == 0.001, "of seed.yaml"
    assert main(["tune", "--name", "s"]) == 0
    assert "0 trials to run" in capsys.readouterr().out, "who joins asks for nothing new"
    assert main(["tune", "--name", "s", "--seeds", "7", "8", "--top", "2"]) == 0
    assert [parameters["seed"] for _, parameters in played] == [0, 0, 0, 7, 8, 7, 8]
    assert main(["tune", "--name", "s", "--recover"]) == 0
    assert "nothing, no trial was left behind" in capsys.readouterr().out
    for wrong, message in (
        (["--name", "s", "-p", "epochs", "3"], "holds a search with other"),
        (["--name", "s", "--grid", "--trials", "3"], "--grid runs every combination"),
        (["--name", "s", "--workers", "0"], "--workers is 0; it must be at least 1"),
        (["--name", "s", "--grid"], "a range without a step"),
        ([*data[:4], "--name", "t", "-p", "learning_rat", "3"], "did you mean 'learning_rate'"),
        ([*data[:4], "--name", "t", "--seeds", "3", "-p", "weights", "none"], "has no finished trial yet"),
        (["--name", "sx", "--recover"], "there is no search 'sx'"),
        (["--name", "sx", "--seeds", "1"], "there is no search 'sx'"),
        ([*data[:4], "--name", "g", "--grid", "-p", "weights", "none"], "a range without a step"),
    ):
        assert main(["tune", *wrong]) == 2
        assert message in capsys.readouterr().err


def test_what_is_refused_leaves_no_search_behind(sample, outputs, capsys, monkeypatch, tmp_path):
    data = ["--images", str(sample / "images"), "--labels", str(sample / "labels.csv"), "-p", "weights", "none"]
    monkeypatch.setenv(STORAGE, "")
    assert main(["tune", *data, "--name", "s", "--workers", "2", "--storage", f"sqlite:///{tmp_path}/t.db"]) == 2
    monkeypatch.setenv(STORAGE, "")
    assert main(["tune", *data, "--name", "s", "--grid"]) == 2
    assert not (outputs / "s").exists()


TRAINS = """
import json, os, time
from pathlib import Path
outputs = Path(os.environ["MLKIT_OUTPUTS"])
folder, rate = outputs / run, settings["learning_rate"]
data = json.loads((outputs / trial.partition("/")[0] / "tuning.json").read_text())["data"]
(folder / "config.json").write_text(json.dumps({"parameters": settings, "created": "now", "data": data}))
if rate == 0.01 and not (folder / "begun").exists():
    (folder / "begun").touch()
    time.sleep(HANG)
(folder / "epochs.csv").write_text(f"epoch,mAP\\n1,{rate}\\n")
facts = {"stopped": None, "seconds": 1.0, "epochs": 1, "judged_on": "test", "mean": {"AP": 0.5}}
(folder / "metrics.json").write_text(json.dumps(facts))
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose training notebook plays one: at a learning rate of 0.01 it goes on for ever, the first time."""
    root, folder = tmp_path / "project", worker_module.project_root() / "notebooks" / "parameters"
    shutil.copytree(folder, root / "notebooks" / "parameters")
    known = {"images": "", "labels": "", "recipe": "", "settings": {}, "run": "", "overwrite": False, "trial": ""}
    parameters = "\n".join(f"{name} = {value!r}" for name, value in known.items())
    cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    cells.append(nbformat.v4.new_code_cell(TRAINS.replace("HANG", str(HANG))))
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), root / "notebooks" / f"{TRAINING}.ipynb")
    monkeypatch.setenv("MLKIT_ROOT", str(root))
    return root


def test_killed_worker_loses_nothing_and_every_setting_is_trained_once(project, sample, outputs, monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (project / "grid.yaml").write_text("learning_rate: [1e-3, 1e-2]\n")
    data = ["--images", str(sample / "images"), "--labels", str(sample / "labels.csv")]
    given = [*data, "-p", "weights", "none", "-p", "image_size", "16", "--space", str(project / "grid.yaml")]

    def training():
        """The worker in the middle of a training that does not end, and the trial; once the other has ended."""
        folders = [*outputs.glob("t-trial*/begun")]
        if folders and [*outputs.glob("t-trial*/metrics.json")]:
            number = int(folders[0].parent.name[-3:])
            return Tuning.open("t").optuna_study().get_trials(deepcopy=False)[number].user_attrs["process"], number
        return None

    def kill():
        process, number = wait_for(training)
        os.kill(process, killed)
        return number

    killed = getattr(signal, "SIGKILL", signal.SIGTERM)  # either ends it at once, each where there is no other
    code = -killed if os.name == "posix" else int(killed)
    with ThreadPoolExecutor() as executor:
        killing = executor.submit(kill)
        assert main(["tune", *given, "--grid", "--workers", "2", "--name", "t"]) == 1
        number = killing.result()
    printed, errors = capsys.readouterr()
    assert f"was killed (exit code {code}) at trial {number}; to go on with it: mlkit tune --name t --recover" in errors
    assert sorted(re.search(r"2 trials: (.*)", printed)[1].split(", ")) == ["1 complete", "1 running"]
    assert main(["tune", "--name", "t", "--recover"]) == 0
    assert f"queued again: trial {number}" in capsys.readouterr().out
    table = trials(Tuning.open("t"))
    complete = table[table.state == "complete"]
    assert sorted(complete.learning_rate) == [1e-3, 1e-2]
    assert table.state.value_counts().to_dict() == {"complete": 2, "fail": 1}
    assert complete.run.nunique() == 2
    again = complete.loc[2]
    assert (again.run, again.learning_rate) == (f"t-trial{number:03d}", table.learning_rate[number])
    assert Run.open(again.run).config()["parameters"]["learning_rate"] == again.learning_rate
    assert (outputs / again.run / "02_train_resnet18.ipynb").exists()


# --- a journal that another machine serves


def served(folder, port):
    """The journal of a folder, served by a process of its own."""
    with warm():
        server = FORKED.Process(target=serve_journal, args=(folder, f"127.0.0.1:{port}"), daemon=True)
        server.start()
    return server


def test_trials_of_several_workers_by_a_server_that_is_killed_run_once_each(outputs, monkeypatch):
    pytest.importorskip("grpc")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder := outputs / "elsewhere").mkdir(parents=True)
    servers, ran = [served(folder, port)], Counter()
    monkeypatch.setenv(STORAGE, f"grpc://127.0.0.1:{port}")
    wait_for(lambda: socket.create_connection(("127.0.0.1", port)).close() is None)
    tuning = begin()
    tuning.search(60)

    def work_on(_):
        while claimed := tuning.take():
            trial, claim = claimed
            with claim:
                ran[trial.number] += 1
                trial.study.tell(trial, worth(trial.params))
                if len(ran) == 30:
                    servers[0].kill()
                    servers.append(served(folder, port))

    with ThreadPoolExecutor(4) as executor:
        list(executor.map(work_on, range(4)))
    for trial in tuning.running():  # whose start was written down, and not said, when the server was killed
        assert trial.number not in ran
        tuning.give_back(trial.number)
    work_on(0)
    servers[-1].kill()
    for server in servers:
        server.join()
    monkeypatch.delenv(STORAGE)
    study = optuna.load_study(study_name="s", storage=open_storage(folder))
    states = Counter(trial.state.name for trial in study.trials)
    assert states["COMPLETE"] == 60
    assert set(ran.values()) == {1}


def test_who_serves_a_search_to_a_network_is_warned(outputs, monkeypatch, capsys):
    monkeypatch.setattr(optuna.storages, "run_grpc_proxy_server", lambda *_, **options: print(options))
    outputs.mkdir()
    for where, warned in (("127.0.0.1:1300", 0), ("0.0.0.0:1300", 1)):
        serve(outputs, where)
        said = capsys.readouterr().out
        assert said.count("without a password") == warned
        assert f"mlkit tune --storage grpc://{where}" in said
        assert "'port': 1300" in said
    with pytest.raises(MlkitError, match=r"'localhost' must be HOST:PORT, such as 127.0.0.1:13000"):
        serve(outputs, "localhost")
