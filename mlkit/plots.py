"""What all figures share: their sizes and colours, how many attributes one shows, how names are written, how one is shown.

The figures themselves are in the rooms' `plots`, a function each: it takes tables, draws on the given Axes, returns it.

Where there are many attributes, a figure shows the most telling ones and says so in its title.
"""

import textwrap
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.ticker import NullFormatter
from matplotlib.transforms import offset_copy
from PIL import Image

from mlkit.files import atomic
from mlkit.progress import columns_of, shorten

# from seaborn's colour-blind safe palette
YES, NO, UNKNOWN = "#0173b2", "#de8f05", "#cccccc"
MOST_ROWS, OF_MANY = 40, 24  # attributes of a figure with a row for each, and of one that cannot show all
_ROOMY = 12  # rows that stand apart; more stand closer
_NAME = 28  # columns of a name beside a row
_CAPTION_LINES = 5
_SHOWN_DPI, _SHOWN_COLOURS = 80, 96  # of a figure in a notebook
# names are data: "$5 to $10" is no formula, neither in figures nor in a notebook's tables
plt.rcParams["text.parse_math"] = False
pd.set_option("display.html.use_mathjax", False)
_looked_for: set[str] = set()  # characters that a font was sought for


def rows(names: Sequence[str] | pd.Index, each: float = 0.4, margin: float = 1.4) -> tuple[Figure, Axes]:
    """A new figure and its Axes, as wide as a notebook and as high as a row for each name needs, `MOST_ROWS` at most.

    Args:
        names: of the rows, for which fonts are chosen.
        each: height of a row in inches.
        margin: of all else.
    """
    use_fonts(names)
    return plt.subplots(figsize=(8, _height(len(names), each) + margin), layout="constrained")


def square(names: Sequence[str] | pd.Index) -> tuple[Figure, Axes]:
    """A new figure and its Axes for a heat map of each name with each."""
    use_fonts(names)
    side = min(max(0.65 * len(names) + 1.6, 4), 9)  # the title needs some width
    return plt.subplots(figsize=(side + 1.5, side), layout="compressed")


def beside(image: np.ndarray, names: Sequence[str] | pd.Index) -> tuple[Figure, Axes]:
    """A new figure with an image and, on its right, Axes for a row for each name."""
    use_fonts(names)
    height = max(_height(len(names), 0.4) + 1.4, 3.6)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, height), width_ratios=[1, 1.4], layout="constrained")
    left.imshow(image)
    left.axis("off")
    left.set_anchor("N")
    return figure, right


def _height(count: int, each: float) -> float:
    drawn = count if count <= MOST_ROWS else OF_MANY
    return each * min(drawn, _ROOMY) + 0.7 * each * max(drawn - _ROOMY, 0)


def most_telling(worth: pd.Series, most: int = MOST_ROWS, ends: bool = False) -> np.ndarray:
    """Positions of what to draw: all in their order, or of more than `most` the `OF_MANY` of the largest worth, that first.

    Args:
        worth: by which to choose; what has none (NaN) comes last.
        most: how many to draw; of more than these, no more than `OF_MANY`.
        ends: draw half of them from the largest worth on down, half from the smallest on up.
    """
    values = worth.to_numpy(np.float64, na_value=np.nan)
    if len(values) <= most:
        return np.arange(len(values))
    most = min(most, OF_MANY)
    order = np.argsort(-np.where(np.isnan(values), -np.inf, values), kind="stable")
    known = int((~np.isnan(values)).sum())
    half = most // 2
    return np.concatenate([order[: most - half], order[known - half : known]]) if ends and known > most else order[:most]


def partly(title: str, drawn: int, count: int, which: str, tables: bool = True) -> str:
    """A title that says which attributes are drawn, where not all are, and whether the tables beside it have all."""
    others = "\n(the tables have all)" if tables else ""
    return title if drawn == count else f"{title}\n{drawn} of {count}: {which}{others}"


def shortened(names: Iterable[str], width: int = _NAME) -> list[str]:
    """Names for an axis; those that are equal without their middle get a number."""
    short = [shorten(str(name), width) for name in names]
    total, seen = Counter(short), Counter[str]()
    result = []
    for name in short:
        seen[name] += 1
        result.append(f"{name} ({seen[name]})" if total[name] > 1 else name)
    return result


def wrapped(text: str, width: int, lines: int) -> str:
    """Text in lines of at most `width` columns; what does not fit in `lines` of them is left out."""
    wide = max(map(columns_of, text), default=1)
    return "\n".join(textwrap.wrap(text, width // wide, max_lines=lines, placeholder="…"))


def use_fonts(texts: Iterable[object]) -> None:
    """Give the figures made from here on the characters of these texts, from fonts of this machine that have them.

    Where none has, a warning says once what to install.
    """
    wanted = {character for text in texts for character in str(text) if character.isprintable() and not character.isspace()}
    wanted -= _looked_for
    _looked_for.update(wanted)
    families = list(plt.rcParams["font.family"])
    for family in families if wanted else ():
        wanted -= _characters(font_manager.findfont(font_manager.FontProperties(family=[family])))
    if not wanted:
        return
    has = {path: wanted & _characters(path) for path in sorted(font_manager.findSystemFonts(), key=_slanted_or_bold)}
    while wanted and has and (found := max(has.values(), key=len)):
        path = next(path for path, characters in has.items() if characters == found)
        font_manager.fontManager.addfont(path)
        families.append(FT2Font(path).family_name)
        wanted -= found
        has = {path: characters - found for path, characters in has.items()}
    plt.rcParams["font.family"] = families
    if wanted:
        script = {unicodedata.name(character, "?").split()[0] for character in wanted}
        package = "fonts-noto-cjk" if script <= {"CJK", "HIRAGANA", "KATAKANA", "HANGUL"} else "fonts-noto"
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing|Matplotlib .* support")  # a warning for each character
        warnings.warn(
            f"no font of this machine has {' '.join(sorted(wanted)[:10])}: figures show boxes in their place. Install one "
            f"that has them (Debian, Ubuntu: apt install {package}) and start again",
            stacklevel=3,
        )


def _characters(path: str) -> set[str]:
    try:
        font = FT2Font(path)
        return set(map(chr, font.get_charmap())) if font.scalable else set()  # not of pictures, as some of emoji are
    except (OSError, RuntimeError):  # not there any more, or a kind of font that FreeType does not read
        return set()


def _slanted_or_bold(path: str) -> tuple[bool, str]:
    return any(word in Path(path).stem.lower() for word in ("bold", "italic", "oblique", "black", "light", "thin")), path


def name_rows(ax: Axes, names: Iterable[str], positions: Iterable[float] | None = None) -> None:
    """Names on the vertical axis, the first on top."""
    short = shortened(names)
    places = list(range(len(short)) if positions is None else positions)
    ax.set_yticks(places, short)
    ax.set_ylim(places[-1] + 0.6, -0.6)


def beside_rows(ax: Axes, texts: Iterable[str], positions: Iterable[float]) -> None:
    """A text to the right of each row, where no mark can hide it."""
    for y, text in zip(positions, texts, strict=True):
        ax.text(1.01, y, text, transform=ax.get_yaxis_transform(), va="center", fontsize="small")


def legend_below(ax: Axes, columns: int = 3) -> None:
    """The legend under the name of the horizontal axis, whatever the height of the figure."""
    below = offset_copy(ax.transAxes, ax.get_figure(root=True), y=-36, units="points")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=below, ncols=columns, frameon=False)


def log_axis(ax: Axes) -> None:
    """Make the x axis logarithmic, with plain numbers at its ticks: the usual ones are formulas."""
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())


def image_grid(images: Iterable[np.ndarray], captions: Sequence[str], columns: int = 4) -> Figure:
    """Images with a caption under each, in a new figure."""
    return image_grids(Grid(images, captions), columns=columns)


@dataclass(frozen=True)
class Grid:
    """Images with a caption under each and a title above all."""

    images: Iterable[np.ndarray]
    captions: Sequence[str]
    title: str = ""


def image_grids(*grids: Grid, columns: int = 6) -> Figure:
    """Grids one below the other, in a new figure."""
    use_fonts(caption for grid in grids for caption in grid.captions)
    columns = min(columns, max(4, *(len(grid.captions) for grid in grids)))  # a title needs some width
    texts = [[wrapped(caption, 18, _CAPTION_LINES) for caption in grid.captions] for grid in grids]
    rows = [-(-len(grid.captions) // columns) for grid in grids]
    lines = [max((text.count("\n") for text in under), default=0) for under in texts]
    titles = [0.35 * len(grid.title.splitlines()) for grid in grids]
    heights = [(1.5 + 0.18 * most) * count + title for most, count, title in zip(lines, rows, titles, strict=True)]
    figure = plt.figure(figsize=(1.25 * columns, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(grids), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, grid, under, count in zip(parts, grids, texts, rows, strict=True):
        axes = part.subplots(count, columns, squeeze=False).flat
        for ax in axes[len(under) :]:
            ax.axis("off")
        for ax, image, text in zip(axes, grid.images, under, strict=False):
            ax.imshow(image)
            ax.set(xticks=[], yticks=[], anchor="N")
            ax.set_xlabel(text, fontsize=8)
        part.suptitle(grid.title)
    return figure


def show(figure: Figure, path: Path | None = None, photos: bool = False) -> None:
    """Show a figure small in the notebook, save it at full quality where a path is given, and close it.

    A notebook keeps what it shows. A palette of few colours makes that three times smaller and is hard to see; figures of
    photos, which need more colours, are shown as JPEG.
    """
    from IPython.display import Image as Shown  # only in a notebook, where it is loaded anyway
    from IPython.display import display

    full, small = BytesIO(), BytesIO()
    figure.savefig(full, dpi=_SHOWN_DPI)
    if path:
        # laid out already, where its texts take the most room of all sizes; again would take as long as to draw it
        figure.set_layout_engine("none")
        with atomic(path) as temporary:
            figure.savefig(temporary, dpi=120)
    with Image.open(full) as image:
        if photos:
            image.convert("RGB").save(small, "JPEG", quality=70)
        else:
            image.convert("RGB").quantize(_SHOWN_COLOURS, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    display(Shown(data=small.getvalue(), format="jpeg" if photos else "png"))
    plt.close(figure)
