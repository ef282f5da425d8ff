"""Integer grids: INT8 and INT4 with their scales, and NF4, whose sixteen levels follow the bell curve.

A grid is evenly spaced: x ≈ (code − zero) · scale, the same gap everywhere, where a float's gap grows with the number. `block` is that of
`course.numerics.scales`: None for one scale per tensor, "row", or (rows, columns). Codes are int16 tensors of the shape of x, so that
they can be counted with; packed they take `bits` each.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch

from .scales import blocks_of

ROUNDINGS = ("nearest-even", "toward-zero", "stochastic")


@dataclass(frozen=True)
class Integers:
    """A tensor on an integer grid; `scale` and `zero` have its shape, a block shares one of each."""

    codes: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor  # the code that stands for 0; 0 everywhere on a symmetric grid
    bits: int
    scale_bits: int  # of all scales and zeros together

    def dequantise(self) -> torch.Tensor:
        """What the codes stand for, in float32."""
        return (self.codes - self.zero) * self.scale

    @property
    def bits_per_value(self) -> float:
        """Bits of storage for each number, scales included."""
        return self.bits + self.scale_bits / self.codes.numel()


def integers(x, bits=8, block=None, symmetric=True, rounding="nearest-even", generator=None) -> Integers:
    """Bring a float32 tensor onto the grid of `bits`-bit integers, 2 to 8, that just reaches its largest numbers.

    A symmetric grid has the codes −(2^(bits−1) − 1) … 2^(bits−1) − 1, so that −x has the code of x negated; one code stays unused. An
    asymmetric one has 0 … 2^bits − 1 from the block's smallest number to its largest, 0 always among them. FP32 scales; a zero
    takes `bits`. Nothing saturates by more than half a step. Raises `ValueError` for other bits or roundings, blocks that do not fit, Inf and NaN.

    >>> found = integers(torch.tensor([0.1, -0.3, 1.0]), bits=4)
    >>> found.codes.tolist(), [round(v, 3) for v in found.dequantise().tolist()]
    ([1, -2, 7], [0.143, -0.286, 1.0])
    """
    if bits not in range(2, 9):
        raise ValueError(f"bits={bits!r}: choose a whole number from 2 to 8")
    x = _checked(x, rounding, generator)
    tiles, within, spread = blocks_of(x, block)
    if symmetric:
        low, high = -(2 ** (bits - 1) - 1), 2 ** (bits - 1) - 1
        scale = tiles.abs().amax(within, keepdim=True) / high
        scale = torch.where(scale > 0, scale, 1.0)  # of zeros nothing can be divided
        zero = torch.zeros_like(scale)
    else:
        low, high = 0, 2**bits - 1
        least, most = tiles.amin(within, keepdim=True).clamp_max(0), tiles.amax(within, keepdim=True).clamp_min(0)
        scale = (most - least) / high
        scale = torch.where(scale > 0, scale, 1.0)
        zero = (-least / scale).round().clamp(low, high)
    count = scale.numel()
    scale, zero = spread(scale), spread(zero)
    codes = (_round(x / scale, rounding, generator) + zero).clamp(low, high).to(torch.int16)
    return Integers(codes, scale, zero.to(torch.int16), bits, count * (32 if symmetric else 32 + bits))


def _checked(x, rounding, generator):
    if rounding not in ROUNDINGS:
        raise ValueError(f"rounding={rounding!r} is unknown: choose one of {', '.join(ROUNDINGS)}")
    if rounding == "stochastic" and generator is None:
        raise ValueError("stochastic rounding needs generator=torch.Generator(): give one")
    if x.dtype != torch.float32:
        raise TypeError(f"scales are taken of float32 tensors, not {x.dtype}: convert it with x.float()")
    if not x.numel() or not x.isfinite().all():
        raise ValueError("there is no number, or an Inf or a NaN, in the tensor: no scale brings it onto a grid")
    return x.detach()


def _round(x, rounding, generator):
    if rounding == "stochastic":
        return (x + torch.rand(x.shape, generator=generator)).floor()
    return x.round() if rounding == "nearest-even" else x.trunc()


# ---- sixteen levels for a bell curve


@lru_cache(maxsize=1)
def nf4_levels() -> torch.Tensor:
    """The sixteen levels of NF4: quantiles of the normal distribution, eight up, seven down, and an exact 0; ±1 are the ends.

    Source: T. Dettmers and others, *QLoRA*, arXiv:2305.14314, appendix E; the offset is that of the published code.

    >>> [round(v, 4) for v in nf4_levels()[[0, 1, 7, 8, 15]].tolist()]
    [-1.0, -0.6962, 0.0, 0.0796, 1.0]
    """
    offset = 0.9677083  # between 1 − 1/30 and 1 − 1/32: the outermost quantile must not be infinite
    up, down = (torch.special.ndtri(torch.linspace(offset, 0.5, n + 1, dtype=torch.float64)[:-1]) for n in (8, 7))
    levels = torch.cat([-down, torch.zeros(1, dtype=torch.float64), up]).sort().values
    return (levels / levels.max()).float()


@dataclass(frozen=True)
class Coded:
    """A tensor in codes of a table: x ≈ levels[codes] · scale."""

    codes: torch.Tensor
    scale: torch.Tensor
    levels: torch.Tensor
    bits: int
    scale_bits: int

    def dequantise(self) -> torch.Tensor:
        return self.levels[self.codes.long()] * self.scale

    @property
    def bits_per_value(self) -> float:
        return self.bits + self.scale_bits / self.codes.numel()


def nf4(x, block=(1, 64)) -> Coded:
    """Bring a float32 tensor to NF4: each block divided by its largest magnitude, then the nearest of sixteen levels.

    A number midway between two levels goes to the lower one. FP32 scales. Raises what `integers` raises.

    >>> nf4(torch.tensor([[0.5, -2.0, 0.0, 1.1]]), (1, 4)).codes.tolist()
    [[10, 0, 7, 13]]
    """
    x = _checked(x, "nearest-even", None)
    tiles, within, spread = blocks_of(x, block)
    scale = tiles.abs().amax(within, keepdim=True)
    scale = torch.where(scale > 0, scale, 1.0)
    levels, count = nf4_levels(), scale.numel()
    scale = spread(scale)
    codes = torch.bucketize(x / scale, (levels[1:] + levels[:-1]) / 2).to(torch.int16)
    return Coded(codes, scale, levels, 4, 32 * count)


# ---- storage


def pack4(codes):
    """Two 4-bit codes to a byte, the first in the low half: (…, n) to uint8 (…, n/2). Negative codes as two's complement.

    >>> pack4(torch.tensor([1, -1, 7, 8])).tolist()
    [241, 135]
    """
    if codes.shape[-1] % 2:
        raise ValueError(f"{codes.shape[-1]} codes do not fill whole bytes: pad the last dimension to an even number")
    if codes.min() < -8 or codes.max() > 15:
        raise ValueError(f"codes from {codes.min()} to {codes.max()} do not fit into 4 bits")
    halves = (codes.to(torch.int16) & 15).to(torch.uint8)
    return halves[..., ::2] | halves[..., 1::2] << 4


def unpack4(packed, signed=True):
    """The codes of `pack4` again, int16; `signed` reads 8 … 15 as −8 … −1.

    >>> unpack4(torch.tensor([241, 135], dtype=torch.uint8)).tolist()
    [1, -1, 7, -8]
    """
    codes = torch.stack([packed & 15, packed >> 4], -1).flatten(-2).to(torch.int16)
    return torch.where(codes > 7, codes - 16, codes) if signed else codes
