"""`mlkit explain`: where in an image a model sees its attributes."""

import argparse
from pathlib import Path
from typing import Any

from mlkit.cli.given import add_model_option, typed_model
from mlkit.files import atomic, shown


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser("explain", help="where in an image a model sees each attribute, as a figure")
    command.add_argument("image", metavar="IMAGE", help="path of the image")
    command.add_argument("--out", metavar="FILE.png", required=True, help="write the figure there")
    add_model_option(command)
    command.set_defaults(command=explain)


def explain(options: argparse.Namespace) -> int:
    """Draw the image once for each attribute, and say where the figure is."""
    from mlkit.inference.explanation import heat_maps
    from mlkit.inference.plots import reasons
    from mlkit.inference.predictor import Predictor

    predictor, image, out = (
        Predictor.load(typed_model(options.model)),
        Path(options.image).absolute(),
        Path(options.out).absolute(),
    )
    print(f"model: {predictor}")
    figure = reasons(*heat_maps(predictor, image), predictor.predict(image))
    with atomic(out) as temporary:
        figure.savefig(temporary, dpi=150)
    print(f"figure: {shown(out)}")
    return 0
