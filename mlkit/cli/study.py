"""`mlkit study`: the methods for missing labels, compared on data with complete labels."""

import argparse
from typing import Any

from mlkit.cli.given import GOES_ON, data_options, given_parameters


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "study", parents=[data_options()], help="compare methods for missing labels, on data with complete labels"
    )
    command.set_defaults(command=study, goes_on=GOES_ON)


def study(options: argparse.Namespace) -> int:
    """Compare the methods for missing labels on data with complete labels: what notebook 06 does, without figures."""
    from mlkit.data.dataset import MultiLabelDataset
    from mlkit.data.sample import FOLDER, ensure_sample
    from mlkit.errors import ParameterError
    from mlkit.experiments.study import run_study
    from mlkit.experiments.study.findings import advice, differences
    from mlkit.experiments.study.grid import NOT_GIVEN, Study
    from mlkit.parameters import DATA, check_parameters, parameters_of
    from mlkit.training.config import TrainConfig

    where = {**DATA, "images": f"{FOLDER}/images", "labels": f"{FOLDER}/truth.csv"}
    training, asked = parameters_of(TrainConfig), parameters_of(Study)
    given = given_parameters(options, standard="study")
    if name := next((name for name in given if name in NOT_GIVEN), None):
        raise ParameterError(f"{name} is {given[name]!r}, which a study decides by itself: {NOT_GIVEN[name]}")
    values = where | check_parameters(given, where | training | asked)
    data = {name: values.pop(name) for name in where}
    config = TrainConfig(**{name: value for name, value in values.items() if name in training})
    wanted = Study(**{name: value for name, value in values.items() if name in asked}, config=config)
    ensure_sample(data["labels"])
    truth = MultiLabelDataset.from_files(image_size=config.image_size, **data)
    print(truth)
    results = run_study(wanted, truth, options.name or "study")
    print(differences(results).round(3).to_string())
    print(advice(results))
    return 0
