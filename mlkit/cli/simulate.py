"""`mlkit review simulate`: which order to ask in, tried on data with complete labels."""

import argparse
from typing import Any

from mlkit.cli.given import GOES_ON, add_dask_option, data_options, given_parameters


def add_to(commands: Any) -> None:
    """Add the command to the parser of `mlkit review`."""
    command = commands.add_parser(
        "simulate", parents=[data_options()], help="which order is worth most, on data with complete labels"
    )
    add_dask_option(command)
    command.set_defaults(command=simulate, goes_on=GOES_ON)


def simulate(options: argparse.Namespace) -> int:
    """Hide cells of complete labels, answer them in every order, print what each order was worth."""
    from mlkit.curation.orders import DEFAULT_ORDER
    from mlkit.data.sample import FOLDER
    from mlkit.experiments.simulation import Simulation
    from mlkit.experiments.simulation import simulate as run
    from mlkit.experiments.simulation.config import YARDSTICK
    from mlkit.experiments.simulation.findings import differences, overall
    from mlkit.experiments.study.grid import refuse
    from mlkit.parameters import check_parameters, parameters_of
    from mlkit.training.recipe import Recipe, known_settings

    asked = parameters_of(Simulation)
    given = check_parameters(given_parameters(options, standard="simulation"), known_settings() | asked)
    refuse({name: given[name] for name in ("seed", "split_seed", "folds", "fold") if name in given})
    sample = {"images": f"{FOLDER}/images", "labels": f"{FOLDER}/truth.csv"}
    values = sample | given
    recipe = Recipe.of(values)
    wanted = Simulation(**{name: value for name, value in values.items() if name in asked}, config=recipe.config)
    truth = recipe.open()
    print(truth)
    results = run(wanted, truth, options.name or "simulation", dask=options.dask)
    for to in (YARDSTICK, "uncertain"):
        if to in wanted.orders:
            print(f"\nmAP less that of {to}, of the same seed: along the curve, at the end, after half the answers")
            print(differences(results, to).round(4).to_string())
            print(f"\noverall, along the curve, by {wanted.by[0]}")
            print(overall(results, to, wanted.by[0]).round(4).to_string())
    for over in ("answers", "seconds") if len(wanted.by) > 1 else ():
        order = DEFAULT_ORDER if DEFAULT_ORDER in wanted.orders else YARDSTICK
        print(f"\n{order}, mAP by image less by cell, over {over}")
        print(differences(results, order, "cell", over).xs(("image", order), level=["by", "order"]).round(4).to_string())
    return 0
