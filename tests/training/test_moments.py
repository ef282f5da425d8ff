"""Moments in eight bits: which grids train, over seeds, and that FP32 is torch's own Adam."""

import pytest
import torch
import torch.nn.functional as F

from course.training import digits, moments
from course.training.models import MLP


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_fp32_is_torchs_adam():
    pictures, model, losses = digits.load(), MLP((64, 32, 10), seed=3), []
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(40):
        images, labels = pictures.batch(3, step, 64)
        loss = F.cross_entropy(model(images), labels)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert moments.train("FP32", 3, steps=40) == sum(losses[-30:]) / 30


@pytest.mark.parametrize("seed", range(5, 8))
def test_an_even_grid_loses_small_second_moments_an_uneven_one_keeps_them(seed):
    exact = moments.train("FP32", seed)
    assert moments.train("INT8", seed) > 100
    assert abs(moments.train("E4M3", seed) / exact - 1) < 0.3 and abs(moments.train("first INT8, second E4M3", seed) / exact - 1) < 0.3
