"""timm's training script, train.py, which its package does not install: what that script puts together.

Taken as it has it on a CPU: `create_loader` with its uint8 prefetcher and workers that stay, `create_optimizer_v2`,
channels_last, bf16 autocast where the hardware multiplies it, a validation after every epoch. Left out is what would cost
time and teach nothing here: augmentation, moving average, learning rate schedule, checkpoints, logs.
"""

from typing import Any

import torch
from PIL import Image
from timm.data.loader import create_loader
from timm.optim import create_optimizer_v2
from torch.utils.data import Dataset
from torchvision.models import get_model

from mlkit.bench.peers.job import Job, say_step
from mlkit.bench.plainloop import plain_loss


class Photos(Dataset[Any]):
    """As timm's ImageDataset, with several labels; `create_loader` sets the transform."""

    transform: Any

    def __init__(self, files: list[str], targets: list[list[int]]) -> None:
        self.files, self.targets = files, torch.tensor(targets)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        return self.transform(Image.open(self.files[index]).convert("RGB")), self.targets[index]


def loader_of(job: Job, files: list[str], targets: list[list[int]], training: bool) -> Any:
    """timm's loader, which resizes to a square and augments nothing."""
    return create_loader(
        Photos(files, targets),
        (3, job.image_size, job.image_size),
        job.batch_size,
        is_training=training,
        no_aug=True,
        crop_pct=1.0,
        crop_mode="squash",
        num_workers=job.workers,
        device=torch.device(job.device),
    )


if __name__ == "__main__":
    job = Job.begin()
    training = loader_of(job, job.files, job.targets, True)
    validation = loader_of(job, job.held_out, job.held_out_targets, False)
    model: Any = get_model(job.backbone, num_classes=len(job.targets[0]))
    model.to(device=job.device, memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(model, "adam", lr=job.learning_rate)
    optimizer.register_step_post_hook(say_step)
    autocast = torch.autocast(job.device, torch.bfloat16, enabled=job.bf16)
    for _ in range(job.epochs):
        model.train()
        for inputs, targets in training:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
            with autocast:
                loss = plain_loss(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        model.eval()
        with torch.inference_mode():
            for inputs, targets in validation:
                with autocast:
                    plain_loss(model(inputs.contiguous(memory_format=torch.channels_last)), targets)
