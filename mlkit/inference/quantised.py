"""An exported model in INT8: smaller and faster, kept only if the images that judge the run say that it costs little."""

import logging
import statistics
import time
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from mlkit.data.reading import Reading
from mlkit.errors import FailureError, check_installed
from mlkit.evaluation.intervals import MEAN
from mlkit.evaluation.predictions import Predictions, compare
from mlkit.files import shown
from mlkit.inference.export import answers, keep, largest_difference, pixel_batches, spread, unfinished
from mlkit.inference.exported import open_exported, read_about, read_openvino, save_openvino
from mlkit.models.modelfile import load_model
from mlkit.runs import Run

MOST_LOSS = 0.005
_SHOWN = 300  # training images, by which the ranges of activations are chosen; NNCF's own default
_TURNS = 9


def quantise(run: Run, most: float = MOST_LOSS) -> tuple[Path, dict[str, Any]]:
    """Quantise what `export(run, "openvino")` left, after training (NNCF), into `model-int8.xml` and `model-int8.bin`.

    The first operations, up to the pixels' normalisation, and the last, from the logits on, stay in float32.

    Args:
        run: finished, with `model.xml`.
        most: how much mAP it may cost, on the images that judge the run.

    Returns:
        The file, and what export.json says of it: size and speed with their ratios to float32's, and the paired
        differences of mAP and F1 with their 95 % intervals.

    Raises:
        MlkitError: if NNCF is not installed.
        FailureError: if it costs more than `most`; nothing is kept then.
    """
    check_installed("int8", "NNCF")
    original = run.existing("model.xml")
    meta = load_model(run / "model.pth")[1]
    size, reading = meta["image_size"], Reading.of(meta.get("reading", {}))
    with unfinished(run) as folder:
        file = folder / "model-int8.xml"
        taught = [run.images / image for image in run.training_images()]
        pixels = np.concatenate(list(pixel_batches(spread(taught, _SHOWN), size, reading)))
        save_openvino(_quantised(original, pixels), file)
        facts = _judge(run, original, file, size, reading) | _measure(original, file, pixels)
        facts |= {"size_ratio": round(_bytes(file) / _bytes(original), 3), "shown": len(pixels)}
        loss, least, worst = (-facts[f"mAP_{name}"] for name in ("difference", "high", "low"))
        if not loss <= most:
            raise FailureError(
                f"{shown(run / file.name)}: INT8 costs {loss:.4f} of mAP [{least:.4f}, {worst:.4f}] on {facts['images']} "
                f"{facts['judged_on']} images, more than --most {most}; nothing is kept"
            )
        return keep(run, file, facts)


def _quantised(original: Path, pixels: np.ndarray) -> Any:
    """A model of OpenVINO whose network computes in INT8, the ranges chosen by these pixels.

    The weights have 7 bits: without VNNI a CPU adds products of 8 bits in 16, and what overflows is wrong.
    """
    model, backbone = read_openvino(original), read_about(original)["backbone"]
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # which misses a CUDA that nobody asked for
    import nncf

    nncf.set_log_level(logging.ERROR)
    with redirect_stdout(StringIO()):  # a bar of its own
        return nncf.quantize(
            model,
            nncf.Dataset([one[None] for one in pixels]),
            subset_size=len(pixels),
            ignored_scope=nncf.IgnoredScope(names=_around(model), validate=False),
            model_type=nncf.ModelType.TRANSFORMER if "vit_" in backbone or "swin_" in backbone else None,
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
        )


def _around(model: Any) -> list[str]:
    """Names of the operations before the first convolution and after the last matrix product."""
    operations = model.get_ordered_ops()
    kinds = [operation.get_type_name() for operation in operations]
    first = next(i for i, kind in enumerate(kinds) if kind.endswith("Convolution"))
    last = len(kinds) - 1 - kinds[::-1].index("MatMul")
    return [operation.get_friendly_name() for operation in operations[:first] + operations[last + 1 :]]


def _judge(run: Run, original: Path, file: Path, size: int, reading: Reading) -> dict[str, Any]:
    """What INT8 changes in the answers about the images that judge the run, and in their mAP."""
    predicted = Predictions.read(run)
    images = [run.images / image for image in predicted.images]
    before, after = (answers(open_exported(path), images, size, reading) for path in (original, file))
    table = compare(replace(predicted, probabilities=after), replace(predicted, probabilities=before))
    names = {"AP": "mAP", "F1": "F1"}
    means = {f"{name}_{at}": float(table[at].loc[figure, MEAN]) for figure, name in names.items() for at in table}
    return {
        "judged_on": predicted.split,
        "images": len(images),
        "largest_difference": largest_difference(after, before),
        **means,
    }


def _measure(original: Path, file: Path, pixels: np.ndarray) -> dict[str, Any]:
    """Images per second of both, in turns on the same batch; medians, and the median of the turns' ratios."""
    doors, batch = [open_exported(path) for path in (original, file)], pixels[:32]
    speeds: list[list[float]] = []
    for turn in range(_TURNS + 1):
        seconds = []
        for door in doors:
            started = time.perf_counter()
            door(batch)
            seconds.append(time.perf_counter() - started)
        if turn:  # the first warms up
            speeds.append([len(batch) / one for one in seconds])
    return {
        "img_per_s": round(statistics.median(new for _, new in speeds), 1),
        "float32_img_per_s": round(statistics.median(old for old, _ in speeds), 1),
        "speed_ratio": round(statistics.median(new / old for old, new in speeds), 2),
    }


def _bytes(file: Path) -> int:
    return sum(part.stat().st_size for part in (file, file.with_suffix(".bin")))
