"""AdamW over BF16 parameters: torch's own step in all but the last rounding, and that one rounds by dice."""

import copy

import numpy as np
import pytest
import torch

from course.numerics import BF16, round_to
from course.training import stochastic
from course.training.stochastic import StochasticAdamW

OPTIONS = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-6, "weight_decay": 0.1}


def parameters(seed=0, shapes=((64, 32), (32,), (3, 5, 7))):
    draws = np.random.default_rng(seed)
    made = [torch.nn.Parameter(torch.from_numpy(draws.standard_normal(shape)).bfloat16()) for shape in shapes]
    return made, [torch.from_numpy(draws.standard_normal(shape)).bfloat16() for shape in shapes]


def optimizer(params, seed=0, **options):
    return StochasticAdamW(params, generator=torch.Generator().manual_seed(seed), **{**OPTIONS, **options})


def train(adam, params, gradients, steps):
    for step in range(steps):
        for p, gradient in zip(params, gradients):
            p.grad = gradient * (1 + step)
        adam.step()


def test_but_for_the_dice_it_is_torchs_fused_adamw(monkeypatch):
    """With the weight rounded to nearest all bits are torch's: weights, moments and step counts, over ten steps."""
    monkeypatch.setattr(stochastic, "round_to", lambda x, fmt, rounding, generator: round_to(x, fmt))
    (ours, gradients), (theirs, _) = parameters(), parameters()
    mine, torchs = optimizer(ours), torch.optim.AdamW(theirs, fused=True, **OPTIONS)
    train(mine, ours, gradients, 10)
    train(torchs, theirs, gradients, 10)
    for p, q in zip(ours, theirs):
        assert torch.equal(p, q)
        for name, value in torchs.state[q].items():
            assert torch.equal(mine.state[p][name], value) and mine.state[p][name].dtype == value.dtype


def test_the_weight_goes_to_one_of_two_neighbours_and_on_average_to_the_sum():
    w = torch.nn.Parameter(torch.full((40_000,), 1.5, dtype=torch.bfloat16))
    w.grad = torch.ones_like(w)
    optimizer([w], lr=1e-3, weight_decay=0.0).step()
    target = 1.5 - 1e-3 / (1 + 1e-6)
    assert set(w.tolist()) == {1.5, BF16.neighbours(1.5)[0]}
    share = 1e-3 / 2**-7
    assert abs(w.double().mean().item() - target) < 6 * 2**-7 * (share * (1 - share) / 40_000) ** 0.5


def test_updates_that_nearest_loses_arrive():
    lost, kept = (torch.nn.Parameter(torch.ones(4000, dtype=torch.bfloat16)) for _ in range(2))
    nearest, dice = torch.optim.AdamW([lost], fused=True, lr=1e-3), optimizer([kept], lr=1e-3, weight_decay=0.0)
    for _ in range(50):
        for p, adam in ((lost, nearest), (kept, dice)):
            p.grad = torch.ones_like(p)
            adam.step()
    assert lost.eq(1).all() and abs(kept.double().mean().item() - 0.95) < 0.001


def test_a_saved_state_goes_on_with_the_same_dice():
    params, gradients = parameters()
    adam = optimizer(params, seed=7)
    train(adam, params, gradients, 3)
    saved, weights = copy.deepcopy(adam.state_dict()), [p.detach().clone() for p in params]
    train(adam, params, gradients, 3)
    again = [torch.nn.Parameter(w) for w in weights]
    resumed = optimizer(again, seed=99)
    resumed.load_state_dict(saved)
    train(resumed, again, gradients, 3)
    assert all(torch.equal(p, q) for p, q in zip(params, again))
    other = [torch.nn.Parameter(w.clone()) for w in weights]
    without = optimizer(other, seed=99)
    without.load_state_dict({**saved, "generator": without.generator.get_state()})
    train(without, other, gradients, 3)
    assert not all(torch.equal(p, q) for p, q in zip(params, other))  # it was the dice that had to be kept


def test_what_it_refuses():
    with pytest.raises(TypeError, match="torch.float32.*model.bfloat16"):
        optimizer([torch.nn.Parameter(torch.ones(3))])
    with pytest.raises(TypeError, match="generator"):
        StochasticAdamW(parameters()[0])
    params, gradients = parameters()
    plain = torch.optim.AdamW(params, fused=True)
    train(plain, params, gradients, 1)
    with pytest.raises(ValueError, match="without dice"):
        optimizer(params).load_state_dict(plain.state_dict())


def test_closures_groups_and_parameters_without_a_gradient():
    used, unused = (torch.nn.Parameter(torch.ones(500, dtype=torch.bfloat16)) for _ in range(2))
    adam = optimizer([{"params": [used], "lr": 0.5}, {"params": [unused]}])

    def closure():
        assert torch.is_grad_enabled()
        used.grad = torch.ones_like(used)
        return torch.tensor(3.0)

    assert adam.step(closure) == 3.0 and unused.eq(1).all() and not adam.state[unused]
    assert abs(used.double().mean().item() - (1 - 0.5 * 0.1 - 0.5)) < 0.01
