"""What every peer is given, and what it says of its progress; torch and torchvision alone, so that all start alike."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

READY, STEP = "ready", "step"  # a line each: all is imported, the work begins; the optimizer has made a step


@dataclass(frozen=True)
class Job:
    """A training: the same photos, network, batches and number of epochs for all.

    Attributes:
        images, labels: folder and label file, as mlkit takes them.
        files, targets: to train on, and (attributes,) of 1, 0 and -1 for unknown, of each.
        held_out, held_out_targets: to validate on after every epoch.
        settings: all of mlkit's training; the others take their network, sizes and learning rate out of it.
        workers: processes that load, one a core.
        device: "cpu" or "cuda".
        bf16: whether the hardware multiplies it.
    """

    images: str
    labels: str
    files: list[str]
    targets: list[list[int]]
    held_out: list[str]
    held_out_targets: list[list[int]]
    settings: dict[str, Any]
    workers: int
    device: str
    bf16: bool

    @classmethod
    def begin(cls) -> "Job":
        """Read the job whose file this program was given, and say that the work begins."""
        job = cls(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
        print(READY, flush=True)
        return job

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    def __getattr__(self, name: str) -> Any:
        """A setting, by its name."""
        try:
            return self.settings[name]
        except KeyError:
            raise AttributeError(name) from None


def say_step(*_: Any) -> None:
    """A hook of torch's optimizers: one has made a step."""
    print(STEP, flush=True)
