"""The masked loss equals the plain loss on the data with the unknown cells removed."""

import pytest
import torch
from torch.nn import functional as F

from mlkit.losses import masked_bce


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(16, 5, generator=generator, dtype=torch.float64) * 3
    targets = torch.randint(-1, 2, (16, 5), generator=generator)
    return logits.requires_grad_(), targets


@pytest.mark.parametrize("weighted", [False, True])
def test_value_and_gradient_equal_those_with_unknown_cells_removed(batch, weighted):
    logits, targets = batch
    pos_weight = torch.tensor([0.2, 1, 3, 11, 0.5], dtype=torch.float64) if weighted else None
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
