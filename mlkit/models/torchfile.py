"""Files of tensors: written whole or not at all, read without executing anything that is in them."""

import argparse
import zipfile
from pathlib import Path
from typing import Any

import torch

from mlkit.errors import WeightsError
from mlkit.files import FORMAT, atomic, resolve, shown


def save_torch(path: str | Path, content: dict[str, Any]) -> None:
    """`torch.save` with the number of mlkit's format, whole or not at all."""
    with atomic(path) as temporary, open(temporary, "wb") as file:
        try:
            torch.save({"format": FORMAT, **content}, file)
        except RuntimeError as error:  # "unexpected pos": torch's own, over that of the disk
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load_torch(path: str | Path) -> Any:
    """`torch.load` onto the CPU, tensors and plain values only: nothing in the file is executed.

    Raises:
        WeightsError: if the file is missing, cannot be read in that way, or would unpack to more than it is.
    """
    try:
        _refuse_packed(Path(path))
        with torch.serialization.safe_globals([argparse.Namespace]):  # plain values, by which others keep their settings
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsError(f"{resolve(path)}: no such file; check the path") from None
    except (MemoryError, WeightsError):
        raise
    except Exception as error:  # bytes that are no torch file stumble anywhere in the unpickler
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(f"{shown(path)} is not a file of plain weights ({reason[:120]})") from None


def _refuse_packed(path: Path) -> None:
    """`torch.save` packs nothing; what is packed may be a thousand times as large as the file."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > path.stat().st_size:
        raise WeightsError(f"{shown(path)} would unpack to {size:,} bytes, more than the file has; no trainer writes that")
