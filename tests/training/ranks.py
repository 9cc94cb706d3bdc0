"""One of several processes that train side by side what `test_processes.py` asks for, all cases one after the other."""

import gc
import os
import tempfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from tinynet import PLAIN, TINYNET

from mlkit.data.labels import from_codes, to_codes
from mlkit.data.source import DataSource
from mlkit.losses import LOSSES
from mlkit.models.device import choose_device
from mlkit.runs import Run
from mlkit.training.config import TrainConfig
from mlkit.training.loop import train_here
from mlkit.training.processes import Processes

BASE = TrainConfig(
    image_size=16,
    backbone=PLAIN,
    weights="none",
    epochs=2,
    batch_size=12,
    test_fraction=0.2,
    threshold="fixed",
    near_duplicates=False,
    calibrate=False,
    device="cpu",
)
START = "start by 1/model.pth"  # weights for what is frozen
CASES = {
    "start": BASE,
    **{f"loss {name}": replace(BASE, loss=name, epochs=3 if loss.takes_epoch else 1) for name, loss in LOSSES.items()},
    "accumulated": replace(BASE, accumulate=3, clip_norm=0.5),
    "average, balanced": replace(BASE, ema_decay=0.9, sampler="balanced", schedule="cosine"),
    "augmented": replace(BASE, rotation=20, mixup=0.4, label_smoothing=0.1),
    "part": replace(BASE, weights=START, freeze="until:conv1", optimizer="adamw", weight_decay=0.05),
    "head": replace(BASE, weights=START, freeze="backbone", optimizer="lbfgs"),
    "small batches": replace(BASE, batch_size=5, epochs=1),
    "batch normalisation": replace(BASE, backbone=TINYNET),
    "gone on": BASE,  # with what one process had begun
}


def data(folder):
    """The sample with most cells unknown, so that a part of a batch often has no known one."""
    dataset = DataSource(str(folder / "images"), str(folder / "labels.csv")).open(BASE.image_size)
    codes = to_codes(dataset.labels)
    codes[torch.rand(codes.shape, generator=torch.Generator().manual_seed(1)).numpy() < 0.6] = -1
    return dataset.with_labels(from_codes(codes, dataset.labels.index, dataset.attributes))


def train_case(name, dataset, folder, processes):
    """Train a case into its folder, which the main process writes, or goes on with."""
    config = CASES[name]
    if config.weights == START:
        config = replace(config, weights=str(folder / START))
    own = nullcontext(folder / f"{name} by {processes.count}") if processes.main else tempfile.TemporaryDirectory()
    with own as path:
        run = Run.create(Path(path), {}, dataset.fingerprint)
        with run.claimed():
            train_here(dataset, config, run, choose_device("cpu"), processes=processes)


def train_cases(rank, count, port, images, results, cases):
    """Train them as a process that torchrun has started does."""
    from accelerate import Accelerator

    torch.set_num_threads(1)
    gc.freeze()  # each training collects garbage, and need not look through all that was imported
    os.environ |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    together, dataset = Processes(Accelerator(cpu=True), main=rank == 0), data(images)
    for case in cases:
        train_case(case, dataset, results, together)
