"""`mlkit bench`: the speed of this machine."""

import argparse
import dataclasses
from typing import Any

from mlkit.cli.given import typed_path, typed_run
from mlkit.errors import ParameterError


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser("bench", help="measure the speed here, beside a plain loop and the machine's limit")
    command.add_argument("--images", metavar="DIR", help="folder of images (default: generated photos)")
    command.add_argument("--minutes", type=float, help="that images and repeats are fitted to (default: 3; with --peers 15)")
    command.add_argument("--count", type=int, help="images to use (default: what fits, at most 128 on a CPU, 4096 on a GPU)")
    command.add_argument("--image-size", type=int, metavar="PIXELS", help="side of the network's input (default: 224)")
    command.add_argument("--backbone", help="network of torchvision (default: resnet18)")
    command.add_argument("--batch-size", type=int, metavar="IMAGES", help="default: 32")
    command.add_argument("--repeats", type=int, help="of every measurement (default: what fits)")
    command.add_argument("--device", help="auto, cpu, cuda")
    command.add_argument("--precision", help="of mlkit and the pure step: auto, fp32, bf16")
    command.add_argument("--cache-count", type=int, metavar="IMAGES", help="of the memory test (default: 20000; 0: none)")
    command.add_argument(
        "--inference", nargs="?", const="", metavar="RUN", help="prediction alone, of a run, by all that it was exported to"
    )
    command.add_argument("--profile", action="store_true", help="where the time of one training step goes, alone")
    command.add_argument(
        "--scale",
        nargs="*",
        type=int,
        metavar="IMAGES",
        help="how all grows with them (2000 20000 200000), alone",
    )
    command.add_argument(
        "--peers", action="store_true", default=None, help="beside timm, fastai and Lightning, each in a process of its own"
    )
    quality = command.add_argument_group("time to the quality of the seed's recipe")
    quality.add_argument(
        "--to-quality", nargs="*", metavar="YAML", help='by these recipes, or "plain", the plain loop (default: fast.yaml)'
    )
    quality.add_argument("--labels", metavar="FILE", help="of --images (default: the sample data, small and from scratch)")
    quality.add_argument(
        "-p", "--parameter", nargs=2, action="append", metavar=("NAME", "VALUE"), help="set for all recipes"
    )
    quality.add_argument("--seeds", type=int, default=3, help="trainings of each recipe (default: 3)")
    command.add_argument("--json", metavar="FILE", default="", help="write the figures to a file")
    command.set_defaults(command=bench)


def bench(options: argparse.Namespace) -> int:
    """Measure this machine, and print the table."""
    from mlkit.bench.config import BenchConfig
    from mlkit.bench.report import describe, peers_table, table
    from mlkit.bench.turns import measure
    from mlkit.files import write_json

    if options.to_quality is not None:
        return _to_quality(options)
    if options.labels or options.parameter:
        raise ParameterError("--labels and -p are of --to-quality alone; leave them out, or add it")
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(BenchConfig)}
    if options.inference is not None:
        if others := [name for name, value in {**given, "json": options.json or None}.items() if value is not None]:
            raise ParameterError(f"--inference takes no other options; leave out {', '.join(others)}")
        return _inference(options.inference)
    if options.scale is not None:
        if others := [name for name in given if given[name] is not None and name != "minutes"]:
            raise ParameterError(f"--scale does not take {', '.join(others)}; leave that out")
        return _scale(options)
    if options.peers and given["minutes"] is None:
        given["minutes"] = 15.0  # five trainings more in every turn
    given["images"] = typed_path(given["images"]) if given["images"] else None
    config = BenchConfig(**{name: value for name, value in given.items() if value is not None})
    if options.profile:
        from mlkit.bench.profile import profile_step, tell

        print(tell(profile_step(config), config))
        return 0
    figures = measure(config)
    print(f"{describe(figures)}\n\n{table(figures).rename_axis(None).to_string()}")
    if options.peers:
        print(f"\n{peers_table(figures).rename_axis(None).to_string()}")
    if options.json:
        write_json(options.json, figures)
    return 0


def _inference(name: str) -> int:
    """Print how fast each door predicts."""
    from mlkit.bench.inference import measure_inference
    from mlkit.bench.machine import processor
    from mlkit.runs import Run

    table, reasons = measure_inference(Run.open(typed_run(name) if name else ""))
    print(f"images/s, {processor()}\n{table.round(1).to_string(na_rep='-')}")
    if reasons:
        print(f"The ratios cannot be trusted: {'; '.join(reasons)}. Measure again with nothing beside it.")
    return 0


def _scale(options: argparse.Namespace) -> int:
    """Print how every piece grows with the images."""
    import json
    import tempfile
    from pathlib import Path

    from mlkit.bench.machine import processor
    from mlkit.bench.scale import ROWS, measure_scale, readable
    from mlkit.files import make_folder, write_json
    from mlkit.runs import outputs_root

    rows = sorted(set(options.scale)) or list(ROWS)
    if rows[0] < 20:
        raise ParameterError(f"--scale {rows[0]}: 20 images are the fewest that can be split and judged")
    with tempfile.TemporaryDirectory(prefix=".scale-", dir=make_folder(outputs_root()), ignore_cleanup_errors=True) as work:
        found = measure_scale(Path(work), rows, options.minutes or float("inf"))
    print(f"CPU seconds, peak memory in MB and their growth with the images, {processor()}\n{readable(found)}")
    if options.json:
        names = [" ".join(map(str, column)) for column in found.columns.tolist()]
        write_json(options.json, json.loads(found.set_axis(names, axis=1).to_json()))
    return 0


def _to_quality(options: argparse.Namespace) -> int:
    """Print how soon recipes reach what the seed's reaches."""
    if others := [name for name in ("inference", "profile", "peers", "repeats", "cache_count") if getattr(options, name)]:
        raise ParameterError(f"--to-quality does not take {', '.join(others)}; leave that out")
    from mlkit.bench.quality import PLAIN, describe, time_to_quality
    from mlkit.cli.given import given_parameters
    from mlkit.files import resolve, write_json
    from mlkit.parameters import read_parameters

    names = ("image_size", "backbone", "batch_size", "device", "precision")
    pairs = [(name, str(value)) for name in names if (value := getattr(options, name)) is not None]
    of_data = argparse.Namespace(
        file=[], parameter=[*pairs, *(options.parameter or [])], images=options.images, labels=options.labels
    )
    settings = {name: value for name, value in given_parameters(of_data).items() if name != "recipe"}
    if not options.images:
        sample = read_parameters(resolve("notebooks/parameters/sample.yaml"))
        settings = {name: sample[name] for name in ("image_size", "weights")} | settings
    recipes = [file if file == PLAIN else typed_path(file) for file in options.to_quality] or [
        "notebooks/parameters/fast.yaml"
    ]
    figures = time_to_quality(recipes, settings, options.seeds, options.count or 0, options.minutes or 0.0)
    print(describe(figures))
    if options.json:
        write_json(options.json, figures)
    return 0
