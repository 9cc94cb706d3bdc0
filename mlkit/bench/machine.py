"""What the machine is and can do at all: its name, its matrix product, its memory, its pace; and how a call is timed."""

import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from mlkit.models.device import Device, keep_freed_memory
from mlkit.models.networks import build_model

_LONG = 0.5  # seconds of five matrix products; what is as slow at a small size gains nothing by a larger one
_ELEMENTS = 2**26  # of arrays that no cache holds, in float32 256 MB each
LATENCIES = 5  # predictions of one image in each turn


def processor() -> str:
    """Name of the GPU if there is one, and of the CPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    gpu = [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
    return ", ".join([*gpu, *names[:1]]) or platform.processor() or platform.machine()


def seconds_per_image(backbone: str, image_size: int, device: Device) -> float:
    """Pace of the machine: one training step of a few images in float32, after another that warms it up."""
    model = build_model(backbone, 4, "none", image_size).to(device.device)
    inputs = torch.randn(8, 3, image_size, image_size, device=device.device)
    seconds = 0.0
    for _ in range(2):
        synchronise(device.device)
        started = time.perf_counter()
        model(inputs).sum().backward()
        synchronise(device.device)
        seconds = time.perf_counter() - started
    return seconds / len(inputs)


def matrix_product(device: torch.device, dtype: torch.dtype) -> float:
    """GFLOP/s of the fastest of a few products of two square matrices.

    On a GPU float32 means what its convolutions do with float32 by default, which is TF32.
    """
    speeds = []
    before = torch.get_float32_matmul_precision()
    try:
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        for side in (256, 1024, 2048) if device.type == "cpu" else (4096, 8192):
            a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
            torch.mm(a, b)
            began = time.perf_counter()
            for _ in range(5):
                synchronise(device)
                started = time.perf_counter()
                torch.mm(a, b)
                synchronise(device)
                speeds.append(2 * side**3 / (time.perf_counter() - started) / 1e9)
            if time.perf_counter() - began > _LONG:
                break
    finally:
        torch.set_float32_matmul_precision(before)
    return max(speeds)


def memory_traffic(device: torch.device) -> float:
    """GB/s that are read and written by the faster of a copy and an addition of arrays that no cache holds, on all cores."""
    a, b, c = (torch.ones(_ELEMENTS, device=device) for _ in range(3))
    calls: list[tuple[int, Callable[[], object]]] = [(2, lambda: c.copy_(a)), (3, lambda: torch.add(a, b, out=c))]
    speeds = []
    for arrays, call in 3 * calls:
        synchronise(device)
        started = time.perf_counter()
        call()
        synchronise(device)
        speeds.append(arrays * a.nbytes / (time.perf_counter() - started) / 1e9)
    return max(speeds)


def latency_ms(call: Callable[[], object]) -> float:
    """Median duration of a call."""
    durations = []
    for _ in range(LATENCIES):
        started = time.perf_counter()
        call()
        durations.append(time.perf_counter() - started)
    return 1000 * statistics.median(durations)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize()


@contextmanager
def usual_memory() -> Iterator[None]:
    """Let the C library do with freed memory what it does in a process that mlkit has not told to keep it."""
    keep_freed_memory(False)
    try:
        yield
    finally:
        keep_freed_memory()


@contextmanager
def tuned_convolutions() -> Iterator[None]:
    """Let cuDNN try its kernels, for plain and mlkit alike: any good loop on a GPU does."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
