"""The sample data set: drawings of garments, generated on first use, with faults on purpose and the truth beside them.

data/sample/
    images/0000.jpg ...   photo-like drawings of a garment on a varied background
    labels.csv            four attributes, about 10 % NA, one row whose image is missing, one contradiction
    truth.csv             the same rows without NA
"""

import colorsys
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image, ImageDraw, ImageFilter

from mlkit.data.labelfile import write_labels
from mlkit.data.labels import from_codes
from mlkit.files import is_address, make_folder, move, resolve
from mlkit.progress import bar

ATTRIBUTES = {"sleeves": 0.88, "plain": 0.80, "long": 0.50, "bag": 0.08}  # name -> prevalence
UNKNOWN = 0.10
COUNT = 1000
SIDE = 160  # pixels
FOLDER = "data/sample"


def ensure_sample(labels: str) -> None:
    """Generate the sample data set if `labels` is a label file of it and it is not there yet; else do nothing."""
    own = (resolve(f"{FOLDER}/{file}") for file in ("labels.csv", "truth.csv"))
    if not is_address(labels) and resolve(labels) in own and not resolve(labels).exists():
        with FileLock(resolve(f"{FOLDER}.lock")):  # two notebooks may want it at once
            if not resolve(labels).exists():
                make_sample(FOLDER)


def make_sample(
    folder: str | Path, count: int = COUNT, seed: int = 0, prevalence: Sequence[float] = tuple(ATTRIBUTES.values())
) -> None:
    """Generate the sample data set into `folder`, whole or not at all. The same arguments give the same files.

    Among the images are a grey one, a PNG with transparency that is named .jpg, and a copy of another image whose label
    contradicts it; the last row of the label file names an image that does not exist.
    """
    folder = resolve(folder)
    make_folder(folder.parent)
    rng = np.random.default_rng(seed)
    truth = (rng.random((count, len(ATTRIBUTES))) < np.asarray(prevalence)).astype(np.int8)
    truth[-1] = truth[-2]  # the copy
    labels = np.where(rng.random(truth.shape) < UNKNOWN, np.int8(-1), truth)
    names = [f"{i:04d}.jpg" for i in range(count)]
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".sample-") as work:
        images = Path(work, "whole", "images")
        images.mkdir(parents=True)
        for i, name in enumerate(bar(names, desc="drawing the sample set", unit="image")):
            picture = draw_garment(truth[i], np.random.default_rng([seed, i]))
            if i == 1:
                picture.convert("L").save(images / name, quality=90)
            elif i == 2:
                picture.putalpha(Image.linear_gradient("L").resize(picture.size).point(lambda v: 155 + v * 100 // 255))
                picture.save(images / name, format="PNG")
            else:
                picture.save(images / name, quality=90)
        shutil.copyfile(images / names[-2], images / names[-1])
        long = list(ATTRIBUTES).index("long")
        labels[-2, long], labels[-1, long] = truth[-2, long], 1 - truth[-2, long]
        missing = f"{count:04d}.jpg"
        for table, file in ((labels, "labels.csv"), (truth, "truth.csv")):
            rows = np.vstack([table, [[1, 1, 0, 0]]])
            write_labels(from_codes(rows, [*names, missing], ATTRIBUTES), Path(work, "whole", file))
        move(Path(work, "whole"), folder)


def draw_garment(truth: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """Draw one garment, RGB (SIDE, SIDE), that has the attributes given as four 0/1 in the order of `ATTRIBUTES`."""
    sleeves, plain, long, bag = (bool(value) for value in truth)
    scale = 2  # drawn larger and reduced, for smooth edges
    side = SIDE * scale
    picture = _background(side, rng)
    hue = rng.random()
    colour, dark = _colour(hue, rng.uniform(0.45, 0.95), rng), _colour(hue, 0.3, rng)

    def at(x: float, y: float) -> tuple[float, float]:
        return centre + x * width, top + y * width

    width = side * rng.uniform(0.30, 0.38)
    centre = side * rng.uniform(0.44, 0.54)
    top = side * rng.uniform(0.08, 0.14)
    hem = 2.15 if long else 1.2
    flare = rng.uniform(0.05, 0.25) if long else rng.uniform(-0.05, 0.05)
    body = [at(-0.5, 0.1), at(-0.17, 0), at(0, 0.12), at(0.17, 0), at(0.5, 0.1)]
    body += [at(0.48 + flare, hem), at(-0.48 - flare, hem)]
    mask = Image.new("L", (side, side))
    pen = ImageDraw.Draw(mask)
    pen.polygon(body, fill=255)
    if sleeves:
        reach, drop = rng.uniform(0.75, 0.9), rng.uniform(0.7, 1.0)
        for sign in (-1, 1):
            pen.polygon(
                [
                    at(sign * 0.42, 0.06),
                    at(sign * reach, drop),
                    at(sign * (reach - 0.24), drop + 0.1),
                    at(sign * 0.42, 0.45),
                ],
                fill=255,
            )
    cloth = Image.new("RGB", (side, side), colour)
    if not plain:
        _pattern(cloth, width, rng)
    shade = Image.linear_gradient("L").rotate(rng.choice([0, 90, 180, 270])).resize((side, side))
    cloth = Image.composite(cloth, Image.blend(cloth, Image.new("RGB", cloth.size), 0.25), shade)
    picture.paste(cloth, mask=mask)
    outline = ImageDraw.Draw(picture)
    outline.line([*body, body[0]], fill=dark, width=2 * scale)
    if bag:
        _bag(outline, at(0.72 * rng.choice([-1, 1]), rng.uniform(1.35, 1.5)), width, rng)
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.2)))
    picture = picture.resize((SIDE, SIDE), Image.Resampling.BOX)
    noise = rng.normal(0, rng.uniform(1, 4), (SIDE, SIDE, 1))
    return Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))


def _background(side: int, rng: np.random.Generator) -> Image.Image:
    """A wall with uneven light, sometimes with a floor or panels."""
    hue, value = rng.random(), rng.uniform(0.55, 1.0)
    base, other = (_colour(hue, value * f, rng, saturation=0.25) for f in (1.0, 0.75))
    blotches = Image.fromarray(rng.integers(0, 256, (5, 5), dtype=np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    picture = Image.composite(Image.new("RGB", (side, side), base), Image.new("RGB", (side, side), other), blotches)
    pen = ImageDraw.Draw(picture)
    kind = rng.integers(3)
    if kind == 0:
        pen.rectangle((0, side * rng.uniform(0.75, 0.9), side, side), fill=other)
    elif kind == 1:
        step = int(side * rng.uniform(0.2, 0.3))
        for x in range(int(rng.integers(step)), side, step):
            pen.line((x, 0, x, side), fill=other, width=4)
    return picture


def _pattern(cloth: Image.Image, width: float, rng: np.random.Generator) -> None:
    """Stripes or dots over the whole cloth."""
    pen = ImageDraw.Draw(cloth)
    ink = (250, 250, 245) if rng.random() < 0.6 else (25, 25, 35)
    step = width * rng.uniform(0.2, 0.28)
    places = np.arange(0, cloth.width, step)
    if rng.random() < 0.6:
        for place in places:
            line = (0, place, cloth.width, place) if step > width * 0.24 else (place, 0, place, cloth.height)
            pen.line(line, fill=ink, width=int(step * 0.45))
    else:
        radius = step * 0.3
        for row, y in enumerate(places):
            for x in places + step / 2 * (row % 2):
                pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)


def _bag(pen: ImageDraw.ImageDraw, place: tuple[float, float], width: float, rng: np.random.Generator) -> None:
    """A handbag with a handle, beside the garment."""
    x, y = place
    half, height = width * rng.uniform(0.24, 0.3), width * rng.uniform(0.4, 0.5)
    leather = _colour(rng.uniform(0.02, 0.1), rng.uniform(0.35, 0.6), rng, saturation=0.8)
    pen.arc((x - half * 0.7, y - height * 0.6, x + half * 0.7, y + height * 0.6), 180, 360, fill=leather, width=8)
    pen.rounded_rectangle((x - half, y, x + half, y + height), radius=8, fill=leather, outline=(30, 20, 15), width=4)
    pen.rectangle((x - half * 0.2, y + height * 0.2, x + half * 0.2, y + height * 0.4), fill=(235, 200, 90))


def _colour(hue: float, value: float, rng: np.random.Generator, saturation: float = 0.65) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation * rng.uniform(0.6, 1.0), value)
    return int(255 * red), int(255 * green), int(255 * blue)
