"""Exercises of notebook 07: which dtype comes out, a softmax that holds, a mean of squares, a mask, positions."""

import math

from course.numerics import BF16, FP16, FloatFormat

from .model import Exercise, Misconception


def fp16(x: float) -> float:
    """Round one number to FP16, nearest-even, beyond 65 520 to infinity; NaN stays."""
    return x if math.isnan(x) else FP16.decode(FP16.encode(x))


# ---- 07-1


def dtype_out(policy: str, inputs: list, autocast: str) -> str:
    width = {"FP16": 16, "BF16": 16, "FP32": 32}
    if policy == "lower precision":
        return autocast
    if policy == "fp32":
        return "FP32"
    return max(inputs, key=width.get)  # "widest input", and what is on no list


def _unlisted_lower(policy, inputs, autocast):
    return autocast if policy in ("lower precision", "not listed") else dtype_out(policy, inputs, autocast)


_CALLS = tuple(
    (policy, inputs, autocast)
    for policy in ("lower precision", "fp32", "widest input", "not listed")
    for inputs in (["FP32", "FP32"], ["BF16", "BF16"], ["BF16", "FP32"], ["FP32", "BF16"])
    for autocast in ("BF16",)
) + (("lower precision", ["FP32"], "FP16"), ("not listed", ["FP16"], "FP16"), ("not listed", ["FP32"], "FP16"), ("fp32", ["FP16"], "FP16"))

DTYPE = Exercise(
    id="07-1",
    title="the dtype that an operation writes under autocast",
    difficulty="easy",
    minutes=6,
    why="Autocast touches only what is on its lists. Everything else goes on in the dtype that it is given, so one FP32 tensor, such as a residual stream, keeps all that follows it in FP32.",
    reference=dtype_out,
    cases=_CALLS,
    show=lambda policy, inputs, autocast: f"policy {policy!r}, inputs {inputs}, autocast to {autocast}",
    misconceptions=(
        Misconception("everything is cast down", lambda p, i, a: a, "autocast is no `.half()`: only operations on its first list are cast down."),
        Misconception("what is not listed is cast down", _unlisted_lower, "an operation on no list runs in the dtype that it is given; nothing is cast."),
        Misconception("what is not listed is cast up", lambda p, i, a: "FP32" if p == "not listed" else dtype_out(p, i, a), "an operation on no list runs in the dtype that it is given: BF16 stays BF16."),
        Misconception("fp32 means unchanged", lambda p, i, a: dtype_out("not listed" if p == "fp32" else p, i, a), "operations on the FP32 list are cast *up*, whatever they are given."),
        Misconception("the first input decides", lambda p, i, a: i[0] if p in ("widest input", "not listed") else dtype_out(p, i, a), "of several inputs the widest decides, wherever it stands."),
        Misconception("the shortest input wins", lambda p, i, a: min(i, key={"FP16": 16, "BF16": 16, "FP32": 32}.get) if p in ("widest input", "not listed") else dtype_out(p, i, a), "mixed inputs are promoted to the widest dtype, not to the shortest."),
    ),
    hints=(
        "Three cases: the first list, the FP32 list, and all the rest.",
        "The rest follows torch's type promotion: a BF16 and an FP32 input give FP32.",
        'return max(inputs, key=___)  # for "widest input" and "not listed"',
    ),
)


# ---- 07-2


def softmax(scores: list, rounded) -> list:
    largest = max(scores)
    powers = [rounded(math.exp(rounded(score - largest))) for score in scores]
    total = sum(powers)  # a long accumulator, as kernels have
    return [rounded(power / total) for power in powers]


def _exp(x):
    return math.exp(x) if x < 700 else math.inf


def _naive(scores, rounded):
    powers = [rounded(_exp(score)) for score in scores]
    total = rounded(sum(powers))
    return [_divide(power, total, rounded) for power in powers]


def _divide(a, b, rounded):
    if b == 0 or (math.isinf(a) and math.isinf(b)) or math.isnan(a) or math.isnan(b):
        return math.nan
    return rounded(a / b)


def _by_mean(scores, rounded):
    mean = sum(scores) / len(scores)
    powers = [rounded(_exp(rounded(score - mean))) for score in scores]
    total = sum(powers)
    return [_divide(power, total, rounded) for power in powers]


def _divided_by_largest(scores, rounded):
    powers = [rounded(_exp(score)) for score in scores]
    largest = max(powers)
    powers = [_divide(power, largest, rounded) for power in powers]
    total = sum(powers)
    return [_divide(power, total, rounded) for power in powers]


def _not_rounded(scores, rounded):
    largest = max(scores)
    powers = [math.exp(score - largest) for score in scores]
    return [power / sum(powers) for power in powers]


def _close(got, wanted):
    return len(got) == len(wanted) and all((math.isnan(a) and math.isnan(b)) or a == b for a, b in zip(got, wanted))


SOFTMAX = Exercise(
    id="07-2",
    title="a softmax in FP16 that does not overflow",
    difficulty="medium",
    minutes=8,
    why="Subtracting the largest score changes nothing in exact arithmetic, and makes every exponential at most 1. Every library does it; a softmax written by hand often does not.",
    reference=softmax,
    cases=tuple((scores, fp16) for scores in ([1.0, 2.0, 3.0], [12.0, 0.0, -3.0], [0.3, -0.7, 0.1, 0.9], [100.0, 99.5, 0.0], [-20.0, -21.0], [5.0, 5.0], [40.0, -40.0, 39.0])),
    same=_close,
    show=lambda scores, rounded: f"scores {scores}",
    misconceptions=(
        Misconception("naive", _naive, "exp of a score beyond 11.09 is Inf in FP16, and Inf / Inf is NaN: subtract the largest score first."),
        Misconception("subtracts the mean", _by_mean, "a score may lie far above the mean: only the largest one guarantees that no exponential exceeds 1."),
        Misconception("divides by the largest exponential", _divided_by_largest, "by then it has overflowed already: subtract from the score, before the exponential."),
        Misconception("never rounded", _not_rounded, "here every stored result goes through rounded: the difference, the exponential, the quotient."),
    ),
    hints=(
        "Multiply numerator and denominator by the same e^(-c). Which c is the safest?",
        "c is the largest score: then every exponent is 0 or less.",
        "powers = [rounded(math.exp(rounded(score - ___))) for score in scores]",
    ),
)


# ---- 07-3


def mask_value(fmt: FloatFormat, largest_score: float) -> float:
    return -fmt.decode(fmt.encode(fmt.max - largest_score, "toward-zero"))


def _safe(fmt, largest):
    return mask_value(fmt, largest)


MASK = Exercise(
    id="07-3",
    title="the most negative mask that can be added to any score without overflow",
    difficulty="medium",
    minutes=8,
    why="A mask is added to scores of both signs. The format's own minimum plus a negative score is -Inf, and a row of nothing but -Inf gives NaN.",
    reference=mask_value,
    cases=tuple((fmt, largest) for fmt in (FP16, BF16) for largest in (0.0, 16.0, 100.0, 1000.0)) + ((FP16, 20000.0),),
    same=lambda got, wanted: float(got) == wanted,
    show=lambda fmt, largest: f"{fmt.name}, scores between −{largest} and {largest}",
    misconceptions=(
        Misconception("minus a billion", lambda fmt, largest: -1e9, "-1e9 is beyond FP16: torch refuses to fill with it, and a cast makes it -Inf."),
        Misconception("minus infinity", lambda fmt, largest: -math.inf, "-Inf makes NaN of a row that is masked wholly; and it was to be finite."),
        Misconception("the minimum of the format", lambda fmt, largest: -fmt.max, "the minimum plus a negative score rounds to -Inf once the score is half a gap or more: leave room for it."),
        Misconception("room in the wrong direction", lambda fmt, largest: -fmt.max - largest, "this is beyond the format: the mask has to be less negative than the minimum, by the largest score."),
        Misconception("not a number of the format", lambda fmt, largest: -(fmt.max - largest), "this may be no number of the format, and storing it could round away from zero: take the next one towards zero."),
        Misconception("positive", lambda fmt, largest: mask_value(fmt, largest) * -1, "the sign: a mask has to be very negative."),
    ),
    hints=(
        "The sum of mask and score must not go below −fmt.max, for the most negative score.",
        "−(fmt.max − largest_score), as a number of the format: fmt.encode(x, \"toward-zero\").",
        'return -fmt.decode(fmt.encode(___, "toward-zero"))',
    ),
)


# ---- 07-4


def mean_square(values: list, rounded) -> float:
    largest = max(abs(value) for value in values)
    if largest == 0:
        return 0.0
    scale = 2.0 ** math.frexp(largest)[1]  # a power of two: dividing by it rounds nothing
    squares = [rounded(rounded(value / scale) ** 2) for value in values]
    return sum(squares) / len(squares) * scale**2


def _squares_first(values, rounded):
    return sum(rounded(value * value) for value in values) / len(values)


def _not_scaled_back(values, rounded):
    largest = max(abs(value) for value in values)
    scale = 2.0 ** math.frexp(largest)[1] if largest else 1.0
    return sum(rounded(rounded(value / scale) ** 2) for value in values) / len(values)


def _scaled_back_once(values, rounded):
    largest = max(abs(value) for value in values)
    scale = 2.0 ** math.frexp(largest)[1] if largest else 1.0
    return _not_scaled_back(values, rounded) * scale


def _clipped(values, rounded):
    return sum(min(rounded(value * value), 65504.0) for value in values) / len(values)


MEAN_SQUARE = Exercise(
    id="07-4",
    title="the mean of squares of FP16 numbers, without overflow or underflow",
    difficulty="medium",
    minutes=10,
    why="Squaring doubles the exponent: beyond 256 FP16 has no square, below 2^-12.5 the square is 0. Variances and norms need it, and a power of two takes care of it exactly; converting to FP32 does as well.",
    reference=mean_square,
    cases=tuple((values, fp16) for values in ([1.0, 2.0, 3.0], [300.0, -400.0], [2.0**-14, 2.0**-15], [60000.0, 1.0, 0.5], [0.0, 0.0], [1e-3, 2e-3, -3e-3], [100.0, 0.25, 7.0])),
    same=lambda got, wanted: math.isclose(float(got), wanted, rel_tol=4e-3, abs_tol=0.0),
    show=lambda values, rounded: f"values {values}",
    misconceptions=(
        Misconception("squares first", _squares_first, "a square beyond 65 504 is Inf, one below 2^-25 is 0: bring the numbers near 1 before squaring."),
        Misconception("clips the squares", _clipped, "clipping hides the overflow and gives a wrong number: scale before squaring instead."),
        Misconception("not scaled back", _not_scaled_back, "the result is that of the scaled numbers: multiply by the scale squared."),
        Misconception("scaled back once", _scaled_back_once, "squares were taken after dividing by the scale: multiply by its square."),
    ),
    hints=(
        "Divide by something before squaring, and undo it after the mean. What does a power of two cost in rounding?",
        "2.0 ** math.frexp(largest)[1] is a power of two just above the largest magnitude.",
        "return sum(squares) / len(squares) * ___",
    ),
)


# ---- 07-5


def distinct_positions(count: int, fmt: FloatFormat) -> int:
    return len({fmt.decode(fmt.encode(position)) for position in range(count)})


POSITIONS = Exercise(
    id="07-5",
    title="how many of the positions 0, 1, …, count − 1 a format can tell apart",
    difficulty="easy",
    minutes=5,
    why="Integers are exact up to 2^(m+1) only: 256 in BF16, 2048 in FP16. Beyond, neighbours become one number, more and more of them. Positions are counted in integers or in FP32.",
    reference=distinct_positions,
    cases=((10, BF16), (256, BF16), (257, BF16), (258, BF16), (300, BF16), (1000, BF16), (2048, FP16), (3000, FP16), (8192, BF16)),
    show=lambda count, fmt: f"{count} positions in {fmt.name}",
    misconceptions=(
        Misconception("all of them", lambda count, fmt: count, "beyond 2^(m+1) not every integer is a number of the format."),
        Misconception("stops at the border", lambda count, fmt: min(count, 2 ** (fmt.mantissa_bits + 1) + 1), "beyond the border there are more numbers, only not all integers: every second, then every fourth."),
        Misconception("one mantissa bit too few", lambda count, fmt: len({round(p / max(1, 2 ** (p.bit_length() - fmt.mantissa_bits))) * max(1, 2 ** (p.bit_length() - fmt.mantissa_bits)) for p in range(count)}), "the hidden one counts as a digit: integers are exact up to 2^(m+1), not 2^m."),
        Misconception("truncates", lambda count, fmt: len({fmt.decode(fmt.encode(p, "toward-zero")) for p in range(count)}), "rounding is to nearest: an odd integer may go up to a number that no other integer below reaches."),
    ),
    hints=(
        "Round each integer to the format, and count what is different.",
        "fmt.decode(fmt.encode(position)) is the stored position; a set keeps each value once.",
        "return len({fmt.decode(fmt.encode(position)) for position in ___})",
    ),
)

EXERCISES = (DTYPE, SOFTMAX, MASK, MEAN_SQUARE, POSITIONS)
