"""An oracle for rounding that shares nothing with the kernels but the list of a format's values.

All values of a format in order, the exact midpoints between them, and from these the float32 bit pattern at which
the rounded result changes: rounding is then a search in a table. The list of values is itself proved against
ml_dtypes, torch and gfloat, and the table against the same libraries wherever they are right (see test_peers).
"""

import numpy as np

INF_BITS = 0x7F800000


def magnitudes(fmt):
    """All finite magnitudes in the order of their codes, as float64 (exact for up to 23 mantissa bits)."""
    codes = np.arange(fmt._max_code + 1)
    field, fraction = codes >> fmt.mantissa_bits, codes & ((1 << fmt.mantissa_bits) - 1)
    if fmt.specials == "exponent-only":
        return np.ldexp(1.0, field - fmt.bias)
    normal = np.ldexp((1 << fmt.mantissa_bits) + fraction.astype(np.float64), field - fmt.bias - fmt.mantissa_bits)
    return np.where(field > 0, normal, np.ldexp(fraction.astype(np.float64), 1 - fmt.bias - fmt.mantissa_bits))


def bits_of(values):
    exact = np.asarray(values, np.float64).astype(np.float32)
    assert np.array_equal(exact.astype(np.float64), values), "the oracle needs values that float32 holds"
    return exact.view(np.uint32).astype(np.int64)


def table(fmt, rounding, overflow):
    """(starts, results): a float32 magnitude with bits in [starts[i], starts[i+1]) rounds to the bits results[i]."""
    values = magnitudes(fmt)
    results = bits_of(values)
    if rounding == "toward-zero":
        starts = results.copy()
    else:
        step = values[-1] - values[-2] if fmt.mantissa_bits else values[-1]
        top = values[-1] + step  # the value that would follow, were there no largest
        middles = (values + np.append(values[1:], top)) / 2
        # A tie goes to the even code: to code i if i is even, so that code i+1 starts one pattern later.
        ends = bits_of(middles) + (np.arange(len(values)) % 2 == 0)
        starts = np.concatenate([[0], ends[:-1]])
    starts[0] = 0  # below its smallest value a format without zero (E8M0) has nothing else to give
    saturates = overflow == "saturate" or fmt.specials == "finite"
    beyond = results[-1] if saturates else INF_BITS if fmt.specials == "ieee" else -1  # -1 stands for NaN
    first_beyond = INF_BITS if rounding == "toward-zero" else min(ends[-1], INF_BITS)
    starts = np.append(starts, first_beyond)
    return starts, np.append(results, beyond)


def expected_bits(fmt, rounding, overflow, bits):
    """The rounded bits of float32 patterns (uint32): NaN as -1, signs kept but for FNUZ zeros and E8M0."""
    bits = bits.astype(np.int64)
    size, negative = bits & 0x7FFFFFFF, bits >> 31 == 1
    starts, results = table(fmt, rounding, overflow)
    found = results[np.searchsorted(starts, size, side="right") - 1]
    if fmt.specials == "exponent-only":
        nan = (found < 0) | (size > INF_BITS) | negative & (size > 0)
        return np.where(nan, -1, found)
    signed = found | (negative.astype(np.int64) << 31)
    if fmt.specials == "fnuz":
        signed = np.where(found == 0, 0, signed)
    return np.where((size > INF_BITS) | (found < 0), -1, signed)


def got_bits(rounded):
    """The bits of a float32 tensor as int64, NaN as -1."""
    values = rounded.numpy()
    return np.where(np.isnan(values), -1, values.view(np.uint32).astype(np.int64))


def dense_sample(fmt, seed=0):
    """float32 patterns where something can go wrong: around every break point, each upper half-word, random, specials."""
    around = []
    for rounding in ("nearest-even", "toward-zero"):
        starts, _ = table(fmt, rounding, "ieee")
        if len(starts) > 70_000:  # wide formats: the first, the last and an even spread of break points
            starts = np.concatenate([starts[:5000], starts[-5000:], starts[:: len(starts) // 20_000]])
        around.append((starts[:, None] + np.arange(-2, 3)).ravel())
    upper = np.arange(1 << 15) << 16
    upper = (upper[:, None] | np.array([0, 1, 0x4000, 0x7FFF, 0x8000, 0x8001, 0xFFFF])).ravel()
    chance = np.random.default_rng(seed).integers(0, 1 << 31, 50_000)
    patterns = np.concatenate([*around, upper, chance, [INF_BITS, INF_BITS + 1, 0x7FC00000, 0x7FFFFFFF, 0x7F7FFFFF]])
    patterns = np.unique(patterns[(patterns >= 0) & (patterns < 1 << 31)])
    return np.concatenate([patterns, patterns | 1 << 31]).astype(np.uint32)
