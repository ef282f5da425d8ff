"""Exercises of notebook 04: a scale that fits, the rule of the dynamic scale, the scaler, one whole step, the order of calls."""

import math

from course.numerics import FP16

from .model import Exercise, Misconception


def fp16(x: float) -> float:
    """Round one number to FP16, nearest-even, overflow to Inf."""
    return FP16.decode(FP16.encode(x))


# ---- 04-1


def largest_scale(amax: float) -> float:
    scale = 2.0 ** math.floor(math.log2(65520 / amax))
    return scale / 2 if scale * amax >= 65520 else scale


def _power(rounded, limit=65520.0):
    return lambda amax: 2.0 ** rounded(math.log2(limit / amax))


LARGEST = Exercise(
    id="04-1",
    title="the largest power of two by which gradients up to amax can be multiplied in FP16",
    difficulty="easy",
    minutes=6,
    why="S × amax has to stay below 65 520, where FP16 rounds to Inf. Small gradients ask for a large S: it goes with 1/amax.",
    reference=largest_scale,
    cases=((1.0,), (1e-4,), (0.03,), (2.0**-24,), (300.0,), (65504 / 1024,), (65510 / 1024,), (65520 / 1024,), (7e4,), (0.7,), (0.0009,)),
    show=lambda amax: f"amax = {amax!r}",
    misconceptions=(
        Misconception("twice the largest gradient", lambda amax: 2 * amax, "2 × max|g| is upside down: the smaller the gradients, the larger S has to be. With amax = 1e-4 it makes every gradient smaller still."),
        Misconception("not a power of two", lambda amax: 65504 / amax, "this fits, but it is no power of two: multiplying by it rounds the mantissa of every gradient."),
        Misconception("int() instead of floor", _power(int), "int() cuts toward zero, so that a negative exponent is rounded up: math.floor rounds down."),
        Misconception("one power too many", _power(math.ceil), "rounded up: the largest gradient becomes Inf. The exponent has to be rounded down."),
        Misconception("rounded to the nearest power", _power(round), "rounded to the nearest exponent: half of the time that is upward, and the largest gradient becomes Inf."),
        Misconception("ends at 65504", _power(math.floor, 65504.0), "up to 65 520 FP16 rounds down to 65 504: a product between them does not overflow yet."),
        Misconception("one power too few", lambda amax: largest_scale(amax) / 2, "half of what is asked: a sensible margin for a real run, but the question is where overflow begins."),
        Misconception("lets 65520 pass", _power(math.floor), "65 520 itself is a tie that goes to Inf: S × amax has to stay below it."),
        Misconception("the range of BF16", _power(math.floor, 3.3895313892515355e38), "this is the end of BF16. FP16 ends at 65 504."),
    ),
    hints=(
        "For which products does FP16 round to Inf? From 65 520 on.",
        "math.log2(65520 / amax) is the exponent that would just be too much; round it down and look at the border once more.",
        "scale = 2.0 ** math.floor(math.log2(___)); then halve it if scale * amax >= 65520",
    ),
)

# ---- 04-2


def next_scale(scale: float, good_steps: int, found_inf: bool, growth_interval: int) -> tuple[float, int]:
    if found_inf:
        return scale / 2, 0
    if good_steps + 1 == growth_interval:
        return scale * 2, 0
    return scale, good_steps + 1


def _grows_at(offset):
    def solve(scale, good_steps, found_inf, growth_interval):
        if found_inf:
            return scale / 2, 0
        return (scale * 2, 0) if good_steps + offset == growth_interval else (scale, good_steps + 1)

    return solve


def _bad(answer):
    """The rule with another answer to a bad step."""
    return lambda scale, good, found_inf, interval: answer(scale, good, interval) if found_inf else next_scale(scale, good, False, interval)


def _count_goes_on(scale, good_steps, found_inf, growth_interval):
    new, good = next_scale(scale, good_steps, found_inf, growth_interval)
    return new, good_steps + 1 if new > scale else good


RULE = Exercise(
    id="04-2",
    title="the scale and the count of good steps after one more step",
    difficulty="medium",
    minutes=8,
    why="Halve at once and start counting anew; double after growth_interval good steps in a row: torch.amp.GradScaler does no more.",
    reference=next_scale,
    cases=(
        (65536.0, 0, False, 2000), (65536.0, 1999, False, 2000), (65536.0, 1998, False, 2000), (65536.0, 700, True, 2000), (65536.0, 0, True, 2000),
        (65536.0, 1999, True, 2000), (1.0, 0, True, 4), (0.5, 2, True, 4), (1024.0, 3, False, 4), (1024.0, 2, False, 4), (8.0, 0, False, 1), (8.0, 0, True, 1),
    ),  # fmt: skip
    show=lambda scale, good, found, interval: f"scale {scale}, {good} good steps, found_inf {found}, growth interval {interval}",
    remark=lambda got, wanted: "return both: the new scale and the new count of good steps." if isinstance(got, (int, float)) else "",
    misconceptions=(
        Misconception("grows one step late", _grows_at(0), "one step late: this step is good too, and with it the count is good_steps + 1."),
        Misconception("grows one step early", _grows_at(2), "one step early: only this step is added to the count, so compare good_steps + 1."),
        Misconception("a skipped step keeps the count", _bad(lambda scale, good, interval: (scale / 2, good)), "the good steps have to be in a row: a skipped one sets the count back to 0."),
        Misconception("counts growth through a skipped step", _bad(lambda scale, good, interval: (scale / 2, good + 1)), "a skipped step is counted as a good one: it sets the count back to 0."),
        Misconception("doubles on a skipped step", _bad(lambda scale, good, interval: (scale * 2, 0) if good + 1 == interval else (scale / 2, 0)), "found_inf has to be asked first: a bad step never grows the scale, whatever the count."),
        Misconception("halves too late", _bad(lambda scale, good, interval: (scale / 2, 0) if good == 0 else (scale, 0)), "this waits for a second bad step. Halve at the first: the same scale would most likely overflow again."),
        Misconception("count goes on after growing", _count_goes_on, "after the scale has grown the count begins at 0 again, otherwise it would never grow a second time."),
        Misconception("never below 1", _bad(lambda scale, good, interval: (max(scale / 2, 1.0), 0)), "a floor at 1 is what some libraries have; torch has none, and gradients that are large ask for S below 1."),
        Misconception("back to 1", _bad(lambda scale, good, interval: (1.0, 0)), "back to 1 throws away all that was learnt about the scale: half of it is most likely enough."),
    ),
    hints=(
        "Three cases: a bad step, the good step that fills the interval, any other good step.",
        "This step counts too: it makes good_steps + 1.",
        "if found_inf: return scale / 2, ___; if good_steps + 1 == ___: return scale * 2, ___; return scale, good_steps + 1",
    ),
)

# ---- 04-3


def train(gradients: list, scale: float, growth_interval: int, fp16) -> list:
    weight, good_steps, trace = 0.0, 0, []
    for gradient in gradients:
        scaled = fp16(gradient * scale)
        if math.isfinite(scaled):
            weight -= scaled / scale
            good_steps += 1
            if good_steps == growth_interval:
                scale, good_steps = scale * 2, 0
        else:
            scale, good_steps = scale / 2, 0
        trace.append((scale, weight))
    return trace


def _train(finite=math.isfinite, taken=lambda scaled, old, new: scaled / old, rule=next_scale, skip=True):
    """The run with another look for Inf, another update or another rule for the scale."""

    def solve(gradients, scale, growth_interval, fp16):
        weight, good, trace = 0.0, 0, []
        for gradient in gradients:
            scaled = fp16(gradient * scale)
            old = scale
            scale, good = rule(scale, good, not finite(scaled), growth_interval)
            if finite(scaled) or not skip:
                weight -= taken(scaled, old, scale)
            trace.append((scale, weight))
        return trace

    return solve


def _nothing_rounded(gradients, scale, growth_interval, fp16):
    return train(gradients, scale, growth_interval, lambda x: x)


_late = next(m.solve for m in RULE.misconceptions if m.name == "halves too late")
_through = next(m.solve for m in RULE.misconceptions if m.name == "counts growth through a skipped step")

def _rounded_before(gradients, scale, growth_interval, fp16):
    return train([fp16(g) for g in gradients], scale, growth_interval, lambda x: x)


def _about_trace(got, wanted):
    """A sentence about a list that has not one pair (scale, weight) for each gradient."""
    if not isinstance(got, list):
        return ""
    if len(got) != len(wanted):
        return f"{len(got)} entries for {len(wanted)} gradients: write down (scale, weight) after each step, also after a skipped one."
    plain = all(isinstance(pair, tuple) and all(isinstance(x, (int, float)) for x in pair) for pair in got)
    return "the pairs are turned: the scale comes first, then the weight." if plain and [pair[::-1] for pair in got] == wanted else ""


SCALER = Exercise(
    id="04-3",
    title="a run of one weight under your own dynamic loss scaler",
    difficulty="hard",
    minutes=15,
    why="This is the whole of a dynamic loss scaler; torch's gives the same trace on the same gradients.",
    reference=train,
    cases=tuple((tape, scale, interval, fp16) for tape, scale, interval in (
        ([0.25, 0.25], 2.0**16, 2), ([16.0, 0.25], 2.0**16, 2000), ([2.0**-30, 0.1], 2.0**10, 2000),
        ([0.25] * 8, 2.0**16, 3), ([0.25, 16.0, 0.25, 0.25, 16.0, 0.25], 2.0**16, 2000), ([2.0**-30] * 8, 1.0, 1), ([0.25] * 6, 2.0**20, 4),
        ([0.25, math.nan, 0.25, 0.25, 0.25], 2.0**16, 2), ([-1.0, 2.0**-28, 100.0, 0.1, 0.3, -0.7, 0.9], 2.0**10, 2), ([1.0, -64.0, 1.0, 1.0, 1.0, 1.0], 2.0**12, 3),
        ([2.0**-26, 2.0**-20], 2.0**12, 2000), ([0.1, 0.2, 0.3, 0.4, 1e5, 0.6, 0.7], 2.0**5, 4), ([], 2.0**16, 4),
    )),  # fmt: skip
    remark=_about_trace,
    show=lambda gradients, scale, growth_interval, fp16: f"gradients {gradients}, scale {scale}, growth interval {growth_interval}",
    misconceptions=(
        Misconception("unscales with the new scale", _train(taken=lambda scaled, old, new: scaled / new), "the scale is updated before the gradient is divided: on the step that doubles it the update is half of what it should be."),
        Misconception("unscales in FP16", _train(taken=lambda scaled, old, new: fp16(scaled / old)), "the quotient is rounded to FP16, where it underflows again. The weight is FP32: divide there."),
        Misconception("steps on a skipped step", _train(skip=False), "after Inf or NaN the weight must stay as it is."),
        Misconception("looks for Inf only", _train(finite=lambda x: not math.isinf(x)), "NaN is taken for a good gradient: ask math.isfinite."),
        Misconception("never unscales", _train(taken=lambda scaled, old, new: scaled), "the gradient is S times too large when it reaches the weight: divide by scale."),
        Misconception("divides the learning rate by S", _train(taken=lambda scaled, old, new: scaled / old / old), "divided by S twice: once is unscaling, and the learning rate stays as it is."),
        Misconception("rounds before scaling", _rounded_before, "fp16(gradient) * scale is rounded before it is scaled: what underflows there is gone, and nothing overflows any more. Round the product."),
        Misconception("uphill", _train(taken=lambda scaled, old, new: -scaled / old), "the sign is turned: descent subtracts the gradient."),
        Misconception("nothing is rounded", _nothing_rounded, "the scaled gradient has to go through fp16: that is where it overflows or underflows."),
        Misconception("halves too late", _train(rule=_late), "the scale is halved only at the second bad step in a row: halve at the first."),
        Misconception("counts growth through a skipped step", _train(rule=_through), "a skipped step sets the count of good steps back to 0."),
        Misconception("grows one step late", _train(rule=_grows_at(0)), "the scale doubles one step late: with growth_interval = 1 every good step doubles it."),
        Misconception("grows one step early", _train(rule=_grows_at(2)), "the scale doubles one step early: it takes growth_interval good steps in a row."),
    ),
    hints=(
        "Each turn: scale and round, look, then either step and count or halve and begin to count anew, and write down where you are.",
        "scaled = fp16(gradient * scale) is what arrives. If it is finite, weight -= scaled / scale happens before the scale may change.",
        "if math.isfinite(scaled): weight -= ___; good_steps += 1; (if good_steps == ___: double, count 0); else: scale, good_steps = ___, 0; then trace.append((scale, weight))",
    ),
)

# ---- 04-4


def clipped_step(weights: list, gradients: list, scale: float, lr: float, max_norm: float) -> list:
    gradients = [g / scale for g in gradients]
    if not all(map(math.isfinite, gradients)):
        return weights
    factor = max_norm / max(max_norm, math.hypot(*gradients))
    return [w - lr * factor * g for w, g in zip(weights, gradients)]


def _step(unscale=lambda g, scale: g / scale, finite=math.isfinite, clip=True, rate=lambda lr, scale: lr):
    """The step with another way to divide, to look for Inf, or to set the learning rate."""

    def solve(weights, gradients, scale, lr, max_norm):
        gradients = [unscale(g, scale) for g in gradients]
        if not all(map(finite, gradients)):
            return weights
        factor = max_norm / max(max_norm, math.hypot(*gradients)) if clip else 1.0
        return [w - rate(lr, scale) * factor * g for w, g in zip(weights, gradients)]

    return solve


def _clips_first(weights, gradients, scale, lr, max_norm):
    factor = max_norm / max(max_norm, math.hypot(*gradients))
    return clipped_step(weights, [g * factor for g in gradients], scale, lr, math.inf) if math.isfinite(factor * gradients[0]) else weights


def _zeroes_bad(weights, gradients, scale, lr, max_norm):
    return clipped_step(weights, [g if math.isfinite(g) else 0.0 for g in gradients], scale, lr, max_norm)


def _clips_values(weights, gradients, scale, lr, max_norm):
    gradients = [g / scale for g in gradients]
    if not all(map(math.isfinite, gradients)):
        return weights
    return [w - lr * max(-max_norm, min(max_norm, g)) for w, g in zip(weights, gradients)]


def _close(got, wanted):
    """Equal to five digits: torch clips by max_norm / (norm + 1e-6), and may do so in FP32."""
    return len(got) == len(wanted) and all(
        (g != g and w != w) or math.isclose(g, w, rel_tol=1e-5) for g, w in zip(map(float, got), wanted)
    )


STEP = Exercise(
    id="04-4",
    title="one step of SGD from scaled gradients: unscale, look for Inf and NaN, clip, step",
    difficulty="medium",
    minutes=10,
    why="max_norm is meant for the true gradients: divide by S first, outside FP16, then look, clip and step, or skip.",
    reference=clipped_step,
    cases=(
        ([1.0, 2.0], [3072.0, 4096.0], 1024.0, 0.5, 1.0), ([1.0, 2.0], [256.0, -512.0], 1024.0, 0.5, 1.0),
        ([0.0, 0.0], [2.0**-12, 2.0**-14], 65536.0, 1.0, 1.0), ([1.0, 2.0], [math.inf, 1024.0], 1024.0, 0.5, 1.0),
        ([1.0, 2.0], [math.nan, 1024.0], 1024.0, 0.5, 1.0), ([1.0, 2.0], [0.0, 0.0], 1024.0, 0.5, 1.0),
        ([0.5, 0.5], [6.0, -3.0], 65536.0, 1.0, 0.5), ([1.0, -1.0], [48.0, 20.0], 16.0, 0.1, 2.0), ([3.0, 1.0], [2.0, 1.5], 1.0, 0.1, 1.0),
    ),  # fmt: skip
    show=lambda weights, gradients, scale, lr, max_norm: f"weights {weights}, gradients {gradients}, scale {scale}, lr {lr}, max_norm {max_norm}",
    same=_close,
    misconceptions=(
        Misconception("clips first", _clips_first, "the norm of the scaled gradients is S times too large: clipping them to max_norm and dividing by S afterwards makes the step up to S times too small."),
        Misconception("never unscales", _step(unscale=lambda g, scale: g), "the gradients are still S times too large: divide them by scale first."),
        Misconception("unscales in FP16", _step(unscale=lambda g, scale: fp16(g / scale)), "the quotient is rounded to FP16, where it underflows again: all that the scale has saved is lost. Divide in FP32 or wider."),
        Misconception("steps on a skipped step", _step(finite=lambda g: True), "a step with Inf or NaN in a gradient must leave the weights as they are."),
        Misconception("looks for Inf only", _step(finite=lambda g: not math.isinf(g)), "NaN is missed: an Inf that met another Inf or a 0 on its way back is NaN. Ask math.isfinite."),
        Misconception("divides the learning rate by S", _step(rate=lambda lr, scale: lr / scale), "the gradients are divided by S already; the learning rate stays. Divided twice, the step is S times too small."),
        Misconception("sets Inf to zero and goes on", _zeroes_bad, "where one gradient has overflowed the others are suspect too: the whole step is skipped."),
        Misconception("never clips", _step(clip=False), "max_norm has no effect: a gradient whose norm is larger is multiplied by max_norm / norm."),
        Misconception("clips each value", _clips_values, "each entry is cut by itself, which turns the gradient: multiply all by the same max_norm / norm."),
    ),
    hints=(
        "In which unit is max_norm meant, and in which unit do the gradients arrive?",
        "Divide, look, clip, step: math.isfinite for the look, math.hypot(*gradients) for the norm.",
        "gradients = [g / ___ for g in gradients]; if not all(map(math.isfinite, gradients)): return ___; factor = max_norm / max(max_norm, ___)",
    ),
)

# ---- 04-5


def calls(micro_batches: int, optimizers: list, skipped: bool) -> list:
    order = ["backward"] * micro_batches
    for name in optimizers:
        order += [f"unscale {name}", f"clip {name}", f"step {name}"]
    return order + (["update"] if skipped else ["update", "schedule"])


def _ordered(verbs):
    """The calls with other ones for each optimizer."""

    def solve(micro_batches, optimizers, skipped):
        each = [f"{verb} {name}" for name in optimizers for verb in verbs]
        return ["backward"] * micro_batches + each + calls(0, [], skipped)

    return solve


def _unscales_each(micro_batches, optimizers, skipped):
    unscaled = [f"unscale {name}" for name in optimizers]
    return ["backward", *unscaled] * micro_batches + _ordered(["clip", "step"])(0, optimizers, skipped)


def _updates_first(micro_batches, optimizers, skipped):
    order = [call for call in calls(micro_batches, optimizers, skipped) if not call.startswith("step")]
    return [*order[: order.index("update") + 1], *(f"step {name}" for name in optimizers), *order[order.index("update") + 1 :]]


def _updates_each(micro_batches, optimizers, skipped):
    order = [call for call in calls(micro_batches, optimizers, skipped) if call != "update"]
    return [each for call in order for each in ([call, "update"] if call.startswith("step") else [call])]


def _is_right(order):
    """Whether the calls are in an order that does the same as the reference's: optimizers may take turns."""
    names = {call.split()[1] for call in order if " " in call}
    rows = [[order.index(f"{verb} {name}") for verb in ("unscale", "clip", "step")] for name in names]
    last_backward = max((i for i, call in enumerate(order) if call == "backward"), default=-1)
    ends = [call for call in order if call in ("update", "schedule")]
    last_step = max(row[-1] for row in rows)
    return all(last_backward < a < b < c for a, b, c in rows) and order.index(ends[0]) > last_step


def _same_order(got, wanted):
    got = [str(call) for call in got]
    return got == wanted or (sorted(got) == sorted(wanted) and _is_right(got) and _is_right(wanted))


ORDER = Exercise(
    id="04-5",
    title="the calls of one training step, in order, with micro-batches, several optimizers and a scheduler",
    difficulty="medium",
    minutes=10,
    why="All gradients of a step carry one scale until it ends: add them up, divide once, update once. The scheduler counts the steps that were taken.",
    reference=calls,
    cases=((1, ["A"], False), (4, ["A"], False), (1, ["A", "B"], True), (2, ["A", "B"], False), (3, ["G", "D"], False), (1, ["A"], True), (2, ["G"], True)),
    show=lambda micro_batches, optimizers, skipped: f"{micro_batches} micro-batches, optimizers {', '.join(optimizers)}, {'skipped' if skipped else 'taken'}",
    same=_same_order,
    misconceptions=(
        Misconception("clips first", _ordered(["clip", "unscale", "step"]), "clip stands before unscale: the norm is then S times too large, and the step up to S times too small."),
        Misconception("unscales each micro-batch", _unscales_each, "unscale after every backward divides the first micro-batches again and again, and torch refuses it: once, when all are added up."),
        Misconception("never unscales before clipping", _ordered(["clip", "step"]), "step would unscale, but clip comes before it: call unscale by hand, ahead of clip."),
        Misconception("updates before the step", _updates_first, "update ends the step: called before step it forgets what unscale has done, and step divides a second time, by the new scale."),
        Misconception("updates after each optimizer", _updates_each, "one update for all: after the first one the scale may differ from the one that the second optimizer's gradients carry."),
        Misconception("updates after each micro-batch", lambda n, names, skipped: ["backward", "update"] * n + [c for c in calls(0, names, skipped) if c != "update"], "the scale must not change between micro-batches: gradients of different scales would be added up."),
        Misconception("steps each micro-batch", lambda n, names, skipped: calls(1, names, True) * n + ["schedule"] * (not skipped), "these are several small steps. Accumulation takes one step for all micro-batches."),
        Misconception("schedules on a skipped step", lambda n, names, skipped: calls(n, names, False), "on a skipped step the weights stay, and so must the learning rate: no schedule there."),
        Misconception("stops where Inf was found", lambda n, names, skipped: ["backward"] * n + [f"unscale {name}" for name in names] + ["update"] if skipped else calls(n, names, skipped), "clip and step are called in any case: the program does not look for Inf, the scaler does, inside step."),
        Misconception("one backward for each optimizer", lambda n, names, skipped: ["backward"] * (n * len(names) - n) + calls(n, names, skipped), "one backward for each micro-batch: it fills the gradients of all optimizers."),
        Misconception("leaves out a skipped step", lambda n, names, skipped: [c for c in calls(n, names, skipped) if not (skipped and c.startswith("step"))], "step is called in any case: the scaler itself decides to skip it, and update counts on it."),
    ),
    hints=(
        "Which calls are made per micro-batch, which per optimizer, which once, and which only if the step was taken?",
        "backward for each micro-batch; unscale, clip, step for each optimizer; then update; then schedule, unless skipped.",
        'order = ["backward"] * ___; for name in optimizers: order += [f"unscale {name}", ___, ___]; return order + (["update"] if skipped else ___)',
    ),
)

EXERCISES = (LARGEST, RULE, SCALER, STEP, ORDER)
