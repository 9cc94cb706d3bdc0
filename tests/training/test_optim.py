"""Learning rates over time, weight decay where it belongs, the average of the weights, and the range test."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from mlkit.data.source import DataSource
from mlkit.training.config import TrainConfig
from mlkit.training.optim import WeightAverage, build_optimizer, learning_rate
from mlkit.training.preview import learning_rate_range

CONFIG = TrainConfig(weights="none", epochs=10, learning_rate=0.1)


def test_learning_rate_rises_over_the_warm_up_and_falls_on_a_cosine():
    config = replace(CONFIG, warmup_epochs=1.0, schedule="cosine")
    rates = np.array([learning_rate(config, step, 20) for step in range(200)])
    assert (np.diff(rates[:21]) > 0).all()
    assert rates.argmax() == 20
    assert rates.max() == pytest.approx(0.1)
    assert (np.diff(rates[20:]) < 0).all()
    assert rates[-1] < 1e-4
    assert {learning_rate(CONFIG, step, 20) for step in range(200)} == {0.1}


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_weight_decay_leaves_out_biases_and_normalisation(name, kind):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    optimizer = build_optimizer(list(network.parameters()), replace(CONFIG, optimizer=name, weight_decay=0.05))
    assert isinstance(optimizer, kind)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert [decay[id(p)] for p in network.parameters()] == [0.05, 0, 0, 0, 0.05, 0]


def test_average_follows_the_weights_and_is_applied_for_a_while():
    network = nn.Linear(2, 1)
    average = WeightAverage(network, 0.5)
    before = network.weight.detach().clone()
    with torch.no_grad():
        network.weight += 1
    average.update()  # the first update has the decay 2 / 11
    with average.applied():
        torch.testing.assert_close(network.weight.detach(), before + 9 / 11)
    torch.testing.assert_close(network.weight.detach(), before + 1)
    for _ in range(60):
        average.update()
    with average.applied():
        torch.testing.assert_close(network.weight.detach(), before + 1)


def test_range_test_raises_the_rate_and_stops_where_the_loss_explodes(sample):
    dataset = DataSource(str(sample / "images"), str(sample / "labels.csv")).open(32)
    config = replace(CONFIG, image_size=32, batch_size=16, device="cpu", precision="fp32")
    table = learning_rate_range(dataset, config, steps=15)
    assert table.lr[0] == pytest.approx(1e-6)
    assert table.lr.is_monotonic_increasing
    assert len(table) <= 15
    assert np.isfinite(table.loss.iloc[:-1]).all()
