"""Exercises of notebook 12: their references against the package and FP16 itself, and natural variants of the mistakes that they name."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course.numerics import BF16, FP16
from course.teaching.exercises import EXERCISES, examine
from course.teaching.exercises.ranges import bf16
from course.teaching.exercises.sharded import held_bytes, largest_scale, ring_sum, send_top, sent_bytes
from course.training.comms import Formats, held, sent
from course.training.reduction import ErrorFeedback, all_reduce, top_k

STAGES = ("DDP", "ZeRO-1", "ZeRO-2", "ZeRO-3")


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("processes", [1, 3, 64])
def test_bytes_are_the_ledgers(stage, processes):
    formats = Formats()
    assert held_bytes(stage, processes, 2, 2, 12) == pytest.approx(float(sum(held(STAGES[stage], processes, formats).values())))
    for micro in (1, 5):
        assert sent_bytes(stage, processes, 2, 2, micro) == pytest.approx(float(sum(sent(STAGES[stage], processes, formats, micro).values())))


def test_the_ring_is_the_package_s():
    rows = torch.from_numpy(np.float32(np.random.default_rng(0).normal(size=(6, 6))))
    columns = all_reduce(rows, BF16, "ring").tolist()
    assert columns == [ring_sum(rows[:, i].tolist(), i, bf16) for i in range(6)]


def test_error_feedback_is_the_package_s():
    draw, feedback, memory = np.random.default_rng(0), ErrorFeedback(top_k(0.25)), [0.0] * 8
    for _ in range(10):
        gradient = [float(x) for x in np.float32(draw.normal(size=8))]
        sent_now, memory = send_top(gradient, memory, 2)
        assert feedback(torch.tensor(gradient)).values.tolist() == pytest.approx(sent_now, abs=1e-6)


@given(st.floats(1e-4, 6e4), st.sampled_from([1, 2, 7, 64, 1000]), st.booleans())
def test_the_scale_is_the_largest_that_fits(largest, processes, divide_first):
    scale = largest_scale(largest, processes, divide_first)
    for factor, fits in ((1, True), (2, False)):
        total = factor * scale * largest * (1 if divide_first else processes)
        assert (total <= FP16.max) is fits


@pytest.mark.parametrize(("exercise_id", "solve", "words"), [
    ("12-1", lambda s, n, w, g, o: w / n ** (s > 2) + g / n ** (s > 1) + o / n ** (s > 0), "cases agree"),
    ("12-1", lambda s, n, w, g, o: w + g + o if s == 0 else w + (g + o) / n, "And: in stage 3 the weights are shared too"),
    ("12-2", lambda s, n, w, g, m: (n - 1) / n * (2 * g, g + w, m * g + w, m * (g + 2 * w))[s], "cases agree"),
    ("12-2", lambda s, n, w, g, m: (n - 1) / n * (2 * g, g + w, m * g + w, m * (g + w))[s], "gathers the weights twice"),
    ("12-2", lambda s, n, w, g, m: (2 * g, g + w, m * g + w, m * (g + 2 * w))[s], "n − 1 of n pieces"),
    ("12-3", lambda parts, first, r: __import__("functools").reduce(lambda a, b: r(a + r(b)), parts[first + 1:] + parts[:first], r(parts[first])), "cases agree"),
    ("12-3", lambda parts, first, r: r(sum(parts)), "that is a wide accumulator"),
    ("12-3", lambda parts, first, r: __import__("functools").reduce(lambda a, b: r(a + r(b)), parts[first:] + parts[:first], 0.0), "cases agree"),
    ("12-4", lambda g, m, k: (lambda w: (lambda top: ([x * (i in top) for i, x in enumerate(w)], [x * (i not in top) for i, x in enumerate(w)]))(np.argsort([-abs(x) for x in w])[:k]))([a + b for a, b in zip(g, m)]), "cases agree"),
    ("12-4", lambda g, m, k: (lambda s: (s, [a - b for a, b in zip(g, s)]))(send_top(g, [0.0] * len(g), k)[0]), "plays no part"),
    ("12-5", lambda g, n, first: 2.0 ** int(math.log2(65504 / (g if first else n * g)) // 1), "cases agree"),
    ("12-5", lambda g, n, first: 2.0 ** math.floor(math.log2(65504 / g)), "the sum of all of them does not"),
])  # fmt: skip
def test_natural_variants_are_judged_rightly(exercise_id, solve, words):
    assert words in examine(EXERCISES[exercise_id], solve).message
