"""`mlkit labels`: check a label file, make one of what other tools write, or one with the answers of a review."""

import argparse
from pathlib import Path
from typing import Any

from mlkit.cli.given import new_path, typed_path

_MOST = 20  # problems alike in the list


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser("labels", help="check a label file, or make one of another tool's or of answers")
    parts = command.add_subparsers(required=True, metavar="check | convert | apply")
    given = argparse.ArgumentParser(add_help=False)
    given.add_argument("file", metavar="FILE")
    given.add_argument("--images", metavar="DIR", default="", help="folder of the images")
    given.add_argument(
        *("-p", "--parameter"), nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
        help="values, attributes, image_column, extension or match: see data/README.md",
    )  # fmt: skip
    given.add_argument(
        "-f", "--file", action="append", dest="recipes", default=[], metavar="YAML", help="recipe that has them"
    )

    one = parts.add_parser(
        "check", parents=[given], help="what is in it, and all that is wrong; exits with 2 if something is"
    )
    one.set_defaults(command=check)
    other = parts.add_parser(
        "convert", parents=[given], help="make a label file of tags, VOC, CelebA, COCO, Label Studio ..."
    )
    other.add_argument("--out", metavar="FILE", required=True, help=".csv, .tsv, .parquet, or .json for Label Studio")
    other.add_argument(
        "--from", dest="format", default="", metavar="FORMAT", help="default: recognised; a wrong one lists all"
    )
    other.add_argument("--absent", choices=("no", "NA"), default="", help="what an attribute means that is not listed")
    other.add_argument("--column", default="", help="column or key of the tags or labels")
    other.add_argument("--separator", default="", help="between the tags of a cell")
    other.add_argument("--names", metavar="CSV", default="", help="code,name of each label (Open Images)")
    other.add_argument("--prefix", default="", help="before image names in Label Studio: /data/local-files/?d=")
    other.set_defaults(command=convert)

    third = parts.add_parser("apply", parents=[given], help="make a label file with the answers of a review in it")
    third.add_argument("--answers", metavar="FILE", required=True, help="answers.csv of the review")
    third.add_argument("--out", metavar="FILE", required=True, help=".csv, .tsv, .parquet, or .json for Label Studio")
    third.set_defaults(command=apply)


def check(options: argparse.Namespace) -> int:
    """Print what a label file holds and every problem in it."""
    from mlkit.data.formats import FORMATS, recognise
    from mlkit.data.labels import label_counts, one_sided
    from mlkit.data.names import compare
    from mlkit.errors import LabelError
    from mlkit.files import locate, shown

    source = _source(options)
    try:
        file = source.read()
    except LabelError as error:
        if (name := recognise(source.labels)) == "table":
            raise
        way = f"mlkit labels convert {options.file} --out labels.csv"
        raise LabelError(f"{error}\n  it looks like {FORMATS[name].meaning}: {way}") from None
    counts = label_counts(file.labels)
    print(f"{shown(source.labels)}: {len(file.labels):,} images, {counts.shape[0]} attributes")
    print(counts.rename(columns={"positives": "yes", "negatives": "no", "unknown": "NA"}).round(3).to_string())
    for note in (*file.notes, *one_sided(file.labels)):
        print(note)
    wrong = [str(problem) for problem in file.problems]
    if source.images:
        missing, unlabelled, mend = compare(locate(source.images), source.files_of(file))
        print(f"images without a row: {_counted(unlabelled)}; rows without an image: {_counted(missing)}")
        wrong += [f"{shown(source.images)}: {mend}"] if mend else []
    for text in wrong[:_MOST]:
        print(f"problem: {text}")
    if len(wrong) > _MOST:
        print(f"and {len(wrong) - _MOST} more")
    print(f"{len(wrong)} problem{'s' * (len(wrong) != 1)}")
    return 2 if wrong else 0


def convert(options: argparse.Namespace) -> int:
    """Write the label file that another tool's file comes to."""
    import csv

    from mlkit.data.formats import FORMATS, read_other, recognise, write_other
    from mlkit.data.formats.statements import Options
    from mlkit.data.names import find_files
    from mlkit.errors import LabelError, nearest
    from mlkit.files import locate

    if options.format and options.format not in FORMATS:
        raise LabelError(f"--from: there is no format {options.format!r}{nearest(options.format, FORMATS)}")
    out = new_path(options.out)
    source = _source(options)
    names = {}
    if options.names:
        with Path(options.names).open(encoding="utf-8-sig", newline="") as table:
            names = {row[0]: row[1] for row in csv.reader(table) if len(row) > 1}
    said = Options(
        absent=options.absent,
        values=source.values,
        attributes=tuple(source.attributes),
        image_column=source.image_column,
        column=options.column,
        separator=options.separator,
        names=names,
    )
    format = options.format or recognise(source.labels)
    labels = read_other(source.labels, said, format)
    if source.images:
        found = find_files(locate(source.images), list(labels.index), source.extension, source.match)
        labels = labels.set_axis(found).rename_axis("image")
    write_other(labels, out, options.prefix)
    print(f"read as {FORMATS[format].meaning}\n{_summary(out, labels)}")
    return 0


def apply(options: argparse.Namespace) -> int:
    """Write a label file with what people answered; the old one stays as it is."""
    from mlkit.data.answers import AnswerFile, digests_of, here, merge
    from mlkit.data.formats import write_other
    from mlkit.errors import LabelError
    from mlkit.files import locate, shown
    from mlkit.progress import listed

    out, source, answers = new_path(options.out), _source(options), AnswerFile(typed_path(options.answers)).read()
    if answers.empty:
        raise LabelError(f"{shown(typed_path(options.answers))}: no answers there; check the path")
    if not source.images:
        raise LabelError("give --images: an answer counts for the picture that was shown, and not for another of its name")
    file = source.read().check()
    labels = file.labels.set_axis(source.files_of(file)).rename_axis("image")
    if not here(answers, labels).any():
        raise LabelError(
            f"{shown(typed_path(options.answers))}: no answer is of an image and attribute of {options.file} "
            f"({listed(labels.columns, 4)}; {listed(labels.index, 2)}): check -p attributes, extension and match"
        )
    merged = merge(labels, answers, digests_of(locate(source.images), answers))
    write_other(merged, out)
    print(*merged.attrs["notes"], _summary(out, merged), sep="\n")
    return 0


def _summary(path: Path, labels: Any) -> str:
    """What a label file holds that was written."""
    from mlkit.data.labels import label_counts
    from mlkit.files import shown

    counts = label_counts(labels)
    words = {"positives": "yes", "negatives": "no", "unknown": "NA"}
    cells = ", ".join(f"{counts[side].sum():,} {word}" for side, word in words.items())
    return f"{shown(path)}: {len(labels):,} images, {labels.shape[1]} attributes, {cells}"


def _source(options: argparse.Namespace) -> Any:
    """The label file with what a person said of it."""
    from mlkit.data.source import DataSource
    from mlkit.parameters import check_parameters, parameters_of, read_parameters
    from mlkit.training.recipe import known_settings

    given: dict[str, Any] = {}
    for recipe in options.recipes:
        given |= read_parameters(Path(recipe).absolute())
    given |= dict(options.parameter)
    known = parameters_of(DataSource)
    checked = check_parameters(given, known_settings())
    settings = {name: value for name, value in checked.items() if name in known and name not in ("images", "labels")}
    return DataSource(typed_path(options.images) if options.images else "", typed_path(options.file), **settings)


def _counted(names: list[str]) -> str:
    """How many, and the first of them."""
    named = f" ({', '.join(names[:3])}{' ...' if len(names) > 3 else ''})" if names else ""
    return f"{len(names):,}{named}"
