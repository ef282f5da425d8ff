"""Summing gradients over many processes: in which order, in which format, and what compression sends instead.

Rows of a tensor stand for processes: (ranks, numbers), float32. Everything is simulated in one process with the roundings that a
real sum would make, so that a thousand ranks fit on a laptop. Rounding is to nearest, ties to even, unless it says otherwise;
overflow follows the format ("ieee"), so FP16 goes to Inf.
"""

from dataclasses import dataclass, field

import torch

from course.numerics.formats import FP32
from course.numerics.rounding import cast
from course.numerics.scales import scaled
from course.training import RunError

ORDERS = ("ring", "tree", "wide")


def all_reduce(ranks, fmt=FP32, order="ring"):
    """The sum over all rows as every process would receive it: a (numbers,) tensor of values of `fmt`.

    "ring": the numbers are cut into as many pieces as there are processes; the sum of each piece travels from process to process,
    each adds its own part and rounds, n − 1 times in a row. "tree": neighbours add, then neighbours of neighbours: log₂ n
    roundings in a row. "wide": what is sent is rounded, but the sums are kept in FP32 and rounded at the end.

    >>> from course.numerics import BF16
    >>> ones = torch.ones(1024, 1)
    >>> [all_reduce(ones, BF16, order).item() for order in ORDERS]
    [256.0, 1024.0, 1024.0]
    """
    if order not in ORDERS:
        raise RunError(f"order={order!r} is unknown: choose one of {', '.join(ORDERS)}")
    if ranks.dim() != 2 or ranks.dtype != torch.float32:
        raise RunError(f"ranks has shape {tuple(ranks.shape)} and dtype {ranks.dtype}: give one float32 row per process")
    sent = cast(ranks, fmt)
    if order == "wide":
        return cast(_tree(sent, FP32), fmt)
    return _tree(sent, fmt) if order == "tree" else _ring(sent, fmt)


def _ring(sent, fmt):
    count, size = sent.shape
    piece = torch.arange(size) * count // size  # the piece that each number belongs to: it starts at the process of that number
    total = sent.gather(0, piece.unsqueeze(0))[0]
    for step in range(1, count):
        total = cast(total + sent.gather(0, ((piece + step) % count).unsqueeze(0))[0], fmt)
    return total


def _tree(parts, fmt):
    while len(parts) > 1:
        pairs = cast(parts[: len(parts) // 2 * 2 : 2] + parts[1::2], fmt)
        parts = torch.cat([pairs, parts[-1:]]) if len(parts) % 2 else pairs
    return parts[0]


# ---- sending less: a compressor takes a (numbers,) or (rows, columns) tensor and gives what the others will see


@dataclass(frozen=True)
class Sent:
    """What a compressor makes of a tensor: what arrives, and the bits that it takes to send it."""

    values: torch.Tensor
    bits: int


def short(fmt):
    """A compressor that rounds each number to `fmt`.

    >>> from course.numerics import BF16
    >>> short(BF16)(torch.tensor([1.001])).values.item()
    1.0
    """
    return lambda x: Sent(cast(x, fmt), fmt.bits * x.numel())


def scaled_short(fmt, block=None):
    """A compressor that brings the largest number to the top of `fmt`, rounds, and sends the FP32 scale along.

    `block`: a scale for each block of that shape, for a matrix; see `course.numerics.scales.scaled`. Overflow saturates.

    >>> from course.numerics import E4M3
    >>> tiny = torch.tensor([2.0**-20, 2.0**-21])
    >>> short(E4M3)(tiny).values.tolist(), torch.equal(scaled_short(E4M3)(tiny).values, tiny), scaled_short(E4M3)(tiny).bits
    ([0.0, 0.0], True, 48)
    """

    def compress(x):
        quantised = scaled(x, fmt, block)
        return Sent(quantised.dequantise(), fmt.bits * x.numel() + quantised.scale_bits)

    return compress


def top_k(share, index_bits=32):
    """A compressor that sends the share of numbers largest in magnitude, in FP32, each with the place it belongs to.

    >>> top_k(0.5)(torch.tensor([1.0, -3.0, 2.0, 0.5])).values.tolist(), top_k(0.5)(torch.ones(4)).bits
    ([0.0, -3.0, 2.0, 0.0], 128)
    """
    return lambda x: _chosen(x, x.flatten().abs().topk(_count(share, x)).indices, 32 + index_bits)


def random_k(share, generator, unbiased=True):
    """A compressor that sends a random share of the numbers, made larger by 1/share, so that it is right on average.

    All processes throw the same dice, so no places are sent. With `ErrorFeedback` it must not be made larger (`unbiased=False`): a memory
    of what was left out needs a compressor that never sends more than it was given, or the memory grows without end.

    >>> random_k(0.5, torch.Generator().manual_seed(0))(torch.ones(4)).values.sum().item()
    4.0
    """

    def compress(x):
        places = torch.randperm(x.numel(), generator=generator)[: _count(share, x)]
        sent = _chosen(x, places, 32)
        return Sent(sent.values * (x.numel() / len(places)), sent.bits) if unbiased else sent

    return compress


def _count(share, x):
    if not 0 < share <= 1:
        raise RunError(f"share={share!r}: give a number above 0, at most 1")
    return max(1, round(share * x.numel()))


def _chosen(x, places, bits):
    values = torch.zeros(x.numel())
    values[places] = x.flatten()[places]
    return Sent(values.view(x.shape), bits * len(places))


class PowerSGD:
    """A compressor that sends a matrix as a product of two thin ones, `rank` columns each, by one step of power iteration.

    The second factor is kept for the next call, where it is a good guess. Source: T. Vogels, S. P. Karimireddy, M. Jaggi,
    *PowerSGD*, arXiv:1905.13727.

    >>> matrix = torch.outer(torch.arange(4.0), torch.arange(3.0))
    >>> torch.allclose(PowerSGD(1)(matrix).values, matrix, atol=1e-5), PowerSGD(1)(matrix).bits
    (True, 224)
    """

    def __init__(self, rank, seed=0):
        self.rank, self.generator, self.kept = rank, torch.Generator().manual_seed(seed), None

    def __call__(self, x):
        if x.dim() != 2:
            raise RunError(f"a tensor of shape {tuple(x.shape)} is no matrix: send it whole")
        if self.kept is None:
            self.kept = torch.rand(x.shape[1], self.rank, generator=self.generator) - 0.5
        left = torch.linalg.qr(x @ self.kept).Q
        self.kept = x.T @ left
        return Sent(left @ self.kept.T, 32 * self.rank * sum(x.shape))


@dataclass
class ErrorFeedback:
    """Remembers what a compressor left out and adds it to the next tensor: nothing is lost for good, only late.

    Source: F. Seide and others, *1-bit stochastic gradient descent*, Interspeech 2014; S. P. Karimireddy and others, arXiv:1901.09847.

    >>> feedback = ErrorFeedback(top_k(0.5))
    >>> [feedback(torch.tensor([1.0, 0.6])).values.tolist() for _ in range(2)]
    [[1.0, 0.0], [0.0, 1.2000000476837158]]
    """

    compress: object
    memory: torch.Tensor | float = field(default=0.0)

    def __call__(self, x):
        wanted = x + self.memory
        sent = self.compress(wanted)
        self.memory = wanted - sent.values
        return sent
