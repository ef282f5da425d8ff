"""Gradient noise: by hand on vectors that can be drawn, and on a network against sums taken another way."""

import pytest
import torch
import torch.nn.functional as F

from course.training import digits
from course.training.emulation import Emulation
from course.training.models import MLP
from course.training.noise import gradients, noise
from course.training.recipes import RECIPES


def test_by_hand():
    exact = torch.tensor([[3.0, 0.0], [0.0, 3.0], [0.0, 0.0 + 3.0]])
    rounded = exact + torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, -2.0]])
    found = noise(exact, rounded)
    assert found.signal == pytest.approx(5**0.5) and found.bias == pytest.approx(0, abs=1e-12)
    assert found.batch == pytest.approx(((4 + 4) + 2 * (1 + 1)) ** 0.5 / 2**0.5)  # squares about the mean (1, 2), over 2
    assert found.rounding == pytest.approx((6 / 3) ** 0.5) and found.ratio == pytest.approx(found.batch / 2**0.5)
    assert found.between == pytest.approx(1 / 3)  # of the three pairs one agrees, two stand at right angles
    assert found.cosine == pytest.approx((3 / 10**0.5 + 1 + 1) / 3)


def test_angles_and_shares_are_those_of_vectors_that_can_be_drawn():
    exact = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    found = noise(exact, torch.tensor([[1.0, 1.0], [-1.0, 1.0]]))  # each is turned by 45 degrees, and not shortened along itself
    assert found.turn == pytest.approx(45) and found.apart == pytest.approx(90) and found.kept == 1
    assert found.shared == pytest.approx(0.5**0.5)  # errors (0, 1) and (−1, 0): the mean of two independent ones
    same = noise(exact, exact - 0.25)
    assert same.shared == pytest.approx(1) and same.kept == pytest.approx(0.75)
    assert same.signal == pytest.approx(0.5**0.5) and same.batch == 1  # those of the exact gradients, whatever rounding did
    assert noise(exact, exact).shared == 0 and noise(exact, -exact).turn == pytest.approx(180) and noise(exact, exact).turn == 0


def test_a_bias_is_what_averaging_leaves():
    exact = torch.zeros(100, 4) + torch.arange(100.0)[:, None]
    assert noise(exact, exact + 0.5).bias == pytest.approx(1.0) and noise(exact, exact).ratio == float("inf")
    signs = torch.tensor([1.0, -1.0]).repeat(50)[:, None]
    found = noise(exact, exact + 0.5 * signs)
    assert found.bias == 0 and found.rounding == pytest.approx(1.0)


def test_gradients_are_those_of_each_batch_and_leave_the_model_alone():
    model, data = MLP((64, 16, 10), 0), digits.load()
    batches = [data.batch(0, step, 32) for step in range(3)]
    model.layers[0].weight.grad = marker = torch.ones(16, 64)
    before = [p.clone() for p in model.parameters()]

    def loss(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1])

    found = gradients(model, loss, batches)
    by_hand = torch.cat([g.flatten() for g in torch.autograd.grad(loss(model, batches[2]), list(model.parameters()))])
    assert found.shape == (3, 64 * 16 + 16 + 170) and torch.equal(found[2], by_hand)
    assert model.layers[0].weight.grad is marker and model.layers[1].bias.grad is None
    short = gradients(model, loss, batches, lambda: Emulation(model, RECIPES["bf16"]))
    assert not torch.equal(short, found) and torch.allclose(short, found, atol=0.02)
    assert torch.equal(short, short.bfloat16().float())
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before))


def test_fewer_than_two_batches_are_refused():
    for exact, rounded in ((torch.ones(1, 3), torch.ones(1, 3)), (torch.ones(2, 3), torch.ones(2, 4))):
        with pytest.raises(ValueError, match="same two or more mini-batches"):
            noise(exact, rounded)
