"""Proofs: advice that goes around about tuning, debugging and choosing."""

import math

import numpy as np
import torch

from course.numerics.formats import BF16, FP16
from course.numerics.rounding import round_to
from course.training.hardware import Device
from course.training.recipes import recommended

from . import runs
from .evidence import about, cases, fact


def same_rate():
    rates = (2e-4, 2e-3, 1e-1)
    best = {name: min(rates, key=lambda lr: runs.finals("fp32", "bf16", lr=lr)[row].mean()) for row, name in enumerate(("fp32", "bf16"))}
    return fact(best["fp32"] != best["bf16"], best["fp32"] == best["bf16"], best_rate_fp32=best["fp32"], best_rate_bf16=best["bf16"])


def anomaly_finds_nan():
    def found(f):
        x = torch.tensor([0.0, 100.0], requires_grad=True)
        try:
            with torch.autograd.detect_anomaly(check_nan=True):
                f(x).sum().backward()
        except RuntimeError:
            return True
        return False

    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        holds = {"sqrt(0) · 0, a NaN on the way back": found(lambda x: torch.sqrt(x * 0) * 0), "log(0), an Inf": found(lambda x: torch.log(x[:1])), "exp(100), an Inf forward": found(lambda x: torch.exp(x))}
    gradient = torch.autograd.grad(torch.log(x := torch.zeros(1, requires_grad=True)).sum(), x)[0].item()
    return cases(holds, gradient == math.inf, **{"slope of log at 0": gradient, "exp(100) in FP32": torch.tensor(100.0).exp().item()})


def watch_the_run():
    result = runs.run(("fp16", (("dynamic", True), ("scale", 65536.0))), "fp32", steps=300, count=True)
    logged = (result.scales, result.losses, result.flushed)
    fault = runs.run(("fp16", (("loss_weight", 2.0**-14),)), steps=300, count=True)
    return fact(all(np.isfinite(values).all() for values in logged) and fault.flushed.mean() > 5 * result.flushed[:, : len(runs.SEEDS)].mean(), flushed_in_a_good_run=about(result.flushed[:, : len(runs.SEEDS)].mean()), in_one_that_underflows=about(fault.flushed.mean()))


def prefer_bf16():
    g = torch.from_numpy(np.random.default_rng(0).normal(0, 1e-2, 100_000).astype(np.float32))
    error = {fmt.name: ((round_to(g, fmt) - g).norm() / g.norm()).item() for fmt in (BF16, FP16)}
    tiny = (round_to(g * 1e-7, FP16) == 0).double().mean().item()
    return cases({"numbers that fit FP16's window": error["BF16"] <= error["FP16"], "numbers that do not": tiny > 0.5}, 7 < error["BF16"] / error["FP16"] < 9, error_BF16=about(error["BF16"]), error_FP16=about(error["FP16"]), flushed_when_too_small=about(tiny))


def decision_flow():
    def device(native):
        return Device("cuda", "a chip", (8, 0), (), 0, 0, native, ())

    chosen = {"with BF16": recommended(device(("fp32", "fp16", "bf16", "tf32"))), "FP16 only": recommended(device(("fp32", "fp16")))}
    return fact(chosen == {"with BF16": "bf16", "FP16 only": "fp16"}, **chosen)


def direction_counts():
    g = np.random.default_rng(0).normal(0, 1, 10_000)
    turned = np.where(np.abs(g) < np.median(np.abs(g)), 0, g)

    def cosine(a, b):
        return a @ b / math.sqrt((a @ a) * (b @ b))

    return fact(cosine(g, 1000 * g) > 1 - 1e-12 and cosine(g, turned) > 0.9, angle_after_a_factor_of_1000=0, cosine_after_half_was_set_to_zero=about(cosine(g, turned)))


def warm_up():
    from course.training.sweeps import Trial, sweep

    ends = {}
    for warm in (20, 40):
        rows = []
        for recipe in ("fp32", "bf16"):
            result = sweep([Trial(recipe, seed=s) for s in runs.SEEDS], **runs.SMALL, steps=warm, lr=3e-4)
            rows.append(result.final.mean())
        ends[warm] = abs(rows[1] / rows[0] - 1)
    return fact(max(ends.values()) > 0.02, max(ends.values()) < 0.02, **{f"BF16 against FP32 after {k} steps": about(v) for k, v in ends.items()})
