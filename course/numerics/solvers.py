"""Four computations of science with every operation rounded: there, no data corrects what rounding has done.

States are float64 tensors whose first dimension runs over `formats`; after every addition, subtraction, multiplication and
division each row is rounded to its own format, to nearest, ties to even, overflow to Inf. A double holds every intermediate
result exactly enough for formats up to FP32: rounding it once more gives the correctly rounded operation (2·24 + 2 ≤ 53 bits).
Sums are taken in pairs, then pairs of pairs, which is kind: adding one after the other would lose more.
"""

import torch

from .formats import FP64
from .rounding import cast


class Arithmetic:
    """The operations of `formats`, one row each.

    >>> from course.numerics import BF16, FP16
    >>> a = Arithmetic([FP16, BF16])
    >>> a.add(a.rows([256.0]), a.rows([1.0])).flatten().tolist()
    [257.0, 256.0]
    """

    def __init__(self, formats):
        self.formats = tuple(formats)

    def rows(self, values):
        """The same numbers in every row, rounded to the row's format."""
        values = torch.as_tensor(values, dtype=torch.float64)
        return self.round(values.expand(len(self.formats), *values.shape))

    def round(self, x):
        return cast(x.contiguous(), self.formats)

    def add(self, x, y):
        return self.round(x + y)

    def subtract(self, x, y):
        return self.round(x - y)

    def multiply(self, x, y):
        return self.round(x * y)

    def divide(self, x, y):
        return self.round(x / y)

    def total(self, x):
        """Sum over the last dimension, in pairs, then pairs of pairs."""
        while x.shape[-1] > 1:
            x = torch.nn.functional.pad(x, (0, x.shape[-1] % 2))
            x = self.add(x[..., ::2], x[..., 1::2])
        return x[..., 0]

    def dot(self, x, y):
        return self.total(self.multiply(x, y))


# ---- systems of equations


def poisson(n):
    """The matrix of −u″ on n points: 2 on the diagonal, −1 beside it. Its condition number grows as 4n²/π².

    >>> poisson(3).tolist()
    [[2.0, -1.0, 0.0], [-1.0, 2.0, -1.0], [0.0, -1.0, 2.0]]
    """
    return 2 * torch.eye(n, dtype=torch.float64) - torch.diag(torch.ones(n - 1, dtype=torch.float64), 1) - torch.diag(
        torch.ones(n - 1, dtype=torch.float64), -1)  # fmt: skip


def hilbert(n):
    """1/(i + j + 1): columns that nearly repeat each other; the condition number is 1.5 · 10⁷ at n = 6, 1.6 · 10¹³ at 10.

    >>> hilbert(2).tolist()
    [[1.0, 0.5], [0.5, 0.3333333333333333]]
    """
    index = torch.arange(n, dtype=torch.float64)
    return 1 / (index[:, None] + index + 1)


def conjugate_gradients(matrix, b, formats, steps):
    """Solve matrix · x = b; returns the relative residual ‖b − matrix · x‖/‖b‖ after each step, (steps + 1, formats).

    The residual is taken in FP64 from the true matrix; what the method itself works with is all rounded. Source: M. R. Hestenes,
    E. Stiefel, *Methods of conjugate gradients for solving linear systems*, 1952.

    >>> conjugate_gradients(poisson(4), torch.ones(4).double(), [FP64], 4)[-1].item() < 1e-14
    True
    """
    a, matrix, b = Arithmetic(formats), matrix.double(), b.double()
    rounded, x = a.rows(matrix), a.rows(torch.zeros_like(b))
    r = p = a.rows(b)
    square, residuals = a.dot(r, r), []

    def column(number):
        return number.unsqueeze(1)

    for step in range(steps + 1):
        residuals.append((b - x @ matrix.T).norm(dim=1) / b.norm())
        along = a.total(a.multiply(rounded, p.unsqueeze(1)))
        length = a.divide(square, a.dot(p, along))
        length = torch.where(square > 0, length, 0.0)  # a residual of exactly 0: there is nothing left to do
        x = a.add(x, a.multiply(column(length), p))
        r = a.subtract(r, a.multiply(column(length), along))
        before, square = square, a.dot(r, r)
        turn = torch.where(before > 0, a.divide(square, before), 0.0)
        p = a.add(r, a.multiply(column(turn), p))
    return torch.stack(residuals)


def lu(matrix, formats):
    """Factor by Gaussian elimination with row exchanges: (L below and U on and above the diagonal, order of the rows).

    Shapes (formats, n, n) and (formats, n).

    >>> factors, order = lu(torch.tensor([[1.0, 2.0], [4.0, 2.0]]), [FP64])
    >>> factors.tolist(), order.tolist()
    ([[[4.0, 2.0], [0.25, 1.5]]], [[1, 0]])
    """
    a = Arithmetic(formats)
    factors = a.rows(matrix)
    which, n = torch.arange(len(a.formats)), factors.shape[1]
    order = torch.arange(n).repeat(len(a.formats), 1)
    for k in range(n - 1):
        pivot = factors[:, k:, k].abs().argmax(1) + k
        for rows in (factors, order):
            rows[which, pivot], rows[:, k] = rows[:, k].clone(), rows[which, pivot].clone()
        below = a.divide(factors[:, k + 1 :, k], factors[:, k : k + 1, k])
        factors[:, k + 1 :, k] = below
        product = a.multiply(below.unsqueeze(2), factors[:, k : k + 1, k + 1 :])
        factors[:, k + 1 :, k + 1 :] = a.subtract(factors[:, k + 1 :, k + 1 :], product)
    return factors, order


def substitute(factors, order, b, formats):
    """Solve with the factors of `lu`; b of shape (formats, n), rounded on entry; (formats, n)."""
    a = Arithmetic(formats)
    x, n = a.round(b.double().gather(1, order)), factors.shape[1]
    for k in range(n):
        x[:, k + 1 :] = a.subtract(x[:, k + 1 :], a.multiply(factors[:, k + 1 :, k], x[:, k : k + 1]))
    for k in reversed(range(n)):
        x[:, k] = a.divide(x[:, k], factors[:, k, k])
        x[:, :k] = a.subtract(x[:, :k], a.multiply(factors[:, :k, k], x[:, k : k + 1]))
    return x


def refine(matrix, b, formats, steps):
    """Iterative refinement: factor once in a short format, take residuals in FP64, correct, repeat.

    Returns the solutions after 0, 1, … steps, (steps + 1, formats, n). The residual is divided by its largest number before it
    goes into the short format, or FP16 would flush it. It converges where the condition number times the short format's eps lies
    well below 1. Source: N. J. Higham, *Accuracy and Stability of Numerical Algorithms*, chapter 12.

    >>> from course.numerics import FP16
    >>> x = refine(poisson(8), torch.ones(8), [FP16], 8)
    >>> bool((poisson(8) @ x[0, 0] - 1).abs().max() > 1e-4), bool((poisson(8) @ x[-1, 0] - 1).abs().max() < 1e-14)
    (True, True)
    """
    matrix, b = matrix.double(), b.double()
    factors, order = lu(matrix, formats)
    x, found = torch.zeros(len(tuple(formats)), len(b), dtype=torch.float64), []
    for _ in range(steps + 1):
        residual = b - x @ matrix.T
        size = residual.abs().amax(1, keepdim=True)
        size = torch.where(size > 0, size, 1.0)
        x = x + size * substitute(factors, order, residual / size, formats)
        found.append(x)
    return torch.stack(found)


# ---- evolutions in time


def heat(formats, steps, points=64, base=300.0, bump=1.0, ratio=0.25):
    """A rod at `base` kelvin with one point warmer by `bump`, its ends joined: temperatures after `steps`, (formats, points).

    Each step adds ratio · ((left − here) + (right − here)), every operation rounded.

    >>> heat([FP64], 2, points=4, base=0.0).tolist()
    [[0.375, 0.25, 0.125, 0.25]]
    """
    a = Arithmetic(formats)
    start = torch.full((points,), base, dtype=torch.float64)
    start[0] += bump
    u, ratio = a.rows(start), a.rows(ratio).unsqueeze(1)
    for _ in range(steps):
        left, right = a.subtract(u.roll(1, 1), u), a.subtract(u.roll(-1, 1), u)
        u = a.add(u, a.multiply(ratio, a.add(left, right)))
    return u


def lorenz(formats, steps, dt=0.01):
    """The weather of E. N. Lorenz (1963), by Heun's method from (1, 1, 20): states (steps + 1, formats, 3).

    σ = 10, ρ = 28, β = 8/3; every operation rounded. Two paths that differ in the last bit part after a while, in any format.

    >>> lorenz([FP64], 1).shape
    torch.Size([2, 1, 3])
    """
    a = Arithmetic(formats)
    sigma, rho, beta, half, step = a.rows([10.0, 28.0, 8 / 3, 0.5, dt]).T
    state = a.rows([1.0, 1.0, 20.0])
    path = [state]

    def slope(s):
        x, y, z = s.T
        return torch.stack([
            a.multiply(sigma, a.subtract(y, x)),
            a.subtract(a.multiply(x, a.subtract(rho, z)), y),
            a.subtract(a.multiply(x, y), a.multiply(beta, z)),
        ], 1)  # fmt: skip

    for _ in range(steps):
        first = slope(state)
        second = slope(a.add(state, a.multiply(step.unsqueeze(1), first)))
        mean = a.multiply(half.unsqueeze(1), a.add(first, second))
        state = a.add(state, a.multiply(step.unsqueeze(1), mean))
        path.append(state)
    return torch.stack(path)
