"""The one door to the data: where images and labels are, and how the label file is read."""

from dataclasses import asdict, dataclass
from typing import Annotated

from mlkit.data.dataset import MultiLabelDataset
from mlkit.data.sample import ensure_sample
from mlkit.parameters import OneOf, check_fields, parameters_of


@dataclass(frozen=True)
class DataSource:
    """Images and labels of a person, or the sample, which is drawn when it is opened first.

    Raises:
        ParameterError: if a value is none that it can have.
    """

    images: Annotated[str, "folder of images"] = ""
    labels: Annotated[str, "label file: .txt, .csv, .tsv or .parquet"] = ""
    minus_one: Annotated[str, OneOf(("error", "unknown", "no")), "what -1 means in the label file"] = "error"
    strict: Annotated[bool, "a missing or broken image is an error instead of being left out"] = False

    def __post_init__(self) -> None:
        check_fields(self)

    def open(self, image_size: int) -> MultiLabelDataset:
        """Read the labels and decode the images, see `MultiLabelDataset.from_files`, which also says the errors."""
        self.prepare()
        return MultiLabelDataset.from_files(image_size=image_size, **asdict(self))

    def prepare(self) -> None:
        """Draw the sample, if it is that and not there yet."""
        ensure_sample(self.labels)


DATA = tuple(parameters_of(DataSource))  # names of the settings that say where the data is and how it is read
