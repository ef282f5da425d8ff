"""Proofs: what a loss scale does, what it does not, and in which order things happen."""

import math

import numpy as np
import torch

from course.numerics.formats import BF16, FP16
from course.numerics.rounding import round_to

from . import runs
from .evidence import about, cases, fact
from .formats import stored


def spread_gradients(size=2e-7, n=20_000, seed=0):
    """Gradients whose sizes spread over some powers of ten, as a network's do."""
    generator = np.random.default_rng(seed)
    return torch.from_numpy((size * generator.lognormal(0, 2, n) * generator.choice([-1, 1], n)).astype(np.float32))


def flushed_share(x, fmt):
    return (round_to(x, fmt) == 0).double().mean().item()


def scale_and_divide():
    x = spread_gradients()
    lost = {s: flushed_share(x * 2.0**s, FP16) for s in (0, 8, 16)}
    arrived = round_to(x * 2.0**16, FP16) / 2.0**16
    return fact(lost[0] > 0.1 > lost[8] > lost[16] and ((arrived - x).norm() / x.norm()) < 1e-3, **{f"flushed with scale 2^{s}": about(v) for s, v in lost.items()})


def scaled_before_forward():
    seen, w = {}, torch.nn.Parameter(torch.tensor([2.0]))
    for scale in (1.0, 65536.0):
        w.grad, scaler = None, torch.amp.GradScaler("cpu", init_scale=scale)
        hidden = w * 3
        scaler.scale((hidden**2).sum()).backward()
        seen[scale] = hidden.item(), w.grad.item()
    (forward, gradient), (other, scaled) = seen.values()
    return fact(other != forward, other == forward and scaled == 65536 * gradient, forward_pass_without_and_with=f"{forward:g} {other:g}", gradient=f"{gradient:g} {scaled:g}")


def bf16_needs_scaling():
    plain, scaled = runs.finals("bf16", ("bf16", (("scale", 1024.0),)), steps=200)
    return fact((np.abs(scaled - plain) > 1e-3).any(), np.array_equal(plain, scaled), loss_without=about(plain.mean()), with_1024=about(scaled.mean()), same_bit_for_bit=np.array_equal(plain, scaled))


def scaling_gives_bf16_precision():
    x = spread_gradients(1e-3)
    unscaled = {s: round_to(x * 2.0**s, BF16) / 2.0**s for s in (0, 10, 24, 60)}
    other = round_to(x * 1000, BF16) / 1000
    return fact(any(not torch.equal(unscaled[0], value) for value in unscaled.values()), not torch.equal(other, unscaled[0]),
                numbers_changed_by_powers_of_two=sum(int((value != unscaled[0]).sum()) for value in unscaled.values()), changed_by_a_scale_of_1000=about((other != unscaled[0]).double().mean()))  # fmt: skip


def scaling_needed():
    (plain,), (weak, rescued) = runs.finals("fp32"), runs.finals(("fp16", (("loss_weight", 2.0**-14),)), ("fp16", (("loss_weight", 2.0**-14), ("scale", 2.0**14))), overflow="ieee")
    ordinary = runs.finals("fp16", "bf16")
    return cases({"FP16, ordinary loss": (ordinary[0] > 1.05 * plain).any(), "FP16, loss of 2^-14": (weak > 1.05 * plain).all(), "BF16, which usually needs none": (ordinary[1] < 1.05 * plain).all()},
                 (rescued < 1.1 * plain).all(), fp32=about(plain.mean()), FP16_without=about(ordinary[0].mean()),
                 FP16_of_a_small_loss=about(weak.mean()), rescued_by_a_scale=about(rescued.mean()))  # fmt: skip


def bf16_never_skips():
    logits = torch.tensor([100.0, 101.0], dtype=torch.bfloat16)
    naive = logits.exp() / logits.exp().sum()
    gradients = torch.tensor([1.0], dtype=torch.bfloat16) * 2.0**16
    return cases({"overflow of a scaled gradient": gradients.isfinite().all(), "Inf or NaN of any kind": naive.isfinite().all()},
                 naive.isnan().all(), exp_of_89=torch.tensor(89.0, dtype=torch.bfloat16).exp().item(), naive_softmax=str(naive.tolist()))  # fmt: skip


def static_scales():
    x = torch.cat([spread_gradients(2e-7), torch.tensor([20.0])])
    lost = {s: flushed_share(x * s, FP16) for s in (1, 128, 1024, 8192)}
    over = {s: round_to(x * s, FP16).isinf().any().item() for s in (1024, 8192)}
    return fact(lost[1] > lost[128] > lost[1024] and not over[1024] and over[8192], **{f"flushed with {s}": about(v) for s, v in lost.items()}, overflow_at_8192=over[8192])


def bf16_overflows_by_scale():
    limit = {fmt.name: next(s for s in range(200) if math.isinf(stored(1.0 * 2.0**s, fmt))) for fmt in (FP16, BF16)}
    return cases({"a scale of 2^24, gradient 1, FP16": math.isinf(stored(2.0**24, FP16)), "the same in BF16": math.isinf(stored(2.0**24, BF16))},
                 limit == {"FP16": 16, "BF16": 128}, first_power_of_two_that_overflows=str(limit))  # fmt: skip


def too_small_scale():
    x = spread_gradients()
    lost = {(fmt.name, s): flushed_share(x * 2.0**s, fmt) for fmt in (FP16, BF16) for s in (0, 16)}
    return cases({"FP16": lost["FP16", 0] > 10 * lost["FP16", 16], "BF16": lost["BF16", 0] > 0},
                 lost["BF16", 0] == 0, **{f"{name} flushed with 2^{s}": about(v) for (name, s), v in lost.items()})  # fmt: skip


def divide_lr():
    def after(lr, divide, adam=False, scale=1024.0):
        w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        optimizer = torch.optim.Adam([w], lr=lr) if adam else torch.optim.SGD([w], lr=lr)
        for _ in range(50):
            optimizer.zero_grad()
            ((w**2).sum() * scale).backward()
            w.grad /= scale if divide else 1.0
            optimizer.step()
        return (w.detach() ** 2).sum().item()

    plain = after(0.05, True, scale=1.0)
    ends = {"unscaled, same rate": after(0.05, True), "unscaled, rate / S": after(0.05 / 1024, True), "Adam, not unscaled, rate / S": after(0.05 / 1024, False, adam=True)}
    adam = after(0.05, False, adam=True)
    return fact(ends["unscaled, rate / S"] < 1, ends["unscaled, same rate"] == plain < 1e-3 and ends["unscaled, rate / S"] > 4 and adam < 1 and ends["Adam, not unscaled, rate / S"] > 4.5,
                start=5.0, **{name: about(value) for name, value in ends.items()})  # fmt: skip


def initial_scale_from_max():
    x = spread_gradients(1e-5)
    x = x.clamp(-1e-4, 1e-4)
    low, high = 2 * x.abs().max().item(), 2.0 ** (math.floor(math.log2(65504 / x.abs().max().item())) - 2)
    return fact(flushed_share(x * low, FP16) < 0.01, flushed_share(x * low, FP16) > 0.9 and flushed_share(x * high, FP16) < 0.001 and round_to(x * high, FP16).isfinite().all(),
                twice_the_largest=about(low), flushed_with_it=about(flushed_share(x * low, FP16)), a_scale_below_65504_over_the_largest=high, flushed_then=about(flushed_share(x * high, FP16)))  # fmt: skip


def accumulation_helps():
    x = spread_gradients(2e-7)
    lost = {n: flushed_share(x / n, FP16) for n in (1, 8, 64)}
    return fact(lost[64] < lost[1], lost[1] < lost[8] < lost[64], **{f"flushed, loss divided by {n}": about(v) for n, v in lost.items()})


def embeddings_need_more():
    table = torch.nn.Embedding(100, 8)
    (table(torch.arange(50)).sum() * 1e-3).backward()
    zeros = table.weight.grad == 0
    scales = torch.amp.GradScaler("cpu").scale(torch.ones(3)).unique().numel()
    return fact(zeros[:50].any() or scales > 1, zeros[50:].all(), zero_gradients_of_rows_in_use=int(zeros[:50].sum()), of_rows_without_a_token=int(zeros[50:].sum()), scales_of_a_GradScaler=scales)


def norms_own_scale():
    from torch.nn.functional import layer_norm

    x = torch.tensor([300.0, -300.0, 300.0, -300.0], dtype=torch.float16)
    naive, library = x / (x * x).mean().sqrt(), layer_norm(x, (4,))
    return cases({"FP32 inside": library.float().abs().sub(1).abs().max() < 1e-2, "a scale of its own": (naive != 0).any()},
                 (x * x).isinf().all() and (naive == 0).all(), x=300, x_squared_in_FP16="inf", naive_norm=naive.tolist(), torchs=library.tolist())  # fmt: skip


def scale_per_layer():
    seen = []
    lin = torch.nn.Sequential(torch.nn.Linear(4, 4, bias=False), torch.nn.Linear(4, 1, bias=False))
    lin[1].weight.register_hook(lambda g: seen.append(g.clone()))
    lin[0].weight.register_hook(lambda g: seen.append(g.clone()))
    for s in (1.0, 8.0):
        lin(torch.ones(1, 4)).sum().mul(s).backward()
    plain, scaled = seen[:2], seen[2:]
    ratios = {round((b / a).median().item(), 6) for a, b in zip(plain, scaled)}
    from course.numerics.scales import scaled as per_tensor

    two = [per_tensor(torch.tensor([v]), BF16).multiplier.item() for v in (1e-3, 1.0)]
    return cases({"one factor on the loss": len(ratios) > 1, "a scale for each tensor, as FP8 has": len(set(two)) > 1}, ratios == {8.0}, factor_seen_by_both_layers=8.0)


def zero_kills_upstream():
    w1, w2 = (torch.nn.Parameter(torch.tensor([[v]])) for v in (2.0, 3.0))

    def upstream(zero_activation):
        w1.grad = w2.grad = None
        h = w1 @ torch.ones(1, 1)
        if zero_activation:
            h.register_hook(torch.zeros_like)
        else:
            w2.register_hook(torch.zeros_like)
        (w2 @ h).sum().backward()
        return w1.grad.item()

    activation, weight = upstream(True), upstream(False)
    return cases({"the gradient of an activation": activation == 0, "the gradient of a weight": weight == 0}, weight == 3, upstream_after_a_zeroed_activation_gradient=activation, after_a_zeroed_weight_gradient=weight)


def fp16_gradients_reach_the_end():
    from course.training import digits
    from course.training.models import MLP

    pictures, largest = digits.load(), 0.0
    model = MLP((64, 64, 64, 10), seed=0)
    for step in range(20):
        images, labels = pictures.batch(0, step, 64)
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        largest = max(largest, max(p.grad.abs().max().item() for p in model.parameters()))
    summed = np.float16(0)
    with np.errstate(over="ignore"):
        for _ in range(4096):
            summed = np.float16(summed + np.float16(20))
    return cases({"unscaled weight gradients of a network": largest > 1000, "a scale of 2^24": largest * 2**24 > 65504, "4096 gradients of 20, summed": np.isinf(summed)},
                 largest < 10, largest_gradient=about(largest), sum_in_FP16=str(summed))  # fmt: skip


def fp16_sums_overflow():
    n, g = 4096, np.float16(20)
    with np.errstate(over="ignore"):
        first, divided = np.float16(0), np.float16(0)
        for _ in range(n):
            first, divided = np.float16(first + g), np.float16(divided + np.float16(g / n))
    return cases({"summed, then divided": np.isinf(first), "divided, then summed": np.isinf(divided)}, 10 < divided < 25, summed=str(first), divided_first=about(divided))


def activations_are_scaled():
    activation = torch.tensor([0.5, 1.0, 64.0, 100.0], dtype=torch.float16)
    product = activation * 1024
    with torch.autocast("cpu", torch.float16):
        layer = torch.nn.Linear(2, 2)
        out = layer(torch.ones(1, 2))
    scaled = torch.amp.GradScaler("cpu").scale(out.float().sum())
    return fact(product.dtype == torch.float32 or out.abs().max() > 1000, product.isinf().any() and product.dtype == torch.float16 and scaled.abs() > 1, product=str(product.tolist()), dtype=str(product.dtype))


def scaled_gradients_are_fp32():
    seen, layer = {}, torch.nn.Linear(4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(torch.ones(2, 4))
        out.register_hook(lambda g: seen.update(activation=str(g.dtype)))
    (out.float().sum() * 1024).backward()
    seen["weight"] = str(layer.weight.grad.dtype)
    return cases({"the gradient of a weight kept in FP32": seen["weight"] == "torch.float32", "the gradient of an activation": seen["activation"] == "torch.float32"},
                 seen == {"activation": "torch.bfloat16", "weight": "torch.float32"}, **seen)  # fmt: skip


def _chain(scale=1024.0):
    """For y = A / S with A = W x: the ratios of autograd's gradients to two formulas that circulate."""
    x, w = torch.tensor([3.0], dtype=torch.float64), torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    a = (w * x) * scale
    a.retain_grad()
    y = a / scale
    y.backward()
    return a.grad.item(), w.grad.item(), x.item()


def gradient_of_scaled_activation():
    found, _, _ = _chain()
    return fact(found == 1.0, found == 1 / 1024, **{"∂L/∂(S·y) over ∂L/∂y, S = 1024": found})


def gradient_has_one_over_s():
    _, found, x = _chain()
    formula = x / 1024
    return fact(formula == found, formula / found == 1 / 1024, formula_over_autograd=formula / found)


def gradients_of_a_linear_layer():
    layer, x = torch.nn.Linear(3, 2).double(), torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    g = torch.tensor([0.25, -1.0], dtype=torch.float64)
    (layer(x) * g).sum().backward()
    return fact(torch.allclose(layer.weight.grad, torch.outer(g, x)) and torch.allclose(layer.bias.grad, g), dW="outer product of dL/dy and x", db="dL/dy")


def half_gradients():
    return cases({"of activations": scaled_gradients_are_fp32().shows["activation"] == "torch.bfloat16", "of parameters kept in FP32": scaled_gradients_are_fp32().shows["weight"] == "torch.bfloat16"},
                 True, **scaled_gradients_are_fp32().shows)  # fmt: skip
