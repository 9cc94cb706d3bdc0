"""An ensemble is the mean of its members' calibrated logits, and no member votes on an image that it was trained on."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score
from tinynet import TINYNET, WIDER
from torch import nn

from mlkit.cli import main
from mlkit.curation.probe import linear_head
from mlkit.data.source import DataSource
from mlkit.errors import ParameterError, RunError, WeightsError
from mlkit.evaluation import predictions
from mlkit.evaluation.calibration import Calibration
from mlkit.evaluation.intervals import MEAN
from mlkit.evaluation.predictions import Predictions
from mlkit.experiments.ensemble import build_ensemble
from mlkit.experiments.ensemble.votes import ENOUGH, Votes
from mlkit.experiments.folds import cross_validate
from mlkit.experiments.trainings import train_all
from mlkit.inference.neighbours import Neighbours
from mlkit.inference.predictor import Predictor
from mlkit.models.device import choose_device
from mlkit.models.modelfile import load_model, save_model
from mlkit.models.networks import build_model, compute_logits, normalise, place
from mlkit.runs import Run, find_runs
from mlkit.training.prior import model_logits
from mlkit.training.recipe import Recipe

NAMES = ["sleeves", "plain", "long", "bag"]


@pytest.fixture(scope="module")
def trained(sample, tmp_path_factory):
    """Folder of finished runs: `a` and `b` of one split, other networks and losses; `cv-fold0` to `cv-fold2`."""
    folder = tmp_path_factory.mktemp("trained")
    weights = {name: str(folder / f"{name}.pth") for name in (TINYNET, WIDER)}
    data = {"images": str(sample / "images"), "labels": str(sample / "labels.csv"), "strict": False}
    small = {"image_size": 16, "epochs": 1, "batch_size": 8, "precision": "fp32", "test_fraction": 0.3}
    first, second = ({"backbone": name, "weights": file} for name, file in weights.items())
    recipes = {"a": Recipe.of(data | small | first), "b": Recipe.of(data | small | second | {"loss": "asl", "seed": 1})}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLKIT_OUTPUTS", str(folder))
        dataset = DataSource(data["images"], data["labels"]).open(16)
        for name, file in weights.items():
            network = build_model(name, 4, "none", 16).train()
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = 1.0  # statistics of these images at once: else all images get the same logits
            with torch.no_grad():
                network(normalise(torch.from_numpy(dataset.batch(np.arange(32))[0])))
            torch.save(network.state_dict(), file)
        train_all(dataset, recipes)
        cross_validate(dataset, Recipe.of(data | small | second | {"folds": 3}), "cv")
    return folder


@pytest.fixture
def runs(trained, outputs):
    """The same in this test's outputs folder."""
    outputs.mkdir()
    for folder in trained.iterdir():
        if (folder / "config.json").exists():
            shutil.copytree(folder, outputs / folder.name)
    return outputs


def variant(runs, name, meta=None, parameters=None, predictions=None):
    """A copy of the run `b`, its model's metadata, parameters or predictions changed."""
    run = Run(runs / name)
    shutil.copytree((runs / "b").resolve(), run.path)
    network, its = load_model(run / "model.pth")
    save_model(run / "model.pth", network, its | (meta or {}))
    config = run.config()
    run.write_json("config.json", config | {"parameters": config["parameters"] | (parameters or {})})
    if predictions is not None:
        run.write_table("predictions.csv", predictions(run.read_table("predictions.csv")))
    return run


def test_model_gives_the_mean_of_the_members_calibrated_logits_by_which_it_was_judged(runs, sample):
    run = build_ensemble(find_runs(["a", "b"]))
    assert run.path == runs / "ensemble"
    dataset = DataSource(str(sample / "images"), str(sample / "labels.csv")).open(16)
    device, expected = choose_device("cpu", "fp32"), 0
    for name in "ab":
        calibration = Calibration.from_dict(load_model(runs / name / "model.pth")[1]["calibration"])
        logits = model_logits(runs / name / "model.pth", dataset, np.arange(len(dataset)), device).numpy()
        expected += calibration.apply(logits) / 2
    logits = model_logits(run / "model.pth", dataset, np.arange(len(dataset)), device).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    split = run.read_table("split.csv").set_index("image").split
    for side in ("validation", "test"):
        predicted = Predictions.read(run, side)
        assert predicted.images == list(split.index[split == side])
        rows = dataset.labels.index.get_indexer(predicted.images)
        np.testing.assert_allclose(predicted.logits, logits[rows], rtol=1e-4, atol=1e-5)
        assert (predicted.logits.std(axis=0) > 1e-3).all(), "logits that are all the same would prove nothing"
        np.testing.assert_array_equal(predicted.targets, dataset.targets[rows])


def test_model_file_alone_predicts(runs, sample, tmp_path):
    run = build_ensemble(find_runs(["a", "b"]), "both")
    shutil.move(run / "model.pth", tmp_path / "moved.pth")
    predictor = Predictor.load(tmp_path / "moved.pth", precision="fp32")
    predicted = Predictions.read(run)
    table = predictor.predict([sample / "images" / image for image in predicted.images])
    assert table.attribute.head(4).tolist() == NAMES
    np.testing.assert_allclose(table.probability, predicted.probabilities.ravel(), atol=1e-4)
    np.testing.assert_allclose(table.threshold.head(4), predicted.thresholds)
    meta = predictor.meta
    assert meta["backbone"] == f"ensemble of {TINYNET}, {WIDER}"
    assert (meta["loss"], meta["epoch"]) == ("masked_bce, asl", "1, 1")
    assert [member["run"] for member in meta["members"]] == ["a", "b"]
    assert meta["metrics"]["mAP"] == pytest.approx(run.read_json("metrics.json")["mean"]["AP"])


def test_mean_is_float32_under_autocast(runs):
    network, meta = load_model(build_ensemble(find_runs(["a", "b"])) / "model.pth")
    device = choose_device("cpu", "bf16")
    pixels = torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8)
    place(network, device)
    with torch.inference_mode():
        mean = compute_logits(network, pixels, device).numpy()
        parts = [compute_logits(member, pixels, device).numpy() for member in network.members]
    calibrations = [Calibration.from_dict(member["calibration"]) for member in meta["members"]]
    expected = np.mean([one.apply(part) for one, part in zip(calibrations, parts, strict=True)], axis=0)
    np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-5)


def test_run_says_what_it_is_made_of_and_what_it_is_worth(runs):
    run = build_ensemble(find_runs(["a", "b"]), "both")
    facts, config = run.read_json("metrics.json"), run.config()
    of_members = [Run.open(name).read_json("metrics.json") for name in "ab"]
    assert run.members == facts["members"] == ["a", "b"]
    assert config["data"] == Run.open("a").config()["data"]
    assert config["parameters"]["image_size"] == 16
    assert not {"backbone", "loss", "seed"} & set(config["parameters"]), "in these the members differ"
    assert facts["parameters"] == sum(one["parameters"] for one in of_members)
    assert facts["seconds"] == pytest.approx(sum(one["seconds"] for one in of_members), abs=0.1)
    assert facts["device"] == of_members[0]["device"]
    mean = np.mean([list(one["training_prevalence"].values()) for one in of_members], axis=0)
    np.testing.assert_allclose(list(facts["training_prevalence"].values()), mean)

    table, predicted = run.read_table("members.csv").set_index("run"), Predictions.read(run)
    assert list(table.index) == ["a", "b", "mean of members", "ensemble"]
    assert (table.images == len(predicted.images)).all()
    assert table.mAP["ensemble"] == pytest.approx(facts["mean"]["AP"])
    assert table.mAP["mean of members"] == pytest.approx(table.mAP[["a", "b"]].mean())
    for name, one in zip("ab", of_members, strict=True):
        assert table.mAP[name] == pytest.approx(one["mean"]["AP"])
        paired = predictions.compare(*predictions.in_common(predicted, Predictions.read(Run.open(name)))[:2]).loc[
            ("AP", MEAN)
        ]
        np.testing.assert_allclose(table.loc[name, ["difference", "low", "high"]], paired[["difference", "low", "high"]])


def test_no_member_votes_on_an_image_that_it_was_trained_on(runs, trained):
    run = build_ensemble(find_runs(["cv-fold*"]), "cv")
    members = find_runs(["cv-fold*"])
    splits = [member.read_table("split.csv").set_index("image").split for member in members]
    for side in ("validation", "test"):
        votes = {}
        for member, split in zip(members, splits, strict=True):
            calibration = Calibration.from_dict(load_model(member / "model.pth")[1]["calibration"])
            predicted = Predictions.read(member, side)
            for image, logits in zip(predicted.images, calibration.apply(predicted.logits), strict=True):
                assert split[image] == side
                votes.setdefault(image, []).append(logits)
        predicted = Predictions.read(run, side)
        assert sorted(predicted.images) == sorted(votes)
        expected = [np.mean(votes[image], axis=0) for image in predicted.images]
        np.testing.assert_allclose(predicted.logits, expected, rtol=1e-5)
        assert {len(vote) for vote in votes.values()} == ({1} if side == "test" else {1, 2})
    facts = run.read_json("metrics.json")
    pooled = pd.read_csv(trained / "cv-folds" / "folds.csv", index_col=["figure", "attribute"]).pooled
    assert facts["mean"]["AP"] == pytest.approx(pooled["AP", MEAN])
    assert (
        "60 test images judge, each by the mean of the members whose test image it is, 1 of 3; none is" in facts["judging"]
    )
    assert "tells what the members are worth, not what the mean of all is" in facts["judging"]
    assert facts["judging"] in str(predicted), "notebook 05 says so too"
    assert not (run / "split.csv").exists()
    learned = {image for split in splits for image in split.index[split == "train"]}
    assert set(run.training_images()) == learned == set(Neighbours.of(run, Predictor.load(run.path)).labels.index)
    assert run.read_table("members.csv").difference.isna().all(), "nothing to compare where each has one vote"


def test_unknown_cells_have_no_influence(runs):
    def changed(table):
        wild = np.random.default_rng(0).normal(0, 30, len(table))
        return table.assign(logit=table.logit.where(table.target.notna(), wild))

    variant(runs, "d")
    variant(runs, "e", predictions=changed)
    facts = [build_ensemble(find_runs(["a", other]), f"with-{other}").read_json("metrics.json") for other in "de"]
    assert facts[0] | {"members": 0} == facts[1] | {"members": 0}
    calibrations = [load_model(runs / f"with-{other}" / "model.pth")[1]["calibration"] for other in "de"]
    assert calibrations[0] == calibrations[1]
    predicted = Predictions.read(Run.open("with-e"))
    for i, name in enumerate(NAMES):  # the same with unknown cells physically removed
        known = predicted.targets[:, i] >= 0
        ap = average_precision_score(predicted.targets[known, i], predicted.probabilities[known, i])
        assert facts[1]["attributes"][name]["AP"] == pytest.approx(ap)


# --- who has a say, on made-up predictions


def made_up(name, images, side="test", seed=0, targets=None):
    """A run with random logits of attributes `x` and `y` on the images, and first on one other image of the other side."""
    rng, run = np.random.default_rng(seed), Run.create(name, {"images": "."}, "data")
    numbers, other = np.asarray(images), "validation" if side == "test" else "test"
    targets = np.stack([numbers % 2, (numbers % 3 == 0) * 1.0], axis=1) if targets is None else targets
    names = ["other", *(f"{number:03d}" for number in numbers)]
    table = pd.DataFrame(
        {
            "split": np.repeat([other] + [side] * len(numbers), 2),
            "image": np.repeat(names, 2),
            "attribute": ["x", "y"] * len(names),
            "target": [1, 0, *targets.ravel()],
            "logit": rng.normal(size=2 * len(names)),
        }
    )
    run.write_table("predictions.csv", table.assign(probability=0.5))
    facts = {"x": {"threshold": 0.5}, "y": {"threshold": 0.5}}
    run.write_json("metrics.json", {"judged_on": side, "attributes": facts, "training_prevalence": dict.fromkeys("xy", 0.5)})
    return run


def read(*runs):
    """Their votes, all calibrated alike."""
    same = Calibration(("x", "y"), np.ones(2), np.zeros(2))
    return Votes.read({run.name: run for run in runs}, [same] * len(runs))


def test_all_vote_where_enough_images_are_new_to_all():
    enough = 3 * ENOUGH  # a third of the images have y
    votes = read(made_up("a", range(100)), made_up("b", range(100 - enough, 150), seed=1))
    assert votes.evaluating.sum(axis=1).tolist() == [enough, enough]
    assert str(votes).startswith(f"{enough} test images judge, each by the mean of the 2 members.\n")
    table = votes.beside()
    assert table.images.tolist() == [enough] * 4
    assert table.difference.notna().sum() == 2

    few = read(made_up("c", range(100)), made_up("d", range(103 - enough, 150), seed=1))
    assert few.evaluating.sum(axis=1).tolist() == [100, 47 + enough]
    text = (
        f"150 test images judge, each by the mean of the members whose test image it is, 1 to 2 of 2; only {enough - 3} are"
    )
    assert text in str(few)


def test_members_are_compared_on_the_attributes_that_the_images_of_all_can_judge():
    full, part = made_up("a", range(60)), made_up("b", range(60, 90), seed=1)
    table = part.read_table("predictions.csv")
    table.loc[table.attribute == "y", "target"] = 0  # "y" has no yes among its images
    part.write_table("predictions.csv", table)
    votes = read(full, part)
    table = votes.beside()
    assert (table["over"] == 1).all()
    assert (table.attributes == 2).all()
    own = votes.evaluating[0]
    known = votes.targets[own, 0] >= 0
    expected = average_precision_score(votes.targets[own, 0][known], votes.logits[0, own, 0][known])
    assert table.mAP["a"] == pytest.approx(expected)


def test_few_images_do_where_there_are_no_more():
    votes = read(made_up("a", range(7)), made_up("b", range(7), seed=1))
    assert votes.evaluating[:, 1:].all()
    np.testing.assert_allclose(votes.mean(votes.test).logits, votes.logits[:, 1:].mean(axis=0))


def test_image_that_chooses_for_one_and_judges_another_is_said():
    votes = read(made_up("a", range(30), seed=1), made_up("b", range(10, 30), "validation"))
    assert votes.evaluating.sum(axis=1).tolist() == [30, 1]
    np.testing.assert_allclose(votes.mean(votes.test).logits[1:], votes.logits[0, 1:])
    # "other" chooses for a and judges b
    assert "21 images do both, by different members: F1, accuracy, Brier score and ECE flatter a little" in str(votes)


def test_other_labels_for_the_same_cell_are_refused():
    first, changed = made_up("a", range(9)), np.stack([np.arange(9) % 2, np.arange(9) % 3 == 0], axis=1).astype(float)
    changed[4, 1] = np.nan
    with pytest.raises(RunError, match="a and b were given different labels for 1 cells, y of 004 for one; train one again"):
        read(first, made_up("b", range(9), "validation", targets=changed))


# --- what is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"meta": {"attributes": ["plain", "sleeves", "long", "bag"]}}, r"differ in attributes: \['sleeves.*'plain', 'sl"),
        (
            {"meta": {"image_size": 32}},
            "b and d differ in image_size: 16 and 32; all members must share it: leave one out, or",
        ),
        ({"meta": {"std": [1.0, 1.0, 1.0]}}, r"differ in std: .*229.* and \[1.0, 1.0, 1.0\]"),
        ({"parameters": {"images": "data/others"}}, "differ in images: .* and data/others"),
        ({"parameters": {"calibrate": False}}, "differ in calibrate: True and False"),
    ],
)
def test_members_that_cannot_be_averaged_are_refused(runs, change, message):
    variant(runs, "d", **change)
    with pytest.raises(ParameterError, match=message):
        build_ensemble(find_runs(["b", "d"]))
    assert not (runs / "ensemble").exists()


def test_one_run_an_ensemble_and_a_name_that_is_taken_are_refused(runs, capsys):
    assert main(["ensemble", "a"]) == 2
    assert "at least two finished runs; given: " in capsys.readouterr().err
    assert main(["ensemble", "a", "nothing*"]) == 2
    assert "not a run folder" in capsys.readouterr().err
    assert main(["ensemble", "a", "b", "--name", "a", "--overwrite"]) == 2
    assert "a is one of the members; give the ensemble another name" in capsys.readouterr().err
    assert main(["ensemble", "a", "b", "--name", "c"]) == 0
    assert main(["ensemble", "a", "b", "--name", "c"]) == 2
    assert "c holds a finished run; choose another name, or overwrite" in capsys.readouterr().err
    assert main(["ensemble", "c", "b"]) == 2
    assert "c is an ensemble itself; name its members in its place: a, b" in capsys.readouterr().err


# --- the command, and what else reads a run


def test_command_says_what_was_made_and_a_pattern_may_find_it_again(runs, sample, capsys):
    assert main(["ensemble", "cv-fold*"]) == 0
    printed = capsys.readouterr().out
    assert "cv-fold-ensemble: ensemble of cv-fold0, cv-fold1, cv-fold2\n60 test images judge" in printed
    assert "best member" not in printed, "each had other images"
    assert main(["ensemble", "cv-fold*", "--overwrite"]) == 0
    assert json.loads((runs / "cv-fold-ensemble" / "config.json").read_text(encoding="utf-8"))["parameters"]["folds"] == 3
    assert main(["ensemble", "a", "b"]) == 0
    printed = capsys.readouterr().out
    assert "against the best member, " in printed
    assert "ensemble/model.pth" in printed
    assert main(["predict", str(sample / "images" / "0000.jpg"), "--model", "ensemble"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[-len(NAMES) :]] == NAMES


def test_without_test_images_the_validation_images_judge_and_that_is_said(runs, capsys):
    for name in "de":
        run = variant(runs, name, predictions=lambda table: table[table.split == "validation"])
        run.write_json("metrics.json", run.read_json("metrics.json") | {"judged_on": "validation"})
    assert main(["ensemble", "d", "e", "--name", "both"]) == 0
    printed = capsys.readouterr().out
    assert "validation images judge, each by the mean of the 2 members.\nThey chose the members' epochs" in printed
    assert Predictions.read(Run.open("both")).split == "validation"


def test_what_an_ensemble_lacks_is_asked_of_its_members(runs, capsys):
    run = build_ensemble(find_runs(["cv-fold*"]), "cv")
    with pytest.raises(
        RunError, match=r"cv is an ensemble and has no history.csv; ask for one of its members: cv-fold0, cv-"
    ):
        run.read_table("history.csv")
    assert run.validation_images()[0].exists()
    predicted = Predictions.read(run)
    table = predictions.readable(predictions.summary(predicted, predicted.bounds(), linear_head(run)))
    assert (table.linear_head_AP == "-").all()
    with pytest.raises(
        WeightsError, match=r"is an ensemble of several networks; give the model.pth of one of its runs: cv-f"
    ):
        build_model(WIDER, 2, str(run / "model.pth"))
    assert main(["run", "--name", "cv", "--only", "02"]) == 2
    assert "cv holds an ensemble, there is nothing to train" in capsys.readouterr().err
    assert run.finished
