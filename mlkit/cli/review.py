"""`mlkit review`: ask people about the cells that matter, and what their answers are worth."""

import argparse
from typing import Any

from mlkit.cli.given import GOES_ON, new_path, typed_path, typed_run
from mlkit.cli.simulate import add_to as add_simulate


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser("review", help="which cells to label next, the answers, and what they were worth")
    parts = command.add_subparsers(required=True, metavar="queue | sheet | read | suggest | gain | simulate")
    run = argparse.ArgumentParser(add_help=False)
    run.add_argument("run", metavar="RUN", help="finished run whose model chooses and whose data is asked about")
    run.add_argument("--answers", metavar="FILE", default="", help="default: outputs/review/LABELS/answers.csv")
    chosen = argparse.ArgumentParser(add_help=False)
    orders = "uncertain, balanced (default), disagreement, rare, representative, random or errors"
    chosen.add_argument("--order", default="", metavar="ORDER", help=f"what comes first: {orders}")
    chosen.add_argument("--by", default="cell", help="cell: one question, many images; image: all open cells of one at once")
    chosen.add_argument("--count", type=int, default=200, help="questions")
    chosen.add_argument("--fill-test", action="store_true", help="ask about test images too, which changes the judge")

    one = parts.add_parser("queue", parents=[run, chosen], help="print the questions")
    one.set_defaults(command=queue)
    other = parts.add_parser("sheet", parents=[run, chosen], help="write the questions as a table to fill in")
    other.add_argument("--out", metavar="FILE", required=True, help=".csv, or .json for Label Studio")
    other.add_argument("--prefix", default="", help="before image names in Label Studio: /data/local-files/?d=")
    other.set_defaults(command=sheet)
    third = parts.add_parser("read", parents=[run], help="take the answers of a sheet, or of Label Studio's export")
    third.add_argument("sheet", metavar="FILE", help="as `sheet` wrote it and people filled it in, or another tool's export")
    third.set_defaults(command=read)
    filler = parts.add_parser("suggest", parents=[run], help="cells that can be filled without asking, with a guarantee")
    filler.add_argument("--level", type=float, default=0.95, help="share of the suggestions that must be right")
    filler.add_argument("--by", default="", help="network, or stack: the network and the image's other labels")
    filler.set_defaults(command=suggest)
    fourth = parts.add_parser("gain", parents=[run], help="train with and without the answers: what were they worth?")
    fourth.add_argument("--seeds", type=int, default=3, help="trainings of each kind")
    fourth.add_argument("--points", type=int, default=3, help="of the curve of gain against answers")
    fourth.set_defaults(command=gain, goes_on=GOES_ON)
    add_simulate(parts)


def queue(options: argparse.Namespace) -> int:
    """Print the questions."""
    review, order = _review(options)
    table = review.queue(order, options.count, options.by, options.fill_test)
    print(table.drop(columns="digest").round(3).to_string())
    print(f"{len(table)} questions by {order}; {int(review.unknown(options.fill_test).sum())} unknown cells are open")
    return 0


def sheet(options: argparse.Namespace) -> int:
    """Write the questions."""
    from mlkit.curation.sheet import write_sheet
    from mlkit.files import shown

    out = new_path(options.out)
    review, order = _review(options)
    table = review.queue(order, options.count, options.by, options.fill_test)
    write_sheet(review, table, order, out, options.prefix)
    print(f"{shown(out)}: {len(table)} questions; fill in the answers, then: mlkit review read {options.run} {options.out}")
    return 0


def read(options: argparse.Namespace) -> int:
    """Keep the answers of a sheet."""
    from mlkit.curation.sheet import read_sheet
    from mlkit.files import shown

    review, _ = _review(options)
    taken, there, others = read_sheet(review, typed_path(options.sheet))
    print(f"{taken} answers kept in {shown(review.file.path)}, {there} were there already")
    if others:
        print(f"{others} images left out: {review.run} has none of their names")
    return 0


def suggest(options: argparse.Namespace) -> int:
    """Print and keep what can be filled without asking."""
    from mlkit.curation.suggestions import MAKERS
    from mlkit.curation.suggestions import suggest as made

    review, _ = _review(options)
    suggestions = made(review, options.level, options.by or MAKERS[0])
    suggestions.write()
    print(f"{suggestions.attributes.round(4).to_string()}\n\n{suggestions}")
    print(f"To learn from them: train with the run's parameters and -p suggestions {suggestions.path}")
    return 0


def gain(options: argparse.Namespace) -> int:
    """Train with and without the answers, and print the difference."""
    from mlkit.curation.gain import gain as measure

    review, _ = _review(options)
    worth = measure(review, options.seeds, options.points)
    print(f"{worth.attributes.round(4).to_string()}\n\n{worth.curve.round(4).to_string(index=False)}\n\n{worth}")
    return 0


def _review(options: argparse.Namespace) -> Any:
    """The review, and the order to ask in."""
    from mlkit.curation.orders import DEFAULT_ORDER
    from mlkit.curation.review import Review
    from mlkit.runs import Run

    review = Review.of(Run.open(typed_run(options.run)), typed_path(options.answers) if options.answers else "")
    return review, getattr(options, "order", "") or DEFAULT_ORDER
