"""Counters against the rounding itself: every FP16 code, every midpoint, and the numbers next to both."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from course.numerics import BF16, E4M3, E4M3FNUZ, E5M2, E5M2FNUZ, E8M0, FORMATS, FP16, FP32, FP64, FloatFormat, round_to
from course.training.counters import GradientCount, GradientWatch, UpdateCount, borders, count_gradients, count_updates
from course.training.models import GPT, GPTConfig

COUNTED = [fmt for fmt in FORMATS.values() if fmt.specials != "exponent-only" and fmt is not FP64]


def by_rounding(x, fmt):
    """The same count from the rounded tensor; a format that cannot overflow is given a neighbour that can."""
    rounded = round_to(x, fmt).abs()
    beyond = ~rounded.isfinite() | x.isnan()
    if fmt.specials == "finite":  # the same numbers and one binade more: what lands there is beyond
        wider = FloatFormat("wider", fmt.exponent_bits + 1, fmt.mantissa_bits, fmt.bias, "finite")
        beyond |= round_to(x, wider).abs() > fmt.max
    zero, flushed = x == 0, (x != 0) & (rounded == 0)
    normal = ~beyond & (rounded >= fmt.min_normal)
    kinds = zero, flushed, ~(zero | flushed | normal | beyond), normal, beyond
    return GradientCount(x.numel(), *(int(kind.sum()) for kind in kinds))


def around(values):
    """The finite values, their midpoints, and the FP64 numbers next to each, with both signs."""
    values = np.unique(np.asarray([v for v in values if math.isfinite(v) and v >= 0]))
    values = np.concatenate([values, (values[1:] + values[:-1]) / 2, [values[-1] + (values[-1] - values[-2]) / 2]])
    values = np.concatenate([values, np.nextafter(values, 0), np.nextafter(values, np.inf), [np.inf, np.nan, 2 * values.max()]])
    return torch.from_numpy(np.concatenate([values, -values]))


def test_every_code_of_fp16_and_every_midpoint():
    x = around([FP16.decode(code) for code in range(1 << 15)])
    assert x.numel() > 380_000  # 31 744 magnitudes, as many midpoints, and both neighbours of each
    for one in (x[i::7] for i in range(7)):  # seven samples: a fault in one kind cannot hide behind one in another
        assert count_gradients(one, FP16) == by_rounding(one, FP16)


@pytest.mark.parametrize("fmt", COUNTED, ids=lambda fmt: fmt.name)
def test_each_number_near_a_border_falls_on_the_right_side(fmt):
    edges = borders(fmt)
    for border in (edges.flush, edges.normal, edges.overflow, fmt.min_normal, fmt.max):
        for x in (math.nextafter(border, 0), border, math.nextafter(border, math.inf)):
            one = torch.tensor([x], dtype=torch.float64)
            assert count_gradients(one, fmt) == by_rounding(one, fmt), x


@pytest.mark.parametrize("fmt", [E4M3, E5M2, E4M3FNUZ, E5M2FNUZ, FORMATS["E3M2"], FORMATS["E2M1"]], ids=lambda fmt: fmt.name)
def test_every_code_of_the_short_formats(fmt):
    x = around([fmt.decode(code) for code in range(1 << (fmt.bits - 1))])
    for number in x.tolist():
        one = torch.tensor([number], dtype=torch.float64)
        assert count_gradients(one, fmt) == by_rounding(one, fmt), number


def test_a_format_without_mantissa_bits_has_no_subnormals():
    powers = FloatFormat("E4M0", 4, 0)
    x = torch.tensor([powers.min_normal / 2, math.nextafter(powers.min_normal / 2, 1), powers.min_normal], dtype=torch.float64)
    assert count_gradients(x, powers) == GradientCount(3, 0, 1, 0, 2, 0)


def test_the_borders_people_get_wrong():
    assert borders(FP16).flush == 2.0**-25 and borders(FP16).overflow == 65520
    assert borders(BF16).flush == 2.0**-134
    assert borders(E4M3).overflow == math.nextafter(464, math.inf) and borders(E5M2).overflow == 61440
    assert borders(FP64).overflow == math.inf and borders(FP64).flush == 0
    with pytest.raises(ValueError, match="E8M0 has no zero"):
        borders(E8M0)


def test_scaling_moves_numbers_and_not_borders():
    x = torch.from_numpy(np.random.default_rng(0).standard_normal(2000)).float() * 2.0**-20
    for power in (-10, 0, 1, 13, 40):
        scaled = (x.double() * 2.0**power).float()
        assert count_gradients(x, FP16, 2.0**power) == count_gradients(scaled, FP16)
    assert count_gradients(torch.tensor([2.0**-149]), FP16, 2.0**124).flushed == 1
    assert count_gradients(torch.tensor([2.0**-149]), FP16, 2.0**125).subnormal == 1
    assert count_gradients(torch.tensor([2.0**100]), FP32, 2.0**30).overflowed == 1


def test_counts_add_up_and_share():
    parts = [count_gradients(torch.tensor(values), FP16) for values in ([0.0, 1e-9], [1.0, 1e-6, float("nan")], [])]
    whole = sum(parts)
    assert whole == GradientCount(5, 1, 1, 1, 1, 1) and whole.share("flushed") == 0.25
    assert sum([UpdateCount(3, 2, 1, 1), UpdateCount(1, 1, 0, 1)]) == UpdateCount(4, 3, 1, 2)
    assert parts[2].share("normal") == 0


def test_updates():
    before = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0])
    update = torch.tensor([2**-9, 2**-8, -(2**-8), 0.0, 1e-30])
    after = round_to(before + update, BF16)
    assert count_updates(before, after, update) == UpdateCount(total=5, wanted=4, moved=2, lost=2)
    assert count_updates(before, before + 1, torch.zeros(5)) == UpdateCount(5, 0, 5, 0)


# ---- the watch


def test_a_watch_sees_the_gradients_that_autograd_gives():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    x = torch.linspace(-1, 1, 20).reshape(5, 4)
    with GradientWatch(model) as watch:
        model(x).square().sum().backward()
    first = model[0](x)
    first.retain_grad()
    last = model[2](model[1](first))
    last.retain_grad()
    last.square().sum().backward()
    assert torch.equal(watch.activations["0"], first.grad.flatten()) and torch.equal(watch.activations["2"], last.grad.flatten())
    assert list(watch.activations) == ["0", "2"]
    for name, parameter in model.named_parameters():
        assert torch.equal(2 * watch.weights[name], parameter.grad.flatten()), name  # two passes have been added up in .grad


def test_a_watch_keeps_the_latest_pass_and_leaves_no_hooks():
    model = nn.Sequential(nn.Linear(4, 3))
    watch = GradientWatch(model)
    for size in (2, 7):
        model(torch.ones(size, 4)).sum().backward()
    assert watch.activations["0"].numel() == 21
    watch.remove()
    model(torch.ones(1, 4)).sum().backward()
    assert watch.activations["0"].numel() == 21 and watch.weights["0.weight"].numel() == 12


def test_a_layer_used_twice_and_a_layer_without_a_gradient():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared, self.idle = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            self.idle(x)
            return self.shared(self.shared(x))

    model = Twice()
    with GradientWatch(model) as watch:
        model(torch.ones(2, 3)).sum().backward()
    assert watch.gradients().keys() == {"shared"} and watch.activations["shared"].numel() == 12
    assert watch.weights.keys() == {"shared.weight", "shared.bias"}
    with pytest.raises(ValueError, match="choose 'activations' or 'weights'"):
        watch.gradients("grads")


def test_a_watch_hears_layers_with_several_results_and_passes_over_frozen_weights():
    model = nn.Sequential(nn.LSTM(2, 3))
    model[0].bias_ih_l0.requires_grad_(False)
    with GradientWatch(model) as watch:
        model(torch.ones(4, 1, 2))[0].sum().backward()
    assert watch.activations["0"].numel() >= 12 and "0.bias_ih_l0" not in watch.weights and "0.weight_ih_l0" in watch.weights


def test_the_scaled_gradient_is_not_rounded_before_it_is_counted():
    assert count_gradients(torch.tensor([3e38]), FP32, 2.0**16) == GradientCount(1, 0, 0, 0, 0, 1)
    x = torch.tensor([2.0**-149])
    assert count_gradients(x, BF16, 0.75) == count_gradients(x.double() * 0.75, BF16) and count_gradients(x, FP32, 0.75).subnormal == 1
    assert count_gradients(torch.tensor([1 + 2**-7], dtype=torch.bfloat16), FloatFormat("short", 8, 2), 2.0**-126 * (1 - 2**-7)).normal == 1


def test_a_watch_on_a_gpt_counts_every_layer():
    model = GPT(GPTConfig(width=32, layers=2, context=8), seed=0)
    ids = torch.arange(16).reshape(2, 8)
    with GradientWatch(model) as watch:
        model(ids).logsumexp(-1).mean().backward()
    names = [name for name, _ in itertools.groupby(watch.counts(FP16))]
    assert names[0] == "tokens" and names[-1] == "head" and "blocks.1.attention.qkv" in names and len(names) == 15
    assert watch.counts(FP16)["head"].total == 2 * 8 * 128
    assert sum(count.total for count in watch.counts(FP16, kind="weights").values()) == sum(p.numel() for p in model.parameters())
    big, small = (sum(watch.counts(FP16, scale).values()) for scale in (1.0, 2.0**-20))
    assert big.flushed < small.flushed and big.total == small.total
