"""The plain loop, in a process of its own."""

from pathlib import Path

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader
from torchvision.models import get_model

from mlkit.bench.peers.job import Job, say_step
from mlkit.bench.plainloop import PlainImages, plain_loader, plain_predict, plain_train


def plain_loaders(job: Job) -> list[DataLoader[tuple[Tensor, Tensor]]]:
    """Of the photos to train on and of those to validate on."""
    return [
        plain_loader(
            PlainImages([Path(file) for file in files], torch.tensor(targets), job.image_size),
            job.batch_size,
            job.workers,
            torch.device(job.device),
            shuffle,
        )
        for files, targets, shuffle in ((job.files, job.targets, True), (job.held_out, job.held_out_targets, False))
    ]


if __name__ == "__main__":
    register_optimizer_step_post_hook(say_step)
    job = Job.begin()
    device = torch.device(job.device)
    training, validation = plain_loaders(job)
    model = get_model(job.backbone, num_classes=len(job.targets[0])).to(device)
    optimizer = torch.optim.Adam(model.parameters(), job.learning_rate)
    for _ in range(job.epochs):
        plain_train(model, training, optimizer, None, device)
        plain_predict(model, validation, device)
