"""`mlkit thresholds`: decide by another policy, without training again."""

import argparse
from typing import Any

from mlkit.cli.given import typed_run


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser("thresholds", help="choose the thresholds of a finished run by another policy")
    command.add_argument("run", metavar="RUN", help="name or folder of the run")
    command.add_argument(
        "--policy", required=True, help="f1, precision:0.9, recall:0.9, fixed:0.5, or guarantee:0.95: sure, or unsure"
    )
    command.set_defaults(command=thresholds)


def thresholds(options: argparse.Namespace) -> int:
    """Choose, and print what it comes to on the images that judge."""
    from mlkit.evaluation.predictions import Predictions
    from mlkit.inference.card import write_card
    from mlkit.inference.export import RECORD
    from mlkit.runs import Run
    from mlkit.training.thresholds import choose_again

    run = Run.open(typed_run(options.run))
    table = choose_again(run, options.policy)
    write_card(run)
    if (run / RECORD).exists():
        print(f"what was exported has the thresholds of before; again: mlkit export {run.name} --format ...")
    predicted = Predictions.read(run)
    print(f"on the {len(predicted.images)} {predicted.split} images of {run}:")
    decided = predicted.decided()
    print((table[["threshold", "precision", "recall", "F1"]] if decided.empty else decided).round(3).to_string())
    return 0
