"""Exercises of notebook 14, as at a whiteboard: a scaler for several optimizers, gigabytes, the largest FP16 sum, a recipe for a device."""

import math

from .model import Exercise, Misconception
from .ranges import near

# ---- 14-1


def scaler_step(scale: float, good: int, gradients: list, interval: int) -> tuple:
    finite = [all(math.isfinite(g) for g in of_one) for of_one in gradients]
    updates = [[g / scale for g in of_one] if fine else None for of_one, fine in zip(gradients, finite)]
    if not all(finite):
        return scale / 2, 0, updates
    if good + 1 < interval:
        return scale, good + 1, updates
    return min(2 * scale, 2.0**127), 0, updates


def _step(alone=True, new_scale=False, finite=math.isfinite, halve=lambda bad: 0.5, reset=True, grow=lambda good, interval: good + 1 >= interval, keep=False, cap=True, clear=True, divide=True, forgive=False):
    """The reference with one thing changed; the names say which."""

    def solve(scale, good, gradients, interval):
        fine = [all(map(finite, of_one)) for of_one in gradients]
        ok = any(fine) if forgive else all(fine)
        after = scale * halve(len(fine) - sum(fine)) if not ok else 2 * scale if grow(good, interval) else scale
        after = min(after, 2.0**127) if cap else after
        count = (0 if reset else good) if not ok else (0 if clear else good + 1) if grow(good, interval) else good + 1
        by = after if new_scale else scale if divide else 1.0
        takes = fine if alone else [all(fine)] * len(fine)
        updates = [[g / by for g in of_one] if taken or keep else None for of_one, taken in zip(gradients, takes)]
        return after, count, updates

    return solve


def _same(got, wanted):
    def alike(a, b):
        if a is None or b is None:
            return a is b
        return len(a) == len(b) and all(x == y or (x != x and y != y) for x, y in zip(a, b))

    return len(got) == 3 and got[:2] == wanted[:2] and len(got[2]) == len(wanted[2]) and all(map(alike, got[2], wanted[2]))


_INF, _NAN = math.inf, math.nan

SCALER = Exercise(
    id="14-1",
    title="one step of a loss scaler that serves several optimizers: (new scale, good steps in a row, true gradients or None for each)",
    difficulty="medium",
    minutes=12,
    why="Each optimizer is checked by itself and skipped by itself; the scale is one for all, divides as it was, and moves once per step.",
    reference=scaler_step,
    cases=(
        (65536.0, 0, [[65536.0], [32768.0, 0.0]], 2000), (65536.0, 7, [[_INF], [65536.0]], 2000), (65536.0, 7, [[1.0], [_NAN, 2.0]], 2000),
        (65536.0, 1999, [[65536.0]], 2000), (65536.0, 1998, [[65536.0]], 2000), (1024.0, 2, [[-_INF], [_NAN], [4.0]], 3), (1024.0, 2, [[8.0], [4.0]], 3),
        (1024.0, 2, [[8.0, -_INF]], 3), (2.0**127, 4, [[2.0**100]], 5), (1.0, 0, [[3.0], [5.0], [7.0]], 1), (2.0, 0, [[_NAN], [_NAN]], 4),
        (512.0, 3, [[1.0], [2.0], [_INF]], 4), (256.0, 5, [[0.0], [64.0]], 9), (128.0, 0, [[1.0, _NAN], [_INF]], 2), (64.0, 1, [[32.0], [16.0]], 2),
    ),
    same=_same,
    show=lambda scale, good, gradients, interval: f"scale {scale:g}, {good} good steps, scaled gradients {gradients}, interval {interval}",
    misconceptions=(
        Misconception("one skip stops all", _step(alone=False), "an optimizer whose own gradients are finite takes its step: found_inf is kept for each of them."),
        Misconception("halved for each bad optimizer", _step(halve=lambda bad: 0.5**bad), "the scale is halved once per step, however many optimizers met an Inf: update looks at all of them together."),
        Misconception("halved only if all are bad", _step(forgive=True), "one Inf anywhere halves the scale: it is too large for one of the losses."),
        Misconception("divides by the new scale", _step(new_scale=True), "the loss was multiplied by the old scale, so the old scale divides; the new one is for the next step."),
        Misconception("never divides", _step(divide=False), "the updates are still multiplied by the scale: divide by it."),
        Misconception("looks for Inf only", _step(finite=lambda g: not math.isinf(g)), "NaN passes for finite: ask math.isfinite."),
        Misconception("keeps what it skips", _step(keep=True), "a skipped optimizer gets None: Inf divided by the scale is still Inf."),
        Misconception("counts through a skip", _step(reset=False), "a bad step sets the count of good steps to 0: it counts steps in a row."),
        Misconception("grows a step late", _step(grow=lambda good, interval: good >= interval), "the step that makes `interval` good ones in a row doubles the scale; yours waits for one more."),
        Misconception("grows without end", _step(cap=False), "2 · 2^127 is beyond FP32: the scale stops growing there."),
        Misconception("count never cleared", _step(clear=False), "after the scale has grown the count begins anew, or it doubles again in the next step."),
    ),
    hints=(
        "Three questions, one after the other: which optimizers step, with which gradients, and what becomes of the scale?",
        "Check each list for itself; divide by the present scale; then halve if any was bad, else count, and double at the interval.",
        "finite = [all(map(math.isfinite, g)) for g in gradients]; if not all(finite): return ___, ___, updates",
    ),
)  # fmt: skip


# ---- 14-2


def training_gigabytes(billions: float, base_bits: int, group: int, adapters: float) -> float:
    base = base_bits + (16 / group if base_bits < 16 else 0)
    return billions * (base / 8 + adapters * 16)


def _gigabytes(scales=lambda bits, group: 16 / group if bits < 16 else 0, each=16, base_states=0, unit=1.0, per=8):
    return lambda billions, bits, group, adapters: unit * billions * ((bits + scales(bits, group)) / per + base_states + adapters * each)


GIGABYTES = Exercise(
    id="14-2",
    title="gigabytes that training adapters on a frozen base takes, before any activation",
    difficulty="easy",
    minutes=8,
    why="A frozen weight costs its bits and its share of a scale. Only what is trained has a gradient, a master and two moments: 16 bytes.",
    reference=training_gigabytes,
    cases=tuple((b, bits, group, share) for b in (7.0, 70.0, 1.5) for bits, group in ((4, 64), (4, 128), (8, 128), (16, 64), (4, 32)) for share in (0.0, 0.01, 0.05)),
    same=near,
    show=lambda billions, bits, group, adapters: f"{billions:g} billion weights in {bits} bits, groups of {group}, adapters {100 * adapters:g} % as many",
    misconceptions=(
        Misconception("scales forgotten", _gigabytes(scales=lambda bits, group: 0), "each group of short weights has a scale: 16 more bits for every `group` weights."),
        Misconception("scales for 16 bits too", _gigabytes(scales=lambda bits, group: 16 / group), "BF16 weights have no scale: they are floating-point numbers themselves."),
        Misconception("a scale for each weight", _gigabytes(scales=lambda bits, group: 16 if bits < 16 else 0), "a group shares one scale: divide its 16 bits by the group."),
        Misconception("scales of 32 bits", _gigabytes(scales=lambda bits, group: 32 / group if bits < 16 else 0), "these scales have 16 bits."),
        Misconception("bits taken for bytes", _gigabytes(per=1), "eight bits are a byte: divide by 8."),
        Misconception("states for the base too", _gigabytes(base_states=14), "the base is frozen: it has no gradient, no master and no moments. Only the adapters do."),
        Misconception("adapters without states", _gigabytes(each=2), "adapters are trained: besides their 2 bytes each needs a gradient, a master and two moments, 16 bytes in all."),
        Misconception("adapters without moments", _gigabytes(each=8), "8 bytes are weight, gradient and master. Adam's two moments are 8 more."),
        Misconception("master counted on top", _gigabytes(each=20), "2 + 2 + 4 + 4 + 4 are 16: the master is in it."),
        Misconception("GiB", _gigabytes(unit=1e9 / 2**30), "the question is gigabytes, 10^9 bytes; you divided by 2^30."),
    ),
    hints=(
        "Two kinds of parameters: frozen ones and trained ones. What has to be stored for each?",
        "Frozen: base_bits, and 16 / group bits of scale if it is fewer than 16. Trained: 2 + 2 + 4 + 4 + 4 bytes.",
        "base = base_bits + (___ if base_bits < 16 else 0); return billions * (base / 8 + adapters * ___)",
    ),
)  # fmt: skip


# ---- 14-3


def largest_batch(gradient: float, scale: float) -> int:
    return math.ceil(65520 / (gradient * scale)) - 1


def _batch(top=65520, count=lambda ratio: math.ceil(ratio) - 1, term=lambda gradient, scale: gradient * scale):
    return lambda gradient, scale: count(top / term(gradient, scale))


BATCH = Exercise(
    id="14-3",
    title="the largest batch whose summed gradient, rounded to FP16 once, is still finite; each sample has the same gradient, the loss is scaled",
    difficulty="medium",
    minutes=8,
    why="Overflow begins where rounding passes the largest number: at 65 520, halfway between 65 504 and 65 536, and this tie itself goes to Inf.",
    reference=largest_batch,
    cases=(
        (1.0, 16.0), (0.1, 100.0), (0.5, 1024.0), (0.001, 65536.0), (0.25, 65536.0), (3.0, 1.0), (2.5, 8.0), (1.0, 65536.0), (0.125, 128.0),
        (7.0, 4.0), (1.0, 1.0), (0.75, 2048.0), (5.0, 3.0), (1.0, 60000.0), (0.5, 2.0), (9.0, 1.0), (13.0, 2.0), (0.3, 512.0), (1e-4, 1024.0), (21.0, 8.0),
    ),
    show=lambda gradient, scale: f"gradient {gradient:g} for each sample, loss scale {scale:g}",
    misconceptions=(
        Misconception("the end is 65504", _batch(top=65504, count=math.floor), "sums between 65 504 and 65 520 are still rounded down to 65 504, which is finite."),
        Misconception("the tie fits", _batch(count=math.floor), "65 520 is a tie, and it goes to the even code: that is Inf. The sum has to stay below it."),
        Misconception("the end is 65536", _batch(top=65536), "from 65 520 on the nearest number of FP16 would be 65 536, and that is Inf."),
        Misconception("the end is 65535", _batch(top=65535, count=math.floor), "65 535 is where 16-bit integers end. FP16 ends at 65 504, and rounding reaches up to 65 520."),
        Misconception("the scale forgotten", _batch(term=lambda g, s: g), "each gradient is multiplied by the loss scale before it is summed."),
        Misconception("divided by the scale", _batch(term=lambda g, s: g / s), "the scale makes gradients larger, so that fewer of them fit."),
        Misconception("one too many", _batch(count=math.ceil), "the number you give is the first batch that overflows: take one less."),
        Misconception("it swamps before", lambda g, s: min(2048, largest_batch(g, s)), "a running FP16 sum stops growing at about 2048 terms. This sum is made in a wide format and rounded to FP16 once."),
        Misconception("E5M2's end", _batch(top=61440), "61 440 is where E5M2 overflows; FP16 has eight mantissa bits more and reaches 65 520."),
    ),
    hints=(
        "Which number is the smallest that FP16 rounds to Inf? It is not 65 505.",
        "n · gradient · scale has to stay below 65 520; the largest whole number below a quotient is its ceiling minus one.",
        "return math.ceil(___ / (gradient * scale)) - 1",
    ),
)  # fmt: skip


# ---- 14-4


def recipe(native: tuple, memory: float, billions: float) -> tuple:
    compute = next((name for name in ("bf16", "fp16") if name in native), "fp32")
    room = 0.8 * memory  # the rest is for activations
    if 16 * billions <= room:
        return compute, compute == "fp16", "masters"
    return compute, compute == "fp16", "8-bit moments" if 10 * billions <= room else "adapters"


def _recipe(order=("bf16", "fp16"), fallback="fp32", scaler=lambda compute: compute == "fp16", full=16, short=10, share=0.8, last="adapters"):
    def solve(native, memory, billions):
        compute = next((name for name in order if name in native), fallback)
        room = share * memory
        stored = "masters" if full * billions <= room else "8-bit moments" if short * billions <= room else last
        return compute, scaler(compute), stored

    return solve


_DEVICES = (("fp64", "fp32", "fp16"), ("fp64", "fp32", "tf32", "bf16", "fp16"), ("fp64", "fp32", "tf32", "bf16", "fp16", "fp8"), ("fp64", "fp32"))

RECIPE = Exercise(
    id="14-4",
    title="a recipe for a device and a model: (format of products, whether a loss scaler goes with it, what is stored)",
    difficulty="medium",
    minutes=10,
    why="Three decisions, each from another fact: the units decide the format, the format decides the scaler, the bytes per parameter decide what is stored.",
    reference=recipe,
    cases=tuple((native, memory, billions) for native in _DEVICES for memory, billions in ((80.0, 1.0), (80.0, 4.5), (80.0, 6.0), (80.0, 7.0), (16.0, 0.8), (16.0, 1.0), (24.0, 13.0), (180.0, 9.0), (80.0, 13.0), (80.0, 30.0))),
    show=lambda native, memory, billions: f"native {', '.join(native)}; {memory:g} GB; {billions:g} billion parameters",
    misconceptions=(
        Misconception("FP16 first", _recipe(order=("fp16", "bf16")), "where both are native, BF16 is the safe choice: it has FP32's range and needs no scaler."),
        Misconception("BF16 with a scaler", _recipe(scaler=lambda c: c in ("bf16", "fp16")), "BF16 needs no scaler: nothing underflows in it that FP32 would keep."),
        Misconception("FP16 without a scaler", _recipe(scaler=lambda c: False), "FP16 needs a loss scaler, or small gradients vanish in the backward pass."),
        Misconception("FP8 first", _recipe(order=("fp8", "bf16", "fp16")), "FP8 is a second step: it needs scales and a BF16 run to compare with. Begin with BF16."),
        Misconception("emulated BF16", _recipe(fallback="bf16"), "without native units BF16 is emulated and slower than FP32: stay with FP32."),
        Misconception("emulated FP16", _recipe(fallback="fp16"), "without native units FP16 is emulated and slower than FP32, and needs a scaler on top: stay with FP32."),
        Misconception("no room for activations", _recipe(share=1.0), "the whole memory is taken for parameters: leave a fifth for activations."),
        Misconception("weights only", _recipe(full=2, short=2), "2 bytes are the weights alone. Training also keeps gradients, masters and two moments: 16 bytes."),
        Misconception("8-bit moments save 75 %", _recipe(short=4), "the moments shrink from 8 bytes to 2, so that 10 of 16 remain. 75 % is what the moments alone save."),
        Misconception("half of 16", _recipe(full=8, short=5), "mixed precision does not halve the 16 bytes: masters come on top of 16-bit weights and gradients."),
        Misconception("everything fits", _recipe(last="8-bit moments"), "if 10 bytes per parameter do not fit either, only a part can be trained: adapters."),
    ),
    hints=(
        "Which fact decides the format, which the scaler, which the storage?",
        "BF16 if native, else FP16 with a scaler, else FP32. Then 16 bytes per parameter, then 10, each against 80 % of the memory.",
        'compute = next((name for name in ("bf16", "fp16") if name in native), ___); stored = "masters" if ___ * billions <= 0.8 * memory else ...',
    ),
)  # fmt: skip

EXERCISES = (SCALER, GIGABYTES, BATCH, RECIPE)
