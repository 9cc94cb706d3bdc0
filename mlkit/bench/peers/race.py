"""Each peer trains in a process of its own, watched from here: when it takes which step, how much memory it holds."""

import importlib.util
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import psutil

from mlkit.bench.footprint import failure_of, process_environment
from mlkit.bench.measurements import EPOCHS, Measurements
from mlkit.bench.peers.job import READY, STEP, Job
from mlkit.data.cache import cores
from mlkit.errors import FailureError

PEERS = {  # the program here -> its name in the table, and the package that it needs
    "plain": ("plain loop", "torch"),
    "mlkit": ("mlkit", "mlkit"),
    "timm": ("timm", "timm"),
    "fastai": ("fastai", "fastai"),
    "lightning": ("Lightning", "pytorch_lightning"),
}
FIGURES = ("img_per_s", "first_epoch_s", "first_step_s", "memory_mb")
_MISSING = 'pip install -e ".[peers]"'
_SAMPLE = 0.5  # seconds between two looks at the memory


def peer(bench: Measurements, name: str) -> dict[str, float]:
    """Let one peer train; what is not installed, or fails, is left out for good.

    Returns:
        img_per_s: images trained on a second in the later epochs, with the validation between them.
        first_epoch_s: from the end of the imports to the last step of the first epoch, the decoding included.
        first_step_s: from the start of the process to its first step.
        memory_mb: the most that the process and its workers held together.
    """
    keys = {figure: f"peer_{name}_{figure}" for figure in FIGURES}
    if importlib.util.find_spec(PEERS[name][1]) is None:
        bench.left_out |= dict.fromkeys(keys.values(), _MISSING)
    if keys["img_per_s"] in bench.left_out:
        return {}
    with tempfile.TemporaryDirectory(dir=bench.work, ignore_cleanup_errors=True) as place:
        job = _job(bench)
        job.write(Path(place, "job.json"))
        try:
            ready, steps, memory = _watch(name, Path(place))
        except FailureError as error:
            bench.left_out |= dict.fromkeys(keys.values(), str(error))
            return {}
    # mlkit takes the last, smaller batch, too
    images, first = (len(bench.files), len(bench.sizes)) if name == "mlkit" else (len(job.files), len(steps) // EPOCHS)
    seconds = steps[-1] - steps[first - 1]
    values = ((EPOCHS - 1) * images / seconds, steps[first - 1] - ready, steps[0], memory)
    return dict(zip(keys.values(), values, strict=True))


def _job(bench: Measurements) -> Job:
    """The training of `bench`, in whole batches: whether a smaller last one is taken, the libraries do not agree."""
    config, targets = replace(bench.config, epochs=EPOCHS), bench.dataset.targets
    training = bench.training[: len(bench.training) // bench.batch_size * bench.batch_size]
    held_out = np.setdiff1d(np.arange(len(bench.dataset)), bench.training)
    files = [str((bench.folder / name).absolute()) for name in bench.dataset.labels.index]
    return Job(
        images=str(bench.folder.absolute()),
        labels=str(bench.labels.absolute()),
        files=[files[i] for i in training],
        targets=targets[training].tolist(),
        held_out=[files[i] for i in held_out],
        held_out_targets=targets[held_out].tolist(),
        settings=asdict(config),
        workers=cores(),
        device=bench.device.device.type,
        bf16=bench.dtype is not None,
    )


def _program(name: str) -> list[str]:
    """Arguments of Python that run a peer."""
    return ["-m", f"mlkit.bench.peers.{name}"]


def _watch(name: str, place: Path) -> tuple[float, list[float], float]:
    """Seconds from the start of a peer to the end of its imports, and to each step; and its peak memory in MB.

    Raises:
        FailureError: if it fails.
    """
    environment = process_environment(place) | {"HF_HUB_OFFLINE": "1"}  # of timm's hub client nothing is wanted
    command = [sys.executable, *_program(name), str(place / "job.json")]
    moments: dict[str, list[float]] = {READY: [], STEP: []}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        started = time.perf_counter()
        with (
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, encoding="utf-8") as process,
            _peak_memory(process.pid) as peak,
        ):
            assert process.stdout
            for line in process.stdout:
                moments.get(line.strip(), []).append(time.perf_counter() - started)
        errors.seek(0)
        if process.returncode or len(moments[STEP]) < EPOCHS:
            raise failure_of(process.returncode, errors.read())
    return moments[READY][0], moments[STEP], max(peak)


@contextmanager
def _peak_memory(pid: int) -> Iterator[list[float]]:
    """Watch the memory of a process and of all that it starts, in MB; what several of them share counts once, on Linux."""
    seen, ended = [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(_SAMPLE):
            with suppress(psutil.Error):
                process = psutil.Process(pid)
                seen.append(sum(map(_memory_mb, (process, *process.children(recursive=True)))))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def _memory_mb(process: psutil.Process) -> float:
    try:
        memory = process.memory_full_info()
    except psutil.Error:  # it has just ended
        return 0.0
    return float(getattr(memory, "pss", memory.rss)) / (1 << 20)
