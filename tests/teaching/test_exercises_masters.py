"""Exercises of notebook 06: their helpers, and natural variants of the mistakes that they name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course.numerics import BF16
from course.teaching.exercises import EXERCISES, examine
from course.teaching.exercises.masters import bf16, enclosing


@given(st.floats(-1000, 1000))
def test_enclosing_gives_neighbours_around_the_number(x):
    below, above = enclosing(x)
    assert below <= x < above and bf16(below) == below and BF16.neighbours(below)[1] == above


def two_steps_of_dice(w, change, enclosing, u):
    below, above = enclosing(w + change)
    return below if (w + change - below) / (above - below) <= u else above


def carry_of_notebook_02(w, carry, change, rounded):
    moved = rounded(w + (change - carry))
    return moved, rounded((moved - w) - (change - carry))


def reread(w, gradients, lr, rounded):
    for gradient in gradients:
        w = rounded(w - lr * gradient)
    return w, w


def by_sign_bit(bits):
    low = bits & 0xFFFF
    remainder = low - ((low & 0x8000) << 1)
    return (bits - remainder) >> 16, remainder


@pytest.mark.parametrize(("exercise_id", "solve", "words"), [
    ("06-5", lambda w, g, m, master: (w + g + m + m + master) / 8, "all 8 cases agree"),
    ("06-5", lambda w, g, m, master: 16 if w == 32 else 8 if w == 16 else 4, "as if everything shrank"),
    ("06-3", two_steps_of_dice, "cases agree"),
    ("06-3", lambda w, change, enclosing, u: max(enclosing(w + change)) if u > (w + change - enclosing(w + change)[0]) / (enclosing(w + change)[1] - enclosing(w + change)[0]) else enclosing(w + change)[0], "above and below are swapped"),
    ("06-4", lambda w, carry, change, rounded: (rounded(w + carry + change), rounded(carry + change - (rounded(w + carry + change) - w))), "cases agree"),
    ("06-1", reread, "the master is lost on each step"),
    ("06-1", lambda w, gradients, lr, rounded: (w - lr * sum(gradients), rounded(w - lr * sum(gradients))), "cases agree"),
    ("06-2", by_sign_bit, "cases agree"),
    ("06-2", lambda bits: (BF16.encode(0) + (bits >> 16), bits & 0xFFFF), "number toward zero"),
])  # fmt: skip
def test_natural_variants_are_judged_rightly(exercise_id, solve, words):
    assert words in examine(EXERCISES[exercise_id], solve).message


def test_the_carry_with_the_sign_of_notebook_02_is_recognised():
    assert "the carry of notebook 02" in examine(EXERCISES["06-4"], carry_of_notebook_02).message
