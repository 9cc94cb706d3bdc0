"""The losses equal those of the published reference code, and depart from it only where a test says why."""

import json
from pathlib import Path

import pytest
import torch

from mlkit.losses import get_loss

REFERENCE = json.loads((Path(__file__).parents[1] / "losses" / "reference_losses.json").read_text(encoding="utf-8"))
CASES = ["regular_6x5", "edges_5x4"]
FOCAL = {"gamma_pos": 2, "gamma_neg": 2, "clip": 0, "focus_gradient": True}
CSL = {"gamma_unknown": 4}

# name in the file: our loss, its settings (pos_weight and prior come from the file), published value / ours
METHODS = {
    "masked_bce_mean": ("masked_bce", {}, 1),
    "masked_bce_posweight_mean": ("masked_bce", {}, 1),
    "masked_bce_posweight_fixed_mean": ("masked_bce", {}, 1),
    "partial_bce_durand": ("partial_bce", {}, 1),
    # focal loss with alpha 1/4: positives weigh a third of negatives, negatives 3/4
    "focal_retinanet_mean_known": ("asl", FOCAL | {"pos_weight": 1 / 3}, 0.75),
    "focal_noalpha_sum_known": ("asl", FOCAL, 1),
    "asl_default_sum_known": ("asl", {"gamma_pos": 1}, 1),
    "asl_default_fullgrad_sum_known": ("asl", {"gamma_pos": 1, "focus_gradient": True}, 1),
    "asl_train_script_sum_known": ("asl", {}, 1),
    "csl_ignore": ("csl", CSL | {"top_fraction": 1}, 1),
    "csl_negative": ("csl", CSL | {"top_fraction": 0}, 1),
    "csl_selective_topk1": ("csl", CSL, 1),
    "csl_selective_topk1_prior": ("csl", CSL | {"prior_threshold": 0.5}, 1),
    "hill_assume_negative_sum": ("hill", {}, 1),
    "ll_epoch1": ("ll_r", {"epoch": 1}, 1),
    "ll_r_clean0.9": ("ll_r", {"epoch": 2, "delta": 0.1}, 1),
    "ll_ct_clean0.9": ("ll_ct", {"epoch": 2, "delta": 0.1}, 1),
}


def data(case):
    logits = torch.tensor(REFERENCE[case]["logits"], dtype=torch.float64, requires_grad=True)
    return logits, torch.tensor(REFERENCE[case]["labels"])


def test_every_method_of_the_file_is_compared():
    assert all(set(REFERENCE[case]["methods"]) == set(METHODS) for case in CASES)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", METHODS)
def test_value_and_gradient_equal_the_published(method, case):
    name, settings, factor = METHODS[method]
    published = REFERENCE[case]["methods"][method]
    logits, targets = data(case)
    settings = dict(settings)
    for argument in ("pos_weight", "prior"):
        if published["hyperparameters"].get(argument):
            settings[argument] = torch.tensor(published["hyperparameters"][argument], dtype=torch.float64)
    if "selective" in method:  # published: one cell per image, of all unknown cells of the batch
        settings["top_fraction"] = len(logits) / (targets < 0).sum().item()
    if name == "hill":  # published: a known no is treated as an unknown cell
        targets = torch.where(targets == 0, -1, targets)
    reduction = "sum" if published["reduction"].startswith("sum") else "mean"
    loss = factor * get_loss(name)(logits, targets, reduction=reduction, **settings)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(published["loss"], rel=1e-9)
    expected = torch.tensor(published["grad"], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "settings"), [("asl", {"clip": 0.0}), ("csl", {"gamma_neg": 0.0})])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_confidently_wrong_cells_keep_their_gradient_where_the_published_clamp_loses_it(name, settings, dtype):
    # log(max(p, 1e-8)) is 18.4 with gradient 0 for every logit below -18.4, and such a cell is never learnt.
    logits = torch.tensor([[-30.0, 30.0]], dtype=dtype, requires_grad=True)
    loss = get_loss(name)(logits, torch.tensor([[1, 0]]), reduction="sum", **settings)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == pytest.approx(60)
    assert gradient[0].tolist() == pytest.approx([-1, 1])


def test_asl_with_a_clip_gives_up_negatives_that_look_wrongly_labelled():
    # The paper's design (its section on mislabelled negatives), not a loss of precision: the gradient is small, not zero.
    logits = torch.tensor([[2.0, 8.0, 50.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(get_loss("asl")(logits, torch.zeros(1, 3), reduction="sum"), logits)
    easy, hard, certain = gradient[0].tolist()
    assert easy > hard > certain > 0


def test_large_loss_never_changes_known_cells_where_the_published_code_does():
    # Published: every cell whose loss is at least the k-th largest of (loss where unknown, else 0). With k beyond the number
    # of unknown cells that threshold is 0, and all known cells are changed, too.
    targets = torch.tensor([[1, 0, -1], [0, 1, 0]])
    logits = torch.zeros(2, 3, requires_grad=True)
    known = targets >= 0
    for name in ("ll_r", "ll_ct"):
        changed = get_loss(name)(logits, targets, reduction="none", epoch=100, delta=0.1)
        plain = get_loss("assume_negative")(logits, targets, reduction="none")
        assert changed[known].equal(plain[known])


def test_large_loss_takes_no_more_than_k_of_equal_cells_where_the_published_code_takes_all():
    # A new head that outputs zeros has equal losses everywhere: all unknown cells would be turned over at once.
    losses = get_loss("ll_r")(torch.zeros(4, 5), torch.full((4, 5), -1), reduction="none", epoch=2, delta=0.1)
    assert (losses == 0).sum() == 2
