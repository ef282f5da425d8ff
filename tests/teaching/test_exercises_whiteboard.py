"""Exercises of notebook 14: their references against torch, the package and FP16 itself, and natural variants of the mistakes they name."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course.numerics import BF16, FP16, round_to
from course.teaching.exercises import EXERCISES, examine
from course.teaching.exercises.whiteboard import largest_batch, recipe, scaler_step, training_gigabytes
from course.training import chips
from course.training.storage import bytes_per_parameter


@pytest.mark.parametrize("gradients", [[[1.0], [2.0, 4.0]], [[math.inf], [2.0]], [[math.nan, 1.0], [8.0]], [[-math.inf], [math.nan]]])
@pytest.mark.parametrize("interval", [1, 3])
def test_the_scaler_is_torch_s(gradients, interval):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=interval)
    scaler.scale(torch.ones(1))
    weights = [torch.nn.Parameter(torch.zeros(len(of_one))) for of_one in gradients]
    optimizers = [torch.optim.SGD([w], lr=1.0) for w in weights]  # kept: torch knows an optimizer by its id()
    for w, optimizer, of_one in zip(weights, optimizers, gradients):
        w.grad = torch.tensor(of_one)
        scaler.step(optimizer)
    scaler.update()
    scale, good, updates = scaler_step(1024.0, 0, gradients, interval)
    assert (scale, good) == (scaler.get_scale(), scaler._get_growth_tracker())
    assert [w.tolist() for w in weights] == [[0.0] * len(of_one) if update is None else [-g for g in update] for of_one, update in zip(gradients, updates)]


@settings(deadline=None)
@given(st.floats(0.01, 2000), st.sampled_from([1.0, 2.0, 16.0]))
def test_the_batch_is_the_largest_that_fits(gradient, scale):
    n, term = largest_batch(gradient, scale), torch.tensor(gradient * scale, dtype=torch.float64)
    assert round_to(n * term, FP16).isfinite() and (round_to((n + 1) * term, FP16).isinf() or math.isclose((n + 1) * term, 65520, rel_tol=1e-12))


def test_gigabytes_are_the_ledger_s():
    trained = sum(bytes_per_parameter(weights=BF16, update="master").values())
    assert training_gigabytes(7, 16, 64, 0.02) == pytest.approx(7 * (2 + 0.02 * trained)) and training_gigabytes(1, 4, 64, 0.0) == (4 + 0.25) / 8


def test_recipes_are_those_of_the_chips():
    for chip in chips.load().values():
        assert recipe(chip.device.native, chip.memory, 1.0)[:2] == (chip.recipe, chip.recipe == "fp16"), chip.name


@pytest.mark.parametrize(("exercise_id", "solve", "words"), [
    ("14-1", lambda s, n, gs, k: (lambda bad: (s / 2 if bad else min(s * 2, 2.0**127) if n + 1 == k else s, 0 if bad or n + 1 == k else n + 1, [None if not all(math.isfinite(x) for x in g) else [x / s for x in g] for g in gs]))(any(not math.isfinite(x) for g in gs for x in g)), "cases agree"),
    ("14-1", lambda s, n, gs, k: (lambda bad: (s / 2 if bad else min(s * 2, 2.0**127) if n + 1 == k else s, 0 if bad or n + 1 == k else n + 1, [None if bad else [x / s for x in g] for g in gs]))(any(not math.isfinite(x) for g in gs for x in g)), "takes its step"),
    ("14-2", lambda b, bits, group, a: b * ((bits + (16 / group) * (bits != 16)) / 8 + 16 * a), "cases agree"),
    ("14-2", lambda b, bits, group, a: b * (bits / 8 + 16 * a), "each group of short weights has a scale"),
    ("14-3", lambda g, s: next(n for n in range(1 << 20) if (n + 1) * (g * s) >= 65520), "cases agree"),
    ("14-3", lambda g, s: int(65504 // (g * s)), "still rounded down"),
    ("14-4", lambda native, gb, b: ("bf16" if "bf16" in native else "fp16" if "fp16" in native else "fp32", "fp16" in native and "bf16" not in native, "masters" if 16 * b <= gb * 0.8 else "8-bit moments" if 10 * b <= gb * 0.8 else "adapters"), "cases agree"),
    ("14-4", lambda native, gb, b: ("fp16" if "fp16" in native else "fp32", "fp16" in native, "masters" if 16 * b <= gb * 0.8 else "8-bit moments" if 10 * b <= gb * 0.8 else "adapters"), "BF16 is the safe choice"),
])  # fmt: skip
def test_natural_variants_are_judged_rightly(exercise_id, solve, words):
    assert words in examine(EXERCISES[exercise_id], solve).message
