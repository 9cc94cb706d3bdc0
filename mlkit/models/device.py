"""Which hardware to compute on, in which precision, how fast, how much fits: detected, overridable, and said."""

import ctypes
import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mlkit.errors import FailureError, ParameterError

_TINY = 32  # pixels; the networks of torchvision shrink an image 32 times


@dataclass(frozen=True)
class Device:
    """A device and how to compute on it. `dtype` is that of autocast, None for float32; `reason` says why, for people."""

    device: torch.device
    dtype: torch.dtype | None
    reason: str

    def __str__(self) -> str:
        precision = "bf16 autocast" if self.dtype else "float32"
        return f"{self.device.type}, {precision}, channels_last ({self.reason})"

    @property
    def short(self) -> str:
        """Type and precision, "cpu bf16" say."""
        return f"{self.device.type} {'bf16' if self.dtype else 'float32'}"

    def autocast(self) -> torch.autocast:
        """Context in which the network computes in the chosen precision."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)


class Stopwatch:
    """Seconds between marks, on the device's own clock: a GPU computes behind the program that drives it."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks: list[Any] = []

    def mark(self) -> None:
        """Make a mark; does not wait for the device."""
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def seconds(self) -> np.ndarray:
        """Time from each mark to the next; waits for the device."""
        if self._cuda:
            torch.cuda.synchronize()
            return np.array([a.elapsed_time(b) / 1e3 for a, b in itertools.pairwise(self._marks)])
        return np.diff(self._marks)


def keep_freed_memory(keep: bool = True) -> bool:
    """Have this process keep the memory that it frees, for its next step; whether its C library can be told.

    glibc gives large buffers back to the kernel at once, which zeroes each page again when the next batch needs it: of the
    processor's time in a training step of ResNet18 on AVX2 about a twentieth, in prediction an eighth. The peak of memory
    stays about the same.

    Args:
        keep: or else do as glibc does by itself, once buffers that it maps have been freed.
    """
    try:
        library = ctypes.CDLL(None)
        mallopt, trim = library.mallopt, library.malloc_trim
    except (AttributeError, OSError, TypeError):  # of macOS, musl, Windows
        return False
    if not keep:
        trim(0)
    mapped, trimmed = (2**31 - 1, 2**31 - 1) if keep else (_LARGEST_THRESHOLD, 2 * _LARGEST_THRESHOLD)
    return bool(mallopt(_TRIM_THRESHOLD, trimmed) and mallopt(_MMAP_THRESHOLD, mapped))


@contextmanager
def determinism(device: torch.device, wanted: bool) -> Iterator[None]:
    """Within: the same results every time, at some cost, if `wanted`; else the fastest kernels that a GPU finds."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with this
    if wanted != before[0]:  # to say what is so already costs seconds: torch imports its compiler
        torch.use_deterministic_algorithms(wanted)
    torch.backends.cudnn.benchmark = device.type == "cuda" and not wanted
    try:
        yield
    finally:
        if wanted != before[0]:
            torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def largest_batch(fits: Callable[[int], object], most: int) -> int:
    """Largest power of two up to `most` that fits twice over, tried from 8 upwards; the other half is head-room.

    Args:
        fits: tries a batch size; raises `torch.OutOfMemoryError` if it does not fit.
        most: no larger batch is of use.

    Raises:
        FailureError: if not even 8 images fit.
    """
    size = 8
    while size <= 2 * most:
        try:
            fits(size)
        except torch.OutOfMemoryError:
            break
        size *= 2
    if size == 8:
        raise FailureError("not even 8 images fit into the device's memory; lower image_size or take a smaller backbone")
    torch.cuda.empty_cache()  # does nothing where there is no GPU
    return max(8, min(size // 4, most))


@contextmanager
def memory_errors(setting: str) -> Iterator[None]:
    """Turn running out of the device's memory into an error that names the setting to change."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise FailureError(f"out of memory on the device ({str(error).split('.')[0]}); lower {setting}") from None


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_LARGEST_THRESHOLD = 2**25  # bytes, that glibc raises the second to by itself; the first then is twice as large
# What ONEDNN_MAX_CPU_ISA may keep oneDNN to, torch's kernels for CPUs, without bf16 instructions.
_LIMITED = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")


def choose_device(device: str = "auto", precision: str = "auto", image_size: int | None = None) -> Device:
    """Device and precision, by one rule for training and inference.

    Args:
        device: "auto" (a CUDA GPU if there is one), or any torch device name.
        precision: "auto", "fp32" or "bf16". Auto takes bf16 where the hardware multiplies it natively; a CPU without
            AVX512-BF16 or AMX emulates it, and is slower in bf16 than in float32.
        image_size: side of the images in pixels; auto takes float32 for tiny ones. On maps of a single pixel, oneDNN's bf16
            gradient of a strided convolution reads memory that it was not given, and gives a NaN now and then (ResNet18 at
            16 px, torch 2.14 on a CPU with AMX).

    Raises:
        ParameterError: if the device is not there, or the precision is unknown.
    """
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        chosen = torch.device(name)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        message = str(error).splitlines()[0]
        raise ParameterError(f'device {name!r} cannot be used here ({message}); use device = "auto"') from None
    if precision not in ("auto", "fp32", "bf16"):
        raise ParameterError(f'precision is {precision!r}; it must be "auto", "fp32" or "bf16"')
    if precision != "auto":
        return Device(chosen, torch.bfloat16 if precision == "bf16" else None, "as asked")
    if image_size is not None and image_size < _TINY:
        return Device(chosen, None, "bf16 is unsafe on tiny images")
    native, why = native_bf16(chosen)
    return Device(chosen, torch.bfloat16 if native else None, why)


def native_bf16(device: torch.device) -> tuple[bool, str]:
    """Whether the device multiplies bf16 by instructions of its own, and why that is so, for people."""
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
        return native, f"{torch.cuda.get_device_name(device)} has {'' if native else 'no '}bf16 units"
    if device.type != "cpu":
        return False, f"bf16 is not measured on {device.type}"
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    if limit in _LIMITED:
        return False, f"ONEDNN_MAX_CPU_ISA is {limit}, which has no bf16 instructions"
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    units = [name for name in ("amx_bf16", "avx512_bf16") if capabilities.get(name)]
    if not capabilities and torch.cpu._is_avx512_bf16_supported():  # torch 2.11 has no public question
        units = ["avx512_bf16"]
    return bool(units), f"the CPU has {units[0] if units else 'no bf16 instructions'}"
