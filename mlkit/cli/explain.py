"""`mlkit explain`: where in an image a model sees its attributes, and which training images it takes for alike."""

import argparse
from typing import Any

from mlkit.cli.given import add_model_option, local_path, typed_model, typed_place
from mlkit.errors import ParameterError
from mlkit.files import atomic, shown


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser("explain", help="why a model says so: where in an image, and like which training images")
    command.add_argument("image", metavar="IMAGE", help="path of the image")
    command.add_argument("--out", metavar="FILE.png", required=True, help="write the figure there")
    command.add_argument(
        "--nearest", type=int, default=5, metavar="COUNT", help="of the training images, to be shown below (0: none)"
    )
    add_model_option(command)
    command.set_defaults(command=explain)


def explain(options: argparse.Namespace) -> int:
    """Draw the image once for each attribute, the nearest training images below; say where the figure is."""
    if options.nearest < 0:
        raise ParameterError(f"--nearest is {options.nearest}; it must be 0 or more")
    from mlkit.inference import plots
    from mlkit.inference.explanation import heat_maps
    from mlkit.inference.neighbours import Neighbours
    from mlkit.inference.predictor import Predictor
    from mlkit.plots import image_grids
    from mlkit.runs import Run

    model, image, out = typed_model(options.model), typed_place(options.image), local_path(options.out)
    run = None if model.endswith((".pth", ".pt")) else Run.open(model)
    predictor = Predictor.load(run.path if run else model)
    print(f"model: {predictor}")
    prediction, (pixels, maps) = predictor.predict(image), heat_maps(predictor, image)
    grids = [plots.reasons(pixels, maps, prediction)]
    if not run and options.nearest:
        print("no nearest training images: a model file does not say which they are; name its run")
    elif run and options.nearest and (neighbours := Neighbours.of(run, predictor)):
        grids.append(plots.nearest(pixels, prediction, neighbours, neighbours.nearest(image, options.nearest)))
    figure = image_grids(*grids)
    with atomic(out) as temporary:
        figure.savefig(temporary, dpi=150)
    print(f"figure: {shown(out)}")
    return 0
