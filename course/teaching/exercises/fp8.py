"""Exercises of notebook 09: the scale of a tensor, an MX block, the two scales of NVFP4, delayed scaling, a product of scaled blocks."""

import math

from course.numerics import E2M1, E4M3, E5M2

from .model import Exercise, Misconception


def near(got, wanted) -> bool:
    """Equality up to the last digits: the same quotients may be taken in another order."""
    if isinstance(wanted, (list, tuple)):
        return len(got) == len(wanted) and all(map(near, got, wanted))
    got, wanted = float(got), float(wanted)
    return math.isclose(got, wanted, rel_tol=1e-9, abs_tol=0.0) or (math.isnan(got) and math.isnan(wanted))


def saturating(fmt):
    """The function that rounds one number to a format, nearest-even, and stays at the largest number."""

    def rounded(x: float) -> float:
        return fmt.decode(fmt.encode(x, overflow="saturate"))

    return rounded


# ---- 09-1


def compute_scale(values: list, fmt, old: float) -> float:
    amax = max(abs(v) for v in values)
    if amax == 0 or not all(math.isfinite(v) for v in values):
        return old
    return fmt.max / amax


def _scale(answer, empty=lambda values, fmt, old: old):
    """Another scale where there is a finite amax above zero, and another answer where there is none."""

    def solve(values, fmt, old):
        amax = max(abs(v) for v in values)
        if amax == 0 or not all(math.isfinite(v) for v in values):
            return empty(values, fmt, old)
        return answer(values, amax, fmt)

    return solve


def _right(values, amax, fmt):
    return fmt.max / amax


def _infinite(values, fmt, old):
    return old if any(values) else math.inf


def _spoilt(values, fmt, old):
    if not any(values):
        return old
    return math.nan if any(map(math.isnan, values)) else 0.0


def _plain_max(values, fmt, old):
    amax = max(map(abs, values))
    return fmt.max / amax if 0 < amax < math.inf else old


def _ieee_max(fmt):
    return (2 - 2.0**-fmt.mantissa_bits) * 2.0 ** (2**fmt.exponent_bits - 2 - fmt.bias)


SCALE = Exercise(
    id="09-1",
    title="the number to multiply a tensor with before it is rounded to FP8 (current scaling)",
    difficulty="easy",
    minutes=6,
    why="The largest magnitude lands on the format's largest number, 448 or 57344, and what has no amax above zero and finite leaves the scale alone.",
    reference=compute_scale,
    cases=(
        ([1.0, -3.5, 0.25], E4M3, 1.0), ([1.0, -3.5, 0.25], E5M2, 1.0), ([2.0, 7.0], E4M3, 1.0), ([0.0, 0.0], E4M3, 64.0), ([448.0], E4M3, 1.0),
        ([1e-6, -2e-6, 0.0], E5M2, 8.0), ([1.0, math.inf], E4M3, 32.0), ([math.nan, 1.0], E4M3, 16.0), ([-0.3, 0.1, 0.2], E4M3, 2.0), ([3.0, math.nan], E5M2, 4.0),
        ([30.0, -1e4, 7.0], E4M3, 1.0), ([5.0, 5.0, -5.0], E5M2, 2.0), ([0.7], E4M3, 1.0), ([-0.9, 0.3], E5M2, 1.0), ([600.0, -2.0], E4M3, 0.5),
        ([-7e4, 6e4], E5M2, 1.0), ([1e-9, 0.0, -3e-9], E4M3, 1.0), ([0.02, -0.05, 0.01], E4M3, 4.0), ([12.0, -11.0], E4M3, 1.0), ([-2.5, -1.5], E5M2, 1.0),
    ),  # fmt: skip
    same=near,
    show=lambda values, fmt, old: f"values {values}, {fmt.name}, old scale {old}",
    misconceptions=(
        Misconception("the inverse", _scale(lambda values, amax, fmt: amax / fmt.max), "this is what the result is multiplied with afterwards. Before rounding it is fmt.max / amax, so that amax becomes fmt.max."),
        Misconception("the largest power of two", _scale(lambda values, amax, fmt: 2.0 ** math.floor(math.log2(fmt.max)) / amax), "2^emax (256 for E4M3) leaves the top of the last binade unused: the largest number is fmt.max, 448."),
        Misconception("the largest signed number", lambda values, fmt, old: compute_scale([max(values)], fmt, old) if all(map(math.isfinite, values)) else old, "max(values) forgets the sign: −3.5 is larger in magnitude than 1, and would saturate. Take abs first."),
        Misconception("zeros give Inf", _scale(_right, _infinite), "a tensor of zeros gets an infinite scale, and 0 × Inf is NaN. Keep the old scale."),
        Misconception("Inf or NaN gets into the scale", _scale(_right, _spoilt), "one Inf makes the scale 0, one NaN makes it NaN, and from then on the whole tensor is lost. Keep the old scale. (max() may overlook a NaN: test the values.)"),
        Misconception("Inf gives a scale of 0", lambda values, fmt, old: fmt.max / amax if (amax := max(map(abs, values))) else old, "an amax of 0 is caught, one of Inf is not: its scale is 0, and the tensor is lost. A NaN has no place in the scale either. Keep the old one."),
        Misconception("a NaN is overlooked", _plain_max, "a NaN hides here: max() compares, every comparison with NaN is false, and so it depends on the place of the NaN whether max() finds it. Test each value with math.isfinite."),
        Misconception("back to 1", _scale(_right, lambda values, fmt, old: 1.0), "where there is nothing to measure, the old scale is a better guess than 1."),
        Misconception("the mean magnitude", _scale(lambda values, amax, fmt: fmt.max / (sum(map(abs, values)) / len(values))), "scaled by the mean, whatever is larger than the mean saturates. It is the maximum that has to fit."),
        Misconception("a power of two", _scale(lambda values, amax, fmt: 2.0 ** math.floor(math.log2(fmt.max / amax))), "rounded down to a power of two: some recipes do that, so that multiplying is exact. Here the whole range is asked for."),
        Misconception("ends at 240", _scale(lambda values, amax, fmt: _ieee_max(fmt) / amax), "(2 − 2⁻³) · 2⁷ = 240 is where an IEEE format of these widths would end. E4M3 uses its top exponent for numbers: fmt.max is 448."),
        Misconception("448 for every format", _scale(lambda values, amax, fmt: 448.0 / amax), "448 is the end of E4M3. E5M2 goes on to 57344: take fmt.max."),
        Misconception("half of the range", _scale(lambda values, amax, fmt: fmt.max / amax / 2), "half of what is asked: this is a margin of 1 (a factor of 2), which delayed scaling may want and current scaling does not need."),
    ),
    hints=(
        "After multiplying, the largest magnitude should be fmt.max. Which values have no such magnitude?",
        "Take the maximum of abs(v). If it is 0, or any value is Inf or NaN, return old.",
        "amax = max(abs(v) for v in values); ... return ___ / ___",
    ),
)

# ---- 09-2


def mx_block(values: list, fmt, rounded) -> tuple[int, list]:
    amax = max(abs(v) for v in values)
    exponent = -127
    if amax > 0:
        exponent = math.frexp(amax)[1] - math.frexp(fmt.max)[1]
        exponent = max(-127, min(127, exponent))
    return exponent, [rounded(v / 2.0**exponent) for v in values]


def _mx(rule=lambda amax, fmt: math.frexp(amax)[1] - math.frexp(fmt.max)[1], clamp=True, zero=-127, largest=lambda values: max(map(abs, values)), back=False, turned=False):
    """An MX block with another exponent, without the borders of E8M0, with another zero, or multiplied instead of divided."""

    def solve(values, fmt, rounded):
        amax = largest(values)
        exponent = rule(amax, fmt) if amax > 0 else zero
        exponent = max(-127, min(127, exponent)) if clamp else exponent
        factor = math.ldexp(1.0, exponent if not turned else -exponent)
        elements = [rounded(v / factor) for v in values]
        return exponent, [e * factor for e in elements] if back else elements

    return solve


def _log2(x):
    return math.frexp(x)[1] - 1


_CASES = (
    [500.0, 1.0, -3.0, 0.5], [448.0, 449.0, -1.0], [1.0, 0.5, 0.3, -0.7], [6.0, -5.0, 2.0, 0.4], [7.9, 1.0, 3.3], [0.0, 0.0, 0.0], [-9.0, 2.0, 1.0],
    [2.0**-140, 2.0**-141, 0.0], [3e38, 1e30, -1e37], [0.1, 0.01, 0.001], [256.0, 255.0], [-0.02, 0.019, 0.013],
)  # fmt: skip

MX = Exercise(
    id="09-2",
    title="an MX block: the exponent of its scale by the specification's rule, and its elements",
    difficulty="medium",
    minutes=12,
    why="The scale is a bare power of two, so it can only bring amax into the format's last binade: what lies beyond fmt.max there saturates, which is the price of the floor.",
    reference=mx_block,
    cases=tuple((values, fmt, saturating(fmt)) for values in _CASES for fmt in (E4M3, E2M1)),
    show=lambda values, fmt, rounded: f"{values} in {fmt.name}",
    remark=lambda got, wanted: "return both: the exponent of the scale and the list of elements." if isinstance(got, (int, float, list)) else "",
    misconceptions=(
        Misconception("rounds the exponent up", _mx(lambda amax, fmt: _log2(amax) + (math.frexp(amax)[0] != 0.5) - _log2(fmt.max)), "log₂ amax is rounded up: nothing saturates then, but the specification's rule is the floor, and these blocks use half the range."),
        Misconception("just large enough", _mx(lambda amax, fmt: math.ceil(math.log2(amax / fmt.max))), "the least exponent at which nothing saturates: NVIDIA's libraries do that. The specification takes floor(log₂ amax) − emax."),
        Misconception("the floor of the quotient", _mx(lambda amax, fmt: math.floor(math.log2(amax / fmt.max))), "floor(log₂(amax / fmt.max)) is one less where amax has a smaller mantissa than fmt.max, so that much saturates. Each logarithm is rounded down on its own: floor(log₂ amax) − floor(log₂ fmt.max)."),
        Misconception("E4M3's emax for every format", _mx(lambda amax, fmt: _log2(amax) - 8), "8 is the exponent of E4M3's largest number. E2M1 ends at 6 = 1.5 · 2², its emax is 2: take it from fmt.max."),
        Misconception("elements that are not rounded", lambda values, fmt, rounded: mx_block(values, fmt, lambda x: x), "the elements are values / 2^exponent, but they have to be numbers of fmt: put each through rounded."),
        Misconception("the scale, not its exponent", lambda values, fmt, rounded: (2.0 ** mx_block(values, fmt, rounded)[0], mx_block(values, fmt, rounded)[1]), "the first item is the scale itself. What E8M0 stores, and what is asked for, is its exponent."),
        Misconception("forgets emax", _mx(lambda amax, fmt: _log2(amax)), "amax is brought to 1 … 2, and most of the format's range lies idle: subtract emax, the exponent of fmt.max (8 for E4M3, 2 for E2M1)."),
        Misconception("emax rounded up", _mx(lambda amax, fmt: _log2(amax) - math.ceil(math.log2(fmt.max))), "emax is the exponent of fmt.max, rounded down: 448 = 1.75 · 2⁸ gives 8, not 9. One too many, and a whole binade saturates."),
        Misconception("the bias instead of emax", _mx(lambda amax, fmt: _log2(amax) - fmt.bias), "the bias is not the largest exponent: E4M3 has bias 7 and reaches 2⁸, E2M1 has bias 1 and reaches 2²."),
        Misconception("leaves E8M0", _mx(clamp=False), "E8M0 holds the exponents −127 … 127 only: clamp."),
        Misconception("a block of zeros gets scale 1", _mx(zero=0), "without an amax the specification's floor goes down as far as it can: the exponent is −127. (Any scale would do for the zeros; the code has to be fixed.)"),
        Misconception("the largest signed number", _mx(largest=max), "max(values) forgets the sign: take abs first."),
        Misconception("multiplies by the scale", _mx(turned=True), "an element is the value divided by the scale 2^exponent; the scale is what it is multiplied with on the way back."),
        Misconception("already dequantised", _mx(back=True), "the elements are numbers of fmt; multiplying them by the scale is the way back."),
    ),
    hints=(
        "The exponent of the scale is the exponent of amax minus the exponent of fmt.max, each rounded down.",
        "math.frexp(x)[1] − 1 is floor(log₂ x), without a rounding error. Clamp to −127 … 127; an amax of 0 gives −127.",
        "exponent = math.frexp(amax)[1] - math.frexp(___)[1]; elements = [rounded(v / ___) for v in values]",
    ),
)

# ---- 09-3


def nvfp4_scales(amaxes: list, rounded) -> tuple[float, list]:
    tensor_scale = max(amaxes) / (448 * 6)
    return tensor_scale, [rounded(amax / 6 / tensor_scale) for amax in amaxes]


def _nvfp4(tensor=lambda amaxes: max(amaxes) / (448 * 6), block=lambda amax, scale, rounded: rounded(amax / 6 / scale)):
    def solve(amaxes, rounded):
        scale = tensor(amaxes)
        return scale, [block(amax, scale, rounded) for amax in amaxes]

    return solve


NVFP4 = Exercise(
    id="09-3",
    title="the two levels of scales of NVFP4",
    difficulty="hard",
    minutes=10,
    why="Six is the last number of FP4, 448 that of the block scales: the tensor's scale brings the largest block scale to 448, and each block scale its block's amax to about 6.",
    reference=nvfp4_scales,
    cases=tuple((amaxes, saturating(E4M3)) for amaxes in (
        [1.0, 0.5, 0.25], [2688.0, 6.0, 60.0], [3.0], [0.7, 0.33, 0.11, 0.05], [1e-6, 3e-7, 9e-7], [100.0, 99.0, 13.0, 7.0], [5.0, 5.0], [12.0, 1.1, 3.7, 0.9, 8.8],
    )),  # fmt: skip
    same=lambda got, wanted: len(got) == 2 and near(got[0], wanted[0]) and near(list(got[1]), wanted[1]),
    show=lambda amaxes, rounded: f"amaxes of the blocks {amaxes}",
    remark=lambda got, wanted: "return both: the tensor's scale and the list of block scales." if isinstance(got, (int, float, list)) else "",
    misconceptions=(
        Misconception("the tensor's scale for FP4 alone", _nvfp4(tensor=lambda amaxes: max(amaxes) / 6), "with amax / 6 the largest block scale is 1, and E4M3's room up to 448 lies idle: divide by 448 · 6."),
        Misconception("the tensor's scale for FP8 alone", _nvfp4(tensor=lambda amaxes: max(amaxes) / 448), "the elements are FP4 and reach 6, on top of the block scale's 448: divide by 448 · 6."),
        Misconception("blocks without the tensor's scale", _nvfp4(block=lambda amax, scale, rounded: rounded(amax / 6)), "the block scale is stored relative to the tensor's: divide amax / 6 by it, or small tensors underflow in E4M3."),
        Misconception("block scales that are not rounded", _nvfp4(block=lambda amax, scale, rounded: amax / 6 / scale), "a block scale is stored in E4M3: it has to go through rounded."),
        Misconception("powers of two", _nvfp4(block=lambda amax, scale, rounded: 2.0 ** math.floor(math.log2(amax / 6 / scale))), "powers of two are the scales of MX. NVFP4's block scales are E4M3 numbers, which fit more closely."),
        Misconception("forgets that FP4 reaches 6", _nvfp4(block=lambda amax, scale, rounded: rounded(amax / scale)), "the block's amax is to become 6, FP4's largest number, not 1: divide by 6 as well."),
        Misconception("largest powers of two", _nvfp4(tensor=lambda amaxes: max(amaxes) / (256 * 4)), "256 and 4 are the largest powers of two; the largest numbers are 448 and 6."),
        Misconception("block multipliers", _nvfp4(block=lambda amax, scale, rounded: rounded(6 * scale / amax)), "the tensor's scale is right; a block's is upside down. It is what an element is multiplied with on the way back: amax / 6 / tensor scale."),
        Misconception("multipliers instead of scales", _nvfp4(tensor=lambda amaxes: 448 * 6 / max(amaxes), block=lambda amax, scale, rounded: rounded(amax / 6 * scale)), "448 · 6 / amax is the number to multiply with before rounding; stored is its inverse, which dequantises."),
    ),
    hints=(
        "A number is element · block scale · tensor scale, and at the very top 6 · 448 · tensor scale.",
        "tensor scale = largest amax / (448 · 6). A block's scale takes what is left: amax / 6 / tensor scale, rounded to E4M3.",
        "return tensor_scale, [rounded(amax / ___ / ___) for amax in amaxes]",
    ),
)

# ---- 09-4


def delayed_scales(amaxes: list, fmt, length: int) -> list:
    history, scale, used = [], 1.0, []
    for amax in amaxes:
        used.append(scale)
        history = [*history, amax][-length:]
        if max(history) > 0:
            scale = fmt.max / max(history)
    return used


def _delayed(chosen=lambda history, length: max(history[-length:]), first=1.0, over=lambda fmt, amax: fmt.max / amax, late=1):
    """Delayed scaling with another amax chosen from the whole history, another start, another quotient, another delay."""

    def solve(amaxes, fmt, length):
        scales = [first]
        for step in range(1, len(amaxes) + 1):
            amax = chosen(amaxes[:step], length)
            scales.append(over(fmt, amax) if amax > 0 else scales[-1])
        return (scales[1:] if late == 0 else [first] * (late - 1) + scales)[: len(amaxes)]

    return solve


DELAYED = Exercise(
    id="09-4",
    title="the scale that each step uses under delayed scaling",
    difficulty="medium",
    minutes=10,
    why="Each step is scaled by what the steps before it were; its own amax is known too late, and goes into the history for the next ones.",
    reference=delayed_scales,
    cases=(
        ([1.0, 1.0, 1.0], E4M3, 4), ([1.0, 4.0, 1.0, 1.0, 1.0], E4M3, 2), ([2.0, 64.0, 2.0, 2.0, 2.0, 2.0], E4M3, 3), ([0.5, 0.25, 0.125, 0.0625], E5M2, 2),
        ([0.0, 0.0, 3.0, 1.0], E4M3, 3), ([8.0, 1.0, 2.0, 4.0, 1.0, 1.0, 1.0], E4M3, 1), ([5.0], E4M3, 16), ([1.0, 0.0, 0.0, 0.0, 2.0], E4M3, 2),
        ([3.0, 1.0, 2.0, 1.0, 1.0, 1.0, 7.0, 1.0], E4M3, 4), ([1.0, 2.0, 3.0, 4.0, 5.0], E5M2, 3), ([], E4M3, 2),
    ),  # fmt: skip
    same=near,
    show=lambda amaxes, fmt, length: f"amaxes {amaxes}, {fmt.name}, a history of {length}",
    remark=lambda got, wanted: f"{len(got)} scales for {len(wanted)} steps: write down the scale that each step uses." if isinstance(got, list) and len(got) != len(wanted) else "",
    misconceptions=(
        Misconception("current scaling", _delayed(chosen=lambda history, length: history[-1], late=0), "this looks at the step's own amax: it is current scaling, which never bites and costs one more pass over the tensor."),
        Misconception("the step is in its own history", _delayed(late=0), "the step's own amax goes into the history before the scale is taken: it is known only when the step is over."),
        Misconception("the most recent amax only", _delayed(chosen=lambda history, length: history[-1]), "only the last step counts here. That rule exists (most_recent), but this history keeps `length` of them and takes the largest."),
        Misconception("nothing is ever forgotten", _delayed(chosen=lambda history, length: max(history)), "the largest of all steps: what is older than `length` steps has to drop out, or one spike holds the scale down for good."),
        Misconception("one step too short", _delayed(chosen=lambda history, length: max(history[-max(1, length - 1) :])), "the history forgets one step too early: it holds `length` of them."),
        Misconception("one step too long", _delayed(chosen=lambda history, length: max(history[-length - 1 :])), "the history holds one step too many: drop the oldest when there are more than `length`."),
        Misconception("the smallest amax", _delayed(chosen=lambda history, length: min(history[-length:])), "the smallest amax gives the largest scale, under which every larger step saturates: take the maximum."),
        Misconception("the mean amax", _delayed(chosen=lambda history, length: sum(history[-length:]) / len(history[-length:])), "a mean lies below the maximum, so that a part of the steps saturates: take the maximum."),
        Misconception("the inverse", _delayed(over=lambda fmt, amax: amax / fmt.max), "amax / fmt.max is what the result is multiplied with afterwards. The scale is fmt.max / amax."),
        Misconception("zeros set it back", lambda amaxes, fmt, length: [fmt.max / most if (most := max(amaxes[max(0, i - length) : i], default=0)) else 1.0 for i in range(len(amaxes))], "where the whole history is zero, the scale goes back to 1 here: keep the last scale, there is nothing newer to go by."),
        Misconception("two steps late", _delayed(late=2), "a step later than need be: the amax of step n can serve step n + 1."),
    ),
    hints=(
        "What is known when a step begins? Write the scale down before you look at its amax.",
        "Keep the last `length` amaxes. After each step: scale = fmt.max / largest of them, unless that is 0.",
        "for amax in amaxes: used.append(scale); history = [*history, amax][___:]; if max(history) > 0: scale = ___",
    ),
)

# ---- 09-5


def blocked_dot(a: list, b: list, scales_a: list, scales_b: list, block: int) -> float:
    total = 0.0
    for i, (scale_a, scale_b) in enumerate(zip(scales_a, scales_b)):
        start = i * block
        part = sum(x * y for x, y in zip(a[start : start + block], b[start : start + block]))
        total += part / (scale_a * scale_b)
    return total


def _blocked(part):
    """A sum over blocks of what `part(sum of products, scale of a, scale of b)` makes of each."""

    def solve(a, b, scales_a, scales_b, block):
        sums = [sum(x * y for x, y in zip(a[i : i + block], b[i : i + block])) for i in range(0, len(a), block)]
        return sum(part(total, x, y) for total, x, y in zip(sums, scales_a, scales_b))

    return solve


def _after_the_sum(scale):
    def solve(a, b, scales_a, scales_b, block):
        return sum(x * y for x, y in zip(a, b)) / scale(scales_a, scales_b)

    return solve


DOT = Exercise(
    id="09-5",
    title="a dot product of two quantised vectors whose blocks have scales of their own",
    difficulty="medium",
    minutes=8,
    why="One scale for a tensor or a row can wait until the sum is finished. Scales along the sum cannot: each block's partial sum has to be rescaled before it is added.",
    reference=blocked_dot,
    cases=(
        ([1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 1.0, 1.0], [2.0, 8.0], [4.0, 1.0], 2), ([448.0, -16.0], [2.0, 3.0], [64.0], [2.0], 2),
        ([1.0, -1.0, 2.0, 2.0, 5.0, 1.0], [3.0, 1.0, -2.0, 4.0, 0.5, 8.0], [1.0, 16.0, 0.5], [32.0, 2.0, 4.0], 2), ([6.0, 1.0, 0.0, -4.0], [1.5, 2.0, 3.0, 4.0], [8.0, 2.0], [0.25, 4.0], 2),
        ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [2.0, 4.0, 8.0], [1.0, 2.0, 4.0], 1), ([2.0, 2.0, 2.0, 2.0], [1.0, 1.0, 1.0, 1.0], [448.0], [224.0], 4),
        ([7.0, 1.0, 1.0, 7.0], [1.0, 2.0, 2.0, 1.0], [1.0, 128.0], [128.0, 1.0], 2),
    ),  # fmt: skip
    same=near,
    show=lambda a, b, scales_a, scales_b, block: f"a = {a}, b = {b}, scales {scales_a} and {scales_b}, blocks of {block}",
    misconceptions=(
        Misconception("multiplies by the scales", _blocked(lambda total, x, y: total * x * y), "the operands were multiplied by their scales before rounding: divide the partial sum by both."),
        Misconception("only one of the scales", _blocked(lambda total, x, y: total / x), "each product carries both scales, a's and b's: divide by their product."),
        Misconception("only b's scales", _blocked(lambda total, x, y: total / y), "each product carries both scales, a's and b's: divide by their product."),
        Misconception("no scale at all", _blocked(lambda total, x, y: total), "this is the product of the codes: the scales have to be taken out again."),
        Misconception("the first block's scale for all", _after_the_sum(lambda x, y: x[0] * y[0]), "the scales of the first block are applied to the whole sum: each block has its own, so each partial sum is rescaled before it is added."),
        Misconception("mean scales after the sum", _after_the_sum(lambda x, y: sum(x) / len(x) * sum(y) / len(y)), "a mean of scales after the sum: what was scaled differently cannot be added first. Rescale each partial sum."),
        Misconception("the sum of the scales", _blocked(lambda total, x, y: total / (x + y)), "scales multiply: (x · sa) · (y · sb) is x · y · sa · sb."),
        Misconception("the square root", _blocked(lambda total, x, y: total / math.sqrt(x * y)), "each operand was multiplied by its whole scale: divide by the product, not by its root."),
    ),
    hints=(
        "Each entry of a was multiplied by its block's scale, each entry of b too. What does a product of the two carry?",
        "Sum the products of one block, divide by scale_a · scale_b of this block, then add to the total.",
        "total += part / (___ * ___), once for each block",
    ),
)

EXERCISES = (SCALE, MX, NVFP4, DELAYED, DOT)
