"""The functions of all losses, by name."""

from mlkit.losses.asymmetric import asl
from mlkit.losses.bce import assume_negative, masked_bce, partial_bce
from mlkit.losses.hill_loss import hill
from mlkit.losses.large_loss import ll_ct, ll_r
from mlkit.losses.selective import csl

__all__ = ["asl", "assume_negative", "csl", "hill", "ll_ct", "ll_r", "masked_bce", "partial_bce"]
