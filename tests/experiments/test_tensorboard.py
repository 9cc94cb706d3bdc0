"""TensorBoard sees what the CSV files of the runs say, while they are written, and touches no run folder."""

import importlib.util
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from dataclasses import asdict
from datetime import datetime

import numpy as np
import pandas as pd
import pytest
from conftest import HANG, POSIX, wait_for
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tinynet import TINYNET

from mlkit.cli import main
from mlkit.errors import RunError
from mlkit.experiments.tensorboard import EventFiles
from mlkit.runs import Run

PARAMETERS = {"epochs": 9, "learning_rate": 0.001, "batch_size": "auto", "strict": False, "prior_run": None}
STEPS = 4  # iterations an epoch
TRAINING = {"loss": "training/loss", "lr": "training/lr", "img_per_s": "training/img_per_s"}
PROGRAM = """
from mlkit.cli import main
from mlkit.experiments import tensorboard

tensorboard._SECONDS = 0.5
raise SystemExit(main())
"""


def write(run, epochs, seed=0, attributes=("sleeves", "a/b")):
    """History of so many epochs; with the same seed, a longer one begins with the shorter one."""
    rng, count = np.random.default_rng(seed), epochs * STEPS
    drawn = rng.random((100 * STEPS, 3))[:count]
    history = {"iteration": np.arange(1, count + 1), "epoch": np.repeat(np.arange(1, epochs + 1), STEPS)}
    history |= {"loss": drawn[:, 0].astype(np.float32), "lr": drawn[:, 1] / 1000, "img_per_s": (drawn[:, 2] * 100).round(1)}
    run.write_table("history.csv", pd.DataFrame(history))
    drawn = rng.random((100, 3 + len(attributes)))[:epochs]
    table = {"epoch": np.arange(1, epochs + 1), "iteration": np.arange(1, epochs + 1) * STEPS, "training_loss": drawn[:, 0]}
    table |= {"validation_loss": drawn[:, 1], "mAP": drawn[:, 2]}
    table |= {f"AP {name}": drawn[:, 3 + i] for i, name in enumerate(attributes)}
    run.write_table("epochs.csv", pd.DataFrame(table | {"seconds": 2.5}))


def begin(name, epochs, overwrite=False, **options):
    run = Run.create(name, PARAMETERS, "data", overwrite)
    write(run, epochs, **options)
    return run


def expected(run):
    """Curves as pairs of iterations and float32 values, from the CSV files alone."""
    history, epochs = pd.read_csv(run / "history.csv"), pd.read_csv(run / "epochs.csv")
    curves = {tag: (history.iteration, history[name]) for name, tag in TRAINING.items()}
    names = {"validation_loss": "validation/loss", "mAP": "validation/mAP"}
    names |= {name: f"AP/{name[3:]}" for name in epochs.columns if name.startswith("AP ")}
    defined = {tag: epochs[["iteration", name]].dropna() for name, tag in names.items()}
    curves |= {tag: (rows.iloc[:, 0], rows.iloc[:, 1]) for tag, rows in defined.items() if len(rows)}
    if run.finished:
        worth = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["mean"]["AP"]
        curves["final/mAP"] = (history.iteration.iloc[-1:], pd.Series([worth]))
    return {tag: (steps.tolist(), values.to_numpy(np.float32).tolist()) for tag, (steps, values) in curves.items()}


def accumulated(folder):
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    return accumulator


def shown(folder):
    accumulator = accumulated(folder)
    events = {tag: accumulator.Scalars(tag) for tag in accumulator.Tags()["scalars"]}
    return {tag: ([e.step for e in points], [e.value for e in points]) for tag, points in events.items()}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "events").mkdir()
    return tmp_path / "events"


def test_event_files_of_a_real_training_equal_its_tables(sample, folder):
    from mlkit.data.source import DataSource
    from mlkit.training.config import TrainConfig
    from mlkit.training.loop import train

    dataset = DataSource(str(sample / "images"), str(sample / "labels.csv")).open(32)
    config = TrainConfig(backbone=TINYNET, image_size=32, weights="none", epochs=2, batch_size=16, precision="fp32")
    run = Run.create("a", asdict(config) | {"images": "x"}, dataset.fingerprint)
    train(dataset, config, run)
    EventFiles(folder).update()
    curves = shown(folder / "a")
    assert curves == expected(run)
    assert {"training/loss", "validation/loss", "validation/mAP", "AP/sleeves", "final/mAP"} < set(curves)


def test_undefined_precision_has_no_point_and_a_diverged_loss_has_one(folder):
    run = begin("a", 3)
    history, epochs = run.read_table("history.csv"), run.read_table("epochs.csv")
    history.loc[5, "loss"] = np.nan
    epochs["AP a/b"] = np.nan
    epochs.loc[1, "mAP"] = np.nan
    run.write_table("history.csv", history)
    run.write_table("epochs.csv", epochs)
    EventFiles(folder).update()
    curves = shown(folder / "a")
    np.testing.assert_equal(curves, expected(run))
    assert np.isnan(curves["training/loss"][1][5])
    assert curves["validation/mAP"][0] == [4, 12]
    assert "AP/a/b" not in curves


def test_parameters_and_times_are_those_of_the_run(folder):
    run = begin("a", 2)
    EventFiles(folder).update()
    accumulator = accumulated(folder / "a")
    content = accumulator.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    start = metadata.parse_session_start_info_plugin_data(content)
    assert start.group_name == "a"
    values = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
    assert values == PARAMETERS | {"prior_run": "None"}
    begun = datetime.fromisoformat(run.config()["created"]).timestamp()
    times = [event.wall_time - begun for event in accumulator.Scalars("training/loss")]
    np.testing.assert_allclose(times, np.arange(1, 9) * 2.5 / STEPS, atol=1e-5)


def test_only_new_rows_are_appended_and_the_final_figure_when_the_run_is_finished(folder):
    run, file = begin("a", 2), folder / "a" / "events.out.tfevents.mlkit"
    event_files = EventFiles(folder)
    contents = []
    for change in (None, None, lambda: write(run, 3), lambda: run.write_json("metrics.json", {"mean": {"AP": 0.75}})):
        if change:
            change()
        event_files.update()
        contents.append(file.read_bytes())
        assert shown(folder / "a") == expected(run)
    assert contents[0] == contents[1]
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(contents))
    assert len(contents[2]) - len(contents[1]) < len(contents[1])


def test_rows_of_an_epoch_that_is_not_judged_yet_wait_for_it(folder):
    run, event_files = begin("a", 2), EventFiles(folder)
    table = run.read_table("epochs.csv")
    run.write_table("epochs.csv", table.iloc[:1])  # as if read between the two writes
    event_files.update()
    assert shown(folder / "a")["training/loss"][0] == [1, 2, 3, 4]
    run.write_table("epochs.csv", table)
    event_files.update()
    assert shown(folder / "a") == expected(run)


@pytest.mark.parametrize(
    "change",
    [
        lambda: begin("a", 3, overwrite=True, seed=1, attributes=("bag",)),
        lambda: begin("a", 1, overwrite=True, seed=1),
        lambda: write(Run.open("a"), 1),  # went on from an earlier checkpoint
        lambda: write(Run.open("a"), 2, seed=2),
    ],
)
def test_run_that_is_overwritten_or_goes_back_begins_anew(folder, change):
    begin("a", 2)
    other = begin("b", 2)
    event_files = EventFiles(folder)
    event_files.update()
    change()
    event_files.update(served=["a", "b"])
    assert not (folder / "a").exists()
    event_files.update(served=["a", "b"])  # TensorBoard has not noticed yet
    assert not (folder / "a").exists()
    event_files.update(served=["b"])
    assert shown(folder / "a") == expected(Run.open("a"))
    assert shown(folder / "b") == expected(other)


def test_run_that_is_being_overwritten_or_was_deleted_is_gone_until_it_has_a_history(folder, outputs):
    run, event_files = begin("a", 2), EventFiles(folder)
    event_files.update()
    (run / "epochs.csv").unlink()
    event_files.update()
    assert not (folder / "a").exists()
    write(run, 1)
    event_files.update()
    assert shown(folder / "a") == expected(run)
    for file in run.path.iterdir():
        file.unlink()
    event_files.update()
    assert not (folder / "a").exists()


def test_unfinished_runs_and_those_begun_later_are_shown_all_or_as_asked(folder, tmp_path, outputs):
    begin("mine-1", 1).write_json("metrics.json", {"mean": {"AP": None}})
    begin("mine-2", 1)
    begin("other", 1)
    Run.create("not-so-far", PARAMETERS, "data")
    path = tmp_path / "elsewhere"
    begin(path, 1)
    patterns_of = {"all": [], "some": ["mine-*"], "one": ["other"], "path": [str(path), str(outputs / "mine-1")]}
    event_folders = {name: EventFiles(folder / name, patterns) for name, patterns in patterns_of.items()}
    for event_files in event_folders.values():
        event_files.update()
    begin("mine-3", 1)
    for event_files in event_folders.values():
        event_files.update()
    found = {
        name: sorted(p.parent.relative_to(folder / name).as_posix() for p in (folder / name).rglob("*.mlkit"))
        for name in event_folders
    }
    assert found == {
        "all": ["mine-1", "mine-2", "mine-3", "other"],
        "some": ["mine-1", "mine-2", "mine-3"],
        "one": ["other"],
        "path": sorted(["mine-1", path.relative_to(path.anchor).as_posix()]),
    }
    assert len(event_folders["all"]) == 4
    with pytest.raises(RunError, match=r"mine4-\* is not a run folder .*known runs: mine-1, mine-2, other"):
        EventFiles(folder, ["other", "mine4-*"])


def test_run_folders_are_only_read(folder, outputs):
    begin("a", 2).write_json("metrics.json", {"mean": {"AP": 0.5}})
    begin("b", 2)

    def state():
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in [outputs, *outputs.rglob("*")]}

    before, event_files = state(), EventFiles(folder)
    event_files.update()
    event_files.update()
    assert state() == before


def test_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, capsys):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "tensorboard" else real(name, *rest)
    )
    assert main(["tensorboard"]) == 2
    assert capsys.readouterr().err == 'mlkit: TensorBoard is not installed; run: pip install -e ".[tensorboard]"\n'


def test_help_and_import_load_no_tensorboard():
    program = (
        "import sys, mlkit, mlkit.cli\ntry: mlkit.cli.main(['tensorboard', '--help'])\n"
        "except SystemExit: print({'torch', 'tensorboard', 'pandas'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "set()"


@POSIX
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_command_serves_the_curves_follows_the_runs_and_ends_well(tmp_path, end):
    begin("a", 2)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "tensorboard", "--port", "0"],
        env=os.environ | {"TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(path, **query):
        with opener.open(f"{address}data/plugin/scalars/{path}?{urllib.parse.urlencode(query)}", timeout=HANG) as answer:
            return json.load(answer)

    try:
        address = re.search(
            r"TensorBoard: (http://localhost:\d+/) \(runs so far: 1; Ctrl-C ends it\)", process.stdout.readline()
        )[1]
        wait_for(lambda: ask("tags"))
        assert ask("tags")["a"].keys() == expected(Run.open("a")).keys()
        points = ask("scalars", run="a", tag="training/loss")
        assert ([step for _, step, _ in points], [value for *_, value in points]) == expected(Run.open("a"))["training/loss"]
        if end == signal.SIGINT:
            begin("b", 1)
            begin("a", 1, overwrite=True, seed=1, attributes=("bag",))
            wait_for(
                lambda: (
                    {name: set(tags) for name, tags in ask("tags").items()} == {n: set(expected(Run.open(n))) for n in "ab"}
                )
            )
            assert len(ask("scalars", run="a", tag="training/loss")) == STEPS
            port = address.rstrip("/").rpartition(":")[2]
            command = [sys.executable, "-m", "mlkit", "tensorboard", "--port", port]
            second = subprocess.run(command, capture_output=True, text=True, timeout=HANG)
            assert second.returncode == 2
            assert f"port {port}, it was already in use; choose another --port" in second.stderr
    finally:
        process.send_signal(end)
        output = process.communicate(timeout=HANG)
    assert (process.returncode, output) == (0, ("", ""))
    assert not list(temporary.iterdir())
