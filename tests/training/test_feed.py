"""However a batch gets to the device, it is the same batch."""

import numpy as np
import pytest
import torch

from mlkit.data.dataset import batches
from mlkit.data.source import DataSource
from mlkit.training.feed import Feed

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture
def dataset(sample):
    return DataSource(str(sample / "images"), str(sample / "labels.csv")).open(32)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("resident", [False, True, None])
def test_batches_are_those_of_the_data_set_in_the_order_asked(dataset, device, resident):
    order = list(batches(np.arange(len(dataset)), 16, seed=0, epoch=1))
    feed = Feed(dataset, torch.device(device), resident)
    for _ in range(2):
        served = list(feed.batches(order))
        assert len(served) == len(order)
        for chosen, (where, inputs, targets) in zip(order, served, strict=True):
            expected_inputs, expected_targets = map(torch.from_numpy, dataset.batch(chosen))
            assert where.device.type == inputs.device.type == targets.device.type == device
            assert where.tolist() == chosen.tolist()
            assert torch.equal(inputs.cpu(), expected_inputs)
            assert torch.equal(targets.cpu(), expected_targets)


def test_reading_stops_where_the_reader_of_the_batches_stops(dataset):
    order = [np.arange(4)] * 5
    for _, inputs, _ in Feed(dataset, torch.device("cpu")).batches(order):
        assert len(inputs) == 4
        break


def test_failure_to_read_reaches_the_one_who_asked(dataset):
    with pytest.raises(IndexError):
        list(Feed(dataset, torch.device("cpu")).batches([np.array([0]), np.array([10**6])]))


def test_no_batches_are_no_batches(dataset):
    assert list(Feed(dataset, torch.device("cpu")).batches([])) == []
