"""`mlkit ensemble`: several trained runs as one model."""

import argparse
from typing import Any

from mlkit.cli.given import typed_run
from mlkit.files import shown


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser("ensemble", help="average the logits of several runs, as one model")
    command.add_argument("runs", nargs="+", metavar="RUN", help="finished run, or a pattern of names: 'mine-fold*'")
    command.add_argument("--name", default="", help="folder under outputs/ (default: what the names begin with, -ensemble)")
    command.add_argument("--overwrite", action="store_true", help="replace the run that is in the folder")
    command.set_defaults(command=ensemble)


def ensemble(options: argparse.Namespace) -> int:
    """Make the ensemble; print who judged it, what it is worth beside its members, and where the model is."""
    from mlkit.experiments.ensemble import build_ensemble
    from mlkit.inference.card import write_card
    from mlkit.runs import find_runs

    run = build_ensemble(find_runs([typed_run(run) for run in options.runs]), options.name, options.overwrite)
    write_card(run)
    facts, table = run.read_json("metrics.json"), run.read_table("members.csv").set_index("run")
    print(f"{run}: ensemble of {', '.join(facts['members'])}\n{facts['judging']}")
    if facts["judged_on"] != "test":
        print("They chose the members' epochs, the calibration and the thresholds too, and flatter.")
    print(table.round(3).rename_axis(None).to_string(na_rep=""))
    members = table.dropna(subset="difference")
    if (members.images == table.images.iloc[-1]).all() and len(members):  # else the best one had the easiest images
        best = members.iloc[members.mAP.argmax()]
        outcome = "better" if best.low > 0 else "worse" if best.high < 0 else "these images cannot tell which is better"
        print(f"against the best member, {best.name}: {best.difference:+.3f} [{best.low:+.3f}, {best.high:+.3f}], {outcome}")
    every = len(facts["attributes"])
    over = f"over {every - len(facts['left_out_of_mean'])} of {every} attributes"
    mean = "undefined" if facts["mean"]["AP"] is None else f"{facts['mean']['AP']:.3f}"
    print(f"{facts['judged_on']} mAP {mean} {over}; model: {shown(run / 'model.pth')}")
    return 0
