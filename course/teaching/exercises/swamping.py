"""Exercises of notebook 05: when a weight moves, counting it, a counter that stops, sums of gradients, one update."""

import math

from course.numerics import BF16

from .model import Exercise, Misconception


def bf16(x: float) -> float:
    """Round one number to BF16, nearest-even."""
    return BF16.decode(BF16.encode(x))


# ---- 05-1


def moves(w: float, update: float) -> bool:
    below, above = BF16.neighbours(w)
    half_gap = (above - w) / 2 if update > 0 else (w - below) / 2
    is_even = BF16.encode(w) % 2 == 0
    return abs(update) > half_gap or (abs(update) == half_gap and not is_even)


def _half(w, update):
    below, above = BF16.neighbours(w)
    return (above - w) / 2 if update > 0 else (w - below) / 2


_ODD = 1.0078125  # the number next to 1.0: its last bit is 1
_PAIRS = (
    (1.0, 2.0**-8), (1.0, 2.0**-8 + 2.0**-20), (1.0, -(2.0**-9)), (1.0, -(2.0**-9) - 2.0**-20), (1.0, -0.003), (1.0, 0.003), (_ODD, 2.0**-8),
    (_ODD, -(2.0**-8)), (_ODD, -0.003), (1.9921875, 0.0039), (1.9921875, 0.00391), (1.234375, -0.0001), (0.01007080078125, -3e-4), (0.01007080078125, 3e-5),
    (0.00999450683593750, 2.0**-15), (100.0, 0.2), (100.0, 0.3), (256.0, 1.0), (254.0, 1.0), (2.0**-10, 1e-7), (2.0**-10, -1e-5), (-1.0, 0.003), (-1.0, -0.003), (1.0, 1e-20),
)  # fmt: skip

MOVES = Exercise(
    id="05-1",
    title="whether a BF16 weight moves under an update",
    difficulty="medium",
    minutes=8,
    why="An update is lost up to half of the gap on its own side of the weight; at exactly half the last bit of the weight decides.",
    reference=moves,
    cases=_PAIRS,
    show=lambda w, update: f"w = {w!r} (bits {BF16.encode(w):016b}), update = {update!r}",
    misconceptions=(
        Misconception("eps whatever the weight", lambda w, u: abs(u) > 2.0**-8, "this compares with half the gap at 1.0: weights elsewhere have other gaps."),
        Misconception("relative to the weight", lambda w, u: abs(u) > abs(w) * 2.0**-8, "this compares with w × 2^-8: the gap is constant within a binade, so it is between 2^-8 and 2^-7 of w."),
        Misconception("w/512 for every weight", lambda w, u: abs(u) > abs(w) * 2.0**-9, "this compares with w/512: up to there every update is lost, but between w/512 and w/256 it depends on where w stands in its binade."),
        Misconception("rounds the update first", lambda w, u: bf16(w + bf16(u)) != w, "the update is rounded to BF16 before it is added, as torch may do with a number beside a BF16 tensor: here it is exact, and only the sum is rounded."),
        Misconception("half an ulp on both sides", lambda w, u: abs(u) > BF16.ulp(w) / 2, "this takes the gap above the weight on both sides: next to a power of two the gap towards zero is only half as wide. (And a tie moves a weight whose last bit is 1.)"),
        Misconception("half an ulp on both sides, and ties move", lambda w, u: abs(u) >= BF16.ulp(w) / 2, "this takes the gap above the weight on both sides: next to a power of two the gap towards zero is only half as wide. And a tie moves only a weight whose last bit is 1."),
        Misconception("same on both sides", lambda w, u: abs(u) > BF16.ulp(w) / 2 or (abs(u) == BF16.ulp(w) / 2 and BF16.encode(w) % 2 == 1), "the same on both sides: next to a power of two the gap towards zero is only half as wide."),
        Misconception("a whole gap", lambda w, u: abs(u) >= 2 * _half(w, u), "this asks for a whole gap: rounding to nearest moves beyond half of one."),
        Misconception("ties are lost", lambda w, u: abs(u) > _half(w, u), "exactly half a gap is a tie, and goes to the even number: a weight whose last bit is 1 moves."),
        Misconception("ties move", lambda w, u: abs(u) >= _half(w, u), "exactly half a gap is a tie, and goes to the even number: a weight whose last bit is 0 stays."),
        Misconception("asks whether the update underflows", lambda w, u: bf16(u) != 0, "every one of these updates is a fine BF16 number by itself: it is lost beside w, not at zero."),
    ),
    hints=(
        "Where are the two neighbours of w? `BF16.neighbours(w)` gives them.",
        "The border is half the gap on the update's own side; at the border itself the even code wins: `BF16.encode(w) % 2`.",
        "return abs(update) > half_gap or (abs(update) == ___ and not is_even)",
    ),
)


# ---- 05-2


def moved_and_lost(before: list, after: list, updates: list) -> tuple[float, float]:
    changed = [a != b for a, b in zip(after, before)]
    wanted = [u != 0 for u in updates]
    lost = [want and not change for want, change in zip(wanted, changed)]
    return sum(changed) / len(before), sum(lost) / max(1, sum(wanted))


def _counts(before, after, updates):
    changed = [a != b for a, b in zip(after, before)]
    wanted = [u != 0 for u in updates]
    return changed, wanted


def _lost_of_all(before, after, updates):
    changed, wanted = _counts(before, after, updates)
    return sum(changed) / len(before), sum(w and not c for w, c in zip(wanted, changed)) / len(before)


def _complement(before, after, updates):
    moved = sum(_counts(before, after, updates)[0]) / len(before)
    return moved, 1 - moved


def _moved_of_wanted(before, after, updates):
    changed, wanted = _counts(before, after, updates)
    return sum(changed) / max(1, sum(wanted)), sum(w and not c for w, c in zip(wanted, changed)) / max(1, sum(wanted))


def _with_tolerance(before, after, updates):
    changed = [not math.isclose(a, b, rel_tol=1e-2) for a, b in zip(after, before)]
    wanted = [u != 0 for u in updates]
    return sum(changed) / len(before), sum(w and not c for w, c in zip(wanted, changed)) / max(1, sum(wanted))


_STEP = ([1.0, 0.5, 0.25, 2.0, 0.01, 0.0], [1.0, 0.49609375, 0.25, 2.0, 0.0103759765625, 1e-4], [-1e-3, -3e-3, 0.0, 1e-3, 3e-4, 1e-4])

COUNT = Exercise(
    id="05-2",
    title="the share of weights that moved, and the share of updates that were lost",
    difficulty="easy",
    minutes=6,
    why="Moved is a share of all weights, lost a share of the updates that were not zero: a weight without a gradient loses nothing.",
    reference=moved_and_lost,
    cases=(_STEP, ([1.0] * 4, [1.0] * 4, [1e-3] * 4), ([1.0, 2.0], [1.0, 2.0], [0.0, 0.0]), ([1.0, 0.5, 4.0], [0.9921875, 0.5, 4.0], [-0.01, 0.0, 1e-9])),
    same=lambda got, wanted: len(got) == 2 and all(math.isclose(a, b, abs_tol=1e-12) for a, b in zip(got, wanted)),
    show=lambda before, after, updates: f"before {before}, after {after}, updates {updates}",
    misconceptions=(
        Misconception("lost is what did not move", _complement, "a weight whose update is zero did not move either, and lost nothing."),
        Misconception("lost as a share of all weights", _lost_of_all, "divide the lost updates by the number of updates that were not zero."),
        Misconception("moved as a share of the updates", _moved_of_wanted, "moved is a share of all weights: divide by their number."),
        Misconception("counts, not shares", lambda before, after, updates: tuple(sum(x) for x in (_counts(before, after, updates)[0], [w and not c for c, w in zip(*_counts(before, after, updates))])), "these are numbers of weights: divide each by what it is a share of."),
        Misconception("compared with a tolerance", _with_tolerance, "compare exactly: one ulp of BF16 is less than 1 % of the weight, and it is a move."),
    ),
    hints=(
        "Two questions for each weight: did it change, and was it asked to?",
        "`lost` is asked and not changed; its share is taken of those that were asked.",
        "return sum(changed) / len(before), sum(lost) / max(1, ___)",
    ),
)


# ---- 05-3


def bias_correction(beta2: float, steps: int) -> float:
    counter = 0.0
    for _ in range(steps):
        counter = bf16(counter + 1)
    return 1 - beta2**counter


COUNTER = Exercise(
    id="05-3",
    title="Adam's bias correction with a step counter kept in BF16",
    difficulty="easy",
    minutes=6,
    why="From 256 on the next BF16 number is 258, and 257 is a tie that goes back: the counter stops, and the correction with it.",
    reference=bias_correction,
    cases=((0.999, 1), (0.999, 200), (0.999, 256), (0.999, 257), (0.999, 1000), (0.999, 3000), (0.95, 10), (0.95, 400)),
    same=lambda got, wanted: math.isclose(float(got), wanted, rel_tol=1e-9),
    show=lambda beta2, steps: f"beta2 = {beta2}, after {steps} steps",
    misconceptions=(
        Misconception("counts in full precision", lambda b, n: 1 - b**n, "here the counter goes on for ever: it lives in BF16, so round it after every addition."),
        Misconception("rounds the number of steps once", lambda b, n: 1 - b ** bf16(n), "the counter is stored after each step: rounding the final count once is another thing, since 1000 is a BF16 number."),
        Misconception("stops at FP16's end", lambda b, n: 1 - b ** min(n, 2048), "2048 is where FP16 stops counting; BF16 has three mantissa bits less."),
        Misconception("rounds the result too", lambda b, n: bf16(1 - b ** min(n, 256)), "the correction is a Python number: only the counter is stored in BF16."),
        Misconception("rounds beta2", lambda b, n: 1 - bf16(b) ** min(n, 256), "beta2 is a Python number: rounded to BF16, 0.999 would be 1. Only the counter is stored in BF16."),
        Misconception("power without one minus", lambda b, n: b ** min(n, 256), "the bias correction is one minus this power."),
    ),
    hints=(
        "Write the loop that the optimizer runs: one addition and one rounding per step.",
        "`bf16(counter + 1)` is what is stored.",
        "counter = bf16(counter + ___); …; return 1 - beta2**counter",
    ),
)


# ---- 05-4


def mean_gradient(gradients: list) -> float:
    total = sum(gradients)  # Python floats are FP64, more than enough
    return bf16(total / len(gradients))


def _short_buffer(gradients):
    total = 0.0
    for gradient in gradients:
        total = bf16(total + gradient)
    return bf16(total / len(gradients))


def _divided_first(gradients):
    total = 0.0
    for gradient in gradients:
        total = bf16(total + bf16(gradient / len(gradients)))
    return total


_GRADIENTS = tuple(
    ([bf16(v) for v in values],)
    for values in ([0.01] * 512, [0.01 * (1 + i % 7) for i in range(300)], [0.5, -0.25, 0.125], [1.0] + [0.003] * 400, [3e-5 * (i % 11 - 3) for i in range(256)])
)

ACCUMULATE = Exercise(
    id="05-4",
    title="the mean of many BF16 gradients, as a BF16 number",
    difficulty="easy",
    minutes=6,
    why="A long buffer takes in every micro-batch; a BF16 buffer stops listening as soon as it is some hundred times larger than what arrives.",
    reference=mean_gradient,
    cases=_GRADIENTS,
    show=lambda gradients: f"{len(gradients)} gradients that begin with {gradients[:3]}",
    misconceptions=(
        Misconception("the buffer is BF16", _short_buffer, "the running sum is rounded after every addition: keep it in full precision and round once, at the end."),
        Misconception("each one divided first", _divided_first, "dividing each gradient first makes the buffer smaller, and the addends as well: the same additions are lost. Keep the buffer long."),
        Misconception("rounds the sum and the mean", lambda gradients: bf16(bf16(sum(gradients)) / len(gradients)), "the sum is rounded, and the mean again: keep the sum long and round once, at the end."),
        Misconception("not rounded", lambda gradients: sum(gradients) / len(gradients), "the mean must come back as a BF16 number: round it once."),
        Misconception("the sum, not the mean", lambda gradients: bf16(sum(gradients)), "this is the sum: divide by the number of micro-batches."),
    ),
    hints=(
        "What is the widest number you have? Python's own.",
        "Add without rounding; divide; round the mean.",
        "return bf16(sum(gradients) / ___)",
    ),
)


# ---- 05-5


def sgd_step(w: float, gradient: float, lr: float) -> float:
    return bf16(w - lr * gradient)


STEP = Exercise(
    id="05-5",
    title="one SGD step on a BF16 weight, with FP32 or more inside",
    difficulty="medium",
    minutes=6,
    why="Computed in FP32 or longer and rounded once, where the sum is stored, the update may be as small as it likes; what is lost is lost in the sum. Not every kernel is that good: some round lr·g as well.",
    reference=sgd_step,
    cases=((1.234375, 0.00099945068359375, 0.1), (1.0, 0.01953125, 0.1003), (1.234375, 0.1953125, 0.1), (1.03125, -0.1953125, 0.1), (1.0, 0.5, 0.1), (0.5, 0.021484375, 0.1), (1.0, 1.9453125, 0.003), (2.0, -3.9375, 0.00201), (0.01007080078125, 0.25, 1e-3), (-1.5, 0.125, 0.1), (1.0078125, 0.0390625, 0.1), (1.0, -0.0390625, 0.1)),
    show=lambda w, gradient, lr: f"w = {w!r}, gradient = {gradient!r}, lr = {lr!r}",
    misconceptions=(
        Misconception("rounds the update instead of the sum", lambda w, g, lr: w - bf16(lr * g), "this rounds the update, and leaves a weight that is no BF16 number: what is stored is the sum."),
        Misconception("rounds the update and the sum", lambda w, g, lr: bf16(w - bf16(lr * g)), "two roundings: the product shall not be rounded, only the sum. Near a tie it makes a difference, and some kernels do just that."),
        Misconception("rounds the learning rate", lambda w, g, lr: bf16(w - bf16(lr) * g), "the learning rate is a Python number: rounded to BF16, 0.1 becomes 0.10009765625."),
        Misconception("rounds all three", lambda w, g, lr: bf16(w - bf16(bf16(lr) * g)), "three roundings: of the learning rate, of the product, of the sum. That is what BF16 tensors of torch may do; here only the sum is rounded."),
        Misconception("never rounds", lambda w, g, lr: w - lr * g, "the weight must come back as a BF16 number: round the sum."),
        Misconception("goes uphill", lambda w, g, lr: bf16(w + lr * g), "the sign: an update goes against the gradient."),
    ),
    hints=(
        "How many results are stored here? Only one: the new weight.",
        "Compute in full precision, round where it is stored.",
        "return bf16(w - ___)",
    ),
)

EXERCISES = (MOVES, COUNT, COUNTER, ACCUMULATE, STEP)
