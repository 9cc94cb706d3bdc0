"""Masked losses equal the plain ones on the data with the unknown cells removed; none stumbles over extreme batches.

What the published code gives is compared in test_losses_reference.py.
"""

import inspect

import pytest
import torch
from torch.nn import functional as F

from mlkit import losses
from mlkit.errors import ParameterError
from mlkit.losses import LOSSES, get_loss
from mlkit.losses.bce import masked_bce
from mlkit.losses.large_loss import ll_ct, ll_r

# Every loss, with what is needed for all of it to happen in a small batch.
PRIOR = torch.tensor([0.01, 0.3, 0.02, 0.04, 0.03])
SETTINGS = {
    "csl": {"top_fraction": 0.3, "prior": PRIOR},
    "ll_r": {"epoch": 3, "delta": 0.05},
    "ll_ct": {"epoch": 3, "delta": 0.05},
}
EVERY = pytest.mark.parametrize(("name", "settings"), [(name, SETTINGS.get(name, {})) for name in LOSSES])
BLIND = pytest.mark.parametrize(  # those that leave unknown cells out
    ("name", "settings"), [("masked_bce", {}), ("partial_bce", {}), ("asl", {}), ("csl", {"top_fraction": 1.0})]
)
POS_WEIGHT = torch.tensor([0.2, 1, 3, 11, 0.5], dtype=torch.float64)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(16, 5, generator=generator, dtype=torch.float64) * 3
    targets = torch.randint(-1, 2, (16, 5), generator=generator)
    return logits.requires_grad_(), targets


@pytest.mark.parametrize("weighted", [False, True])
def test_value_and_gradient_equal_those_with_unknown_cells_removed(batch, weighted):
    logits, targets = batch
    pos_weight = POS_WEIGHT if weighted else None
    known = targets >= 0
    weights = pos_weight.expand_as(logits)[known] if weighted else None
    expected = F.binary_cross_entropy_with_logits(logits[known], targets[known].double(), pos_weight=weights)
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    loss = masked_bce(logits, targets, pos_weight)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-15)


def test_sum_over_parts_divided_by_all_known_cells_is_the_mean_of_the_whole(batch):
    logits, targets = batch
    parts = sum(masked_bce(logits[i : i + 3], targets[i : i + 3], reduction="sum") for i in range(0, 16, 3))
    torch.testing.assert_close(parts / (targets >= 0).sum(), masked_bce(logits, targets))


def test_batch_without_a_known_cell_gives_a_differentiable_zero(batch):
    logits, targets = batch
    loss = masked_bce(logits, torch.full_like(targets, -1))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_unknown_cell_has_no_say_even_where_its_logit_is_nan(batch):
    logits, targets = batch
    spoilt = torch.where(targets < 0, torch.nan, logits.detach()).requires_grad_()
    loss = masked_bce(spoilt, targets)
    loss.backward()
    torch.testing.assert_close(loss, masked_bce(logits, targets))
    assert spoilt.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_float32(dtype):
    loss = masked_bce(torch.tensor([[50.0, -50.0]], dtype=dtype), torch.tensor([[0, 1]]))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(50)


def test_none_keeps_the_shape_with_zero_at_unknown_cells(batch):
    logits, targets = batch
    losses = masked_bce(logits, targets, reduction="none")
    assert losses.shape == targets.shape
    assert (losses[targets < 0] == 0).all()


def test_wrong_shapes_and_reductions_are_refused(batch):
    logits, targets = batch
    with pytest.raises(ValueError, match="differ in shape"):
        masked_bce(logits, targets[:, :3])
    with pytest.raises(ValueError, match='"mean", "sum" or "none"'):
        masked_bce(logits, targets, reduction="median")


# ---- every loss


def gradient_of(loss, logits):
    (gradient,) = torch.autograd.grad(loss, logits)
    return gradient


@EVERY
def test_sum_mean_and_count_agree_with_the_losses_of_the_cells(batch, name, settings):
    logits, targets = batch
    loss = get_loss(name)
    cells, mean, total = (loss(logits, targets, reduction=r, **settings) for r in ("none", "mean", "sum"))
    both = loss(logits, targets, reduction="sum_and_count", **settings)
    assert cells.shape == targets.shape
    assert (cells >= 0).all()
    assert mean.shape == total.shape == ()
    torch.testing.assert_close(total, cells.sum())
    torch.testing.assert_close(both[0], total)
    torch.testing.assert_close(both[0] / both[1], mean)
    torch.testing.assert_close(gradient_of(both[0], logits), gradient_of(total, logits))
    known, cells = (targets >= 0).sum(), targets.numel()
    count = {"masked_bce": known, "asl": known}.get(name, cells)
    assert known < both[1] < cells if name == "csl" else both[1] == count


@pytest.mark.parametrize(("name", "settings"), [(name, {"epoch": 1} if name[:3] == "ll_" else {}) for name in LOSSES])
def test_sums_and_counts_over_parts_give_the_mean_of_the_whole(batch, name, settings):
    logits, targets = batch
    settings = {"top_fraction": 0} if name == "csl" else settings  # what is the largest depends on the part
    loss = get_loss(name)
    parts = [loss(logits[i : i + 3], targets[i : i + 3], reduction="sum_and_count", **settings) for i in range(0, 16, 3)]
    total, count = torch.stack(parts).sum(0)
    torch.testing.assert_close(total / count, loss(logits, targets, **settings))


@EVERY
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [50.0, 6e4])
def test_extreme_logits_give_finite_values_and_gradients(name, settings, dtype, size):
    logits = torch.tensor([[-size] * 5, [size] * 5, [0.0] * 5], dtype=dtype).repeat_interleave(3, 0).requires_grad_()
    targets = torch.tensor([1, 0, -1]).repeat(3)[:, None].expand(9, 5)
    for extra in ({}, {"pos_weight": POS_WEIGHT.float()}):
        loss = get_loss(name)(logits, targets, **settings, **extra)
        assert loss.isfinite()
        assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert gradient_of(loss, logits).isfinite().all()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_any_focusing_gives_finite_gradients(gamma, clip):
    logits = torch.tensor([[-6e4, -200.0, -50.0, 0.0, 50.0, 200.0, 6e4]], requires_grad=True)
    for target in (1, 0):
        targets = torch.full_like(logits, target)
        loss = get_loss("asl")(logits, targets, gamma_pos=gamma, gamma_neg=gamma, clip=clip, focus_gradient=True)
        assert loss.isfinite()
        assert gradient_of(loss, logits).isfinite().all()


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_gives_a_float32_loss_and_finite_gradients(batch, name, settings, dtype):
    _, targets = batch
    layer = torch.nn.Linear(8, 5)
    inputs = torch.randn(16, 8, generator=torch.Generator().manual_seed(1)) * 30
    with torch.autocast("cpu", dtype=dtype):
        logits = layer(inputs)
        loss = get_loss(name)(logits, targets, **settings)
    assert logits.dtype == dtype
    assert loss.dtype == torch.float32
    assert gradient_of(loss, layer.weight).isfinite().all()
    with torch.no_grad():
        torch.testing.assert_close(loss, get_loss(name)(logits.float(), targets, **settings))


@EVERY
def test_unknown_batches_and_rows_and_attributes_of_one_class_give_finite_values_and_gradients(batch, name, settings):
    logits, targets = batch
    loss = get_loss(name)
    unknown_row, no_positives, no_negatives = targets.clone(), targets.clone(), targets.clone()
    unknown_row[4] = -1
    no_positives[:, 1] = no_positives[:, 1].clamp(max=0)
    no_negatives[:, 2] = no_negatives[:, 2].abs()
    for case in (unknown_row, no_positives, no_negatives, torch.full_like(targets, -1)):
        value = loss(logits, case, POS_WEIGHT, **settings)
        assert value.isfinite()
        assert gradient_of(value, logits).isfinite().all()


@EVERY
def test_empty_batch_gives_a_differentiable_zero(name, settings):
    logits = torch.zeros(0, 5, requires_grad=True)
    loss = get_loss(name)(logits, torch.zeros(0, 5), **settings)
    assert loss.item() == 0
    assert gradient_of(loss, logits).shape == (0, 5)


@EVERY
def test_pos_weight_multiplies_the_losses_of_known_positives_alone(batch, name, settings):
    logits, targets = batch
    plain, weighted = (get_loss(name)(logits, targets, w, reduction="none", **settings) for w in (None, POS_WEIGHT))
    torch.testing.assert_close(weighted, plain * torch.where(targets == 1, POS_WEIGHT, 1))


@EVERY
@pytest.mark.parametrize("dtype", [torch.int8, torch.float32, torch.float64])
def test_type_of_the_targets_does_not_matter_and_arguments_stay_as_they_are(batch, name, settings, dtype):
    logits, targets = batch
    given = logits.detach().clone(), targets.to(dtype)
    expected = get_loss(name)(logits, targets, **settings)
    torch.testing.assert_close(get_loss(name)(*given, **settings), expected.detach())
    assert given[0].equal(logits)
    assert given[1].equal(targets.to(dtype))


@EVERY
def test_all_have_one_signature_and_a_docstring_with_formula_and_paper(name, settings):
    loss = get_loss(name).function
    parameters = inspect.signature(loss).parameters
    assert list(parameters)[:4] == ["logits", "targets", "pos_weight", "reduction"]
    assert all(p.kind == p.KEYWORD_ONLY for p in list(parameters.values())[3:])
    assert all(f"- {parameter}: " in losses.__doc__ for parameter in list(parameters)[:4]), "said once, for all"
    assert all(parameter in loss.__doc__ for parameter in list(parameters)[4:])
    if name != "masked_bce":
        assert "et al." in loss.__doc__
        assert "20" in loss.__doc__


def test_unknown_name_is_refused_with_the_nearest():
    assert get_loss("asl") is LOSSES["asl"]
    with pytest.raises(ParameterError, match="no loss 'masked_bse'; did you mean 'masked_bce'"):
        get_loss("masked_bse")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("partial_bce", {"gamma": -1}, "gamma is -1; it must be at least 0"),
        ("asl", {"gamma_neg": -1}, "gamma_neg is -1"),
        ("asl", {"clip": 1}, "clip is 1; it must be between 0 and"),
        ("csl", {"top_fraction": 5}, "top_fraction is 5; it must be between 0 and 1"),
        ("csl", {"gamma_unknown": -1}, "gamma_unknown is -1"),
        ("csl", {"prior": torch.zeros(3)}, r"prior has the shape \(3,\); it must be \(5,\)"),
        ("hill", {"lambda_": 0.5}, "lambda_ is 0.5; it must be at least 1"),
        ("ll_r", {"epoch": 0}, "epoch is 0; it must be at least 1"),
        ("ll_ct", {"epoch": 1, "delta": float("nan")}, "delta is nan"),
    ],
)
def test_settings_that_make_no_sense_are_refused(batch, name, settings, message):
    with pytest.raises(ParameterError, match=message):
        get_loss(name)(*batch, **settings)


# ---- unknown cells left out


@BLIND
def test_unknown_batch_gives_a_differentiable_zero(batch, name, settings):
    logits, targets = batch
    for reduction in ("mean", "sum"):
        loss = get_loss(name)(logits, torch.full_like(targets, -1), reduction=reduction, **settings)
        assert loss.item() == 0
        assert (gradient_of(loss, logits) == 0).all()


@BLIND
def test_unknown_cells_have_no_say_even_where_their_logits_are_nan(batch, name, settings):
    logits, targets = batch
    spoilt = torch.where(targets < 0, torch.nan, logits.detach()).requires_grad_()
    loss, expected = (get_loss(name)(x, targets, POS_WEIGHT, **settings) for x in (spoilt, logits))
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient_of(loss, spoilt), gradient_of(expected, logits))


@pytest.mark.parametrize(("name", "settings"), [("masked_bce", {}), ("asl", {}), ("csl", {"top_fraction": 1.0})])
def test_value_and_gradient_equal_those_with_the_unknown_cells_removed(batch, name, settings):
    logits, targets = batch
    known = targets >= 0
    loss = get_loss(name)(logits, targets, POS_WEIGHT, **settings)
    removed = get_loss(name)(logits[known][None], targets[known][None], POS_WEIGHT.expand_as(logits)[known], **settings)
    torch.testing.assert_close(loss, removed)
    torch.testing.assert_close(gradient_of(loss, logits), gradient_of(removed, logits))


def test_partial_bce_weighs_each_image_by_how_little_of_it_is_known(batch):
    logits, targets = batch
    expected = 0.0
    for x, y in zip(logits, targets, strict=True):
        known = y >= 0
        weight = 5.45 - 4.45 * known.double().mean()
        expected += weight * F.binary_cross_entropy_with_logits(x[known], y[known].double(), reduction="sum") / 5 / 16
    loss = get_loss("partial_bce")(logits, targets)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient_of(loss, logits), gradient_of(expected, logits))


# ---- unknown cells used


def test_assume_negative_is_the_plain_loss_with_no_for_unknown(batch):
    logits, targets = batch
    plain = F.binary_cross_entropy_with_logits(logits, targets.clamp(min=0).double())
    torch.testing.assert_close(get_loss("assume_negative")(logits, targets), plain)


def test_hill_treats_known_negatives_by_cross_entropy_and_unknown_cells_by_the_hill(batch):
    logits, targets = batch
    losses = get_loss("hill")(logits, targets, reduction="none")
    p, m = torch.sigmoid(logits), torch.sigmoid(logits - 1)
    torch.testing.assert_close(losses[targets == 1], ((1 - m) ** 2 * -m.log())[targets == 1])
    torch.testing.assert_close(losses[targets == 0], -(1 - p).log()[targets == 0])
    torch.testing.assert_close(losses[targets == -1], ((1.5 - p) * p**2)[targets == -1])


def test_csl_leaves_out_the_likeliest_unknown_cells_and_those_of_common_attributes(batch):
    logits, targets = batch
    unknown = targets < 0
    losses = get_loss("csl")(logits, targets, reduction="none", top_fraction=0.3)
    left_out = losses == 0
    assert left_out.sum() == round(0.3 * unknown.sum().item()) == 10
    assert logits[left_out].min() > logits[unknown & ~left_out].max()
    assert not (left_out & ~unknown).any()
    losses = get_loss("csl")(logits, targets, reduction="none", top_fraction=0, prior=PRIOR)
    assert (losses == 0).equal(unknown & (PRIOR > 0.05))


@pytest.mark.parametrize("settings", [{"beta": -1.0}, {"alpha": -6.0}])
def test_partial_bce_refuses_weights_below_zero(batch, settings):
    with pytest.raises(ParameterError, match="beta"):
        get_loss("partial_bce")(*batch, **settings)


@pytest.mark.parametrize(("epoch", "k"), [(1, 0), (2, 0), (3, 3), (4, 5), (5, 8), (13, 27), (16, 32), (100, 32)])
def test_large_loss_changes_more_cells_each_epoch_after_the_warmup_up_to_all_unknown(batch, epoch, k):
    logits, targets = batch
    unknown = targets < 0
    assert unknown.sum() == 32
    plain = get_loss("assume_negative")(logits, targets, reduction="none")
    settings = {"epoch": epoch, "delta": 0.03, "warmup": 2, "reduction": "none"}
    rejected, corrected = ll_r(logits, targets, **settings), ll_ct(logits, targets, **settings)
    changed = rejected != plain
    assert changed.sum() == k
    assert (corrected != plain).equal(changed)
    assert not (changed & ~unknown).any()
    assert (rejected[changed] == 0).all()
    torch.testing.assert_close(corrected[changed], F.softplus(-logits)[changed])
    if 0 < k < 32:
        assert plain[changed].min() > plain[unknown & ~changed].max()


def test_large_loss_does_not_count_a_cell_more_for_a_rounding_error():
    logits, targets = torch.arange(100.0)[None], torch.full((1, 100), -1)
    assert 100 * 0.07 > 7
    assert (ll_r(logits, targets, reduction="none", epoch=2, delta=0.07) == 0).sum() == 7


def test_large_loss_asks_for_the_epoch(batch):
    with pytest.raises(TypeError, match="epoch"):
        ll_r(*batch)
