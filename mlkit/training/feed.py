"""The feed: brings batches to the training device without making it wait."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

_HEADROOM = 0.5  # share of the free GPU memory that the data may take; the network needs the rest
_CHUNK = 256  # images


class Source(Protocol):
    """Serves inputs (batch, ...) and targets (batch, attributes) for image indices."""

    targets: np.ndarray

    def __len__(self) -> int: ...

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray | Tensor, np.ndarray]: ...


class Feed:
    """Batches of a data set on a device.

    On a GPU the uint8 pixels of all images move there once, if they fit, and a batch is one index. Otherwise the next batch
    is read, and copied from pinned memory on a stream of its own, while the device computes on the one before.

    Args:
        source: what serves inputs and targets of image indices: a data set, or activations in its place.
        device: where batches are wanted.
        resident: keep all inputs on the device; None decides by the memory that is free.
    """

    def __init__(self, source: Source, device: torch.device, resident: bool | None = None) -> None:
        self._source = source
        self._device = device
        self.targets = torch.from_numpy(source.targets).to(device)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._inputs: Tensor | None = None
        if self._fits() if resident is None else resident:
            chunks = np.array_split(np.arange(len(source)), -(-len(source) // _CHUNK))
            first = self._inputs_of(chunks[0])
            self._inputs = torch.empty((len(source), *first.shape[1:]), dtype=first.dtype, device=device)
            for chosen in chunks:
                self._inputs[chosen[0] : chosen[-1] + 1] = self._inputs_of(chosen).to(device)

    def __str__(self) -> str:
        if self._device.type == "cpu":
            return "read from the pixel cache"
        return f"on the {self._device.type} device" if self._inputs is not None else "copied while the device computes"

    def batches(
        self, order: Iterable[np.ndarray], wanted: Callable[[np.ndarray], np.ndarray] = np.asarray
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """For each array of image indices, on the device: the indices, the inputs (batch, ...) and the targets.

        `wanted` says of which of these images the inputs are, by their indices, where not of all.
        """
        if self._inputs is not None:
            for chosen in order:
                where, of = (self._to_device(torch.from_numpy(images)) for images in (chosen, wanted(chosen)))
                yield where, self._inputs[of], self.targets[where]
            return
        with ThreadPoolExecutor(1) as reader:
            coming: deque[Future[tuple[Tensor, Tensor, torch.cuda.Event | None]]] = deque()
            for chosen in order:
                coming.append(reader.submit(self._read, chosen, wanted(chosen)))
                if len(coming) > 1:
                    yield self._arrived(*coming.popleft().result())
            while coming:
                yield self._arrived(*coming.popleft().result())

    def _inputs_of(self, images: np.ndarray) -> Tensor:
        return torch.as_tensor(self._source.batch(images)[0])

    def _fits(self) -> bool:
        if self._device.type != "cuda":
            return False
        free, _ = torch.cuda.mem_get_info(self._device)
        return len(self._source) * self._inputs_of(np.array([0])).nbytes < _HEADROOM * free

    def _read(self, chosen: np.ndarray, wanted: np.ndarray) -> tuple[Tensor, Tensor, torch.cuda.Event | None]:
        where, inputs = torch.from_numpy(chosen), self._inputs_of(wanted)
        if self._stream is None:
            return where.to(self._device), inputs.to(self._device), None
        with torch.cuda.stream(self._stream):
            where, inputs = self._to_device(where), self._to_device(inputs)
            return where, inputs, self._stream.record_event()

    def _arrived(self, where: Tensor, inputs: Tensor, copied: torch.cuda.Event | None) -> tuple[Tensor, Tensor, Tensor]:
        if copied is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(copied)
            for tensor in (where, inputs):
                tensor.record_stream(current)  # or its memory could be reused while this stream still reads it
        return where, inputs, self.targets[where]

    def _to_device(self, tensor: Tensor) -> Tensor:
        if self._stream is not None:
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)
