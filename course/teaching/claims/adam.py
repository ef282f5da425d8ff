"""Proofs: what Adam makes of a gradient, and what its moments need."""

import math

import numpy as np
import torch

from course.numerics.formats import BF16, FP16, FP32
from course.numerics.rounding import round_to
from course.training.recipes import Recipe

from . import runs
from .evidence import about, cases, fact
from .formats import stored


def _adam(dtype=torch.float32, gradients=(1.0,), lr=0.01, start=1.0, **settings):
    w = torch.nn.Parameter(torch.tensor([start], dtype=dtype))
    optimizer = torch.optim.Adam([w], lr=lr, foreach=False, **settings)
    for g in gradients:
        w.grad = torch.tensor([g], dtype=dtype)
        optimizer.step()
    return w.item(), optimizer.state[w]


def second_moment_rule():
    v = 0.0
    for g in (0.5, -2.0, 1.0):
        v = 0.999 * v + 0.001 * g * g
    _, state = _adam(gradients=(0.5, -2.0, 1.0))
    return fact(math.isclose(state["exp_avg_sq"].item(), v, rel_tol=1e-5), v=about(v, 4))


def square_of_100():
    return fact(stored(100.0**2, FP16) == 10000, stored(255.0**2, FP16) == 65024 and stored(256.0**2, FP16) == math.inf, FP16_of_100_squared=stored(100.0**2, FP16), of_255_squared=stored(255.0**2, FP16), of_256_squared=stored(256.0**2, FP16))


def square_of_1000():
    g, rest = np.float16(1000), np.float16(0.001)
    with np.errstate(over="ignore"):
        textbook, reordered = rest * (g * g), (rest * g) * g
    _, state = _adam(torch.float16, gradients=(1000.0,))
    return cases({"(1 − β₂) · (g · g)": np.isinf(textbook), "((1 − β₂) · g) · g": np.isinf(reordered), "torch's Adam on FP16 weights": state["exp_avg_sq"].isinf().item()},
                 abs(state["exp_avg_sq"].item() - 1000) < 2, reordered=about(reordered), torch=state["exp_avg_sq"].item())  # fmt: skip


def states_are_fp16():
    layer = torch.nn.Linear(4, 4)
    optimizer = torch.optim.Adam(layer.parameters())
    with torch.autocast("cpu", torch.float16):
        loss = layer(torch.ones(2, 4)).float().sum()
    loss.backward()
    optimizer.step()
    kinds = {str(s["exp_avg_sq"].dtype) for s in optimizer.state.values()}
    return cases({"the whole model in FP16": stored(256.0**2, FP16) == math.inf, "autocast, or FP32 masters": kinds != {"torch.float32"}}, kinds == {"torch.float32"}, second_moment_under_autocast=", ".join(kinds))


def infinite_v_freezes():
    v, w = math.inf, 1.0
    for _ in range(1000):
        v = 0.999 * v + 0.001
        w -= 0.1 * 1.0 / (math.sqrt(v) + 1e-8)
    return fact(v == math.inf and w == 1.0, v_after_1000_good_steps=v, weight=w)


def formula_without_correction():
    first = {g: 1 - _adam(gradients=(g,), lr=1e-3)[0] for g in (1e-3, 1.0, 1e3)}
    without = 0.1 / math.sqrt(0.001)
    return cases({"in the limit of many steps": abs((1 - 0.9**5000) / math.sqrt(1 - 0.999**5000) - 1) < 0.01, "in the first step": abs(without - 1) < 0.1},
                 all(abs(v / 1e-3 - 1) < 0.01 for v in first.values()), first_step_over_lr_without_correction=about(without), with_it=about(first[1.0] / 1e-3))  # fmt: skip


def amplifies_large():
    first = {g: 1 - _adam(gradients=(g,), lr=1e-3)[0] for g in (1e-6, 1e-3, 1.0, 1e3)}
    return fact(first[1e3] > 2 * first[1e-3] or first[1e-6] < 0.1 * first[1e-3], all(abs(v / 1e-3 - 1) < 0.02 for v in first.values()), **{f"first step for g = {g:g}": about(v) for g, v in first.items()})


def normalises():
    generator = np.random.default_rng(0)
    gradients = generator.normal(0, 1, 50)
    plain, scaled = _adam(gradients=gradients)[0], _adam(gradients=gradients * 65536)[0]
    sgd = [1 - 0.01 * g.sum() for g in (gradients, gradients * 65536)]
    return fact(abs(scaled - plain) < 1e-6 < abs(sgd[1] - sgd[0]), Adam_with_and_without_a_factor_of_65536=about(abs(scaled - plain)), SGD=about(abs(sgd[1] - sgd[0])))


def _average(beta, start, target, fmt=BF16, steps=6000):
    v = torch.tensor(start)
    for _ in range(steps):
        v = round_to(round_to(v * stored(beta, fmt), fmt) + round_to(torch.tensor(target * (1 - beta)), fmt), fmt)
    return v.item()


def bf16_averages():
    fall = {beta: _average(beta, 1.0, 1e-4) for beta in (0.9, 0.95, 0.999)}
    return cases({f"β = {beta}": end < 2e-4 for beta, end in fall.items()}, fall[0.999] == 1.0 and stored(0.999, BF16) == 1.0 and all(stored(v * 0.999, BF16) == v for v in np.linspace(1, 2, 129)[:-1]),
                 **{f"average after 6000 steps, β = {beta}": about(end) for beta, end in fall.items()})  # fmt: skip


def bf16_second_moment():
    short = Recipe("BF16 moments", second_moment=BF16)
    fp32, bf16 = runs.finals("fp32", short, betas=(0.9, 0.95))
    stuck = _average(0.999, 1.0, 1e-4)
    return cases({"β₂ = 0.95": (np.abs(bf16 / fp32 - 1) < 0.05).all(), "β₂ = 0.999, when gradients shrink": stuck < 0.5}, stored(1e-30, BF16) > 0 and stuck == 1.0,
                 loss_fp32=about(fp32.mean()), loss_with_a_BF16_v=about(bf16.mean()), **{"v at 0.999": stuck})  # fmt: skip


def squares_underflow_and_steps_grow():
    v = {fmt.name: stored(0.001 * 1e-4**2, fmt) for fmt in (FP16, BF16)}
    step = {name: 1e-4 * 0.1 / (math.sqrt(value) + stored(1e-8, FP16 if name == "FP16" else BF16) or 1e-30) for name, value in v.items()}
    stuck = _average(0.999, 1.0, 1e-4)
    return cases({"FP16": v["FP16"] == 0, "BF16": v["BF16"] == 0 or stuck < 1e-4}, v["BF16"] > 0 and stuck == 1.0 and step["FP16"] > 1e6 * step["BF16"],
                 **{"v of a gradient of 1e-4 in FP16": v["FP16"], "in BF16": v["BF16"]}, v_in_BF16_when_gradients_shrink=stuck)  # fmt: skip


def raise_eps():
    fp16 = {eps: _adam(torch.float16, gradients=(1e-4,), eps=eps)[0] for eps in (1e-8, 1e-7, 1e-6)}
    bf16 = _adam(torch.bfloat16, gradients=(1e-4,), start=0.01, lr=1e-3)[0]
    damped = {eps: 1e-8 / (1e-8 + eps) for eps in (1e-8, 1e-6)}
    needed = stored(1e-8, BF16) == 0 or not math.isfinite(bf16)
    return fact(needed or abs(fp16[1e-7] - 0.99) < 0.05, stored(1e-8, FP16) == 0 and not math.isfinite(fp16[1e-8]) and abs(fp16[1e-6] - 0.99) > 0.1,
                **{"BF16 of 1e-8": stored(1e-8, BF16), "share of a step left for g = 1e-8": {f"eps {e:g}": about(v) for e, v in damped.items()}},
                FP16_weight_after_one_step={f"eps {e:g}": str(round(v, 4)) for e, v in fp16.items()}, it_should_be=0.99)  # fmt: skip


def raise_beta2():
    fall = {(fmt.name, beta): _average(beta, 1.0, 1e-4, fmt) for fmt in (BF16, FP32) for beta in (0.95, 0.999, 0.9999)}
    half_life = {beta: math.log(0.5) / math.log(beta) for beta in (0.95, 0.999, 0.9999)}
    return fact(fall["BF16", 0.9999] < fall["BF16", 0.95], fall["BF16", 0.9999] == 1.0 and fall["BF16", 0.95] < 2e-4 and half_life[0.9999] > 6900,
                v_after_6000_steps_in_BF16={f"{b}": about(fall["BF16", b]) for b in (0.95, 0.999, 0.9999)}, half_life_in_steps={f"{b}": about(h) for b, h in half_life.items()})  # fmt: skip


def tolerates_imprecise_moments():
    fp32, bf16 = runs.finals("fp32", Recipe("BF16 moments", first_moment=BF16, second_moment=BF16), betas=(0.9, 0.95))
    return fact((np.abs(bf16 / fp32 - 1) < 0.05).all(), loss_with_FP32_moments=about(fp32.mean()), BF16_moments=about(bf16.mean()))


def moments_are_distorted():
    fp32, bf16 = runs.finals("fp32", Recipe("BF16 moments", first_moment=BF16, second_moment=BF16), betas=(0.9, 0.95))
    v = stored(0.001 * 1e-4**2, FP16)
    return cases({"FP16, gradients of 1e-4": v == 0, "BF16 with β₂ = 0.999, when gradients shrink": _average(0.999, 1.0, 1e-4) > 0.5, "BF16 with β₂ = 0.95": (np.abs(bf16 / fp32 - 1) > 0.05).any()},
                 True, FP16_v=v, loss_FP32=about(fp32.mean()), **{"BF16 at 0.95": about(bf16.mean())})  # fmt: skip


def lr_absorbs_errors():
    g = np.random.default_rng(0).normal(0, 1, 50)
    even = _adam(gradients=g * 1.01)[0] - _adam(gradients=g)[0]
    w = torch.tensor([1.0])
    lost = round_to(w - 1e-3 * torch.tensor([1.0]), BF16) == w
    rate = round_to(w - 1.05e-3, BF16) == w
    return cases({"one factor for all": abs(even) < 1e-6, "numbers that were rounded to nothing": not (lost & rate).item()}, lost.item(), **{"change by a factor of 1.01": about(abs(even))})


def moments_always_fp32():
    layer = torch.nn.Linear(4, 4).to(torch.bfloat16)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(2, 4, dtype=torch.bfloat16)).float().sum().backward()
    optimizer.step()
    kinds = {str(s["exp_avg_sq"].dtype) for s in optimizer.state.values()}
    return cases({"a model kept in FP32": states_are_fp16().instead, "a model loaded in BF16": kinds == {"torch.float32"}}, kinds == {"torch.bfloat16"}, second_moment_of_a_BF16_model=", ".join(kinds))
