"""Ctrl-C and the signal by which a system ends a process, held back until a training has saved."""

import signal
import threading
from types import FrameType
from typing import Any

from mlkit.errors import Terminated
from mlkit.progress import say


class Interruption:
    """Within it, the first signal is only noted, for `check` to raise at a good moment; the second acts at once.

    Signals belong to the main thread; in another one nothing is held back.

    Attributes:
        signal: number of the one that came; 0: none.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def check(self, done: str) -> None:
        """Raise KeyboardInterrupt, or Terminated, if a signal came; `done` is said."""
        if self.signal:
            say(f"interrupted; {done}")
            raise Terminated if self.signal == signal.SIGTERM else KeyboardInterrupt

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = number
        self._restore()
        say("interrupted: saving first; once more ends at once")

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
