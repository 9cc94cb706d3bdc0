"""Copies, retouched and resized ones are grouped, look-alikes are not; labels of a group are compared where known."""

import numpy as np
import pandas as pd
import pytest
from conftest import SHARED
from PIL import Image, ImageEnhance

from mlkit import duplicates
from mlkit.dataset import MultiLabelDataset, split_images
from mlkit.errors import ParameterError
from mlkit.labelfile import write_labels
from mlkit.labels import from_codes
from mlkit.sample import make_sample

real_data = pytest.mark.skipif(not SHARED.is_dir(), reason="the real data sets are not here")


def dataset_of(folder, pictures, size=64):
    """Data set of pictures by name, one attribute, all known."""
    (folder / "images").mkdir(parents=True)
    for name, picture in pictures.items():
        picture.save(folder / "images" / name)
    write_labels(from_codes(np.zeros((len(pictures), 1)), pictures, ["a"]), folder / "labels.csv")
    return MultiLabelDataset.from_files(str(folder / "images"), str(folder / "labels.csv"), size)


def groups_of(dataset, **options):
    """Groups of at least two images, as sets."""
    groups = duplicates.duplicate_groups(dataset, **options)
    return [set(members) for members in groups.groupby(groups).groups.values() if len(members) > 1]


def test_changed_copies_are_found_and_all_else_is_left_alone(sample, tmp_path):
    originals = {f"{i:04d}.png": Image.open(sample / "images" / f"{i:04d}.jpg").convert("RGB") for i in range(20)}
    one, two = originals["0003.png"], originals["0007.png"]
    copies = {
        "exact.png": one,
        "small.png": one.resize((90, 90)),
        "compressed.jpg": one,
        "bright.png": ImageEnhance.Brightness(two).enhance(1.05),
    }
    dataset = dataset_of(tmp_path, originals | copies)
    found = groups_of(dataset)
    assert sorted(found, key=len) == [{"0007.png", "bright.png"}, {"0003.png", "exact.png", "small.png", "compressed.jpg"}]
    groups = duplicates.duplicate_groups(dataset)
    assert groups["exact.png"] == "0003.png"  # named after the first
    assert groups["0000.png"] == "0000.png"
    assert groups.index.equals(dataset.labels.index)


def test_only_the_exact_copy_of_the_sample_set_is_found(tmp_path):
    make_sample(tmp_path / "sample", count=150, seed=5)
    dataset = MultiLabelDataset.from_files(str(tmp_path / "sample/images"), str(tmp_path / "sample/labels.csv"), 64)
    assert groups_of(dataset) == [{"0148.jpg", "0149.jpg"}]
    (pair,) = duplicates.duplicate_pairs(dataset).to_dict("records")
    assert pair == {"first": "0148.jpg", "second": "0149.jpg", "distance": 0, "difference": 0}
    assert duplicates.contradictions(dataset.labels, duplicates.duplicate_groups(dataset)).attribute.tolist() == ["long"]


def test_flat_pictures_are_alike_only_where_they_have_one_colour(tmp_path):
    colours = {"white": (255, 255, 255), "black": (0, 0, 0), "grey": (128, 128, 128), "red": (200, 0, 0)}
    pictures = {f"{name}{i}.png": Image.new("RGB", (70, 70), colour) for name, colour in colours.items() for i in range(30)}
    assert sorted(groups_of(dataset_of(tmp_path, pictures)), key=min) == [
        {f"{name}{i}.png" for i in range(30)} for name in sorted(colours)
    ]


def test_faint_noise_on_a_flat_picture_is_not_content(tmp_path):
    rng = np.random.default_rng(0)
    noisy = {f"{i}.png": Image.fromarray((200 + rng.integers(0, 2, (64, 64, 3))).astype(np.uint8)) for i in range(30)}
    with_object = Image.new("RGB", (64, 64), (200, 200, 200))
    with_object.paste((30, 30, 30), (10, 10, 20, 20))
    moved = Image.new("RGB", (64, 64), (200, 200, 200))
    moved.paste((30, 30, 30), (40, 40, 50, 50))
    found = groups_of(dataset_of(tmp_path, noisy | {"object.png": with_object, "moved.png": moved}))
    assert not any({"object.png", "moved.png"} & group for group in found)


@pytest.mark.parametrize("distance", [0, 4, 6, 16])
def test_hash_pairs_are_those_of_comparing_all(distance):
    rng = np.random.default_rng(distance)
    bits = rng.integers(0, 2, (40, 64))
    bits = np.concatenate([bits, bits, bits])
    bits[np.arange(40, 120).repeat(5), rng.integers(0, 64, 400)] ^= 1  # five random flips, some of them undone
    hashes = np.packbits(bits, axis=1).view(np.uint64).ravel()
    pairs, distances = duplicates._hash_pairs(hashes, distance)
    every = (bits[:, None] != bits[None]).sum(axis=2)
    expected = np.argwhere(np.triu(every <= distance, 1))
    np.testing.assert_array_equal(pairs, expected)
    np.testing.assert_array_equal(distances, every[expected[:, 0], expected[:, 1]])


def test_no_pairs_of_no_or_one_hash():
    for count in (0, 1):
        assert len(duplicates._hash_pairs(np.zeros(count, np.uint64), 6)[0]) == 0


def test_distance_out_of_range_is_refused(sample):
    dataset = MultiLabelDataset.from_files(str(sample / "images"), str(sample / "labels.csv"), 16)
    with pytest.raises(ParameterError, match="distance is 17; it must lie between 0 and 16 bits of 64, 6 say"):
        duplicates.duplicate_pairs(dataset, 17)


def test_contradictions_count_known_cells_only():
    codes = np.zeros((8, 3), int)
    codes[:3] = [[1, 1, -1], [0, 1, 1], [-1, 1, 1]]  # a is in dispute, an unknown cell contradicts nothing
    labels = from_codes(codes, (f"{i}.jpg" for i in range(8)), ["a", "b", "c"])
    groups = pd.Series({f"{i}.jpg": "first" for i in range(3)} | {"4.jpg": "4.jpg", "5.jpg": "4.jpg"})
    (row,) = duplicates.contradictions(labels, groups).to_dict("records")
    assert row == {"attribute": "a", "images": 3, "labels": "0.jpg: 1, 1.jpg: 0"}
    alone = pd.Series(labels.index, index=labels.index)
    assert duplicates.contradictions(labels, alone).empty


def test_noise_ceiling_equals_counting_pairs_and_ignores_unknown_cells():
    rng = np.random.default_rng(0)
    codes = rng.integers(-1, 2, (200, 2))
    labels = from_codes(codes, map(str, range(200)), ["a", "b"])
    groups = pd.Series((np.arange(200) // 3).astype(str), index=labels.index)
    table = duplicates.noise_ceiling(labels, groups)
    for i, attribute in enumerate(labels):
        known = labels[attribute].dropna()  # unknown cells physically removed
        pairs = [(x, y) for _, part in known.groupby(groups) for k, x in enumerate(part) for y in part.iloc[k + 1 :]]
        assert table.pairs.iloc[i] == len(pairs)
        assert table.disagreeing.iloc[i] == sum(x != y for x, y in pairs)
        assert table.disagreement.iloc[i] == pytest.approx(np.mean([x != y for x, y in pairs]))


def test_noise_ceiling_is_the_accuracy_of_the_truth_on_noisy_labels():
    rng = np.random.default_rng(0)
    truth = (rng.random(20_000) < 0.3).repeat(2)
    noisy = np.where(rng.random(len(truth)) < 0.1, ~truth, truth).astype(int)
    labels = from_codes(np.stack([noisy, np.full(len(truth), -1)], axis=1), map(str, range(len(truth))), ["a", "unknown"])
    groups = pd.Series((np.arange(len(truth)) // 2).astype(str), index=labels.index)
    table = duplicates.noise_ceiling(labels, groups)
    assert table.accuracy_ceiling["a"] == pytest.approx(0.9, abs=0.005)
    assert table.accuracy_ceiling["a"] == pytest.approx((noisy == truth).mean(), abs=0.005)
    assert table.pairs["unknown"] == 0
    assert np.isnan(table.accuracy_ceiling["unknown"])


@real_data
def test_product_photos_have_copies_that_stay_on_one_side():
    dataset = MultiLabelDataset.from_files(str(SHARED / "aimonk/images"), str(SHARED / "aimonk/labels.txt"), 32)
    groups = duplicates.duplicate_groups(dataset)
    assert 10 <= (groups.value_counts() > 1).sum() <= 20
    assert groups.value_counts().max() <= 4
    assert groups.groupby(dataset.digests).nunique().eq(1).all()  # identical files among them
    assert split_images(dataset.labels, 0.2, groups=groups).groupby(groups).nunique().eq(1).all()
    assert set(duplicates.contradictions(dataset.labels, groups).attribute) == set(dataset.attributes)
