"""Exercises of notebook 10: their references against the formats themselves, and natural variants of the mistakes that they name."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from course.numerics import BF16, FP16, FloatFormat
from course.teaching.exercises import EXERCISES, examine
from course.teaching.exercises.ranges import adam_filter, best_split, bf16, bias_and_spread, bits_needed, refine


@given(st.integers(4, 20), st.floats(1e-6, 1.0), st.floats(1.0, 1e6))
def test_a_split_holds_both_numbers_and_the_next_does_not(bits, smallest, largest):
    found = best_split(bits, smallest, largest)
    fits = [e for e in range(2, min(8, bits - 1) + 1) if _holds(FloatFormat("own", e, bits - 1 - e), smallest, largest)]
    assert found == ((fits[0], bits - 1 - fits[0]) if fits else None)


def _holds(fmt, smallest, largest):
    return (fmt.min_subnormal or fmt.min_normal) <= smallest and largest <= fmt.max


def test_known_formats_are_splits():
    assert best_split(16, FP16.min_subnormal, FP16.max) == (5, 10) and best_split(16, 1e-38, BF16.max) == (8, 7)


@given(st.floats(0.01, 4.0), st.floats(1e-6, 0.1))
def test_the_swamping_border_is_where_a_format_moves(weight, update):
    needed = bits_needed(weight, update)
    for m in {needed, max(0, needed - 1)}:
        fmt = FloatFormat("own", 8, m)
        start = fmt.decode(fmt.encode(weight, "toward-zero"))
        # From an even number a tie stays: the octave's first number is even.
        first = 2.0 ** math.floor(math.log2(weight))
        assert (fmt.decode(fmt.encode(first + update)) != first) == (m >= needed)
        assert m < needed or fmt.decode(fmt.encode(start + update)) != start


def test_refinement_removes_the_error_step_by_step():
    errors = [abs(refine(3.0, 1.0, bf16, steps) * 3 - 1) for steps in (1, 2, 3, 4)]
    assert all(after < before / 100 for before, after in zip(errors, errors[1:]))


def test_the_filter_is_what_a_run_of_adam_shows():
    draws = np.random.default_rng(0).normal(0.3, 0.4, (1500, 500))
    m, v, beta2 = 0.0, 0.0, 0.999
    for g in draws:
        m, v = 0.9 * m + 0.1 * g, beta2 * v + (1 - beta2) * g**2
    left, step = adam_filter(0.3, 0.4, 0.9)
    assert m.std() == pytest.approx(left, rel=0.15)
    assert (m / np.sqrt(v / (1 - beta2**1500))).mean() == pytest.approx(step, rel=0.08)


def test_bias_and_spread_of_dice():
    assert bias_and_spread(1.125, [(1.0, 0.75), (1.5, 0.25)]) == (0.0, pytest.approx(0.5 * (0.75 * 0.25) ** 0.5))


def by_formula(weight, update):
    return max(0, math.floor(math.floor(math.log2(weight)) - math.log2(update)))


def by_list(bits, smallest, largest):
    every = [(e, bits - 1 - e) for e in range(2, min(8, bits - 1) + 1)]
    ends = {s: (2.0 ** (2 - 2 ** (s[0] - 1) - s[1]), 2.0 ** (2 ** (s[0] - 1)) - 2.0 ** (2 ** (s[0] - 1) - 1 - s[1])) for s in every}
    return next((s for s in every if ends[s][0] <= smallest and ends[s][1] >= largest), None)


def long_sum_short_factor(a, b, rounded, steps):
    x, residual, inverse = 0.0, b, rounded(1 / a)
    for _ in range(steps):
        x += rounded(inverse * residual)
        residual = b - a * x
    return x


def short_residual(a, b, rounded, steps):
    inverse, x = rounded(1 / a), 0.0
    for _ in range(steps):
        x += rounded(inverse * rounded(rounded(b) - rounded(a * x)))
    return x


@pytest.mark.parametrize(("exercise_id", "solve", "words"), [
    ("10-1", by_list, "cases agree"),
    ("10-1", lambda bits, smallest, largest: next(((e, bits - 1 - e) for e in range(2, min(8, bits - 1) + 1) if 2.0 ** (2 - 2 ** (e - 1)) <= smallest and largest <= 2.0 ** (2 ** (e - 1))), None), "the smallest normal number"),
    ("10-2", by_formula, "cases agree"),
    ("10-2", lambda w, u: max(0, math.ceil(math.log2(w / u))), "half a gap is enough"),
    ("10-2", lambda w, u: max(0, math.ceil(math.log2(w / u)) - 1), "two things"),
    ("10-3", lambda x, o: (sum(c * v for v, c in o) - x, sum(c * abs(v - x) for v, c in o)), "mean *distance* from x"),
    ("10-3", lambda x, o: (sum(c * (v - x) for v, c in o), (sum(c * v * v for v, c in o) - sum(c * v for v, c in o) ** 2 + 1e-30) ** 0.5), "cases agree"),
    ("10-4", long_sum_short_factor, "cases agree"),
    ("10-4", lambda a, b, rounded, steps: b / a, "nothing is short here"),
    ("10-4", short_residual, "the residual b − a·x are rounded"),
    ("10-5", lambda s, n, b: (n / math.sqrt((1 + b) / (1 - b)), s / math.hypot(s, n)), "cases agree"),
    ("10-5", lambda s, n, b: (n * math.sqrt((1 - b) / (1 + b)), s / n if n else 1.0), "not one of the usual mistakes"),
])  # fmt: skip
def test_natural_variants_are_judged_rightly(exercise_id, solve, words):
    assert words in examine(EXERCISES[exercise_id], solve).message
