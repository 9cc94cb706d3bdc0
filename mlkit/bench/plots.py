"""Figures of a bench."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from mlkit.plots import NO, UNKNOWN, YES, legend_below


def throughput(figures: Mapping[str, Any], ax: Axes) -> Axes:
    """Images per second of each way to train, with the range of the repeats, and the GEMM bounds as marks.

    Takes the figures of `turns.measure`. The plain loop computes in float32, and its mark is the bound of that; the mark of
    the others is the bound of the precision that mlkit chose.
    """
    bars = {
        "plain_img_per_s": "plain loop",
        "mlkit_first_epoch_img_per_s": "mlkit, first epoch with the decode",
        "mlkit_img_per_s": "mlkit, later epochs",
        "step_img_per_s": "pure step",
    }
    values = [figures[key] for key in bars]
    low, high = np.array([figures["spread"][key] for key in bars]).T
    numbers = [f"{value:,.3g}" if value < 1000 else f"{value:,.0f}" for value in values]
    # the numbers stand beside the names, where no mark can hide them
    names = [f"{name}\n{number} images/s" for name, number in zip(bars.values(), numbers, strict=True)]
    ax.barh(names, values, color=[UNKNOWN, YES, YES, NO])
    ax.errorbar(values, range(len(bars)), xerr=[values - low, high - values], fmt="none", color="black", capsize=4)
    bounds = [figures["gemm_bound_fp32_img_per_s"]] + 3 * [figures["gemm_bound_img_per_s"]]
    ax.plot(bounds, range(len(bars)), "k|", markersize=26, markeredgewidth=3, label="GEMM bound of the same precision")
    ax.set(title="Training throughput", xlabel="images per second", xlim=(0, 1.12 * max(*bounds, *high)))
    ax.invert_yaxis()
    legend_below(ax)
    return ax
