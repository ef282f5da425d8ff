"""The pictures and the small network that learns them: where they come from, how they are split, and who starts with what."""

import gzip

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from course.training import RunError, digits
from course.training.models import MLP, uniform_layers


def test_every_picture_is_there_once():
    data = digits.load()
    lines = gzip.decompress(digits._FILE.read_bytes()).decode().split()
    there = sorted(lines)
    images = torch.cat([data.train_images, data.test_images]) * 16
    labels = torch.cat([data.train_labels, data.test_labels])
    assert sorted(",".join(map(str, [*map(int, row), label])) for row, label in zip(images.tolist(), labels.tolist())) == there
    assert (len(there), len(data.train_labels), len(data.test_labels)) == (1797, 1437, 360)
    assert images.dtype == torch.float32 and labels.dtype == torch.int64 and images.min() == 0 and images.max() == 16
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # as UCI's description has them
    assert torch.equal(images, images.round()) and min(np.bincount(data.test_labels)) >= 20  # no digit is left out of the test


def test_a_batch_depends_on_its_seed_and_step_alone():
    data = digits.load()
    images, labels = data.batch(3, 5, 64)
    np.random.seed(0), torch.manual_seed(0)
    again = data.batch(3, 5, 64)
    assert torch.equal(images, again[0]) and torch.equal(labels, again[1]) and images.shape == (64, 64)
    assert not torch.equal(labels, data.batch(3, 6, 64)[1]) and not torch.equal(labels, data.batch(4, 5, 64)[1])
    rows = {tuple(row) + (label,) for row, label in zip(data.train_images.tolist(), data.train_labels.tolist())}
    assert all(tuple(row) + (label,) in rows for row, label in zip(images.tolist(), labels.tolist()))  # of the pictures to train with
    drawn = torch.cat([data.batch(0, step, 500)[1] for step in range(6)])
    assert min(np.bincount(drawn)) > 200
    assert len({tuple(row) for step in range(6) for row in data.batch(0, step, 500)[0].tolist()}) > 1000  # 3000 draws from all 1437


def test_a_missing_file_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(digits, "_FILE", tmp_path / "digits.csv.gz")
    digits.load.cache_clear()
    with pytest.raises(RunError, match="restore data/digits.csv.gz"):
        digits.load()
    digits.load.cache_clear()


def test_the_network_is_linear_layers_with_relu_between():
    model, x = MLP((64, 20, 15, 10), seed=2), digits.load().test_images[:50]
    (a, p), (b, q), (c, r) = uniform_layers((64, 20, 15, 10), 2)
    assert torch.equal(model(x), F.linear(F.relu(F.linear(F.relu(F.linear(x, a, p)), b, q)), c, r))
    assert model(x).min() < 0  # no ReLU at the end


def test_first_weights_fill_the_range_of_nn_linear_and_follow_the_seed():
    for (weight, bias), inputs in zip(uniform_layers((400, 100, 50), 0), (400, 100)):
        for part in (weight, bias):
            assert part.dtype == torch.float32 and part.abs().max() <= inputs**-0.5 and part.abs().max() > 0.85 * inputs**-0.5
        assert weight.is_contiguous() and abs(weight.mean()) < 0.05 * inputs**-0.5
        assert abs(weight.std() * (3 * inputs) ** 0.5 - 1) < 0.02  # as wide as a uniform distribution is
    torch.manual_seed(5)
    one = MLP((8, 4), seed=1)
    torch.manual_seed(6)
    same, other = MLP((8, 4), seed=1), MLP((8, 4), seed=2)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), same.parameters()))
    assert all(not torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters()))


@pytest.mark.parametrize("widths", [(64,), (64, 0, 10), ()])
def test_widths_that_make_no_network(widths):
    with pytest.raises(RunError, match="make no network"):
        MLP(widths)
