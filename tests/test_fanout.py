"""Pieces on a Dask cluster: the same files as without, whoever is killed; what fails is named, and the rest goes on."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import POSIX, wait_for
from forked import FORKED, warm
from pieces import serve, square, threads
from tinynet import TINYNET

from mlkit.cli import main
from mlkit.errors import FailureError, MlkitError, ParameterError
from mlkit.fanout import DASK, Piece, open_cluster, run_pieces
from mlkit.inference import answers
from mlkit.models.modelfile import save_model
from mlkit.models.networks import build_model

distributed = pytest.importorskip("distributed")
dask = pytest.importorskip("dask")
TESTS = Path(__file__).parent
SMALL = ["-p", "backbone", TINYNET, "-p", "image_size", "16", "-p", "weights", "none", "-p", "epochs", "1"]
SMALL += ["-p", "batch_size", "16", "-p", "precision", "fp32"]


@pytest.fixture(scope="module", autouse=True)
def forks():
    """Workers are forked of a process that has imported what they need."""
    with warm(), dask.config.set({"distributed.worker.multiprocessing-method": FORKED.get_start_method()}):
        yield


@pytest.fixture(scope="module")
def dies(tmp_path_factory):
    """A file: once it is there, a worker dies in the middle of a piece."""
    return tmp_path_factory.mktemp("cluster") / "die"


@pytest.fixture(scope="module")
def cluster(dies):
    """Address of a scheduler with two workers, processes that are started again when they are killed."""
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        dashboard_address="127.0.0.1:0",
        memory_limit=0,
        silence_logs=100,
        env={"MLKIT_TEST_DIES": str(dies)},
        preload=[str(TESTS / "preloaded.py")],
    ) as made:
        yield made.scheduler_address


def run(address, numbers, folder):
    """How often each piece ran that is done."""
    with open_cluster(address) as client:
        pieces = (Piece(f"number {number}", (number, str(folder))) for number in numbers)
        done = [piece.name for piece in run_pieces(client, square, pieces)]
    assert len(set(done)) == len(done)
    return {name: len(Path(folder, name.split()[1]).read_text(encoding="utf-8").splitlines()) for name in done}


@POSIX
def test_three_hundred_pieces_run_once_each_but_those_of_a_killed_worker(cluster, tmp_path, capsys):
    runs = run(cluster, range(300), tmp_path)
    assert len(runs) == 300
    assert runs["number 7"] >= 2
    assert sum(number > 1 for number in runs.values()) < 20, "what it had finished a moment before, perhaps"
    assert "2 workers at tcp://127.0.0.1" in capsys.readouterr().out


def test_a_piece_that_fails_three_times_is_named_with_its_error_and_the_others_go_on(cluster, tmp_path, capsys):
    with pytest.raises(FailureError, match=r"1 failed 3 times each, the others are done: number -2; .* goes on"):
        run(cluster, [1, -2, 2, 3], tmp_path)
    assert "number -2 failed 3 times: ValueError: no such number (" in capsys.readouterr().out
    assert len((tmp_path / "-2").read_text(encoding="utf-8").splitlines()) == 3
    assert all((tmp_path / name).exists() for name in "123")


@POSIX
def test_a_piece_that_kills_its_worker_each_time_ends_the_command(tmp_path):
    """A worker that was killed as it started is not started again, and where none is left nobody waits for one."""
    with pytest.raises(FailureError, match=r"its worker died each time, for want of memory|no worker is left"):
        run("local", [-3], tmp_path)


def test_a_worker_runs_one_piece_at_a_time_with_all_of_its_threads(tmp_path, outputs):
    outputs.mkdir()
    file = tmp_path / "cluster.yaml"
    file.write_text("cluster: local\nn_workers: 1\nthreads_per_worker: 3\n", encoding="utf-8")
    with open_cluster(str(file)) as client:
        assert client.scheduler.address.startswith("tls://127.0.0.1"), "of this machine, and with a key of its own"
        assert (
            len(list(run_pieces(client, partial(threads, torch.get_num_threads), [Piece(str(n), ()) for n in range(9)])))
            == 9
        )
    assert [path.read_text(encoding="utf-8") for path in outputs.iterdir()] == ["3 3"] * 9


@pytest.mark.parametrize(
    ("where", "text", "message"),
    [
        ("locall", None, "dask is 'locall'; it must be local, an address such as tcp://HOST:8786, or a .yaml file"),
        ("c.yaml", "n_workers: 2", "c.yaml: cluster is None"),
        ("c.yaml", "cluster: slrum", "c.yaml: cluster is 'slrum'; did you mean 'slurm'"),
    ],
)
def test_where_is_checked(where, text, message, tmp_path):
    if text:
        where = str(tmp_path / where)
        Path(where).write_text(text, encoding="utf-8")
    with pytest.raises((ParameterError, MlkitError), match=message), open_cluster(where):
        pass


def test_jobs_of_a_batch_system_are_asked_for_by_keywords(tmp_path, monkeypatch):
    asked = {}

    class SLURMCluster(distributed.LocalCluster):
        """Stands in for that of dask-jobqueue, which needs a Slurm."""

        def __init__(self, **keywords):
            asked.update(keywords)
            super().__init__(n_workers=0, dashboard_address="127.0.0.1:0", silence_logs=100)

        def scale(self, n=0, jobs=0):
            asked["jobs"] = asked.get("jobs", 0) + jobs
            super().scale(n or jobs)

    monkeypatch.setitem(sys.modules, "dask_jobqueue", type(sys)("dask_jobqueue"))
    monkeypatch.setattr(sys.modules["dask_jobqueue"], "SLURMCluster", SLURMCluster, raising=False)
    monkeypatch.setattr("mlkit.fanout.cluster.check_installed", lambda *_: None)
    file = tmp_path / "slurm.yaml"
    file.write_text("cluster: slurm\njobs: 1\ncores: 4\nmemory: 8GB\nqueue: gpu\n", encoding="utf-8")
    assert len(run(str(file), [1, 2], tmp_path)) == 2, "pieces wait until a job has begun"
    assert asked == {"jobs": 1, "cores": 4, "memory": "8GB", "queue": "gpu"}


# --- the commands


@pytest.fixture
def photos(sample, tmp_path):
    """A folder of pictures, one of them broken, and a model of two attributes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, file in enumerate(sorted((sample / "images").iterdir())[:30]):
        os.link(file, folder / f"{number:02d}.jpg")
    (folder / "broken.jpg").write_text("no image")
    names = ["a", "b"]
    calibration = {name: {"slope": 1.0, "bias": 0.0} for name in names}
    meta = {"backbone": TINYNET, "image_size": 16, "attributes": names, "calibration": calibration, "metrics": {"mAP": 0.5}}
    meta["thresholds"] = dict.fromkeys(names, 0.5)
    save_model(tmp_path / "model.pth", build_model(TINYNET, 2, "none", 16), meta)
    return folder


@POSIX
def test_a_folder_is_predicted_to_the_same_bytes_though_a_worker_is_killed(
    cluster, dies, photos, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(answers, "PART", 4)
    words = ["predict", str(photos), "--model", str(tmp_path / "model.pth"), "--batch-size", "3", "--out"]
    assert main([*words, str(tmp_path / "here.csv")]) == 1
    dies.touch()
    assert main([*words, str(tmp_path / "there.csv"), "--dask", cluster]) == 1
    assert not dies.exists()
    assert (tmp_path / "here.csv").read_bytes() == (tmp_path / "there.csv").read_bytes()
    assert not (tmp_path / ".there.csv.parts").exists()
    assert "1 of 31 images could not be read" in capsys.readouterr().err


def table_of(file):
    return pd.read_csv(file, dtype=str).drop(columns=["seconds", "cpu_seconds"], errors="ignore")


@POSIX
def test_a_study_is_the_same_though_a_worker_is_killed(cluster, dies, sample, outputs, monkeypatch, capsys):
    words = ["study", "--images", str(sample / "images"), "--labels", str(sample / "truth.csv"), *SMALL]
    words += ["-p", "methods", '["masked_bce", "asl"]', "-p", "fractions", "[0.5]", "-p", "seeds", "[0, 1]"]
    assert main([*words, "--name", "here"]) == 0
    dies.touch()
    monkeypatch.setenv(DASK, cluster)
    assert main([*words, "--name", "there"]) == 0
    assert not dies.exists()
    pd.testing.assert_frame_equal(*(table_of(outputs / name / "results.csv") for name in ("here", "there")))
    assert "6 trainings, of which 0 are finished already" in capsys.readouterr().out


def test_a_simulation_is_the_same(cluster, sample, outputs):
    words = ["review", "simulate", "--images", str(sample / "images"), "--labels", str(sample / "truth.csv"), *SMALL]
    words += ["-p", "orders", '["uncertain", "random"]', "-p", "by", '["cell"]', "-p", "seeds", "[0, 1]"]
    words += ["-p", "rounds", "2", "-p", "answers_per_round", "10", "-p", "components", "8"]
    assert main([*words, "--name", "here"]) == 0
    assert main([*words, "--name", "there", "--dask", cluster]) == 0
    assert (outputs / "here" / "results.csv").read_bytes() == (outputs / "there" / "results.csv").read_bytes()


def test_folds_are_the_same(cluster, sample, outputs, capsys):
    words = ["train", "--images", str(sample / "images"), "--labels", str(sample / "labels.csv"), *SMALL, "--folds", "2"]
    assert main([*words, "--name", "here"]) == 0
    assert main([*words, "--name", "there", "--dask", cluster]) == 0
    for file in ("folds.csv", "predictions.csv"):
        assert (outputs / "here-folds" / file).read_bytes() == (outputs / "there-folds" / file).read_bytes()
    assert "training 2 of 2: " in capsys.readouterr().out
    assert main([*words[:-2], "--name", "one", "--dask", cluster]) == 2
    assert "--dask shares out the trainings of --folds K" in capsys.readouterr().err


@POSIX
def test_a_grid_of_trials_runs_each_once_though_a_worker_is_killed(cluster, dies, sample, outputs, tmp_path, capsys):
    (tmp_path / "space.yaml").write_text("learning_rate: [0.01, 0.001]\nbatch_size: [16, 32]\n", encoding="utf-8")
    words = ["tune", "--images", str(sample / "images"), "--labels", str(sample / "labels.csv"), *SMALL, "--grid"]
    words += ["--space", str(tmp_path / "space.yaml"), "--seeds", "0", "1", "2", "--name", "there", "--dask", cluster]
    dies.touch()
    assert main(words) == 0
    assert not dies.exists()
    table = pd.read_csv(outputs / "there" / "trials.csv")
    done = table[table.state == "complete"]
    assert len(done) == len(done.drop_duplicates(["learning_rate", "batch_size", "seed"])) == 12
    assert (table.state == "fail").sum() == 1, "the one whose worker was killed, which another trial goes on with"
    assert "\n13 trials: 12 complete, 1 fail" in capsys.readouterr().out
    assert main(words) == 0, "nothing is left"
    assert len(pd.read_csv(outputs / "there" / "trials.csv")) == 13


@POSIX
def test_where_the_scheduler_is_killed_the_command_ends_and_another_call_goes_on(cluster, tmp_path):
    def until_killed(address):
        with open_cluster(address) as client:
            for piece in run_pieces(client, square, (Piece(str(n), (n + 10, str(tmp_path))) for n in range(1000))):
                done.append(piece.name)
                if len(done) == 3:
                    scheduler.kill()

    done, file = [], tmp_path / "scheduler.json"
    command = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    scheduler = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_scheduler", *command], stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: file.exists() and file.stat().st_size)
        address = json.loads(file.read_text(encoding="utf-8"))["address"]
        worker = FORKED.Process(target=serve, args=(address,), daemon=True)
        worker.start()
        with pytest.raises(FailureError, match="the scheduler is gone; what is finished is kept"):
            until_killed(address)
    finally:
        scheduler.kill()
        scheduler.wait()
        worker.kill()
    assert 3 <= len(done) < 1000
    with pytest.raises(MlkitError, match=r"cannot be used as a cluster .* start one with `dask scheduler`"):
        run(address, [1, 2], tmp_path)
    assert len(run(cluster, [1, 2], tmp_path)) == 2
