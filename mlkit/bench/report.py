"""What was measured, for people: figures with their spread and ratios, a table, the machine and the load."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from mlkit.bench.config import BenchConfig
from mlkit.bench.reading import ATTRIBUTES, ROWS, parts
from mlkit.data.cache import cores


@dataclass(frozen=True)
class _Row:
    """One line of the table: a figure, its unit, and the figures that it is divided by, under a short name."""

    key: str
    label: str
    unit: str = "images/s"
    ratios: Mapping[str, str] = field(default_factory=dict)


def _rows(config: BenchConfig) -> list[_Row]:
    plain, step = {"plain": "plain_img_per_s"}, {"pure step": "step_img_per_s"}
    limits = {"GEMM bound": "gemm_bound_img_per_s", "floor": "floor_img_per_s"}
    decode, predict = {"plain": "plain_decode_img_per_s"}, {"plain": "plain_predict_img_per_s"}
    file = f"label file of {ROWS:,} x {ATTRIBUTES}" + (f", from 1/{parts(config)} of it" if parts(config) > 1 else "")
    small, large = config.cache_count // 10, config.cache_count
    return [
        _Row("plain_0_workers_img_per_s", "training: plain loop, 0 workers"),
        _Row("plain_n_workers_img_per_s", f"training: plain loop, {cores()} workers"),
        _Row("plain_img_per_s", "training: plain loop, the better of the two"),
        _Row("mlkit_first_epoch_img_per_s", "training: mlkit, first epoch with the decode", ratios=plain | step),
        _Row("mlkit_img_per_s", "training: mlkit, later epochs", ratios=plain | step),
        _Row("step_img_per_s", "training: pure step, data in place", ratios=plain | limits),
        _Row("floor_img_per_s", "training: floor, the lower of the bounds", ratios=plain),
        _Row("gemm_bound_fp32_img_per_s", "training: GEMM bound, fp32", ratios=plain),
        _Row("gemm_bound_bf16_img_per_s", "training: GEMM bound, bf16", ratios=plain),
        _Row("memory_bound_img_per_s", "training: memory bound", ratios=plain),
        _Row("memory_gb_per_s", "memory traffic, copy or add", "GB/s"),
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
        _Row("plain_labels_s", f"{file}: pandas.read_csv", "s"),
        _Row("mlkit_labels_s", f"{file}: mlkit", "s", {"pandas": "plain_labels_s"}),
        _Row("import_s", "start: import mlkit", "s"),
        _Row("help_s", "start: mlkit --help", "s"),
        _Row("predict_cold_s", "start: mlkit predict, one image", "s"),
        _Row("plain_peak_rss_mb", "peak memory: plain loop, 0 workers", "MB"),
        _Row("peak_rss_mb", "peak memory: mlkit train", "MB", {"plain": "plain_peak_rss_mb"}),
        _Row("peak_gpu_mb", "peak GPU memory: mlkit train", "MB"),
        _Row(f"rss_{small}_mb", f"peak memory: cache of {small:,} images", "MB"),
        _Row(f"rss_{large}_mb", f"peak memory: cache of {large:,} images", "MB", {f"{small:,}": f"rss_{small}_mb"}),
    ]


def medians(samples: Mapping[str, list[float]], config: BenchConfig) -> dict[str, Any]:
    """Medians by name; beside them `spread` and `ratios`, see `turns.measure`."""
    return {
        **{key: statistics.median(values) for key, values in samples.items()},
        "spread": {key: [min(values), max(values)] for key, values in samples.items()},
        "ratios": {
            f"{row.key}/{other}": statistics.median(a / b for a, b in zip(samples[row.key], samples[other], strict=True))
            for row in _rows(config)
            for other in row.ratios.values()
            if row.key in samples
        },
    }


def table(figures: Mapping[str, Any]) -> pd.DataFrame:
    """The figures of `turns.measure` for people: median, lowest and highest, unit, ratios; or why there are none."""
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
            f"{figures['gflop_per_img']:.3g} GFLOP and {1000 * figures['gbyte_per_img']:.3g} MB at least for an image",
            f"data:     {figures['data']}",
            f"repeats:  {figures['turns']}, interleaved; {figures['minutes']:.1f} minutes",
            f"load:     {_load(figures)}",
        ]
    )


def _load(figures: Mapping[str, Any]) -> str:
    """What ran beside the bench, and whether the ratios are to be trusted."""
    beside = "others took {others:.0%} of the cores, the hypervisor {steal:.0%}, on average {queue:.1f} tasks ran or waited"
    said = beside.format(**figures["load"])
    if not figures["doubts"]:
        return said
    return f"{said}\nThe ratios cannot be trusted: {'; '.join(figures['doubts'])}. Measure again with nothing beside it."
