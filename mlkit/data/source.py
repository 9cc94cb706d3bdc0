"""The one door to the data: where images and labels are, and how the label file is read."""

import platform
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Annotated

import pandas as pd

from mlkit.data.answers import AnswerFile, merge
from mlkit.data.cache import build_cache
from mlkit.data.dataset import MultiLabelDataset
from mlkit.data.labelfile import LabelFile, read_label_file
from mlkit.data.levels import check_range
from mlkit.data.names import MATCHES, exclude_images, find_files, refuse_links
from mlkit.data.reading import Reading
from mlkit.data.remote import list_anew
from mlkit.data.sample import ensure_sample
from mlkit.data.suggestions import read_suggestions, suggested
from mlkit.data.values import plain_values
from mlkit.errors import LabelError
from mlkit.files import address, locate, resolve, shown
from mlkit.parameters import OneOf, parameters_of


@dataclass(frozen=True)
class DataSource(Reading):
    """Images and labels of a person, or the sample, which is drawn when it is opened first.

    Raises:
        ParameterError: if a value is none that it can have.
    """

    images: Annotated[str, "folder of images, here or elsewhere: s3://bucket/photos"] = ""
    labels: Annotated[str, "label file: .txt, .csv, .tsv or .parquet"] = ""
    answers: Annotated[str, "answers of people to single cells, which go before the labels: see mlkit review"] = ""
    suggestions: Annotated[str, "of a model for unknown training cells, to learn a little from: mlkit review suggest"] = ""
    values: Annotated[dict[str, str], 'what values mean: {"1": "yes", "-1": "no", "0": "NA"}; empty: 1 yes, 0 no'] = field(
        default_factory=dict
    )
    attributes: Annotated[list[str], 'which columns are attributes, names or patterns; "!Age" leaves one out'] = field(
        default_factory=list
    )
    image_column: Annotated[str, "column that names the image; empty: the first, or one called like it"] = ""
    extension: Annotated[str, "of the image files, where the names have none or another: .jpg"] = ""
    match: Annotated[str, OneOf(MATCHES), "how names may differ from those of the files"] = "exact"
    links: Annotated[bool, "images may be links to files outside of their folder"] = False
    strict: Annotated[bool, "a missing or broken image is an error instead of being left out"] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "values", plain_values(self.values))  # YAML makes booleans and numbers of what it can
        object.__setattr__(self, "attributes", [str(name) for name in self.attributes])

    @property
    def reading(self) -> Reading:
        """How image files are read."""
        return Reading.of(asdict(self))

    def open(self, image_size: int = 224) -> MultiLabelDataset:
        """Read the label file and decode its images (once: the next call finds them in the pixel cache).

        Args:
            image_size: side in pixels of the square that every image is resized to.

        Raises:
            LabelError: for a label file, an images folder, a file of answers or of suggestions that cannot be used.
            ImageError: if files deeper than 8 bits need a `value_range`.
        """
        self.prepare()
        file = self.read().check()
        folder = locate(self.images)
        if not list_anew(folder):
            raise LabelError(f"{address(folder) or folder}: no such images folder; check the path")
        names = self.files_of(file)
        table = file.labels.set_axis(pd.Index(names, name="image", dtype=object))
        table.attrs = file.labels.attrs
        if not self.links:
            refuse_links(folder, names)
        cache = build_cache(folder, names, image_size, self.reading)
        check_range(cache.levels, self.reading, shown(folder))
        kept, report = exclude_images(table, cache.problems, self.strict, folder, file.lines)
        labels, digests = kept, {image: cache.entries[image].digest for image in kept.index}
        if self.answers:
            if not resolve(self.answers).is_file():
                raise LabelError(f"{resolve(self.answers)}: no such file of answers; check the path")
            labels = merge(kept, AnswerFile(self.answers).read(), digests)
        soft = None
        if self.suggestions:
            soft, note = suggested(read_suggestions(self.suggestions), labels, digests)
            labels.attrs["notes"] = [*labels.attrs.get("notes", []), note]
        return MultiLabelDataset(labels, report, cache, kept, soft, partial(_open_again, self, image_size))

    def read(self) -> LabelFile:
        """The label file alone, with all that is wrong in it."""
        return read_label_file(self.labels, self.values, self.attributes, self.image_column)

    def files_of(self, file: LabelFile) -> list[str]:
        """Files of the images that a label file names, from the images folder."""
        return find_files(locate(self.images), list(file.labels.index), self.extension, self.match)

    def prepare(self) -> None:
        """Draw the sample, if it is that and not there yet."""
        ensure_sample(self.labels)


def _open_again(source: DataSource, image_size: int, fingerprint: str) -> MultiLabelDataset:
    """A data set that another process has open. Raises LabelError if labels or images are others here."""
    dataset = source.open(image_size)
    if dataset.fingerprint != fingerprint:
        raise LabelError(f"{source.labels} or the images it names are others on {platform.node()}; they must be the same")
    return dataset


DATA = tuple(parameters_of(DataSource))  # names of the settings that say where the data is and how it is read
