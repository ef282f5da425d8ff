"""Exercises of notebook 10: a split of a bit budget, the swamping border, bias and spread of a rounding, refinement, Adam as a filter."""

import math

from course.numerics import BF16

from .model import Exercise, Misconception


def bf16(x: float) -> float:
    """Round one number to BF16, nearest-even, overflow ieee."""
    return BF16.decode(BF16.encode(x))


def near(got, wanted) -> bool:
    """Equality up to the last digits, for numbers and tuples of numbers: the same sum may be taken in another order."""
    if isinstance(wanted, tuple):
        return len(got) == len(wanted) and all(map(near, got, wanted))
    return math.isclose(float(got), wanted, rel_tol=1e-9, abs_tol=1e-12)


# ---- 10-1


def best_split(bits: int, smallest: float, largest: float) -> tuple | None:
    for e in range(2, min(8, bits - 1) + 1):
        m, bias = bits - 1 - e, 2 ** (e - 1) - 1
        if 2.0 ** (1 - bias - m) <= smallest and largest <= (2 - 2.0**-m) * 2.0**bias:
            return e, m
    return None


def _split(low=lambda bias, m: 1 - bias - m, top=lambda bias, m: (2 - 2.0**-m) * 2.0**bias, sign=1, order=range, bias=lambda e: 2 ** (e - 1) - 1):
    """The reference with another lower end (as a power of two), upper end, bias, count of sign bits or order of search."""

    def solve(bits, smallest, largest):
        for e in order(2, min(8, bits - sign) + 1):
            m = bits - sign - e
            if low(bias(e), m) <= math.log2(smallest) and largest <= top(bias(e), m):
                return e, m
        return None

    return solve


SPLIT = Exercise(
    id="10-1",
    title="the split of a bit budget that keeps most mantissa bits and holds two given numbers",
    difficulty="medium",
    minutes=10,
    why="With subnormals each mantissa bit moves the lower end one power of two down; each exponent bit doubles the whole span, so few of them suffice.",
    reference=best_split,
    cases=(
        (16, 6e-8, 65504.0), (16, 5e-8, 65504.0), (16, 6e-8, 65520.0), (8, 2e-5, 50_000.0), (8, 0.002, 240.0), (8, 0.002, 448.0), (8, 0.001, 200.0), (8, 0.05, 15.0), (8, 0.04, 3.9),
        (8, 0.01, 15.5), (6, 0.25, 15.0), (6, 0.05, 20.0), (16, 1e-38, 1e38), (16, 1e-41, 1.0), (16, 0.1, 4.0), (16, 1e-4, 3.5), (12, 1e-5, 100.0), (10, 0.001, 1000.0), (4, 0.5, 3.0), (4, 1e-3, 2.0),
        (9, 3e-5, 60_000.0), (24, 1e-30, 1e30),
    ),
    show=lambda bits, smallest, largest: f"{bits} bits, from {smallest:g} to {largest:g}",
    misconceptions=(
        Misconception("no sign bit", _split(sign=0), "one bit too many was given away: the sign takes one of the budget, so mantissa bits = bits − 1 − exponent bits."),
        Misconception("no subnormals", _split(low=lambda bias, m: 1 - bias), "the lower end is the smallest normal number here. Subnormals reach mantissa-bits powers of two further down: 2^(1 − bias − M)."),
        Misconception("a gap too far down", _split(low=lambda bias, m: -bias - m), "the lower end is a factor of 2 too low: subnormals share the exponent of the smallest normal number, 1 − bias."),
        Misconception("the top exponent holds numbers", _split(top=lambda bias, m: (2 - 2.0**-m) * 2.0 ** (bias + 1)), "the upper end is twice too large: in the pattern of IEEE the last exponent field is for Inf and NaN, and the largest number has exponent = bias."),
        Misconception("a power of two on top", _split(top=lambda bias, m: 2.0**bias), "the upper end is not the largest power of two: the mantissa goes on to (2 − 2^−M) times it."),
        Misconception("one bit past the top", _split(top=lambda bias, m: 2.0 ** (bias + 1)), "the largest number lies one gap below 2^(bias + 1): (2 − 2^−M) · 2^bias."),
        Misconception("bias one too large", _split(bias=lambda e: 2 ** (e - 1)), "the bias is one too large: 2^(E−1) − 1."),
        Misconception("most exponent bits", _split(order=lambda a, b: reversed(range(a, b))), "this is the split with most exponent bits: every exponent bit beyond need costs a mantissa bit, so search from few to many."),
        Misconception("only the upper end", _split(low=lambda bias, m: -math.inf), "the smallest number was not asked for: below half of the format's smallest it would become zero."),
        Misconception("only the lower end", _split(top=lambda bias, m: math.inf), "the largest number was not asked for: it would overflow."),
    ),
    hints=(
        "Try 2, 3, … 8 exponent bits and stop at the first split whose window holds both numbers. What are the two ends of a window?",
        "With bias = 2^(E−1) − 1 the smallest positive number is 2^(1 − bias − M), a subnormal, and the largest (2 − 2^−M) · 2^bias.",
        "for e in range(2, min(8, bits - 1) + 1): m, bias = bits - 1 - e, 2 ** (e - 1) - 1; if 2.0 ** (1 - bias - m) <= smallest and largest <= ___: return e, m",
    ),
)  # fmt: skip


# ---- 10-2


def bits_needed(weight: float, update: float) -> int:
    octave, m = 2.0 ** math.floor(math.log2(weight)), 0
    while octave * 2.0**-m / 2 >= update:
        m += 1
    return m


def _bits(lost):
    """Counts mantissa bits up while `lost(octave, gap, weight, update)` says that the update is lost."""

    def solve(weight, update):
        octave, m = 2.0 ** math.floor(math.log2(weight)), 0
        while lost(octave, octave * 2.0**-m, weight, update):
            m += 1
        return m

    return solve


NEEDED = Exercise(
    id="10-2",
    title="how many mantissa bits a weight needs so that an update of that size, away from zero, still moves it",
    difficulty="easy",
    minutes=6,
    why="The border asks for log₂(weight / update) mantissa bits, less one: a learning rate ten times smaller costs three to four bits more.",
    reference=bits_needed,
    cases=tuple((w, u) for w in (1.0, 1.9, 0.5, 0.3, 0.03, 3.0) for u in (2e-3, 2e-4, 2.0**-9, 2.0**-6, 3e-7)) + ((1.0, 0.5), (1.0, 0.75), (1.5, 2.0)),
    show=lambda weight, update: f"weight = {weight:g}, update = {update:g}",
    misconceptions=(
        Misconception("a whole gap", _bits(lambda octave, gap, w, u: gap >= u), "this asks for a whole gap: nearest rounding moves from just above half a gap on, so one bit fewer does."),
        Misconception("a tie moves", _bits(lambda octave, gap, w, u: gap / 2 > u), "exactly half a gap is a tie, and a tie may stay (from an even number it does): the update has to be larger than that."),
        Misconception("relative to the weight", _bits(lambda octave, gap, w, u: w * gap / octave / 2 >= u), "the gap is the same in the whole octave: it depends on the power of two at or below the weight, not on the weight itself."),
        Misconception("relative, and a tie moves", _bits(lambda octave, gap, w, u: w * gap / octave / 2 > u), "two things: the gap belongs to the power of two at or below the weight, not to the weight itself; and exactly half a gap is a tie, which may stay."),
        Misconception("decimal digits", lambda w, u: max(0, math.ceil(math.log10(w / u))), "these are decimal digits: mantissa bits count factors of two."),
        Misconception("one too many", lambda w, u: bits_needed(w, u) + 1, "one too many: stored mantissa bits are counted, the leading 1 is free."),
        Misconception("one too few", lambda w, u: max(0, bits_needed(w, u) - 1), "one too few: with M stored bits half a gap is octave · 2^(−M−1)."),
        Misconception("log of the ratio", lambda w, u: max(0, math.ceil(math.log2(w / u))), "log₂(weight / update) is not the answer yet: half a gap is enough, and the gap belongs to the power of two at or below the weight."),
    ),
    hints=(
        "How far apart are the numbers of a format with M mantissa bits around the weight?",
        "The gap is 2^floor(log₂ weight) · 2^−M, and the update must be larger than half of it.",
        "m = 0; while octave * 2.0**-m / 2 >= ___: m += 1",
    ),
)  # fmt: skip


# ---- 10-3


def bias_and_spread(x: float, outcomes: list) -> tuple:
    mean = sum(chance * value for value, chance in outcomes)
    variance = sum(chance * (value - mean) ** 2 for value, chance in outcomes)
    return mean - x, math.sqrt(variance)


def _about(x, outcomes):
    return math.sqrt(sum(chance * (value - x) ** 2 for value, chance in outcomes))


def _unweighted(x, outcomes):
    mean = sum(value for value, _ in outcomes) / len(outcomes)
    return mean - x, math.sqrt(sum((value - mean) ** 2 for value, _ in outcomes) / len(outcomes))


def _likeliest(x, outcomes):
    return max(outcomes, key=lambda outcome: outcome[1])[0] - x, bias_and_spread(x, outcomes)[1]


DICE = [(1.0, 0.75), (1.5, 0.25)]
BIAS = Exercise(
    id="10-3",
    title="the bias and the spread of a rounding",
    difficulty="easy",
    minutes=6,
    why="Nearest has the smaller error and all of it is bias; dice have the larger error and none of it is. Averages, momentum and many steps remove the spread and never the bias.",
    reference=bias_and_spread,
    cases=(
        (1.125, [(1.0, 1.0)]), (1.125, DICE), (1.125, [(1.0, 0.5), (1.5, 0.5)]), (1.375, [(1.5, 1.0)]), (1.375, [(1.0, 0.25), (1.5, 0.75)]), (-1.125, [(-1.0, 1.0)]),
        (-1.125, [(-1.0, 0.75), (-1.5, 0.25)]), (0.3, [(0.0, 0.7), (1.0, 0.3)]), (2.0, [(2.0, 1.0)]), (0.1, [(0.0, 1.0)]), (0.1, [(0.0, 0.6), (0.25, 0.4)]), (5.5, [(5.0, 0.2), (5.5, 0.5), (6.0, 0.3)]),
        (1.25, [(1.5, 0.9), (1.0, 0.1)]),
    ),
    same=near,
    misconceptions=(
        Misconception("spread about x", lambda x, o: (bias_and_spread(x, o)[0], _about(x, o)), "that is the root mean square *error*, measured from x: it holds the bias too. The spread is measured from the mean of the outcomes."),
        Misconception("mean distance", lambda x, o: (bias_and_spread(x, o)[0], sum(p * abs(v - bias_and_spread(x, o)[0] - x) for v, p in o)), "this is the mean *distance* from the mean: the spread is a root mean square, √(mean of the squared distances)."),
        Misconception("mean distance from x", lambda x, o: (bias_and_spread(x, o)[0], sum(p * abs(v - x) for v, p in o)), "this is the mean *distance* from x: the spread is a root mean square, √(mean of the squared distances), and it is measured from the mean of the outcomes."),
        Misconception("variance", lambda x, o: (bias_and_spread(x, o)[0], bias_and_spread(x, o)[1] ** 2), "this is the variance: the spread is its square root, in the unit of x."),
        Misconception("unweighted", _unweighted, "all outcomes count alike here: weigh each with its chance."),
        Misconception("sign of the bias", lambda x, o: (-bias_and_spread(x, o)[0], bias_and_spread(x, o)[1]), "the sign is turned: the bias is the mean outcome minus the true number."),
        Misconception("bias without sign", lambda x, o: (abs(bias_and_spread(x, o)[0]), bias_and_spread(x, o)[1]), "the bias has a sign: it says in which direction every step goes wrong."),
        Misconception("the likeliest outcome", _likeliest, "this takes the likeliest outcome for the mean: the unlikely ones pull it, and with dice they pull it exactly to x."),
        Misconception("mean instead of bias", lambda x, o: (bias_and_spread(x, o)[0] + x, bias_and_spread(x, o)[1]), "the first number is the mean of the outcomes: the bias is what it differs from x by."),
        Misconception("order", lambda x, o: bias_and_spread(x, o)[::-1], "the two numbers are in the wrong order: bias first."),
    ),
    hints=(
        "Which number would you get on average, over many roundings of the same x?",
        "bias = mean − x, where the mean weighs each outcome with its chance; the spread is taken about that mean.",
        "variance = sum(chance * (value - ___) ** 2 for value, chance in outcomes)",
    ),
)  # fmt: skip


# ---- 10-4


def refine(a: float, b: float, rounded, steps: int) -> float:
    inverse, x = rounded(1 / a), 0.0
    for _ in range(steps):
        x = x + rounded(inverse * (b - a * x))
    return x


def _refine(step, start=0.0):
    """Repeat `step(x, a, b, inverse, rounded)`."""

    def solve(a, b, rounded, steps):
        x = start
        for _ in range(steps):
            x = step(x, a, b, rounded(1 / a), rounded)
        return x

    return solve


REFINE = Exercise(
    id="10-4",
    title="solve a · x = b with a short reciprocal and iterative refinement",
    difficulty="medium",
    minutes=8,
    why="Only two things are long, the solution and its residual; each step removes the same share of the error, as small as the short format's eps. Masters and their gradients play the same two parts in training.",
    reference=refine,
    cases=tuple((a, b, bf16, steps) for a, b in ((3.0, 1.0), (0.7, -2.3), (11.0, 5.0), (-1.9, 100.0)) for steps in (1, 2, 3, 4, 8)),
    same=near,
    show=lambda a, b, rounded, steps: f"a = {a!r}, b = {b!r}, {steps} steps",
    misconceptions=(
        Misconception("short solution", _refine(lambda x, a, b, inv, r: r(x + r(inv * (b - a * x)))), "x itself goes through rounded: then it can never be better than the short format. It is the sum that has to be long."),
        Misconception("replaced instead of added", _refine(lambda x, a, b, inv, r: r(inv * (b - a * x))), "the correction replaces x: it has to be added to it."),
        Misconception("adds b again and again", _refine(lambda x, a, b, inv, r: x + r(inv * b)), "each step adds the whole solution once more: it is the residual b − a·x that has to be solved for."),
        Misconception("sign of the residual", _refine(lambda x, a, b, inv, r: x - r(inv * (b - a * x))), "the sign is turned: the residual is b − a·x, and the correction is added."),
        Misconception("long reciprocal", _refine(lambda x, a, b, inv, r: x + (b - a * x) / a), "nothing is short here: the reciprocal goes through rounded, once, and each correction too."),
        Misconception("correction not rounded", _refine(lambda x, a, b, inv, r: x + inv * (b - a * x)), "the correction is computed in the short format: put it through rounded."),
        Misconception("short residual", _refine(lambda x, a, b, inv, r: x + r(inv * r(b - a * x))), "the residual goes through rounded as well. Rounded after the subtraction it does little harm; but here only 1/a and each correction are short."),
        Misconception("divided by a", _refine(lambda x, a, b, inv, r: x + r((b - a * x) / a)), "the residual is divided by the long a: what is short here is the reciprocal, as the factors were in the notebook. Multiply by rounded(1 / a)."),
        Misconception("no better than the first step", lambda a, b, rounded, steps: refine(a, b, rounded, 1), "this is the answer of the first step. Either it is not repeated, or each step solves for b anew, or the products in the residual b − a·x are rounded: it is a small difference of large numbers, and short digits leave nothing of it."),
        Misconception("one step too many", lambda a, b, rounded, steps: refine(a, b, rounded, steps + 1), "one step too many: x starts from 0, and the first step finds the short solution."),
    ),
    hints=(
        "Which quantity must be known exactly for a rough method to come closer with each step?",
        "From x = 0: residual b − a·x in full precision, a rough solution for it with the short reciprocal, added to x in full precision.",
        "x = x + rounded(inverse * (___))",
    ),
)  # fmt: skip


# ---- 10-5


def adam_filter(signal: float, noise: float, beta1: float) -> tuple:
    left = noise * math.sqrt((1 - beta1) / (1 + beta1))
    step = signal / math.sqrt(signal**2 + noise**2)
    return left, step


def _filter(left=lambda s, n, b: adam_filter(s, n, b)[0], step=lambda s, n, b: adam_filter(s, n, b)[1]):
    return lambda s, n, b: (left(s, n, b), step(s, n, b))


ADAM = Exercise(
    id="10-5",
    title="what momentum and Adam leave of an unbiased noise: its spread in m, and the mean step in units of the learning rate",
    difficulty="medium",
    minutes=8,
    why="m averages the noise, by a factor of 4.4 at β₁ = 0.9; v averages its *square*, which does not go away, so noise shortens Adam's steps.",
    reference=adam_filter,
    cases=tuple((s, n, b) for s, n in ((1.0, 0.0), (1.0, 1.0), (0.3, 0.4), (-3.0, 4.0), (0.01, 1.0)) for b in (0.0, 0.9, 0.99)),
    same=near,
    show=lambda signal, noise, beta1: f"signal = {signal:g}, noise = {noise:g}, beta1 = {beta1:g}",
    misconceptions=(
        Misconception("v averages the noise away", _filter(step=lambda s, n, b: math.copysign(1.0, s)), "the step is 1 only without noise: v is a mean of squares, and the square of a noise has a mean, noise²."),
        Misconception("sizes added, not squares", _filter(step=lambda s, n, b: s / (abs(s) + n)), "the mean of g² is signal² + noise²: squares are added, and the root is taken of the sum."),
        Misconception("no root of v", _filter(step=lambda s, n, b: s**2 / (s**2 + n**2)), "Adam divides by the root of v."),
        Misconception("noise of m in the step", _filter(step=lambda s, n, b: s / math.sqrt(s**2 + adam_filter(s, n, b)[0] ** 2)), "v is a mean of g², not of m²: it sees the noise before momentum has averaged it."),
        Misconception("1 − β", _filter(left=lambda s, n, b: n * (1 - b)), "1 − β₁ is the weight of one gradient; many of them add up, as squares: the sum of ((1 − β₁) β₁^k)² is (1 − β₁)/(1 + β₁)."),
        Misconception("root of 1 − β", _filter(left=lambda s, n, b: n * math.sqrt(1 - b)), "close: the squares of the weights (1 − β₁) β₁^k sum to (1 − β₁)/(1 + β₁), not to 1 − β₁."),
        Misconception("variance instead of spread", _filter(left=lambda s, n, b: n * (1 - b) / (1 + b)), "the squares are missing their root: the spread shrinks by the root of (1 − β₁)/(1 + β₁)."),
        Misconception("always 0.9", _filter(left=lambda s, n, b: n / math.sqrt(19)), "the root of 19 belongs to β₁ = 0.9 only: the share is the root of (1 − β₁)/(1 + β₁)."),
        Misconception("momentum changes nothing", _filter(left=lambda s, n, b: n), "m is a mean of many gradients: an unbiased noise in them shrinks."),
    ),
    hints=(
        "m is a weighted sum of gradients with weights (1 − β₁) β₁^k. What is the variance of such a sum? And what is the mean of g²?",
        "Variances add with squared weights: a geometric series, (1 − β₁)/(1 + β₁). The mean of g² is signal² + noise².",
        "left = noise * math.sqrt((1 - beta1) / (1 + beta1)); step = signal / math.sqrt(___)",
    ),
)  # fmt: skip


EXERCISES = (SPLIT, NEEDED, BIAS, REFINE, ADAM)
