"""Peak resident memory, each part in a process of its own, measured once."""

import shutil
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from mlkit.bench.config import BenchConfig
from mlkit.bench.footprint import peak_rss_mb
from mlkit.bench.measurements import Measurements


def memory(bench: Measurements, config: BenchConfig) -> dict[str, float]:
    """Of the plain loop and of mlkit's training."""
    images, labels, training = str(bench.folder), str(bench.labels), asdict(bench.config) | {"epochs": 1}
    files = [str(file) for file in bench.files]
    plain = {"files": files, "attributes": 4, "device": config.device, **_common(config)}
    return {
        "peak_rss_mb": peak_rss_mb("train_mlkit", bench.work / "memory", images=images, labels=labels, training=training),
        "plain_peak_rss_mb": peak_rss_mb("train_plain", bench.work / "memory", **plain),
    }


def memory_of_caches(bench: Measurements, config: BenchConfig, end: float) -> dict[str, float]:
    """Of a small and of a large pixel cache, as far as there is room, and time until `end` (of the monotonic clock)."""
    counts = (config.cache_count // 10, config.cache_count)
    needed = 1.2 * config.cache_count * 3 * config.image_size**2
    if needed > shutil.disk_usage(bench.work).free:
        bench.left_out |= {
            f"rss_{count}_mb": f"it needs {needed / 1e9:.1f} GB of disk, more than is free" for count in counts
        }
        return {}
    figures: dict[str, float] = {}
    seconds = 0.0
    for count in counts:
        # another ten times as long, but for the start of a process; a fixed number of repeats asks for the whole
        if not config.repeats and figures and time.monotonic() + 5 * seconds > end:
            bench.left_out[f"rss_{count}_mb"] = f"{config.minutes:g} minutes are too few; give more --minutes"
            break
        started = time.monotonic()
        with tempfile.TemporaryDirectory(dir=bench.work, ignore_cleanup_errors=True) as place:
            options = {"folder": place, "count": count, "device": config.device, "precision": config.precision}
            figures[f"rss_{count}_mb"] = peak_rss_mb("read_cache", Path(place), **options, **_common(config))
        seconds = time.monotonic() - started
    return figures


def _common(config: BenchConfig) -> dict[str, str | int]:
    return {"backbone": config.backbone, "image_size": config.image_size, "batch_size": config.batch_size}
