"""Which hardware to compute on, and in which precision: detected, overridable, and said."""

from dataclasses import dataclass

import torch

from mlkit.errors import ParameterError


@dataclass(frozen=True)
class Device:
    """A device and how to compute on it. `autocast` is None for plain float32; `reason` says why, for people."""

    device: torch.device
    autocast: torch.dtype | None
    reason: str

    def __str__(self) -> str:
        precision = "bf16 autocast" if self.autocast else "float32"
        return f"{self.device.type}, {precision}, channels_last ({self.reason})"


def choose_device(device: str = "auto", precision: str = "auto") -> Device:
    """Device and precision for training and inference.

    Args:
        device: "auto" (a CUDA GPU if there is one), or any torch device name.
        precision: "auto", "fp32" or "bf16". Auto takes bf16 where the hardware multiplies it natively; a CPU without
            AVX512-BF16 or AMX emulates it, and is slower in bf16 than in float32.

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
    native, why = _native_bf16(chosen)
    return Device(chosen, torch.bfloat16 if native else None, why)


def _native_bf16(device: torch.device) -> tuple[bool, str]:
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
        return native, f"{torch.cuda.get_device_name(device)} has {'' if native else 'no '}bf16 units"
    if device.type != "cpu":
        return False, f"bf16 is not measured on {device.type}"
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    units = [name for name in ("amx_bf16", "avx512_bf16") if capabilities.get(name)]
    if not capabilities and torch.cpu._is_avx512_bf16_supported():  # torch 2.11 has no public question
        units = ["avx512_bf16"]
    return bool(units), f"the CPU has {units[0] if units else 'no bf16 instructions'}"
