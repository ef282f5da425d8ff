"""Exercises of notebook 12: what each process holds and sends, a ring's sum, error feedback, a loss scale that many processes allow."""

import math

from course.numerics import FP16

from .model import Exercise, Misconception
from .ranges import bf16, near

# ---- 12-1


def held_bytes(stage: int, processes: int, weights: float, gradients: float, optimizer: float) -> float:
    parts = [optimizer, gradients, weights]  # in the order in which the stages share them
    return sum(part / processes if place < stage else part for place, part in enumerate(parts))


def _held(order=("optimizer", "gradients", "weights"), shift=0):
    """The reference with another order of sharing, or with every stage sharing `shift` kinds more."""

    def solve(stage, processes, weights, gradients, optimizer):
        sizes = {"weights": weights, "gradients": gradients, "optimizer": optimizer}
        shared = order[: stage + shift if stage else 0]
        return sum(size / processes if kind in shared else size for kind, size in sizes.items())

    return solve


HELD = Exercise(
    id="12-1",
    title="bytes per parameter that each process holds between two steps, for DDP (stage 0) and ZeRO's stages 1 to 3",
    difficulty="easy",
    minutes=6,
    why="Stage by stage: first what only the update needs (optimizer, masters), then the gradients, at last the weights, which every pass needs and which then have to be gathered.",
    reference=held_bytes,
    cases=tuple((stage, n, *sizes) for stage in range(4) for n in (1, 2, 8, 64) for sizes in ((2.0, 2.0, 12.0), (4.0, 4.0, 8.0), (2.0, 4.0, 12.0))),
    same=near,
    show=lambda stage, processes, weights, gradients, optimizer: f"stage {stage}, {processes} processes, weights {weights:g}, gradients {gradients:g}, optimizer {optimizer:g}",
    misconceptions=(
        Misconception("everything is shared", lambda s, n, w, g, o: (w + g + o) / (n if s else 1), "only stage 3 shares everything. Stage 1 shares what the optimizer keeps, stage 2 the gradients too."),
        Misconception("gradients already in stage 1", _held(shift=1), "one stage too far: stage 1 shares only the optimizer's part, the gradients are whole until stage 2."),
        Misconception("weights first", _held(order=("weights", "gradients", "optimizer")), "the order is the other way round: the optimizer's part is the largest and is needed only at the update, so it is shared first."),
        Misconception("weights stay whole", lambda s, n, w, g, o: held_bytes(min(s, 2), n, w, g, o), "in stage 3 the weights are shared too; they are gathered layer by layer while a pass runs, and given back."),
        Misconception("gradients stay whole", lambda s, n, w, g, o: held_bytes(s, n, w, 0.0, o) + g, "from stage 2 on the gradients are shared: a process keeps those of its own part and lets the others go."),
        Misconception("DDP shares the optimizer", lambda s, n, w, g, o: held_bytes(max(s, 1), n, w, g, o), "stage 0 is DDP: each process holds all of it."),
        Misconception("all processes together", lambda s, n, w, g, o: n * held_bytes(s, n, w, g, o), "this is what all processes hold together; the question is one of them."),
    ),
    hints=(
        "Three kinds: weights, gradients, optimizer. Which of them is whole in each process, stage by stage?",
        "Stage 1 divides the optimizer's part by the number of processes, stage 2 the gradients too, stage 3 the weights too.",
        "parts = [optimizer, gradients, weights]; return sum(part / processes if place < ___ else part for place, part in enumerate(parts))",
    ),
)  # fmt: skip


# ---- 12-2


def sent_bytes(stage: int, processes: int, weights: float, sums: float, micro_batches: int) -> float:
    around = (processes - 1) / processes
    if stage == 0:
        return 2 * around * sums
    scatters = micro_batches if stage >= 2 else 1
    gathers = 2 * micro_batches if stage == 3 else 1
    return around * (scatters * sums + gathers * weights)


def _sent(around=lambda n: (n - 1) / n, reduce=2, scatters=lambda s, m: m if s >= 2 else 1, gathers=lambda s, m: 2 * m if s == 3 else 1, wide=False):
    """The reference with one of its parts replaced."""

    def solve(s, n, w, g, m):
        return around(n) * (reduce * g if s == 0 else scatters(s, m) * g + gathers(s, m) * (g if wide else w))

    return solve


SENT = Exercise(
    id="12-2",
    title="bytes per parameter that each process sends in one step of so many micro-batches, in rings",
    difficulty="hard",
    minutes=12,
    why="Reduce-scatter and all-gather are the two halves of an all-reduce, so ZeRO-1 costs no more than DDP. Sharded gradients and sharded weights cost per micro-batch.",
    reference=sent_bytes,
    cases=tuple((stage, n, w, g, m) for stage in range(4) for n in (1, 2, 8) for w, g in ((2.0, 2.0), (2.0, 4.0)) for m in (1, 4)),
    same=near,
    show=lambda stage, processes, weights, sums, micro_batches: f"stage {stage}, {processes} processes, weights in {weights:g} bytes, sums in {sums:g}, {micro_batches} micro-batch(es)",
    misconceptions=(
        Misconception("an all-reduce in one round", _sent(reduce=1), "DDP's all-reduce has two halves, a reduce-scatter and an all-gather: the numbers go round the ring twice."),
        Misconception("a whole round", _sent(around=lambda n: 1.0), "in a ring of n each process sends n − 1 of n pieces: what it owns at the end it need not send. Alone it sends nothing."),
        Misconception("to each of the others", _sent(around=lambda n: n - 1.0), "in a ring each process speaks to one neighbour only and sends pieces of 1/n: (n − 1)/n of the numbers, not n − 1 times all of them."),
        Misconception("weights gathered once", _sent(gathers=lambda s, m: m if s == 3 else 1), "stage 3 gathers the weights twice for each micro-batch: for the forward pass, and again for the backward pass."),
        Misconception("stage 2 waits for the last micro-batch", _sent(scatters=lambda s, m: m if s == 3 else 1), "from stage 2 on a process has no place for whole gradients: each micro-batch sends its own."),
        Misconception("stage 3 waits for the last micro-batch", _sent(scatters=lambda s, m: 1, gathers=lambda s, m: 2 if s == 3 else 1), "sharded gradients and weights move with every micro-batch."),
        Misconception("DDP sends every micro-batch", lambda s, n, w, g, m: sent_bytes(s, n, w, g, m) * (1 if s else m), "DDP keeps whole gradients: it can add up its micro-batches and send once. (In torch it has to be told, with no_sync.)"),
        Misconception("weights gathered for every micro-batch", _sent(gathers=lambda s, m: 2 * m if s == 3 else m), "in stages 1 and 2 the weights are whole: they are gathered once in a step, after the update."),
        Misconception("all of it for every micro-batch", lambda s, n, w, g, m: m * sent_bytes(s, n, w, g, 1), "not all of it is sent for every micro-batch. Gradients are, from stage 2 on, where nobody keeps them whole; weights in stage 3 only."),
        Misconception("stage 1 sends every micro-batch", _sent(scatters=lambda s, m: m), "stage 1 keeps whole gradients and can add up its micro-batches before it sends anything."),
        Misconception("weights in the format of sums", _sent(wide=True), "the weights travel in their own format, whatever the sums have."),
        Misconception("an all-reduce besides", lambda s, n, w, g, m: sent_bytes(s, n, w, g, m) + (sent_bytes(0, n, w, g, m) / 2 if s else 0), "no process needs the sums of all gradients from stage 1 on: a reduce-scatter gives each its own part."),
    ),
    hints=(
        "List the collectives of each stage: what is summed, what is gathered, and how often in a step?",
        "All-reduce 2(n−1)/n, the other two (n−1)/n. Stage 1: one scatter, one gather. Stage 2: a scatter each micro-batch. Stage 3: two gathers each, too.",
        "around = (processes - 1) / processes; scatters = micro_batches if stage >= 2 else 1; gathers = ___ if stage == 3 else 1",
    ),
)  # fmt: skip


# ---- 12-3


def ring_sum(parts: list, first: int, rounded) -> float:
    total = rounded(parts[first])
    for step in range(1, len(parts)):
        total = rounded(total + rounded(parts[(first + step) % len(parts)]))
    return total


def _by_pairs(parts, first, rounded):
    level = [rounded(part) for part in parts]
    while len(level) > 1:
        level = [rounded(sum(level[i : i + 2])) if i + 1 < len(level) else level[i] for i in range(0, len(level), 2)]
    return level[0]


RINGS = ([256.0, 1.0, 1.0, 1.0], [1.0] * 8, [1.0, 2.0**-8, 2.0**-8, 2.0**-8], [0.1, 0.2, 0.3, 0.4, 0.5], [300.0, -299.0, 0.5, 0.25], [1.0, 3.0**-5, 1.001, 1e-3], [2.0**-9, 1.0, 2.0**-9, 1.0, 1.004])
RING = Exercise(
    id="12-3",
    title="the sum that a ring makes, started by the process `first` and rounded at every stop",
    difficulty="easy",
    minutes=6,
    why="The same four numbers have several sums, one for each place where the ring may begin. With a thousand stops the last ones add to a number a thousand times their size: swamping.",
    reference=ring_sum,
    cases=tuple((parts, first, bf16) for parts in RINGS for first in range(len(parts))),
    show=lambda parts, first, rounded: f"parts = {[round(part, 6) for part in parts]}, first = {first}, BF16",
    misconceptions=(
        Misconception("rounded at the end", lambda p, f, r: r(sum(map(r, p))), "the sum is rounded once, at the end: that is a wide accumulator. What a ring passes on has to fit into the short format at every stop."),
        Misconception("always from 0", lambda p, f, r: ring_sum(p, 0, r), "the sum begins at `first` and goes round from there; `first` was not used."),
        Misconception("parts not rounded", lambda p, f, r: _unrounded(p, f, r), "what a process adds is a number of the short format too: round each part before it is added."),
        Misconception("the first one twice", lambda p, f, r: r(ring_sum(p, f, r) + r(p[f])), "one stop too many: the ring has n − 1 additions, the first process only sends."),
        Misconception("in pairs", _by_pairs, "this adds in pairs, as a tree does. In a ring each process adds its own part to what arrives."),
        Misconception("not around the end", lambda p, f, r: _cut(p, f, r), "after the last process comes process 0: (first + step) modulo the number of processes."),
        Misconception("the other way", lambda p, f, r: ring_sum(p[::-1], len(p) - 1 - f, r), "this goes round the other way; the next one is first + 1."),
        Misconception("a mean", lambda p, f, r: ring_sum(p, f, r) / len(p), "this is the mean; the sum is asked for."),
    ),
    hints=(
        "What does process `first` send, and what does the next one pass on?",
        "total = rounded(parts[first]); then n − 1 times: add the rounded part of the next process, round the total.",
        "for step in range(1, len(parts)): total = rounded(total + rounded(parts[___]))",
    ),
)  # fmt: skip


def _unrounded(parts, first, rounded):
    total = parts[first]
    for step in range(1, len(parts)):
        total = rounded(total + parts[(first + step) % len(parts)])
    return total


def _cut(parts, first, rounded):
    total = rounded(parts[first])
    for part in parts[first + 1 :]:
        total = rounded(total + rounded(part))
    return total


# ---- 12-4


def send_top(gradient: list, memory: list, k: int) -> tuple:
    wanted = [g + m for g, m in zip(gradient, memory)]
    largest = sorted(range(len(wanted)), key=lambda i: -abs(wanted[i]))[:k]
    sent = [wanted[i] if i in largest else 0.0 for i in range(len(wanted))]
    return sent, [w - s for w, s in zip(wanted, sent)]


def _top(pick=lambda g, m, w: w, send=lambda g, w: w, keep=lambda g, m, w, s: w - s, size=abs):
    """The reference with another thing to choose by, to send, to keep, or another order."""

    def solve(gradient, memory, k):
        wanted = [g + m for g, m in zip(gradient, memory)]
        by = [pick(g, m, w) for g, m, w in zip(gradient, memory, wanted)]
        largest = sorted(range(len(by)), key=lambda i: -size(by[i]))[:k]
        sent = [send(g, w) if i in largest else 0.0 for i, (g, w) in enumerate(zip(gradient, wanted))]
        return sent, [keep(g, m, w, s) for g, m, w, s in zip(gradient, memory, wanted, sent)]

    return solve


TOP = Exercise(
    id="12-4",
    title="send the k largest numbers of a gradient, and remember the rest for the next step",
    difficulty="medium",
    minutes=8,
    why="sent + memory is always gradient + old memory: nothing is lost, only late. Without the memory a small but steady gradient is never sent at all.",
    reference=send_top,
    cases=(
        ([1.0, -3.0, 2.0, 0.5], [0.0, 0.0, 0.0, 0.0], 2), ([1.0, -3.0, 2.0, 0.5], [4.0, 0.0, 0.0, -8.0], 2), ([0.5, 0.25, -0.125], [1.0, 2.0, -4.0], 1), ([1.0, 0.75], [-1.0, 0.5], 1),
        ([-2.0, 1.0, 4.0, -8.0, 0.5], [0.5, -0.5, 0.25, 7.0, 0.125], 2), ([1.0, 2.0, 3.0], [0.0, 0.0, 0.0], 3), ([0.5, -0.25, 0.125, 2.0], [-4.0, 1.0, 0.0, 0.5], 1), ([-1.0, -2.0, -3.0], [0.5, 0.5, 0.5], 2),
    ),
    same=lambda got, wanted: len(got) == 2 and all(len(a) == len(b) and all(map(near, a, b)) for a, b in zip(got, wanted)),
    show=lambda gradient, memory, k: f"gradient = {gradient}, memory = {memory}, k = {k}",
    misconceptions=(
        Misconception("memory never used", _top(pick=lambda g, m, w: g, send=lambda g, w: g, keep=lambda g, m, w, s: g - s), "the memory plays no part: add it to the gradient before anything is chosen."),
        Misconception("nothing is remembered", _top(pick=lambda g, m, w: g, send=lambda g, w: g, keep=lambda g, m, w, s: 0.0), "the memory plays no part and stays empty: add it to the gradient, and keep what is not sent."),
        Misconception("sent, and the rest forgotten", _top(keep=lambda g, m, w, s: 0.0), "what is not sent now is lost: the new memory is (gradient + memory) − sent."),
        Misconception("old memory forgotten", _top(keep=lambda g, m, w, s: g if not s else 0.0), "what was remembered and not sent this time either has to stay: memory is (gradient + memory) − sent."),
        Misconception("chosen by the gradient", _top(pick=lambda g, m, w: g), "the places were chosen by the gradient alone. A small gradient that has waited long should get its turn: choose by gradient + memory."),
        Misconception("memory not sent", _top(send=lambda g, w: g), "at the chosen places gradient + memory is sent, not the gradient alone."),
        Misconception("memory not cleared", _top(keep=lambda g, m, w, s: w), "what has been sent leaves the memory, or it is sent again and again."),
        Misconception("largest, not largest in magnitude", _top(size=lambda x: x), "largest in magnitude: −3 is larger than 2 here."),
        Misconception("signs swapped", _top(keep=lambda g, m, w, s: s - w), "the memory has the wrong sign: it is what is still missing, wanted − sent."),
        Misconception("memory halved", _top(keep=lambda g, m, w, s: (w - s) / 2), "the memory must keep all of what was not sent, or part of it is lost for good."),
    ),
    hints=(
        "Which list should be sorted: the gradient, the memory, or something made of both?",
        "wanted = gradient + memory; send wanted at its k largest places in magnitude; the new memory is wanted − sent.",
        "largest = sorted(range(len(wanted)), key=lambda i: ___)[:k]; memory = [w - s for w, s in zip(wanted, sent)]",
    ),
)  # fmt: skip


# ---- 12-5


def largest_scale(largest: float, processes: int, divide_first: bool) -> float:
    total = largest if divide_first else largest * processes
    return 2.0 ** math.floor(math.log2(FP16.max / total))


def _scale(count=lambda n, first: 1 if first else n, cut=math.floor, top=FP16.max):
    return lambda largest, processes, divide_first: 2.0 ** cut(math.log2(top / (largest * count(processes, divide_first))))


SCALE = Exercise(
    id="12-5",
    title="the largest loss scale, a power of two, with which an FP16 sum over all processes cannot overflow",
    difficulty="medium",
    minutes=8,
    why="A sum over n processes needs log₂ n powers of two above the largest gradient; dividing by n first needs none, and gives up as many at the lower end.",
    reference=largest_scale,
    cases=tuple((g, n, first) for g in (1.0, 0.3, 0.004, 65504.0, 7.0) for n in (1, 2, 8, 100, 1024) for first in (False, True)),
    show=lambda largest, processes, divide_first: f"largest gradient {largest:g}, {processes} processes, {'divided first' if divide_first else 'divided after the sum'}",
    misconceptions=(
        Misconception("one process only", _scale(count=lambda n, first: 1), "one part fits, but the sum of all of them does not: without dividing first it can be as large as n times one part."),
        Misconception("divided in both cases", _scale(count=lambda n, first: n), "where each part is divided by n before the sum, n of them add up to no more than one."),
        Misconception("the other way round", _scale(count=lambda n, first: n if first else 1), "the other way round: it is the sum of parts that were *not* divided that grows with n."),
        Misconception("n more room", _scale(count=lambda n, first: 1 / n if first else n), "dividing first wins back the factor n, and nothing beyond: the sum of the divided parts can still be as large as one of them was."),
        Misconception("rounded up", _scale(cut=math.ceil), "the power of two above does not fit: round the exponent down."),
        Misconception("rounded to the nearest", _scale(cut=round), "the nearest power of two may be too large: round the exponent down."),
        Misconception("no power of two", lambda g, n, first: FP16.max / (g if first else g * n), "the scale should be a power of two, so that it changes exponents only and no digits."),
        Misconception("2^16 fits", _scale(top=2.0**16), "FP16 ends at 65 504, one gap below 2^16."),
        Misconception("root of n", _scale(count=lambda n, first: 1 if first else math.sqrt(n)), "√n is right for parts of random sign on average; parts that agree add up to n times one. Nothing must overflow."),
    ),
    hints=(
        "How large can the sum become, if every process has the largest gradient, with one sign?",
        "Not divided: n · largest · scale. Divided first: largest · scale. It must not pass FP16.max.",
        "total = largest if divide_first else ___; return 2.0 ** math.floor(math.log2(FP16.max / total))",
    ),
)  # fmt: skip


EXERCISES = (HELD, SENT, RING, TOP, SCALE)
