"""torchvision's networks, imported without torch's compiler: that takes longer than all of torch, and none of them asks it.

`torchvision.ops.roi_align`, of detection, takes one function from `torch._dynamo` as it is imported. It gets a stand-in that
asks the real one when it is called; whoever compiles imports the real one as ever.
"""

import sys
from types import ModuleType

_UTILS = "torch._dynamo.utils"


def _is_compile_supported(device_type: str) -> object:
    from torch._dynamo.utils import is_compile_supported

    return is_compile_supported(device_type)


if _UTILS in sys.modules:
    from torchvision import models
else:
    stand_in = ModuleType(_UTILS)
    stand_in.is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
    sys.modules[_UTILS] = stand_in
    try:
        from torchvision import models
    finally:
        if sys.modules.get(_UTILS) is stand_in:
            del sys.modules[_UTILS]

__all__ = ["models"]
