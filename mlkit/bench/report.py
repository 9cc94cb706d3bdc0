"""What was measured, for people: figures with their spread and ratios, a table, the machine and the load."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from mlkit.bench.config import BenchConfig
from mlkit.bench.peers.race import FIGURES, PEERS
from mlkit.bench.reading import ATTRIBUTES, ROWS, parts
from mlkit.data.cache import cores

_PLAIN_PEER = "peer_plain_img_per_s"


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
        _Row("inference_img_per_s", "inference: one pass over the images", ratios={"floor": "inference_floor_img_per_s"}),
        _Row("inference_floor_img_per_s", "inference: floor, the lower of the bounds"),
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


def _ratios(config: BenchConfig) -> list[tuple[str, str]]:
    """Figures, and those that they are divided by."""
    pairs = [(row.key, other) for row in _rows(config) for other in row.ratios.values()]
    peers = [f"peer_{name}_img_per_s" for name in PEERS]
    return pairs + [(key, _PLAIN_PEER) for key in ("floor_img_per_s", "step_img_per_s", *peers) if config.peers]


def medians(samples: Mapping[str, list[float]], config: BenchConfig) -> dict[str, Any]:
    """Medians by name; beside them `spread` and `ratios`, see `turns.measure`."""
    return {
        **{key: statistics.median(values) for key, values in samples.items()},
        "spread": {key: [min(values), max(values)] for key, values in samples.items()},
        "ratios": {
            f"{key}/{other}": statistics.median(a / b for a, b in zip(samples[key], samples[other], strict=True))
            for key, other in _ratios(config)
            if key in samples
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


def peers_table(figures: Mapping[str, Any]) -> pd.DataFrame:
    """What people would pick instead, a row each, below the floor and the pure step; or why there are no figures."""
    names = {"floor": ["floor_img_per_s"], "pure step": ["step_img_per_s"]}
    names |= {label: [f"peer_{name}_{figure}" for figure in FIGURES] for name, (label, _) in PEERS.items()}
    columns = ["images/s", "low", "high", "first epoch, s", "start to first step, s", "peak memory, MB", "ratio"]
    lines: dict[str, dict[str, str]] = {}
    for label, keys in names.items():
        if keys[0] in figures:
            numbers = [figures[keys[0]], *figures["spread"][keys[0]], *(figures[key] for key in keys[1:])]
            texts = (f"{n:,.0f}" if n >= 100 else f"{n:.3g}" for n in numbers)
            ratio = f"{figures['ratios'][f'{keys[0]}/{_PLAIN_PEER}']:.2f} x {PEERS['plain'][0]}"
            lines[label] = {**dict(zip(columns, texts, strict=False)), "ratio": ratio}
        else:
            lines[label] = {"ratio": f"left out: {figures['left_out'][keys[0]]}"}
    return pd.DataFrame.from_dict(lines, orient="index").reindex(columns=columns).fillna("").rename_axis("training")


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
