"""What only POSIX has is nowhere needed: all works where it is taken away, and where open files cannot be removed."""

import ast
import mmap
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tinynet import TINYNET

import mlkit.files
from mlkit.bench import footprint
from mlkit.cli import given, main
from mlkit.data.cache import build_cache
from mlkit.data.source import DataSource
from mlkit.errors import ClaimError, WriteError
from mlkit.experiments.search import worker
from mlkit.experiments.search.setup import set_up
from mlkit.experiments.search.trials import trials, write_best
from mlkit.files import move, write_text
from mlkit.runs import Claim, Run
from mlkit.training.loop import train
from mlkit.training.recipe import Recipe

PHOTOS = Path(__file__).parent / "photos"
DATA = {"images": str(PHOTOS / "images"), "labels": str(PHOTOS / "labels.csv")}
SMALL = {"backbone": TINYNET, "weights": "none", "image_size": 32, "batch_size": 16, "epochs": 1, "device": "cpu"}
GONE = {
    os: "pread pwrite umask uname getloadavg sched_getaffinity sysconf posix_fadvise posix_fallocate fork forkpty killpg "
    "getpgid setpgid setsid getuid geteuid getgid chown fchown fchmod link symlink mkfifo nice wait wait3 wait4",
    mmap: "MADV_DONTNEED MADV_SEQUENTIAL MADV_RANDOM MADV_WILLNEED PROT_READ PROT_WRITE MAP_SHARED MAP_PRIVATE",
    signal: "SIGHUP SIGKILL SIGQUIT SIGUSR1 SIGUSR2 SIGALRM SIGPIPE SIGCHLD SIGSTOP SIGCONT alarm pause setitimer",
}
MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "pty", "tty", "posix")


@pytest.fixture(autouse=True)
def windows(monkeypatch):
    """This machine without POSIX: calls, signals and modules are gone, lines end otherwise, what is open stays."""
    for module, names in GONE.items():
        for name in names.split():
            monkeypatch.delattr(module, name, raising=False)
    for name in MODULES:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(os, "linesep", "\r\n")
    for name in ("unlink", "remove", "replace", "rename"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))


def refusing(real):
    """A call that refuses a file which this process has open or mapped, as far as /proc tells."""

    def call(path, *others, **options):
        for one in (path, *others):
            folder = os.readlink(f"/proc/self/fd/{options['dir_fd']}") if options.get("dir_fd") is not None else ""
            if os.path.join(folder, os.path.abspath(one) if not folder else one) in opened():
                raise PermissionError(13, "The process cannot access the file because it is being used", str(one))
        return real(path, *others, **options)

    return call


def opened():
    if not Path("/proc/self/maps").exists():
        return set()
    with open("/proc/self/maps", encoding="utf-8") as maps:
        names = {line.rstrip("\n").split(maxsplit=5)[5] for line in maps if line.count("/") > 0}
    for number in os.listdir("/proc/self/fd"):
        if os.path.exists(f"/proc/self/fd/{number}"):
            names.add(os.readlink(f"/proc/self/fd/{number}"))
    return names


def options(**settings):
    pairs = [word for name, value in (SMALL | settings).items() for word in ("-p", name, str(value))]
    return ["--images", DATA["images"], "--labels", DATA["labels"], *pairs]


def test_training_frozen_training_prediction_and_the_list_of_runs(outputs, tmp_path, capsys):
    assert main(["train", *options(), "--name", "a"]) == 0
    weights = outputs / "a" / "model.pth"
    assert main(["train", *options(weights=weights, freeze="backbone"), "--name", "b"]) == 0
    assert main(["train", *options(), "--name", "a", "--overwrite"]) == 0
    assert main(["predict", DATA["images"], "--model", "b", "--csv", str(tmp_path / "predicted.csv")]) == 1, "one is broken"
    assert main(["runs", "--csv", str(tmp_path / "runs.csv")]) == 0
    assert list(pd.read_csv(tmp_path / "runs.csv").iloc[:, 0]) == ["b", "a"]
    written = [*tmp_path.glob("*.csv"), *outputs.rglob("*.csv"), *outputs.rglob("*.json")]
    assert len(written) > 10
    assert not [file for file in written if b"\r" in file.read_bytes()], "the same bytes on every system"
    assert not [file for file in outputs.rglob(".*") if file.name != ".written"], "no temporary file stays"


def test_search_and_its_best_settings(outputs, tmp_path, monkeypatch):
    def execute(notebook, run, parameters, silent):
        recipe = Recipe.read(settings=parameters["settings"], images=parameters["images"], labels=parameters["labels"])
        dataset = recipe.open()
        train(dataset, recipe.config, Run.create(run.name, recipe.parameters(), dataset.fingerprint))

    monkeypatch.setattr(worker, "execute", execute)
    (tmp_path / "space.yaml").write_text("learning_rate: [1e-3, 1e-2]", encoding="utf-8")
    tuning = set_up("s", Recipe.of(DATA | SMALL | {"image_size": 16}), tmp_path / "space.yaml")
    tuning.search(2)
    worker.work(tuning)
    table = trials(tuning)
    assert list(table.state) == ["complete"] * 2, list(table.error)
    assert b"\r" not in write_best(tuning).read_bytes() + (outputs / "s" / "trials.csv").read_bytes()


def test_an_interruption_reaches_the_workers_by_the_signal_of_windows(outputs, monkeypatch):
    started, sent = [], []

    def lines():
        raise KeyboardInterrupt
        yield

    def popen(command, **arguments):
        started.append(arguments)
        return SimpleNamespace(stdout=lines(), send_signal=sent.append)

    monkeypatch.setattr(subprocess, "Popen", popen)
    monkeypatch.setattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 512, raising=False)
    monkeypatch.setattr(signal, "CTRL_BREAK_EVENT", 1, raising=False)
    tuning = SimpleNamespace(name="s", queued=lambda: [0], abandoned=list)
    with pytest.raises(KeyboardInterrupt):
        worker.run_workers(tuning)
    assert sent == [1]
    assert started[0]["creationflags"] == 512


def test_pixels_that_another_has_mapped_stay_and_are_begun_anew_once_nobody_has(tmp_path, outputs):
    folder = tmp_path / "images"
    folder.mkdir()
    names = ["0.png", "1.png", "2.png"]
    shades = iter(range(0, 250, 7))

    def paint():
        for name in names:
            Image.new("L", (16, 16), next(shades)).save(folder / name)
        return build_cache(folder, names, 16)

    held = paint()
    before = held.read(np.arange(3))
    for _ in range(3):
        cache = paint()  # all three are new: most rows belong to no file
        assert cache.problems == {}
        np.testing.assert_array_equal(held.read(np.arange(3)), before)
    (pixels,) = outputs.rglob("pixels.u8")
    if Path("/proc/self/maps").exists():
        assert pixels.stat().st_size // (16 * 16 * 3) == 12, "it could not be removed, and grew"
    del held, cache
    paint()
    assert pixels.stat().st_size // (16 * 16 * 3) == 3


def test_a_data_set_can_be_sent_to_a_process_that_was_not_forked():
    dataset = DataSource(**DATA).open(16)
    sent = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(sent.batch(np.arange(5))[0], dataset.batch(np.arange(5))[0])


def test_a_claim_says_who_has_it_beside_the_locked_file_which_nobody_may_read(tmp_path):
    with Claim(tmp_path / "lock", "it"):
        assert (tmp_path / "lock").stat().st_size == 0
        with pytest.raises(ClaimError, match=f"it is at work in process {os.getpid()}"):
            Claim(tmp_path / "lock", "it")
    assert not (tmp_path / "lock.by").exists()


def test_a_file_that_another_reads_is_replaced_once_it_has_read(tmp_path, monkeypatch):
    write_text(tmp_path / "a.txt", "1")
    real, refused = os.replace, []

    def replace(source, target):
        if len(refused) < 2:
            refused.append(target)
            raise PermissionError(13, "Access is denied")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    write_text(tmp_path / "a.txt", "2")
    assert (tmp_path / "a.txt").read_text() == "2"
    refused.clear()
    (tmp_path / "b").touch()
    move(tmp_path / "b", tmp_path / "c")
    assert (tmp_path / "c").exists()
    monkeypatch.setattr(mlkit.files, "_WAITS", (0.0,))
    refused.clear()
    with pytest.raises(WriteError, match=r"a\.txt cannot be written"):
        write_text(tmp_path / "a.txt", "3")
    assert (tmp_path / "a.txt").read_text() == "2"


def test_commands_to_be_typed_again_are_quoted_as_windows_has_it(monkeypatch):
    monkeypatch.setattr(given, "os", SimpleNamespace(name="nt"))
    assert (
        given.command_line(["mlkit", "run", "--name", "my run", "-p", "flip", "0.5"])
        == 'mlkit run --name "my run" -p flip 0.5'
    )


def test_peak_memory_is_what_windows_says(monkeypatch):
    monkeypatch.setattr(
        footprint.psutil, "Process", lambda: SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=3 << 20))
    )
    assert footprint.own_peak_mb() == 3.0


def test_every_text_file_says_its_encoding():
    for path in Path(mlkit.files.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                names = {keyword.arg for keyword in node.keywords}
                wrong = node.func.attr in ("read_text", "write_text") and "encoding" not in names
                assert not wrong, f"{path.name}, line {node.lineno}"
                assert not (node.func.attr == "to_csv" and "lineterminator" not in names), f"{path.name}, line {node.lineno}"
