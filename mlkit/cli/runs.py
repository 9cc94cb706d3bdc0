"""`mlkit runs`: what was trained, what differs, what came of it."""

import argparse
import re
import shutil
from typing import Any

_ONCE = ("judged on", "ran on", "state")  # columns that are said in one line where all runs agree
_FACTS = ("when", "test mAP", "mAP", "val. mAP", "time", "img/s", "size", *_ONCE)
_GAP = "  "
_NUMBER = re.compile(r"([-+]?[\d.,]+(e[-+]?\d+)?( \w+)?)?")  # or nothing
_LEAST = 10  # characters of the state, whose reasons can be long, and of a name


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser("runs", help="list runs: what differs, what they reached, what they took")
    command.add_argument(
        "runs", nargs="*", metavar="RUN", help="names or patterns, 'tune-*' say (default: all, oldest first)"
    )
    command.add_argument("--csv", metavar="FILE", help="write the whole table there instead of printing it")
    command.set_defaults(command=runs)


def runs(options: argparse.Namespace) -> int:
    """Print the runs as a table as wide as the terminal, or write it whole."""
    from mlkit.files import atomic, shown
    from mlkit.overview import overview, readable
    from mlkit.runs import find_runs, outputs_root

    found = find_runs(options.runs, unfinished=True)
    if not found:
        print(f"no run in {shown(outputs_root())} yet; train one with notebook 02 or `mlkit train`")
        return 0
    table = overview(found)
    if options.csv:
        with atomic(options.csv) as temporary:
            table.to_csv(temporary)
    else:
        print(_fitted(readable(table), shutil.get_terminal_size((120, 40)).columns))
    return 0


def _fitted(table: Any, width: int) -> str:
    """The table as lines of at most `width` characters; parameters that find no room follow in tables of their own."""
    said = {name: set(table[name]) - {""} for name in _ONCE if name in table}
    same = {name: values.pop() for name, values in said.items() if len(values) == 1 and len(table) > 1}
    if not (table.state == same.get("state")).all():  # a run that says nothing is of no other device, yet an unfinished
        same.pop("state", None)
    columns = {str(name): list(values) for name, values in table.drop(columns=list(same)).reset_index().items()}
    headings = {name: _heading(name, max(map(len, values))) for name, values in columns.items()}
    widths = {name: max(map(len, [*headings[name], *values])) for name, values in columns.items()}
    if "state" in widths:
        widths["state"] = min(widths["state"], _LEAST)
    blocks = [[name for name in columns if name in ("run", *_FACTS)]]
    widths["run"] = max(min(widths["run"], _LEAST), widths["run"] - max(0, _total(widths, blocks[0]) - width))
    for name in [name for name in columns if name not in blocks[0]]:
        if _total(widths, [*blocks[-1], name]) > width:
            blocks.append(["run"])
        blocks[-1].append(name)
    if "state" in widths:
        widths["state"] += max(0, width - _total(widths, blocks[0]))
    tables = ["\n".join(_lines([name for name in columns if name in block], columns, headings, widths)) for block in blocks]
    agreed = "; ".join(f"all {value}" if name == "state" else f"{name} {value}" for name, value in same.items())
    return "\n\n".join([*tables, agreed]).rstrip()


def _total(widths: dict[str, int], names: list[str]) -> int:
    return sum(widths[name] for name in names) + len(_GAP) * (len(names) - 1)


def _heading(name: str, width: int) -> tuple[str, str]:
    """Two lines: a name longer than the values below it is broken at the space or underscore nearest its middle."""
    places = [place.start() for place in re.finditer("[ _]", name)]
    if len(name) <= width or not places:
        return "", name
    place = min(places, key=lambda place: abs(place - len(name) / 2))
    return name[: place + 1].rstrip(), name[place + 1 :]


def _lines(
    names: list[str], columns: dict[str, list[str]], headings: dict[str, tuple[str, str]], widths: dict[str, int]
) -> list[str]:
    """Headings and rows; numbers, with or without a unit, are flushed right."""
    from mlkit.overview import shorten

    numeric = {name: all(_NUMBER.fullmatch(value) for value in columns[name]) for name in names}
    rows = [[headings[name][row] for name in names] for row in (0, 1)]
    rows += [list(row) for row in zip(*(columns[name] for name in names), strict=True)]
    lines = []
    for row in rows if any(rows[0]) else rows[1:]:
        cells = [(shorten(text, widths[name]), name) for name, text in zip(names, row, strict=True)]
        parts = [text.rjust(widths[name]) if numeric[name] else text.ljust(widths[name]) for text, name in cells]
        lines.append(_GAP.join(parts).rstrip())
    return lines
