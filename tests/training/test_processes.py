import contextlib
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import psutil
import pytest
import ranks
import torch
from conftest import TINY, wait_for
from forked import processes
from ranks import CASES

from mlkit.data.source import DataSource
from mlkit.errors import FailureError, ParameterError
from mlkit.models.torchfile import load_torch
from mlkit.runs import Run
from mlkit.training.config import TrainConfig
from mlkit.training.launch import World, launch
from mlkit.training.loop import Training, train
from mlkit.training.processes import Processes
from mlkit.training.recipe import Recipe

BY = {2: list(CASES), 3: ["start", "small batches", "batch normalisation", "head"]}  # processes -> what they train
# Mean and variance of a part are not those of the batch; all else agrees to the last digits.
WITHIN = {
    "batch normalisation": 0.05,
    "head": 5e-3,
}  # L-BFGS looks for its steps by differences of losses


SMALL = {"backbone": TINY, "weights": "none", "image_size": 32, "device": "cpu"}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def train_together(count, *arguments):
    """Train in so many processes, which find each other as those of torchrun do."""
    port = free_port()
    with processes(count) as executor:
        for ended in [executor.submit(ranks.train_cases, rank, count, port, *arguments) for rank in range(count)]:
            ended.result()


def end_after_two(training, epoch, progress, real=Training.epoch):
    """An epoch that is interrupted after its second iteration, and saved there."""
    checkpoint = training.checkpoint

    def once_saved():
        checkpoint()
        if training.state.iteration == 2:
            raise KeyboardInterrupt

    training.checkpoint = once_saved
    real(training, epoch, progress)


@pytest.fixture(scope="module")
def trained(sample, tmp_path_factory):
    """Folder with the runs of every case, by one, two and three processes."""
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLKIT_OUTPUTS", str(tmp_path_factory.mktemp("outputs")))
        dataset = ranks.data(sample)  # whose cache the others find
        for case in CASES:
            ranks.train_case(case, dataset, folder, Processes())
        patch.setattr(Training, "checkpoint_seconds", -1.0)
        patch.setattr(Training, "epoch", end_after_two)
        with pytest.raises(KeyboardInterrupt):
            ranks.train_case("gone on", dataset, folder / "cut", Processes())
        shutil.move(folder / "cut" / "gone on by 1", folder / "gone on by 2")
        for count, cases in BY.items():
            train_together(count, sample, folder, cases)
    return folder


@pytest.mark.parametrize(("count", "case"), [(count, case) for count, cases in BY.items() for case in cases])
def test_several_processes_train_as_one_does(trained, count, case):
    one, several = (trained / f"{case} by {n}" for n in (1, count))
    within, exact = WITHIN.get(case, 1e-6), case != "batch normalisation"
    for file in ("history.csv", "epochs.csv", "predictions.csv"):
        a, b = (pd.read_csv(run / file).drop(columns=["img_per_s", "seconds"], errors="ignore") for run in (one, several))
        if not exact:
            a, b = (table[[column for column in table if column in ("image", "iteration", "loss")]] for table in (a, b))
        pd.testing.assert_frame_equal(a, b, rtol=WITHIN.get(case, 0), atol=within)
    if exact:
        weights = [load_torch(run / "model.pth")["state_dict"] for run in (one, several)]
        for name, tensor in weights[0].items():
            torch.testing.assert_close(tensor, weights[1][name], rtol=10 * WITHIN.get(case, 0), atol=10 * within)


@pytest.fixture
def small(sample):
    """A recipe that takes long enough for something to happen meanwhile."""
    source = DataSource(str(sample / "images"), str(sample / "labels.csv"))
    return Recipe(source, TrainConfig(**SMALL, epochs=400, batch_size=16, calibrate=False, near_duplicates=False))


def train_small(small, outputs, world):
    """Train into the run "a", as a command does: it is claimed by the thread that trains."""
    dataset = small.open()
    run = Run.create("a", small.parameters(), dataset.fingerprint) if world.rank == 0 else None
    launch(world, small.parameters(), dataset.fingerprint, run)


def workers(rank):
    """Processes below this one that train with this rank."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.environ().get("RANK") == str(rank):
                found.append(process)
    return found


def test_when_a_machine_dies_the_others_end(small, outputs):
    where = f"127.0.0.1:{free_port()}"
    with ThreadPoolExecutor(2) as executor:
        machines = [executor.submit(train_small, small, outputs, World(1, 2, rank, where)) for rank in (0, 1)]
        wait_for(lambda: (outputs / "a" / "epochs.csv").is_file() or machines[0].done())
        workers(1)[0].kill()
        for machine in machines:
            with pytest.raises(FailureError, match="has died, the others were ended"):
                machine.result()
    assert not Run.open("a").finished
    Run.create("a", small.parameters(), small.open().fingerprint)  # nobody is at work there


def test_when_a_process_dies_all_begin_again_from_the_last_checkpoint_and_interrupted_they_save_first(small, outputs):
    def epochs():
        return pd.read_csv(outputs / "a" / "epochs.csv").epoch.tolist()

    def gone_on():
        others = [worker.pid for worker in workers(1)]
        return process.poll() is not None or (others and others != [killed.pid] and len(epochs()) > before)

    command = [sys.executable, "-m", "mlkit", "train", "--images", small.source.images, "--labels", small.source.labels]
    command += [word for name, value in {**SMALL, "epochs": 400}.items() for word in ("-p", name, str(value))]
    command += ["--name", "a", "--processes", "2", "--max-restarts", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: (outputs / "a" / "epochs.csv").is_file() or process.poll() is not None)
    (killed,) = workers(1)
    killed.kill()
    killed.wait()
    before = len(epochs()) + 1  # what is saved after this, others have trained
    wait_for(gone_on)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1].startswith("mlkit: interrupted; this goes on where it stopped: mlkit train")
    assert epochs() == list(range(1, len(epochs()) + 1))
    saved = load_torch(outputs / "a" / "last.pt")
    assert saved["iteration"] > before * len(pd.read_csv(outputs / "a" / "history.csv").query("epoch == 1"))


def test_fewer_processes_than_asked_for_are_an_error(small, outputs, monkeypatch):
    monkeypatch.setattr(World, "torchrun", lambda world: ["--standalone", "--nproc-per-node=1"])
    dataset = small.open()
    run = Run.create("a", small.parameters(), dataset.fingerprint)
    with pytest.raises(FailureError, match="1 processes were brought together, 2 were asked for"):
        train(dataset, small.config, run, world=World(2))


def test_worlds_that_cannot_be():
    with pytest.raises(ParameterError, match="HOST:PORT"):
        World(1, 2)
    with pytest.raises(ParameterError, match="counts from 0"):
        World(1, 2, 2, "a:1")
    with pytest.raises(ParameterError, match="processes"):
        World(0)


def test_a_trial_of_a_search_takes_one_process(small, outputs):
    dataset = small.open()
    run = Run.create("a", small.parameters(), dataset.fingerprint)
    with pytest.raises(ParameterError, match="--workers"):
        train(dataset, small.config, run, watcher=lambda epochs: False, world=World(2))
