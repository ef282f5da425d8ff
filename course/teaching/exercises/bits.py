"""Exercises of notebook 01: reading bits, limits, and the conversion from FP32 to BF16."""

import math

from course.numerics import BF16, E4M3, FP16, FP32, FloatFormat, explain

from .model import Exercise, Misconception


def _bits(fmt, code):
    return f"{explain(code=code, fmt=fmt).hex_code} ({' '.join(field for field in explain(code=code, fmt=fmt).fields if field)})"


# ---- 01-1


def decode_fp16(code: int) -> float:
    sign = -1.0 if code >> 15 else 1.0
    exponent, mantissa = code >> 10 & 0b11111, code & 0b11_1111_1111
    if exponent == 31:
        return math.nan if mantissa else sign * math.inf
    if exponent == 0:
        return sign * mantissa * 2.0**-24
    return sign * (1 + mantissa / 1024) * 2.0 ** (exponent - 15)


def _decode_fp16(hidden=1.0, bias=15, subnormals=True, specials=True, signs=True):
    def decode(code):
        sign = -1.0 if signs and code >> 15 else 1.0
        exponent, mantissa = code >> 10 & 31, code & 1023
        if specials and exponent == 31:
            return math.nan if mantissa else sign * math.inf
        if subnormals and exponent == 0:
            return sign * mantissa * 2.0 ** (1 - bias - 10)
        return sign * (hidden + mantissa / 1024) * 2.0 ** (exponent - bias)

    return decode


_FP16_CODES = (0x3C00, 0x3C01, 0xC000, 0x3555, 0x7BFF, 0x0400, 0x0001, 0x03FF, 0x8001, 0x0000, 0x8000, 0x7C00, 0xFC00, 0x7E00, 0xB266)

DECODE = Exercise(
    id="01-1",
    title="decode an FP16 code by hand",
    difficulty="medium",
    minutes=10,
    why="Three kinds of exponent field, three rules: all zeros (no hidden 1), all ones (Inf, NaN), anything else.",
    reference=decode_fp16,
    cases=tuple((code,) for code in _FP16_CODES),
    show=lambda code: _bits(FP16, code),
    misconceptions=(
        Misconception("no hidden one", _decode_fp16(hidden=0.0), "the hidden 1 is missing: a normal number is 1.mantissa × 2^e, not 0.mantissa."),
        Misconception("bias off by one", _decode_fp16(bias=16), "every value is half of what it should be: the bias of 5 exponent bits is 15, not 16."),
        Misconception("forgot subnormals", _decode_fp16(subnormals=False), "an exponent field of zero has no hidden 1: those codes are subnormals, mantissa × 2^-24."),
        Misconception("forgot Inf and NaN", _decode_fp16(specials=False), "an exponent field of 31 is not a number: mantissa 0 is Inf, anything else NaN."),
        Misconception("only the normal rule", _decode_fp16(subnormals=False, specials=False), "two exponent fields are treated as ordinary ones: all zeros (subnormals and zero) and all ones (Inf and NaN)."),
        Misconception("Inf without its sign", lambda code: abs(decode_fp16(code)) if code & 0x7FFF == 0x7C00 else decode_fp16(code), "Inf has a sign too: 0xFC00 is -Inf."),
        Misconception("flushed subnormals", lambda code: math.copysign(0.0, decode_fp16(code)) if code & 0x7C00 == 0 else decode_fp16(code), "subnormals are not zero: they are mantissa × 2^-24."),
        Misconception("forgot the sign", _decode_fp16(signs=False), "the top bit is the sign, and it is ignored here."),
    ),
    hints=(
        "Cut the code in three with shifts and masks: 1 bit, 5 bits, 10 bits. Then look at the exponent field alone.",
        "Field 31 holds Inf and NaN. Field 0 holds numbers without the hidden 1, all spaced 2^-24. The rest is (1 + mantissa/1024) × 2^(field - 15).",
        "return sign * (1 + mantissa / 1024) * 2.0 ** (exponent - ___)   # and two other cases before it",
    ),
)


# ---- 01-2


def bias_of(exponent_bits: int) -> int:
    return 2 ** (exponent_bits - 1) - 1


BIAS = Exercise(
    id="01-2",
    title="the bias of an IEEE exponent field",
    difficulty="easy",
    minutes=4,
    why="The bias is the middle of the field, so that 2^0 is coded by 0 followed by ones and both directions get the same room.",
    reference=bias_of,
    cases=tuple((bits,) for bits in (2, 3, 4, 5, 8, 11)),
    show=lambda bits: f"{bits} exponent bits",
    misconceptions=(
        Misconception("one too many", lambda bits: 2 ** (bits - 1), "one too many: 2^(E-1) is the field of 2.0 (and the bias of the FNUZ formats); IEEE takes one less."),
        Misconception("xor instead of power", lambda bits: 2 ^ (bits - 1) - 1, "in Python ^ is exclusive or: a power is written **."),
        Misconception("one too few", lambda bits: 2 ** (bits - 1) - 2, "one too few: check it against FP16, 5 bits and bias 15."),
        Misconception("the largest field", lambda bits: 2**bits - 1, "that is the largest exponent field, the one of Inf and NaN, not the middle."),
        Misconception("largest exponent of the field", lambda bits: 2**bits - 2, "that is the largest field of a finite number; the bias sits in the middle."),
    ),
    hints=(
        "FP16 has 5 exponent bits and bias 15, FP32 has 8 and 127.",
        "Half of the 2^E fields, from 2^(E-1) on, code 2.0 and more; 1.0 has the field just below them.",
        "return 2 ** (exponent_bits - ___) - ___",
    ),
)


# ---- 01-3


def smallest_and_largest(exponent_bits: int, mantissa_bits: int) -> tuple[float, float]:
    bias = 2 ** (exponent_bits - 1) - 1
    smallest = 2.0 ** (1 - bias - mantissa_bits)
    largest = (2 - 2.0**-mantissa_bits) * 2.0**bias
    return smallest, largest


def _limits(smallest, largest):
    def limits(e, m):
        bias = 2 ** (e - 1) - 1
        return smallest(bias, m), largest(bias, m)

    return limits


def _right_smallest(bias, m):
    return 2.0 ** (1 - bias - m)


def _right_largest(bias, m):
    return (2 - 2.0**-m) * 2.0**bias


LIMITS = Exercise(
    id="01-3",
    title="the smallest positive and the largest finite number of an IEEE format",
    difficulty="medium",
    minutes=8,
    why="The smallest is one unit of the subnormals, far below the smallest normal; the largest is one ulp short of the power of two that would need the reserved field.",
    reference=smallest_and_largest,
    cases=((5, 10), (8, 7), (5, 2), (8, 23), (3, 4), (4, 3)),
    show=lambda e, m: f"E{e}M{m}",
    misconceptions=(
        Misconception("smallest normal", _limits(lambda b, m: 2.0 ** (1 - b), _right_largest), "that is the smallest normal number: subnormals go on below it for another 2^mantissa_bits."),
        Misconception("subnormals one binade too low", _limits(lambda b, m: 2.0 ** (-b - m), _right_largest), "subnormals use the exponent of the smallest normal, 1 - bias, not -bias: so no gap opens between them."),
        Misconception("top exponent not reserved", _limits(_right_smallest, lambda b, m: (2 - 2.0**-m) * 2.0 ** (b + 1)), "the top exponent field belongs to Inf and NaN: the largest finite number lies one binade lower."),
        Misconception("swapped", lambda e, m: smallest_and_largest(e, m)[::-1], "smallest and largest are swapped."),
        Misconception("eps as the smallest", _limits(lambda b, m: 2.0**-m, _right_largest), "2^-M is the gap above 1.0; near zero the numbers lie far closer."),
        Misconception("largest power of two", _limits(_right_smallest, lambda b, m: 2.0**b), "that is the largest power of two: its mantissa can still be all ones."),
        Misconception("mantissa counted as two", _limits(_right_smallest, lambda b, m: 2.0 * 2.0**b), "a mantissa of all ones is 2 - 2^-M, just short of 2."),
    ),
    hints=(
        "Write down the bits of both numbers first: 0 00000 0000000001 and 0 11110 1111111111.",
        "The smallest is 2^-M in units of the smallest normal 2^(1-bias). The largest has mantissa 1.111…1 = 2 - 2^-M.",
        "smallest = 2.0 ** (1 - bias - ___);  largest = (2 - 2.0 ** -___) * 2.0 ** ___",
    ),
)


# ---- 01-4


def decode_e4m3(code: int) -> float:
    sign = -1.0 if code >> 7 else 1.0
    exponent, mantissa = code >> 3 & 0b1111, code & 0b111
    if exponent == 15 and mantissa == 7:
        return math.nan
    if exponent == 0:
        return sign * mantissa * 2.0**-9
    return sign * (1 + mantissa / 8) * 2.0 ** (exponent - 7)


_IEEE_E4M3 = FloatFormat("E4M3 by the IEEE rule", 4, 3)
_FNUZ_BIAS = FloatFormat("E4M3 with bias 8", 4, 3, bias=8, specials="fn")

DECODE_E4M3 = Exercise(
    id="01-4",
    title="decode an OCP E4M3 code",
    difficulty="medium",
    minutes=8,
    why="E4M3 gives up Inf and keeps a single NaN pattern, which buys the top binade: 448 instead of 240.",
    reference=decode_e4m3,
    cases=tuple((code,) for code in (0x38, 0x77, 0x78, 0x7D, 0x7E, 0x7F, 0xFF, 0xFE, 0x01, 0x07, 0x08, 0x80, 0x00, 0xB9)),
    show=lambda code: _bits(E4M3, code),
    misconceptions=(
        Misconception("IEEE rule for the top exponent", _IEEE_E4M3.decode, "the top exponent is treated as Inf and NaN, as IEEE has it: that format ends at 240. OCP's E4M3 uses it for numbers up to 448."),
        Misconception("no NaN", lambda code: 480.0 * (-1 if code > 127 else 1) if code & 127 == 127 else decode_e4m3(code), "all ones is not 480 but NaN, the only one that E4M3 has."),
        Misconception("forgot subnormals", lambda code: (1 + (code & 7) / 8) * 2.0**-7 * (-1 if code >> 7 else 1) if code & 0x78 == 0 else decode_e4m3(code), "an exponent field of zero has no hidden 1: those codes are subnormals, mantissa × 2^-9."),
        Misconception("FNUZ bias", _FNUZ_BIAS.decode, "everything is half as large: bias 8 belongs to E4M3FNUZ, the OCP format has 7."),
        Misconception("NaN read as Inf", lambda code: math.copysign(math.inf, decode_e4m3(code & 128 | 56)) if code & 127 == 127 else decode_e4m3(code), "E4M3 has no Inf at all: S.1111.111 is NaN."),
    ),
    hints=(
        "It is the FP16 decoder with other widths: 1, 4 and 3 bits, bias 7. Only the top exponent differs.",
        "Among the codes with exponent field 15, seven are ordinary numbers (256 to 448) and one is NaN.",
        "if exponent == 15 and mantissa == ___: return math.nan",
    ),
)


# ---- 01-5


def fp32_to_bf16(bits: int) -> int:
    if bits & 0x7FFFFFFF > 0x7F800000:
        return bits >> 16 | 0x40
    odd = bits >> 16 & 1
    return bits + 0x7FFF + odd >> 16 & 0xFFFF


def _ties_up(bits):
    return (bits >> 16 | 0x40) if bits & 0x7FFFFFFF > 0x7F800000 else bits + 0x8000 >> 16 & 0xFFFF


_FP32_BITS = tuple(FP32.encode(text) for text in ("1", "0.1", "3.14159265", "-2.71828", "1e-40", "1e38", "65504", "-0"))
_FP32_TIES = tuple(FP32.encode(x) for x in (1 + 2**-8, 1 + 3 * 2**-8, -(1 + 5 * 2**-8), 256 + 1, 257 + 2))
_FP32_SPECIAL = (0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0x7FFFFFFF, 0x7F7FFFFF)

TO_BF16 = Exercise(
    id="01-5",
    title="convert FP32 bits to BF16 bits, rounding to nearest with ties to even",
    difficulty="hard",
    minutes=12,
    why="Adding 0x7FFF, and one more if the last kept bit is 1, carries exactly when rounding up is right. NaN must be kept apart: the addition would turn some into Inf or -0.",
    reference=fp32_to_bf16,
    cases=tuple((bits,) for bits in _FP32_BITS + _FP32_TIES + _FP32_SPECIAL),
    show=lambda bits: f"{_bits(FP32, bits)} = {FP32.decode(bits)!r}",
    show_result=lambda code: _bits(BF16, code),
    same=lambda got, wanted: got == wanted or (math.isnan(BF16.decode(got)) and math.isnan(BF16.decode(wanted))),
    misconceptions=(
        Misconception("truncated", lambda bits: bits >> 16 if not 0x7F800000 < bits & 0x7FFFFFFF < 0x7F810000 else bits >> 16 | 0x40, "the lower 16 bits are chopped off: that is truncation, and its error is up to a whole ulp instead of half."),
        Misconception("truncated, NaN lost", lambda bits: bits >> 16, "the lower 16 bits are chopped off: that is truncation, and a NaN whose only ones lie there becomes Inf."),
        Misconception("ties down", lambda bits: (bits >> 16 | 0x40) if bits & 0x7FFFFFFF > 0x7F800000 else bits + 0x7FFF >> 16 & 0xFFFF, "0x7FFF alone sends every tie down: add one more where the last kept bit is 1."),
        Misconception("ties to odd", lambda bits: (bits >> 16 | 0x40) if bits & 0x7FFFFFFF > 0x7F800000 else bits + 0x8000 - (bits >> 16 & 1) >> 16 & 0xFFFF, "ties go to the odd code: the extra 1 belongs to an odd upper half, not to an even one."),
        Misconception("ties up", _ties_up, "ties go up instead of to the even code: 1 + 2^-8 lies half-way between two BF16 numbers, and the even one is 1.0."),
        Misconception("NaN carried over", lambda bits: bits + 0x7FFF + (bits >> 16 & 1) >> 16 & 0xFFFF, "right for every number, but the addition also hits NaN: some become Inf, and 0x7FFFFFFF carries into the sign and becomes -0."),
        Misconception("ties up, NaN carried over", lambda bits: bits + 0x8000 >> 16 & 0xFFFF, "ties go up instead of to the even code, and the addition carries NaN 0x7FFFFFFF into the sign: it becomes -0."),
    ),
    hints=(
        "BF16 is the upper half of FP32. What decides whether the upper half goes up by one?",
        "Add a number that makes a carry into bit 16 exactly when the dropped half is more than 0x8000, or equal to it with an odd upper half.",
        "return (bits + 0x7FFF + (bits >> 16 & ___)) >> 16   # after taking care of NaN",
    ),
)

EXERCISES = (DECODE, BIAS, LIMITS, DECODE_E4M3, TO_BF16)
