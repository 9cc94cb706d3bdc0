"""Peak memory and start-up time: whatever must be measured in a process of its own."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image

from mlkit.bench.plainloop import PlainImages, plain_loader, plain_train
from mlkit.data.dataset import batches
from mlkit.data.labelfile import write_labels
from mlkit.data.labels import from_codes
from mlkit.data.source import DataSource
from mlkit.errors import FailureError
from mlkit.losses.bce import masked_bce
from mlkit.models.device import choose_device
from mlkit.models.networks import build_model, compute_logits, place
from mlkit.runs import Run
from mlkit.training.config import TrainConfig
from mlkit.training.loop import train

STEPS = 8  # real training steps among the batches that are read from a generated cache
_PROGRAM = """
import json, sys
from mlkit.bench import footprint
getattr(footprint, sys.argv[1])(**json.loads(sys.argv[2]))
print(footprint.own_peak_mb())
"""


def peak_rss_mb(part: str, outputs: Path, **arguments: Any) -> float:
    """Peak resident memory, in MB, of a fresh process that runs one function of this module.

    Raises:
        FailureError: if the process fails; the text is the last line that it printed.
    """
    return float(in_own_process(["-c", _PROGRAM, part, json.dumps(arguments)], outputs).splitlines()[-1])


def wall_seconds(arguments: list[str], outputs: Path) -> float:
    """Seconds that `python ARGUMENTS` takes from start to exit. Raises FailureError if it fails."""
    started = time.perf_counter()
    in_own_process(arguments, outputs)
    return time.perf_counter() - started


def own_peak_mb() -> float:
    """Peak resident memory of this process so far, in MB."""
    memory = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):  # Windows
        return float(memory.peak_wset) / (1 << 20)
    status = Path("/proc/self/status")
    if status.exists():  # getrusage counts the parent's memory too when a process was forked from a large one
        (line,) = [line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) / 1024
    import resource  # which Windows lacks

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def train_mlkit(images: str, labels: str, training: dict[str, Any]) -> None:
    """One epoch of mlkit's training."""
    config = TrainConfig(**training)
    dataset = DataSource(images, labels).open(config.image_size)
    train(dataset, config, Run.create("footprint", {}, dataset.fingerprint, overwrite=True))


def train_plain(files: list[str], attributes: int, image_size: int, backbone: str, batch_size: int, device: str) -> None:
    """A few steps of the plain loop, decoding in this process."""
    target = choose_device(device).device
    model = build_model(backbone, attributes, "none", image_size).to(target)
    images = PlainImages([Path(file) for file in files], torch.ones(len(files), attributes), image_size)
    optimizer = torch.optim.Adam(model.parameters())
    loader = plain_loader(images, batch_size, 0, target)
    plain_train(model, loader, optimizer, torch.ones(attributes, device=target), target, steps=3)


def read_cache(
    folder: str, count: int, image_size: int, backbone: str, batch_size: int, device: str, precision: str
) -> None:
    """Build a pixel cache of `count` images and read one shuffled epoch of it, with a few real training steps between."""
    images = Path(folder, f"{count}-images")
    images.mkdir()
    names = [f"{i:06d}.png" for i in range(count)]
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(images / names[0])
    data = (images / names[0]).read_bytes()
    for name in names:
        (images / name).write_bytes(data)  # tiny files: what counts is the size of the cache, not that of the images
    labels = Path(folder, f"{count}-labels.csv")
    write_labels(from_codes(np.ones((count, 4)), names, "abcd"), labels)
    dataset = DataSource(str(images), str(labels)).open(image_size)

    target = choose_device(device, precision, image_size)
    model = place(build_model(backbone, 4, "none", image_size), target).train()
    optimizer = torch.optim.Adam(model.parameters(), fused=target.device.type in ("cpu", "cuda"))
    every = max(1, -(-count // batch_size) // STEPS)
    for number, chosen in enumerate(batches(np.arange(count), batch_size, seed=0, epoch=1)):
        pixels, targets = map(torch.from_numpy, dataset.batch(chosen))
        if number % every == 0:
            masked_bce(compute_logits(model, pixels, target), targets.to(target.device)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def process_environment(outputs: Path) -> dict[str, str]:
    """Of a process that runs this Python with this mlkit, and with its outputs in another folder."""
    paths = [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"PYTHONPATH": os.pathsep.join(paths), "MLKIT_OUTPUTS": str(outputs), "PYTHONIOENCODING": "utf-8"}
    return os.environ | own


def failure_of(status: int, errors: str) -> FailureError:
    """Of a process that ended with `status` after it had written `errors`."""
    last = (errors.strip().splitlines() or ["no message"])[-1]
    return FailureError(f"a part of the bench failed in its own process with exit code {status}: {last}")


def in_own_process(arguments: list[str], outputs: Path) -> str:
    """Run Python in a process of its own; returns what it printed."""
    result = subprocess.run(
        [sys.executable, *arguments],
        env=process_environment(outputs),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if result.returncode:
        raise failure_of(result.returncode, result.stderr)
    return result.stdout
