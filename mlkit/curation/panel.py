"""The panel in JupyterLab: a picture, a question, an answer by a key; see `session` for what becomes of it."""

import io
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from mlkit.curation.session import KEYS, Session
from mlkit.errors import MlkitError
from mlkit.progress import SWITCH

_AHEAD = 3  # questions that are prepared before they are asked
_SIDE, _SMALL = 900, 144  # pixels of the picture and of a similar one, at most
Similar = Callable[[str, str], list[tuple[np.ndarray, str]]]  # of an image and an attribute: pictures and their labels


@dataclass(frozen=True)
class Pictures:
    """What the panel shows of a question.

    Attributes:
        read: the picture of an image, uint8 (height, width, 3).
        similar: pictures like it in which the attribute is known, with their labels.
    """

    read: Callable[[str], np.ndarray]
    similar: Similar


def panel(session: Session, pictures: Pictures) -> Any:
    """A widget that asks the questions of a session; None where notebooks are executed headless."""
    if os.environ.get(SWITCH) == "off":
        return None
    import anywidget

    folder = Path(__file__).parent
    script, style = ((folder / name).read_text(encoding="utf-8") for name in ("panel.js", "panel.css"))
    widget = type("Panel", (anywidget.AnyWidget,), {"_esm": script, "_css": style})()
    widget.on_msg(_Asker(session, pictures, widget.send))
    return widget


class _Asker:
    """What the kernel answers to the panel's messages."""

    def __init__(self, session: Session, pictures: Pictures, send: Callable[..., None]) -> None:
        self._session, self._pictures, self._send = session, pictures, send
        self._executor = ThreadPoolExecutor(1)
        self._prepared: dict[int, Future[tuple[dict[str, Any], list[bytes]]]] = {}
        self._sent: set[int] = set()

    def __call__(self, _widget: Any, message: dict[str, Any], _buffers: Any) -> None:
        session, said = self._session, ""
        try:
            if message["do"] == "start":
                self._sent.clear()
                session.pass_over()
            elif message["do"] == "undo":
                nothing = f"Nothing was answered here yet; what was before stands in {session.file}."
                said = "Taken back." if session.undo() else nothing
            elif message["place"] == session.place:  # a key that was pressed before an error was told counts for nothing
                session.answer(KEYS[message["key"]], float(message["seconds"]))
        except MlkitError as error:
            said = str(error)
        self._tell(message["number"], said)

    def _tell(self, number: int, said: str) -> None:
        place, count = self._session.place, len(self._session.queue)
        ahead = range(place, min(place + _AHEAD, count))
        for one in ahead:
            if one not in self._prepared:
                self._prepared[one] = self._executor.submit(self._prepare, one)
        questions, buffers = [], []
        for one in [one for one in ahead[:2] if one not in self._sent]:
            question, pictures = self._prepared[one].result()
            questions.append(question)
            buffers += pictures
        self._sent |= {one["place"] for one in questions}
        for old in [one for one in self._prepared if one < place - 1]:
            del self._prepared[old]
            self._sent.discard(old)
        told = {"number": number, "place": place, "count": count, "progress": str(self._session), "said": said}
        self._send({**told, "questions": questions}, buffers)

    def _prepare(self, place: int) -> tuple[dict[str, Any], list[bytes]]:
        row = self._session.queue.iloc[place]
        try:
            picture, file = self._pictures.read(row.image), str(row.image)
            similar = self._pictures.similar(row.image, row.attribute)
        except MlkitError as error:
            picture, file, similar = np.full((64, 64, 3), 200, np.uint8), str(error), []
        question = {
            "place": place,
            "question": f"{row.attribute}?",
            "before": row.before,  # told after the answer, as is what the model thinks: both would sway it
            "file": file,
            "model": "nothing" if pd.isna(row.probability) else f"{row.probability:.2f} for yes",
            "similar": [{"label": label} for _, label in similar],
        }
        return question, [_jpeg(picture, _SIDE), *(_jpeg(one, _SMALL) for one, _ in similar)]


def _jpeg(pixels: np.ndarray, side: int) -> bytes:
    """A picture, at most so many pixels wide and high."""
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((side, side))
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
