"""The exercises of notebook 09 against the course's own scales, which are torchao's bit for bit, and answers that are right in another way."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course.numerics import E2M1, E4M3, E5M2
from course.numerics.scales import DelayedScale, mx, nvfp4, scale_for, scaled
from course.teaching.exercises import EXERCISES, examine
from course.teaching.exercises.fp8 import blocked_dot, compute_scale, delayed_scales, mx_block, nvfp4_scales, saturating

sizes = st.floats(2.0**-20, 2.0**20, width=32)


@settings(max_examples=150, deadline=None)
@given(st.lists(sizes | sizes.map(lambda x: -x), min_size=1, max_size=6), st.sampled_from([E4M3, E5M2]))
def test_the_scale_is_that_of_the_course(values, fmt):
    assert compute_scale(values, fmt, 1.0) == pytest.approx(scale_for(torch.tensor(values).abs().max(), fmt).item(), rel=1e-6)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.just(0.0) | sizes, max_size=12), st.sampled_from([E4M3, E5M2]), st.integers(1, 5))
def test_delayed_scaling_is_that_of_the_course(amaxes, fmt, length):
    delayed, used = DelayedScale(fmt, length), []
    for amax in amaxes:
        used.append(delayed.multiplier)
        delayed.update(amax)
    assert delayed_scales(amaxes, fmt, length) == pytest.approx(used, rel=1e-6)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.floats(-(2.0**127), 2.0**127, width=32), min_size=32, max_size=32), st.sampled_from([E4M3, E5M2, E2M1]))
def test_the_mx_block_is_that_of_the_course(values, fmt):
    found = mx(torch.tensor([values], dtype=torch.float32), fmt)
    exponent, elements = mx_block(values, fmt, saturating(fmt))
    assert 2.0**-exponent == found.multiplier[0, 0].item() and elements == found.values[0].tolist()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.floats(-8, 8, width=16), min_size=8, max_size=8), st.lists(st.floats(-8, 8, width=16), min_size=8, max_size=8))
def test_the_blocked_product_is_that_of_the_dequantised_numbers(a, b):
    a, b = (scaled(torch.tensor([x], dtype=torch.float32), E4M3, (1, 4), power_of_two=True) for x in (a, b))
    scales = [each.multiplier[0, ::4].tolist() for each in (a, b)]
    product = blocked_dot(a.values[0].tolist(), b.values[0].tolist(), *scales, 4)
    assert product == pytest.approx((a.dequantise().double() @ b.dequantise().double().T).item(), rel=1e-9, abs=1e-30)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.floats(0.5, 8, width=32), min_size=1, max_size=6))
def test_the_scales_of_nvfp4_are_those_of_the_course(amaxes):
    x = torch.tensor([[amax] + [0.0] * 15 for amax in amaxes])
    tensor_scale, blocks = nvfp4_scales(amaxes, saturating(E4M3))
    assert nvfp4(x).multiplier[:, 0].tolist() == pytest.approx([1 / tensor_scale / block for block in blocks], rel=1e-6)


def with_numpy(values, fmt, old):
    import numpy as np

    amax = np.abs(np.array(values)).max()
    return fmt.max / amax if amax > 0 and np.isfinite(amax) else old


def as_a_ring(amaxes, fmt, length):
    ring, place, scale, used = [0.0] * length, 0, 1.0, []
    for amax in amaxes:
        used.append(scale)
        ring[place], place = amax, (place + 1) % length
        scale = fmt.max / max(ring) if max(ring) else scale
    return used


@pytest.mark.parametrize(("exercise_id", "solve"), [
    ("09-1", with_numpy), ("09-4", as_a_ring), ("09-2", lambda v, fmt, r: list(mx_block(v, fmt, r))),
    ("09-5", lambda a, b, sa, sb, n: sum(x / sa[i // n] * (y / sb[i // n]) for i, (x, y) in enumerate(zip(a, b)))),
    ("09-3", lambda amaxes, rounded: (max(amaxes) / 2688, [rounded(a * 448 / max(amaxes)) for a in amaxes])),
])  # fmt: skip
def test_other_ways_are_right(exercise_id, solve):
    assert examine(EXERCISES[exercise_id], solve).status == "right"


@pytest.mark.parametrize(("exercise_id", "solve", "words"), [
    ("09-1", lambda values, fmt, old: max(map(abs, values)) / fmt.max, "this is what the result is multiplied with afterwards"),
    ("09-1", lambda values, fmt, old: fmt.max / max(map(abs, values)), "ZeroDivisionError"),
    ("09-1", lambda values, fmt, old: 448 / max(map(abs, values)) if 0 < max(map(abs, values)) < math.inf else old, "448 is the end of E4M3"),
    ("09-1", lambda values, fmt, old: fmt.max / amax if (amax := max(map(abs, values))) > 0 else old, "one of Inf is not"),
    ("09-1", lambda values, fmt, old: fmt.max / amax if 0 < (amax := max(map(abs, values))) < math.inf else old, "a NaN hides here"),
    ("09-4", lambda amaxes, fmt, length: delayed_scales(amaxes, fmt, length)[1:], "for 3 steps"),
    ("09-4", lambda amaxes, fmt, length: delayed_scales(amaxes, fmt, 10**6), "one spike holds the scale down"),
    ("09-2", lambda v, fmt, r: mx_block(v, fmt, r)[0], "return both"),
    ("09-2", lambda v, fmt, r: mx_block(v, fmt, lambda x: x), "put each through rounded"),
    ("09-2", lambda v, fmt, r: mx_block(v, fmt, lambda x: -r(x)), "not one of the usual"),
    ("09-2", lambda v, fmt, r: (math.ldexp(1.0, mx_block(v, fmt, r)[0]), mx_block(v, fmt, r)[1]), "the scale itself"),
    ("09-5", lambda a, b, sa, sb, n: sum(x * y for x, y in zip(a, b)) / sa[0] / sb[0], "the scales of the first block"),
    ("09-3", lambda amaxes, rounded: nvfp4_scales(amaxes, rounded)[1], "return both"),
    ("09-3", lambda amaxes, rounded: nvfp4_scales(amaxes, lambda x: x), "has to go through rounded"),
])  # fmt: skip
def test_natural_variants_of_a_mistake_are_recognised(exercise_id, solve, words):
    verdict = examine(EXERCISES[exercise_id], solve)
    assert verdict.status in ("wrong", "crashed") and words in verdict.message
