"""A finished run's model exported for other runtimes, once its answers there are known to be PyTorch's."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from mlkit.data.images import load_image
from mlkit.data.reading import Reading
from mlkit.errors import FailureError
from mlkit.files import move, shown
from mlkit.inference.exported import SUFFIXES, check_runtime, open_exported, write_exported
from mlkit.inference.graph import Graph
from mlkit.inference.predictor import Predictor
from mlkit.models.modelfile import load_model
from mlkit.progress import bar
from mlkit.runs import Run

MOST = 1e-3  # by which a probability may differ from PyTorch's for the same pixels
RECORD = "export.json"
_COMPARED = 128  # validation images; full-size ones take their time
_BATCH = 32
_TOLD = (
    "attributes",
    "thresholds",
    "guarantee",
    "never_seen",
    "chosen_on",
    "image_size",
    "backbone",
    "trained",
    "mlkit_version",
)

Door = Callable[[np.ndarray], np.ndarray]  # see `open_exported`


def export(run: Run, form: str = "onnx") -> tuple[Path, dict[str, Any]]:
    """Export a run's model into its folder: `model.onnx`, `model.pt2`, or `model.xml` with `model.bin`.

    The graph is float32, whatever the precision of the training. It is asked about the run's own validation images first.

    Args:
        run: finished; an ensemble too.
        form: one of `exported.SUFFIXES`.

    Returns:
        The file, and what export.json says of it, see `compare_with_torch`.

    Raises:
        MlkitError: if a package is not installed.
        RunError: if the run is not finished.
        ImageError: if validation images are no longer there.
        FailureError: if an answer differs from PyTorch's by more than `MOST`; nothing is kept then.
    """
    check_runtime(form)
    run.check_finished()
    network, meta = load_model(run / "model.pth")
    about = {key: meta[key] for key in _TOLD if key in meta} | {"run": run.name}
    with unfinished(run) as folder:
        file = folder / f"model{SUFFIXES[form]}"
        write_exported(Graph(network, meta).eval(), about, file)
        facts = compare_with_torch(run, open_exported(file))
        if not (largest := facts["largest_difference"]) <= MOST:
            raise FailureError(
                f"{shown(run / file.name)}: probabilities differ from PyTorch's by up to {largest:.2g} on {facts['images']} "
                f"validation images, more than {MOST}; nothing is kept"
            )
        return keep(run, file, facts)


def compare_with_torch(run: Run, door: Door) -> dict[str, Any]:
    """How far the answers of an exported model are from those of `Predictor` in float32, on validation images of the run.

    Returns:
        images: how many, at most `_COMPARED` from all over the list, of how many (`of`).
        largest_difference: of a probability, for the same pixels.
        largest_difference_full_size: where the graph resizes the pictures itself.
    """
    predictor = Predictor.load(run.path, "cpu", "fp32")
    every = run.validation_images()
    files = spread(every, _COMPARED)
    size, reading = predictor.meta["image_size"], Reading.of(predictor.meta.get("reading", {}))
    expected = predictor.predict(files).probability.to_numpy().reshape(len(files), -1)
    same = answers(door, files, size, reading)
    whole = [door(load_image(file, reading=reading)[None]) for file in bar(files, desc="full-size pictures", unit="image")]
    return {
        "images": len(files),
        "of": len(every),
        "largest_difference": largest_difference(same, expected),
        "largest_difference_full_size": largest_difference(np.concatenate(whole), expected),
    }


def answers(door: Door, files: list[Path], size: int, reading: Reading) -> np.ndarray:
    """Probabilities (images, attributes) of image files, resized as in training."""
    return np.concatenate([door(pixels) for pixels in pixel_batches(files, size, reading)])


def pixel_batches(files: list[Path], size: int, reading: Reading) -> Iterator[np.ndarray]:
    """Uint8 (batch, size, size, 3) of image files, resized as in training."""
    for start in range(0, len(files), _BATCH):
        yield np.stack([load_image(file, size, reading) for file in files[start : start + _BATCH]])


def spread(items: list[Path], most: int) -> list[Path]:
    """At most so many, from all over a list."""
    return [items[i] for i in np.linspace(0, len(items) - 1, min(most, len(items))).astype(int)]


def largest_difference(one: np.ndarray, other: np.ndarray) -> float:
    """Between two sets of probabilities; NaN where only one of two is NaN."""
    difference = np.abs(np.asarray(one, np.float64) - other)
    return float(np.where(np.isnan(one) & np.isnan(other), 0, difference).max())


@contextmanager
def unfinished(run: Run) -> Iterator[Path]:
    """A folder in the run's own for files that are not checked yet; what was not moved out of it by then goes with it."""
    with tempfile.TemporaryDirectory(prefix=".export-", dir=run.path, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def keep(run: Run, file: Path, facts: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Move an exported file, with the weights that lie beside it, into the run's folder, and note what is known of it."""
    parts = sorted(file.parent.glob(f"{file.stem}.*"))  # .bin before .xml, which vouches for it
    packages = ("torch", *{".onnx": ("onnx", "onnxruntime"), ".xml": ("openvino",)}.get(file.suffix, ()))
    noted = {
        "megabytes": round(sum(part.stat().st_size for part in parts) / 1e6, 2),
        **facts,
        "versions": {package: version(package) for package in packages},
    }
    for part in parts:
        move(part, run.new(part.name))
    record = run.read_json(RECORD) if (run / RECORD).is_file() else {}
    run.write_json(RECORD, record | {file.name: noted})
    return run / file.name, noted
