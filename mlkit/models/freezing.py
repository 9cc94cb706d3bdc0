"""A partly frozen network: its frozen layers, whose outputs can be computed once, and those above, which are trained.

Both parts share their layers with the network, so that saving the network saves what was trained.
"""

import hashlib
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, fx, nn

from mlkit.data.dataset import MultiLabelDataset
from mlkit.data.memmap import MemmapRows
from mlkit.errors import ParameterError, nearest
from mlkit.files import check_space
from mlkit.models.device import Device
from mlkit.models.networks import forward, head_name, normalise, statistics_of
from mlkit.progress import bar

KEPT = "features-"  # what the names of kept features in the pixel cache begin with
_BATCH = 64


class PartlyFrozen:
    """The network as a training sees it.

    Args:
        freeze: "none" trains all; "backbone" only the head, the last linear layer; "lower" the head and the last stage, the
            layers with the smallest maps, of a ResNet18 layer4; "until:<layer>" all that comes after the named layer.
            Frozen layers stay as they are, batch normalisation included.

    Raises:
        ParameterError: if there is no such layer, or more than one tensor crosses the border behind it.
    """

    def __init__(self, network: nn.Module, backbone: str, freeze: str, device: Device) -> None:
        self.network = network
        self.device = device
        self.freeze = freeze
        self.lower: nn.Module | None = None
        self.upper = network
        if freeze != "none":
            self.lower, self.upper = _split(network, backbone, freeze)
            kept = {id(parameter) for parameter in self.upper.parameters()}
            for parameter in network.parameters():
                parameter.requires_grad_(id(parameter) in kept)

    def train(self) -> None:
        """Training mode for the layers that are trained; the frozen ones always stay in that of inference."""
        self.network.train()
        if self.lower is not None:
            self.lower.eval()

    def parameters(self) -> list[nn.Parameter]:
        """Those that are trained."""
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    def activations(self, pixels: Tensor) -> Tensor:
        """Outputs of the frozen layers for pixels (batch, H, W, 3) on 0..255; without any, the normalised pixels."""
        inputs = normalise(pixels, *statistics_of(self.network))
        if self.lower is None:
            return inputs
        with torch.no_grad():
            return forward(self.lower, inputs, self.device)

    def features(self, pixels: np.ndarray) -> np.ndarray:
        """Float32 (batch, features) of uint8 (batch, H, W, 3), what the head sees; of a frozen backbone alone."""
        outputs = self.activations(torch.tensor(pixels, device=self.device.device)).float().flatten(1)
        return outputs.cpu().numpy()

    @property
    def digest(self) -> str:
        """Of all that decides the activations but the pixels."""
        assert self.lower is not None
        facts = statistics_of(self.network), self.device.device.type, self.device.dtype
        digest = hashlib.blake2b(repr(facts).encode(), digest_size=16)
        for name, tensor in self.lower.state_dict().items():
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def logits(self, activations: Tensor) -> Tensor:
        """Float32 logits (batch, attributes)."""
        return forward(self.upper, activations, self.device).float()


@torch.inference_mode()
def features(partly_frozen: PartlyFrozen, dataset: MultiLabelDataset) -> np.ndarray:
    """What the head of a network sees of all images, float32 (images, features), where its backbone is frozen.

    Computed once, and kept with the pixel cache by each file's content, for whoever asks of the same layers.
    """
    partly_frozen.network.eval()
    return dataset.map_pixels(
        partly_frozen.features,
        "computing features",
        keep=f"{KEPT}{partly_frozen.digest}",
        threads=1,  # the network's own are enough
    )


class Activations:
    """Outputs of the frozen layers for all images of a data set, computed once; `batch` serves them in place of pixels.

    Those of a frozen backbone are few, and kept, see `features`. Others lie in a file in `folder` that goes with the
    process, and are read through a memory map.

    Raises:
        MlkitError: if the disk has no room for them.
    """

    @torch.inference_mode()
    def __init__(self, dataset: MultiLabelDataset, partly_frozen: PartlyFrozen, folder: Path) -> None:
        self.targets = dataset.targets
        partly_frozen.network.eval()
        self._features = torch.from_numpy(features(partly_frozen, dataset)) if partly_frozen.freeze == "backbone" else None
        if self._features is not None:
            return
        with (
            tempfile.TemporaryFile(dir=folder, prefix=".activations-") as file,
            bar(total=len(dataset), desc="computing activations", unit="image") as progress,
        ):
            for chosen in np.array_split(np.arange(len(dataset)), -(-len(dataset) // _BATCH)):
                pixels = torch.from_numpy(dataset.batch(chosen)[0]).to(partly_frozen.device.device)
                outputs = partly_frozen.activations(pixels).cpu()
                if outputs.ndim == 4:  # the layout in which the next convolution wants them
                    outputs = outputs.permute(0, 2, 3, 1)
                outputs = outputs.contiguous()
                if not file.tell():
                    self._shape, self._dtype = outputs.shape[1:], outputs.dtype
                    row_bytes = outputs[0].nbytes
                    way_out = "free some, or freeze more layers"
                    check_space(folder, len(dataset) * row_bytes, "the activations need", way_out)
                file.write(outputs.view(torch.uint8).numpy().tobytes())
                progress.update(len(chosen))
            file.flush()
            self._rows = MemmapRows(file, row_bytes)  # stays readable after the file is closed, and thereby deleted

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, indices: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """Activations (batch, ...) and targets int8 (batch, attributes) of several images."""
        targets = self.targets[indices]
        if self._features is not None:
            return self._features[torch.from_numpy(indices)], targets
        rows = torch.from_numpy(self._rows.read(indices)).view(self._dtype).view(-1, *self._shape)
        return (rows.permute(0, 3, 1, 2) if rows.ndim == 4 else rows), targets


class _Tracer(fx.Tracer):
    """Keeps layers whole that behave differently in training and inference; a trace would fix one of the two."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        from torchvision.ops import StochasticDepth

        return isinstance(m, StochasticDepth) or super().is_leaf_module(m, module_qualified_name)


def _split(network: nn.Module, backbone: str, freeze: str) -> tuple[nn.Module, nn.Module]:
    nodes = list(_Tracer().trace(network).nodes)
    for border in _borders(network, backbone, freeze, nodes):
        lower, _ = _part(network, nodes[: border + 1])
        upper, crossing = _part(network, nodes[border + 1 :], entry=nodes[border])
        if not crossing:
            return lower, upper
    raise ParameterError(f"freeze {freeze!r}: {1 + len(crossing)} tensors leave that layer of {backbone}; choose another")


def _borders(network: nn.Module, backbone: str, freeze: str, nodes: list[fx.Node]) -> list[int]:
    """Indices of the last frozen node, the best first."""
    head = head_name(network, backbone)
    if freeze == "backbone":
        return [next(i for i, node in enumerate(nodes) if node.target == head) - 1]
    layers = _before_last_stage(network, backbone) if freeze == "lower" else [freeze.removeprefix("until:")]
    known = {name for name, _ in network.named_modules() if name and not f"{name}.".startswith(f"{head}.")}
    if freeze != "lower" and (not freeze.startswith("until:") or layers[0] not in known):
        choices = ["none", "lower", "backbone", *(f"until:{name}" for name, _ in network.named_children())]
        raise ParameterError(f"freeze is {freeze!r}{nearest(freeze, choices)}")
    return [max(i for i, node in enumerate(nodes) if layer in node.meta.get("nn_module_stack", {})) for layer in layers]


@torch.no_grad()
def _before_last_stage(network: nn.Module, backbone: str) -> list[str]:
    """Blocks, children of a network or theirs, whose maps are larger than those that are pooled; the last first."""
    sides: dict[str, int] = {}

    def note(name: str, output: object) -> None:
        # Channels first or last: maps are square, until they are pooled to a point.
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] > 1:
            sides[name] = output.shape[2]

    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: note(name, output))
        for name, module in network.named_modules()
        if name and name.count(".") < 2
    ]
    training = network.training
    try:
        network.eval()(next(network.parameters()).new_zeros(1, 3, 224, 224))
    except (AssertionError, RuntimeError) as error:  # built for images of another size alone
        raise ParameterError(
            f"freeze is 'lower': {backbone} takes no images of 224 px ({error}); name a layer, until:<layer>"
        ) from None
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    *_, last = sides.values()
    if last == max(sides.values()):
        raise ParameterError(f"freeze is 'lower': the maps of {backbone} are all of one size; name a layer, until:<layer>")
    return [name for name, side in reversed(sides.items()) if side > last]


def _part(network: nn.Module, nodes: list[fx.Node], entry: fx.Node | None = None) -> tuple[nn.Module, set[str]]:
    """A module of consecutive nodes of the trace; and what it needs from before them, other than `entry` and parameters."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    inside = set(nodes)
    crossing: set[str] = set()
    if entry is not None:
        copies[entry] = graph.placeholder("activations")

    def copied(node: fx.Node) -> fx.Node:
        if node not in copies and node not in inside and node.op != "get_attr":
            crossing.add(node.name)
            copies[node] = graph.placeholder(node.name)
        elif node not in copies:
            copies[node] = graph.node_copy(node, copied)
        return copies[node]

    for node in nodes:
        copied(node)
    if nodes[-1].op != "output":
        graph.output(copies[nodes[-1]])
    return fx.GraphModule(network, graph), crossing
