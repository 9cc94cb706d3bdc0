"""The processes of one training: whose part of a batch is whose, what is put together of all, who writes."""

import itertools
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mlkit.errors import FailureError

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")


class Processes:
    """This process among those of a training: alone, or one of several that Accelerate brings together (see `launch.py`).

    Each computes a part of every batch. The loss is computed by every process on the logits of the whole batch, of which its
    own part alone carries gradients: so it is the loss of one process, whatever it makes of known and unknown cells, and
    however unequal the parts are. `DistributedDataParallel` averages the gradients.

    Args:
        accelerator: of several; None: alone.
        main: whether this is the one that writes and speaks.

    Attributes:
        rank: number of this process, from 0.
        count: of processes.

    Raises:
        FailureError: unless one of them is the main one.
    """

    def __init__(self, accelerator: "Accelerator | None" = None, main: bool = True) -> None:
        self._accelerator = accelerator
        self.rank: int = accelerator.process_index if accelerator else 0
        self.count: int = accelerator.num_processes if accelerator else 1
        self.main = main
        mains = [rank for rank, other in enumerate(self.everyones(main)) if other]
        if len(mains) != 1:
            raise FailureError(f"{len(mains)} of {self.count} processes have the run folder; give one machine --rank 0")
        self._speaker = mains[0]

    def part(self, images: int) -> slice:
        """Which images of a batch are this process's.

        There are too few for all where each had less than two, on which batch normalisation cannot work; a process without
        any goes along with the first, and what it computes is left out by `whole`.
        """
        parts = cut(images, self.count)
        return parts[self.rank if self.rank < len(parts) else 0]

    def whole(self, own: Tensor, images: int) -> Tensor:
        """Rows of a whole batch of so many images, out of what every process has of its part; own ones carry gradients."""
        if self.count == 1:
            return own
        from accelerate.utils import gather

        parts = cut(images, self.count)
        longest = max(part.stop - part.start for part in parts)
        padded = own.new_zeros((longest, *own.shape[1:]))
        padded[: len(own)] = own.detach()
        every = gather(padded).view(self.count, longest, *own.shape[1:])
        rows = [every[rank, : part.stop - part.start] for rank, part in enumerate(parts)]
        if self.rank < len(parts):
            rows[self.rank] = own
            return torch.cat(rows)
        return torch.cat(rows) + 0 * own.sum()  # all take part in the backward pass

    def wrapped(self, module: nn.Module) -> nn.Module:
        """The module whose backward pass averages gradients over the processes."""
        if self._accelerator is None:
            return module
        prepared: nn.Module = self._accelerator.prepare_model(module, device_placement=False)
        return prepared

    def apart(self, module: nn.Module, wanted: bool = True) -> AbstractContextManager[Any]:
        """Within: gradients of a module that was wrapped add up in this process alone, if wanted."""
        return self._accelerator.no_sync(module) if self._accelerator and wanted else nullcontext()

    def average_statistics(self, module: nn.Module) -> None:
        """Average what batch normalisation has learnt about the parts of a batch."""
        running = [] if self.count == 1 else [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training]
        buffers = [b for m in running for b in (m.running_mean, m.running_var) if b is not None]
        if buffers:
            from accelerate.utils import reduce

            means = reduce(torch.cat([buffer.flatten() for buffer in buffers]), "mean")
            for buffer, mean in zip(buffers, means.split([b.numel() for b in buffers]), strict=True):
                buffer.copy_(mean.view_as(buffer))

    def everyones(self, value: T) -> list[T]:
        """Values of all processes, in their order."""
        if self.count == 1:
            return [value]
        from accelerate.utils import gather_object

        values: list[T] = gather_object([value])
        return values

    def shared(self, make: Callable[[], T]) -> T:
        """What the main process makes, for all."""
        if self.count == 1:
            return make()
        from accelerate.utils import broadcast_object_list

        made: list[T] = broadcast_object_list([make() if self.main else None], self._speaker)
        return made[0]

    def one_by_machine(self) -> AbstractContextManager[Any]:
        """Within: one process of each machine goes first, the others find what it has kept."""
        return self._accelerator.local_main_process_first() if self._accelerator else nullcontext()


def cut(images: int, count: int) -> list[slice]:
    """A batch in `count` equal parts, or fewer: batch normalisation cannot work on a single image."""
    cuts = np.linspace(0, images, 1 + max(1, min(count, images // 2))).astype(int).tolist()
    return [slice(start, end) for start, end in itertools.pairwise(cuts)]


def joined(parts: Iterable[slice]) -> np.ndarray:
    """Positions in a batch that some slices of it name."""
    return np.concatenate([np.arange(part.start, part.stop) for part in parts])
