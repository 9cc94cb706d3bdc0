"""Questions asked one after the other, and the answers kept as they come."""

import time
from dataclasses import dataclass, field

import pandas as pd

from mlkit.data.answers import SKIP, UNDO, Answer, AnswerFile

_HOUR = 3600.0  # seconds


@dataclass
class Session:
    """A queue of questions, how far it is answered, and the file that answers go to.

    Attributes:
        queue: one row a question, see `queue.queue`.
        file: of the answers.
        about: order and run that the questions come from, as `Answer` has them.
    """

    queue: pd.DataFrame
    file: AnswerFile
    about: dict[str, str]
    _done: list[float] = field(default_factory=list)  # when each of the first questions was answered, in order

    @property
    def place(self) -> int:
        """Position in the queue of the question that is open; the queue's length where all are answered."""
        return len(self._done)

    def answer(self, word: str, seconds: float) -> None:
        """Keep the answer to the open question, and go on to the next.

        Args:
            word: of `answers.CODES`, or `answers.SKIP`.
            seconds: that it took.

        Raises:
            WriteError: if it cannot be kept; the question stays open.
        """
        self.file.append([self._answer(self.place, word, seconds)])
        self._done.append(time.monotonic())

    def undo(self) -> None:
        """Take the last answer back, and ask again; at the first question nothing happens.

        Raises:
            WriteError: if that cannot be kept.
        """
        if self._done:
            self.file.append([self._answer(self.place - 1, UNDO)])
            self._done.pop()

    def __str__(self) -> str:
        """Progress, for people."""
        now = time.monotonic()
        hour = sum(now - when < _HOUR for when in self._done)
        return f"{self.place} answered, {hour} in the last hour; {len(self.queue) - self.place} left of this queue"

    def _answer(self, place: int, word: str, seconds: float = float("nan")) -> Answer:
        row = self.queue.iloc[place]
        return Answer(
            row.image,
            row.attribute,
            word,
            before=row.before,
            seconds=round(seconds, 2),
            probability=round(float(row.probability), 4),
            digest=row.digest,
            **self.about,
        )


KEYS = {"y": "yes", "n": "no", "s": SKIP, "u": "unclear"}  # beside z, which takes the last answer back
