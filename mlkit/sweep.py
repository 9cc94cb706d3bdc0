"""Several trainings on one data set, each a run of its own."""

from collections.abc import Mapping
from typing import Any

from mlkit.config import TrainConfig
from mlkit.dataset import MultiLabelDataset
from mlkit.progress import say
from mlkit.runs import Run, outputs_root
from mlkit.train import train


def train_all(
    dataset: MultiLabelDataset, configs: Mapping[str, TrainConfig], data: dict[str, Any], overwrite: bool = False
) -> list[Run]:
    """Train each configuration into the run of its name.

    A run that is finished, with the same parameters and data, is kept, and an unfinished one goes on.

    Args:
        dataset: the data set.
        configs: name of the run -> its configuration.
        data: where the data is, for the run folders, see `TrainConfig.parameters`.
        overwrite: replace other runs that these folders hold.

    Raises:
        RunError: if a folder holds another run.
    """
    runs = []
    for number, (name, config) in enumerate(configs.items(), 1):
        run, parameters = Run(outputs_root() / name), config.parameters(**data)
        say(f"training {number} of {len(configs)}: {run}")
        if not overwrite and _is_done(run, parameters, dataset.fingerprint):
            say("finished before, kept")
        else:
            train(dataset, config, Run.create(name, parameters, dataset.fingerprint, overwrite))
        runs.append(run)
    return runs


def _is_done(run: Run, parameters: dict[str, Any], fingerprint: str) -> bool:
    if not run.finished:
        return False
    config = run.config()
    return bool(config["parameters"] == parameters and config["data"] == fingerprint)
