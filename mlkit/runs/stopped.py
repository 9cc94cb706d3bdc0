"""Why a training ended early."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Stopped:
    """That a training was ended before its last epoch, as metrics.json has it.

    Attributes:
        reason: "pruned" by a search, or "patience": too many epochs without a better one.
        epoch: the last.
    """

    reason: str
    epoch: int

    @classmethod
    def read(cls, facts: Mapping[str, Any]) -> "Stopped | None":
        """Out of metrics.json; None for a training that went to its end. Runs older than this have a sentence there."""
        match facts.get("stopped"):
            case {"reason": reason, "epoch": epoch}:
                return cls(reason, epoch)
            case str(text) if text:
                return cls("pruned" if text.startswith("pruned") else "patience", facts.get("epochs", 0))
        return None

    def __str__(self) -> str:
        return f"{'pruned' if self.reason == 'pruned' else 'no better epoch for long'}, after epoch {self.epoch}"
