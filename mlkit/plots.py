"""One function per figure: takes tables, draws on the given Axes, returns it.

And what all figures share: how many attributes one shows, and how their names are written.

Where there are many attributes, a figure shows the most telling ones and says so in its title; the tables have all.
"""

import textwrap
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.ticker import NullFormatter, PercentFormatter
from matplotlib.transforms import offset_copy
from PIL import Image

from mlkit.files import atomic

# from seaborn's colour-blind safe palette
YES, NO, UNKNOWN = "#0173b2", "#de8f05", "#cccccc"
MOST_ROWS = 40  # attributes of a figure with a row for each
_MOST_COLUMNS, _MOST_PATTERNS, _ANNOTATED = 25, 12, 12  # of heat maps
_ROOMY = 12  # rows that stand apart; more stand closer
_NAME = 28  # columns of a name beside a row
_CAPTION_LINES = 5
_SHOWN_DPI, _SHOWN_COLOURS = 80, 96  # of a figure in a notebook
plt.rcParams["text.parse_math"] = False  # names are data: "$5 to $10" is no formula
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
    return plt.subplots(figsize=(side + 1.5, side), layout="constrained")


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
    return each * min(count, _ROOMY) + 0.7 * each * max(min(count, MOST_ROWS) - _ROOMY, 0)


def most_telling(worth: pd.Series, most: int = MOST_ROWS, ends: bool = False) -> np.ndarray:
    """Positions of what to draw: all in their order, or of more than `most` those of the largest worth, that first.

    Args:
        worth: by which to choose; what has none (NaN) comes last.
        most: how many to draw.
        ends: draw half of them from the largest worth on down, half from the smallest on up.
    """
    values = worth.to_numpy(np.float64, na_value=np.nan)
    if len(values) <= most:
        return np.arange(len(values))
    order = np.argsort(-np.where(np.isnan(values), -np.inf, values), kind="stable")
    known = int((~np.isnan(values)).sum())
    half = most // 2
    return np.concatenate([order[: most - half], order[known - half : known]]) if ends and known > most else order[:most]


def partly(title: str, drawn: int, count: int, which: str) -> str:
    """A title that says which attributes are drawn, where not all are."""
    return title if drawn == count else f"{title}\n{drawn} of {count}: {which}\n(the tables have all)"


def shorten(name: str, width: int = _NAME) -> str:
    """A name of at most `width` columns (a Chinese character takes two): what is too long loses its middle."""
    widths = [_columns(character) for character in name]
    if sum(widths) <= width:
        return name
    room = width - 1
    start, end = 0, len(name)
    while widths[start] <= room - room // 2 - sum(widths[:start]):
        start += 1
    while widths[end - 1] <= room // 2 - sum(widths[end:]):
        end -= 1
    return f"{name[:start]}…{name[end:]}"


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
    wide = max(map(_columns, text), default=1)
    return "\n".join(textwrap.wrap(text, width // wide, max_lines=lines, placeholder="…"))


def _columns(character: str) -> int:
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


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
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")  # matplotlib's, one for each character
        warnings.warn(
            f"no font of this machine has {' '.join(sorted(wanted)[:10])}: figures show boxes in their place. Install one "
            f"that has them (Debian, Ubuntu: apt install {package}) and start again",
            stacklevel=3,
        )


def _characters(path: str) -> set[str]:
    try:
        return set(map(chr, FT2Font(path).get_charmap()))
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


def legend_below(ax: Axes, columns: int = 3) -> None:
    """The legend under the name of the horizontal axis, whatever the height of the figure."""
    below = offset_copy(ax.transAxes, ax.get_figure(root=True), y=-36, units="points")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=below, ncols=columns, frameon=False)


def log_axis(ax: Axes) -> None:
    """Make the x axis logarithmic, with plain numbers at its ticks: the usual ones are formulas."""
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())


def label_balance(counts: pd.DataFrame, ax: Axes) -> Axes:
    """Share of yes, no and unknown per attribute, stacked, with the counts written in; takes `labels.label_counts`."""
    top = counts.iloc[most_telling(counts.imbalance)]
    total = top.positives + top.negatives + top.unknown
    left = np.zeros(len(top))
    for column, name, colour in (("positives", "yes", YES), ("negatives", "no", NO), ("unknown", "NA", UNKNOWN)):
        share = (top[column] / total).to_numpy()
        bars = ax.barh(range(len(top)), share, left=left, color=colour, label=name)
        texts = [str(n) if s > 0.03 else "" for n, s in zip(top[column], share, strict=True)]
        ax.bar_label(bars, texts, label_type="center", color="white" if column == "positives" else "black")
        left += share
    title = partly("Labels per attribute", len(top), len(counts), "the most imbalanced")
    ax.set(title=title, xlabel="share of images", xlim=(0, 1))
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    name_rows(ax, top.index)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return ax


def cooccurrence(table: pd.DataFrame, ax: Axes) -> Axes:
    """Heat map of P(column | row); takes `labels.cooccurrence`."""
    values = table.to_numpy(np.float64)
    off_diagonal = np.where(np.eye(len(table), dtype=bool), np.nan, values)
    # of how far a share is from that of the other rows, both ways: the product is about the squared phi coefficient
    apart = off_diagonal - np.nanmean(off_diagonal, axis=0) if len(table) > _MOST_COLUMNS else off_diagonal
    strength = np.nan_to_num(apart * apart.T, nan=-1.0).max(axis=0)
    chosen = most_telling(pd.Series(strength), _MOST_COLUMNS)
    names = shortened(table.index[chosen], 24)
    top = pd.DataFrame(values[np.ix_(chosen, chosen)], names, names)
    annotated = len(top) <= _ANNOTATED
    import seaborn as sns

    sns.heatmap(
        top, ax=ax, vmin=0, vmax=1, cmap="cividis", annot=annotated, fmt=".2f", square=True, xticklabels=1, yticklabels=1
    )
    title = "Share of images with the column's attribute,\namong those with the row's"
    ax.set(title=partly(title, len(top), len(table), "those that go together most"), xlabel="has also", ylabel="images with")
    ax.tick_params(axis="y", rotation=0)
    fits = max(sum(map(_columns, name)) for name in names) <= min(7, 60 // len(names))  # in a cell
    ax.tick_params(axis="x", rotation=0 if fits else 90)
    return ax


def na_patterns(table: pd.DataFrame, ax: Axes) -> Axes:
    """The most frequent patterns of unknown attributes as columns (dark = unknown); takes `labels.na_patterns`."""
    top = table.head(_MOST_PATTERNS)
    often = pd.Series((table.to_numpy() * table.index.to_numpy()[:, None]).sum(axis=0))
    chosen = most_telling(often)
    cells = top.to_numpy().T[chosen]
    import seaborn as sns

    sns.heatmap(cells, ax=ax, cmap=["#eeeeee", "#333333"], vmin=0, vmax=1, cbar=False, linewidths=1, linecolor="white")
    ax.set_xticks(np.arange(len(top)) + 0.5, [str(count) for count in top.index], rotation=0)
    ax.set_yticks(np.arange(len(chosen)) + 0.5, shortened(table.columns[chosen]), rotation=0)
    title = partly("Attributes unknown together (dark: NA)", len(chosen), table.shape[1], "those most often unknown")
    patterns = "pattern" if len(table) == len(top) else f"pattern, the {len(top)} most frequent of {len(table)}"
    ax.set(title=title, xlabel=f"images of each {patterns}", ylabel="attribute")
    return ax


def image_grid(images: Iterable[np.ndarray], captions: Sequence[str], columns: int = 4) -> Figure:
    """Images with a caption under each, in a new figure."""
    use_fonts(captions)
    texts = [wrapped(caption, 18, _CAPTION_LINES) for caption in captions]
    lines = max((text.count("\n") for text in texts), default=0)
    rows = -(-len(captions) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(1.25 * columns, (1.5 + 0.14 * lines) * rows), squeeze=False, layout="constrained"
    )
    for ax in axes.flat[len(captions) :]:
        ax.axis("off")
    for ax, image, text in zip(axes.flat, images, texts, strict=False):
        ax.imshow(image)
        ax.set(xticks=[], yticks=[])
        ax.set_xlabel(text, fontsize=8)
    return figure


def loss_curve(
    history: pd.DataFrame,
    epochs: pd.DataFrame,
    ax: Axes,
    title: str = "Aimonk_multilabel_problem",
    smoothing: float = 0.9,
) -> Axes:
    """Training loss of every iteration, raw and smoothed, and the validation loss of every epoch.

    The two may be different losses: the training's is that of the method, with its weights; the validation's is the plain
    binary cross-entropy (BCE) over the known cells.

    The smoothed curve is an exponential moving average with weight `smoothing` on the past (0: none), corrected for its
    start as in Adam.
    """
    ax.plot(history.iteration, history.loss, color=YES, alpha=0.25, linewidth=1, label="training, each iteration")
    smoothed = history.loss.ewm(alpha=1 - smoothing, adjust=True).mean()
    ax.plot(history.iteration, smoothed, color=YES, linewidth=2, label="training, smoothed")
    ax.plot(epochs.iteration, epochs.validation_loss, color=NO, marker="o", linewidth=2, label="validation, plain BCE")
    ax.set(title=title, xlabel="iteration_number", ylabel="training_loss")
    ax.set_ylim(bottom=0)
    ax.grid(alpha=0.3)
    ax.legend(frameon=False)
    return ax


def learning_rate_range(table: pd.DataFrame, ax: Axes) -> Axes:
    """Loss over the learning rate, smoothed too; takes `step.learning_rate_range`."""
    ax.plot(table.lr, table.loss, color=YES, alpha=0.25, linewidth=1, label="each iteration")
    ax.plot(table.lr, table.loss.ewm(alpha=0.3).mean(), color=YES, linewidth=2, label="smoothed")
    ax.set(title="Learning-rate range: choose where the loss falls fastest", xlabel="learning rate", ylabel="training loss")
    ax.set(ylim=(0, 1.5 * table.loss.iloc[:5].mean()))
    log_axis(ax)
    ax.grid(alpha=0.3)
    ax.legend(frameon=False)
    return ax


def worth(table: pd.DataFrame, ax: Axes) -> Axes:
    """AP of each attribute as a bar, that of a random ranking as a mark; takes `metrics.evaluate`."""
    top = table.iloc[most_telling(table.AP - table.chance, ends=True)]
    bars = ax.barh(range(len(top)), top.AP, color=YES, label="AP of the model")
    ax.bar_label(bars, [f" {ap:.2f}" for ap in top.AP])
    ax.plot(top.chance, range(len(top)), "|", color=NO, markersize=14, markeredgewidth=3, label="chance (random ranking)")
    title = partly("Average precision on images not trained on", len(top), len(table), "furthest above and below chance")
    ax.set(title=title, xlabel="average precision", xlim=(0, 1.1))
    ax.set_xticks(np.linspace(0, 1, 6))
    name_rows(ax, top.index)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return ax


def prediction(table: pd.DataFrame, ax: Axes) -> Axes:
    """Probability of each attribute of one image against its threshold; takes rows of `Predictor.predict`."""
    top = table.iloc[most_telling(table.probability - table.threshold)]
    places = np.arange(len(top))
    colours = [YES if present else UNKNOWN for present in top.probability >= top.threshold]
    bars = ax.barh(places, top.probability.fillna(0), color=colours)
    ax.bar_label(bars, [f" {p:.2f}" if p >= 0 else " NA: never seen in training" for p in top.probability])
    ax.vlines(top.threshold, places - 0.45, places + 0.45, color="black", linestyle=":", label="threshold")
    title = partly("Predicted attributes (blue: present)", len(top), len(table), "furthest above the threshold")
    ax.set(title=title, xlabel="probability", xlim=(0, 1.15))
    ax.set_xticks(np.linspace(0, 1, 6))
    name_rows(ax, top.attribute)
    legend_below(ax)
    return ax


def throughput(figures: Mapping[str, Any], ax: Axes) -> Axes:
    """Images per second of each way to train, with the range of the repeats, and the GEMM bounds as marks.

    Takes the figures of `bench.measure`. The plain loop computes in float32, and its mark is the bound of that; the mark of
    the others is the bound of the precision that mlkit chose.
    """
    bars = {
        "plain_img_per_s": "plain loop",
        "mlkit_first_epoch_img_per_s": "mlkit, first epoch with the decode",
        "mlkit_img_per_s": "mlkit, later epochs",
        "step_img_per_s": "pure step",
    }
    values = [figures[key] for key in bars]
    low, high = np.array([figures["spread"][key] for key in bars]).T
    numbers = [f"{value:,.3g}" if value < 1000 else f"{value:,.0f}" for value in values]
    # the numbers stand beside the names, where no mark can hide them
    names = [f"{name}\n{number} images/s" for name, number in zip(bars.values(), numbers, strict=True)]
    ax.barh(names, values, color=[UNKNOWN, YES, YES, NO])
    ax.errorbar(values, range(len(bars)), xerr=[values - low, high - values], fmt="none", color="black", capsize=4)
    bounds = [figures["gemm_bound_fp32_img_per_s"]] + 3 * [figures["gemm_bound_img_per_s"]]
    ax.plot(bounds, range(len(bars)), "k|", markersize=26, markeredgewidth=3, label="GEMM bound of the same precision")
    ax.set(title="Training throughput", xlabel="images per second", xlim=(0, 1.12 * max(*bounds, *high)))
    ax.invert_yaxis()
    legend_below(ax)
    return ax


def show(figure: Figure, path: Path | None = None, photos: bool = False) -> None:
    """Show a figure small in the notebook, save it at full quality where a path is given, and close it.

    A notebook keeps what it shows. A palette of few colours makes that three times smaller and is hard to see; figures of
    photos, which need more colours, are shown as JPEG.
    """
    from IPython.display import Image as Shown  # only in a notebook, where it is loaded anyway
    from IPython.display import display

    if path:
        with atomic(path) as temporary:
            figure.savefig(temporary, dpi=120)
    full, small = BytesIO(), BytesIO()
    figure.savefig(full, dpi=_SHOWN_DPI)
    with Image.open(full) as image:
        if photos:
            image.convert("RGB").save(small, "JPEG", quality=70)
        else:
            image.convert("RGB").quantize(_SHOWN_COLOURS, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    display(Shown(data=small.getvalue(), format="jpeg" if photos else "png"))  # type: ignore[no-untyped-call]
    plt.close(figure)
