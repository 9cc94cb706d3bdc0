"""Copies, retouched and resized ones are grouped, look-alikes are not; labels of a group are compared where known."""

import itertools
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import SHARED
from PIL import Image, ImageEnhance

from mlkit.data import duplicates, fingerprints
from mlkit.data.labelfile import write_labels
from mlkit.data.labels import from_codes
from mlkit.data.sample import make_sample
from mlkit.data.source import DataSource
from mlkit.data.split import split_images
from mlkit.errors import ParameterError
from mlkit.training import loop as train
from mlkit.training.config import TrainConfig

real_data = pytest.mark.skipif(not SHARED.is_dir(), reason="the real data sets are not here")


def dataset_of(folder, pictures, size=64):
    """Data set of pictures by name, one attribute, all known."""
    (folder / "images").mkdir(parents=True)
    for name, picture in pictures.items():
        picture.save(folder / "images" / name)
    write_labels(from_codes(np.zeros((len(pictures), 1)), pictures, ["a"]), folder / "labels.csv")
    return DataSource(str(folder / "images"), str(folder / "labels.csv")).open(size)


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
    dataset = DataSource(str(tmp_path / "sample/images"), str(tmp_path / "sample/labels.csv")).open(64)
    assert groups_of(dataset) == [{"0148.jpg", "0149.jpg"}]
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


def prints_of(bits, thumbnails):
    """Fingerprints of hashes (images, 64) of 0 and 1, and of thumbnails (images, 768)."""
    return np.concatenate([np.packbits(bits, axis=1), np.clip(thumbnails, 0, 255)], axis=1).astype(np.uint8)


def compared_with_all(prints, distance):
    """Components of near duplicates by their definition, each pair looked at: position of each image's first."""
    bits, thumbnails = np.unpackbits(prints[:, :8], axis=1), prints[:, 8:].astype(float)
    groups = np.arange(len(prints))
    for i, j in itertools.combinations(range(len(prints)), 2):
        contrast = np.sqrt((thumbnails[i].var() + thumbnails[j].var()) / 2)
        difference = np.sqrt(np.square(thumbnails[i] - thumbnails[j]).mean()) / max(contrast, 2)
        copies = (prints[i] == prints[j]).all()
        if copies or ((bits[i] != bits[j]).sum() <= distance and difference <= fingerprints.DIFFERENCE):
            groups[groups == groups[j]] = groups[i]
    return np.array([np.flatnonzero(groups == group)[0] for group in groups])


@pytest.mark.parametrize(("distance", "count"), [(0, 120), (4, 120), (6, 120), (16, 120), (6, 50_000), (6, 10_000_000)])
@pytest.mark.parametrize("block", [1, 4, 128])
def test_groups_are_those_of_comparing_all(distance, block, count, monkeypatch):
    keys = fingerprints._keys(distance, count)  # by which so many would be compared
    monkeypatch.setattr(fingerprints, "_BLOCK", block)
    monkeypatch.setattr(fingerprints, "_keys", lambda *_: keys)
    rng = np.random.default_rng(distance)
    bits, thumbnails = rng.integers(0, 2, (30, 64)), rng.integers(0, 256, (30, 768))
    thumbnails[20:] = thumbnails[10:20]  # one picture, other hashes
    bits[10:15] = bits[:5]  # one hash, other pictures
    bits, thumbnails = (np.concatenate([part] * 4) for part in (bits, thumbnails))
    bits[np.arange(60, 120).repeat(5), rng.integers(0, 64, 300)] ^= 1  # five random flips, some of them undone
    thumbnails[30:] += rng.integers(-1, 2, (90, 768)) * rng.integers(0, 45, (90, 1))  # some agree, some do not
    prints = prints_of(bits, thumbnails)[rng.permutation(120)]
    expected = compared_with_all(prints, distance)
    assert 1 < len(np.unique(expected)) < 120
    np.testing.assert_array_equal(fingerprints.near_duplicates(prints, distance), expected)


def test_frames_of_one_scene_are_compared_with_a_few_others_each(monkeypatch):
    compared, real = [], fingerprints._alike

    def counted(first, second):
        alike = real(first, second)
        compared.append(alike.size)
        return alike

    monkeypatch.setattr(fingerprints, "_alike", counted)
    rng = np.random.default_rng(0)
    frames = 3000
    bits, thumbnails = np.tile(rng.integers(0, 2, 64), (frames, 1)), np.tile(rng.integers(0, 256, 768), (frames, 1))
    bits[np.arange(frames).repeat(2), rng.integers(0, 64, 2 * frames)] ^= 1
    thumbnails += rng.integers(-6, 7, thumbnails.shape)
    assert not fingerprints.near_duplicates(prints_of(bits, thumbnails)).any(), "all belong to the first"
    assert sum(compared) < 50 * frames, "of 1500 that are possible for each"


def test_the_more_images_the_more_bits_they_must_share_to_be_compared(monkeypatch):
    compared, real = [], np.bitwise_count
    monkeypatch.setattr(np, "bitwise_count", lambda differing: compared.append(differing.size) or real(differing))
    pairs = []
    for count in (2_000, 200_000):
        hashes = np.random.default_rng(0).integers(256, size=(count, 8), dtype=np.uint8)
        compared.clear()
        fingerprints.near_duplicates(np.concatenate([hashes, np.zeros((count, 3), np.uint8)], axis=1))
        pairs.append(sum(compared) / count)
    assert max(pairs) < 100, "of each; of all pairs that share a seventh of their bits, 1,400"


def test_no_image_and_one_image_are_no_duplicates():
    for count in (0, 1):
        assert fingerprints.near_duplicates(np.zeros((count, 776), np.uint8)).tolist() == [0] * count


def test_fingerprints_are_kept_by_content_with_the_pixel_cache(sample, tmp_path, outputs, monkeypatch):
    shutil.copytree(sample, tmp_path / "data")
    hashed, real = [], duplicates.fingerprints

    def counted(pixels):
        hashed.append(len(pixels))
        return real(pixels)

    def groups():
        hashed.clear()
        dataset = DataSource(str(tmp_path / "data/images"), str(tmp_path / "data/labels.csv")).open(32)
        return duplicates.duplicate_groups(dataset)

    monkeypatch.setattr(duplicates, "fingerprints", counted)
    first = groups()
    assert sum(hashed) == len(first)
    assert groups().equals(first)
    assert hashed == []
    shutil.copyfile(tmp_path / "data/images/0010.jpg", tmp_path / "data/images/0011.jpg")
    assert groups()["0011.jpg"] == "0010.jpg"
    assert hashed == [], "known content under another name"
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    picture.save(tmp_path / "data/images/0011.jpg")
    assert groups()["0011.jpg"] == "0011.jpg"
    assert hashed == [1]
    (kept,) = outputs.rglob("fingerprints-*.npz")
    kept.write_bytes(kept.read_bytes()[:1000])
    assert groups()["0011.jpg"] == "0011.jpg"
    assert sum(hashed) == len(first)


def test_without_the_search_only_identical_files_stay_together(sample, monkeypatch):
    monkeypatch.setattr(train, "duplicate_groups", None)
    dataset = DataSource(str(sample / "images"), str(sample / "labels.csv")).open(16)
    split = train.split_dataset(dataset, TrainConfig(weights="none", near_duplicates=False))
    assert split.groupby(dataset.digests).nunique().eq(1).all()
    assert dataset.digests.duplicated().any()


def test_distance_out_of_range_is_refused(sample):
    dataset = DataSource(str(sample / "images"), str(sample / "labels.csv")).open(16)
    with pytest.raises(ParameterError, match="distance is 17; it must lie between 0 and 16 bits of 64, 6 say"):
        duplicates.duplicate_groups(dataset, 17)


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
    dataset = DataSource(str(SHARED / "aimonk/images"), str(SHARED / "aimonk/labels.txt")).open(32)
    groups = duplicates.duplicate_groups(dataset)
    assert 10 <= (groups.value_counts() > 1).sum() <= 20
    assert groups.value_counts().max() <= 4
    assert groups.groupby(dataset.digests).nunique().eq(1).all()  # identical files among them
    assert split_images(dataset.labels, 0.2, groups=groups).groupby(groups).nunique().eq(1).all()
    assert set(duplicates.contradictions(dataset.labels, groups).attribute) == set(dataset.attributes)
