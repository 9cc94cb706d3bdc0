"""Nothing that a test makes lands in the real outputs; the committed notebooks run small under nbval."""

import ast
import contextlib
import functools
import gc
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest

# before anything computes a path or imports torch, and inherited by every kernel
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # processes that fight for cores are many times slower
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // int(workers)))
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # of tests in the background; what they start would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["MLKIT_OUTPUTS"] = tempfile.mkdtemp(prefix="mlkit-tests-")
os.environ["MLKIT_PROGRESS"] = "off"

HANG = 1800  # seconds; the one limit of all tests, against what never ends: no slow or busy machine may meet it
SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "datasets"
POSIX = pytest.mark.skipif(os.name != "posix", reason="signals, limits and devices that Windows has in another way")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BROWSER = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
TINY = "shufflenet_v2_x0_5"  # 0.3 million weights: for what is checked of any network
OUTPUTS = os.environ["MLKIT_OUTPUTS"]
FEW = f"{OUTPUTS}-data"
DATA = {"images": f"{FEW}/images", "labels": f"{FEW}/labels.csv"}
SMALL = {
    "02_train_resnet18": {**DATA, "settings": {"epochs": 1, "image_size": 32, "backbone": TINY}},
    "05_evaluate": {"permutations": 100},
    "06_missing_labels": {
        "settings": {"backbone": "tinynet", "epochs": 1, "image_size": 16, "batch_size": 256},
        "methods": ["masked_bce", "asl"],
        "fractions": [0.5],
        "seeds": [0, 1],
    },
    "07_compare_runs": {
        "backbones": ["tinynet", "tinynet_wider"],
        "settings": {**DATA, "epochs": 1, "image_size": 32, "batch_size": 16},
    },
    "08_tune": {**DATA, "trials": 1, "settings": {"epochs": 1, "image_size": 32, "backbone": TINY}},
    "09_benchmark": {"count": 16, "image_size": 32, "batch_size": 4, "backbone": TINY},
    "10_audit_data": {"probe_backbone": TINY},
    "11_review_labels": {"count": 20},
}
READERS = (
    "03_plot_loss",
    "04_single_image_inference",
    "05_evaluate",
    "11_review_labels",
)  # of a run, which another process may have made
BRIEF = """
from mlkit.bench import footprint, machine, measurements, reading
footprint.in_own_process = lambda arguments, outputs: "1.0"  # processes of their own: the bench's own tests start them
measurements.SEARCHED, measurements.FRAMES, machine._LONG, machine._ELEMENTS, reading.ROWS = 200, 50, 0.0, 1000, 200
"""


@functools.cache
def draw_few():
    """A small data set that every kernel of this process finds in `FEW`."""
    from mlkit.data.sample import make_sample

    make_sample(FEW, count=120)


@functools.cache
def small_run(backbone=TINY):
    """Folder of a finished run on it, trained once a process for all that only read one."""
    from mlkit.cli import main

    draw_few()
    small = {"epochs": "1", "image_size": "32", "weights": "none", "backbone": backbone, "batch_size": "16"}
    given = [word for pair in small.items() for word in ("-p", *pair)]
    outputs = OUTPUTS if backbone == TINY else f"{OUTPUTS}-{backbone}"  # kernels find what they can read alone
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLKIT_OUTPUTS", outputs)
        assert main(["train", "--images", DATA["images"], "--labels", DATA["labels"], *given, "--name", "small"]) == 0
    return Path(outputs, "small")


def pytest_configure(config):
    """nbval has limits of its own, of which seconds would do on no busy machine; notebooks find what they read."""
    config.option.nbval_cell_timeout = config.option.nbval_kernel_startup_timeout = HANG
    config.pluginmanager.register(Prepared())


def pytest_collection_finish():
    """What was imported stays; each training collects garbage, and need not look through all that."""
    gc.freeze()


class Prepared:
    """A plugin of its own: what pytest asks of a conftest before a test, it asks for what lies below its folder only."""

    @staticmethod
    def pytest_runtest_setup(item):
        """What a notebook reads is there before its kernel asks for it."""
        overrides = overrides_of(item)
        if overrides is not None and item.parent.path.stem in READERS:
            small_run()
        elif overrides and FEW in str(overrides):
            draw_few()


def wait_for(condition):
    """The first true value of `condition()`; a server that does not answer yet counts as false."""
    end = time.monotonic() + HANG
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if found := condition():
                return found
        time.sleep(0.1)
    raise AssertionError("nothing came")


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    """A fresh outputs folder for each test."""
    folder = tmp_path / "outputs"
    monkeypatch.setenv("MLKIT_OUTPUTS", str(folder))
    return folder


@pytest.fixture(scope="session")
def sample(tmp_path_factory):
    """Folder of a small sample data set."""
    from mlkit.data.sample import make_sample

    folder = tmp_path_factory.mktemp("data") / "sample"
    make_sample(folder, count=60)
    return folder


@pytest.fixture
def finished(outputs):
    """A finished run `small` in this test's outputs, of the data in `DATA`."""
    from mlkit.runs import Run

    shutil.copytree(small_run(), outputs / "small")
    return Run.open("small")


@pytest.fixture
def tiny(outputs):
    """The same of a network that this process alone knows, which is asked in a fraction of the time."""
    from tinynet import TINYNET

    from mlkit.runs import Run

    shutil.copytree(small_run(TINYNET), outputs / "small")
    return Run.open("small")


@pytest.fixture
def interrupted_at(monkeypatch):
    """Runs a function whose training saves after every iteration, and is interrupted once it has saved so many times."""
    from mlkit.training.loop import Training

    real = Training.checkpoint

    def interrupted_at(number, start):
        saved = []

        def checkpoint(training):
            real(training)
            saved.append(1)
            if len(saved) == number:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Training, "checkpoint_seconds", -1.0)
            patch.setattr(Training, "checkpoint", checkpoint)
            with pytest.raises(KeyboardInterrupt):
                start()

    return interrupted_at


@pytest.fixture
def goes_on(interrupted_at):
    """Checks that a training which is interrupted again and again, and begun again, ends as `whole` did.

    Called with a whole run, and a function that trains the same into another run and returns that. It is interrupted after
    its first iteration, then after three more, within an epoch or at its end.
    """
    import pandas as pd
    import torch

    from mlkit.models.torchfile import load_torch

    def check(whole, start):
        for number in (1, 3):
            interrupted_at(number, start)
        cut = start()
        for file in ("history.csv", "epochs.csv", "predictions.csv"):
            first, second = (  # as text: every digit
                pd.read_csv(run / file, dtype=str).drop(columns=["img_per_s", "seconds"], errors="ignore")
                for run in (cut, whole)
            )
            pd.testing.assert_frame_equal(first, second)
        weights = [load_torch(run / "model.pth")["state_dict"] for run in (cut, whole)]
        assert weights[0].keys() == weights[1].keys()
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])

    return check


def overrides_of(item):
    """What nbval gives a cell's notebook on top of its own parameters; None for any other test."""
    return SMALL.get(item.parent.path.stem, {}) if type(item).__name__ == "IPyNbCell" else None


def pytest_collection_modifyitems(items):
    """Give nbval test-size parameters in memory, after the notebook's own; the files stay as they are."""
    for item in items:
        overrides = overrides_of(item)
        if overrides is None:
            continue
        item.output_timeout = HANG
        if "parameters" in item.cell.metadata.get("tags", []):
            known = {line.targets[0].id for line in ast.parse(item.cell.source).body}
            if unknown := set(overrides) - known:
                raise pytest.UsageError(f"{item.parent.path.name} has no parameter {unknown}; mend SMALL in conftest.py")
            item.cell.source += "".join(f"\n{name} = {value!r}" for name, value in overrides.items())
            if "tinynet" in repr(overrides):
                item.cell.source += f"\nimport sys\nsys.path.append({os.path.dirname(__file__)!r})\nimport tinynet"
            if item.parent.path.stem == "09_benchmark":
                item.cell.source += BRIEF
