"""torchvision's networks, imported without torch's compiler: that takes longer than all of torch, and none of them asks it.

`torchvision.ops.roi_align`, of detection, takes one function from `torch._dynamo` as it is imported. It gets a stand-in that
asks the real one when it is called; whoever compiles, or wants anything else of that module, imports the real one as ever.
"""

import importlib
import sys
from types import ModuleType

_UTILS = "torch._dynamo.utils"


def _is_compile_supported(device_type: str) -> object:
    from torch._dynamo.utils import is_compile_supported

    return is_compile_supported(device_type)


def _of_the_real_one(name: str) -> object:
    if name.startswith("__"):  # what the import itself asks
        raise AttributeError(name)
    sys.modules.pop(_UTILS, None)
    return getattr(importlib.import_module(_UTILS), name)


if _UTILS in sys.modules:
    from torchvision import models
else:
    stand_in = ModuleType(_UTILS)
    stand_in.is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
    stand_in.__getattr__ = _of_the_real_one  # type: ignore[method-assign]
    sys.modules[_UTILS] = stand_in
    try:
        from torchvision import models
    finally:
        if sys.modules.get(_UTILS) is stand_in:
            del sys.modules[_UTILS]

__all__ = ["models"]
