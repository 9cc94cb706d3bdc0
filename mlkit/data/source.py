"""The one door to the data: where images and labels are, and how the label file is read."""

from dataclasses import dataclass
from typing import Annotated

from mlkit.data.cache import build_cache
from mlkit.data.dataset import MultiLabelDataset
from mlkit.data.labelfile import exclude_images, read_labels
from mlkit.data.sample import ensure_sample
from mlkit.errors import LabelError
from mlkit.files import resolve
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

    def open(self, image_size: int = 224) -> MultiLabelDataset:
        """Read the label file and decode its images (once: the next call finds them in the pixel cache).

        Args:
            image_size: side in pixels of the square that every image is resized to.

        Raises:
            LabelError: for a label file or an images folder that cannot be used.
        """
        self.prepare()
        table = read_labels(self.labels, self.minus_one)
        folder = resolve(self.images)
        if not folder.is_dir():
            raise LabelError(f"{folder}: no such images folder; check the path")
        cache = build_cache(folder, list(table.index), image_size)
        kept, report = exclude_images(table, cache.problems, self.strict, str(folder))
        return MultiLabelDataset(kept, report, cache)

    def prepare(self) -> None:
        """Draw the sample, if it is that and not there yet."""
        ensure_sample(self.labels)


DATA = tuple(parameters_of(DataSource))  # names of the settings that say where the data is and how it is read
