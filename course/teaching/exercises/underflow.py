"""Exercises of notebook 03: what FP16 makes of a gradient, what is lost of a tensor, Adam's moments and its first step."""

import math

from course.numerics import FP16

from .model import Exercise, Misconception


def fp16(x: float) -> float:
    """Round one number to FP16, nearest-even, overflow to Inf."""
    return FP16.decode(FP16.encode(x))


def _close(got, wanted):
    """FP32 is good enough for a share or a norm: torch's default shall not count as a mistake."""
    return math.isclose(float(got), wanted, rel_tol=1e-5, abs_tol=0.0)


# ---- 03-1


def fate(g: float) -> str:
    size = abs(g)
    if size == 0:
        return "zero"
    if size <= 2**-25:
        return "flushed"
    if size < 2**-14:
        return "subnormal"
    return "normal" if size < 65520 else "overflow"


def _fate(flush=2**-25, normal=2**-14, overflow=65520.0, tie=True, over_tie=True, sign=False, normal_tie=False):
    def judged(g):
        size = g if sign else abs(g)
        if g == 0:
            return "zero"
        if size < flush or (tie and size == flush):
            return "flushed"
        if size < normal or (normal_tie and size == normal):
            return "subnormal"
        return "overflow" if size > overflow or (over_tie and size == overflow) else "normal"

    return judged


FATE = Exercise(
    id="03-1",
    title="what FP16 makes of a gradient",
    difficulty="easy",
    minutes=6,
    why="Between 2^-25 and 2^-14 a gradient loses digits, not its life. (In a sliver below 2^-14, half of 2^-24 wide, rounding comes first and gives a normal number.)",
    reference=fate,
    cases=tuple((sign * x,) for x in (2**-25, 1.001 * 2**-25, 0.999 * 2**-25, 4e-8, 2**-24, 1e-7, 1e-6, 2**-15, 2**-14, 1e-4, 1.0, 65504.0, 65519.0, 65520.0, 1e6, math.inf) for sign in (1, -1)) + ((1e-12,), (0.0,), (-0.0,)),
    misconceptions=(
        Misconception("forgets subnormals", _fate(flush=2**-14, normal=2**-14, tie=False), "below 2^-14 FP16 still has 1023 positive numbers, the subnormals: only at 2^-25 and below does rounding give zero."),
        Misconception("flushes below the smallest number", _fate(flush=2**-24, tie=False), "2^-24 is the smallest number, but what is more than half of it is rounded up to it: the border is 2^-25."),
        Misconception("keeps the tie at 2^-25", _fate(tie=False), "2^-25 itself lies half-way between 0 and 2^-24: a tie, and zero is the even one."),
        Misconception("overflow beyond the largest number", _fate(overflow=65504.0, over_tie=False), "65504 is the largest number, but what rounds back to it does not overflow: up to 65520, half-way to the next, it stays finite."),
        Misconception("keeps the tie at 65520", _fate(over_tie=False), "65520 lies half-way between 65504 and the 65536 that does not exist: the tie goes to the even one, and that is Inf."),
        Misconception("2^-14 is subnormal", _fate(normal_tie=True), "2^-14 itself is the smallest normal number: only what lies below it is subnormal."),
        Misconception("exact zeros are flushed", lambda g: "flushed" if g == 0 else fate(g), "a gradient that is zero already loses nothing: call it zero, or a ReLU looks like underflow."),
        Misconception("forgets the sign", _fate(sign=True), "gradients have signs: compare abs(g)."),
    ),
    hints=(
        "Ask first whether g is zero. Then three borders on its size part four fates: one for flushing, one for normal numbers, one for overflow.",
        "Rounding to nearest moves two of them half a gap out: half of the smallest number, and half an ulp (32 there) beyond the largest.",
        'if size <= 2**___: return "flushed"',
    ),
)


# ---- 03-2


def flushed_share(gradients: list) -> float:
    sizes = [abs(g) for g in gradients if g != 0]
    return sum(size <= 2**-25 for size in sizes) / len(sizes) if sizes else 0.0


def _share(flush=2**-25, tie=True, zeros=False, of_all=False, sign=False, kept=False):
    def share(gradients):
        chosen = [g if sign else abs(g) for g in gradients if g != 0]
        lost = sum(g < flush or (tie and g == flush) for g in chosen) + (gradients.count(0) if zeros else 0)
        total = len(gradients) if of_all else len(chosen)
        return (total - lost if kept else lost) / total if total else 0.0

    return share


SHARE = Exercise(
    id="03-2",
    title="the share of the nonzero gradients that FP16 flushes",
    difficulty="easy",
    minutes=6,
    why="A dead ReLU gives exact zeros in any format; only what was nonzero before rounding can underflow.",
    reference=flushed_share,
    cases=(
        ([1.0, 1e-9, 0.0, 0.0],), ([2**-25, 1.001 * 2**-25, 1e-3],), ([0.0] * 5 + [1e-6, -1e-9, -1e-3],), ([1e-8, 1e-8, 1e-8, 4e-8],),
        ([0.0, 0.0],), ([],), ([-(2**-25), 1e-7, 1e-5],), ([1e-5, 1e-6, 1e-7, 5e-8, 1e-10],),
    ),
    same=_close,
    show=lambda gradients: f"gradients = {gradients}",
    misconceptions=(
        Misconception("counts exact zeros as flushed", _share(zeros=True, of_all=True), "exact zeros are counted as flushed: they were zero before. Leave them out, above and below the line."),
        Misconception("divides by all", _share(of_all=True), "the zeros stand below the line: take the share of the nonzero gradients."),
        Misconception("forgets subnormals", _share(flush=2**-14, tie=False), "what lies between 2^-25 and 2^-14 becomes subnormal: it loses digits, but it is not zero."),
        Misconception("below the smallest number", _share(flush=2**-24, tie=False), "more than half of the smallest number, 2^-24, is rounded up to it: the border is 2^-25."),
        Misconception("keeps the tie", _share(tie=False), "2^-25 itself is a tie, and zero is the even one: it is flushed too."),
        Misconception("forgets the sign", _share(sign=True), "a negative gradient is below every border: compare abs(g)."),
        Misconception("the share that is kept", _share(kept=True), "this is the share that survives: the flushed one is asked for."),
    ),
    hints=(
        "Two sets: the gradients that are not zero, and those of them that FP16 rounds to zero.",
        "Zero is what FP16 makes of everything up to and including half of its smallest number. Mind lists without a nonzero gradient.",
        "return sum(size <= ___ for size in sizes) / len(sizes) if sizes else 0.0",
    ),
)


# ---- 03-3


def lost_norm(gradients: list) -> float:
    whole = math.sqrt(sum(g * g for g in gradients))
    lost = math.sqrt(sum(g * g for g in gradients if abs(g) <= 2**-25))
    return lost / whole if whole else 0.0


def _ratio(measure, root=True, of_kept=False):
    def ratio(gradients):
        lost = sum(measure(g) for g in gradients if abs(g) <= 2**-25)
        rest = sum(measure(g) for g in gradients if not (of_kept and abs(g) <= 2**-25))
        if root:
            lost, rest = math.sqrt(lost), math.sqrt(rest)
        return lost / rest if rest else 0.0

    return ratio


def _error_of_all(gradients):
    whole = math.sqrt(sum(g * g for g in gradients))
    return math.sqrt(sum((fp16(g) - g) ** 2 for g in gradients)) / whole if whole else 0.0


NORM = Exercise(
    id="03-3",
    title="the part of a tensor's norm that its flushed entries carry",
    difficulty="medium",
    minutes=8,
    why="A norm adds squares: a million entries of 10^-8 weigh as much as one of 10^-5. The count says how many were lost, the norm how much.",
    reference=lost_norm,
    cases=(
        ([3e-8 * 0.9, 4e-3],), ([1e-8] * 100 + [1e-5],), ([2**-25, 2**-24],), ([1e-9, -1e-9, 1e-9],), ([0.0, 1e-3],), ([0.0],), ([],),
        ([1e-8] * 9 + [1e-7, 1e-6, -1e-6],), ([2e-8, 2e-8, 5e-8, 1e-7],),
    ),
    same=_close,
    show=lambda gradients: f"gradients = {gradients}" if len(gradients) < 12 else f"{len(gradients)} gradients that begin with {gradients[:3]}",
    misconceptions=(
        Misconception("the share of the entries", flushed_share, "this counts entries: the norm asks how large they are."),
        Misconception("squares without a root", _ratio(lambda g: g * g, root=False), "this is the share of the squared norm: take the root of both sums."),
        Misconception("sizes instead of squares", _ratio(abs, root=False), "this adds sizes: the L2 norm adds squares and takes the root."),
        Misconception("compared with the rest", _ratio(lambda g: g * g, of_kept=True), "below the line stands the norm of the whole tensor, the flushed entries among it."),
        Misconception("the error of all entries", _error_of_all, "this also counts the digits that kept entries lose: only the flushed ones are asked for."),
    ),
    hints=(
        "The L2 norm: square, add, take the root. Once over all entries, once over the flushed ones.",
        "An entry is flushed if abs(g) <= 2^-25; exact zeros add nothing, so they need no care here. Mind a tensor of zeros.",
        "lost = math.sqrt(sum(g * g for g in gradients if ___))",
    ),
)


# ---- 03-4


def second_moment(v: float, g: float, rounded) -> float:
    return rounded(0.999 * v + 0.001 * g * g)


MOMENT = Exercise(
    id="03-4",
    title="Adam's second moment, stored in a short format and computed in a long one",
    difficulty="medium",
    minutes=8,
    why="The same formula overflows at 256 or at 8096, depending on which intermediate result is rounded: keep short formats for storage.",
    reference=second_moment,
    cases=tuple((v, g, fp16) for v, g in ((0.0, 1.0), (0.0, 300.0), (90.0, 256.0), (64000.0, 0.0), (0.0, 8000.0), (0.0, 8096.0), (0.0, 1e-3), (0.0, 0.01), (1.0, 0.0), (1.0, 1.0), (0.5, -0.5), (0.3, 7.0), (2.0, 3.0), (1e-3, 0.02), (0.007, 0.3), (0.888, 6.8), (0.274, 21.1), (0.913, 23.0), (0.382, 9.8))),
    show=lambda v, g, rounded: f"v = {v!r}, g = {g!r} (rounded to FP16)",
    misconceptions=(
        Misconception("squares in FP16", lambda v, g, rounded: rounded(0.999 * v + 0.001 * rounded(g * g)), "g * g is rounded before it is multiplied by 0.001: it becomes Inf from 256 on, and 0 up to 2^-12.5."),
        Misconception("rounds each step", lambda v, g, rounded: rounded(rounded(0.999 * v) + rounded(0.001 * rounded(g * g))), "every intermediate result is rounded: only the number that is stored goes through rounded."),
        Misconception("rounds the new term", lambda v, g, rounded: rounded(0.999 * v + rounded(0.001 * g * g)), "the new term is rounded before it is added: round once, when the sum is stored."),
        Misconception("rounds the constants", lambda v, g, rounded: rounded(rounded(0.999) * v + rounded(0.001) * g * g), "0.999 and 0.001 are Python numbers: only the result is stored in FP16, so only the result is rounded."),
        Misconception("rounds both terms", lambda v, g, rounded: rounded(rounded(0.999 * v) + rounded(0.001 * g * g)), "both terms are rounded before they are added: round once, when the sum is stored."),
        Misconception("never rounds", lambda v, g, rounded: 0.999 * v + 0.001 * g * g, "nothing is rounded: the result is stored, so it goes through rounded."),
        Misconception("forgets 1 − β₂", lambda v, g, rounded: rounded(0.999 * v + g * g), "the new square counts with 1 − β₂ = 0.001, so that v is a mean of squares and not their sum."),
        Misconception("the first moment", lambda v, g, rounded: rounded(0.999 * v + 0.001 * g), "this is a mean of gradients: the second moment is a mean of their squares."),
        Misconception("weights swapped", lambda v, g, rounded: rounded(0.001 * v + 0.999 * g * g), "the weights are swapped: the old value keeps 0.999."),
    ),
    hints=(
        "v is a slow mean of squares: mostly what it was, a little of the new square.",
        "0.999 times the old value plus 0.001 times the square, in Python's FP64; rounded only where the result is stored.",
        "return rounded(0.999 * v + 0.001 * ___)",
    ),
)


# ---- 03-5


def first_step(g: float, eps: float, rounded) -> str:
    m, v = rounded(0.1 * g), rounded(0.001 * g * g)
    denominator = rounded(rounded(math.sqrt(v / 0.001)) + eps)
    if denominator == 0:
        return "nan" if m == 0 else "inf"
    return "stays" if m == 0 or denominator == math.inf else "moves"


def _first_step(square=lambda g, rounded: g * g, eps_in=lambda root, eps, rounded: rounded(root + eps), zero="nan", over="stays", momentum=lambda g, rounded: rounded(0.1 * g)):
    def step(g, eps, rounded):
        m, v = momentum(g, rounded), rounded(0.001 * square(g, rounded))
        denominator = eps_in(rounded(math.sqrt(v / 0.001)), eps, rounded)
        if denominator == 0:
            return zero if m == 0 else "inf"
        if denominator == math.inf:
            return over
        return "stays" if m == 0 else "moves"

    return step


STEP = Exercise(
    id="03-5",
    title="what Adam's first step does to an FP16 weight",
    difficulty="hard",
    minutes=12,
    why="eps guards against 0/0 only while it exists: in FP16 1e-8 is added and lost, and a gradient of zero becomes NaN.",
    reference=first_step,
    cases=tuple((g, eps, fp16) for eps in (1e-8, 1e-7, 1e-4) for g in (0.0, 2**-24, 1e-6, 1e-3, 0.004, 0.02, 1.0, 300.0, 8000.0, 8200.0, 60000.0)),
    show=lambda g, eps, rounded: f"g = {g!r}, eps = {eps!r} (all stored in FP16)",
    misconceptions=(
        Misconception("eps always helps", _first_step(eps_in=lambda root, eps, rounded: root + eps), "eps is added without rounding: the sum is an FP16 number too, and 0 + 1e-8 is 0 there."),
        Misconception("0/0 leaves the weight alone", _first_step(zero="stays"), "a gradient of zero does not leave the weight alone: with a denominator of 0 the update is 0/0, which is NaN."),
        Misconception("0/0 is Inf", _first_step(zero="inf"), "0/0 is not Inf but NaN; Inf needs a numerator that is not zero."),
        Misconception("a small gradient leaves NaN", lambda g, eps, rounded: "nan" if first_step(g, eps, rounded) == "inf" else first_step(g, eps, rounded), "NaN needs 0/0. Where m is not zero but v was flushed, the update is m/0 = Inf."),
        Misconception("overflow gives NaN", _first_step(over="nan"), "an infinite v gives m/Inf = 0: the weight stays where it is, and nobody is told."),
        Misconception("overflow gives Inf", _first_step(over="inf"), "an infinite v stands below the line: m/Inf = 0, and the weight stays where it is."),
        Misconception("squares in FP16", _first_step(square=lambda g, rounded: rounded(g * g)), "g * g is rounded before it is multiplied by 0.001; compute in FP64 and round what is stored."),
        Misconception("m is not stored", _first_step(momentum=lambda g, rounded: g), "m is stored in FP16 too: a tenth of the smallest numbers is flushed, and their step is 0/0."),
    ),
    hints=(
        "Compute what is stored: m, v, and the denominator, each through rounded. Then look at numerator and denominator.",
        "Three special places: denominator 0 with m = 0, denominator 0 with m not 0, denominator Inf.",
        'denominator = rounded(rounded(math.sqrt(v / 0.001)) + ___); if denominator == 0: return "nan" if m == 0 else "inf"',
    ),
)

EXERCISES = (FATE, SHARE, NORM, MOMENT, STEP)
