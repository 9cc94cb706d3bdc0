"""What a bench measures, and how often."""

from dataclasses import dataclass
from typing import Annotated

from mlkit.errors import ParameterError
from mlkit.parameters import Between, check_fields


@dataclass(frozen=True)
class BenchConfig:
    """What to measure, and how often.

    Raises:
        ParameterError: if a value is outside of what is possible.
    """

    images: str = ""  # folder of images; empty generates photo-like JPEG files of 800x800 pixels
    minutes: Annotated[float, Between(0, open=True)] = 3.0  # that images and repeats are fitted to, where they are 0
    # images, of which a quarter is held out for validation; 0: what the time allows, at most 128 on a CPU, 4096 on a GPU
    count: Annotated[int, Between(0)] = 0
    image_size: Annotated[int, Between(1)] = 224
    backbone: str = "resnet18"
    batch_size: Annotated[int, Between(2)] = 32
    repeats: Annotated[int, Between(0)] = 0  # of every measurement; 0: what the time allows
    device: str = "auto"
    precision: str = "auto"
    # images of the larger generated cache, the smaller has a tenth; 0 leaves that part out
    cache_count: Annotated[int, Between(0)] = 20_000
    peers: bool = False  # train by other libraries, too

    def __post_init__(self) -> None:
        check_fields(self)
        if 0 < self.cache_count < 20:
            raise ParameterError(f"cache_count is {self.cache_count}; it must be 0 or at least 20")
