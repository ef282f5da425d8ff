"""The rounding kernel in torch operations: for other devices, and where numba is missing. Bit for bit as `kernels`."""

from functools import partial

import torch

from .formats import FP32, FP64

_CHUNK = 1 << 17  # numbers worked on at a time on the CPU: few calls, yet the intermediates stay in a cache
_INTEGER = {torch.float32: torch.int32, torch.float64: torch.int64}
_CARRIER = {torch.float32: FP32, torch.float64: FP64}


def round_one(x, fmt, rounding, overflow, seed, table):
    """Round to one format: by the quick paths where they are exact, else by `round_general`."""
    carrier = _CARRIER[x.dtype]
    if fmt.specials == "exponent-only":
        step = partial(round_exponents, fmt=fmt, rounding=rounding, overflow=overflow, seed=seed)
    elif seed is not None or not fmt.mantissa_bits:
        step = partial(round_general, table=table, seed=seed)
    elif _same_exponents(fmt, carrier):
        step = partial(_by_mask, fmt=fmt, carrier=carrier, rounding=rounding, overflow=overflow)
    elif _floats_are_safe(fmt, carrier):
        quick = _nearest_by_addition if rounding == "nearest-even" else _truncate
        step = partial(quick, fmt=fmt, carrier=carrier, overflow=overflow)
    else:
        step = partial(round_general, table=table)
    if x.device.type != "cpu" or seed is not None:  # the random words belong to places in the whole row
        return step(x)
    result = torch.empty_like(x)
    for source, target in zip(x.split(_CHUNK, dim=1), result.split(_CHUNK, dim=1)):
        done = step(source, out=target) if step.func is _nearest_by_addition else step(source)
        if done is not target:
            target.copy_(done)
    return result


def _same_exponents(fmt, carrier):
    return fmt.specials == "ieee" and (fmt.exponent_bits, fmt.bias) == (carrier.exponent_bits, carrier.bias)


def _floats_are_safe(fmt, carrier):
    # With fewer than two bits to drop, the sum would leave the binade of the constant that is added. Neither may that
    # constant overflow, nor the quantum be a carrier subnormal, which could be flushed.
    drop = carrier.mantissa_bits - fmt.mantissa_bits
    top = (fmt._max_code >> fmt.mantissa_bits) - fmt.bias + 2 + drop
    return drop >= 2 and top <= carrier.bias and fmt._min_exponent - fmt.mantissa_bits >= carrier._min_exponent


def _nearest_by_addition(x, fmt, carrier, overflow, out=None):
    """Adding 1.5 · 2^k and taking it away again leaves a multiple of the format's quantum, rounded by the hardware."""
    saturate = overflow == "saturate" or fmt.specials == "finite"
    limit = fmt.max if saturate else fmt.max + fmt.ulp(fmt.max)
    clamped = x.clamp(-limit, limit)
    magic = (clamped.view(_INTEGER[x.dtype]) & carrier.inf_code).view(x.dtype)  # the power of two below |x|
    magic.clamp_(min=fmt.min_normal).mul_(1.5 * 2.0 ** (carrier.mantissa_bits - fmt.mantissa_bits))
    result = (clamped + magic).sub_(magic)
    if not saturate:
        # Beyond max the excess is at least one ulp; a large factor or two makes it Inf, and Inf - Inf makes it NaN.
        excess = (result - result.clamp(-fmt.max, fmt.max)).mul_(carrier.max)
        if fmt.ulp(fmt.max) < 2:
            excess.mul_(carrier.max)
        result += excess if fmt.inf_code is not None else excess - excess
    return result.add_(0.0) if fmt.specials == "fnuz" else torch.copysign(result, x, out=out)


def _truncate(x, fmt, carrier, overflow):
    """Clear the bits below the quantum; below the smallest normal the number of bits grows with the distance."""
    drop = carrier.mantissa_bits - fmt.mantissa_bits
    saturate = overflow == "saturate" or fmt.specials == "finite"
    clamped = x.clamp(-fmt.max, fmt.max)
    bits = clamped.view(_INTEGER[x.dtype])
    field = (bits >> carrier.mantissa_bits).bitwise_and_((carrier.inf_code >> carrier.mantissa_bits))
    dropped = field.neg_().add_(fmt._min_exponent + carrier.bias + drop).clamp_(drop, carrier.mantissa_bits)
    kept = torch.bitwise_left_shift(-1, dropped).bitwise_and_(bits).view(x.dtype)
    result = kept.mul_(clamped.abs() >= fmt._value(1))
    # A term that is too small to matter for numbers, and NaN for NaN; Inf stays clamped, or becomes NaN or Inf by it.
    if saturate or fmt.inf_code is None:
        result.add_((clamped if saturate else x) * 0)
    else:
        result.add_((x * carrier.min_normal).mul_(carrier.min_normal))
    return result.add_(0.0) if fmt.specials == "fnuz" else result


def _by_mask(x, fmt, carrier, rounding, overflow):
    """The carrier's own exponents: for nearest, add half a unit to the bits; then clear the bits that are dropped."""
    drop = carrier.mantissa_bits - fmt.mantissa_bits
    bits = x.view(_INTEGER[x.dtype])
    if rounding == "nearest-even":
        rounded = ((bits >> drop) & 1).add_(bits).add_((1 << (drop - 1)) - 1).bitwise_and_(-1 << drop)
    else:
        rounded = bits & (-1 << drop)
    if overflow == "saturate":
        sign = rounded & torch.iinfo(rounded.dtype).min
        rounded = (rounded ^ sign).clamp_(max=carrier.encode(fmt.max)).bitwise_or_(sign)
    return torch.where(x != x, bits | (1 << (carrier.mantissa_bits - 1)), rounded).view(x.dtype)


def round_general(x, table, seed=None):
    """The algorithm of `kernels.round_bits`, line by line: x of shape (rows, n), one row of `table` for each."""
    carrier, integer = _CARRIER[x.dtype], _INTEGER[x.dtype]
    columns = torch.from_numpy(table.view(table.dtype.name[1:])).to(x.device).unsqueeze(-1).unbind(1)
    drop, min_field, max_bits, overflow, inf, quantum, always_odd, start, nearest, keep_sign = columns
    most, mantissa = carrier.bits - 2, carrier.mantissa_bits
    bits = x.view(integer)
    size = bits & torch.iinfo(integer).max
    field = (size >> mantissa).clamp_(min=1)
    base = (field - 1) << mantissa
    wanted = drop + (min_field - field).clamp_(min=0)
    dropped = wanted.clamp(max=most)
    significand = (size - base) >> (wanted - dropped).clamp_(max=most)
    mask = (torch.ones_like(dropped) << dropped) - 1
    odd = ((significand & (mask + 1)) != 0).to(integer) & ((field + start) | always_odd)
    increment = ((mask + odd) >> 1) & nearest
    if seed is not None:
        increment = increment + (_random_like(x, seed) & mask)
    kept = (significand + increment) & ~mask
    result = torch.where(dropped <= mantissa, kept + base, quantum) * (kept != 0)
    result = torch.where(result > max_bits, overflow, result)
    result = torch.where(size == carrier.inf_code, inf, result)
    sign = (bits ^ size) * ((result != 0) | (keep_sign != 0))
    return torch.where(size > carrier.inf_code, bits | (1 << (mantissa - 1)), sign | result).view(x.dtype)


def round_exponents(x, fmt, rounding, overflow, seed=None):
    """Round to powers of two only (E8M0): no sign, no zero. Ties go to the even code; see `FloatFormat.encode`."""
    carrier, integer = _CARRIER[x.dtype], _INTEGER[x.dtype]
    mantissa = carrier.mantissa_bits
    bits = x.view(integer)
    size = bits & torch.iinfo(integer).max
    fraction = size & ((1 << mantissa) - 1)
    field = (size >> mantissa) - carrier.bias + fmt.bias
    if fmt.bias >= carrier.bias:  # float32: the smallest power, 2^-127, is itself a subnormal of the carrier
        fraction = torch.where(field == 0, (2 * fraction - (1 << mantissa)).clamp_(min=0), fraction)
    fraction = torch.where(field < 0, 0, fraction)
    field = field.clamp_(min=0)
    if rounding == "nearest-even":
        half = 1 << (mantissa - 1)
        up = (fraction > half) | ((fraction == half) & (field % 2 == 1))
    elif rounding == "stochastic":
        up = (_random_like(x, seed) & ((1 << mantissa) - 1)) < fraction
    else:
        up = torch.zeros_like(fraction, dtype=torch.bool)
    code = field + up
    infinite = size == carrier.inf_code
    saturates = (overflow == "saturate") | torch.full_like(up, rounding == "toward-zero") & ~infinite
    nan = (x != x) | (bits < 0) & (size != 0) | ((code > fmt._max_code) | infinite) & ~saturates
    field = code.clamp_(max=fmt._max_code) - fmt.bias + carrier.bias
    result = torch.where(field > 0, field << mantissa, 1 << (mantissa - 1))
    return torch.where(nan, carrier.nan_code, result).view(x.dtype)


def _random_like(x, seed):
    """The words that `kernels.stochastic` uses for x of shape (rows, n), in x's integer type."""
    rows, n = x.shape
    wide = 1 if x.dtype == torch.float32 else 2
    batches = -(-n * wide // 4096)
    counter = torch.arange(batches * 1024, device=x.device).view(1, batches, 1024).expand(rows, -1, -1)
    row = torch.arange(rows, device=x.device).view(rows, 1, 1).expand_as(counter)
    words = torch.stack(_philox(counter, row, seed & 0xFFFFFFFF, seed >> 32), dim=2)  # rows, batches, 4, 1024
    if wide == 2:  # numba views the batch's 32-bit words as 64-bit ones: neighbours, the lower first
        pairs = words.reshape(rows, batches, 2048, 2)
        return (pairs[..., 0] | (pairs[..., 1] << 32)).reshape(rows, -1)[:, :n]
    words = words.reshape(rows, -1)[:, :n]
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)


def _philox(c0, c1, key0, key1):
    """Philox4x32 with 7 rounds on int64 tensors that hold 32-bit words."""
    low = 0xFFFFFFFF
    c2, c3 = torch.zeros_like(c0), torch.zeros_like(c0)
    for _ in range(7):
        product0, product1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = ((product1 >> 32) & low) ^ c1 ^ key0, product1 & low, ((product0 >> 32) & low) ^ c3 ^ key1, product0 & low
        key0, key1 = (key0 + 0x9E3779B9) & low, (key1 + 0xBB67AE85) & low
    return c0, c1, c2, c3
