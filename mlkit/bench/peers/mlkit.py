"""mlkit, in a process of its own: what notebook 02 and `mlkit train` do."""

import iterstrat.ml_stratifiers  # noqa: F401  # mlkit imports it and torchvision late; for this table they belong to the start
import torchvision  # noqa: F401
from torch.optim.optimizer import register_optimizer_step_post_hook

from mlkit.bench.peers.job import Job, say_step
from mlkit.data.source import DataSource
from mlkit.runs import Run
from mlkit.training.config import TrainConfig
from mlkit.training.loop import train

if __name__ == "__main__":
    register_optimizer_step_post_hook(say_step)
    job = Job.begin()
    config = TrainConfig(**job.settings)
    dataset = DataSource(job.images, job.labels).open(config.image_size)
    train(dataset, config, Run.create("peer", job.settings, dataset.fingerprint))
