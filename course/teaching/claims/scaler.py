"""Proofs: the scaler that finds its own scale, and the order of the calls around it."""

import math

import numpy as np
import torch

from course.numerics.formats import FP16
from course.numerics.rounding import round_to
from course.training.scaling import DynamicScaler, next_scale

from . import runs
from .evidence import about, cases, fact
from .scaling import spread_gradients, flushed_share, bf16_needs_scaling


def torch_defaults():
    state = torch.amp.GradScaler("cpu").state_dict()
    told = {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000}
    return fact(all(state[name] == value for name, value in told.items()), **{name: state[name] for name in told})


def _scaled_run(unscale, zero=True, skip=True, steps=60):
    """SGD on a quadratic with a scale of 65536, by hand: (last loss, skipped steps)."""
    w, scale, skipped = torch.nn.Parameter(torch.tensor([1.0, -2.0])), 65536.0, 0
    for _ in range(steps):
        if zero:
            w.grad = None
        loss = (w**2).sum()
        (loss * scale).backward()
        grad = w.grad / scale if unscale else w.grad
        if unscale:
            w.grad = grad
        if skip and not grad.isfinite().all():
            skipped, scale = skipped + 1, scale / 2
            continue
        with torch.no_grad():
            w -= 0.1 * grad
    return loss.item(), skipped


def pseudo_code_without_unscale():
    literal, mended = _scaled_run(unscale=False), _scaled_run(unscale=True)
    return fact(math.isfinite(literal[0]) and literal[0] < 1, mended[0] < 1e-3 and mended[1] == 0, loss_as_printed=str(literal[0]), steps_skipped=literal[1], loss_with_unscaling=about(mended[0]))


def pseudo_code_is_complete():
    w, twice = torch.nn.Parameter(torch.tensor([1.0])), []
    for _ in range(2):  # no zero_grad
        (w**2).sum().backward()
        twice.append(w.grad.item())
    scale = torch.tensor(65536.0)
    for _ in range(200):  # a NaN in each step, and no lower bound
        scale, _ = next_scale(scale, torch.tensor(0), torch.tensor(True))
    return fact(twice[0] == twice[1] and scale >= 1, twice == [2, 4] and scale == 0, second_gradient_without_zero_grad=twice[1], instead_of=twice[0], scale_after_200_NaNs=scale.item())


def dynamic_rule():
    scale, good, trace = torch.tensor(65536.0), torch.tensor(0), []
    for bad in [True] + [False] * 2000 + [True]:
        scale, good = next_scale(scale, good, torch.tensor(bad))
        trace.append(scale.item())
    return fact((trace[0], trace[1999], trace[2000], trace[2001]) == (32768, 32768, 65536, 32768), after_an_overflow=trace[0], after_2000_good_steps=trace[2000])


def _skip_share(interval, steps=60_000, seed=0):
    """How often a dynamic scale overflows when the largest gradient wanders from step to step."""
    largest = np.random.default_rng(seed).lognormal(0, 1.0, steps) * 1e-3
    scale, good, skipped, scales = 65536.0, 0, 0, []
    for size in largest:
        if size * scale >= 65520:
            scale, good, skipped = scale / 2, 0, skipped + 1
        else:
            good += 1
            if good == interval:
                scale, good = scale * 2, 0
        scales.append(scale)
    return skipped / steps, np.median(scales)


def detection_window():
    share = {n: _skip_share(n)[0] for n in (1, 100, 2000)}
    scaler = DynamicScaler(growth_interval=1000)
    w = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([w], lr=0.1)
    w.grad = torch.tensor([float("inf")])
    scaler.scale(torch.ones(1))
    scaler.step(optimizer)
    scaler.update()
    return cases({"how often overflow is looked for": scaler.get_scale() == 65536, "how long the scale waits to grow": share[100] < 0.05},
                 w.item() == 1 and share[1] > 0.3 and share[2000] < share[100], **{f"skipped, growing after {n}": about(v) for n, v in share.items()})  # fmt: skip


def too_large_scale():
    scaler = DynamicScaler(init_scale=2.0**24)
    w = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([w], lr=0.1)
    w.grad = round_to(scaler.scale(torch.tensor([0.02])), FP16)
    scaler.step(optimizer)
    scaler.update()
    return fact(w.item() == 1 and scaler.get_scale() == 2.0**23, gradient_times_scale=0.02 * 2**24, step="skipped", next_scale="2^23")


def overflow_ends_the_run():
    w = torch.nn.Parameter(torch.ones(2))
    optimizer, scaler = torch.optim.SGD([w], lr=0.1), torch.amp.GradScaler("cpu")
    scaler.scale((w * 1e38).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    kept, scale = torch.equal(w.detach(), torch.ones(2)), scaler.get_scale()
    v = torch.nn.Parameter(torch.ones(2))
    v.grad = torch.tensor([1.0, math.inf])
    torch.optim.SGD([v], lr=0.1).step()
    return cases({"with a dynamic scaler": not kept, "without a check": not v.isfinite().all()}, kept and scale == 32768, scale_after=scale, weights_after="unchanged", without_a_check=str(v.tolist()))


def no_zero_updates():
    plain = runs.finals("fp32", steps=200)[0]
    skipped = runs.run("fp32", steps=200)
    rare = runs.finals(("fp16", (("dynamic", True), ("scale", 2.0**24))), steps=200)[0]
    steps_lost = runs.run(("fp16", (("dynamic", True), ("scale", 2.0**24))), steps=200).skipped.sum(0)
    stuck = runs.finals(runs.WEIGHTS_BF16, lr=1e-4, steps=600)[0] / runs.finals("fp32", lr=1e-4, steps=600)[0]
    return cases({"a few whole steps": (rare > 1.1 * plain).any(), "always the same small updates": (stuck > 1.2).all()},
                 (steps_lost >= 3).all() and np.isfinite(skipped.losses).all(), steps_skipped=steps_lost.tolist(), loss_with_them=about(rare.mean()), without=about(plain.mean()))  # fmt: skip


def fp16_needs_tuning():
    plain, scaled = runs.finals("fp32", ("fp16", (("dynamic", True), ("scale", 65536.0))), steps=300)
    return fact((np.abs(scaled / plain - 1) > 0.05).any(), (np.abs(scaled / plain - 1) < 0.05).all(), fp32=about(plain.mean()), fp16_same_settings=about(scaled.mean()))


def early_overflows():
    first, later = {}, {}
    for start in (16, 24, 32):
        trial = ("fp16", (("dynamic", True), ("scale", 2.0**start)))
        skipped = runs.run(trial, steps=200).skipped
        first[start], later[start] = int(skipped[:100].sum(0).max()), int(skipped[100:].sum(0).max())
    scaler, w = DynamicScaler(), torch.nn.Parameter(torch.ones(1))
    w.grad = torch.tensor([math.inf])
    torch.nn.utils.clip_grad_norm_([w], 1.0)
    return cases({"they damage the weights": not overflow_ends_the_run().instead, "clipping prevents them": bool(w.grad.isfinite().all()), "a dynamic scale ends them": max(later.values()) <= 1},
                 first[16] < first[24] < first[32], scale_of_the_scaler=scaler.get_scale(), **{f"skips in the first hundred steps from 2^{s}": n for s, n in first.items()})  # fmt: skip


def unscale_in_fp16():
    g = torch.tensor([1e-9, 5e-9, 1e-8])
    scaled = round_to(g * 65536, FP16)
    short, long = round_to(scaled / 65536, FP16), scaled / 65536
    w = torch.nn.Parameter(torch.ones(1, dtype=torch.float16))
    w.grad = torch.ones(1, dtype=torch.float16)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.ones(1))
    try:
        scaler.unscale_(torch.optim.SGD([w], lr=0.1))
        refusal = ""
    except ValueError as error:
        refusal = str(error)
    return fact((short != 0).any(), (short == 0).all() and ((long / g - 1).abs() < 1e-2).all() and bool(refusal), in_FP16=short.tolist(), in_FP32="within 1 %", torch=refusal)


def clipping_by_infinity_norm():
    def clip(norm):
        w = torch.nn.Parameter(torch.zeros(3))
        w.grad = torch.tensor([3.0, 4.0, 0.1])
        if norm is None:  # each number by itself
            torch.nn.utils.clip_grad_value_([w], 1.0)
        else:
            torch.nn.utils.clip_grad_norm_([w], 1.0, norm_type=norm)
        return [round(v, 3) for v in w.grad.tolist()]

    import inspect

    default = inspect.signature(torch.nn.utils.clip_grad_norm_).parameters["norm_type"].default
    return cases({"if asked for": clip(math.inf)[1] == 1.0, "by default": default == math.inf}, default == 2.0 and clip(2.0) == [0.6, 0.8, 0.02], L2=str(clip(2.0)), infinity=str(clip(math.inf)), each_by_itself=str(clip(None)))


def clip_order():
    def moved(order):
        w = torch.nn.Parameter(torch.zeros(4))
        optimizer, scaler = torch.optim.SGD([w], lr=0.1), torch.amp.GradScaler("cpu")
        scaler.scale((w * 50).sum()).backward()  # norm 100
        for call in order:
            if call == "unscale":
                scaler.unscale_(optimizer)
            elif call == "clip":
                torch.nn.utils.clip_grad_norm_([w], 1.0)
            else:
                scaler.step(optimizer)
        return w.detach().norm().item()

    found = {order: moved(order.split()) for order in ("unscale clip step", "unscale step clip", "clip unscale step")}
    right, late, early = found.values()
    return fact(math.isclose(late, right, rel_tol=0.1), abs(right - 0.1) < 1e-4 and abs(late - 10) < 0.01 and early < 1e-4, **{f"length of the step: {k}": about(v) for k, v in found.items()})


def underflow_is_recorded():
    scaler, w = torch.amp.GradScaler("cpu"), torch.nn.Parameter(torch.ones(1))
    optimizer, scales = torch.optim.SGD([w], lr=0.1), {}
    for name, value in (("zeros", 0.0), ("Inf", math.inf)):
        w.grad = torch.tensor([value])
        scaler.scale(torch.ones(1))
        scaler.step(optimizer)
        scaler.update()
        scales[name] = scaler.get_scale()
    return cases({"overflow": scales["Inf"] < 65536, "underflow": scales["zeros"] != 65536}, **{f"scale after {k}": v for k, v in scales.items()})


def check_after_step():
    v = torch.nn.Parameter(torch.ones(3))
    v.grad = torch.tensor([1.0, math.inf, 1.0])
    torch.optim.SGD([v], lr=0.1).step()
    return fact(v.isfinite().all(), not v.isfinite().all(), weights_when_the_check_comes_after_the_step=str([round(x, 2) for x in v.tolist()]))


def nan_loss_means_more_scaling():
    forward = {s: (torch.tensor([512.0], dtype=torch.float16) * 200).sum().mul(s).isinf().item() for s in (1.0, 2.0**-4, 2.0**-10)}
    rescued = flushed_share(spread_gradients() * 2.0**16, FP16) < 0.01 < flushed_share(spread_gradients(), FP16)
    return cases({"gradients that underflow": rescued, "an Inf in the forward pass": not all(forward.values())}, all(forward.values()), loss_of_512_times_200="inf, whatever the scale")


def spikes_are_overflow():
    inner = overflow_ends_the_run()
    return cases({f"an overflow reaches the weights {name}": value for name, value in inner.holds.items()}, inner.instead, **inner.shows)


def frequent_skips_start():
    seen = {}
    for start in (8, 16, 24, 32):
        scales = runs.run(("fp16", (("dynamic", True), ("scale", 2.0**start))), steps=200, growth_interval=20).scales
        seen[start] = np.log2(scales[-1]).max()
    late = {n: _skip_share(n)[0] for n in (1, 100)}
    return cases({"in the first steps": early_overflows().shows["skips in the first hundred steps from 2^32"] > 5, "those that go on, from too short a growth interval": late[1] < 2 * late[100]},
                 max(seen.values()) - min(seen.values()) < 10, **{f"log2 of the scale after 200 steps from 2^{s}": about(v, 2) for s, v in seen.items()})  # fmt: skip


def bf16_fewer_knobs():
    knobs = [name for name in torch.amp.GradScaler("cpu").state_dict() if not name.startswith("_")]
    same = bf16_needs_scaling()
    return fact(same.verdict == "false" and len(knobs) == 4, knobs_of_the_scaler=", ".join(knobs), of_BF16=0)
