"""Science with every operation rounded: rows of FP32 and FP16 are numpy's own arithmetic in those types, bit for bit."""

import numpy as np
import pytest
import torch

from course.numerics import BF16, FP16, FP32, FP64
from course.numerics.solvers import (
    Arithmetic, conjugate_gradients, heat, hilbert, lorenz, lu, poisson, refine, substitute,
)  # fmt: skip

TYPES = {np.float64: FP64, np.float32: FP32, np.float16: FP16}  # numpy rounds + − × ÷ of all three correctly
EACH = pytest.mark.parametrize("dtype", TYPES, ids=lambda d: d.__name__)


def right_side(n, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=n))


def in_pairs(x):
    while len(x) > 1:
        x = np.append(x, x.dtype.type(0)) if len(x) % 2 else x
        x = x[::2] + x[1::2]
    return x[0]


@EACH
def test_sums_and_products(dtype):
    x, y = (np.random.default_rng(s).normal(size=13).astype(dtype) for s in (1, 2))
    a = Arithmetic([BF16, TYPES[dtype]])
    rows = [torch.from_numpy(v.astype(np.float64)).expand(2, -1) for v in (x, y)]
    assert a.dot(*rows)[1].item() == in_pairs(x * y)
    for name, expected in (("add", x + y), ("subtract", x - y), ("multiply", x * y), ("divide", x / y)):
        assert getattr(a, name)(*rows)[1].tolist() == expected.tolist(), name


@EACH
def test_heat(dtype):
    u = np.full(16, 300, dtype)
    u[0] += dtype(1)
    for _ in range(50):
        u = u + dtype(0.25) * ((np.roll(u, 1) - u) + (np.roll(u, -1) - u))
    found = heat([BF16, TYPES[dtype]], 50, points=16)
    assert found[1].tolist() == u.tolist()
    assert (found[0] == 300).all()  # the bump of 1 is below half an ulp of 300 in BF16: lost before the first step


@EACH
def test_lorenz(dtype):
    sigma, rho, beta, half, dt = np.array([10, 28, 8 / 3, 0.5, 0.01]).astype(dtype)

    def slope(s):
        x, y, z = s
        return np.array([sigma * (y - x), x * (rho - z) - y, x * y - beta * z], dtype)

    state = np.array([1, 1, 20], dtype)
    for _ in range(100):
        first = slope(state)
        state = state + dt * (half * (first + slope(state + dt * first)))
    assert lorenz([BF16, TYPES[dtype]], 100)[-1, 1].tolist() == state.tolist()


def eliminate(a, b):
    """Gaussian elimination with row exchanges on the matrix and the right side together."""
    a, b, n = a.copy(), b.copy(), len(b)
    for k in range(n):
        pivot = k + np.abs(a[k:, k]).argmax()
        a[[k, pivot]], b[[k, pivot]] = a[[pivot, k]], b[[pivot, k]]
        for i in range(k + 1, n):
            factor = a[i, k] / a[k, k]
            a[i, k + 1 :] = a[i, k + 1 :] - factor * a[k, k + 1 :]
            b[i] = b[i] - factor * b[k]
    for k in reversed(range(n)):
        b[k] = b[k] / a[k, k]
        b[:k] = b[:k] - a[:k, k] * b[k]
    return b


@EACH
@pytest.mark.parametrize("seed", range(3))
def test_elimination(dtype, seed):
    matrix, b = np.random.default_rng(seed).normal(size=(7, 7)).astype(dtype), right_side(7, seed).numpy().astype(dtype)
    formats = [BF16, TYPES[dtype]]
    factors, order = lu(torch.from_numpy(matrix.astype(np.float64)), formats)
    rows = torch.from_numpy(b.astype(np.float64)).expand(2, -1)
    assert substitute(factors, order, rows, formats)[1].tolist() == eliminate(matrix, b).tolist()
    lower, upper = torch.tril(factors[1], -1) + torch.eye(7, dtype=torch.float64), torch.triu(factors[1])
    assert (lower.abs() <= 1).all() and not torch.equal(order[1], torch.arange(7))
    shuffled = torch.from_numpy(matrix.astype(np.float64))[order[1]]
    assert torch.allclose(lower @ upper, shuffled, atol=20 * TYPES[dtype].eps)


@EACH
def test_conjugate_gradients(dtype):
    matrix, b = poisson(12).numpy().astype(dtype), right_side(12).numpy().astype(dtype)
    x, r = np.zeros(12, dtype), b
    p, square, residuals = r, in_pairs(r * r), []
    for _ in range(9):
        residuals.append(np.linalg.norm(right_side(12).numpy() - matrix.astype(float) @ x.astype(float)) / right_side(12).norm().item())
        along = np.array([in_pairs(row * p) for row in matrix])
        length = square / in_pairs(p * along)
        x, r = x + length * p, r - length * along
        before, square = square, in_pairs(r * r)
        p = r + (square / before) * p
    found = conjugate_gradients(poisson(12), right_side(12), [BF16, TYPES[dtype]], 8)
    assert found.shape == (9, 2) and found[:, 1].tolist() == pytest.approx(residuals, rel=1e-9)
    assert found[0].tolist() == [1.0, 1.0]


def test_a_residual_of_zero_is_no_end_in_nan():
    found = conjugate_gradients(poisson(8), torch.ones(8), [FP64], 30)
    assert found.isfinite().all() and found[-1] < 1e-14


@pytest.mark.parametrize("seed", range(5))
def test_where_the_contrast_shows(seed):
    best = conjugate_gradients(poisson(64), right_side(64, seed), [FP64, FP32, FP16, BF16], 128).nan_to_num(torch.inf).amin(0)
    assert best[0] < 1e-11 and 1e-7 < best[1] < 1e-3 and best[2] > 0.01 and best[3] > 0.05
    assert (best[1:] > best[:-1]).all()


@pytest.mark.parametrize("seed", range(5))
def test_refinement_reaches_what_fp64_can_from_16_bits_and_not_beyond_its_condition(seed):
    matrix, b = poisson(16), right_side(16, seed)
    truth = torch.linalg.solve(matrix, b)
    errors = (refine(matrix, b, [FP16, BF16], 15) - truth).norm(dim=2) / truth.norm()
    assert (errors[0] > 1e-4).all() and (errors[-1] < 1e-14).all() and errors[3, 0] < errors[3, 1]
    matrix = hilbert(8)  # condition 1.5e10
    errors = (refine(matrix, matrix @ torch.ones(8).double(), [FP16, BF16], 15) - 1).norm(dim=2) / 8**0.5
    assert (errors.nan_to_num(torch.inf).amin(0) > 0.1).all()


def test_refinement_scales_its_residuals():
    """From a right side of 1e-9, FP16 would make zeros."""
    x = refine(poisson(8), 1e-9 * torch.ones(8), [FP16], 8)[-1, 0]
    assert torch.allclose(x, torch.linalg.solve(poisson(8), 1e-9 * torch.ones(8).double()), rtol=1e-13)


def test_condition_numbers_are_those_that_are_told():
    assert torch.linalg.cond(hilbert(6)) == pytest.approx(1.5e7, rel=0.01)
    assert torch.linalg.cond(hilbert(10)) == pytest.approx(1.6e13, rel=0.01)
    assert torch.linalg.cond(poisson(64)) == pytest.approx(4 * 65**2 / np.pi**2, rel=0.01)


def test_the_right_side_is_rounded_on_entry():
    """Two parts of less than half an ulp each: exact, they would make one more ulp together."""
    small = 0.9 * 2.0**-11
    factors, order = lu(torch.tensor([[1.0, 0.0], [-small, 1.0]]), [FP16])
    b = torch.tensor([[1.0, 1 + small]], dtype=torch.float64)
    assert substitute(factors, order, b, [FP16]).tolist() == [[1.0, 1.0]]
    assert FP16.decode(FP16.encode(1 + 2 * small)) == 1 + 2.0**-10


def test_refinement_that_has_arrived_stays():
    assert refine(torch.eye(3), torch.ones(3), [FP16, BF16], 3).tolist() == [[[1.0] * 3] * 2] * 4
