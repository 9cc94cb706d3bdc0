"""All measurements, taking turns, in the time there is.

They take turns several times over, so that whatever else the machine does meanwhile hits them alike. Figures are medians
over the turns; ratios are medians of the ratios within each turn. How many images and how many turns follows from the time
there is and the pace of the machine; what else ran meanwhile is watched, and told where it spoils the ratios.
"""

import platform
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlkit.bench.config import BenchConfig
from mlkit.bench.load import doubts, moment, summarise
from mlkit.bench.machine import processor, seconds_per_image, tuned_convolutions
from mlkit.bench.measurements import EPOCHS, Measurements
from mlkit.bench.memory import memory, memory_of_caches
from mlkit.bench.peers.race import PEERS, peer
from mlkit.bench.photos import labelled_images
from mlkit.bench.reading import label_file
from mlkit.bench.report import medians
from mlkit.data.cache import cores
from mlkit.files import make_folder
from mlkit.models.device import Device, choose_device
from mlkit.progress import bar
from mlkit.runs import PACKAGES, outputs_root
from mlkit.training.config import TrainConfig

VALIDATION = 0.25  # share of the images that is held out
TURNS = 3  # that the number of images is chosen for
PASSES = 12  # of the plain loop over the training images, that a turn of all measurements takes as long as, about
PEER_PASSES = EPOCHS + 1.0  # those of one peer: its epochs, its validations and its start
SHARE = 0.8  # of the time, for the turns; the rest is for what is measured once


def measure(config: BenchConfig) -> dict[str, Any]:
    """Take all measurements, in about `config.minutes`.

    Returns:
        Figures by name: medians over the repeats, plain numbers whose names end in their unit. Beside them `spread` (name ->
        lowest and highest), `ratios` ("name/other name" -> number), `left_out` (name -> why there is no such figure),
        `load` (shares of the cores that others took, see `bench.load`), `doubts` (why the ratios cannot be trusted),
        `turns`, `machine`, `versions`, `device`, `data` and `config`.

    Raises:
        MlkitError: if the device, the network or the images cannot be used as asked.
    """
    device = choose_device(config.device, config.precision, config.image_size)
    started = time.monotonic()
    outputs = make_folder(outputs_root())
    with (
        tempfile.TemporaryDirectory(prefix=".bench-", dir=outputs, ignore_cleanup_errors=True) as work,
        tuned_convolutions(),
    ):
        count = config.count or _fitting_count(config, device)
        folder, labels, data = labelled_images(config.images, count, Path(work))
        bench = Measurements(folder, labels, training_config(config), device, Path(work))
        taken, turns = _take_turns(config, bench, started)
    beside = summarise(taken.moments)
    turn_by_turn = [a / b for a, b in zip(taken.samples["mlkit_img_per_s"], taken.samples["plain_img_per_s"], strict=True)]
    return {
        **medians(taken.samples, config),
        "gflop_per_img": bench.gflop,
        "gbyte_per_img": bench.gbyte,
        "left_out": bench.left_out,
        "machine": {"processor": processor(), "cores": cores(), "system": platform.platform(terse=True)},
        "load": beside,
        "doubts": doubts(beside, turn_by_turn),
        "turns": turns,
        "minutes": (time.monotonic() - started) / 60,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "device": str(device),
        "data": f"{len(bench.files)} images to train on, {data}",
        "config": asdict(config),
    }


class _Taken:
    """What was measured so far, by name, and the load of the machine between the measurements."""

    def __init__(self, progress: Any) -> None:
        self.samples: dict[str, list[float]] = defaultdict(list)
        self.moments = [moment()]
        self._progress = progress

    def take(self, measurement: Callable[..., dict[str, float]], *arguments: Any) -> None:
        self._progress.set_description(measurement.__name__.replace("_", " "))
        for key, value in measurement(*arguments).items():
            self.samples[key].append(value)
        self.moments.append(moment())
        self._progress.update()


def _take_turns(config: BenchConfig, bench: Measurements, started: float) -> tuple[_Taken, int]:
    """All measurements, as often as asked for or as the time allows, and how often that was."""
    # the plain loop before and after mlkit, the pure step right after
    turn = [bench.limits, bench.plain_serial, bench.mlkit, bench.plain_workers, bench.step]
    turn += [bench.decode, bench.predict, bench.frozen, bench.start]
    turns, longest, last = 0, 0.0, started + SHARE * 60 * config.minutes
    with bar(unit="measurement") as progress:
        taken = _Taken(progress)
        while turns < config.repeats if config.repeats else not turns or time.monotonic() + longest < last:
            began = time.monotonic()
            for measurement in turn:
                taken.take(measurement)
            for name in PEERS if config.peers else ():
                taken.take(peer, bench, name)
            turns, longest = turns + 1, max(longest, time.monotonic() - began)
        taken.take(bench.duplicates)
        taken.take(label_file, bench.work, config)
        taken.take(memory, bench, config)
        if config.cache_count:
            taken.take(memory_of_caches, bench, config, started + 60 * config.minutes)
    samples = taken.samples
    for failed in bench.left_out.keys() & samples.keys():  # a peer, in a later turn
        del samples[failed]
    better = max("plain_0_workers_img_per_s", "plain_n_workers_img_per_s", key=lambda key: statistics.median(samples[key]))
    samples["plain_img_per_s"] = samples[better]
    return taken, turns


def training_config(config: BenchConfig) -> TrainConfig:
    """The training that a bench measures."""
    return TrainConfig(
        image_size=config.image_size,
        backbone=config.backbone,
        weights="none",
        epochs=EPOCHS,
        batch_size=config.batch_size,
        validation_fraction=VALIDATION,
        test_fraction=0.0,
        device=config.device,
        precision=config.precision,
    )


def _fitting_count(config: BenchConfig, device: Device) -> int:
    """Images with which `TURNS` turns fit into the time; at least three batches."""
    most = 128 if device.device.type == "cpu" else 4096
    passes = TURNS * (PASSES + (len(PEERS) * PEER_PASSES if config.peers else 0)) * (1 - VALIDATION)
    fitting = int(60 * config.minutes * SHARE / passes / seconds_per_image(config.backbone, config.image_size, device))
    return max(3 * config.batch_size, min(fitting, most))
