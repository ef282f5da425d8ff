"""Proofs: what integers do to weights, activations and gradients."""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from course.numerics.formats import E4M3, FORMATS
from course.numerics.integers import integers, nf4
from course.numerics.rounding import round_to
from course.training import digits
from course.training.recipes import Recipe

from . import runs
from .evidence import about, cases, fact
from .noise import trained


@lru_cache(maxsize=None)
def _loss(bits=None, block=None, seed=0):
    """The loss of a trained network whose weights wait on an integer grid."""
    model, pictures = trained(600, seed), digits.load()
    h = pictures.test_images
    for i, layer in enumerate(model.layers):
        w = layer.weight.detach()
        if bits:
            w = integers(w, bits, block and (1, min(block, w.shape[1]))).dequantise()
        h = F.linear(h, w, layer.bias.detach())
        if i < len(model.layers) - 1:
            h = F.relu(h)
    return F.cross_entropy(h, pictures.test_labels).item()


def weights_hardly_matter():
    exact = _loss()
    found = {f"INT{bits}": _loss(bits) for bits in (8, 4, 2)}
    grouped = _loss(4, 32)
    return cases({name: abs(value - exact) < 0.02 for name, value in found.items()}, abs(grouped - exact) <= abs(found["INT4"] - exact) + 0.005, FP32=about(exact), **{k: about(v) for k, v in found.items()}, INT4_in_groups_of_32=about(grouped))


def saturation_saves():
    x = torch.from_numpy(np.random.default_rng(0).normal(0, 1, 50_000).astype(np.float32))

    def ratio(f, size):
        clean, noisy = size * x, integers(size * x).dequantise()
        before, after = (noisy - clean).norm() / clean.norm(), (f(noisy) - f(clean)).norm() / f(clean).norm()
        return (after / before).item()

    found = {(f.__name__, size): ratio(f, size) for f in (torch.relu, F.gelu, F.silu, torch.tanh) for size in (1, 4)}
    weight, inputs = trained(600).layers[0].weight.detach(), digits.load().test_images
    wrong = integers(weight, 4).dequantise() - weight
    product = ((inputs @ wrong.T).norm() / (inputs @ weight.T).norm() / (wrong.norm() / weight.norm())).item()
    return fact(any(v < 0.95 for v in found.values()), found["tanh", 4] > 1.4 and product < 0.75,
                relative_error_out_over_in={f"{name}, size {size}": about(v) for (name, size), v in found.items()}, of_a_product_over_that_of_its_INT4_weights=about(product))  # fmt: skip


def relu_saturates():
    y = torch.relu(torch.tensor([10.0, 10.1, 1e6, 1.01e6]))
    errors = [(y[1] / y[0] - 1).item(), (y[3] / y[2] - 1).item()]
    return fact(min(errors) < 0.005, all(abs(e - 0.01) < 1e-4 for e in errors), error_out_for_1_percent_in=about(errors[0]), at_a_million=about(errors[1]))


def softmax_saturates():
    close, far = F.softmax(torch.tensor([100.0, 99.5]), 0)[1].item(), F.softmax(torch.tensor([100.0, 80.0]), 0)[1].item()
    short = F.softmax(torch.tensor([130.3, 130.0]).to(torch.bfloat16), 0)
    return cases({"logits of 100 and 80": far < 1e-6, "logits of 100 and 99.5": close < 1e-6}, short[0] == short[1], **{"second probability of 100 and 99.5": about(close), "BF16 of 130.3 and 130.0": "equal"})


def small_weights_err_less():
    w = torch.from_numpy(np.random.default_rng(0).normal(0, 1, 100_000).astype(np.float32))
    error = (integers(w).dequantise() - w).abs()
    small = w.abs() < w.abs().median()
    absolute, relative = ((error[s].mean().item(), (error[s] / w.abs()[s]).median().item()) for s in (small, ~small))
    return fact(absolute[0] < 0.8 * relative[0], abs(absolute[0] / relative[0] - 1) < 0.05 and absolute[1] > 2 * relative[1], mean_error_of_the_small_half=about(absolute[0]), of_the_large_half=about(relative[0]), relative_small=about(absolute[1]), relative_large=about(relative[1]))


def weights_are_bells():
    model = trained(600)
    start = torch.cat([layer.weight.detach().flatten() for layer in model.layers[1:3]]).double()
    z = (start - start.mean()) / start.std()
    kurtosis, reach = (z**4).mean().item(), z.abs().max().item()
    return fact(abs(start.mean()) < 0.3 * start.std() and 2.2 < kurtosis < 6 and reach > 2.5, mean_over_spread=about(start.mean() / start.std()), kurtosis=about(kurtosis), largest_over_spread=about(reach))


def signs_flip():
    g = torch.from_numpy((np.random.default_rng(0).standard_t(2, 200_000)).astype(np.float32))
    short = {"INT8": integers(g).dequantise(), "INT4": integers(g, 4).dequantise(), "BF16": round_to(g, FORMATS["BF16"])}
    flips = {name: int((value * g < 0).sum()) for name, value in short.items()}
    zeroed = (short["INT8"] == 0).double().mean().item()
    spiky = torch.cat([g.clamp(-5, 5), torch.tensor([5000.0])])
    lost = (integers(spiky).dequantise() == 0).double().mean().item()
    return fact(any(flips.values()), zeroed > 0.5 and lost > 0.95, set_to_zero_beside_one_of_5000=about(lost), **{f"signs flipped by {k}": v for k, v in flips.items()}, set_to_zero_by_INT8=about(zeroed))


def integers_overflow_to_nan():
    wrapped = torch.tensor([300.0, 130.0]).to(torch.int32).to(torch.int8)
    saturated = torch.tensor([300.0]).round().clamp(-128, 127).to(torch.int8)  # what a quantiser does
    return fact(torch.isnan(wrapped.float()).any(), wrapped.tolist() == [44, -126] and saturated.item() == 127, int8_of_300_and_130=str(wrapped.tolist()), a_quantiser_gives=127)


def zeroed_gradient_is_dead():
    inputs = torch.from_numpy(np.random.default_rng(0).uniform(0, 1, (100, 2)).astype(np.float32))

    def after(bias, scales):
        """Whether a unit answers, whether its weights moved, and which gradients were zero: one step for each factor on its loss."""
        w, b = torch.nn.Parameter(torch.tensor([1.0, -0.5])), torch.tensor(bias)
        optimizer, zeros = torch.optim.SGD([w], lr=0.1), []
        for scale in scales:
            optimizer.zero_grad()
            torch.relu(inputs @ w + b).mean().mul(scale).backward()
            w.grad = round_to(w.grad, FORMATS["FP16"])
            zeros.append(not w.grad.any())
            optimizer.step()
        return bool((torch.relu(inputs @ w + b) > 0).any()), w.tolist() != [1.0, -0.5], zeros

    zeroed, later, dead = after(0.0, [1e-9]), after(0.0, [1e-9, 1.0]), after(-5.0, [1.0])
    tell = ("silent", "answers"), ("its weights wait", "its weights move")
    shows = {name: f"{tell[0][a]}, {tell[1][m]}" for name, (a, m, _) in {"after a gradient rounded to zero": zeroed, "and a larger one": later, "a dead unit": dead}.items()}
    return fact(not zeroed[0], zeroed == (True, False, [True]) and later == (True, True, [True, False]) and dead == (False, False, [True]), **shows)


def small_gradients_vanish():
    g = torch.from_numpy(np.random.default_rng(0).normal(0, 1, 100_000).astype(np.float32))
    spiky = torch.cat([g, torch.tensor([1000.0])])
    zeroed = {name: (integers(x, bits).dequantise() == 0).double().mean().item() for name, x, bits in (("INT8", g, 8), ("INT4", g, 4), ("INT8 with one outlier", spiky, 8))}
    inside = g.abs() < g.abs().max() / 254
    dice = integers(spiky, 8, rounding="stochastic", generator=torch.Generator().manual_seed(0)).dequantise()
    return fact((integers(g).dequantise()[inside] == 0).all() and zeroed["INT8 with one outlier"] > 0.9, abs(dice[:-1].mean()) < 0.3, **{f"set to zero, {k}": about(v) for k, v in zeroed.items()})


@lru_cache(maxsize=None)
def _gradient_training(bits, rounding="nearest-even", seed=0, steps=300):
    torch.manual_seed(seed)
    from course.training.models import MLP

    model, pictures, dice = MLP((64, 64, 64, 10), seed=seed), digits.load(), torch.Generator().manual_seed(seed)
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=1e-3), []
    for step in range(steps):
        images, labels = pictures.batch(seed, step, 64)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        for p in model.parameters():
            if bits:
                p.grad = integers(p.grad, bits, rounding=rounding, generator=dice if rounding == "stochastic" else None).dequantise()
        optimizer.step()
        losses.append(loss.item())
    return np.mean(losses[-30:])


def integer_gradients_fail():
    exact = np.mean([_gradient_training(None, seed=s) for s in (0, 1, 2)])
    found = {name: np.mean([_gradient_training(bits, rounding, seed=s) for s in (0, 1, 2)]) for name, bits, rounding in (("INT8", 8, "nearest-even"), ("INT4 with dice", 4, "stochastic"))}
    unscaled = Recipe("E4M3 without scales", activation_gradients=E4M3, weight_gradients=E4M3)
    e4m3 = runs.finals(unscaled, "fp32")
    return cases({"INT8": found["INT8"] > 1.05 * exact, "INT4 with dice": found["INT4 with dice"] > 1.3 * exact, "E4M3 without a scale": not (e4m3[0] < 1.3 * e4m3[1]).all()}, True, FP32=about(exact), **{k: about(v) for k, v in found.items()}, E4M3_without_scales=about(e4m3[0].mean()))


def medium_gradients_err():
    at = {(bits, part): abs(round(part * (2 ** (bits - 1) - 1)) / (2 ** (bits - 1) - 1) / part - 1) for bits in (8, 4) for part in (0.1, 0.5)}
    return cases({f"INT{bits} at {part:g} of the largest": value > 0.1 for (bits, part), value in at.items()}, at[4, 0.1] > 0.4, **{f"relative error of INT{b} at {p:g}": about(v) for (b, p), v in at.items()})


def qat_adapts():
    from course.training.models import MLP

    pictures = digits.load()
    x, y = pictures.test_images, pictures.test_labels

    def forward(model, images, bits):
        h = images
        for i, layer in enumerate(model.layers):
            w = layer.weight
            w = w + (integers(w.detach(), bits).dequantise() - w).detach()  # forward on the grid, backward as if there were none
            h = F.linear(h, w, layer.bias)
            h = F.relu(h) if i < len(model.layers) - 1 else h
        return h

    plain = trained(600)
    model = MLP((64, 64, 64, 10), seed=0)
    model.load_state_dict(plain.state_dict())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    before = F.cross_entropy(forward(model, x, 2), y).item()
    for step in range(150):
        images, labels = pictures.batch(0, 600 + step, 64)
        optimizer.zero_grad()
        F.cross_entropy(forward(model, images, 2), labels).backward()
        optimizer.step()
    after = F.cross_entropy(forward(model, x, 2), y).item()
    return fact(after - _loss() < 0.5 * (before - _loss()), INT2_loss_before=about(before), after_150_steps_of_training_with_it=about(after))


def quantises_to_integers():
    levels = {"INT4": integers(torch.linspace(-1, 1, 2001), 4).dequantise().unique(), "NF4": nf4(torch.linspace(-1, 1, 2048).reshape(1, -1), (1, 2048)).dequantise().unique(), "E2M1": round_to(torch.linspace(-6, 6, 2001), FORMATS["E2M1"]).unique()}
    even = {name: (v.diff().max() / v.diff().min() < 1.001).item() for name, v in levels.items()}
    return cases({name: value for name, value in even.items()}, len(levels["NF4"]) == 16, **{f"{k}: levels": len(v) for k, v in levels.items()})
