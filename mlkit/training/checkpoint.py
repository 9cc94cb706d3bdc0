"""What an unfinished training goes on from: the newest checkpoint, and the one before it, should that be damaged."""

from typing import Any

from mlkit.errors import RunError, WeightsError
from mlkit.files import check_format, move
from mlkit.models.torchfile import load_torch, save_torch
from mlkit.progress import say
from mlkit.runs import Run

_NEXT, _LAST, _PREVIOUS = "next.pt", "last.pt", "previous.pt"
_NEEDED = {"model", "optimizer", "epoch", "best_epoch"}


def write_checkpoint(run: Run, content: dict[str, Any]) -> None:
    """Write a checkpoint; the one before stays, and takes its other name only once the new one is whole."""
    save_torch(run.new(_NEXT), content)
    last = run.new(_LAST)
    if last.exists():
        move(last, run.new(_PREVIOUS))
    move(run / _NEXT, last)


def last_checkpoint(run: Run) -> dict[str, Any] | None:
    """The newest checkpoint that can be read; None where there is none.

    Raises:
        RunError: if there is one, and none can be read.
        FormatError: if another mlkit wrote it.
    """
    damaged = []
    for path in (run / _LAST, run / _PREVIOUS):
        if path.exists():
            try:
                content: dict[str, Any] = load_torch(path)
                if not isinstance(content, dict) or not content.keys() >= _NEEDED:
                    raise WeightsError(f"{path} is no checkpoint")
            except WeightsError as error:
                damaged.append(error)
                say(f"warning: {error}; going on from the checkpoint before it, if there is one")
            else:
                check_format(path, content)
                return content
    if damaged:
        raise RunError(f"{damaged[-1]}, nor is there another checkpoint; begin again with overwrite")
    return None


def remove_checkpoints(run: Run) -> None:
    """Delete them, since the training has ended; the last one last, by which a killed process knows where it was."""
    for file in (_NEXT, _PREVIOUS, _LAST):
        (run / file).unlink(missing_ok=True)
