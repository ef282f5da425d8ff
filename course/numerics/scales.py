"""Scaled number formats: a tensor in 8 or 4 bits, with the scales that bring its numbers into the format's range.

Every recipe takes the largest magnitude (amax) of the whole tensor, of a row or of a block, multiplies by what brings it near the
format's largest number, and rounds; what saturates or is flushed then is the recipe's doing. Tensors stay float32: `values` are
numbers of the format, `multiplier` is what x was multiplied with. Elements saturate, always: a block with an Inf would be lost.
"""

import math
from dataclasses import dataclass

import torch

from .formats import E2M1, E4M3, FloatFormat
from .rounding import round_to

LEAST_AMAX = 1e-12  # as torchao: a tensor of zeros must not be divided by zero
RULES = ("floor", "ceil", "even", "round-up")


@dataclass(frozen=True)
class Quantised:
    """A tensor in a scaled format: x ≈ values / multiplier. Both have the shape of x; a block shares one multiplier."""

    values: torch.Tensor
    multiplier: torch.Tensor
    fmt: FloatFormat
    scale_bits: int  # of all scales together

    def dequantise(self) -> torch.Tensor:
        """What the stored numbers stand for, in float32."""
        return self.values / self.multiplier

    @property
    def bits_per_value(self) -> float:
        """Bits of storage for each number, scales included."""
        return self.fmt.bits + self.scale_bits / self.values.numel()


@dataclass(frozen=True)
class Quality:
    """How much of a tensor a quantisation keeps."""

    sqnr: float  # 10 log₁₀(‖x‖² / ‖error‖²), in decibels; 6 dB are one bit
    flushed: float  # share of the nonzero numbers that became zero
    saturated: float  # share of the numbers half an ulp or more beyond the format's largest one
    bits_per_value: float


def quality(x, quantised) -> Quality:
    """Compare a tensor with its quantisation.

    >>> x = torch.tensor([[448.0, 1.0, 2.0**-11, 0.0]])
    >>> found = quality(x, scaled(x, E4M3))
    >>> found.flushed, found.saturated, found.bits_per_value
    (0.3333333333333333, 0.0, 16.0)
    """
    x = x.detach().double()
    present = x != 0
    end = quantised.fmt.max + quantised.fmt.ulp(quantised.fmt.max) / 2
    return Quality(
        sqnr=sqnr(x, quantised.dequantise()),
        flushed=((quantised.values == 0) & present).sum().item() / max(1, present.sum().item()),
        saturated=((x * quantised.multiplier.double()).abs() >= end).double().mean().item(),
        bits_per_value=quantised.bits_per_value,
    )


def sqnr(x, approximation) -> float:
    """Signal to quantisation noise, 10 log₁₀(‖x‖² / ‖approximation − x‖²), in decibels; inf where nothing is lost.

    >>> round(sqnr(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.9])), 1)
    23.0
    """
    x = x.detach().double()
    error, power = (approximation.double() - x).square().sum().item(), x.square().sum().item()
    return math.inf if error == 0 else 10 * math.log10(power / error) if power else -math.inf


# ---- blocks


def block_amax(x, block=None):
    """The largest magnitude of each block, spread to the shape of x. `block` is (rows, columns) of the last two dimensions.

    A block of None is the whole tensor, "row" each row of the last dimension. Raises `ValueError` where blocks do not
    fit, or x holds Inf or NaN.

    >>> block_amax(torch.tensor([[1.0, -2.0, 3.0, 4.0]]), (1, 2))
    tensor([[2., 2., 4., 4.]])
    """
    amax, spread = _amaxes(_checked(x), block)
    return spread(amax)


def _amaxes(x, block):
    """(one amax for each block, the function that spreads such a tensor to the shape of x): scales are worked out once per block."""
    tiles, within, spread = blocks_of(x.abs(), block)
    return tiles.amax(within, keepdim=True), spread


def blocks_of(x, block):
    """(x with its blocks as dimensions of their own, the dimensions within a block, what spreads one number per block to x's shape).

    `block` as in `block_amax`. Raises `ValueError` where blocks do not fit.

    >>> tiles, within, spread = blocks_of(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), (1, 2))
    >>> spread(tiles.amin(within, keepdim=True))
    tensor([[1., 1., 3., 3.]])
    """
    if block is None or block == "row":
        return x, tuple(range(x.dim())) if block is None else (-1,), lambda each: each.expand(x.shape)
    rows, columns = block
    high = x.shape[-2] if x.dim() > 1 else 1
    if x.shape[-1] % columns or high % rows:
        raise ValueError(f"a tensor of shape {tuple(x.shape)} does not divide into blocks of {rows} × {columns}: pad it with zeros")
    tiles = x.reshape(-1, high // rows, rows, x.shape[-1] // columns, columns)
    return tiles, (2, 4), lambda each: each.expand(tiles.shape).reshape(x.shape)


def _checked(x):
    x = x.detach()
    if x.dtype != torch.float32:
        raise TypeError(f"scales are taken of float32 tensors, not {x.dtype}: convert it with x.float()")
    if not x.numel() or not x.isfinite().all():
        raise ValueError("there is no number, or an Inf or a NaN, in the tensor: no scale brings it into any range")
    return x


# ---- scales in FP32


def scale_for(amax, fmt, power_of_two=False, margin=0):
    """The FP32 multiplier that takes `amax` to the format's largest number, divided by 2^margin.

    An amax below 1e-12 counts as 1e-12. `power_of_two` rounds the multiplier down to a power of two: multiplying
    is then exact. Computed in FP64 and rounded once. Source: torchao, `amax_to_scale`.

    >>> scale_for(torch.tensor(2.0), E4M3), scale_for(torch.tensor(3.0), E4M3, power_of_two=True)
    (tensor(224.), tensor(128.))
    """
    scale = (fmt.max / amax.double().clamp_min(LEAST_AMAX) / 2.0**margin).float()
    return torch.exp2(torch.frexp(scale).exponent.float() - 1) if power_of_two else scale


def scaled(x, fmt, block=None, power_of_two=False, margin=0, rounding="nearest-even", generator=None) -> Quantised:
    """Current scaling: quantise by the amax of now, of the whole tensor, of rows, or of blocks; FP32 scales.

    `block` as in `block_amax`: (1, 128) for activations and (128, 128) for weights are those of DeepSeek-V3 (arXiv:2412.19437).

    >>> scaled(torch.tensor([[1.0, 0.3], [100.0, 30.0]]), E4M3, "row").dequantise()
    tensor([[  1.0000,   0.2857],
            [100.0000,  28.5714]])
    """
    amax, spread = _amaxes(_checked(x), block)
    multiplier = spread(scale_for(amax, fmt, power_of_two, margin))
    return with_multiplier(x, fmt, multiplier, 32 * amax.numel(), rounding, generator)


def with_multiplier(x, fmt, multiplier, scale_bits=32, rounding="nearest-even", generator=None) -> Quantised:
    """Quantise with a multiplier that is given, as delayed scaling does; 1 is no scaling at all. Overflow saturates.

    >>> with_multiplier(torch.tensor([1000.0, 0.0009]), E4M3, 1.0).values
    tensor([448.,   0.])
    """
    x = _checked(x)
    multiplier = torch.as_tensor(multiplier, dtype=torch.float32, device=x.device).expand(x.shape)
    return Quantised(round_to(x * multiplier, fmt, rounding, "saturate", generator), multiplier, fmt, scale_bits)


class DelayedScale:
    """The multiplier of the next step from the amaxes of the last ones, as Transformer Engine's `DelayedScaling`.

    `algorithm` is "max" of the history, or "most_recent". An amax of zero, Inf or NaN leaves the multiplier as it was; it
    begins at 1. Raises `ValueError` for an empty history. Source: Transformer Engine, `common/recipe/__init__.py`.

    >>> delayed = DelayedScale(E4M3, length=2)
    >>> [delayed.update(amax) for amax in (1.0, 4.0, 1.0, 1.0)]
    [448.0, 112.0, 112.0, 448.0]
    """

    def __init__(self, fmt, length=1024, margin=0, algorithm="max"):
        if length < 1:
            raise ValueError(f"length={length}: the history holds one amax at least")
        if algorithm not in ("max", "most_recent"):
            raise ValueError(f'algorithm={algorithm!r}: choose "max" or "most_recent"')
        self.fmt, self.margin, self.algorithm = fmt, margin, algorithm
        self.history, self.place, self.multiplier = [0.0] * length, 0, 1.0

    def update(self, amax) -> float:
        """Put an amax into the ring buffer, over the oldest one; gives the multiplier of the next step."""
        amax = float(amax)
        self.history[self.place] = amax
        self.place = (self.place + 1) % len(self.history)
        chosen = amax if self.algorithm == "most_recent" or math.isnan(amax) else max(self.history)
        if 0 < chosen < math.inf:
            self.multiplier = scale_for(torch.tensor(chosen, dtype=torch.float64), self.fmt, margin=self.margin).item()
        return self.multiplier


# ---- scales in short formats


def mx(x, fmt=E4M3, rule="floor", block=32, rounding="nearest-even", generator=None) -> Quantised:
    """A microscaling (MX) format: blocks along the last dimension, each with a power-of-two scale in E8M0.

    The exponent of the block's scale, by `rule`: "floor" is the specification's, floor(log₂ amax) − emax, which saturates whatever
    lies between the format's largest number and the next power of two; "ceil" and "even" round log₂ amax up, or the amax to the
    element's digits first; "round-up" is the least exponent at which nothing saturates (cuBLAS, Transformer Engine).
    Raises `ValueError` for an unknown rule. Source: OCP Microscaling Formats (MX) Specification 1.0, section 6.3.

    >>> x = torch.tensor([[500.0] + [1.0] * 31])
    >>> mx(x).dequantise()[0, 0], mx(x, rule="round-up").dequantise()[0, 0]
    (tensor(448.), tensor(512.))
    """
    if rule not in RULES:
        raise ValueError(f"rule={rule!r}: choose one of {', '.join(RULES)}")
    amax, spread = _amaxes(_checked(x), (1, block))
    exponent = _mx_exponent(amax, fmt, rule).clamp(-127, 127)
    multiplier = spread(torch.exp2(-exponent.float()))  # 2⁻¹²⁷, a subnormal of FP32, is exact too
    return with_multiplier(x, fmt, multiplier, 8 * amax.numel(), rounding, generator)


def _mx_exponent(amax, fmt, rule):
    largest = math.frexp(fmt.max)[1] - 1
    if rule == "round-up":
        mantissa, exponent = torch.frexp((amax.double() / fmt.max).float())  # one rounding, as in FP32 on the chip
        return torch.where(amax == 0, -127, exponent - (mantissa == 0.5).int())
    if rule == "even":
        step = torch.exp2(torch.frexp(amax).exponent.double() - 1 - fmt.mantissa_bits)
        amax = (torch.floor(amax.double() / step + 0.5) * step).float()
    mantissa, exponent = torch.frexp(amax)
    return torch.where(amax == 0, -127, exponent - 1 + (mantissa != 0.5).int() * (rule == "ceil") - largest)


def nvfp4(x, block=(1, 16), rounding="nearest-even", generator=None) -> Quantised:
    """NVFP4: E2M1 elements, an E4M3 scale for each block of 16, an FP32 scale for the tensor.

    The tensor's scale takes its amax to 448 · 6, so that block scales use the whole range of E4M3; they do not go below its
    smallest normal number. Weights in training take (16, 16). Source: NVIDIA, Transformer Engine documentation, NVFP4; the order of
    operations is torchao's.

    >>> found = nvfp4(torch.linspace(-1, 1, 32).view(1, 32))
    >>> found.bits_per_value, found.values.abs().max()
    (5.5, tensor(6.))
    """
    amax, spread = _amaxes(_checked(x), block)
    tensor_scale = (amax.max() / (E4M3.max * E2M1.max)).clamp_min(torch.finfo(torch.float32).tiny)
    block_scale = (amax / E2M1.max / tensor_scale).clamp(E4M3.min_normal, E4M3.max)
    multiplier = spread((1.0 / tensor_scale) / round_to(block_scale, E4M3, overflow="saturate"))
    return with_multiplier(x, E2M1, multiplier, 8 * amax.numel() + 32, rounding, generator)


# ---- outliers, spread


def hadamard(x, size=16, signs=None):
    """Multiply blocks of `size` numbers of the last dimension by an orthonormal Hadamard matrix, after `signs` if given.

    An outlier is spread over its block; applied to both operands of a product it leaves the product as it was.
    Without signs it is its own inverse. Raises `ValueError` unless size is a power of two that divides the dimension.

    >>> hadamard(torch.tensor([[4.0, 0.0, 0.0, 0.0]]), 4)
    tensor([[2., 2., 2., 2.]])
    """
    if size < 1 or size & (size - 1) or x.shape[-1] % size:
        raise ValueError(f"size={size}: choose a power of two that divides {x.shape[-1]}")
    matrix = torch.ones(1, 1, dtype=x.dtype, device=x.device)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)], 0)
    blocks = x.reshape(*x.shape[:-1], -1, size)
    blocks = blocks if signs is None else blocks * signs
    return (blocks @ matrix / size**0.5).reshape(x.shape)
