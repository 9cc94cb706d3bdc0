"""`mlkit predict`: the attributes of images, by a trained model."""

import argparse
import glob
import sys
from collections.abc import Iterable, Iterator, Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlkit.cli.given import add_dask_option, add_model_option, local_path, typed_model
from mlkit.errors import ImageError, ParameterError
from mlkit.files import address, is_address, locate, shown

if TYPE_CHECKING:
    import pandas as pd

    from mlkit.inference.predictor import Predictor


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser("predict", help="attributes of images")
    command.add_argument(
        "images",
        nargs="*",
        metavar="PATH",
        help="image, folder, pattern such as 'a/*.jpg', or - for paths on standard input",
    )
    command.add_argument(
        "--out",
        "--csv",
        metavar="FILE",
        default="",
        help="write the table there (.csv, .jsonl, .parquet) instead of printing it",
    )
    command.add_argument("--resume", action="store_true", help="go on with the file that an earlier call has begun")
    command.add_argument("--shard", metavar="I/N", default="", help="only the I-th of N shares of the images: one a machine")
    command.add_argument("--join", action="store_true", help="join the shares of --out, and say what is missing")
    add_dask_option(command)
    add_model_option(command)
    command.add_argument(
        "--views",
        default="",
        metavar="NAMES",
        help="of an image, to be looked at too and averaged, such as flip,zoom_in; a pass each",
    )
    command.add_argument("--device", default="auto", help="auto, cpu, cuda")
    command.add_argument("--batch-size", type=int, default=32, metavar="IMAGES", help="that the network sees at once")
    command.set_defaults(command=predict)


def predict(options: argparse.Namespace) -> int:
    """Print or write the attributes of images; a broken one has its error, and does not stop the others."""
    out = local_path(options.out)
    if options.join:
        return _join(out, options)
    if not options.images:
        raise ParameterError("no image was named; give images, folders, patterns, or - for paths on standard input")
    if options.batch_size < 1:
        raise ParameterError(f"--batch-size is {options.batch_size}; it must be 1 or more")
    if options.dask and not options.out:
        raise ParameterError("--dask needs --out FILE")
    number, of = _shard(options)
    from mlkit.inference.answers import share_of, write_answers
    from mlkit.inference.predictor import Predictor

    chosen = _Images(options.images, number, of)
    predictor = Predictor.load(typed_model(options.model), options.device, views=options.views)
    print(f"model: {predictor}")
    if chosen.passed_over:
        print(chosen.passed_over.removeprefix("; "))
    if options.out:
        out = share_of(out, number, of) if of > 1 else out
        count, broken = write_answers(predictor, chosen, out, chosen.count, options.resume, options.batch_size, options.dask)
        print(f"{shown(out)}: {count:,} images")
    else:
        count, broken = _print_answers(predictor, chosen, options.batch_size)
    return _failed(broken, f"of {count:,} images") if count > 1 else bool(broken)


def _join(out: Path, options: argparse.Namespace) -> int:
    if not options.out or options.images:
        raise ParameterError("--join joins the shares of --out FILE, and takes no images")
    from mlkit.inference.answers import join_shares

    shares, broken = join_shares(out)
    print(f"{shown(out)}: joined of {shares} shares")
    return _failed(broken, "images")


def _failed(broken: int, what: str) -> int:
    """Say how many images could not be read; the exit code."""
    if broken:
        print(f"mlkit: {broken:,} {what} could not be read, see their errors", file=sys.stderr)
    return 1 if broken else 0


def _shard(options: argparse.Namespace) -> tuple[int, int]:
    """Number of the share, and of how many."""
    if not options.shard:
        return 1, 1
    number, _, of = options.shard.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise ParameterError(f"--shard is {options.shard!r}; it must be I/N with I from 1 to N, such as 2/8")
    if not options.out:
        raise ParameterError("--shard needs --out FILE, the same for all shares")
    return int(number), int(of)


class _Images:
    """The images that were named, or a share of them; looked up again each time, since a folder may hold millions.

    Args:
        named: files, folders, patterns; "-" for those on standard input.
        number, of: the share.

    Attributes:
        count: how many there are.
        passed_over: what of the folders is no picture, in words.

    Raises:
        ImageError: for a folder or a pattern without any.
    """

    def __init__(self, named: list[str], number: int = 1, of: int = 1) -> None:
        self._number, self._of = number, of
        typed = (line.rstrip("\n") for name in named for line in (sys.stdin if name == "-" else [name]))
        self._places = [place for text in typed if text for place in _matching(text)]
        self.count, others = 0, list[Path]()
        for place in self._places:
            pictures, before = 0, len(others)
            for path, is_picture in _below(place):
                pictures += is_picture
                self.count += is_picture and self._is_ours(place, path)
                others += [] if is_picture else [path]
            if not pictures:
                where = address(place) or place
                raise ImageError(f"{where}: no picture in it{_passed_over(others[before:])}; check the path")
        self.passed_over = _passed_over(others)

    def __iter__(self) -> Iterator[Path]:
        for place in self._places:
            yield from (path for path, is_picture in _below(place) if is_picture and self._is_ours(place, path))

    def _is_ours(self, place: Path, path: Path) -> bool:
        from mlkit.inference.answers import in_share

        name = path.name if path == place else path.relative_to(place).as_posix()
        return self._of == 1 or in_share(name, self._number, self._of)


def _matching(text: str) -> list[Path]:
    """A path, or those that fit a pattern."""
    if is_address(text):
        if "*" in text:
            raise ParameterError(f"{text}: patterns are of files on this machine; name the folder, or images one by one")
        return [locate(text)]
    path = Path(text).expanduser().absolute()
    if path.exists() or not glob.has_magic(text):
        return [path]
    if found := sorted(map(Path, glob.glob(str(path), recursive=True))):
        return found
    raise ImageError(f"{path}: nothing has such a name; check the pattern")


def _below(place: Path) -> Iterator[tuple[Path, bool]]:
    """A file that was named, which is taken for a picture; or what lies in a folder."""
    from mlkit.data.folder import is_folder, walk_images

    return walk_images(place) if is_folder(place) else iter([(place, True)])


def _print_answers(predictor: "Predictor", images: Iterable[Path], batch_size: int) -> tuple[int, int]:
    """Print what a model says of images; how many there were, and how many could not be read."""
    count = broken = 0
    for table in predictor.answers(images, batch_size):
        for error in table.error.dropna():
            print(f"mlkit: {error}", file=sys.stderr)
        broken += table.error.notna().sum()
        count += table.image.nunique()
        print_predictions(table[table.error.isna()])
    return count, broken


def print_predictions(table: "pd.DataFrame") -> None:
    """Print rows of `Predictor.answers`."""
    for image, rows in table.groupby("image", sort=False):
        print(f"prediction for {shown(str(image))}")
        for attribute, probability, decision in zip(rows.attribute, rows.probability, rows.decision, strict=True):
            answer = "    NA  never seen in training" if isnan(probability) else f"{probability:6.3f}  {decision}"
            print(f"  {attribute:24} {answer}")


def _passed_over(others: Sequence[Path]) -> str:
    """What of a folder is no picture."""
    return f"; passed over, no pictures: {len(others):,} ({others[0].name}{', ...' * (len(others) > 1)})" if others else ""
