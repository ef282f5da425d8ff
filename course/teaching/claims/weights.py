"""Proofs: what becomes of an update that is added to a stored weight, and of sums that run long."""

import math

import numpy as np
import torch

from course.numerics.formats import BF16, FP16, FP32
from course.numerics.rounding import round_to
from course.training import updates
from course.training.optimizers import SGD

from . import runs
from .evidence import about, cases, fact
from .formats import stored

START, CHANGE, STEPS = 1.234375, -1e-4, 10_000


def _web_example():
    w, g = (torch.tensor([x], dtype=torch.bfloat16) for x in (1.23456, 0.001))
    return w, g, w - 0.1 * g


def web_prints_123446():
    w, _, after = _web_example()
    return fact(after.item() == 1.23446, after.item() == w.item() == 1.234375 and stored(1.23446, BF16) == 1.234375,
                before=w.item(), after=after.item(), neighbours=str(BF16.neighbours(1.234375)))  # fmt: skip


def web_prints_fp32():
    w, g, _ = _web_example()
    from_bf16 = (w.float() - 0.1 * g.float()).item()
    from_start = (torch.tensor([1.23456]) - 0.1 * torch.tensor([0.001])).item()
    return fact(f"{from_bf16:.6f}" == "1.234550" or f"{from_start:.6f}" == "1.234550", f"{from_bf16:.6f} {from_start:.6f}" == "1.234275 1.234460",
                from_the_BF16_numbers=from_bf16, from_the_decimals=from_start)  # fmt: skip


def web_loses_some_decimals():
    w, _, after = _web_example()
    return fact(0 < abs(after.item() - w.item()) < 1e-4, after.item() == w.item(), share_of_the_update_that_arrives=(w.item() - after.item()) / 1e-4)


def upcast_shows_benefit():
    w, g, _ = _web_example()
    upcast, kept = (w.float() - 0.1 * g.float()).item(), np.float32(1.23456) - np.float32(1e-4)
    exact = 1.23456 - 1e-4
    back = stored(upcast, BF16)
    return cases({"an FP32 copy that is kept": abs(kept - exact) < 1e-6, "an FP32 copy made from the BF16 weight": abs(upcast - exact) < 1e-4},
                 back == w.item(), error_of_storing_first=abs(w.item() - 1.23456), update=1e-4, stored_back=back)  # fmt: skip


def _after_many(update):
    generator = torch.Generator().manual_seed(0) if update == "stochastic" else None
    weight, extra = updates.begin(torch.full((64,), START), BF16, update)
    change = torch.tensor(CHANGE)
    for _ in range(STEPS):
        weight, extra = updates.finish(weight, extra, updates.base_of(weight, extra) + change, change, BF16, update, generator)
    return weight.mean().item()


def store_back():
    exact = START + STEPS * CHANGE
    ends = {name: _after_many(name) for name in ("nearest-even", "master", "kahan", "stochastic")}
    return fact(abs(ends["nearest-even"] - exact) < 0.01, ends["nearest-even"] == START and all(abs(v - exact) < 0.01 for n, v in ends.items() if n != "nearest-even"),
                exact=exact, computed_in_FP32_stored_in_BF16=ends["nearest-even"], master=ends["master"], kahan=ends["kahan"], dice=about(ends["stochastic"]))  # fmt: skip


def bf16_truncates_updates():
    w = 1.0
    return cases({"up, at w/300 (less than half a gap)": stored(w + w / 300, BF16) == w, "down, at w/300 (more than half a gap)": stored(w - w / 300, BF16) == w},
                 stored(w + 0.0045, BF16) > w > stored(w - 0.0045, BF16), truncation_would_move_it_down=round_to(torch.tensor(w - 1e-5), BF16, "toward-zero").item(),
                 lost_up_to=2.0**-8, and_down_to=2.0**-9)  # fmt: skip


def adding_small_gradients():
    a, b = (round_to(torch.from_numpy(np.random.default_rng(i).uniform(1e-6, 4e-6, 10_000).astype(np.float32)), BF16) for i in (0, 1))
    alike = ((round_to(a + b, BF16) - (a + b)) / (a + b)).abs().max().item()
    total = torch.tensor(0.0, dtype=torch.bfloat16)
    for _ in range(1000):
        total += 1
    return cases({"two of about the same size": alike > 2**-8, "one to a long sum": total.item() < 500}, alike <= 2**-8 and total.item() == 256,
                 largest_error_of_sums_of_two=about(alike), a_thousand_ones=total.item())  # fmt: skip


def sgd_rule():
    w = torch.nn.Parameter(torch.tensor([0.5, -1.25]))
    w.grad = torch.tensor([0.25, 0.5])
    wanted = w.detach() - 0.125 * w.grad
    ours = torch.nn.Parameter(w.detach().clone())
    ours.grad = w.grad.clone()
    torch.optim.SGD([w], lr=0.125).step()
    SGD([ours], lr=0.125).step()
    return fact(torch.equal(w.detach(), wanted) and torch.equal(ours.detach(), wanted), weights=wanted.tolist())


def fp16_threshold_is_the_gradient():
    grid = 1 + np.arange(1024) / 1024
    least = [(FP16.ulp(float(w)) / 2) / w for w in grid]  # half a gap, seen from the weight
    moved = stored(1 + 0.0006, FP16) > 1 and 0.0006 < 2**-10
    return fact(not moved, moved and math.isclose(max(least), 2**-11) and min(least) > 2**-12, lr_times_gradient_counts="not the gradient alone",
                largest_share_lost=float(max(least)), smallest_share_lost=about(min(least)), **{"FP16 of 1.0006": stored(1.0006, FP16)})  # fmt: skip


def fp16_one_plus_1e4():
    reason = stored(1 + 9e-4, FP16) == 1  # 9e-4 is below 2^-10 too
    return cases({"the result, 1": stored(1 + 1e-4, FP16) == 1, "the reason, below 2^-10": reason},
                 stored(1 + 2**-11, FP16) == 1 < stored(1 + 4.9e-4, FP16), half_a_gap_upwards=2.0**-11, downwards=2.0**-12,
                 **{"FP16 of 1 + 0.0009": stored(1 + 9e-4, FP16)})  # fmt: skip


def masters_reach_fp32():
    fp32, master, pure = runs.finals("fp32", "bf16", "pure-bf16", lr=1e-4, steps=600)
    return fact((abs(master / fp32 - 1) < 0.02).all() and (pure > 1.2 * fp32).all(), fp32=about(fp32.mean()), BF16_with_masters=about(master.mean()), pure_BF16=about(pure.mean()))


def fp32_weights_keep_updates():
    result = runs.run("fp32", runs.WEIGHTS_BF16, lr=1e-4, steps=300, count=True)
    lost = result.lost[-20:].reshape(20, 2, -1).mean((0, 2))
    return fact(lost[0] < 0.1 and lost[1] > 0.8, updates_lost_with_FP32_weights=about(lost[0], 2), with_BF16_weights=about(lost[1], 2))


def pure_bf16_is_feasible():
    found = {}
    for update in ("nearest-even", "stochastic", "kahan"):
        generator = torch.Generator().manual_seed(1) if update == "stochastic" else None
        found[update] = runs.finals(runs.WEIGHTS_BF16, lr=1e-4, steps=600, update=update, generator=generator)[0]
    fp32 = runs.finals("fp32", "bf16", "pure-bf16", lr=1e-4, steps=600)[0]
    return cases({name: (values / fp32 < 1.05).all() for name, values in found.items()}, (found["nearest-even"] > 1.2 * fp32).all(),
                 fp32=about(fp32.mean()), **{name: about(values.mean()) for name, values in found.items()})  # fmt: skip


def update_of_1e7_is_lost():
    lost = {w: stored(stored(w, BF16) + 1e-7, BF16) == stored(w, BF16) for w in (1.0, 1e-2, 1e-4, 1e-5)}
    return cases({f"weight {w:g}": value for w, value in lost.items()}, stored(1e-7, BF16) > 0, **{"BF16 of 1e-7": stored(1e-7, BF16)})


def raise_lr_or_scale():
    g = torch.from_numpy(np.random.default_rng(0).normal(0, 1e-3, 1000).astype(np.float32))
    unscaled = {s: round_to(g * 2.0**s, BF16) / 2.0**s for s in (0, 16, 60)}
    same = all(torch.equal(unscaled[0], value) for value in unscaled.values())
    stuck = {s: stored(1.0 - 1e-4 * value[0].item(), BF16) for s, value in unscaled.items()}
    return fact(any(value != 1 for value in stuck.values()), same and set(stuck.values()) == {1.0}, weight_after_an_update={f"scale 2^{s}": v for s, v in stuck.items()})


def later_steps_compensate():
    exact = START + STEPS * CHANGE
    ends = {name: _after_many(name) for name in ("nearest-even", "stochastic")}
    return cases({name: abs(end - exact) < 0.05 for name, end in ends.items()}, ends["nearest-even"] == START, exact=exact, dice=about(ends["stochastic"]))


def _accumulated(fmt, n=1024):
    parts = round_to(torch.from_numpy(np.random.default_rng(1).uniform(0.5, 1.5, (n, 50)).astype(np.float32)), BF16)
    total = torch.zeros(50)
    for part in parts:
        total = round_to(total + part, fmt)
    exact = parts.double().sum(0)
    return ((total - exact).abs() / exact).mean().item()


def fp32_buffer():
    error = {fmt.name: _accumulated(fmt) for fmt in (BF16, FP16, FP32)}
    return fact(error["FP32"] < 1e-5 < error["FP16"] < error["BF16"] and error["BF16"] > 0.1, **{f"error with a {name} buffer": about(value) for name, value in error.items()})


def parameters_stay_fp32():
    model = torch.nn.Linear(4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(torch.ones(2, 4))
    out.float().sum().backward()
    kinds = {str(p.dtype) for p in model.parameters()} | {str(t.dtype) for t in model.state_dict().values()} | {str(model.weight.grad.dtype)}
    return fact(kinds == {"torch.float32"} and out.dtype == torch.bfloat16, parameters_gradients_and_checkpoint="torch.float32", output="torch.bfloat16")


def small_gradients_lose_more():
    kept = {u: (stored(1.0, BF16) - stored(1.0 - u, BF16)) / u for u in (1e-1, 3e-2, 1e-2, 1e-3, 1e-4)}
    error = [abs(value - 1) for value in kept.values()]
    return fact(error[-2:] == [1, 1] and max(error[:2]) < 0.1, **{f"share of an update of {u:g} that arrives": round(value, 3) for u, value in kept.items()})


def bf16_metrics():
    count = torch.tensor(0.0, dtype=torch.bfloat16)
    for _ in range(1000):
        count += 1
    rounded = stored(0.9931, BF16)
    return fact(count.item() == 256 and abs(rounded - 0.9931) > 5e-4, hits_counted_of_1000=count.item(), **{"BF16 of an accuracy of 0.9931": rounded})


def residual_sensitive():
    errors, passed = {}, []
    branches = torch.from_numpy(np.random.default_rng(2).normal(0, 0.05, (96, 2000)).astype(np.float32))
    for size in (1, 100):
        stream = torch.full((2000,), float(size))
        total = stream.clone()
        for branch in branches:
            total = round_to(total + branch, BF16)
        exact = branches.double().sum(0)
        errors[size] = (((total - stream) - exact).norm() / exact.norm()).item()
    for scale in (1.0, 2.0**16):  # 96 residual additions, and what comes back through them
        x = torch.ones(2000, requires_grad=True)
        (sum(branches, x).sum() * scale * 1e-3).backward()
        passed.append(x.grad / scale)
    return cases({"to the loss scale": not torch.equal(*passed), "to swamping of small branches by a large BF16 stream": errors[100] > 0.5},
                 errors[100] > 4 * errors[1], error_beside_a_stream_of_1=about(errors[1]), of_100=about(errors[100]))  # fmt: skip


def minibatch_sgd():
    first = {}
    for g in (1e-4, 1e2):
        for name, make in (("sgd", torch.optim.SGD), ("adam", torch.optim.Adam)):
            w = torch.nn.Parameter(torch.tensor([1.0]))
            w.grad = torch.tensor([g])
            make([w], lr=1e-4).step()
            first[name, g] = 1 - w.item()
    adam = first["adam", 1e2] / first["adam", 1e-4]
    return cases({"SGD: the update follows the gradient": first["sgd", 1e2] > 100 * first["sgd", 1e-4], "Adam: the update follows the gradient": not 0.9 < adam < 1.1},
                 0.9 < adam < 1.1, Adam_ratio_of_updates_for_gradients_a_million_apart=about(adam))  # fmt: skip
