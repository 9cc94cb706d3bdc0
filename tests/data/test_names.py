"""Names of a label file find their files by a setting, never by a guess, and the mend is told with how much it mends."""

import shutil

import numpy as np
import pytest
from conftest import POSIX

from mlkit.data.labelfile import write_labels
from mlkit.data.labels import from_codes
from mlkit.data.names import find_files
from mlkit.data.source import DataSource
from mlkit.errors import LabelError


@pytest.fixture
def folder(sample, tmp_path):
    """Make a folder of images with these names, and a label file with others; returns the two as settings."""

    def folder(files, names):
        for number, file in enumerate(files):
            (tmp_path / "images" / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(sample / "images" / f"{number:04d}.jpg", tmp_path / "images" / file)
        write_labels(from_codes(np.eye(len(names), 2, dtype=int), names, ["sea", "sky"]), tmp_path / "labels.csv")
        return {"images": str(tmp_path / "images"), "labels": str(tmp_path / "labels.csv")}

    return folder


WAYS = [
    (["train_0.jpg", "train_1.jpg"], ["train_0", "train_1"], {"extension": ".jpg"}),
    (["a.b.png", "c.png"], ["a.b.jpg", "c.jpeg"], {"extension": ".png"}),
    (["A/Photo.JPG", "A/other.jpg"], ["a/photo.jpg", "A/OTHER.jpg"], {"match": "case"}),
    (["0001.jpg", "img_012.jpg"], ["1.jpg", "img_12.jpg"], {"match": "zeros"}),
    (["Zoe\u0308.jpg", "\u00e9.jpg"], ["Zo\u00eb.jpg", "e\u0301.jpg"], {"match": "unicode"}),
    (["my photo.jpg", "50%.jpg"], ["my%20photo.jpg", "50%25.jpg"], {"match": "percent"}),
    (["a/1.jpg", "b/2.jpg"], ["data/set/1.jpg", "2.jpg"], {"match": "folder"}),
    (["Train_0.JPG", "Train_1.JPG"], ["train_0", "train_1"], {"extension": ".jpg", "match": "case"}),
]


@pytest.mark.parametrize(("files", "names", "setting"), WAYS)
def test_name_finds_its_file_by_a_setting_and_by_nothing_else(folder, files, names, setting):
    data = folder(files, names)
    with pytest.raises(LabelError, match="none of its 2 images can be used") as error:
        DataSource(**data).open(16)
    if len(setting) == 1:
        ((name, value),) = setting.items()
        assert f"of 2 names without a file, 2 match with {value} at the end (extension: {value})" in str(error.value) or (
            f"({name}: {value})" in str(error.value)
        )
    dataset = DataSource(**data, **setting).open(16)
    assert list(dataset.labels.index) == files
    assert dataset.targets.tolist() == np.eye(2, dtype=int).tolist()


def test_mend_counts_what_it_would_find_where_some_names_are_right(folder):
    data = folder(["a.jpg", "b.jpg", "c.png"], ["a.jpg", "b", "c", "d"])
    dataset = DataSource(**data).open(16)
    assert "of 3 names without a file, 1 match with .jpg at the end (extension: .jpg)" in str(dataset)
    assert list(DataSource(**data, extension=".jpg").open(16).labels.index) == ["a.jpg", "b.jpg"]


def test_what_several_files_share_is_none_of_them(tmp_path):
    for name in ("A.jpg", "a.JPG"):
        (tmp_path / name).touch()
    assert find_files(tmp_path, ["a.jpg"], match="case") == ["a.jpg"]


def test_two_names_of_one_file_are_refused(tmp_path):
    (tmp_path / "a.jpg").touch()
    with pytest.raises(LabelError, match=r"'a' and 'a.png' both mean the file 'a.jpg'; keep one row"):
        find_files(tmp_path, ["a", "a.png"], extension=".jpg")


def test_address_is_told_as_it_was_written(tmp_path):
    (tmp_path / "labels.csv").write_text("image,sea\nhttps://host.example//a.jpg,1\n", encoding="utf-8")
    with pytest.raises(LabelError, match=r"line 2: 'https://host.example//a.jpg' is an address; name its folder as images"):
        DataSource(str(tmp_path), str(tmp_path / "labels.csv")).open(16)


@POSIX
def test_links_out_of_the_images_folder_are_followed_only_where_that_is_said(folder, sample, tmp_path):
    data = folder(["a.jpg"], ["a.jpg", "b.jpg", "c/d.jpg"])
    (tmp_path / "images" / "b.jpg").symlink_to("a.jpg")  # within
    (tmp_path / "images" / "c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(sample / "images" / "0005.jpg", tmp_path / "elsewhere" / "d.jpg")
    with pytest.raises(LabelError, match=r"c/d.jpg is a link that leads out of the images folder, to .*elsewhere/d.jpg"):
        DataSource(**data).open(16)
    assert len(DataSource(**data, links=True).open(16)) == 3
