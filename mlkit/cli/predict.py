"""`mlkit predict`: the attributes of images, by a trained model."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from math import isnan
from pathlib import Path
from typing import Any

from mlkit.cli.given import typed_run
from mlkit.files import atomic, defused, shown


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser("predict", help="attributes of images")
    command.add_argument("images", nargs="+", metavar="IMAGE", help="image, or folder of images")
    command.add_argument("--csv", metavar="FILE", help="write the table there instead of printing it")
    command.add_argument(
        "--model", default="", metavar="RUN_OR_FILE", help="run name or folder, or model.pth (default: newest finished run)"
    )
    command.add_argument("--device", default="auto", help="auto, cpu, cuda")
    command.set_defaults(command=predict)


def predict(options: argparse.Namespace) -> int:
    """Print the attributes of images; a broken one gets a line on standard error and does not stop the others."""
    from mlkit.data.folder import list_images
    from mlkit.errors import ImageError
    from mlkit.inference.predictor import Predictor

    broken: list[ImageError] = []
    model = options.model
    source = Path(model).expanduser().absolute() if model.endswith((".pth", ".pt")) else typed_run(model) if model else ""
    paths: list[Path] = []
    others: list[Path] = []
    for path in (Path(image).absolute() for image in options.images):
        pictures, no_pictures = list_images(path) if path.is_dir() else ([path], [])
        if not pictures:
            raise ImageError(f"{path}: no picture in it{_passed_over(no_pictures)}; check the path")
        paths += pictures
        others += no_pictures
    predictor = Predictor.load(source, options.device)
    print(f"model: {predictor}")
    if others:
        print(_passed_over(others).removeprefix("; "))
    with atomic(options.csv) if options.csv else nullcontext() as file:  # a place that cannot be written is known first
        table = predictor.predict(paths, broken.append)
        if file:
            defused(table).to_csv(file, index=False, na_rep="NA", lineterminator="\n")
    for error in broken:
        print(f"mlkit: {error}", file=sys.stderr)
    if not options.csv:
        print_predictions(table)
    return 2 if broken else 0


def print_predictions(table: Any) -> None:
    """Print what `Predictor.predict` gave."""
    for image, rows in table.groupby("image", sort=False):
        print(f"prediction for {shown(str(image))}")
        for row in rows.itertuples():
            answer = "    NA  never seen in training"
            if not isnan(row.probability):
                answer = f"{row.probability:6.3f}  {'yes' if row.present else 'no'}"
            print(f"  {row.attribute:24} {answer}")


def _passed_over(others: Sequence[Path]) -> str:
    """What of a folder is no picture."""
    return f"; passed over, no pictures: {len(others):,} ({others[0].name}{', ...' * (len(others) > 1)})" if others else ""
