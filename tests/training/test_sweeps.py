"""Sweeps: each row is the run that `Emulation`, a scaler and an optimizer would make alone, and rows do not touch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from course.numerics import BF16, E5M2, FP16, FP32, FloatFormat
from course.numerics.rounding import round_to
from course.training import RunError, digits
from course.training.emulation import Emulation
from course.training.models import MLP
from course.training.optimizers import SGD, AdamW
from course.training.recipes import RECIPES, Recipe
from course.training.scaling import DynamicScaler
from course.training.sweeps import Trial, sweep

SMALL = {"widths": (64, 32, 32, 10), "batch": 32}


def alone(trial, steps, make, widths, batch, scaler=None):
    """The losses of one trial trained by the parts that a learner would put together."""
    model = MLP(widths, trial.seed)
    optimizer, emulation = make(model.parameters()), Emulation(model, trial.recipe)
    losses = []
    for step in range(steps):
        images, labels = digits.load().batch(trial.seed, step, batch)
        optimizer.zero_grad()
        with emulation:
            loss = F.cross_entropy(model(images), labels)
        weighted = loss * trial.loss_weight
        (scaler.scale(weighted) if scaler else weighted).backward()
        scaler.step(optimizer) if scaler else optimizer.step()
        if scaler:
            scaler.update()
        losses.append(loss.item())
    return losses


ONE_ROLE = {"activations": E5M2, "activation_gradients": E5M2, "weight_gradients": E5M2, "reductions": BF16, "weights": E5M2}


@pytest.mark.parametrize("name", ["fp32", "fp16", "bf16", "pure-bf16", *ONE_ROLE])
def test_a_row_is_the_run_alone(name):
    """Every role apart, so that none can be forgotten behind another; E5M2 has fewer bits than the pictures."""
    trial = Trial(Recipe(name, **{name: ONE_ROLE[name]}, master=FP32) if name in ONE_ROLE else name, seed=3)
    recipe = trial.recipe
    result = sweep([Trial("fp32", seed=1), trial], steps=25, lr=3e-3, **SMALL)
    moments = {"first_moment": recipe.first_moment, "second_moment": recipe.second_moment}
    own = alone(trial, 25, lambda p: AdamW(p, lr=3e-3, weights=recipe.stored, **moments), **SMALL)
    assert result.losses[0, 1] > 2.2 and result.losses[-1, 1] < 2.2
    losses = torch.from_numpy(result.losses[:, 1])
    assert torch.equal(losses, round_to(losses, recipe.reductions))
    np.testing.assert_allclose(losses, own, atol=max(1e-4, recipe.reductions.ulp(2.0)))  # the order of sums may tip a rounding
    plain = alone(Trial("fp32", seed=3), 25, lambda p: AdamW(p, lr=3e-3), **SMALL)
    assert name == "fp32" or np.abs(result.losses[:, 1] - plain).max() > 2e-4  # the role is not forgotten on both sides


def test_formats_make_the_difference_that_a_row_alone_would_show():
    """The control of the test above: between recipes the same runs part by twenty times its tolerance and more."""
    result = sweep([Trial("fp32"), Trial("pure-bf16")], steps=25, lr=3e-3, **SMALL)
    assert np.abs(result.losses[:, 0] - result.losses[:, 1]).max() > 0.002


def test_rows_do_not_touch():
    """A run that overflows to NaN leaves its neighbours bitwise as they are without it."""
    wide = Recipe("overflows", activations=FP16, activation_gradients=FP16, weight_gradients=FP16)
    mad = Trial(wide, loss_weight=2.0**20)
    both = sweep([Trial("bf16", seed=2), mad], steps=6, **SMALL)
    only = sweep([Trial("bf16", seed=2), Trial("fp32")], steps=6, **SMALL)
    assert np.isnan(both.losses[-1, 1]) and not both.skipped.any()
    assert np.array_equal(both.losses[:, 0], only.losses[:, 0])


def test_a_dynamic_scale_is_that_of_the_scaler():
    trial = Trial("fp16", seed=1, scale=2.0**22, dynamic=True)
    result = sweep([trial, Trial("fp16", seed=1)], steps=40, growth_interval=8, **SMALL)
    scaler = DynamicScaler(init_scale=2.0**22, growth_interval=8)
    trace = []

    class Recording:
        scale, update = scaler.scale, scaler.update

        def step(self, optimizer):
            trace.append(scaler.get_scale())
            scaler.step(optimizer)

    alone(trial, 40, lambda p: AdamW(p, lr=1e-3), scaler=Recording(), **SMALL)
    assert result.scales[:, 0].tolist() == trace
    assert result.skipped[:, 0].any() and not result.skipped[:, 1].any() and (result.scales[:, 1] == 1).all()
    halved = result.scales[1:, 0] < result.scales[:-1, 0]
    assert np.array_equal(halved, result.skipped[:-1, 0])


def test_a_power_of_two_scale_changes_nothing_in_fp32_and_a_loss_weight_does():
    result = sweep([Trial("fp32"), Trial("fp32", scale=1024.0), Trial("fp32", loss_weight=1 / 1024)], steps=10, optimizer="sgd", lr=0.5, **SMALL)
    assert np.array_equal(result.losses[:, 0], result.losses[:, 1])
    assert result.losses[-1, 2] > result.losses[-1, 0] + 0.01


def test_a_step_is_skipped_only_where_it_may_be():
    trials = [Trial("fp16", scale=2.0**26), Trial("fp16", scale=2.0**26, skip=False), Trial("fp16")]
    result = sweep(trials, steps=5, **SMALL)
    assert result.skipped[:, 0].all() and not result.skipped[:, 1:].any()
    start = sweep([Trial("fp32")], steps=0, **SMALL)
    assert np.isfinite(result.losses[:, 0]).all() and np.isnan(result.losses[-1, 1])
    assert all(torch.equal(a[0], b[0]) for kept, first in zip(result.weights, start.weights) for a, b in zip(kept, first))


def test_weights_are_values_of_their_formats_row_by_row():
    tiny = FloatFormat("E5M3", 5, 3)
    trials = [Trial("fp32"), Trial(Recipe("tiny", weights=tiny)), Trial("pure-bf16"), Trial("bf16")]
    result = sweep(trials, steps=3, optimizer="sgd", lr=0.1, **SMALL)
    for weight, _ in result.weights:
        for row, fmt in ((1, tiny), (2, BF16)):
            assert torch.equal(weight[row], round_to(weight[row], fmt))
        for row in (0, 3):  # FP32, and the FP32 master of "bf16"
            assert not torch.equal(weight[row], round_to(weight[row], BF16))


def test_counts_by_hand():
    """One linear layer, one SGD step: what moved, what was lost and what was flushed, counted from the same numbers."""
    recipe = Recipe("short", weights=BF16, activation_gradients=FP16)
    trial = Trial(recipe, loss_weight=2.0**-17)
    result = sweep([trial, trial], widths=(64, 10), steps=1, batch=32, optimizer="sgd", lr=800.0, count=True)
    model, (images, labels) = MLP((64, 10), 0), digits.load().batch(0, 0, 32)
    for p in model.parameters():
        p.data = round_to(p.data, BF16)
    before = [p.detach().clone() for p in model.parameters()]
    logits = model(images)
    exact = (logits.softmax(1) - F.one_hot(labels, 10)) * (2.0**-17 / 32)
    rounded = round_to(exact, FP16)
    logits.backward(rounded)
    SGD(model.parameters(), lr=800.0, weights=BF16).step()
    moved = sum((p != b).sum().item() for p, b in zip(model.parameters(), before))
    wanted = sum((p.grad != 0).sum().item() for p in model.parameters())
    assert 0.05 < result.flushed[0, 0] < 0.95 and 0.01 < result.moved[0, 0] < 0.95 and result.lost[0, 0] > 0.05
    assert result.flushed[0].tolist() == pytest.approx([(rounded == 0).float().mean().item()] * 2, abs=0.01)
    assert result.moved[0].tolist() == pytest.approx([moved / 650] * 2, abs=0.01)
    assert result.lost[0].tolist() == pytest.approx([1 - moved / wanted] * 2, abs=0.01)


def test_counts_are_those_of_each_step_and_of_all_layers():
    """Weights that stand still: each step's share is that of its own batch. Large weights make softmax exact, and gradients 0 before rounding."""
    trial = Trial(Recipe("short", activation_gradients=FP16), loss_weight=2.0**-17)
    result = sweep([trial], widths=(64, 10), steps=3, batch=32, optimizer="sgd", lr=0.0, initial_gain=300.0, count=True)
    model, shares = MLP((64, 10), 0), []
    for step in range(3):
        images, labels = digits.load().batch(0, step, 32)
        logits = 300 * model(images).detach()
        exact = (logits.softmax(1) - F.one_hot(labels, 10)) * (2.0**-17 / 32)
        flushed = (exact != 0) & (round_to(exact, FP16) == 0)
        shares.append((flushed.sum() / (exact != 0).sum()).item())
        assert (exact == 0).any()
    assert result.flushed[:, 0].tolist() == pytest.approx(shares, abs=0.01) and np.ptp(shares) > 0.02
    assert not result.moved.any()
    before, after = (sweep([Trial("pure-bf16")], steps=steps, lr=1e-4, count=True, **SMALL) for steps in (0, 1))
    moved = [a != b for pair in zip(before.weights, after.weights) for a, b in zip(*pair)]
    assert after.moved[0, 0] == pytest.approx(sum(m.sum().item() for m in moved) / sum(m.numel() for m in moved))
    assert 0.05 < after.moved[0, 0] < 0.95


def test_each_moment_has_its_own_format():
    for optimizer, options, role, make in (
        ("sgd", {"lr": 0.1, "momentum": 0.9}, "first_moment", lambda p: SGD(p, lr=0.1, momentum=0.9, moment=E5M2)),
        ("adam", {"lr": 3e-3}, "first_moment", lambda p: AdamW(p, lr=3e-3, first_moment=E5M2)),
        ("adam", {"lr": 3e-3}, "second_moment", lambda p: AdamW(p, lr=3e-3, second_moment=BF16)),
    ):
        trial = Trial(Recipe("a short moment", **{role: BF16 if role == "second_moment" else E5M2}))
        result = sweep([trial, Trial("fp32")], steps=12, optimizer=optimizer, **options, **SMALL)
        np.testing.assert_allclose(result.losses[:, 0], alone(trial, 12, make, **SMALL), atol=2e-6)
        assert np.abs(result.losses[:, 0] - result.losses[:, 1]).max() > 2e-5


def test_the_first_weights_can_be_made_larger():
    once, thrice = (sweep([Trial("fp32", seed=1)], steps=0, initial_gain=gain, **SMALL).weights for gain in (1.0, 3.0))
    assert all(torch.equal(3 * a, b) for pair in zip(once, thrice) for a, b in zip(*pair))


def test_overflow_is_infinite_or_saturates_as_told_both_ways():
    forward, backward = Trial(Recipe("forward", activations=E5M2)), Trial(Recipe("backward", activation_gradients=E5M2), scale=2.0**24)
    infinite, saturated = (sweep([forward, backward], steps=2, initial_gain=300.0, overflow=overflow, **SMALL) for overflow in ("ieee", "saturate"))
    assert np.isnan(infinite.losses[0, 0]) and np.isfinite(saturated.losses[0, 0])
    assert infinite.skipped[0, 1] and not saturated.skipped[0, 1]


@pytest.mark.parametrize("update", ["stochastic", "kahan", "master", "remainder"])
def test_every_way_of_storing_weights_sweeps(update):
    generator = torch.Generator().manual_seed(0)
    trials = [Trial("pure-bf16", seed=s) for s in range(2)]
    result = sweep(trials, steps=60, lr=1e-3, update=update, generator=generator, count=True, **SMALL)
    nearest = sweep(trials, steps=60, lr=1e-3, **SMALL)
    for weight, bias in result.weights:
        assert torch.equal(weight, round_to(weight, BF16)) and torch.equal(bias, round_to(bias, BF16))
    assert (result.losses[-1] < result.losses[0]).all() and not np.array_equal(result.losses, nearest.losses)
    assert result.accuracy.shape == (2,) and (result.accuracy > 0.2).all()


def test_accuracy_and_final_are_of_the_trained_network():
    result = sweep([Trial("fp32", seed=s) for s in range(2)], steps=200, lr=2e-3, widths=(64, 32, 10), batch=64)
    assert result.final.tolist() == pytest.approx(result.losses[-30:].mean(0).tolist())
    weight = [w[1] for w, _ in result.weights]
    bias = [b[1] for _, b in result.weights]
    data = digits.load()
    logits = F.relu(data.test_images @ weight[0].T + bias[0]) @ weight[1].T + bias[1]
    assert result.accuracy[1] == pytest.approx((logits.argmax(1) == data.test_labels).float().mean().item(), abs=0.006)
    assert (result.accuracy > 0.85).all()


def test_mistakes_are_told():
    with pytest.raises(RunError, match="at least one trial"):
        sweep([])
    with pytest.raises(RunError, match="no recipe 'fp12'.*fp32"):
        Trial("fp12")
    with pytest.raises(RunError, match="loss_weight=1e-50.*FP32 can hold"):
        Trial("fp16", loss_weight=1e-50)
    with pytest.raises(RunError, match="scale=0"):
        Trial("fp16", scale=0)
    with pytest.raises(RunError, match="optimizer='lion'"):
        sweep([Trial("fp32")], optimizer="lion", steps=1, **SMALL)


def test_formats_differ_only_where_recipes_do():
    """Rows of one format are rounded as one long row; the result is that of row by row."""
    trials = [Trial("fp16"), Trial("bf16"), Trial("fp16", seed=1)]
    mixed = sweep(trials, steps=8, **SMALL)
    same = sweep([trials[0], trials[2]], steps=8, **SMALL)
    assert np.array_equal(mixed.losses[:, [0, 2]], same.losses)
    assert RECIPES["fp16"].master == FP32


def test_a_recipe_with_dice_wants_them():
    with pytest.raises(RunError, match='bf16-sr takes its updates in another way.*update="stochastic"'):
        sweep([Trial("fp32"), Trial("bf16-sr")], steps=1, **SMALL)
    result = sweep([Trial("bf16-sr")], steps=2, update="stochastic", generator=torch.Generator().manual_seed(0), **SMALL)
    assert result.losses.shape == (2, 1)
