"""The exercises of notebook 11 against the course's own grids and torch, and answers that are right in another way."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course.numerics.integers import integers
from course.teaching.exercises import EXERCISES, examine
from course.teaching.exercises.quantised import asymmetric, integer_product, smooth, symmetric, toward, train_on_grid
from course.training.quantised import Grid, smooth_factors, straight_through

# Quarters up to 16: quotients that are not ties in FP32 are none in FP64 either.
rows = st.lists(st.integers(-64, 64).map(lambda n: n / 4), min_size=1, max_size=8)


def apart_from_ties(values, scale):
    return all(abs((v / scale) % 1 - 0.5) > 1e-4 for v in values)


@settings(max_examples=150, deadline=None)
@given(rows, st.integers(2, 8))
def test_the_symmetric_grid_is_that_of_the_course(values, bits):
    scale, codes = symmetric(values, bits)
    found = integers(torch.tensor([values]), bits, "row")
    assert found.scale[0, 0].item() == pytest.approx(scale, rel=1e-6)
    assert found.codes[0].tolist() == codes or not apart_from_ties(values, scale)


@settings(max_examples=150, deadline=None)
@given(rows, st.integers(2, 8))
def test_the_asymmetric_grid_is_that_of_the_course(values, bits):
    scale, zero, codes = asymmetric(values, bits)
    found = integers(torch.tensor([values]), bits, "row", symmetric=False)
    assert found.scale[0, 0].item() == pytest.approx(scale, rel=1e-6)
    if apart_from_ties([*values, min(0.0, *values)], scale):
        assert found.codes[0].tolist() == codes and found.zero[0, 0] == zero


@pytest.mark.parametrize("strength", [0.0, 0.3, 0.5, 1.0])
def test_the_factors_are_those_of_the_course(strength):
    activations, weights = torch.linspace(-9, 7, 12).view(3, 4).tolist(), torch.linspace(2, -3, 8).view(2, 4).tolist()
    amax = [torch.tensor(each).abs().amax(0) for each in (activations, weights)]
    assert smooth(activations, weights, strength) == pytest.approx(smooth_factors(*amax, strength).tolist(), rel=1e-6)


def test_the_integer_product_is_that_of_the_numbers():
    x = torch.linspace(-1, 3, 12).view(1, -1)
    w = torch.linspace(2, -1, 12).view(1, -1)
    a, b = integers(x, 8, None, symmetric=False), integers(w, 8)
    total, value = integer_product(a.codes[0].tolist(), a.zero[0, 0].item(), a.scale[0, 0].item(), b.codes[0].tolist(), b.scale[0, 0].item())
    assert value == pytest.approx((a.dequantise() @ b.dequantise().T).item(), rel=1e-5) and isinstance(total, int)


def test_training_on_the_grid_is_that_of_torch():
    weight, used = torch.tensor([[0.9, 1.5]], dtype=torch.float32, requires_grad=True), []  # 1.5 keeps the scale of two bits at 1.5
    for _ in range(8):
        on_grid = straight_through(weight, Grid(2, "tensor"))
        used.append(on_grid[0, 0].item())
        weight.grad = None
        ((on_grid[0, 0] - 0.2) ** 2 / 2).backward()
        weight.data -= 0.25 * weight.grad
    assert train_on_grid(0.9, toward(0.2), 0.25, 1.5, 8) == pytest.approx(used, rel=1e-5) and len(set(used)) == 2


def with_an_index(weight, gradient, lr, scale, steps):
    weights = [weight] + [0.0] * steps
    for i in range(steps):
        weights[i + 1] = weights[i] - lr * gradient(round(weights[i] / scale) * scale)
    return [round(w / scale) * scale for w in weights[:steps]]


@pytest.mark.parametrize(("exercise_id", "solve"), [
    ("11-1", lambda v, bits: [max(map(abs, v)) / (2 ** (bits - 1) - 1) or 1.0, list(symmetric(v, bits)[1])]),
    ("11-2", lambda v, bits: list(asymmetric(v, bits))),
    ("11-3", lambda a, w, s: [1.0 if not (x and y) else (x / y) ** s * y ** (2 * s - 1) for x, y in ((max(map(abs, c)), max(map(abs, d))) for c, d in zip(zip(*a), zip(*w)))]),
    ("11-4", lambda a, zero, x, b, y: (t := sum((i - zero) * j for i, j in zip(a, b)), x * (t * y))),
    ("11-5", with_an_index),
])  # fmt: skip
def test_other_ways_are_right(exercise_id, solve):
    assert examine(EXERCISES[exercise_id], solve).status == "right"


@pytest.mark.parametrize(("exercise_id", "solve", "words"), [
    ("11-1", lambda v, bits: symmetric(v, bits)[0], "return both"),
    ("11-1", lambda v, bits: (max(map(abs, v)) / (2 ** (bits - 1) - 1), [round(x / (max(map(abs, v)) / (2 ** (bits - 1) - 1))) for x in v]), "ZeroDivisionError"),
    ("11-1", lambda v, bits: (symmetric(v, bits)[0], [x + 1 for x in symmetric(v, bits)[1]]), "not one of the usual"),
    ("11-2", lambda v, bits: asymmetric(v, bits)[:2], "return three"),
    ("11-2", lambda v, bits: (asymmetric(v, bits)[0], asymmetric(v, bits)[1], [x - 2 ** (bits - 1) for x in asymmetric(v, bits)[2]]), "not one of the usual"),
    ("11-2", lambda v, bits: asymmetric(v, bits)[0], "return three"),
    ("11-4", lambda a, zero, x, b, y: integer_product(a, zero, x, b, y)[1], "return both"),
    ("11-5", lambda w, gradient, lr, scale, steps: train_on_grid(w, gradient, lr, scale, steps)[:-1], "values for"),
])  # fmt: skip
def test_natural_variants_of_a_mistake_are_recognised(exercise_id, solve, words):
    verdict = examine(EXERCISES[exercise_id], solve)
    assert verdict.status in ("wrong", "crashed") and words in verdict.message
