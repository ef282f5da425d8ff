"""Exercises of notebook 11: a symmetric grid, an asymmetric one, SmoothQuant's factors, a product of integers, training on a grid."""

import math

from .fp8 import near
from .model import Exercise, Misconception

# ---- 11-1


def symmetric(values: list, bits: int) -> tuple[float, list]:
    end = 2 ** (bits - 1) - 1
    scale = max(abs(v) for v in values) / end or 1.0
    return scale, [round(v / scale) for v in values]


def _symmetric(end=lambda bits: 2 ** (bits - 1) - 1, amax=lambda values: max(map(abs, values)), code=round):
    def solve(values, bits):
        scale = amax(values) / end(bits) or 1.0
        return scale, [code(v / scale) for v in values]

    return solve


def _scale_of_zeros(values, bits):
    scale, codes = symmetric(values, bits)
    return (scale, codes) if any(values) else (0.0, codes)


def _upside_down(values, bits):
    scale, codes = symmetric(values, bits)
    return 1 / scale, codes


def _back_again(values, bits):
    scale, codes = symmetric(values, bits)
    return scale, [code * scale for code in codes]


def _spread(values, bits):
    scale = (max(values) - min(values)) / (2**bits - 1) or 1.0
    return scale, [round(v / scale) for v in values]


def _plain(got):
    """What to say of tensors, or "": their FP32 is not what a list of Python's numbers is compared with."""
    parts = [got, *got] if isinstance(got, (tuple, list)) else [got]
    return "these are tensors: return plain numbers, .item() and .tolist(), worked out in Python's floats." if any(hasattr(part, "tolist") for part in parts) else ""


def _about_symmetric(got, wanted):
    return _plain(got) or ("return both: the scale and the list of codes." if isinstance(got, (int, float, list)) else "")


SYMMETRIC = Exercise(
    id="11-1",
    title="a row of numbers on a symmetric integer grid: its scale and its codes",
    difficulty="easy",
    minutes=6,
    why="The largest magnitude gets the code 2^(bits−1) − 1, 127 or 7, everything else the nearest code; ties go to the even one. One code, −128 or −8, stays unused, so that −x has the code of x negated.",
    reference=symmetric,
    cases=(
        ([0.1, -0.3, 1.0], 4), ([127.0, 63.5, 62.5, -1.4], 8), ([0.0, 0.0], 8), ([-3.0, 1.0, 2.0], 4), ([7.0, 2.5, -0.5, 0.5], 4), ([1.0, -0.9, 0.35], 2),
        ([0.02, -0.05, 0.01, 0.049], 8), ([5.0], 3), ([-0.7, -0.2], 8), ([1e-8, 2e-8], 4), ([100.0, 0.3, -0.5], 8), ([3.0, 1.5, -1.5, 0.4], 3),
    ),
    same=near,
    show=lambda values, bits: f"values {values}, {bits} bits",
    remark=_about_symmetric,
    misconceptions=(
        Misconception("2^(bits−1) steps", _symmetric(end=lambda bits: 2 ** (bits - 1)), "divided by 2^(bits−1), 128 or 8: the largest positive number would get a code that does not exist. The last one is 2^(bits−1) − 1."),
        Misconception("all codes on one side", _symmetric(end=lambda bits: 2**bits - 1), "2^bits − 1 steps from 0 to amax: half of the codes are needed for negative numbers."),
        Misconception("from end to end", _spread, "(max − min) / (2^bits − 1) is the gap of an asymmetric grid, which goes from the smallest number to the largest. A symmetric one goes from −amax to amax."),
        Misconception("the largest signed number", _symmetric(amax=max), "max(values) forgets the sign: a row whose largest magnitude is negative gets codes beyond the end. Take abs first."),
        Misconception("cuts toward zero", _symmetric(code=int), "int() cuts: the error goes up to a whole step, and always toward zero. Round to the nearest code."),
        Misconception("ties go up", _symmetric(code=lambda x: math.floor(x + 0.5)), "floor(x + 0.5) sends every tie up, so that −x no longer has the code of x negated. round() sends ties to the even code."),
        Misconception("always down", _symmetric(code=math.floor), "floor rounds every number down, negative ones away from zero: all codes are half a step too low on average."),
        Misconception("a row of zeros", _scale_of_zeros, "a scale of 0 cannot be divided by: a row of zeros gets the scale 1."),
        Misconception("the inverse", _upside_down, "this is what numbers are multiplied with on the way in. The scale is the gap between two codes: amax divided by the last code."),
        Misconception("no codes, but numbers", _back_again, "these are the numbers that the codes stand for. Return the codes themselves, whole numbers."),
    ),
    hints=(
        "Which code should the largest magnitude get? The scale is the gap between two codes.",
        "end = 2 ** (bits - 1) - 1 is the last code, scale = amax / end. A row of zeros needs a scale that one can divide by.",
        "scale = max(abs(v) for v in values) / ___ or 1.0; return scale, [round(v / ___) for v in values]",
    ),
)

# ---- 11-2


def asymmetric(values: list, bits: int) -> tuple[float, int, list]:
    last = 2**bits - 1
    least, most = min(0.0, *values), max(0.0, *values)
    scale = (most - least) / last or 1.0
    zero = round(-least / scale)
    return scale, zero, [min(last, max(0, round(v / scale) + zero)) for v in values]


def _asymmetric(steps=lambda bits: 2**bits - 1, with_zero=True, zero=lambda least, scale: round(-least / scale), code=lambda v, scale, zero: round(v / scale) + zero, clamp=True):
    def solve(values, bits):
        least, most = (min(0.0, *values), max(0.0, *values)) if with_zero else (min(values), max(values))
        scale = (most - least) / steps(bits) or 1.0
        place = zero(least, scale)
        codes = [code(v, scale, place) for v in values]
        return scale, place, [min(2**bits - 1, max(0, c)) for c in codes] if clamp else codes

    return solve


def _signed(values, bits):
    scale, zero, codes = asymmetric(values, bits)
    return scale, zero - 2 ** (bits - 1), [code - 2 ** (bits - 1) for code in codes]


def _from_least(values, bits):
    scale, zero, _ = asymmetric(values, bits)
    return scale, zero, [min(2**bits - 1, max(0, round((v - min(0.0, *values)) / scale))) for v in values]


ASYMMETRIC = Exercise(
    id="11-2",
    title="a row of numbers on an asymmetric grid: scale, code of zero, and codes",
    difficulty="medium",
    minutes=8,
    why="The grid spans from the smallest number to the largest, 0 included, and moves so that 0 has a whole code: then padding, ReLU's zeros and dropped values are exact. After a ReLU this is one bit more than a symmetric grid gives.",
    reference=asymmetric,
    cases=(
        ([0.0, 1.0, 3.0], 2), ([-1.0, 2.0], 8), ([0.5, 3.0, 6.0], 4), ([-2.0, -1.0], 4), ([0.0, 0.0], 8), ([-0.3, 0.7, 0.2], 4), ([-0.55, 0.95, 0.1], 4),
        ([10.0, 12.0, 15.0], 8), ([-1.0, 1.0, 0.26], 3), ([-4.1, 11.2, 3.0, 0.0], 8), ([-0.1, 5.9, 5.9], 2), ([-5.5, -0.2, 2.0], 4),
    ),
    same=near,
    show=lambda values, bits: f"values {values}, {bits} bits",
    remark=lambda got, wanted: _plain(got) or "return three things: scale, zero, codes." if _plain(got) or isinstance(got, (tuple, list, float)) and (isinstance(got, float) or len(got) != 3) else "",
    misconceptions=(
        Misconception("the range without zero", _asymmetric(with_zero=False), "from the smallest to the largest number, without 0: where all numbers lie on one side, 0 falls off the grid, and it has to be exact."),
        Misconception("2^bits steps", _asymmetric(steps=lambda bits: 2**bits), "2^bits codes have 2^bits − 1 steps between them."),
        Misconception("steps of the symmetric grid", _asymmetric(steps=lambda bits: 2 ** (bits - 1) - 1), "2^(bits−1) − 1 is the last code of the symmetric grid. Here all the codes from 0 on are used, 2^bits − 1 steps."),
        Misconception("zero is not whole", _asymmetric(zero=lambda least, scale: -least / scale, code=lambda v, scale, zero: round(v / scale + zero)), "the code of zero has to be whole, otherwise no code stands for exactly 0: round it."),
        Misconception("zero has the wrong sign", _asymmetric(zero=lambda least, scale: round(least / scale)), "the sign is turned: the smallest number is negative (or 0) and should get the code 0, so zero is −least / scale."),
        Misconception("the smallest number as offset", _asymmetric(zero=lambda least, scale: least), "the zero is a code, counted in steps: divide by the scale."),
        Misconception("codes without the zero", _asymmetric(code=lambda v, scale, zero: round(v / scale)), "the codes are not moved: add zero after rounding, so that negative numbers have codes too."),
        Misconception("the zero is subtracted", _asymmetric(code=lambda v, scale, zero: round(v / scale) - zero), "subtracting zero is the way back. On the way in it is added."),
        Misconception("counted from the smallest number", _from_least, "(v − least) / scale, rounded in one piece: then a number and the zero are not rounded alike, and 0 itself may get another code than zero. Round v / scale, and add the whole zero."),
        Misconception("signed codes", _signed, "signed codes, from −2^(bits−1) on: many libraries store them so, everything moved by 2^(bits−1). Here they count from 0."),
        Misconception("not clamped", _asymmetric(clamp=False), "zero and the quotient are rounded apart, so a code may lie one beyond the end: clamp it to 0 … 2^bits − 1."),
        Misconception("cuts toward zero", _asymmetric(code=lambda v, scale, zero: int(v / scale) + zero), "int() cuts toward zero: round to the nearest code."),
    ),
    hints=(
        "From where to where does the grid go, if 0 has to be on it?",
        "least = min(0, *values), most = max(0, *values); the code that stands for 0 is −least / scale, rounded.",
        "zero = round(___ / scale); codes: min(2**bits - 1, max(0, round(v / scale) ___ zero))",
    ),
)

# ---- 11-3


def smooth(activations: list, weights: list, strength: float) -> list:
    factors = []
    for channel in range(len(activations[0])):
        a = max(abs(row[channel]) for row in activations)
        w = max(abs(row[channel]) for row in weights)
        factors.append(a**strength / w ** (1 - strength) if a and w else 1.0)
    return factors


def _smooth(factor, size=lambda column: max(map(abs, column)), empty=1.0):
    def solve(activations, weights, strength):
        columns = [(size(a), size(w)) for a, w in zip(zip(*activations), zip(*weights))]
        return [factor(a, w, strength) if a > 0 and w > 0 else empty for a, w in columns]

    return solve


def _fair(a, w, strength):
    return a**strength / w ** (1 - strength)


def _by_rows(activations, weights, strength):
    return smooth([[max(map(abs, row))] * len(row) for row in activations[:1]], weights, strength)


def _mean(column):
    return sum(map(abs, column)) / len(column)


SMOOTH = Exercise(
    id="11-3",
    title="SmoothQuant: the factor by which each channel of an activation is divided, and its column of the weight multiplied",
    difficulty="medium",
    minutes=8,
    why="x / s times W · s is x times W. An outlier channel is divided by much and moves, in part, into the weight, whose rows have scales of their own; strength says how much of it.",
    reference=smooth,
    cases=(
        ([[100.0, 1.0], [-50.0, 0.5]], [[1.0, 1.0], [0.25, -4.0]], 0.5), ([[1.0, -9.0]], [[4.0, 1.0]], 0.5), ([[0.0, 2.0]], [[1.0, 3.0]], 0.5), ([[5.0, 2.0]], [[0.0, -2.0]], 0.5),
        ([[16.0, 81.0], [-2.0, 3.0]], [[1.0, 16.0], [-16.0, 2.0]], 0.75), ([[16.0, 3.0]], [[2.0, 5.0]], 1.0), ([[16.0, 3.0]], [[2.0, 5.0]], 0.0), ([[-7.0, 0.1], [2.0, 0.3]], [[-3.0, 0.2], [1.0, 0.1]], 0.5),
    ),
    same=near,
    show=lambda activations, weights, strength: f"activations {activations}, weights {weights}, strength {strength}",
    misconceptions=(
        Misconception("turned round", _smooth(lambda a, w, s: w ** (1 - s) / a**s), "turned round: these factors make the outlier larger. The activation is divided by its factor, so a large channel has a large one."),
        Misconception("strengths exchanged", _smooth(lambda a, w, s: a ** (1 - s) / w**s), "the strengths are exchanged: with strength 1 all of the difficulty moves to the weight, so it is the power of the activation's amax."),
        Misconception("multiplied", _smooth(lambda a, w, s: a**s * w ** (1 - s)), "multiplied: then a channel with a large weight gets a larger weight still. Divide by the weight's part."),
        Misconception("the activation alone", _smooth(lambda a, w, s: a**s), "the weight is not asked: where its column is large already, it should take less."),
        Misconception("all of it", _smooth(lambda a, w, s: a), "this is strength 1: each channel of the activation gets amax 1, and the weight inherits the whole outlier."),
        Misconception("the largest signed number", _smooth(_fair, size=max), "max without abs: a channel that is large and negative is overlooked."),
        Misconception("means instead of maxima", _smooth(_fair, size=_mean), "the mean magnitude: it is the largest number of a channel that dictates the scale."),
        Misconception("one factor for all channels", _by_rows, "one amax for a whole row of the activation: a factor belongs to a channel, which is a column of both matrices."),
        Misconception("a dead channel gets 0", _smooth(_fair, empty=0.0), "a factor of 0 cannot be divided by. Where activation or weight is 0 throughout, there is nothing to move: 1."),
    ),
    hints=(
        "A channel is a column of the activations, and the same column of the weights. What is the largest magnitude in each?",
        "With a and w those two: s = a^strength / w^(1 − strength). Which channels need a special answer?",
        "factors.append(a ** ___ / w ** ___ if a and w else ___)",
    ),
)

# ---- 11-4


def integer_product(a: list, zero: int, scale_a: float, b: list, scale_b: float) -> tuple[int, float]:
    total = sum(x * y for x, y in zip(a, b)) - zero * sum(b)
    return total, total * scale_a * scale_b


def _product(total, scale=lambda x, y: x * y):
    def solve(a, zero, scale_a, b, scale_b):
        found = total(a, zero, b)
        return found, found * scale(scale_a, scale_b)

    return solve


def _whole(a, zero, b):
    return integer_product(a, zero, 1.0, b, 1.0)[0]


def _wrapped(bits):
    return lambda a, zero, b: (_whole(a, zero, b) + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)


def _pairs(a, zero, b):
    products = [x * y for x, y in zip(a, b)]
    sums = (sum(products[i : i + 2]) for i in range(0, len(products), 2))
    return sum(max(-(2**15), min(2**15 - 1, pair)) for pair in sums) - zero * sum(b)


_A, _B = [250, 3, 120, 0, 255, 17], [127, -127, 5, 90, 120, -3]

PRODUCT = Exercise(
    id="11-4",
    title="a product of integers: activations on an asymmetric grid, weights on a symmetric one",
    difficulty="medium",
    minutes=8,
    why="Σ (a − zero) · b = Σ a · b − zero · Σ b. The first sum is what the hardware does, on bytes, in 32 bits; the second depends on the weights alone and is known before; both scales come once, at the end.",
    reference=integer_product,
    cases=tuple((a, zero, x, b, y) for a, zero, x, b, y in (
        ([1, 2], 0, 1.0, [3, 4], 1.0), ([10, 12, 8], 10, 0.5, [1, -2, 3], 0.25), (_A, 128, 0.02, _B, 0.5), ([255] * 8, 0, 0.1, [127] * 8, 0.01), ([0, 255], 128, 0.5, [-127, 127], 2.0),
        ([200, 100], 5, 0.125, [50, -60], 4.0), ([7], 3, 3.0, [-2], 0.5), ([130, 126, 128, 131], 128, 0.01, [5, 6, -7, 0], 0.03), ([255] * 400, 1, 1.0, [127] * 400, 1.0),
    )),
    same=near,
    show=lambda a, zero, x, b, y: f"a {a[:8]}{' …' * (len(a) > 8)}, zero {zero}, scales {x} and {y}, b {b[:8]}",
    remark=lambda got, wanted: "return both: the whole number and the result." if isinstance(got, (int, float)) else "",
    misconceptions=(
        Misconception("the zero is forgotten", _product(lambda a, zero, b: sum(x * y for x, y in zip(a, b))), "this multiplies the codes as they are: a code a stands for (a − zero) · scale."),
        Misconception("the zero is taken off once", _product(lambda a, zero, b: sum(x * y for x, y in zip(a, b)) - zero), "the zero is in every product, each time multiplied by a weight: subtract zero · Σ b."),
        Misconception("zero times the length", _product(lambda a, zero, b: sum(x * y for x, y in zip(a, b)) - zero * len(b)), "zero · n would be right if every weight were 1: subtract zero · Σ b."),
        Misconception("zero times the activations", _product(lambda a, zero, b: sum(x * y for x, y in zip(a, b)) - zero * sum(a)), "the zero belongs to a, so it is multiplied by what a is multiplied with: Σ b, not Σ a."),
        Misconception("a zero for the weights too", _product(lambda a, zero, b: sum((x - zero) * (y - zero) for x, y in zip(a, b))), "the weights are on a symmetric grid: their zero is 0."),
        Misconception("the zero is added", _product(lambda a, zero, b: sum((x + zero) * y for x, y in zip(a, b))), "the sign is turned: a code a stands for (a − zero) · scale."),
        Misconception("scales added", _product(_whole, lambda x, y: x + y), "scales multiply: (a · sa) · (b · sb) is a · b · sa · sb."),
        Misconception("one scale", _product(_whole, lambda x, y: x), "each product carries both scales, that of a and that of b."),
        Misconception("divided by the scales", _product(_whole, lambda x, y: 1 / (x * y)), "a code times its scale is the number: multiply by both scales."),
        Misconception("a sum of 8 bits", _product(_wrapped(8)), "the sum is kept in 8 bits and wraps round: two bytes make a product of 16 bits, many of them need 32."),
        Misconception("a sum of 16 bits", _product(_wrapped(16)), "the sum is kept in 16 bits and wraps round. One product fills them nearly; sums need 32."),
        Misconception("pairs in 16 bits", _product(_pairs), "pairs of products saturate at 16 bits. So do x86 processors without VNNI, but it is not the product."),
    ),
    hints=(
        "What number does a code a stand for, and what a code b? Multiply the two, and sum.",
        "Σ (a − zero) · b is a whole number. Which part of it does not depend on a?",
        "total = sum(x * y for x, y in zip(a, b)) - ___ * sum(___); return total, total * ___ * ___",
    ),
)

# ---- 11-5


def train_on_grid(weight: float, gradient, lr: float, scale: float, steps: int) -> list:
    used = []
    for _ in range(steps):
        on_grid = scale * round(weight / scale)
        used.append(on_grid)
        weight -= lr * gradient(on_grid)
    return used


def _aware(at=lambda weight, on_grid: on_grid, base=lambda weight, on_grid: weight, shown=lambda weight, on_grid: on_grid, slope=1.0, sign=-1):
    def solve(weight, gradient, lr, scale, steps):
        used = []
        for _ in range(steps):
            on_grid = scale * round(weight / scale)
            used.append(shown(weight, on_grid))
            weight = base(weight, on_grid) + sign * slope * lr * gradient(at(weight, on_grid))
        return used

    return solve


def _after(weight, gradient, lr, scale, steps):
    return train_on_grid(weight, gradient, lr, scale, steps + 1)[1:]


def _codes(weight, gradient, lr, scale, steps):
    return [round(value / scale) for value in train_on_grid(weight, gradient, lr, scale, steps)]


def _without_scale(weight, gradient, lr, scale, steps):
    used = []
    for _ in range(steps):
        used.append(round(weight / scale))
        weight -= lr * gradient(used[-1])
    return used


def _at_the_end(weight, gradient, lr, scale, steps):
    for _ in range(steps):
        weight -= lr * gradient(weight)
    return [scale * round(weight / scale)] * steps


def toward(target: float):
    """The gradient of (q − target)² / 2."""
    return lambda q: q - target


AWARE = Exercise(
    id="11-5",
    title="training on a grid with the straight-through estimate: the value that each forward pass reads",
    difficulty="hard",
    minutes=10,
    why="The forward pass reads the weight on the grid; the gradient found there moves the long weight behind it, as if rounding had slope 1. Small steps add up there until the code changes: this is notebook 06's master weight.",
    reference=train_on_grid,
    cases=tuple((w, toward(t), lr, scale, steps) for w, t, lr, scale, steps in (
        (0.0, 1.0, 0.1, 0.5, 12), (0.9, -1.0, 0.2, 0.25, 15), (0.3, 0.3, 0.5, 1.0, 6), (2.0, 0.4, 0.05, 1.0, 20), (-0.6, 0.7, 0.3, 0.5, 10), (0.45, 0.35, 0.15, 0.5, 20), (0.25, 0.1, 0.1, 0.125, 8),
    )),
    same=near,
    show=lambda weight, gradient, lr, scale, steps: f"weight {weight}, target {-gradient(0.0):g}, lr {lr}, scale {scale}, {steps} steps",
    remark=lambda got, wanted: f"{len(got)} values for {len(wanted)} steps." if isinstance(got, list) and len(got) != len(wanted) else "",
    misconceptions=(
        Misconception("the grid value is updated", _aware(base=lambda weight, on_grid: on_grid), "the step starts from the rounded weight: whatever is smaller than half a gap is lost each time, and the weight stands still. Update the long weight."),
        Misconception("the true derivative", _aware(slope=0.0), "the derivative of rounding is 0 nearly everywhere, so nothing moves. Straight through means: use 1 instead."),
        Misconception("the gradient of the long weight", _aware(at=lambda weight, on_grid: weight), "the gradient is taken at the long weight: the run does not see what rounding does. Take it at the value on the grid."),
        Misconception("the long weights", _aware(shown=lambda weight, on_grid: weight), "these are the long weights. The forward pass reads scale · round(weight / scale)."),
        Misconception("the scale is forgotten", _without_scale, "round(weight / scale) is a code. What the forward pass reads, and where the gradient is taken, is scale · code."),
        Misconception("the codes", _codes, "these are the codes. The forward pass reads what they stand for, scale · code."),
        Misconception("the values after the steps", _after, "one step late: the first value is the one that the first forward pass reads, before any update."),
        Misconception("rounded at the end", _at_the_end, "trained without the grid and rounded at the end: that is quantisation after training."),
        Misconception("uphill", _aware(sign=1), "the sign is turned: descent subtracts the gradient."),
        Misconception("the gradient times the scale", lambda weight, gradient, lr, scale, steps: train_on_grid(weight, lambda q: gradient(q) * scale, lr, scale, steps), "the gradient is multiplied by the scale: dividing by it before rounding and multiplying by it afterwards cancel."),
    ),
    hints=(
        "Two weights: a long one that is kept, and its value on the grid, which the forward pass reads.",
        "on_grid = scale * round(weight / scale); the gradient is taken there, and moves weight.",
        "used.append(___); weight -= lr * gradient(___)",
    ),
)

EXERCISES = (SYMMETRIC, ASYMMETRIC, SMOOTH, PRODUCT, AWARE)
