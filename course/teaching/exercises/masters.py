"""Exercises of notebook 06: bytes per parameter, dice on the sum, a step with a carry, a master copy, the 16 + 16 split."""

from course.numerics import BF16

from .model import Exercise, Misconception


def bf16(x: float) -> float:
    """Round one number to BF16, nearest-even, overflow ieee."""
    return BF16.decode(BF16.encode(x))


def enclosing(x: float) -> tuple:
    """The two neighbouring BF16 numbers around x: below <= x < above."""
    inner = BF16.decode(BF16.encode(x, "toward-zero"))
    below = inner if inner <= x else BF16.neighbours(inner)[0]
    return below, BF16.neighbours(below)[1]


def _same_numbers(got, wanted):
    return len(got) == len(wanted) and all(float(a) == b for a, b in zip(got, wanted))


# ---- 06-1


def train_with_master(w: float, gradients: list, lr: float, rounded) -> tuple:
    master = w
    for gradient in gradients:
        master = master - lr * gradient
    return master, rounded(master)


def _each(step):
    """Repeat a step (master, weight, change, rounded) -> (master, weight)."""

    def run(w, gradients, lr, rounded):
        master, weight = w, rounded(w)
        for gradient in gradients:
            master, weight = step(master, weight, lr * gradient, rounded)
        return master, weight

    return run


MASTER = Exercise(
    id="06-1",
    title="plain SGD with a master copy: (master, weight) at the end",
    difficulty="easy",
    minutes=6,
    why="The master never goes through the short format; only the copy that is multiplied does.",
    reference=train_with_master,
    cases=((1.0, [1.0] * 10, 0.0001, bf16), (1.234375, [1.0] * 500, 0.0001, bf16), (1.0, [0.5, -2.0, 30.0], 0.001, bf16), (-0.75, [3.0] * 7, 0.01, bf16), (1.003, [0.1], 0.01, bf16), (0.1, [], 0.1, bf16)),
    same=lambda got, wanted: len(got) == 2 and abs(float(got[0]) - wanted[0]) < 1e-12 and float(got[1]) == wanted[1],
    show=lambda w, gradients, lr, rounded: f"w = {w!r}, {len(gradients)} gradients that begin with {gradients[:3]}, lr = {lr!r}",
    misconceptions=(
        Misconception("master re-read from the weight", _each(lambda m, w, c, r: (w - c, r(w - c))), "each step starts from the rounded weight, so the master is lost on each step: long arithmetic, short memory. It stalls exactly like pure BF16."),
        Misconception("master rounded too", _each(lambda m, w, c, r: (r(m - c), r(m - c))), "the master itself goes through rounded (or is read back from what did), so the master is lost on each step, and small updates vanish."),
        Misconception("weight updated by itself", _each(lambda m, w, c, r: (m - c, r(w - c))), "the weight gets its own update in BF16, beside the master: it must be the rounded master."),
        Misconception("rounds the update", _each(lambda m, w, c, r: (m - r(c), r(m - r(c)))), "the update was rounded before it reached the master: it is computed and added in full precision."),
        Misconception("master starts from the rounded weight", lambda w, gradients, lr, rounded: train_with_master(rounded(w), gradients, lr, rounded), "the master starts from the rounded w: what rounding took away is lost before the first step. It starts from w itself."),
        Misconception("weight first", lambda w, gradients, lr, rounded: train_with_master(w, gradients, lr, rounded)[::-1], "the two numbers are in the wrong order: the master comes first, the weight second."),
        Misconception("weight not rounded", _each(lambda m, w, c, r: (m - c, m - c)), "the weight that is multiplied is BF16: put it through rounded."),
        Misconception("uphill", _each(lambda m, w, c, r: (m + c, r(m + c))), "the sign is turned: descent subtracts lr × gradient."),
    ),
    hints=(
        "Two numbers: one that remembers everything, one that is multiplied. Which one is the update added to?",
        "Update the master in full precision, step after step; the weight is only ever made from it.",
        "master = master - lr * gradient; …; return master, rounded(___)",
    ),
)  # fmt: skip


# ---- 06-2


def split_bits(bits: int) -> tuple:
    upper, remainder = bits >> 16, bits & 0xFFFF
    if remainder >= 0x8000:
        upper, remainder = upper + 1, remainder - 0x10000
    return upper, remainder


def _split(upper, remainder):
    """Halves changed where the lower one is 0x8000 or more."""

    def cut(bits):
        high, low = bits >> 16, bits & 0xFFFF
        return (high + upper(high, low), low - remainder(high, low)) if low >= 0x8000 else (high, low)

    return cut


def _tie_to_even(high, low):
    return high % 2 if low == 0x8000 else 1


SPLIT = Exercise(
    id="06-2",
    title="cut the 32 bits of an FP32 number into a BF16 code and a signed 16-bit remainder",
    difficulty="hard",
    minutes=10,
    why="upper × 65 536 + remainder is the old pattern, bit for bit, and the upper half is the nearest BF16 number: a master in 16 + 16 bits.",
    reference=split_bits,
    cases=tuple((bits,) for bits in (0x3F800000, 0x3F804000, 0x3F807FFF, 0x3F808000, 0x3F808001, 0x3F818000, 0x3FFFC000, 0x3DCCCCCD, 0xBDCCCCCD, 0xBF9E0610, 0x00000001, 0x0000FFFF, 0x7F7F0000)),
    show=lambda bits: f"0x{bits:08X}",
    show_result=lambda result: f"(0x{result[0]:04X}, {result[1]})",
    misconceptions=(
        Misconception("truncated", lambda bits: (bits >> 16, bits & 0xFFFF), "this cuts the bits where they are. It can be undone, but the BF16 half is then the number toward zero, and a remainder of 0x8000 or more does not fit a signed 16-bit integer."),
        Misconception("no carry", _split(lambda h, low: 0, lambda h, low: 0x10000), "the remainder is signed now, but the upper half did not go up by one: putting them together gives a number 65 536 units too small."),
        Misconception("carry, but an unsigned remainder", _split(lambda h, low: 1, lambda h, low: 0), "the upper half went up by one, and the remainder did not go down by 65 536: together they are too large by that much."),
        Misconception("ties to even", _split(_tie_to_even, lambda h, low: 0x10000 * _tie_to_even(h, low)), "exactly half goes to the even code here: as a rounding that is right, but a remainder of +32 768 does not fit a signed 16-bit integer."),
        Misconception("ties toward zero", _split(lambda h, low: int(low > 0x8000), lambda h, low: 0x10000 * (low > 0x8000)), "exactly half stays down here: its remainder, +32 768, does not fit a signed 16-bit integer. Half goes up, with −32 768."),
        Misconception("sign of the remainder", lambda bits: (split_bits(bits)[0], -split_bits(bits)[1]), "the sign of the remainder is turned: it is the old pattern minus the upper half, so it is negative where the upper half went up."),
        Misconception("halves swapped", lambda bits: split_bits(bits)[::-1], "the halves are swapped: the upper one, the BF16 code, comes first."),
    ),
    hints=(
        "bits >> 16 and bits & 0xFFFF are the halves. When is the upper one not the nearest BF16 number?",
        "From 0x8000 on the upper half goes up by one; the remainder must then say: minus what was added.",
        "if remainder >= 0x8000: upper, remainder = upper + 1, remainder - ___",
    ),
)  # fmt: skip


# ---- 06-3


def stochastic_step(w: float, change: float, enclosing, u: float) -> float:
    total = w + change
    below, above = enclosing(total)
    return above if u < (total - below) / (above - below) else below


def _dice(total, chance, u):
    below, above = enclosing(total)
    return above if u < chance((total - below) / (above - below)) else below


def _around_w(w, change, enclosing, u):
    below, above = enclosing(w)
    return above if u < change / (above - below) else below


def _noise(w, change, enclosing, u):
    below, above = enclosing(w + change)
    return bf16(w + change + u * (above - below))


STOCHASTIC = Exercise(
    id="06-3",
    title="a stochastic step of a BF16 weight",
    difficulty="medium",
    minutes=8,
    why="It is the sum that has no place in BF16, so it is the sum that is diced: on average the weight moves by exactly the change.",
    reference=stochastic_step,
    cases=tuple((w, change, enclosing, u) for w in (1.0, -0.75, 100.0, 0.01171875) for change in (0.001, -0.0005, 0.003, 0.31, 0.0) for u in (0.0, 0.05, 0.3, 0.6, 0.97)),
    same=lambda got, wanted: float(got) == wanted,
    show=lambda w, change, enclosing, u: f"w = {w!r}, change = {change!r}, u = {u!r}",
    misconceptions=(
        Misconception("rounds the update instead of the sum", lambda w, c, e, u: bf16(w + _dice(c, lambda f: f, u)), "the dice fell on the change, and then the sum was rounded to nearest: that loses a small change as surely as before. Dice the sum w + change."),
        Misconception("rounds the update, leaves the sum", lambda w, c, e, u: w + _dice(c, lambda f: f, u), "the dice fell on the change, and the sum is no BF16 number any more: it is the sum w + change that has to be rounded."),
        Misconception("a fair coin", lambda w, c, e, u: _dice(w + c, lambda f: 0.5 if f else 0.0, u), "up and down with the same chance: the mean is then the middle of the gap, a bias of up to half an ulp in each step."),
        Misconception("chances swapped", lambda w, c, e, u: _dice(w + c, lambda f: 1 - f if f else 0.0, u), "the chance of ending above is the share of the gap that the sum already covers, not the share that is left."),
        Misconception("above and below swapped", lambda w, c, e, u: sum(e(w + c)) - stochastic_step(w, c, e, u), "above and below are swapped: a small u, below the share of the gap that the sum covers, gives the upper number."),
        Misconception("an exact sum moves", lambda w, c, e, u: _dice(w + c, lambda f: f + 1e-9, u), "u can be 0, and then a sum that is a BF16 number moves all the same: compare with u < share, not u <= share."),
        Misconception("neighbours of w", _around_w, "these are the neighbours of w, not of the sum: a negative change then never moves the weight. Ask enclosing(w + change)."),
        Misconception("rounds to nearest", lambda w, c, e, u: bf16(w + c), "u has no effect: this is rounding to nearest, and it loses every change below half an ulp."),
        Misconception("noise, then nearest", _noise, "noise from 0 to a whole gap and then nearest ends half a gap too high on average: take noise from −1/2 to +1/2, or compare u with the fraction."),
        Misconception("never rounded", lambda w, c, e, u: w + c, "this is the exact sum: it has to become one of the two BF16 numbers around it."),
    ),
    hints=(
        "Which of the numbers w, change and w + change has no place in BF16 that it could be stored in?",
        "enclosing(w + change) gives the two candidates; how far is the sum on the way from the lower to the upper one?",
        "return above if u < (total - below) / ___ else below",
    ),
)  # fmt: skip


# ---- 06-4


def kahan_step(w: float, carry: float, change: float, rounded) -> tuple:
    wanted = change + carry
    moved = rounded(w + wanted)
    return moved, rounded(wanted - (moved - w))


def _kahan(wanted, rest):
    """A step that differs from the reference in what is added, or in what is kept."""

    def step(w, carry, change, rounded):
        add = wanted(carry, change)
        moved = rounded(w + add)
        return moved, rounded(rest(w, moved, carry, change))

    return step


def _carry_of_notebook_02(w, carry, change, rounded):
    moved = rounded(w + (change - carry))
    return moved, rounded((moved - w) - (change - carry))


def _all_rounded(w, carry, change, rounded):
    wanted = rounded(change + carry)
    moved = rounded(w + wanted)
    return moved, rounded(wanted - rounded(moved - w))


KAHAN = Exercise(
    id="06-4",
    title="one step of a weight with Kahan's carry",
    difficulty="medium",
    minutes=10,
    why="The carry is what the rounded weight has not taken yet; it needs only the short format, since it is small.",
    reference=kahan_step,
    cases=((1.0, 0.0, 0.001, bf16), (1.0, 0.0029296875, 0.001, bf16), (1.0, 0.00390625, 0.0001, bf16), (1.0078125, -0.003, -0.002, bf16), (-0.75, 0.001, -0.0007, bf16),
           (100.0, 0.0, 0.3, bf16), (100.0, 0.2, 0.3, bf16), (0.5, -0.0001, 0.02, bf16), (0.01171875, 1.1e-05, 3.3e-05, bf16), (2.0, 0.0, 0.0, bf16)),
    same=_same_numbers,
    show=lambda w, carry, change, rounded: f"w = {w!r}, carry = {carry!r}, change = {change!r}",
    misconceptions=(
        Misconception("carry never added", _kahan(lambda carry, change: change, lambda w, moved, carry, change: change - (moved - w)), "the old carry was thrown away: add it to the change before anything else."),
        Misconception("old carry forgotten in the new one", _kahan(lambda carry, change: change + carry, lambda w, moved, carry, change: change - (moved - w)), "the new carry is what is left of change + carry; here what the old carry still owed was dropped."),
        Misconception("sign of the carry", _kahan(lambda carry, change: change + carry, lambda w, moved, carry, change: (moved - w) - (change + carry)), "the sign is turned: this carry is what arrived too much, but the step adds it. Here the carry is what is still missing."),
        Misconception("the carry of notebook 02", _carry_of_notebook_02, "this is the carry of notebook 02, what arrived too much, to be subtracted. Here it has the other sign: what is still missing, to be added."),
        Misconception("rounds every operation", _all_rounded, "change + carry went through rounded as well. Between two steps the arithmetic is wide: round what is stored, the weight and the carry, and nothing else."),
        Misconception("rounds the update instead of the sum", lambda w, carry, change, rounded: (w + rounded(change + carry), 0.0), "change + carry was rounded, and the sum was not: the weight is no BF16 number any more. Round w + (change + carry) and carry what is left."),
        Misconception("no carry", lambda w, carry, change, rounded: (rounded(w + change), 0.0), "nothing is carried over: what the rounding took away is lost."),
        Misconception("carry not rounded", lambda w, carry, change, rounded: (rounded(w + change + carry), change + carry - (rounded(w + change + carry) - w)), "the carry is stored from step to step in BF16: put it through rounded as well."),
        Misconception("weight not rounded", lambda w, carry, change, rounded: (w + change + carry, 0.0), "the weight is stored in BF16: put the sum through rounded; what it does not take is the carry."),
    ),
    hints=(
        "Between two steps two numbers are stored, the weight and the carry, both in BF16. What happens in between is exact.",
        "Want change + carry. Look at what the rounded weight took of it; the carry is the rest.",
        "return moved, rounded(wanted - (moved - ___))",
    ),
)  # fmt: skip


# ---- 06-5


def training_bytes(weight_bits: int, gradient_bits: int, moment_bits: int, master_bits: int) -> float:
    return (weight_bits + gradient_bits + 2 * moment_bits + master_bits) / 8


BYTES = Exercise(
    id="06-5",
    title="bytes per parameter of Adam training",
    difficulty="easy",
    minutes=5,
    why="FP32 throughout and mixed precision with FP32 masters both come to 16: what the short weights and gradients save, the master costs.",
    reference=training_bytes,
    cases=((32, 32, 32, 0), (16, 16, 32, 32), (16, 32, 32, 32), (16, 16, 16, 0), (16, 16, 16, 32), (8, 32, 16, 32), (16, 16, 8, 32), (16, 8, 32, 16)),
    show=lambda w, g, m, master: f"weights {w}, gradients {g}, moments {m}, master {master} bits",
    misconceptions=(
        Misconception("half the memory", lambda w, g, m, master: w / 2, "this is 16 bytes times the width of the weights over 32, as if everything shrank with them: moments and masters have widths of their own."),
        Misconception("one moment", lambda w, g, m, master: (w + g + m + master) / 8, "Adam keeps two moments for each parameter, the mean gradient and the mean square."),
        Misconception("moments as short as the weights", lambda w, g, m, master: (3 * w + g + master) / 8, "the moments have their own width, moment_bits: with FP32 moments it is 4 bytes each, however short the weights are."),
        Misconception("no gradients", lambda w, g, m, master: (w + 2 * m + master) / 8, "the gradients are missing: they live from the backward pass to the optimizer's step, all at once."),
        Misconception("a master instead of the weights", lambda w, g, m, master: ((master or w) + g + 2 * m) / 8, "master and weights are two tensors, and both are kept: the short one is multiplied, the long one updated."),
        Misconception("no master", lambda w, g, m, master: (w + g + 2 * m) / 8, "the master copy is missing: it is a tensor as large as all weights."),
        Misconception("bits", lambda w, g, m, master: w + g + 2 * m + master, "these are bits: eight of them are a byte."),
    ),
    hints=(
        "Count the tensors that have one entry per parameter. There are up to five.",
        "Weights, gradients, two moments, a master copy: add their bits, then make bytes of them.",
        "return (weight_bits + gradient_bits + ___ * moment_bits + master_bits) / 8",
    ),
)  # fmt: skip


EXERCISES = (MASTER, SPLIT, STOCHASTIC, KAHAN, BYTES)
