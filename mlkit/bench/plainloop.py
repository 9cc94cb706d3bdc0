"""The plain loop that mlkit is measured against: Pillow, torchvision's transforms, a DataLoader, float32, Adam.

Written as a good practitioner writes it in an afternoon, and on purpose with nothing of mlkit in it.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


class PlainImages(Dataset[tuple[Tensor, Tensor]]):
    """Item i is (normalised float32 pixels (3, size, size), targets (attributes,) of 1, 0 and -1 for unknown)."""

    def __init__(self, files: Sequence[Path], targets: Tensor, size: int) -> None:
        self.files = files
        self.targets = targets
        self.resize = transforms.Resize((size, size))
        self.finish = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.finish(self.decode(index)), self.targets[index]

    def decode(self, index: int) -> Image.Image:
        """Decode and resize one file."""
        resized: Image.Image = self.resize(Image.open(self.files[index]).convert("RGB"))
        return resized


def plain_loader(
    images: PlainImages, batch_size: int, workers: int, device: torch.device, shuffle: bool = True
) -> DataLoader[tuple[Tensor, Tensor]]:
    """A DataLoader as the guides recommend it: workers that stay, pinned memory for a GPU."""
    return DataLoader(
        images,
        batch_size,
        shuffle=shuffle,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
        drop_last=shuffle and len(images) % batch_size == 1,  # batch normalisation cannot train on one image
    )


def plain_loss(logits: Tensor, targets: Tensor, pos_weight: Tensor | None = None) -> Tensor:
    """Mean binary cross entropy over the known cells."""
    mask = (targets >= 0).float()
    loss = F.binary_cross_entropy_with_logits(logits, targets.clamp(min=0).float(), pos_weight=pos_weight, reduction="none")
    return (loss * mask).sum() / mask.sum().clamp(min=1)


def plain_train(
    model: nn.Module,
    loader: DataLoader[tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    pos_weight: Tensor | None,
    device: torch.device,
    steps: int | None = None,
) -> int:
    """Train for one epoch, or for its first `steps` batches; returns the number of images seen."""
    model.train()
    seen, losses = 0, []
    for step, (inputs, targets) in enumerate(loader):
        if step == steps:
            break
        inputs, targets = inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True)
        loss = plain_loss(model(inputs), targets, pos_weight)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.detach())
        seen += len(inputs)
    return seen


@torch.inference_mode()
def plain_predict(model: nn.Module, loader: DataLoader[tuple[Tensor, Tensor]], device: torch.device) -> Tensor:
    """Probabilities (images, attributes) of all images of the loader, on the CPU."""
    model.eval()
    return torch.cat([torch.sigmoid(model(inputs.to(device, non_blocking=True))).cpu() for inputs, _ in loader])
