"""Exercises of notebook 02: rounding to even, ulps, thresholds, stochastic rounding, exact errors, compensated sums."""

import math
from fractions import Fraction

from course.numerics import BF16, FP16, explain

from .model import Exercise, Misconception

# ---- 02-1


def round_to_grid(x: float, quantum: float) -> float:
    steps = math.floor(x / quantum)
    rest = x / quantum - steps
    if rest > 0.5 or (rest == 0.5 and steps % 2 == 1):
        steps += 1
    return steps * quantum


def _grid(choose):
    return lambda x, quantum: choose(x / quantum) * quantum


GRID = Exercise(
    id="02-1",
    title="round to a grid of spacing quantum, nearest, ties to even",
    difficulty="easy",
    minutes=6,
    why="Ties to even sends half of the ties up and half down, so that rounding many numbers does not drift.",
    reference=round_to_grid,
    cases=tuple((steps * q, q) for q in (1.0, 0.25, 8.0) for steps in (0.0, 0.25, 0.5, 0.75, 1.5, 2.5, 3.5, 3.375, -0.5, -1.5, -2.5, -1.25)),
    same=lambda got, wanted: float(got) == wanted,  # here 0 and -0 are the same place on the grid
    show=lambda x, quantum: f"x = {x!r}, quantum = {quantum!r}",
    misconceptions=(
        Misconception("truncated", _grid(math.trunc), "this cuts toward zero; nearest means going up when more than half a step is left."),
        Misconception("floor", _grid(math.floor), "this always goes down; nearest means going up when more than half a step is left."),
        Misconception("ties up", _grid(lambda t: math.floor(t + 0.5)), "ties always go up: floor(t + 1/2) does that. 2.5 steps should give 2, the even one."),
        Misconception("ties away from zero", _grid(lambda t: math.copysign(math.floor(abs(t) + 0.5), t)), "ties always go away from zero; 2.5 steps should give 2, the even one."),
        Misconception("ties down", _grid(lambda t: math.ceil(t - 0.5)), "ties always go down; 1.5 steps should give 2, the even one."),
        Misconception("up to the next", _grid(math.ceil), "this always goes up; nearest means staying when less than half a step is left."),
        Misconception("steps, not a number", lambda x, quantum: round(x / quantum), "this is the number of steps: multiply it by the quantum again."),
        Misconception("ties to odd", _grid(lambda t: round(t) if t % 1 != 0.5 else math.floor(t) + (math.floor(t) % 2 == 0)), "ties go to the odd neighbour; the even one is asked for."),
    ),
    hints=(
        "Work in steps: x / quantum is a number of steps, and the answer is a whole number of them.",
        "Three cases for what is left above the lower step: less than a half, more, and exactly a half.",
        "if rest > 0.5 or (rest == 0.5 and steps % 2 == ___): steps += 1",
    ),
)


# ---- 02-2


def ulp_fp16(x: float) -> float:
    _, exponent = math.frexp(abs(x))  # abs(x) = f × 2^exponent with 1/2 <= f < 1
    return 2.0 ** (max(exponent - 1, -14) - 10) if x else 2.0**-24


ULP = Exercise(
    id="02-2",
    title="the ulp of FP16 at x",
    difficulty="medium",
    minutes=8,
    why="The spacing is a staircase: constant inside a binade, doubled at each power of two, and flat from 2^-14 down to zero.",
    reference=ulp_fp16,
    cases=tuple((x,) for x in (1.0, 1.999, 2.0, 3.0, 1000.0, 1024.0, 2048.0, 65504.0, 0.1, 2.0**-14, 2.0**-15, 1e-6, 2.0**-24, 0.0, -3.0, -0.1)),
    show=lambda x: f"x = {x!r} (in FP16 {explain(x, FP16).hex_code}, bits {' '.join(explain(x, FP16).fields)})",
    misconceptions=(
        Misconception("machine epsilon everywhere", lambda x: 2.0**-10, "that is the spacing at 1 only: it doubles with each binade above and halves with each below."),
        Misconception("relative", lambda x: abs(x) * 2.0**-10, "the spacing is a power of two, constant within a binade: it does not grow with x inside it."),
        Misconception("forgot subnormals", lambda x: 2.0 ** (math.frexp(abs(x))[1] - 11) if x else 0.0, "below 2^-14 the spacing stops shrinking: subnormals all lie 2^-24 apart."),
        Misconception("frexp off by one, no subnormals", lambda x: 2.0 ** (math.frexp(abs(x))[1] - 10) if x else 0.0, "one binade off (frexp's factor lies between 1/2 and 1), and below 2^-14 the spacing should stop shrinking."),
        Misconception("frexp off by one", lambda x: 2.0 ** (max(math.frexp(abs(x))[1], -14) - 10) if x else 2.0**-24, "one binade off: frexp gives a factor between 1/2 and 1, so its exponent is one more than that of 1.f × 2^e."),
    ),
    hints=(
        "In which binade is |x|? The answer depends on that alone.",
        "The ulp is 2^(e - 10) where 2^e <= |x| < 2^(e+1), but e never counts below -14.",
        "return 2.0 ** (max(exponent - 1, ___) - 10)",
    ),
)


# ---- 02-3


def half_gaps(w: float) -> tuple[float, float]:
    below, above = FP16.neighbours(w)
    return (above - w) / 2, (w - below) / 2


_WEIGHTS = (1.0, 1.5, 2.0, 0.5, 3.0, 1024.0, 2048.0, 0.0999755859375, 2.0**-14, 2.0**-20, 1.0009765625)

THRESHOLDS = Exercise(
    id="02-3",
    title="how large an update must be to move an FP16 weight up, and down",
    difficulty="medium",
    minutes=8,
    why="At a power of two above the subnormals the numbers below are twice as dense, so half the push is enough on that side.",
    reference=half_gaps,
    cases=tuple((w,) for w in _WEIGHTS),
    show=lambda w: f"w = {w!r} ({explain(w, FP16).hex_code}, bits {' '.join(explain(w, FP16).fields)})",
    misconceptions=(
        Misconception("symmetric", lambda w: (FP16.ulp(w) / 2, FP16.ulp(w) / 2), "the same on both sides: true inside a binade, but below a power of two the spacing is halved."),
        Misconception("the thresholds of 1.0", lambda w: (2.0**-11, 2.0**-12), "these are the thresholds at w = 1.0: they scale with the binade of w, and are equal inside one."),
        Misconception("down with a sign", lambda w: (half_gaps(w)[0], -half_gaps(w)[1]), "how far down is a size: give it without a minus."),
        Misconception("whole gaps", lambda w: (2 * half_gaps(w)[0], 2 * half_gaps(w)[1]), "these are the whole gaps: rounding to nearest already moves at half of one."),
        Misconception("epsilon times w", lambda w: (w * 2.0**-11, w * 2.0**-11), "eps/2 times w is a bound, not the threshold: the gap is constant inside a binade."),
        Misconception("up and down swapped", lambda w: half_gaps(w)[::-1], "up and down are swapped: the larger gap is above."),
    ),
    hints=(
        "Where are the two neighbours of w? `FP16.neighbours(w)` gives them.",
        "A sum is rounded to whichever neighbour is nearer: the border is the midpoint.",
        "return (above - w) / ___, (w - below) / ___",
    ),
)


# ---- 02-4


def stochastic(x: float, quantum: float, u: float) -> float:
    steps = math.floor(x / quantum)
    fraction = x / quantum - steps
    return (steps + (u < fraction)) * quantum


def _stochastic(chance, base=math.floor):
    def rounded(x, quantum, u):
        steps = base(x / quantum)
        return (steps + (u < chance(x / quantum - steps))) * quantum

    return rounded


STOCHASTIC = Exercise(
    id="02-4",
    title="stochastic rounding with a given random number u in [0, 1)",
    difficulty="medium",
    minutes=8,
    why="Going up with a probability equal to the fraction makes the mean of many roundings x itself, also below half a step.",
    reference=stochastic,
    cases=tuple((s * q, q, u) for q in (1.0, 2.0**-7) for s in (0.0, 0.1, 0.25, 0.5, 0.7, 0.9, 3.0, 3.6, -0.25, -0.9) for u in (0.0, 0.2, 0.3, 0.45, 0.6, 0.8, 0.95)),
    same=lambda got, wanted: float(got) == wanted,
    show=lambda x, quantum, u: f"x = {x!r}, quantum = {quantum!r}, u = {u!r}",
    misconceptions=(
        Misconception("nearest as the floor", _stochastic(lambda f: f % 1, round), "the lower neighbour must be the floor, not the nearest: starting from the nearest, fractions above a half always end too high."),
        Misconception("a fair coin", _stochastic(lambda f: 0.5 if f else 0.0), "up and down with the same chance: the mean is then the midpoint, not x."),
        Misconception("chances swapped", _stochastic(lambda f: 1 - f if f else 0.0), "the chance of going up is the fraction already covered, not what is left."),
        Misconception("chances swapped, whole numbers move", _stochastic(lambda f: 1 - f), "the chance of going up is the fraction already covered, not what is left; as it is, even a number on the grid moves."),
        Misconception("up for large u", lambda x, quantum, u: math.floor(x / quantum + u) * quantum, "this is stochastic rounding too, but it goes up for large u; here u below the fraction means up."),
        Misconception("rounds to nearest", lambda x, quantum, u: round(x / quantum) * quantum, "u has no effect: this is rounding to nearest."),
        Misconception("truncates numbers below zero", _stochastic(lambda f: f % 1, math.trunc), "below zero this starts from the upper neighbour: floor goes down, int and trunc go toward zero."),
    ),
    hints=(
        "Find the neighbour below and the fraction of the step that x lies above it.",
        "A uniform u is below the fraction with a probability equal to the fraction.",
        "return (steps + (u < ___)) * quantum",
    ),
)


# ---- 02-5


def error_of_sum(a: str, b: str) -> Fraction:
    computed = float(a) + float(b)
    return Fraction(computed) - (Fraction(a) + Fraction(b))


SUM_ERROR = Exercise(
    id="02-5",
    title="the exact error of a + b in floating point, for two decimals given as text",
    difficulty="medium",
    minutes=8,
    why="0.1 + 0.2 is rounded three times: twice on reading and once on adding. Fractions see all three.",
    reference=error_of_sum,
    cases=(("0.1", "0.2"), ("0.5", "0.25"), ("0.1", "0.7"), ("1e16", "1"), ("0.3", "0.6"), ("2.5", "-0.1"), ("0.1", "-0.1")),
    show=lambda a, b: f"{a} + {b}",
    show_result=str,
    remark=lambda got, wanted: "the result is a float: mixing a Fraction with a float makes a float of both. Wrap the computed sum in Fraction(...)." if isinstance(got, float) else "",
    misconceptions=(
        Misconception("only the addition", lambda a, b: Fraction(float(a) + float(b)) - (Fraction(float(a)) + Fraction(float(b))), "this is the error of the addition alone: 0.1 and 0.2 were already rounded when they were read."),
        Misconception("only the reading", lambda a, b: Fraction(float(a)) + Fraction(float(b)) - (Fraction(a) + Fraction(b)), "this leaves out the rounding of the sum itself."),
        Misconception("compared with a rounded sum", lambda a, b: Fraction((float(a) + float(b)) - float(Fraction(a) + Fraction(b))), "the exact sum was rounded to a float before comparing: part of the error disappeared."),
        Misconception("size of the error", lambda a, b: abs(error_of_sum(a, b)), "the sign is lost: an error is what was computed minus what is true."),
        Misconception("wrong sign", lambda a, b: -error_of_sum(a, b), "the sign is turned: an error is what was computed minus what is true."),
    ),
    hints=(
        "Which of these are exact: Fraction('0.1'), Fraction(0.1)?",
        "Fraction(text) is the decimal itself; Fraction(float) is the binary number that took its place.",
        "return Fraction(float(a) + float(b)) - (Fraction(___) + Fraction(___))",
    ),
)


# ---- 02-6


def kahan_sum(values: list, rounded) -> float:
    total = carry = 0.0
    for value in values:
        step = rounded(value - carry)
        new_total = rounded(total + step)
        carry = rounded(rounded(new_total - total) - step)
        total = new_total
    return total


def _plain_sum(values, rounded):
    total = 0.0
    for value in values:
        total = rounded(total + value)
    return total


def _kahan_sign(values, rounded):
    total = carry = 0.0
    for value in values:
        step = rounded(value + carry)
        new_total = rounded(total + step)
        carry = rounded(rounded(new_total - total) - step)
        total = new_total
    return total


def _kahan_unrounded(values, rounded):
    total = carry = 0.0
    for value in values:
        step = rounded(value - carry)
        new_total = rounded(total + step)
        carry = (new_total - total) - step
        total = new_total
    return total


def _kahan_wide_step(values, rounded):
    total = carry = 0.0
    for value in values:
        step = value - carry
        new_total = rounded(total + step)
        carry = rounded(rounded(new_total - total) - step)
        total = new_total
    return total


def bf16(x: float) -> float:
    """Round one number to BF16, nearest-even."""
    return BF16.decode(BF16.encode(x))


KAHAN = Exercise(
    id="02-6",
    title="a running sum with Kahan's compensation",
    difficulty="hard",
    minutes=12,
    why="The carry remembers what each addition dropped and puts it into the next one: the sum of ones passes 256.",
    reference=kahan_sum,
    cases=(([1.0] * 400, bf16), ([-0.091796875, 1.25, 0.025390625, -1.390625], bf16), ([-0.236328125, 4.96875, -0.306640625, -0.74609375, 4.78125, -0.005462646484375, -0.9765625, -2.5], bf16), ([0.01] * 500, bf16), ([100.0, 0.25, 0.25, 0.25, 0.25, -100.0], bf16), ([-0.314453125, -262.0, 0.30078125, 0.546875, -0.3828125, 0.275390625, 173.0, 0.00189208984375], bf16), ([1.0, 2.0, 3.0], bf16), ([], bf16), ([3.0, -0.015625, 0.0078125] * 30, bf16)),
    same=lambda got, wanted: float(got) == wanted,
    show=lambda values, rounded: f"the sum of {values}" if len(values) < 10 else f"the sum of {len(values)} numbers that begin with {values[:3]}",
    misconceptions=(
        Misconception("plain sum", _plain_sum, "no compensation: ones stop counting at 256, where the next BF16 number is 258."),
        Misconception("carry added with the wrong sign", _kahan_sign, "the carry is what was added too much: subtract it from the next value."),
        Misconception("rounded once at the end", lambda values, rounded: rounded(sum(values)), "only the final sum is rounded: every operation must go through rounded, since nothing wider exists here."),
        Misconception("step not rounded", _kahan_wide_step, "value - carry is computed in full precision: it must go through rounded too."),
        Misconception("carry not rounded", _kahan_unrounded, "the carry is computed in full precision: each subtraction in it must go through rounded too."),
        Misconception("never rounded", lambda values, rounded: float(sum(values)), "this sums in full precision: every operation must go through rounded, as it would on hardware that has nothing wider."),
    ),
    hints=(
        "new_total - total tells what really arrived; compare it with what was sent.",
        "Keep what arrived too much in `carry` and subtract it from the next value before adding.",
        "step = rounded(value - carry); …; carry = rounded(rounded(new_total - ___) - ___)",
    ),
)

EXERCISES = (GRID, ULP, THRESHOLDS, STOCHASTIC, SUM_ERROR, KAHAN)
