"""Proofs: rounding noise beside that of mini-batches, how it travels, and who tolerates it."""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from course.numerics import solvers
from course.numerics.formats import BF16, E4M3, FP16, FP32, FP64
from course.numerics.rounding import round_to
from course.training import digits, phase
from course.training.emulation import Emulation
from course.training.models import MLP
from course.training.noise import gradients, noise
from course.training.recipes import RECIPES, Recipe

from . import runs
from .evidence import about, cases, fact


@lru_cache(maxsize=None)
def trained(steps, seed=0):
    torch.manual_seed(seed)
    model, pictures = MLP((64, 64, 64, 10), seed=seed), digits.load()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(steps):
        images, labels = pictures.batch(seed, step, 64)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model


@lru_cache(maxsize=None)
def _noise(steps, size, recipe="bf16", count=6):
    model, pictures = trained(steps), digits.load()
    batches = [pictures.batch(1, 1000 + i, size) for i in range(count)]

    def loss(net, batch):
        return F.cross_entropy(net(batch[0]), batch[1])

    exact = gradients(model, loss, batches)
    return noise(exact, gradients(model, loss, batches, lambda: Emulation(model, RECIPES[recipe])))


def batches_are_noisier():
    small, late = _noise(0, 32), _noise(1500, 32)
    model, pictures = trained(0), digits.load()
    whole = [(pictures.train_images, pictures.train_labels)] * 2

    def loss(net, batch):
        return F.cross_entropy(net(batch[0]), batch[1])

    full = noise(gradients(model, loss, whole), gradients(model, loss, whole, lambda: Emulation(model, RECIPES["bf16"])))
    return cases({"32 pictures, at the start": small.ratio > 5, "32 pictures, late": late.ratio > 5, "all pictures in every step": full.ratio > 5}, full.batch == 0 < full.rounding,
                 mini_batch_noise_over_BF16s_at_the_start=about(small.ratio), late=about(late.ratio), all_pictures=about(full.ratio))  # fmt: skip


def direction_survives():
    found = [_noise(0, 32), _noise(1500, 32)]
    return fact(all(n.cosine > 0.99 for n in found), cosine_at_the_start=about(found[0].cosine, 5), late=about(found[1].cosine, 5))


def errors_average_out():
    generator = np.random.default_rng(0)
    g = torch.from_numpy(generator.normal(0, 1, 200_000).astype(np.float32))
    error = (round_to(g, BF16) - g).double()
    share = error.mean().abs() / (error.std() / len(g) ** 0.5)
    result = runs.run("fp32", runs.WEIGHTS_BF16, lr=1e-4, steps=300, count=True)
    lost = result.lost[-20:, len(runs.SEEDS) :].mean()
    return cases({"rounding of gradients": share < 5, "updates that are swamped": lost < 0.5}, lost > 0.7, mean_error_in_standard_errors=about(share), updates_lost=about(lost))


def noise_regularises():
    accuracy = runs.run("fp32", "bf16").accuracy.reshape(2, -1)
    scatter, gap = accuracy.std(1).max(), abs(accuracy[1].mean() - accuracy[0].mean())
    return fact(accuracy[1].mean() > accuracy[0].mean() + 3 * scatter / len(runs.SEEDS) ** 0.5, gap < scatter, accuracy_fp32=about(accuracy[0].mean()), accuracy_bf16=about(accuracy[1].mean()), scatter_of_seeds=about(scatter))


def one_more_noise_source():
    x = torch.full((1000,), 1 + 2.0**-9)
    nearest = {round_to(x, BF16).unique().numel()}
    dice = round_to(x, BF16, "stochastic", generator=torch.Generator().manual_seed(0)).unique().numel()
    return cases({"rounded to nearest": nearest != {1}, "stochastic rounding": dice > 1}, nearest == {1}, results_of_1000_roundings_to_nearest=max(nearest), with_dice=dice)


def dominant_direction():
    model, pictures = trained(200), digits.load()
    batches = [tuple(part[i : i + 1] for part in pictures.batch(1, 5000, 64)) for i in range(48)]
    rows = gradients(model, lambda net, b: F.cross_entropy(net(b[0]), b[1]), batches).double()
    s = torch.linalg.svdvals(rows)
    share = (s[:3] ** 2).sum() / (s**2).sum()
    even = 3 / len(batches)
    return fact(share > 0.5 > 5 * even, share_of_the_first_three_directions=about(share), if_all_were_alike=about(even))


def retuning_for_bf16():
    fp32, bf16 = runs.finals("fp32", "bf16")
    pure = runs.finals("pure-bf16", lr=1e-4, steps=600)[0] / runs.finals("fp32", lr=1e-4, steps=600)[0]
    return fact((np.abs(bf16 / fp32 - 1) > 0.05).any(), (np.abs(bf16 / fp32 - 1) < 0.05).all() and (pure > 1.2).all(), fp32=about(fp32.mean()), bf16_same_settings=about(bf16.mean()), systematic_part="the swamped updates of pure BF16")


def range_before_precision():
    record = phase.load()
    found = {}
    for stored in ("master", "nearest"):
        condition = phase.Condition(stored=stored)
        losses, reference = np.median(record.final(condition), 2), np.median(record.reference(condition))
        e5m2, e8m7 = (losses[phase.EXPONENT_BITS.index(e), phase.MANTISSA_BITS.index(m)] for e, m in ((5, 2), (8, 7)))
        few_bits, few_range = losses[phase.EXPONENT_BITS.index(8), 2], losses[phase.EXPONENT_BITS.index(3), 7]
        found[stored] = few_bits < 1.3 * reference and not few_range < 1.3 * reference, e5m2, e8m7
    scaled = phase.Condition(scaling="tensor")
    ends, reference = np.median(record.final(scaled), 2), np.median(record.reference(scaled))
    few_range = ends[phase.EXPONENT_BITS.index(3), 7] >= 1.3 * reference
    holds = {"products, with FP32 weights": found["master"][0], "products, with a scale for each tensor": few_range, "stored weights": found["nearest"][0]}
    return cases(holds, found["master"][1] < 1.3 * reference < found["nearest"][1], E3M7_with_scales=about(ends[phase.EXPONENT_BITS.index(3), 7]), E5M2_with_masters=about(found["master"][1]), E5M2_as_storage=about(found["nearest"][1]))


def solvers_need_fp64():
    matrix, b = solvers.poisson(32), torch.from_numpy(np.random.default_rng(0).normal(0, 1, 32))
    x = solvers.refine(matrix, b, [FP16, BF16], 30)
    size = matrix.double() @ x[-1].T
    residual = {name: (size[:, i] - b).abs().max().item() for i, name in enumerate(("FP16", "BF16"))}
    first = (matrix.double() @ x[0, 0] - b).abs().max().item()
    short, long = solvers.conjugate_gradients(matrix, b, [BF16, FP64], 64)[-1].tolist()
    return fact(residual["FP16"] > 1e-9, residual["FP16"] < 1e-9 < first and short > 1e6 * long, factorised_in_FP16=about(first), after_refinement=about(residual["FP16"]),
                conjugate_gradients_in_BF16=about(short), in_FP64=about(long))  # fmt: skip


def errors_accumulate():
    ends = solvers.heat([FP64, FP32, BF16], 2000, bump=64.0)
    error = {name: ((ends[i] - ends[0]).abs().max() / 64).item() for i, name in enumerate(("FP64", "FP32", "BF16"))}
    matrix = solvers.poisson(16)
    refined = (matrix.double() @ solvers.refine(matrix, torch.ones(16), [FP16], 20)[-1, 0] - 1).abs().max().item()
    return cases({"stepping in time in 16 bits": error["BF16"] > 0.05, "stepping in FP32": error["FP32"] > 0.05, "refinement with long residuals": refined > 1e-8}, refined < 1e-10, **{f"error over the bump that spreads, {k}": about(v) for k, v in error.items()})


def networks_need_relative_precision():
    fp32, e4m3 = runs.finals("fp32", Recipe("E4M3 gradients", activation_gradients=E4M3, weight_gradients=E4M3, master=FP32), tensor_scales=True)
    moved = runs.finals(runs.WEIGHTS_BF16, lr=1e-4, steps=600)[0] / runs.finals("fp32", lr=1e-4, steps=600)[0]
    return cases({"gradients, with three mantissa bits and a scale": (e4m3 > 1.1 * fp32).any(), "stored weights, with seven": (moved > 1.2).all()}, True, fp32=about(fp32.mean()), E4M3_gradients=about(e4m3.mean()), BF16_weights_over_FP32=about(moved.mean()))


def _depth(residual, blocks=48, width=64, seed=0):
    """Relative error of the gradient after `blocks` layers backward, each product rounded to BF16, against FP64."""
    generator = np.random.default_rng(seed)
    weights = [torch.from_numpy(generator.normal(0, 1 / width**0.5, (width, width))) for _ in range(blocks)]
    x = torch.from_numpy(generator.normal(0, 1, width))

    def walk(fmt):
        def short(v):
            return round_to(v.float(), fmt).double() if fmt else v

        masks, h = [], short(x)
        for w in weights:
            z = short(short(w) @ h)
            masks.append((z > 0).double())
            h = short(h + 0.3 * torch.relu(z)) if residual else short(torch.relu(z) * 2**0.5)
        g, sizes = torch.ones(width, dtype=torch.float64), []
        for w, mask in zip(reversed(weights), reversed(masks)):
            back = short(short(w).T @ (g * mask))
            g = short(g + 0.3 * back) if residual else short(back * 2**0.5)
            sizes.append(g)
        return sizes

    exact, rounded = walk(None), walk(BF16)
    return [((r - e).norm() / e.norm()).item() for e, r in zip(exact, rounded)]


def chain_rule_amplifies():
    grown = {name: np.median([_depth(residual, seed=s)[-1] for s in range(5)]) for name, residual in (("residual", True), ("plain", False))}
    return cases({"a plain deep net": grown["plain"] > 0.08, "with residual connections": grown["residual"] > 0.08}, grown["plain"] > 2 * grown["residual"], **{f"relative error of dL/dh after 48 layers, {k}": about(v) for k, v in grown.items()})


def heavy_tails():
    def kurtosis(model):
        images, labels = digits.load().batch(0, 9000, 256)
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        g = torch.cat([p.grad.flatten() for p in model.parameters()]).double()
        g = g[g != 0]
        return (((g - g.mean()) / g.std()) ** 4).mean().item()

    found = {steps: kurtosis(trained(steps)) for steps in (0, 1500)}
    return fact(min(found.values()) > 5, found[0] > 1.5 * found[1500], Gaussian=3, at_the_start=about(found[0]), after_1500_steps=about(found[1500]))


def early_layers_are_large():
    sizes = {}
    for name, residual in (("plain", False), ("residual", True)):
        generator = np.random.default_rng(0)
        weights = [torch.from_numpy(generator.normal(0, (0.5 if not residual else 1) / 64**0.5, (64, 64))) for _ in range(24)]
        g, seen = torch.ones(64, dtype=torch.float64), []
        for w in weights:  # from the loss backwards
            g = g + 0.1 * (w.T @ g) if residual else w.T @ g
            seen.append(g.norm().item())
        sizes[name] = seen[-1] / seen[0]
    return fact(sizes["plain"] > 10 or not 0.1 < sizes["residual"] < 10, sizes["plain"] < 1e-3, first_layer_over_last_plain=about(sizes["plain"]), residual=about(sizes["residual"]))
