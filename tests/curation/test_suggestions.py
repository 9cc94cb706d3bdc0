"""What is suggested follows from the image and its other labels, is kept apart from the labels, and teaches a little."""

from dataclasses import replace

import numpy as np
import pytest
from tinynet import TINYNET

from mlkit.cli import main
from mlkit.curation.review import Review
from mlkit.curation.suggestions import MAKERS, stack, suggest
from mlkit.data.suggestions import COLUMNS, read_suggestions, suggested
from mlkit.errors import LabelError, ParameterError
from mlkit.evaluation.guarantee import certify
from mlkit.files import resolve, write_csv
from mlkit.runs import Run
from mlkit.training.config import TrainConfig
from mlkit.training.loop import split_dataset, train
from mlkit.training.objective import check_suggestions
from mlkit.training.recipe import Recipe

NOISE = 400  # images of which the network knows nothing


@pytest.fixture
def opposites():
    """Codes (images, 2), the second attribute the opposite of the first, and a network that guesses; folds of a half."""
    rng = np.random.default_rng(0)
    first = rng.integers(0, 2, NOISE)
    truth = np.stack([first, 1 - first], axis=1)
    codes = np.where(rng.random(truth.shape) < 0.3, -1, truth)
    fold = np.where(np.arange(NOISE) % 2, rng.integers(0, 5, NOISE), -1)
    return truth, codes, rng.uniform(0.3, 0.7, truth.shape), fold


def decided(probabilities, codes, fold, level=0.95):
    """yes, no and unsure by a guarantee on the images with a fold."""
    names = list("abcd"[: codes.shape[1]])
    learned = fold >= 0
    return certify(probabilities[learned], codes[learned], names, level).decide(probabilities, names)


def test_the_image_s_other_labels_decide_where_the_network_knows_nothing(opposites):
    truth, codes, network, fold = opposites
    decisions = decided(stack(network, codes, fold), codes, fold)
    other_known = codes[:, ::-1] >= 0
    filled = (fold < 0)[:, None] & (codes < 0) & (decisions != "unsure")
    assert filled.sum() > 0.5 * ((fold < 0)[:, None] & (codes < 0) & other_known).sum()
    assert ((decisions == "yes") == (truth == 1))[filled].all()
    assert (decided(network, codes, fold) == "unsure").all()


def test_shuffled_labels_give_no_suggestions(opposites):
    _, codes, _, fold = opposites
    rng = np.random.default_rng(1)
    many = rng.permuted(np.repeat(codes, 2, axis=1), axis=0)
    noise = rng.uniform(0.01, 0.99, many.shape)
    assert (decided(stack(noise, many, fold), many, fold) == "unsure").all()


def test_a_cell_s_own_label_and_what_is_unknown_have_no_say(opposites):
    _, codes, network, fold = opposites
    whole = stack(network, codes, fold)
    unknown = codes[:, 0] < 0  # as if these images were not there
    learned = stack(network[~unknown], codes[~unknown], fold[~unknown])
    np.testing.assert_allclose(whole[~unknown, 0], learned[:, 0], atol=1e-4)
    other = codes.copy()
    asked = np.flatnonzero(fold < 0)
    other[asked, 0] = -1
    np.testing.assert_allclose(stack(network, other, fold)[asked, 0], whole[asked, 0], atol=1e-6)


def test_what_the_network_learned_by_heart_of_a_known_cell_has_no_say(opposites):
    _, codes, network, fold = opposites
    heart = network.copy()
    by_heart = (fold < 0) & (codes[:, 1] >= 0)
    heart[by_heart, 1] = codes[by_heart, 1] * 0.98 + 0.01
    np.testing.assert_allclose(stack(heart, codes, fold)[:, 0], stack(network, codes, fold)[:, 0])


@pytest.fixture
def review(tiny):
    return Review.of(tiny)


def test_few_validation_cells_refuse_every_attribute_by_name(review, capsys):
    for by in MAKERS:
        made = suggest(review, by=by)
        assert made.cells.empty
        assert (made.attributes.refused == "yes and no: too few are surely right").all()
        assert (made.attributes.known < 45).all()
        assert "no yes can be promised (it takes 45 cells" in str(made)
    assert main(["review", "suggest", "small"]) == 0
    assert "0 of " in capsys.readouterr().out
    assert main(["review", "suggest", "small", "--by", "stock"]) == 2
    assert "did you mean 'stack'" in capsys.readouterr().err
    with pytest.raises(ParameterError, match="level is 95"):
        suggest(review, 95)


@pytest.fixture
def made(review):
    """Suggestions by a guarantee that promises little, in their file; the label file is as before."""
    labels = resolve(Recipe.of(review.run.config()["parameters"]).source.labels)
    before = labels.read_bytes()
    made = suggest(review, 0.5, "network")
    made.write()
    assert labels.read_bytes() == before
    assert len(made.cells) > 5
    return made


def opened(review, made):
    recipe = Recipe.of(review.run.config()["parameters"])
    return replace(recipe, source=replace(recipe.source, suggestions=str(made.path))).open()


def test_a_file_gives_back_what_was_written_and_names_its_makers(review, made):
    table = read_suggestions(made.path)
    assert table.columns.tolist() == COLUMNS
    assert table.to_dict("list") == made.cells.to_dict("list")
    assert set(table.run_id) == {review.run.id}
    dataset = opened(review, made)
    assert f"suggestions for {len(table)} unknown cells by the network of small" in str(dataset)
    assert dataset.fingerprint != review.dataset.fingerprint


def test_training_images_alone_are_suggested_and_targets_stay_unknown(review, made):
    dataset = opened(review, made)
    there = ~np.isnan(dataset.suggested)
    split = split_dataset(dataset, TrainConfig())
    assert set(split[there.any(axis=1)]) == {"train"}
    assert (dataset.targets[there] == -1).all()
    np.testing.assert_array_equal(dataset.targets, review.dataset.targets)
    table = made.cells.set_index(["image", "attribute"])
    for row, column in np.argwhere(there):
        cell = table.loc[(dataset.labels.index[row], dataset.attributes[column])]
        assert dataset.suggested[row, column] == pytest.approx(cell.probability)


def test_what_is_known_by_now_and_pictures_that_were_replaced_take_no_suggestion(review, made):
    labels = review.labels.copy()
    first, second = made.cells.iloc[0], made.cells[made.cells.image != made.cells.image[0]].iloc[0]
    labels.loc[first.image, first.attribute] = 1
    digests = {**review.dataset.digests, second.image: "another"}
    values, note = suggested(made.cells, labels, digests)
    gone = 1 + (made.cells.image == second.image).sum()
    assert np.isfinite(values).sum() == len(made.cells) - gone
    assert f"{gone} left out" in note


def test_a_loss_that_reads_unknown_cells_and_another_split_are_refused(review, made):
    dataset = opened(review, made)
    training = np.flatnonzero(split_dataset(dataset, TrainConfig()) == "train")
    for loss in ("masked_bce", "asl"):
        check_suggestions(TrainConfig(loss=loss), dataset, training)
    for loss in ("partial_bce", "assume_negative", "csl", "hill", "ll_r", "ll_ct"):
        with pytest.raises(ParameterError, match=f"suggestions: {loss} .* suggestions: masked_bce, asl"):
            check_suggestions(TrainConfig(loss=loss), dataset, training)
    with pytest.raises(ParameterError, match=r"are of images that judge here, .* suggest by a run with this one"):
        check_suggestions(TrainConfig(), dataset, training[::2])


def test_other_files_are_refused_by_what_is_wrong_with_them(review, made, tmp_path):
    with pytest.raises(LabelError, match="no such file of suggestions; mlkit review suggest"):
        read_suggestions(tmp_path / "gone.csv")
    (tmp_path / "labels.csv").write_text("image,a\n1.jpg,1\n")
    with pytest.raises(LabelError, match="line 1: no file of suggestions; it must begin with image,attribute"):
        read_suggestions(tmp_path / "labels.csv")
    write_csv(tmp_path / "wrong.csv", made.cells.assign(probability="1.5"), index=False)
    with pytest.raises(LabelError, match=r"line 2, column probability: '1.5'"):
        read_suggestions(tmp_path / "wrong.csv")


@pytest.mark.parametrize("settings", [{}, {"mixup": 0.4, "accumulate": 2}])
def test_a_training_learns_from_suggestions_and_is_judged_by_labels(review, made, settings):
    given = {"image_size": 32, "backbone": TINYNET, "weights": "none", "epochs": 1, "precision": "fp32"}
    config = TrainConfig(**given, **settings)
    dataset = opened(review, made)
    none = dataset.with_labels(dataset.labels)
    runs = [Run.create(name, {}, data.fingerprint) for name, data in (("with", dataset), ("without", none))]
    for run, data in zip(runs, (dataset, none), strict=True):
        train(data, config, run)
    (one, other), (p, q) = ([run.read_table(file) for run in runs] for file in ("history.csv", "predictions.csv"))
    assert (one.loss != other.loss).any()
    assert p[["split", "image", "attribute", "target"]].equals(q[["split", "image", "attribute", "target"]])
    cells = [run.read_json("metrics.json")["training_cells"] for run in runs]
    assert cells[0] == cells[1]
