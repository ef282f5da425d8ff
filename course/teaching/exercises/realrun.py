"""Exercises of notebook 08: timing a device, Amdahl's bound, utilisation, what a device trains with, the loop with a scaler."""

import math
import statistics

import torch
import torch.nn.functional as F

from ..workpieces import Device, Parts
from .model import Exercise, Misconception

# ---- 08-1


def time_step(device, warm_up, repeats):
    for _ in range(warm_up):
        device.run()
    times = []
    for _ in range(repeats):
        device.wait()
        start = device.now()
        device.run()
        device.wait()
        times.append(device.now() - start)
    return statistics.median(times)


def _timed(before=True, after=True, warm=True, answer=statistics.median):
    def solve(device, warm_up, repeats):
        for _ in range(warm_up if warm else 0):
            device.run()
        times = []
        for _ in range(repeats):
            if before:
                device.wait()
            start = device.now()
            device.run()
            if after:
                device.wait()
            times.append(device.now() - start)
        return answer(times)

    return solve


def _in_one_go(device, warm_up, repeats):
    for _ in range(warm_up):
        device.run()
    device.wait()
    start = device.now()
    for _ in range(repeats):
        device.run()
    device.wait()
    return (device.now() - start) / repeats


def _close(got, wanted):
    return math.isclose(float(got), wanted, rel_tol=1e-6)


TIMING = Exercise(
    id="08-1",
    title="the median time of one run of a device that answers before it has computed",
    difficulty="medium",
    minutes=8,
    why="Wait, read the clock, run, wait, read the clock again: else one times how long it takes to ask. The first runs choose kernels and fill caches, so they do not count.",
    reference=time_step,
    cases=tuple(
        (Device(launch, kernels, queued), warm_up, repeats)
        for launch, kernels, queued, warm_up, repeats in (
            (0.001, [0.5, 0.02], 0.0, 1, 5), (0.001, [0.01], 0.4, 0, 1), (0.0, [0.3, 0.2, 0.01, 0.01, 0.09, 0.01], 0.0, 2, 5),
            (0.002, [0.5, 0.5, 0.03, 0.01, 0.02, 0.9, 0.02], 1.0, 2, 5), (0.01, [0.005], 0.2, 1, 1), (0.001, [0.04, 0.02, 0.01], 0.0, 0, 3),
        )
    ),
    show=lambda device, warm_up, repeats: f"{device}, warm_up={warm_up}, repeats={repeats}",
    same=_close,
    misconceptions=(
        Misconception("does not wait for the end", _timed(before=False, after=False), "run() returns at once: without device.wait() after it, what is timed is the asking, not the work. Wait before each look at the clock."),
        Misconception("waits after, not before", _timed(before=False), "work that was asked for earlier is still running when the clock starts, and is counted: wait before that, too."),
        Misconception("counts the warm-up", _timed(warm=False), "the first runs are slower for reasons that never come back (kernels are chosen, caches filled): let warm_up of them pass without timing."),
        Misconception("mean instead of median", _timed(answer=statistics.fmean), "the mean lets one disturbed run decide: take the median."),
        Misconception("the fastest run", _timed(answer=min), "the fastest run is a fair choice on a busy machine, but the question is about the median."),
        Misconception("sum of the runs", _timed(answer=sum), "this is the time of all runs together, not of one."),
        Misconception("all in one go", _in_one_go, "timing all runs at once and dividing gives a mean, and lets the asking for one run hide behind the work of another. Time each by itself."),
    ),
    hints=(
        "run() returns before the work is done. What has to happen before each of the two looks at the clock?",
        "Warm up without timing; then, for each repeat: wait, now, run, wait, now. statistics.median gives the answer.",
        "device.___(); start = device.now(); device.run(); device.___(); times.append(device.now() - start)",
    ),
)  # fmt: skip

# ---- 08-2


def predicted_gain(shares: dict, gains: dict, casts: float) -> float:
    return 1 / (sum(share / gains.get(kind, 1) for kind, share in shares.items()) + casts)


PROFILE = {"matmul": 0.65, "attention": 0.2, "elementwise": 0.1, "rest": 0.05}
AMDAHL = Exercise(
    id="08-2",
    title="the speed-up of a step whose kinds of operation gain by different factors, and which has casts to pay for",
    difficulty="medium",
    minutes=7,
    why="Add up times, not speeds: each kind keeps share / gain of the old step, and the casts come on top. The new time decides.",
    reference=predicted_gain,
    cases=(
        (PROFILE, {"matmul": 4.0, "attention": 2.0}, 0.03), (PROFILE, {}, 0.0), (PROFILE, {"matmul": 1e9, "attention": 1e9}, 0.0), ({"matmul": 0.5, "rest": 0.5}, {"matmul": 2.0}, 0.0),
        ({"matmul": 0.2, "rest": 0.8}, {"matmul": 3.0}, 0.2), ({"matmul": 1.0}, {"matmul": 0.5}, 0.0), ({"matmul": 0.9, "optimizer": 0.1}, {"matmul": 8.0, "optimizer": 0.5}, 0.05),
    ),
    show=lambda shares, gains, casts: f"shares {shares}, gains {gains}, casts {casts}",
    same=_close,
    misconceptions=(
        Misconception("mean of the gains", lambda shares, gains, casts: sum(share * gains.get(kind, 1) for kind, share in shares.items()) - casts, "speeds do not add up, times do: a part that becomes endlessly fast still leaves the time of the others."),
        Misconception("forgets the casts", lambda shares, gains, casts: predicted_gain(shares, gains, 0.0), "the casts are work that the old step did not have: add them to the new time."),
        Misconception("forgets what gains nothing", lambda shares, gains, casts: 1 / (sum(shares[kind] / gain for kind, gain in gains.items()) + casts) if gains else 1 / (1 + casts) + 1, "kinds without a gain take their time as before: they belong to the sum."),
        Misconception("the new time", lambda shares, gains, casts: 1 / predicted_gain(shares, gains, casts), "this is the new time as a share of the old one: the speed-up is one over it."),
        Misconception("the gain of the products", lambda shares, gains, casts: gains.get("matmul", 1.0), "this is what the products gain alone; the step has other parts."),
        Misconception("casts off the speed", lambda shares, gains, casts: predicted_gain(shares, gains, 0.0) - casts, "the casts are a share of the old *time*: add them to the new time, before dividing."),
    ),
    hints=(
        "Let the old step take one second. How long does each kind take now?",
        "share / gain for each kind, gain 1 where none is given; add the casts; the speed-up is one over the sum.",
        "time = sum(share / gains.get(kind, ___) for kind, share in shares.items()) + ___; return 1 / time",
    ),
)  # fmt: skip

# ---- 08-3


def utilisation(parameters: int, layers: int, width: int, context: int, tokens_per_second: float, peak: float) -> float:
    return (6 * parameters + 12 * layers * width * context) * tokens_per_second / peak


def _used(factor=6, attention=12, times=1.0):
    return lambda parameters, layers, width, context, tokens, peak: times * (factor * parameters + attention * layers * width * context) * tokens / peak


UTILISATION = Exercise(
    id="08-3",
    title="the share of a device's peak rate that a training run uses (MFU, model FLOPs utilisation)",
    difficulty="easy",
    minutes=5,
    why="Two operations a weight and token forward, four backward, and attention beside: what the model needs, by what the device could do.",
    reference=utilisation,
    cases=(
        (124_000_000, 12, 768, 1024, 100_000.0, 312e12), (7_000_000_000, 32, 4096, 4096, 3_000.0, 989e12), (800_000, 4, 128, 128, 30_000.0, 3e11), (1000, 1, 10, 1, 1.0, 6120.0),
        (1000, 2, 0, 50, 10.0, 1e6), (10_000, 0, 64, 64, 5.0, 3e5),
    ),
    show=lambda parameters, layers, width, context, tokens, peak: f"{parameters} parameters, {layers} layers of width {width}, context {context}, {tokens:g} tokens/s, peak {peak:g}",
    same=_close,
    misconceptions=(
        Misconception("forward only", _used(2, 4), "this counts the forward pass only: the way back makes two products for each one."),
        Misconception("without the 2", _used(3, 6), "a multiplication and an addition are two operations: 2 forward and 4 backward make 6 a weight."),
        Misconception("without attention", _used(6, 0), "attention multiplies activations with each other, which no weight counts: 12 · layers · width · context more for each token."),
        Misconception("attention forward only", _used(6, 4), "attention has a way back as well: 4 · layers · width · context forward, 12 in all."),
        Misconception("in percent", _used(times=100.0), "a share, not percent: between 0 and 1."),
        Misconception("upside down", lambda *args: 1 / utilisation(*args), "upside down: what the run needs, divided by the peak."),
    ),
    hints=(
        "How many multiplications and additions does a token cost for each weight, forward and backward?",
        "6 a weight; and for attention 12 · layers · width · context. Times tokens per second, divided by the peak.",
        "return (___ * parameters + ___ * layers * width * context) * tokens_per_second / ___",
    ),
)  # fmt: skip

# ---- 08-4


def choose(native: list) -> tuple:
    if "bf16" in native:
        return "bf16", False
    if "fp16" in native:
        return "fp16", True
    return None, False


GPUS = {
    "T4": ["fp64", "fp32", "fp16"], "V100": ["fp64", "fp32", "fp16"], "GTX 1080": ["fp64", "fp32"], "A100": ["fp64", "fp32", "tf32", "bf16", "fp16"],
    "L40S": ["fp64", "fp32", "tf32", "bf16", "fp16", "fp8"], "B200": ["fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "mxfp8", "mxfp4", "nvfp4"],
    "MI300X": ["fp64", "fp32", "bf16", "fp16", "fp8-fnuz"], "Apple M1": ["fp32", "fp16"], "Apple M3": ["fp32", "bf16", "fp16"],
}  # fmt: skip


def _first(*names, scaler=("fp16",)):
    """Take the first of these formats that the device has; scale for some of them."""

    def solve(native):
        name = next((name for name in names if name in native), None)
        return name, name in scaler

    return solve


CHOICE = Exercise(
    id="08-4",
    title="what a GPU trains with: the format for autocast (None for none), and whether a loss scaler goes with it",
    difficulty="easy",
    minutes=5,
    why="BF16 where the matrix units have it: FP32's range, so no scaler. FP16 and a scaler where they have only that. FP32 where neither is there.",
    reference=choose,
    cases=tuple((native,) for native in GPUS.values()),
    show=lambda native: f"a GPU that multiplies {', '.join(native)}",
    misconceptions=(
        Misconception("always BF16", lambda native: ("bf16", False), "a GPU without BF16 in its matrix units takes BF16 tensors all the same and converts them, which is slower than FP32. Ask what is native."),
        Misconception("always FP16", lambda native: ("fp16", True), "BF16 is as fast where it is native, and needs no scaler; and one of these GPUs has no FP16 either."),
        Misconception("FP16 first", _first("fp16", "bf16"), "FP16 with a scaler works, but where BF16 is native it is as fast, has the range of FP32 and needs no scaler."),
        Misconception("a scaler for BF16", _first("bf16", "fp16", scaler=("bf16", "fp16")), "BF16 has the range of FP32: nothing underflows there that FP32 would keep, so there is nothing to scale."),
        Misconception("FP16 without a scaler", _first("bf16", "fp16", scaler=()), "FP16 flushes gradients below 2⁻²⁵ to zero: it needs the scaler."),
        Misconception("the shortest format", _first("nvfp4", "mxfp4", "mxfp8", "fp8", "fp8-fnuz", "bf16", "fp16"), "autocast knows no FP8 and no FP4: they need a scale for each tensor or block, which layers of their own provide (notebook 09)."),
        Misconception("TF32 is enough", _first("tf32", "bf16", "fp16"), "TF32 is a way to multiply FP32 tensors, not a dtype that autocast could cast to; and BF16 halves the bytes as well."),
        Misconception("FP32 by name", lambda native: (choose(native)[0] or "fp32", choose(native)[1]), 'where no short format is native, autocast has nothing to cast to: give None, not "fp32".'),
        Misconception("a scaler where nothing is short", lambda native: (choose(native)[0], choose(native)[0] != "bf16"), "without a short format there is nothing to scale for."),
    ),
    hints=(
        "Two questions: which 16-bit format do the matrix units have, and does its range need help?",
        "BF16 if it is native; else FP16 with a scaler if that is; else neither.",
        'if "bf16" in native: return "bf16", ___; if "fp16" in native: return "fp16", ___; return ___, False',
    ),
)  # fmt: skip

# ---- 08-5


def train(parts):
    model, optimizer, scaler, batches = parts()
    for inputs, targets in batches:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = F.mse_loss(model(inputs), targets)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
    return model.weight.flatten().tolist(), scaler.get_scale()


def _loop(short=True, dtype=torch.float16, zero=True, scaled=True, unscale=True, clip=True, guarded=True):
    """The loop with something left out or done otherwise."""

    def solve(parts):
        model, optimizer, scaler, batches = parts()
        for inputs, targets in batches:
            if zero:
                optimizer.zero_grad()
            with torch.autocast("cpu", dtype, enabled=short):
                loss = F.mse_loss(model(inputs), targets)
            scaled_loss = scaler.scale(loss)
            (scaled_loss if scaled else loss).backward()
            if unscale:
                scaler.unscale_(optimizer)
            if clip:
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer) if guarded else optimizer.step()
            scaler.update()
        return model.weight.flatten().tolist(), scaler.get_scale()

    return solve


def _frozen(parts):
    """The scale as it was at first, whatever happened: torch itself insists on update() before the next unscale_()."""
    model, optimizer, scaler, batches = parts()
    for inputs, targets in batches:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = F.mse_loss(model(inputs), targets)
        (loss * parts.scale).backward()
        for p in model.parameters():
            p.grad /= parts.scale
        if all(p.grad.isfinite().all() for p in model.parameters()):
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return model.weight.flatten().tolist(), parts.scale


LOOP = Exercise(
    id="08-5",
    title="the training loop with autocast to FP16 and torch's scaler: the weights and the scale at the end",
    difficulty="medium",
    minutes=10,
    why="Scale, backward, unscale, clip, step, update: your loop gives torch's weights and torch's scale, bit for bit, skipped steps and all.",
    reference=train,
    cases=((Parts(1024.0, (1.0, 0.5)),), (Parts(1024.0, (9.0, 1.0, 1.0, 4.0)),), (Parts(65536.0, (9.0, 1.0, 2.0)),), (Parts(16.0, (0.0, 0.25, 0.0)),), (Parts(2.0**20, (1.0, 1.0, 1.0, 1.0, 1.0)),)),
    show=repr,
    misconceptions=(
        Misconception("clips before it unscales", _loop(unscale=False), "the gradients are clipped while they are still scaled: the norm of 1 is then a norm of 1 / scale. Call scaler.unscale_(optimizer) before clipping."),
        Misconception("never clips", _loop(clip=False), "nothing is clipped: torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0) comes between unscale_ and step."),
        Misconception("steps the optimizer itself", _loop(guarded=False), "optimizer.step() also steps when a gradient is Inf or NaN: scaler.step(optimizer) looks first, and skips."),
        Misconception("never updates the scale", _frozen, "the scale never changes: without scaler.update() it stays where it was when a gradient overflows, and each step overflows again."),
        Misconception("keeps old gradients", _loop(zero=False), "the gradients of earlier batches are still there: optimizer.zero_grad() belongs to each step."),
        Misconception("backward without the scale", _loop(scaled=False), "backward runs on the loss as it is, and unscale_ divides all the same: every gradient is too small by the scale. Use scaler.scale(loss).backward()."),
        Misconception("BF16 by default", _loop(dtype=torch.bfloat16), 'the forward pass runs in BF16: torch.autocast("cpu") casts to BF16 unless it is told torch.float16.'),
        Misconception("forward in FP32", _loop(short=False), "the forward pass runs in FP32: it belongs under torch.autocast(\"cpu\", torch.float16)."),
    ),
    hints=(
        "Which calls belong to every batch, and which of them must see true gradients instead of scaled ones?",
        "zero_grad; the forward pass under autocast; scale and backward; unscale_; clip_grad_norm_ with 1.0; step and update of the scaler.",
        "scaler.scale(loss).backward(); scaler.___(optimizer); torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0); scaler.___(optimizer); scaler.___()",
    ),
)  # fmt: skip

EXERCISES = (TIMING, AMDAHL, UTILISATION, CHOICE, LOOP)
