"""`mlkit study`: the methods for missing labels, compared on data with complete labels."""

import argparse
from typing import Any

from mlkit.cli.given import GOES_ON, add_dask_option, data_options, given_parameters


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "study", parents=[data_options()], help="compare methods for missing labels, on data with complete labels"
    )
    add_dask_option(command)
    command.set_defaults(command=study, goes_on=GOES_ON)


def study(options: argparse.Namespace) -> int:
    """Compare the methods for missing labels on data with complete labels: what notebook 06 does, without figures."""
    from mlkit.data.sample import FOLDER
    from mlkit.experiments.study import run_study
    from mlkit.experiments.study.findings import advice, differences
    from mlkit.experiments.study.grid import Study, refuse
    from mlkit.parameters import check_parameters, parameters_of
    from mlkit.training.recipe import Recipe, known_settings

    asked = parameters_of(Study)
    given = given_parameters(options, standard="study")
    refuse(given)
    sample = {"images": f"{FOLDER}/images", "labels": f"{FOLDER}/truth.csv"}
    values = sample | check_parameters(given, known_settings() | asked)
    recipe = Recipe.of(values)
    wanted = Study(**{name: value for name, value in values.items() if name in asked}, config=recipe.config)
    truth = recipe.open()
    print(truth)
    results = run_study(wanted, truth, options.name or "study", dask=options.dask)
    print(differences(results).round(3).to_string())
    print(advice(results))
    return 0
