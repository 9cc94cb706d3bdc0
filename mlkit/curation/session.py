"""Questions asked one after the other, and the answers kept as they come."""

import time
from dataclasses import dataclass, field

import pandas as pd

from mlkit.data.answers import SKIP, UNDO, Answer, AnswerFile, same_picture, votes

KEYS = {"y": "yes", "n": "no", "s": SKIP, "u": "unclear"}  # beside z, which takes the last answer back
_HOUR = 3600.0  # seconds


@dataclass
class Session:
    """A queue of questions, how far it is answered, and the file that answers go to.

    Attributes:
        queue: one row a question, see `Review.queue`.
        file: of the answers.
        about: order and run that the questions come from, as `Answer` has them.
        place: position in the queue of the question that is open; the queue's length where none is.
    """

    queue: pd.DataFrame
    file: AnswerFile
    about: dict[str, str]
    place: int = 0
    _done: list[tuple[int, float]] = field(default_factory=list)  # place of each question that was answered here, and when
    _size: int = -1  # of the file after the last look at it

    def answer(self, word: str, seconds: float) -> None:
        """Keep the answer to the open question, and go on to the next.

        Args:
            word: of `answers.CODES`, or `answers.SKIP`.
            seconds: that it took.

        Raises:
            WriteError: if it cannot be kept; the question stays open.
        """
        self._append(self._answer(self.place, word, seconds))
        self._done.append((self.place, time.monotonic()))
        self.place += 1
        self.pass_over()

    def pass_over(self) -> None:
        """Go on past the questions that other people have answered meanwhile."""
        if self.file.size == self._size:
            return
        answers = self.file.read()
        cells = votes(answers[same_picture(answers, dict(zip(self.queue.image, self.queue.digest, strict=True)))])
        closed = set(cells.index[cells.closed.astype(bool)])
        self._size = self.file.size
        while self.place < len(self.queue) and tuple(self.queue.iloc[self.place][["image", "attribute"]]) in closed:
            self.place += 1

    def undo(self) -> bool:
        """Take the last answer of this session back, and ask again; whether there was one.

        Raises:
            WriteError: if that cannot be kept.
        """
        if not self._done:
            return False
        self._append(self._answer(self._done[-1][0], UNDO))
        self.place, _ = self._done.pop()
        return True

    def __str__(self) -> str:
        """Progress, for people."""
        now = time.monotonic()
        hour = sum(now - when < _HOUR for _, when in self._done)
        return f"{len(self._done)} answered, {hour} in the last hour; {len(self.queue) - self.place} left of this queue"

    def _append(self, answer: Answer) -> None:
        alone = self.file.size == self._size
        self.file.append([answer])
        if alone:  # what nobody else has written to need not be read
            self._size = self.file.size

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
