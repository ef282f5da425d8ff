"""The exercises of notebook 04 against torch.amp.GradScaler, and answers that are right in another way."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course.teaching.exercises import EXERCISES, examine
from course.teaching.exercises.scaling import calls, clipped_step, fp16, largest_scale, next_scale, train

gradients = st.lists(st.sampled_from([0.25, -1.5, 2.0**-30, 16.0, 3e4, math.nan, math.inf, 0.1]), max_size=12)


@settings(max_examples=200, deadline=None)
@given(gradients, st.integers(-2, 24), st.integers(1, 4))
def test_the_scaler_that_the_reader_writes_is_torchs(tape, exponent, interval):
    w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer, scaler = torch.optim.SGD([w], lr=1.0), torch.amp.GradScaler("cpu", init_scale=2.0**exponent, growth_interval=interval)
    scaler.scale(torch.ones(()))
    trace = []
    for gradient in tape:
        w.grad = torch.tensor([gradient * scaler.get_scale()], dtype=torch.float64).half().double()
        scaler.step(optimizer)
        scaler.update()
        trace.append((scaler.get_scale(), w.item()))
    assert train(tape, 2.0**exponent, interval, fp16) == trace


@given(st.integers(0, 5), st.booleans(), st.integers(1, 5), st.integers(-100, 100))
def test_the_rule_is_torchs(good, bad, interval, exponent):
    scale, count = torch.tensor(2.0**exponent), torch.tensor(good, dtype=torch.int32)
    torch._amp_update_scale_(scale, count, torch.tensor(float(bad)), 2.0, 0.5, interval)
    assert next_scale(2.0**exponent, good, bad, interval) == (scale.item(), count.item())


@given(st.floats(2.0**-40, 1e6))
def test_the_largest_scale_fits_and_the_next_power_does_not(amax):
    scale = largest_scale(amax)
    assert math.isfinite(fp16(scale * amax)) and math.isinf(fp16(2 * scale * amax)) and math.frexp(scale)[0] == 0.5


@given(st.lists(st.floats(-1e4, 1e4, width=16), min_size=1, max_size=4), st.sampled_from([0.5, 1.0, 8.0]))
def test_the_step_is_torchs(scaled, max_norm):
    w = torch.nn.Parameter(torch.zeros(len(scaled), dtype=torch.float64))
    optimizer, scaler = torch.optim.SGD([w], lr=0.25), torch.amp.GradScaler("cpu", init_scale=64.0)
    scaler.scale(torch.ones(()))
    w.grad = torch.tensor(scaled, dtype=torch.float64)
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_([w], max_norm)
    scaler.step(optimizer)
    mine = clipped_step([0.0] * len(scaled), scaled, 64.0, 0.25, max_norm)
    assert mine == pytest.approx(w.tolist(), rel=1e-5, abs=1e-12)  # torch adds 1e-6 to the norm


def in_turns(micro_batches, optimizers, skipped):
    """All optimizers unscaled, then all clipped, then all stepped: what many training loops do."""
    order = [f"{verb} {name}" for verb in ("unscale", "clip", "step") for name in optimizers]
    return ["backward"] * micro_batches + order + calls(0, [], skipped)


def as_torch_clips(weights, gradients, scale, lr, max_norm):
    gradients = torch.tensor(gradients) / scale
    norm = gradients.norm()
    if not norm.isfinite():
        return weights
    return (torch.tensor(weights) - lr * gradients * (max_norm / (norm + 1e-6)).clamp(max=1.0)).tolist()


def test_a_step_in_fp32_with_torchs_1e_6_is_right():
    assert examine(EXERCISES["04-4"], as_torch_clips).status == "right"


def schedules_before_update(micro_batches, optimizers, skipped):
    order = calls(micro_batches, optimizers, skipped)
    return order if skipped else [*order[:-2], "schedule", "update"]


@pytest.mark.parametrize("solve", [in_turns, schedules_before_update, lambda *case: tuple(calls(*case))])
def test_orders_that_do_the_same_are_right(solve):
    assert examine(EXERCISES["04-5"], solve).status == "right"


@pytest.mark.parametrize("solve", [
    lambda n, names, skipped: calls(n, names, skipped)[:-1], lambda n, names, skipped: calls(n, names, skipped)[::-1],
    lambda n, names, skipped: [*calls(n, names, skipped), "update"], lambda n, names, skipped: [c for c in calls(n, names, skipped) if c != "backward"],
    lambda n, names, skipped: calls(n, names, skipped) if skipped else [*calls(n, names, skipped)[:-3], "schedule", *calls(n, names, skipped)[-3:-1]],
    lambda n, names, skipped: calls(n, names[:1], skipped) if len(names) > 1 else calls(n, names, skipped),
])  # fmt: skip
def test_orders_that_do_not_are_wrong(solve):
    assert examine(EXERCISES["04-5"], solve).status == "wrong"


@pytest.mark.parametrize(("exercise_id", "solve", "words"), [
    ("04-1", lambda amax: 2.0 ** math.ceil(math.log2(65504 / amax)), "rounded up"),
    ("04-1", lambda amax: 65536.0, "not one of the usual"),
    ("04-1", lambda amax: 2.0 ** (15 - math.ceil(math.log2(amax))), "half of what is asked"),
    ("04-1", lambda amax: 2 ** int(math.log2(65504 / amax)), "int() cuts toward zero"),
    ("04-3", lambda g, s, n, f: [pair for pair, x in zip(train(g, s, n, f), g) if abs(x) < 16], "also after a skipped one"),
    ("04-3", lambda g, s, n, f: [pair[::-1] for pair in train(g, s, n, f)], "the pairs are turned"),
    ("04-2", lambda scale, good, bad, n: (scale / 2, good) if bad else ((scale * 2, 0) if good + 1 >= n else (scale, good + 1)), "good steps have to be in a row"),
    ("04-2", lambda scale, good, bad, n: scale / 2 if bad else scale, "return both"),
    ("04-4", lambda w, g, s, lr, m: [a - lr / s * b for a, b in zip(w, g)] if all(map(math.isfinite, g)) else w, "max_norm has no effect"),
    ("04-3", lambda g, s, n, f: [(s, w) for s, w in train(g, s, n, lambda x: x)], "the scaled gradient has to go through fp16"),
])  # fmt: skip
def test_natural_variants_of_a_mistake_are_recognised(exercise_id, solve, words):
    verdict = examine(EXERCISES[exercise_id], solve)
    assert verdict.status == "wrong" and words in verdict.message
