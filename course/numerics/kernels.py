"""The rounding kernel, compiled by numba: integer arithmetic on the bits of float32 or float64 numbers.

Integers make it exact where floats are not: subnormals are right even when the processor flushes them to zero,
and nothing overflows on the way. Branches are written as selections so that the loop becomes vector
instructions, 16 numbers at a time on AVX-512; it runs about as fast as memory can be copied.
"""

import numba
import numpy as np

_BLOCK = 1024  # counters per batch of random words: 4 words each, 16 KiB, which stays in the first-level cache


@numba.njit(inline="always")
def _philox(counter0, counter1, key0, key1):
    """Philox4x32 with 7 rounds (Salmon et al., SC'11): four random 32-bit words for one counter and key."""
    c0, c1, c2, c3 = counter0, counter1, np.uint32(0), np.uint32(0)
    for _ in range(7):
        product0 = np.uint64(c0) * np.uint64(0xD2511F53)
        product1 = np.uint64(c2) * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (
            np.uint32(product1 >> np.uint64(32)) ^ c1 ^ key0,
            np.uint32(product1),
            np.uint32(product0 >> np.uint64(32)) ^ c3 ^ key1,
            np.uint32(product0),
        )
        key0 = np.uint32(key0 + np.uint32(0x9E3779B9))
        key1 = np.uint32(key1 + np.uint32(0xBB67AE85))
    return c0, c1, c2, c3


@numba.njit(cache=True, nogil=True)
def random_words(words, batch, row, key0, key1):
    """Fill `words` (4 · 1024 of uint32) for one batch of one row; the batch alone decides its words."""
    for i in range(_BLOCK):
        w0, w1, w2, w3 = _philox(np.uint32(batch * _BLOCK + i), np.uint32(row), key0, key1)
        words[i] = w0
        words[i + _BLOCK] = w1
        words[i + 2 * _BLOCK] = w2
        words[i + 3 * _BLOCK] = w3


def _make(unsigned, mantissa_bits):
    """The two kernels for a carrier: `unsigned` is its integer type, `mantissa_bits` 23 or 52."""
    width = unsigned(unsigned(0).nbytes * 8)
    zero, one = unsigned(0), unsigned(1)
    mantissa = unsigned(mantissa_bits)
    magnitude_mask = unsigned((1 << (int(width) - 1)) - 1)
    inf_bits = unsigned(((1 << (int(width) - 1 - mantissa_bits)) - 1) << mantissa_bits)
    quiet = unsigned(1 << (mantissa_bits - 1))
    most = unsigned(int(width) - 2)  # most bits that can be dropped: the sum below must not reach the sign bit

    shift_mask = unsigned(int(width) - 1)  # changes nothing, but lets the compiler see that a shift is in range

    @numba.njit(inline="always")
    def round_bits(bits, word, drop, min_field, max_bits, overflow, inf, quantum, always_odd, start, nearest, keep_sign, deep):
        size = unsigned(bits & magnitude_mask)
        field = max(unsigned(size >> mantissa), one)  # carrier subnormals share the first exponent
        base = unsigned(unsigned(field - one) << mantissa)
        significand = unsigned(size - base)
        wanted = unsigned(drop + (max(min_field, field) - field))  # below the smallest normal, more bits go
        dropped = min(wanted, most)
        if deep:
            significand = unsigned(significand >> unsigned(min(unsigned(wanted - dropped), most) & shift_mask))
        step = unsigned(one << dropped)
        mask = unsigned(step - one)
        # Ties go to the even code: the last kept bit, or without mantissa bits the parity of the exponent field.
        odd = unsigned((significand & step) != zero) & unsigned(unsigned(field + start) | always_odd)
        increment = unsigned(unsigned(unsigned(mask + odd) >> one) & nearest) + unsigned(word & mask)
        kept = unsigned(unsigned(significand + increment) & ~mask)
        result = unsigned(kept + base)
        if deep:
            result = result if dropped <= mantissa else quantum
        result = result if kept != zero else zero
        result = overflow if result > max_bits else result
        result = inf if size == inf_bits else result
        sign = unsigned(bits ^ size) if (result != zero) | (keep_sign != zero) else zero
        return unsigned(bits | quiet) if size > inf_bits else unsigned(sign | result)

    @numba.njit(cache=True, nogil=True)
    def deterministic(source, target, parameters):
        for row in range(source.shape[0]):
            p = parameters[row]
            drop, min_field, max_bits, overflow, inf = p[0], p[1], p[2], p[3], p[4]
            quantum, always_odd, start, nearest, keep = p[5], p[6], p[7], p[8], p[9]
            x, y = source[row], target[row]
            for i in range(x.size):
                y[i] = round_bits(x[i], zero, drop, min_field, max_bits, overflow, inf, quantum, always_odd, start, nearest, keep, False)

    @numba.njit(cache=True, nogil=True)
    def stochastic(source, target, parameters, key0, key1):
        words = np.empty(4 * _BLOCK, np.uint32)
        wide = words.view(unsigned)
        for row in range(source.shape[0]):
            p = parameters[row]
            drop, min_field, max_bits, overflow, inf = p[0], p[1], p[2], p[3], p[4]
            quantum, always_odd, start, nearest, keep = p[5], p[6], p[7], p[8], p[9]
            for batch in range((source.shape[1] + wide.size - 1) // wide.size):
                random_words(words, batch, row, key0, key1)
                x = source[row, batch * wide.size : (batch + 1) * wide.size]
                y = target[row, batch * wide.size : (batch + 1) * wide.size]
                for i in range(x.size):
                    y[i] = round_bits(x[i], wide[i], drop, min_field, max_bits, overflow, inf, quantum, always_odd, start, nearest, keep, True)

    return deterministic, stochastic


deterministic32, stochastic32 = _make(np.uint32, 23)
deterministic64, stochastic64 = _make(np.uint64, 52)
