"""How fast mlkit is on this machine, beside the plain loop and beside what the machine can do at all, in one run.

All measurements take turns, several times over, so that whatever else the machine does meanwhile hits them alike. Figures
are medians over the turns; ratios are medians of the ratios within each turn. How many images and how many turns follows
from the time there is and the pace of the machine; what else ran meanwhile is watched, and told where it spoils the ratios.
"""

import platform
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from mlkit.bench import load
from mlkit.bench.footprint import peak_rss_mb
from mlkit.bench.measurements import EPOCHS, Measurements, seconds_per_image
from mlkit.data.cache import cores
from mlkit.data.labelfile import write_labels
from mlkit.data.labels import from_codes
from mlkit.errors import LabelError, ParameterError
from mlkit.files import make_folder, resolve
from mlkit.models.device import Device, choose_device
from mlkit.parameters import Between, check_fields
from mlkit.progress import bar
from mlkit.runs import PACKAGES, outputs_root
from mlkit.training.config import TrainConfig

VALIDATION = 0.25  # share of the images that is held out
TURNS = 3  # that the number of images is chosen for
PASSES = 12  # of the plain loop over the training images, that a turn of all measurements takes as long as, about
SHARE = 0.8  # of the time, for the turns; the rest is for what is measured once
DISTINCT = 128  # generated photos that differ; further ones are copies, which cost the same to decode


@dataclass(frozen=True)
class BenchConfig:
    """What to measure, and how often.

    Raises:
        ParameterError: if a value is outside of what is possible.
    """

    images: str = ""  # folder of images; empty generates photo-like JPEG files of 800x800 pixels
    minutes: Annotated[float, Between(0, open=True)] = 3.0  # that images and repeats are fitted to, where they are 0
    # images, of which a quarter is held out for validation; 0: what the time allows, at most 128 on a CPU, 4096 on a GPU
    count: Annotated[int, Between(0)] = 0
    image_size: Annotated[int, Between(1)] = 224
    backbone: str = "resnet18"
    batch_size: Annotated[int, Between(2)] = 32
    repeats: Annotated[int, Between(0)] = 0  # of every measurement; 0: what the time allows
    device: str = "auto"
    precision: str = "auto"
    # images of the larger generated cache, the smaller has a tenth; 0 leaves that part out
    cache_count: Annotated[int, Between(0)] = 20_000

    def __post_init__(self) -> None:
        check_fields(self)
        if 0 < self.cache_count < 20:
            raise ParameterError(f"cache_count is {self.cache_count}; it must be 0 or at least 20")


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
    end = started + 60 * config.minutes
    training = TrainConfig(
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
    samples: dict[str, list[float]] = defaultdict(list)
    with (
        tempfile.TemporaryDirectory(prefix=".bench-", dir=make_folder(outputs_root()), ignore_cleanup_errors=True) as name,
        _tuned_convolutions(),
    ):
        work = Path(name)
        count = config.count or _fitting_count(config, device)
        folder, labels, data = _images(config, count, work)
        bench = Measurements(folder, labels, training, device, work)
        # the plain loop before and after mlkit, the pure step right after
        turn = [bench.gemm, bench.plain_serial, bench.mlkit, bench.plain_workers, bench.step]
        turn += [bench.decode, bench.predict, bench.frozen, bench.start]
        moments = [load.moment()]
        with bar(unit="measurement") as progress:

            def take(measurement: Callable[[], dict[str, float]]) -> None:
                progress.set_description(measurement.__name__.replace("_", " "))
                for key, value in measurement().items():
                    samples[key].append(value)
                moments.append(load.moment())
                progress.update()

            turns, longest, last = 0, 0.0, end - (1 - SHARE) * 60 * config.minutes
            while turns < config.repeats if config.repeats else not turns or time.monotonic() + longest < last:
                began = time.monotonic()
                for measurement in turn:
                    take(measurement)
                turns, longest = turns + 1, max(longest, time.monotonic() - began)
            for measurement in (bench.duplicates, *_memory_parts(config, training, bench, work, end)):
                take(measurement)
    better = max("plain_0_workers_img_per_s", "plain_n_workers_img_per_s", key=lambda k: statistics.median(samples[k]))
    samples["plain_img_per_s"] = samples[better]
    beside = load.summarise(moments)
    turn_by_turn = [a / b for a, b in zip(samples["mlkit_img_per_s"], samples["plain_img_per_s"], strict=True)]
    return {
        **{key: statistics.median(values) for key, values in samples.items()},
        "gflop_per_img": bench.gflop,
        "spread": {key: [min(values), max(values)] for key, values in samples.items()},
        "ratios": {
            f"{row.key}/{other}": statistics.median(a / b for a, b in zip(samples[row.key], samples[other], strict=True))
            for row in _rows(config)
            for other in row.ratios.values()
            if row.key in samples
        },
        "left_out": bench.left_out,
        "machine": {"processor": _processor(), "cores": cores(), "system": platform.platform(terse=True)},
        "load": beside,
        "doubts": load.doubts(beside, turn_by_turn),
        "turns": turns,
        "minutes": (time.monotonic() - started) / 60,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "device": str(device),
        "data": f"{len(bench.files)} images to train on, {data}",
        "config": asdict(config),
    }


@dataclass(frozen=True)
class _Row:
    """One line of the table: a figure, its unit, and the figures that it is divided by, under a short name."""

    key: str
    label: str
    unit: str = "images/s"
    ratios: Mapping[str, str] = field(default_factory=dict)


def _rows(config: BenchConfig) -> list[_Row]:
    plain, step = {"plain": "plain_img_per_s"}, {"pure step": "step_img_per_s"}
    decode, predict = {"plain": "plain_decode_img_per_s"}, {"plain": "plain_predict_img_per_s"}
    small, large = config.cache_count // 10, config.cache_count
    return [
        _Row("plain_0_workers_img_per_s", "training: plain loop, 0 workers"),
        _Row("plain_n_workers_img_per_s", f"training: plain loop, {cores()} workers"),
        _Row("plain_img_per_s", "training: plain loop, the better of the two"),
        _Row("mlkit_first_epoch_img_per_s", "training: mlkit, first epoch with the decode", ratios=plain | step),
        _Row("mlkit_img_per_s", "training: mlkit, later epochs", ratios=plain | step),
        _Row("step_img_per_s", "training: pure step, data in place", ratios=plain | {"GEMM bound": "gemm_bound_img_per_s"}),
        _Row("gemm_bound_fp32_img_per_s", "training: GEMM bound, fp32", ratios=plain),
        _Row("gemm_bound_bf16_img_per_s", "training: GEMM bound, bf16", ratios=plain),
        _Row("gemm_fp32_gflop_per_s", "matrix product, fp32", "GFLOP/s"),
        _Row("gemm_bf16_gflop_per_s", "matrix product, bf16", "GFLOP/s"),
        _Row("plain_decode_img_per_s", "decode and resize, one core: plain"),
        _Row("cache_decode_img_per_s", "decode and resize, one core: mlkit", ratios=decode),
        _Row("cache_build_img_per_s", "building the pixel cache, all cores", ratios=decode),
        _Row("plain_predict_img_per_s", "prediction, folder: plain"),
        _Row("mlkit_predict_img_per_s", "prediction, folder: mlkit", ratios=predict),
        _Row("plain_predict_one_ms", "prediction, one image: plain", "ms"),
        _Row("mlkit_predict_one_ms", "prediction, one image: mlkit", "ms", {"plain": "plain_predict_one_ms"}),
        _Row("inference_pass_s", "one pass of inference over the images", "s"),
        _Row("frozen_s", "training the head alone, ten epochs", "s", {"the pass": "inference_pass_s"}),
        _Row("duplicates_s", "search for near duplicates: 50,000 images", "s"),
        _Row("duplicates_of_a_scene_s", "search for near duplicates: 8,000 frames of one scene", "s"),
        _Row("import_s", "start: import mlkit", "s"),
        _Row("help_s", "start: mlkit --help", "s"),
        _Row("predict_cold_s", "start: mlkit predict, one image", "s"),
        _Row("plain_peak_rss_mb", "peak memory: plain loop, 0 workers", "MB"),
        _Row("peak_rss_mb", "peak memory: mlkit train", "MB", {"plain": "plain_peak_rss_mb"}),
        _Row("peak_gpu_mb", "peak GPU memory: mlkit train", "MB"),
        _Row(f"rss_{small}_mb", f"peak memory: cache of {small:,} images", "MB"),
        _Row(f"rss_{large}_mb", f"peak memory: cache of {large:,} images", "MB", {f"{small:,}": f"rss_{small}_mb"}),
    ]


def table(figures: Mapping[str, Any]) -> pd.DataFrame:
    """The figures of `measure` for people: median, lowest and highest, unit, ratios; or why there are none."""
    lines = []
    for row in _rows(BenchConfig(**figures["config"])):
        if row.key in figures:
            numbers = [figures[row.key], *figures["spread"][row.key]]
            median, low, high = (f"{n:,.0f}" if n >= 100 else f"{n:.3g}" for n in numbers)
            ratios = [f"{figures['ratios'][f'{row.key}/{other}']:.2f} x {name}" for name, other in row.ratios.items()]
            lines.append((row.label, median, low, high, row.unit, ", ".join(ratios)))
        elif row.key in figures["left_out"]:
            lines.append((row.label, "-", "-", "-", "", f"left out: {figures['left_out'][row.key]}"))
    columns = ["measured", "median", "low", "high", "unit", "ratio"]
    return pd.DataFrame(lines, columns=columns).set_index("measured")


def describe(figures: Mapping[str, Any]) -> str:
    """What was measured, and on what: machine, precision and its reason, versions, data."""
    machine, config = figures["machine"], figures["config"]
    return "\n".join(
        [
            f"machine:  {machine['processor']}, {machine['cores']} cores, {machine['system']}",
            f"device:   {figures['device']}",
            f"versions: {', '.join(f'{name} {number}' for name, number in figures['versions'].items())}",
            f"network:  {config['backbone']}, {config['image_size']} px, batches of {config['batch_size']}, "
            f"{figures['gflop_per_img']:.3g} GFLOP an image (forward and backward)",
            f"data:     {figures['data']}",
            f"repeats:  {figures['turns']}, interleaved; {figures['minutes']:.1f} minutes",
            f"load:     {_load(figures)}",
        ]
    )


def _load(figures: Mapping[str, Any]) -> str:
    """What ran beside the bench, and whether the ratios are to be trusted."""
    beside = "others took {others:.0%} of the cores, the hypervisor {steal:.0%}, on average {queue:.1f} tasks ran or waited"
    said = beside.format(**figures["load"]) if figures["load"] else "unknown, for want of /proc/stat"
    if not figures["doubts"]:
        return said
    return f"{said}\nThe ratios cannot be trusted: {'; '.join(figures['doubts'])}. Measure again with nothing beside it."


def _memory_parts(
    config: BenchConfig, training: TrainConfig, bench: Measurements, work: Path, end: float
) -> list[Callable[[], dict[str, float]]]:
    """Peak resident memory, measured once: of the plain loop and of mlkit, of a small and of a large pixel cache."""
    common = {"backbone": config.backbone, "image_size": config.image_size, "batch_size": config.batch_size}

    def memory() -> dict[str, float]:
        ours = {"images": str(bench.folder), "labels": str(bench.labels), "training": asdict(training) | {"epochs": 1}}
        plain = {"files": [str(file) for file in bench.files], "attributes": 4, "device": config.device, **common}
        return {
            "peak_rss_mb": peak_rss_mb("train_mlkit", work / "memory", **ours),
            "plain_peak_rss_mb": peak_rss_mb("train_plain", work / "memory", **plain),
        }

    def memory_of_caches() -> dict[str, float]:
        needed = 1.2 * config.cache_count * 3 * config.image_size**2
        if needed > shutil.disk_usage(work).free:
            reason = f"it needs {needed / 1e9:.1f} GB of disk, more than is free"
            bench.left_out |= {f"rss_{count}_mb": reason for count in (config.cache_count // 10, config.cache_count)}
            return {}
        figures: dict[str, float] = {}
        seconds = 0.0
        for count in (config.cache_count // 10, config.cache_count):
            # another ten times as long, but for the start of a process; a fixed number of repeats asks for the whole
            if not config.repeats and figures and time.monotonic() + 5 * seconds > end:
                bench.left_out[f"rss_{count}_mb"] = f"{config.minutes:g} minutes are too few; give more --minutes"
                break
            started = time.monotonic()
            with tempfile.TemporaryDirectory(dir=work, ignore_cleanup_errors=True) as place:
                options = {"folder": place, "count": count, "device": config.device, "precision": config.precision}
                figures[f"rss_{count}_mb"] = peak_rss_mb("read_cache", Path(place), **options, **common)
            seconds = time.monotonic() - started
        return figures

    return [memory, memory_of_caches] if config.cache_count else [memory]


def _fitting_count(config: BenchConfig, device: Device) -> int:
    """Images with which `TURNS` turns fit into the time; at least three batches."""
    most = 128 if device.device.type == "cpu" else 4096
    passes = TURNS * PASSES * (1 - VALIDATION)
    fitting = int(60 * config.minutes * SHARE / passes / seconds_per_image(config.backbone, config.image_size, device))
    return max(3 * config.batch_size, min(fitting, most))


def _images(config: BenchConfig, count: int, work: Path) -> tuple[Path, Path, str]:
    """Folder of images, a label file with random labels for `count` of them, and what they are in words."""
    rng = np.random.default_rng(0)
    if config.images:
        folder = resolve(config.images)
        suffixes = set(Image.registered_extensions())
        names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix.lower() in suffixes)
        if not names:
            raise LabelError(f"{folder}: no such folder, or no images in it; check the path")
        names = sorted(rng.choice(names, min(count, len(names)), replace=False))
    else:
        folder = work / "photos"
        names = make_photos(folder, count)
    codes = (rng.random((len(names), 4)) < 0.5).astype(np.int8)
    codes[rng.random(codes.shape) < 0.1] = -1
    labels = work / "labels.csv"
    write_labels(from_codes(codes, names, ["a", "b", "c", "d"]), labels)
    kilobytes = np.mean([(folder / name).stat().st_size for name in names]) / 1000
    with Image.open(folder / names[0]) as first:
        size = f"{first.width}x{first.height}"
    own = f"own, the first is {size}" if config.images else f"generated, {size}"
    return folder, labels, f"{own}, {kilobytes:.0f} kB each on average"


def make_photos(folder: Path, count: int, side: int = 800) -> list[str]:
    """JPEG files of about 150 kB: noise with the 1/f spectrum of photos, so that they decode as slowly."""
    folder.mkdir(parents=True)
    names = [f"{i:05d}.jpg" for i in range(count)]
    for i, name in enumerate(bar(names, desc="making photos", unit="image")):
        if i >= DISTINCT:
            shutil.copyfile(folder / names[i % DISTINCT], folder / name)
            continue
        rng = np.random.default_rng(i)
        picture = np.full((side, side, 3), 127.5, np.float32)
        for octave in range(8):
            cells = 4 << octave
            noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
            picture += 0.8 * 0.7**octave * (np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC)) - 127.5)
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / name, quality=90)
    return names


def _processor() -> str:
    """Name of the GPU if there is one, and of the CPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    gpu = [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
    return ", ".join([*gpu, *names[:1]]) or platform.processor() or platform.machine()


@contextmanager
def _tuned_convolutions() -> Iterator[None]:
    """Let cuDNN try its kernels, for plain and mlkit alike: any good loop on a GPU does."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
