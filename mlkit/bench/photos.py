"""Images to measure with: a person's own, or photo-like ones that are made."""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from mlkit.data.labelfile import write_labels
from mlkit.data.labels import from_codes
from mlkit.errors import LabelError
from mlkit.files import resolve
from mlkit.progress import bar

DISTINCT = 128  # generated photos that differ; further ones are copies, which cost the same to decode


def labelled_images(images: str, count: int, work: Path) -> tuple[Path, Path, str]:
    """Folder of images, a label file with random labels for `count` of them, and what they are in words.

    Args:
        images: folder; empty makes photos.
        count: of images.
        work: folder for what is made.

    Raises:
        LabelError: if there are no images in the folder.
    """
    rng = np.random.default_rng(0)
    if images:
        folder = resolve(images)
        suffixes = set(Image.registered_extensions())
        names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix.lower() in suffixes)
        if not names:
            raise LabelError(f"{folder}: no such folder, or no images in it; check the path")
        names = sorted(rng.choice(names, min(count, len(names)), replace=False))
    else:
        folder = work / "photos"
        names = make_photos(folder, count)
    codes = (rng.random((len(names), 4)) < 0.5).astype(np.int8)
    codes[rng.random(codes.shape) < 0.1] = -1
    labels = work / "labels.csv"
    write_labels(from_codes(codes, names, ["a", "b", "c", "d"]), labels)
    kilobytes = np.mean([(folder / name).stat().st_size for name in names]) / 1000
    with Image.open(folder / names[0]) as first:
        size = f"{first.width}x{first.height}"
    own = f"own, the first is {size}" if images else f"generated, {size}"
    return folder, labels, f"{own}, {kilobytes:.0f} kB each on average"


def make_photos(folder: Path, count: int, side: int = 800) -> list[str]:
    """JPEG files of about 150 kB: noise with the 1/f spectrum of photos, so that they decode as slowly."""
    folder.mkdir(parents=True)
    names = [f"{i:05d}.jpg" for i in range(count)]
    for i, name in enumerate(bar(names, desc="making photos", unit="image")):
        if i >= DISTINCT:
            shutil.copyfile(folder / names[i % DISTINCT], folder / name)
            continue
        rng = np.random.default_rng(i)
        picture = np.full((side, side, 3), 127.5, np.float32)
        for octave in range(8):
            cells = 4 << octave
            noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
            picture += 0.8 * 0.7**octave * (np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC)) - 127.5)
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / name, quality=90)
    return names
