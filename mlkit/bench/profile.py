"""Where the time of a training step goes, operator by operator."""

import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from mlkit.bench.config import BenchConfig
from mlkit.bench.machine import processor, synchronise
from mlkit.bench.measurements import redirected
from mlkit.bench.photos import labelled_images
from mlkit.bench.turns import training_config
from mlkit.data.source import DataSource
from mlkit.files import environment, make_folder
from mlkit.models.device import Device, choose_device, keep_freed_memory
from mlkit.runs import Run, outputs_root
from mlkit.training.step import TrainingStep

STEPS = 5  # that are watched, after two that warm up
_REST = "rest, Python between included"
_GROUPS = {  # what the names of operators, or of a span that they are in, contain; the first that fits counts
    "optimizer": r"Optimizer\.step",
    "loss": r"^loss$|cross_entropy|log_sigmoid|LogsumBackward",
    "convolution, forward": r"conv(olution|\dd)$",
    "convolution, backward": r"conv\w*backward",
    "normalisation": r"(batch|layer|group)_norm",
    "activation": r"relu|clamp|threshold|hardtanh|silu|hardswish|hardsigmoid|gelu|softmax",
    "linear, attention": r"::(\w*mm|linear|\w*attention\w*)$",
    "add, pool": r"::(add_?|mul_?|mean|sum)$|pool",
    "copies, allocation": r"copy|clone|empty|fill|zero|resize|::to$|contiguous",
}


def profile_step(config: BenchConfig) -> pd.DataFrame:
    """Watch a few steps of mlkit's own training, on one batch in place, by `torch.profiler`.

    Returns:
        A row for each group of operators, the slowest first, and for the whole `step`: `ms` (the least of all steps, since
        others may take the cores), `share`, and the images/s of a step in which the group cost nothing, `images/s without`.

    Raises:
        MlkitError: if the device, the network or the images cannot be used as asked.
    """
    device, training = choose_device(config.device, config.precision, config.image_size), training_config(config)
    keep_freed_memory()
    with tempfile.TemporaryDirectory(prefix=".profile-", dir=make_folder(outputs_root())) as work, redirected(Path(work)):
        folder, labels, _ = labelled_images(config.images, config.batch_size, Path(work))
        dataset = DataSource(str(folder), str(labels)).open(config.image_size)
        everything = np.arange(len(dataset))
        step = TrainingStep(dataset, everything, training, device, Run.create("profile", {}, dataset.fingerprint))
        batch = next(step.feed.batches([everything]))
        step.objective = record_function("loss")(step.objective)
        step.start_epoch(1)
        with environment(KINETO_LOG_LEVEL="9"):  # or the profiler tells on stderr that it starts
            call = partial(step, *batch, step=1, lr=training.learning_rate)
            times = [_watched(call, device) for _ in range(2 + STEPS)]
    table = pd.DataFrame({"ms": pd.DataFrame(times[2:]).fillna(0).min()}).sort_values("ms", ascending=False)
    table.loc["step"] = whole = table.ms.sum()
    table["share"] = table.ms / whole
    table["images/s without"] = 1000 * len(dataset) / (whole - table.ms).where(table.index != "step", whole)
    return table


def _watched(step: Callable[[], object], device: Device) -> dict[str, float]:
    """Milliseconds of one step by group."""
    cuda = [ProfilerActivity.CUDA] if device.device.type == "cuda" else []
    synchronise(device.device)
    with profile(activities=[ProfilerActivity.CPU, *cuda]) as watched:
        started = time.perf_counter()
        step()
        synchronise(device.device)
        whole = 1000 * (time.perf_counter() - started)
    times: defaultdict[str, float] = defaultdict(float)
    for event in watched.events() or []:
        if event.device_type.name == "CPU":  # a GPU's kernels count for the operator that started them
            times[_group(event)] += (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1000
    times[_REST] += max(0.0, whole - sum(times.values()))
    return times


def _group(event: Any) -> str:
    """The group of an operator: "optimizer" or "loss" where it is within one, else that of its own name."""
    names = [event.name]
    while (event := event.cpu_parent) is not None:
        names.append(event.name)
    within = [(group, "\n".join(names)) for group in ("optimizer", "loss")] + [(group, names[0]) for group in _GROUPS]
    return next((group for group, text in within if re.search(_GROUPS[group], text, re.M)), _REST)


def tell(table: pd.DataFrame, config: BenchConfig) -> str:
    """The table for people, with the machine and the step that it is of."""
    device = choose_device(config.device, config.precision, config.image_size)
    what = f"{config.backbone}, {config.image_size} px, batch of {config.batch_size}, {device.short}, {processor()}"
    shown = table.assign(ms=table.ms.map("{:,.1f}".format), share=table.share.map("{:.1%}".format))
    return f"one training step: {what}, {torch.get_num_threads()} threads\n{shown.round(2).to_string()}"
