"""What the hardware is asked for, and what fits."""

import platform
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from mlkit.errors import MlkitError, ParameterError
from mlkit.models import device as device_module
from mlkit.models.device import Stopwatch, choose_device, determinism, keep_freed_memory, largest_batch, memory_errors


def test_precision_and_its_reason_are_said(monkeypatch):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    chosen = choose_device("cpu")
    assert ("bf16 autocast" in str(chosen)) == (chosen.dtype is torch.bfloat16)
    assert "the CPU has" in str(chosen)
    assert choose_device("cpu", "fp32").dtype is None


@pytest.mark.parametrize(("limit", "native"), [("AVX2", False), ("avx512_core", False), ("AVX512_CORE_BF16", True)])
def test_bf16_is_hidden_where_the_kernels_are_kept_from_it(limit, native, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    chosen = choose_device("cpu")
    assert (chosen.dtype is torch.bfloat16) == native
    assert native or f"ONEDNN_MAX_CPU_ISA is {limit.upper()}" in str(chosen)


def test_device_that_is_not_there_and_unknown_precision_are_refused():
    with pytest.raises(ParameterError, match='use device = "auto"'):
        choose_device("nonsense")
    with pytest.raises(ParameterError, match='"auto", "fp32" or "bf16"'):
        choose_device("cpu", "fp8")


def fits_up_to(limit, tried):
    def fits(size):
        tried.append(size)
        if size > limit:
            raise torch.OutOfMemoryError

    return fits


@pytest.mark.parametrize(("limit", "most", "expected"), [(100, 1000, 32), (16, 1000, 8), (10_000, 48, 32), (8, 1000, 8)])
def test_largest_batch_leaves_half_of_the_memory(limit, most, expected):
    tried = []
    assert largest_batch(fits_up_to(limit, tried), most) == expected
    assert max(tried) <= 2 * max(most, limit)


def test_no_batch_that_fits_is_an_error():
    with pytest.raises(MlkitError, match=r"not even 8 images fit .* lower image_size"):
        largest_batch(fits_up_to(4, []), 100)


def test_running_out_of_memory_names_the_setting():
    with (
        pytest.raises(MlkitError, match=r"out of memory on the device \(tried to allocate\); lower batch_size"),
        memory_errors("batch_size"),
    ):
        raise torch.OutOfMemoryError("tried to allocate. more text")


def test_stopwatch_gives_the_time_between_marks():
    watch = Stopwatch(torch.device("cpu"))
    for _ in range(3):
        watch.mark()
        time.sleep(0.01)
    assert watch.seconds().shape == (2,)
    assert (watch.seconds() >= 0.009).all()
    assert np.isfinite(watch.seconds()).all()


@pytest.mark.parametrize("wanted", [True, False])
def test_determinism_is_restored_after(wanted):
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    with determinism(torch.device("cpu"), wanted):
        assert torch.are_deterministic_algorithms_enabled() == wanted
    assert (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark) == before


def test_tiny_images_are_never_computed_in_bf16_unless_asked(monkeypatch):
    monkeypatch.setattr(device_module, "native_bf16", lambda _: (True, "for the test"))
    assert choose_device("cpu", "auto", 16).dtype is None
    assert choose_device("cpu", "bf16", 16).dtype == torch.bfloat16
    assert choose_device("cpu", "auto", 32).dtype == choose_device("cpu").dtype == torch.bfloat16


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_that_is_freed_is_kept_for_the_next_step():
    code = (
        "import resource, sys, torch; from mlkit.models.device import keep_freed_memory\n"
        "assert sys.argv[1] == 'off' or keep_freed_memory()\n"
        "assert sys.argv[1] != 'back' or keep_freed_memory(False)\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "before = faults()\n"
        "for _ in range(20): torch.ones(2**24)\n"
        "print(faults() - before)"
    )
    faults = [int(subprocess.check_output([sys.executable, "-c", code, way], text=True)) for way in ("on", "off", "back")]
    assert faults[0] < faults[1] / 2
    assert faults[2] > faults[1] / 2


def test_a_library_that_cannot_be_told_is_left_alone(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    assert not keep_freed_memory()
