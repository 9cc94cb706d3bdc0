"""PyTorch Lightning with the usual loader, which is the plain loop's: Pillow, torchvision's transforms, a `DataLoader`."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook
from torchvision.models import get_model

from mlkit.bench.peers.job import Job, say_step
from mlkit.bench.peers.plain import plain_loaders
from mlkit.bench.plainloop import plain_loss


class Module(pl.LightningModule):
    """The network, its loss, its optimizer."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.network = get_model(job.backbone, num_classes=len(job.targets[0]))
        self.rate = job.learning_rate

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        return plain_loss(self.network(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        self.log("validation_loss", plain_loss(self.network(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), self.rate)


if __name__ == "__main__":
    register_optimizer_step_post_hook(say_step)
    job = Job.begin()
    options: dict[str, Any] = {"accelerator": {"cuda": "gpu"}.get(job.device, job.device), "devices": 1, "logger": False}
    trainer = pl.Trainer(
        max_epochs=job.epochs,
        precision="bf16-mixed" if job.bf16 else "32-true",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )
    trainer.fit(Module(job).to(memory_format=torch.channels_last), *plain_loaders(job))
