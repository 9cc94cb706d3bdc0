"""The objective balances what is drawn once, softens and mixes known cells only."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mlkit.data.labels import from_codes, pos_weight
from mlkit.losses import LOSSES, get_loss
from mlkit.losses.bce import masked_bce
from mlkit.training.config import TrainConfig
from mlkit.training.objective import Objective, choice_gap, contradictions, image_weights, label_gaps
from mlkit.training.recipe import SEED, Recipe

CPU = torch.device("cpu")
PLAIN = TrainConfig(weights="none", pos_weight="none")


@pytest.fixture
def labels():
    rng = np.random.default_rng(0)
    codes = (rng.random((400, 3)) < [0.5, 0.05, 0.9]).astype(np.int8)
    codes[rng.random(codes.shape) < 0.2] = -1
    return from_codes(codes, [f"{i}.jpg" for i in range(400)], ["a", "b", "c"])


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(16, 3, generator=generator), torch.randint(-1, 2, (2, 16, 3), generator=generator)


def test_objective_is_the_loss_by_default(labels, batch):
    logits, (targets, _) = batch
    total, count = Objective(replace(PLAIN, pos_weight="balanced"), labels, None, None, CPU)(logits, [(1.0, targets)], 1)
    weight = torch.tensor(pos_weight(labels).to_numpy(), dtype=torch.float32)
    torch.testing.assert_close(total / count, masked_bce(logits, targets, weight))


def test_smoothing_moves_known_targets_towards_a_half(labels, batch):
    logits, (targets, _) = batch
    total, count = Objective(replace(PLAIN, label_smoothing=0.2), labels, None, None, CPU)(logits, [(1.0, targets)], 1)
    known = targets >= 0
    soft = targets[known].float() * 0.8 + 0.1
    torch.testing.assert_close(total / count, torch.nn.functional.binary_cross_entropy_with_logits(logits[known], soft))


@pytest.mark.parametrize("name", ["masked_bce", "asl"])
def test_suggested_cells_are_a_yes_in_part_and_count_less(labels, batch, name):
    logits, (targets, mixed) = batch
    logits = logits.requires_grad_()
    unknown = (targets < 0) & (mixed < 0)
    suggested = torch.where(unknown, torch.rand(logits.shape), torch.nan)
    config = TrainConfig(weights="none", loss=name, pos_weight="balanced", suggestion_weight=0.25)
    objective = Objective(config, labels, None, None, CPU)
    total, count = objective(logits, [(1.0, targets)], 1, [(0.7, suggested), (0.3, suggested)])
    alone, known = objective(logits, [(1.0, targets)], 1)
    p = suggested[unknown]
    if name == "masked_bce":
        weight = objective.pos_weight.expand_as(logits)[unknown]
        s = torch.sigmoid(logits[unknown])
        by_hand = -(weight * p * torch.log(s) + (1 - p) * torch.log(1 - s)).sum()
        torch.testing.assert_close(total - alone, 0.25 * by_hand, rtol=1e-4, atol=1e-5)
    assert (count - known).item() == pytest.approx(0.25 * len(p), rel=1e-5)
    total.backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[unknown] != 0).all()


def test_mixed_targets_keep_their_own_known_cells(labels, batch):
    logits, (first, second) = batch
    total, count = Objective(PLAIN, labels, None, None, CPU)(logits, [(0.7, first), (0.3, second)], 1)
    cells = [
        torch.nn.functional.binary_cross_entropy_with_logits(logits[known], targets[known].float(), reduction="sum")
        for targets, known in ((t, t >= 0) for t in (first, second))
    ]
    torch.testing.assert_close(total, 0.7 * cells[0] + 0.3 * cells[1])
    assert count.item() == pytest.approx(0.7 * (first >= 0).sum().item() + 0.3 * (second >= 0).sum().item())


def test_rare_positives_are_drawn_more_often_up_to_the_cap_and_unknown_cells_have_no_say(labels):
    weights = image_weights(labels, cap=2.0)
    assert weights.mean() == pytest.approx(1)
    rare = (labels["b"] == 1).fillna(False).to_numpy(bool)
    assert weights[rare].max() / weights.min() == pytest.approx(2.0)
    hidden = labels.copy()
    hidden.loc[labels["b"] == 0, "b"] = None  # negatives become unknown
    only = image_weights(hidden[["b"]], cap=2.0)
    known = hidden["b"].notna().to_numpy()
    assert np.unique(only[~known]).size <= 1


def test_with_a_sampler_the_balance_is_counted_as_drawn(labels):
    drawn = image_weights(labels, cap=4.0)
    objective = Objective(replace(PLAIN, pos_weight="balanced"), labels, drawn, None, CPU)
    codes = labels.fillna(-1).to_numpy(int)
    expected = [(drawn * (c == 0)).sum() / (drawn * (c == 1)).sum() for c in codes.T]
    np.testing.assert_allclose(objective.pos_weight, expected, rtol=1e-5)
    assert objective.pos_weight[1] < pos_weight(labels)["b"]


def test_sampler_and_weight_together_do_not_inflate_the_mean_probability():
    """A constant predictor that minimises the sampled, weighted loss answers one half, as it does without the sampler."""
    rng = np.random.default_rng(1)
    codes = (rng.random((3000, 1)) < 0.1).astype(np.int8)
    table = from_codes(codes, [f"{i}.jpg" for i in range(3000)], ["rare"])
    for weights in (None, image_weights(table, cap=4.0)):
        objective = Objective(replace(PLAIN, pos_weight="balanced"), table, weights, None, CPU)
        chances = np.ones(3000) if weights is None else weights
        sampled = torch.from_numpy(codes[rng.choice(3000, 20_000, p=chances / chances.sum())])
        bias = torch.zeros(1, requires_grad=True)
        optimizer = torch.optim.LBFGS([bias], max_iter=50)

        def closure(bias=bias, optimizer=optimizer, objective=objective, sampled=sampled):
            optimizer.zero_grad()
            total, count = objective(bias.expand(len(sampled), 1), [(1.0, sampled)], 1)
            (total / count).backward()
            return total / count

        optimizer.step(closure)
        assert torch.sigmoid(bias).item() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(("loss", "balanced"), [("masked_bce", True), ("asl", False), ("csl", False), ("partial_bce", True)])
def test_auto_leaves_losses_alone_that_balance_themselves(labels, loss, balanced):
    objective = Objective(replace(PLAIN, pos_weight="auto", loss=loss), labels, None, None, CPU)
    assert (objective.pos_weight != 1).any() == balanced


def test_losses_that_take_unknown_for_no_are_balanced_with_those_counted(labels):
    objective = Objective(replace(PLAIN, pos_weight="balanced", loss="ll_r"), labels, None, None, CPU)
    np.testing.assert_allclose(objective.pos_weight, pos_weight(labels.fillna(0)), rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"loss": "asl", "pos_weight": "balanced"}, "pos_weight 'balanced': asl"),
        ({"loss": "csl", "pos_weight": "sqrt", "prior_run": "a"}, "pos_weight 'sqrt': csl"),
        ({"loss": "hill", "pos_weight": "effective"}, "pos_weight 'effective': hill"),
        ({"loss": "asl", "sampler": "balanced"}, "sampler 'balanced': asl"),
        ({"loss": "hill", "label_smoothing": 0.1}, "label_smoothing 0.1: hill"),
        ({"loss": "ll_r", "mixup": 0.2}, "mixup 0.2: ll_r"),
        ({"loss": "ll_ct", "accumulate": 4}, "accumulate 4: ll_ct"),
        ({"loss": "ll_r", "epochs": 3, "loss_settings": "warmup: 3"}, "epochs 3: ll_r"),
        ({"loss": "csl"}, "prior_run is empty: csl takes"),
        ({"loss": "asl", "prior_run": "a"}, "prior_run 'a': asl"),
        ({"loss": "asl", "loss_settings": "gamma_pos: 5"}, "loss_settings: asl"),
        ({"loss": "hill", "loss_settings": "lambda_: 1.2"}, "lambda_ of 1.5, hill"),
    ],
)
def test_what_goes_against_the_paper_of_a_loss_is_named(settings, named):
    (text,) = contradictions(replace(TrainConfig(weights="none"), **settings))
    assert named in text


@pytest.mark.parametrize("loss", LOSSES)
def test_no_loss_contradicts_its_paper_with_the_recipe_of_own_data(loss):
    recipe = Recipe.read(SEED, {"loss": loss, "prior_run": "a" if loss == "csl" else ""})
    assert not list(contradictions(recipe.config))


def gaps(loss, **columns):
    codes = np.array(list(columns.values())).T
    return list(label_gaps(from_codes(codes, map(str, range(len(codes))), columns), get_loss(loss)))


@pytest.mark.parametrize("loss", [name for name, loss in LOSSES.items() if loss.leaves_out])
def test_positives_alone_teach_nothing_where_unknown_cells_are_left_out_and_that_is_said(loss):
    (text,) = gaps(loss, a=[1, -1, 1], b=[-1, 1, -1])
    assert f"{loss} leaves the unknown ones out: it learns to say yes to everything" in text
    assert text.endswith("assume_negative, csl, hill, ll_r, ll_ct")
    for made in ("assume_negative", "csl", "hill", "ll_r", "ll_ct"):
        assert not gaps(made, a=[1, -1, 1], b=[-1, 1, -1])


def test_attributes_that_lack_a_class_or_any_known_cell_are_named():
    columns = {"a": [1, 0, -1], "often": [1, 1, -1], "never": [0, 0, -1], "unseen": [-1, -1, -1]}
    often, never, unseen = gaps("masked_bce", **columns)
    assert often.endswith("all yes, so that nothing but yes is learnt: often")
    assert never.endswith("all no, so that nothing but no is learnt: never")
    assert unseen.endswith("nothing is learnt and the prediction is NA: unseen")
    assert gaps("hill", **columns) == [never, unseen]
    (text,) = gaps("masked_bce", a=[1, 0], **{f"u{i}": [-1, -1] for i in range(300)})
    assert text.endswith("u11 and 288 more")


def test_validation_images_that_cannot_choose_by_map_are_warned_of():
    def said(*codes):
        return list(choice_gap(from_codes(np.array(codes), map(str, range(len(codes))), ["a", "b"])))

    assert not said([1, -1], [0, 1])
    for codes in ([[1, 0], [-1, 0]], [[-1, -1]]):
        (text,) = said(*codes)
        assert "mAP is undefined" in text
