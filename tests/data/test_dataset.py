"""Images and labels stay together, what is left out is said, and splits keep every attribute in proportion."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SHARED
from torch.utils.data import DataLoader

from mlkit.data.dataset import batches
from mlkit.data.images import load_image
from mlkit.data.labelfile import read_labels, write_labels
from mlkit.data.labels import from_codes, label_counts, to_codes
from mlkit.data.source import DataSource
from mlkit.data.split import fold_images, split_images
from mlkit.errors import LabelError

real_data = pytest.mark.skipif(not SHARED.is_dir(), reason="the real data sets are not here")


def load(folder, size=16, labels="labels.csv", **options):
    return DataSource(str(folder / "images"), str(folder / labels), **options).open(size)


@pytest.fixture
def folder(sample, tmp_path):
    """A copy of the first images of the sample set, to change: labelled at random, none missing."""
    names = [f"{i:04d}.jpg" for i in range(8)]
    (tmp_path / "images").mkdir()
    for name in names:
        shutil.copy(sample / "images" / name, tmp_path / "images" / name)
    codes = np.random.default_rng(0).integers(-1, 2, (8, 3))
    write_labels(from_codes(codes, names, ["a", "b", "c"]), tmp_path / "labels.csv")
    return tmp_path


def random_labels(count, prevalences, unknown=0.0, seed=0):
    rng = np.random.default_rng(seed)
    codes = (rng.random((count, len(prevalences))) < prevalences).astype(int)
    codes[rng.random(codes.shape) < unknown] = -1
    return from_codes(codes, (f"{i}.jpg" for i in range(count)), (f"a{i}" for i in range(len(prevalences))))


def assert_in_proportion(labels, split, share, cells):
    """Known positives and negatives of each attribute are split as `share` says, give or take some cells or 2 %."""
    counts, held_out = label_counts(labels), label_counts(labels[split == "validation"])
    for kind in ("positives", "negatives"):
        off = (held_out[kind] - share * counts[kind]).abs()
        assert (off <= np.maximum(cells, 0.02 * counts[kind])).all(), f"{kind} {off.to_dict()}"


# --- dataset


def test_item_is_the_image_and_its_labels(folder):
    dataset = load(folder)
    table = read_labels(folder / "labels.csv")
    assert len(dataset) == 8
    assert dataset.attributes == ["a", "b", "c"]
    for i, image in enumerate(table.index):
        pixels, targets = dataset[i]
        assert (pixels.dtype, pixels.shape) == (np.uint8, (3, 16, 16))
        assert (targets.dtype, targets.shape) == (np.int8, (3,))
        np.testing.assert_array_equal(pixels.transpose(1, 2, 0), load_image(folder / "images" / image, 16))
        np.testing.assert_array_equal(targets, to_codes(table)[i])
    with pytest.raises(IndexError):
        dataset[8]


def test_batch_is_its_items_in_the_order_asked_for(folder):
    dataset = load(folder)
    pixels, targets = dataset.batch(np.array([5, 0, 5]))
    assert (pixels.dtype, pixels.shape) == (np.uint8, (3, 16, 16, 3))
    assert (targets.dtype, targets.shape) == (np.int8, (3, 3))
    for row, i in enumerate((5, 0, 5)):
        np.testing.assert_array_equal(pixels[row].transpose(2, 0, 1), dataset[i][0])
        np.testing.assert_array_equal(targets[row], dataset[i][1])


@pytest.mark.parametrize("workers", [0, 1])
def test_data_loader_of_torch_takes_it_as_it_is(folder, workers):
    dataset = load(folder)
    parts = list(DataLoader(dataset, batch_size=5, num_workers=workers))
    assert [tuple(pixels.shape) for pixels, _ in parts] == [(5, 3, 16, 16), (3, 3, 16, 16)]
    everything, targets = dataset.batch(np.arange(8))
    np.testing.assert_array_equal(torch.cat([pixels for pixels, _ in parts]), everything.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(torch.cat([known for _, known in parts]), targets)


def test_report_counts_and_names_what_was_left_out(folder):
    assert str(load(folder)) == "8 of 8 rows are used, 3 attributes: a, b, c"
    (folder / "images" / "0001.jpg").unlink()
    (folder / "images" / "0003.jpg").write_text("no image")
    (folder / "images" / "0004.jpg").unlink()
    dataset = load(folder)
    assert str(dataset).splitlines() == [
        "5 of 8 rows are used, 3 attributes: a, b, c",
        "attributes without a yes: c",
        "left out, 2 missing and 1 broken: 0001.jpg (no such file), 0003.jpg (not an image in any known format), "
        "0004.jpg (no such file)",
    ]
    assert dataset.report.line.tolist() == [3, 5, 6]
    # what is left is still paired with its own labels
    for i, image in enumerate(dataset.labels.index):
        np.testing.assert_array_equal(dataset[i][0].transpose(1, 2, 0), load_image(folder / "images" / image, 16))
        np.testing.assert_array_equal(dataset[i][1], to_codes(read_labels(folder / "labels.csv").loc[[image]])[0])


def test_long_report_names_five_and_counts_the_rest(folder):
    for i in range(7):
        (folder / "images" / f"000{i}.jpg").unlink()
    text = str(load(folder))
    assert "left out, 7 missing: 0000.jpg (no such file)" in text
    assert text.endswith("0004.jpg (no such file) and 2 more")


def test_strict_refuses_what_would_be_left_out(folder):
    (folder / "images" / "0001.jpg").unlink()
    with pytest.raises(LabelError, match=r"1 of 8 images cannot be used \(line 3: 0001.jpg: no such file\)"):
        load(folder, strict=True)


def test_wrong_folder_is_named(folder):
    with pytest.raises(LabelError, match="nowhere: no such images folder; check the path"):
        DataSource(str(folder / "nowhere"), str(folder / "labels.csv")).open(16)
    (folder / "empty").mkdir()
    with pytest.raises(LabelError, match=r"none of its 8 images can be used .* is the images folder right"):
        DataSource(str(folder / "empty"), str(folder / "labels.csv")).open(16)


def test_fingerprint_follows_the_data_and_not_the_place_of_the_cache(folder, tmp_path, monkeypatch):
    seen = [load(folder).fingerprint]
    monkeypatch.setenv("MLKIT_OUTPUTS", str(tmp_path / "elsewhere"))
    assert load(folder).fingerprint == seen[0]
    assert load(shutil.copytree(folder, tmp_path / "copy")).fingerprint == seen[0]

    table = read_labels(folder / "labels.csv")
    changed = to_codes(table).copy()
    changed[0, 0] = 1 if changed[0, 0] == 0 else 0
    write_labels(from_codes(changed, table.index, table.columns), folder / "cell.csv")
    write_labels(table.rename(columns={"a": "z"}), folder / "name.csv")
    write_labels(table.iloc[::-1], folder / "order.csv")
    write_labels(table.iloc[:-1], folder / "fewer.csv")
    seen += [load(folder, labels=f"{what}.csv").fingerprint for what in ("cell", "name", "order", "fewer")]
    shutil.copy(folder / "images" / "0001.jpg", folder / "images" / "0000.jpg")
    seen.append(load(folder).fingerprint)
    assert len(set(seen)) == 6


def test_label_files_over_one_folder_share_the_pixel_cache(folder, monkeypatch):
    table = read_labels(folder / "labels.csv")
    load(folder)
    write_labels(table[["b"]].iloc[:5], folder / "other.csv")
    monkeypatch.setattr("mlkit.data.cache.decode_image", None)  # decoding again would fail
    assert len(load(folder, labels="other.csv")) == 5


def test_map_pixels_keeps_the_order_of_the_images(sample):
    dataset = load(sample)
    means = dataset.map_pixels(lambda pixels: pixels.mean(axis=(1, 2)), "testing")
    np.testing.assert_array_equal(means, dataset.batch(np.arange(len(dataset)))[0].mean(axis=(1, 2)))


def test_sample_set_has_its_missing_image(sample):
    assert "60 of 61 rows are used" in str(load(sample))


# --- split


def test_split_keeps_each_attribute_in_proportion_whatever_is_rare_or_unknown():
    labels = random_labels(1000, [0.5, 0.9, 0.01, 0.3], unknown=0.1)
    labels["mostly unknown"] = labels["a0"].where(np.arange(1000) % 20 == 0)
    labels["all unknown"] = from_codes(np.full((1000, 1), -1), labels.index, ["x"])["x"]
    for share in (0.2, 0.5):
        split = split_images(labels, share, seed=3)
        assert split.index.equals(labels.index)
        assert set(split) == {"train", "validation"}
        assert (split == "validation").mean() == pytest.approx(share, abs=0.02)
        assert_in_proportion(labels, split, share, cells=2)


def test_two_positives_of_a_rare_attribute_are_seen_by_both_sides():
    labels = random_labels(200, [0.5, 0.3])
    labels["rare"] = from_codes((np.arange(200) < 2)[:, None], labels.index, ["x"])["x"]
    for seed in range(5):
        split = split_images(labels, 0.5, seed)
        assert split[labels["rare"] == 1].nunique() == 2


def test_unknown_cells_count_neither_as_positive_nor_as_negative():
    """As many known cells in validation as asked for, where the known ones are few and all in one corner."""
    codes = np.full((400, 1), -1)
    codes[:40, 0] = np.arange(40) % 2
    labels = from_codes(codes, (str(i) for i in range(400)), ["a"])
    split = split_images(labels, 0.25)
    assert label_counts(labels[split == "validation"]).loc["a", ["positives", "negatives"]].tolist() == [5, 5]


def test_split_is_decided_by_the_seed():
    labels = random_labels(100, [0.5, 0.2], unknown=0.2)
    assert split_images(labels, 0.2, 1).equals(split_images(labels, 0.2, 1))
    assert not split_images(labels, 0.2, 1).equals(split_images(labels, 0.2, 2))


def test_attributes_without_a_known_cell_split_at_random_by_size():
    labels = random_labels(50, [0.5, 0.5], unknown=1.0)
    assert (split_images(labels, 0.2) == "validation").sum() == 10


@pytest.mark.parametrize("kind", [dict, pd.Series])
def test_groups_stay_on_one_side(kind):
    labels = random_labels(300, [0.5, 0.1], unknown=0.1)
    groups = kind({image: f"g{i // 3}" for i, image in enumerate(labels.index)})
    split = split_images(labels, 0.3, groups=groups)
    assert split.groupby(split.index.map(groups)).nunique().eq(1).all()
    assert split.nunique() == 2
    assert_in_proportion(labels, split, 0.3, cells=12)


def test_image_without_a_group_is_its_own_group():
    labels = random_labels(40, [0.5])
    groups = dict.fromkeys(labels.index[:10], "together")
    split = split_images(labels, 0.5, groups=groups)
    assert split[:10].nunique() == 1
    assert split[10:].nunique() == 2
    assert split.notna().all()


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_fraction_outside_of_zero_and_one_is_refused(fraction):
    with pytest.raises(LabelError, match=f"validation_fraction is {fraction} .* validation must lie between 0 and 1"):
        split_images(random_labels(20, [0.5]), fraction)


def test_too_few_images_to_split_are_refused():
    with pytest.raises(LabelError, match="3 different images are too few to split; label at least 4"):
        split_images(random_labels(3, [0.5]))
    labels = random_labels(10, [0.5])
    with pytest.raises(LabelError, match="1 different images are too few"):
        split_images(labels, groups=dict.fromkeys(labels.index, "same"))
    with pytest.raises(LabelError, match=r"the split leaves no image of 4 to train on; lower validation_fraction"):
        split_images(random_labels(4, [0.5]), 0.9)
    with pytest.raises(LabelError, match="the split leaves 1 image of 4 to train on, 2 are needed"):
        split_images(random_labels(4, [0.5]), 0.6)


def test_three_way_split_keeps_proportions_and_groups_apart():
    labels = random_labels(2000, [0.5, 0.1], unknown=0.2)
    groups = dict(zip(labels.index, np.arange(2000) // 2, strict=True))
    split = split_images(labels, 0.15, 0, groups, test=0.15)
    assert split.value_counts(normalize=True).to_dict() == pytest.approx(
        {"train": 0.7, "validation": 0.15, "test": 0.15}, abs=0.01
    )
    assert split.groupby(groups).nunique().max() == 1
    whole = label_counts(labels).prevalence
    for side in ("train", "validation", "test"):
        np.testing.assert_allclose(label_counts(labels[split == side]).prevalence, whole, atol=0.02)


def test_folds_test_every_image_once():
    labels = random_labels(203, [0.5, 0.1])
    splits = [split_images(labels, 0.2, 0, folds=4, fold=fold) for fold in range(4)]
    assert (sum((split == "test").astype(int) for split in splits) == 1).all()
    assert all({"train", "validation", "test"} == set(split) for split in splits)
    with pytest.raises(LabelError, match="both together below 1"):
        split_images(labels, 0.5, 0, folds=2)


# --- folds


def test_folds_are_equal_stratified_and_keep_groups_together():
    labels = random_labels(300, [0.5, 0.1], unknown=0.2)
    groups = pd.Series({image: f"g{i // 2}" for i, image in enumerate(labels.index)})
    fold = fold_images(labels, 5, seed=1, groups=groups)
    assert sorted(set(fold)) == [0, 1, 2, 3, 4]
    assert fold.groupby(groups).nunique().eq(1).all()
    assert fold.equals(fold_images(labels, 5, seed=1, groups=groups))
    assert not fold.equals(fold_images(labels, 5, seed=2, groups=groups))
    counts = [label_counts(labels[fold == i]).positives for i in range(5)]
    assert np.ptp(np.array(counts), axis=0).max() <= 10  # of about 20


@pytest.mark.parametrize("folds", [0, 1, 11])
def test_impossible_numbers_of_folds_are_refused(folds):
    with pytest.raises(LabelError, match=f"10 different images cannot make {folds} folds; ask for at least 2"):
        fold_images(random_labels(10, [0.5]), folds)


# --- batches


def test_weighted_batches_draw_in_proportion():
    weights = np.where(np.arange(1000) < 100, 4.0, 1.0)
    drawn = np.concatenate(list(batches(np.arange(1000), 50, 0, 1, weights)))
    assert len(drawn) == 1000
    assert (drawn < 100).mean() == pytest.approx(400 / 1300, abs=0.05)


def test_each_epoch_is_a_permutation_decided_by_seed_and_epoch():
    indices = np.arange(100, 150)
    epochs = {
        key: np.concatenate(list(batches(indices, 8, seed, epoch))).tolist()
        for key, seed, epoch in (("a", 0, 1), ("again", 0, 1), ("epoch", 0, 2), ("seed", 1, 1))
    }
    assert all(sorted(order) == indices.tolist() for order in epochs.values())
    assert epochs["a"] == epochs["again"]
    assert len({tuple(order) for order in epochs.values()}) == 3


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(16, [8, 8]), (18, [8, 8, 2]), (17, [8, 9]), (9, [9]), (8, [8]), (3, [3]), (1, [1])],
)
def test_last_batch_of_one_image_joins_the_one_before(count, sizes):
    assert [len(batch) for batch in batches(np.arange(count), 8, 0, 0)] == sizes


# --- real data


@real_data
def test_product_photos_are_used_but_for_three_missing():
    dataset = load(SHARED / "aimonk", 32, labels="labels.txt")
    assert "778 of 781 rows are used, 4 attributes" in str(dataset)
    assert "left out, 3 missing: image_489.jpg" in str(dataset)
    assert all(f"{name} (no such file)" in str(dataset) for name in dataset.report.image)
    split = split_images(dataset.labels, 0.2, groups=dataset.digests)
    assert split.groupby(dataset.digests).nunique().eq(1).all()
    assert_in_proportion(dataset.labels, split, 0.2, cells=2)


@real_data
def test_scenes_are_all_used_and_split_in_proportion():
    dataset = load(SHARED / "scenes", 32)
    assert len(dataset) == 2000
    assert dataset.report.empty
    assert_in_proportion(dataset.labels, split_images(dataset.labels, 0.2), 0.2, cells=2)
