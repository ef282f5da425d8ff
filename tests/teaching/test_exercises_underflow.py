"""The references of notebook 03's exercises against torch: real FP16 casts, and a real AdamW on FP16 weights."""

import math

import pytest
import torch

from course.numerics import FP16
from course.teaching.exercises.underflow import FATE, MOMENT, STEP, fate, fp16, lost_norm
from course.training.counters import count_gradients


def test_fates_are_those_of_a_cast():
    for (g,) in FATE.cases:
        half = torch.tensor(g, dtype=torch.float64).half().double().abs().item()
        kind = "zero" if g == 0 else "flushed" if half == 0 else "overflow" if half == math.inf else "normal" if half >= 2**-14 else "subnormal"
        assert fate(g) == kind, g
        counted = count_gradients(torch.tensor([g], dtype=torch.float64), FP16)
        assert getattr(counted, "overflowed" if kind == "overflow" else kind) == 1


def outcome(g, eps):
    weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float16))
    weight.grad = torch.full((1,), g, dtype=torch.float16)
    torch.optim.AdamW([weight], lr=0.01, eps=eps, weight_decay=0.0).step()
    moved = weight.item()
    return "nan" if math.isnan(moved) else "inf" if math.isinf(moved) else "stays" if moved == 1 else "moves"


@pytest.mark.parametrize("eps", [1e-8, 1e-7])
def test_a_first_step_is_that_of_torch(eps):
    cases = [case for case in STEP.cases if case[1] == eps]
    assert len(cases) == 11 and len({STEP.reference(*case) for case in cases}) == {1e-8: 4, 1e-7: 2}[eps]
    for g, _, rounded in cases:
        half = fp16(g)
        assert outcome(half, eps) == STEP.reference(half, eps, rounded), (g, eps)


def test_a_second_moment_is_that_of_torch():
    for v, g, rounded in MOMENT.cases:
        square = torch.tensor([fp16(v)], dtype=torch.float16)
        square.mul_(0.999).addcmul_(*[torch.tensor([fp16(g)], dtype=torch.float16)] * 2, value=0.001)
        ours = MOMENT.reference(fp16(v), fp16(g), rounded)
        assert square.item() == ours or abs(square.item() - ours) <= 2 * FP16.ulp(ours), (v, g)  # torch rounds twice: after 0.999 v, and at the end


def test_a_part_of_the_norm():
    assert lost_norm([3.0 * 2**-28, 4.0 * 2**-28]) == 1 and lost_norm([2**-26, 1.0]) == pytest.approx(2**-26)
