"""fastai: `vision_learner` on a `DataBlock`, its own Adam; with torchvision's head instead of its larger one.

A network that it knows no body of is taken whole. Its mixed precision is for CUDA alone, so that it computes in float32 on
every CPU; channels_last by its own callback.
"""

from typing import Any

import pandas as pd
import torchvision
from fastai.callback.channelslast import ChannelsLast
from fastai.vision.all import (
    Callback,
    ColReader,
    ColSplitter,
    DataBlock,
    ImageBlock,
    Learner,
    Normalize,
    RegressionBlock,
    Resize,
    imagenet_stats,
    model_meta,
    vision_learner,
)

from mlkit.bench.peers.job import Job, say_step
from mlkit.bench.plainloop import plain_loss


class SayStep(Callback):
    """Its optimizer is none of torch's, and takes no hook of theirs."""

    def after_step(self) -> None:
        say_step()


if __name__ == "__main__":
    job = Job.begin()
    attributes = [f"attribute {i}" for i in range(len(job.targets[0]))]
    table = pd.DataFrame([*job.targets, *job.held_out_targets], columns=attributes)
    table["file"] = [*job.files, *job.held_out]
    table["is_valid"] = table.index >= len(job.files)
    block = DataBlock(
        blocks=(ImageBlock, RegressionBlock(len(attributes))),  # numbers as they are: 1, 0 and -1
        get_x=ColReader("file"),
        get_y=ColReader(attributes),
        splitter=ColSplitter(),
        item_tfms=Resize(job.image_size, method="squish"),
        batch_tfms=Normalize.from_stats(*imagenet_stats),
    )
    options: dict[str, Any] = {"bs": job.batch_size, "num_workers": job.workers, "persistent_workers": job.workers > 0}
    data = block.dataloaders(table, drop_last=False, device=job.device, **options)
    arch = getattr(torchvision.models, job.backbone)
    learning: dict[str, Any] = {"loss_func": plain_loss, "cbs": [ChannelsLast(), SayStep()]}
    if arch in model_meta:
        head = {"concat_pool": False, "lin_ftrs": [], "ps": 0.0, "first_bn": False}
        learner = vision_learner(data, arch, n_out=len(attributes), pretrained=False, **head, **learning)
    else:
        learner = Learner(data, arch(num_classes=len(attributes)), **learning)
    if job.bf16 and job.device == "cuda":
        learner.to_bf16()
    with learner.no_bar(), learner.no_logging():
        learner.fit(job.epochs, job.learning_rate)
