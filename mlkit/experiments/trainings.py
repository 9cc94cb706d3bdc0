"""Several trainings on one data set, each a run of its own."""

from collections.abc import Mapping, Sequence
from typing import Any

from mlkit.data.dataset import MultiLabelDataset
from mlkit.data.sample import ensure_sample
from mlkit.files import project_root
from mlkit.parameters import read_parameters
from mlkit.progress import say
from mlkit.runs import Run, outputs_root
from mlkit.training.config import TrainConfig
from mlkit.training.loop import train


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
        if not overwrite and run.finished and run.is_made_of(parameters, dataset.fingerprint):
            say("finished before, kept")
        else:
            train(dataset, config, Run.create(name, parameters, dataset.fingerprint, overwrite))
        runs.append(run)
    return runs


def train_examples(backbones: Sequence[str], image_size: int, epochs: int) -> list[Run]:
    """Small trainings on the sample data, `example-BACKBONE`, with the settings of sample.yaml but for these three.

    Raises:
        RunError: if a folder holds another run.
    """
    given = read_parameters(project_root() / "notebooks" / "parameters" / "sample.yaml")
    data = {name: given.pop(name) for name in ("images", "labels")}
    ensure_sample(data["labels"])
    dataset = MultiLabelDataset.from_files(**data, image_size=image_size)
    size = {"image_size": image_size, "epochs": epochs}
    configs = {f"example-{backbone}": TrainConfig(**(given | size), backbone=backbone) for backbone in backbones}
    return train_all(dataset, configs, data | {"minus_one": "error", "strict": False})
