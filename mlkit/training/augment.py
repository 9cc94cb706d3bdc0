"""Random augmentation of whole batches on the training device, different for each image, reproducible by seed."""

from dataclasses import fields

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mlkit.training.config import Strengths

_LUMA = (0.299, 0.587, 0.114)  # weights of red, green, blue in grey (ITU-R BT.601)


class Augmentation(Strengths):
    """The geometry is one affine map per image, the colour one 3x3 matrix."""

    @classmethod
    def of(cls, strengths: Strengths) -> "Augmentation":
        """That of a configuration."""
        return cls(**{field.name: getattr(strengths, field.name) for field in fields(Strengths)})

    def __bool__(self) -> bool:
        return self.augments

    def mixture(self, count: int, seed: int, step: int) -> tuple[float, Tensor]:
        """How to mix the images of a batch (mixup, Zhang et al. 2018): the share of each image, and who it is mixed with.

        The caller mixes the loss of the targets in the same shares, each over its own known cells.
        """
        rng = np.random.default_rng([seed, step, 2])
        share = float(rng.beta(self.mixup, self.mixup)) if self.mixup else 1.0
        return share, torch.from_numpy(rng.permutation(count))

    def draw(self, count: int, seed: int, epoch: int) -> Tensor:
        """Random numbers of one epoch, uniform in -1..1, shape (count, 8): a row for each image of the data set.

        They depend on (seed, epoch, image) alone, not on batches, devices or what was drawn before, so that a training that
        was interrupted goes on with the same images.
        """
        uniform = np.random.default_rng([seed, epoch, 1]).random((count, 8), dtype=np.float32)
        return torch.from_numpy(uniform * 2 - 1)

    def __call__(self, pixels: Tensor, draws: Tensor) -> Tensor:
        """Augment a batch.

        Args:
            pixels: (batch, H, W, 3) uint8.
            draws: (batch, 8), rows of `draw`, on the same device.

        Returns:
            float32 (batch, H, W, 3) on the scale 0..255, which colour may leave a little.
        """
        images = pixels.permute(0, 3, 1, 2).float()
        if self.flip or self.rotation or self.scale or self.translation:
            grid = F.affine_grid(self._geometry(draws), list(images.shape), align_corners=False)
            # reflection, since a black border would tell the network what was done to the image
            images = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        images = images.permute(0, 2, 3, 1)
        if self.brightness or self.contrast or self.saturation:
            matrix, shift = self._colour(images, draws)
            flat = images.reshape(len(images), -1, 3)
            images = torch.baddbmm(shift, flat, matrix).view_as(images)
        return images

    def _geometry(self, draws: Tensor) -> Tensor:
        """Where each output pixel comes from, (batch, 2, 3), in coordinates -1..1 over the image."""
        mirror = torch.where(draws[:, 0] < 2 * self.flip - 1, -1.0, 1.0)
        angle = draws[:, 1] * (self.rotation * np.pi / 180)
        zoom = (1 + self.scale) ** -draws[:, 2]
        cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
        shift = draws[:, 3:5] * (2 * self.translation)
        rows = [torch.stack([cos * mirror, -sin, shift[:, 0]], 1), torch.stack([sin * mirror, cos, shift[:, 1]], 1)]
        return torch.stack(rows, 1)

    def _colour(self, images: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Matrix (batch, 3, 3) and shift (batch, 1, 1) with `colour = pixel @ matrix + shift`."""
        brightness = 1 + self.brightness * draws[:, 5]
        contrast = 1 + self.contrast * draws[:, 6]
        saturation = (1 + self.saturation * draws[:, 7]).view(-1, 1, 1)
        luma = torch.tensor(_LUMA, device=images.device)
        grey = luma.view(3, 1).expand(3, 3)
        matrix = saturation * torch.eye(3, device=images.device) + (1 - saturation) * grey
        mean = images.mean(dim=(1, 2)) @ luma
        matrix = matrix * (brightness * contrast).view(-1, 1, 1)
        return matrix, (brightness * (1 - contrast) * mean).view(-1, 1, 1)


def shrink(pixels: Tensor, side: int) -> Tensor:
    """Images uint8 (batch, H, W, 3) at a smaller side, antialiased."""
    if side == pixels.shape[1]:
        return pixels
    images = pixels.permute(0, 3, 1, 2)
    if pixels.device.type != "cpu":  # bytes only there
        images = images.float()
    images = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
    return images.permute(0, 2, 3, 1)
