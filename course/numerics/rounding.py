"""Rounding tensors to any format. The values stay in float32 or float64: a rounded tensor is an ordinary tensor.

Two engines give the same bits: a numba kernel on the CPU, and torch operations everywhere else.
"""

from functools import lru_cache

import numpy as np
import torch

from . import torch_kernels
from .formats import FP32, FP64, FloatFormat, _check_modes

try:
    from . import kernels
except ImportError:  # no numba: the torch operations do the same, about four times slower
    kernels = None

_CARRIERS = {torch.float32: FP32, torch.float64: FP64}
_UNSIGNED = {torch.float32: np.uint32, torch.float64: np.uint64}


def round_to(x, fmt: FloatFormat, rounding="nearest-even", overflow="ieee", generator=None):
    """Round a float32 or float64 tensor to the values of `fmt`, once, and return the same shape and dtype.

    `rounding` is "nearest-even", "toward-zero" or "stochastic"; the last needs a `torch.Generator` and rounds up
    with a probability equal to the dropped fraction of the gap (exact for up to 30 dropped bits in float32, 62
    in float64; finer fractions are cut there). The same generator state gives the same result on every device.
    `overflow` is "ieee" (what the format's standard says, see `FloatFormat.encode`) or "saturate". NaN stays NaN,
    also for a format without one, since the carrier can hold it and an error should not be hidden.
    The result carries no gradient. Raises `TypeError` for another dtype, `ValueError` where a value of the format
    would not fit in the carrier or an option is unknown.

    >>> from course.numerics import BF16
    >>> round_to(torch.tensor([1.0 + 2**-8, 1.0 + 3 * 2**-8]), BF16)
    tensor([1.0000, 1.0156])
    """
    _check_modes(rounding, overflow)
    carrier = _carrier(x)
    seed = _seed(rounding, generator)
    table = parameters(fmt, carrier, rounding, overflow)
    if table is None:
        same_end = overflow == "saturate" and fmt.max == carrier.max
        return x.detach().clamp(-fmt.max, fmt.max) if same_end else x.detach().clone()
    flat = x.detach().resolve_neg().contiguous().view(1, -1)
    if x.device.type != "cpu" or kernels is None or fmt.specials == "exponent-only":
        return torch_kernels.round_one(flat, fmt, rounding, overflow, seed, table).view(x.shape)
    return _compiled(flat, table, seed).view(x.shape)


def round_rows(x, formats, rounding="nearest-even", overflow="ieee", generator=None):
    """Round row i of `x` to `formats[i]`, all rows in one call: shape (len(formats), ...), float32 or float64.

    The options are those of `round_to`. Raises `ValueError` if the number of rows and formats differ, or for E8M0,
    whose rows have no zero to hold.

    >>> from course.numerics import BF16, FP16
    >>> round_rows(torch.full((2, 1), 0.1), [FP16, BF16]).flatten().tolist()
    [0.0999755859375, 0.10009765625]
    """
    formats = tuple(formats)
    _check_modes(rounding, overflow)
    carrier = _carrier(x)
    if not formats or x.dim() < 1 or x.shape[0] != len(formats):
        raise ValueError(f"x has shape {tuple(x.shape)} but there are {len(formats)} formats: give one row per format")
    seed = _seed(rounding, generator)
    table = _row_parameters(formats, carrier, rounding, overflow)
    flat = x.detach().resolve_neg().contiguous().view(len(formats), -1)
    if x.device.type != "cpu" or kernels is None:
        return torch_kernels.round_general(flat, table, seed).view(x.shape)
    return _compiled(flat, table, seed).view(x.shape)


def cast(x, formats, rounding="nearest-even", overflow="ieee", generator=None):
    """`round_to` where `formats` is one format, `round_rows` where it is a tuple or a list of them; raises what they raise.

    >>> from course.numerics import BF16, FP16
    >>> cast(torch.full((2, 1), 1 + 2**-9), (FP16, BF16)).flatten().tolist()
    [1.001953125, 1.0]
    """
    rounded = round_rows if isinstance(formats, (tuple, list)) else round_to
    return rounded(x, formats, rounding, overflow, generator)


def _compiled(flat, table, seed):
    unsigned = _UNSIGNED[flat.dtype]
    result = torch.empty_like(flat)
    source, target = flat.numpy().view(unsigned), result.numpy().view(unsigned)
    deterministic, stochastic = (
        (kernels.deterministic32, kernels.stochastic32) if unsigned is np.uint32 else (kernels.deterministic64, kernels.stochastic64)
    )
    if seed is None:
        deterministic(source, target, table)
    else:
        stochastic(source, target, table, np.uint32(seed & 0xFFFFFFFF), np.uint32(seed >> 32))
    return result


def _carrier(x):
    if not isinstance(x, torch.Tensor) or x.dtype not in _CARRIERS:
        kind = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
        raise TypeError(f"round_to takes a float32 or float64 tensor, not {kind}: convert it first, for example x.float()")
    return _CARRIERS[x.dtype]


def _check_fits(fmt, carrier):
    """Whether the carrier can hold every value of the format; E8M0's smallest may be a subnormal of the carrier."""
    lowest = fmt._min_exponent + (carrier.mantissa_bits if fmt.specials == "exponent-only" else 0)
    if fmt.mantissa_bits > carrier.mantissa_bits or fmt.max > carrier.max or lowest < carrier._min_exponent:
        raise ValueError(f"{fmt.name} has values that {carrier.name} cannot hold: convert x to float64 first")


def _contains(fmt, carrier):
    """Whether every value of the carrier is a value of the format, so that there is nothing to round."""
    return (
        fmt.specials == "ieee"
        and fmt.mantissa_bits >= carrier.mantissa_bits
        and fmt.max >= carrier.max
        and fmt._min_exponent - fmt.mantissa_bits <= carrier._min_exponent - carrier.mantissa_bits
    )


def _seed(rounding, generator):
    if rounding != "stochastic":
        return None
    if not isinstance(generator, torch.Generator):
        raise ValueError("stochastic rounding needs generator=torch.Generator().manual_seed(...), so that it can be repeated")
    return int(torch.randint(0, 2**63 - 1, (), generator=generator, device=generator.device))


@lru_cache(maxsize=4096)
def parameters(fmt, carrier, rounding, overflow):
    """What the kernels need to know, one row of unsigned integers; None where there is nothing to round.

    The order is drop, min_field, max_bits, overflow, inf, quantum, always_odd, start, nearest, keep_sign, as in `kernels`.
    """
    if not isinstance(fmt, FloatFormat):
        raise TypeError(f"{fmt!r} is not a FloatFormat: import one, as in `from course.numerics import BF16`, or make your own")
    if _contains(fmt, carrier):
        return None
    _check_fits(fmt, carrier)
    code = carrier.encode  # in its own carrier, a value's code is its bit pattern
    largest, infinity, nan = code(fmt.max), carrier.inf_code, carrier.nan_code
    if overflow == "saturate" or fmt.specials == "finite":
        beyond = largest
    else:
        beyond = infinity if fmt.inf_code is not None else nan
    width = carrier.bits
    row = (
        carrier.mantissa_bits - fmt.mantissa_bits,
        fmt._min_exponent + carrier.bias,
        largest,
        largest if rounding == "toward-zero" else beyond,
        beyond,
        code(fmt.min_subnormal or fmt.min_normal),
        int(fmt.mantissa_bits > 0),  # without mantissa bits the exponent's parity decides a tie
        (fmt.bias - carrier.bias) % 2,
        (1 << width) - 1 if rounding == "nearest-even" else 0,
        int(fmt.specials != "fnuz"),
    )
    return np.array([row], dtype=np.uint32 if width == 32 else np.uint64)


@lru_cache(maxsize=64)
def _row_parameters(formats, carrier, rounding, overflow):
    if any(fmt.specials == "exponent-only" for fmt in formats):
        raise ValueError("round_rows cannot round to E8M0, which has no zero: use round_to for scales")
    tables = [parameters(fmt, carrier, rounding, overflow) for fmt in formats]
    return np.concatenate([_identity(fmt, carrier, overflow) if table is None else table for fmt, table in zip(formats, tables)])


def _identity(fmt, carrier, overflow):
    """Parameters that drop no bits; Inf stays, but where the format ends with the carrier and is told to saturate."""
    beyond = carrier.encode(fmt.max) if overflow == "saturate" and fmt.max == carrier.max else carrier.inf_code
    row = (0, 1, carrier.inf_code - 1, beyond, beyond, 1, 1, 0, 0, 1)
    return np.array([row], dtype=np.uint32 if carrier.bits == 32 else np.uint64)
