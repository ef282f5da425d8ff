"""FP8 training: bit for bit torchao's, each operand along the dimension that is summed over, and accumulators that are too short."""

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from course.numerics import E2M1, E4M3, E5M2
from course.numerics.scales import hadamard, mx, nvfp4, scaled, with_multiplier
from course.training import RunError, corpus, fp8
from course.training.fp8 import RECIPES, ScaledLinear, ScaledRecipe, accumulate, convert, convert_with_torchao, freeze
from course.training.hardware import Device
from course.training.models import GPT, GPTConfig, loss_of

CONFIG = GPTConfig(width=64, layers=2, context=32)


@pytest.fixture(scope="module")
def text():
    return corpus.load()


def batch(text, seed=0, size=4):
    return tuple(map(torch.from_numpy, text.batch(seed, 0, size, CONFIG.context)))


def draw(*shape, seed=0):
    """Numbers of many sizes, so that it matters which of them share a scale."""
    generator = np.random.default_rng(seed)
    x = generator.standard_normal(shape) * np.exp(2 * generator.standard_normal(shape))
    return torch.from_numpy(x.astype(np.float32))


def passed(recipe, rows=256, inner=128, out=256):
    """(the layer, x, weight, gradient, output, gradient of x, gradient of the weight) of one pass."""
    linear = torch.nn.Linear(inner, out, bias=False)
    linear.weight.data = draw(out, inner, seed=1)
    layer, x, gradient = ScaledLinear(linear, recipe, torch.Generator().manual_seed(3)), draw(rows, inner), 1e-3 * draw(rows, out, seed=2)
    x.requires_grad_()
    y = layer(x)
    y.backward(gradient)
    return layer, x.detach(), linear.weight.detach(), gradient, y.detach(), x.grad, linear.weight.grad


# ---- torchao


@pytest.mark.parametrize(("theirs", "ours"), [("tensorwise", "current E4M3 / E5M2"), ("rowwise", "row-wise E4M3")])
@pytest.mark.parametrize("seed", range(3))
def test_the_emulation_is_torchaos_bit_for_bit(text, theirs, ours, seed):
    def first_step(model):
        loss = loss_of(model, *batch(text, seed))
        loss.backward()
        return loss.item(), {name: p.grad for name, p in model.named_parameters()}

    (loss, gradients), (own_loss, own) = first_step(convert_with_torchao(GPT(CONFIG, seed), theirs)), first_step(convert(GPT(CONFIG, seed), ours))
    assert loss == own_loss and gradients.keys() == own.keys()
    assert all(torch.equal(gradients[name], own[name]) for name in gradients)
    exact = first_step(GPT(CONFIG, seed))
    assert loss != exact[0] and not torch.equal(own["blocks.0.widen.weight"], exact[1]["blocks.0.widen.weight"])


def test_torchao_comes_without_a_word():
    done = subprocess.run([sys.executable, "-c", "from course.training.fp8 import torchao; torchao()"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    import logging

    assert logging.getLogger().isEnabledFor(logging.WARNING)  # what it silenced speaks again


@pytest.mark.parametrize(("kind", "native", "emulated"), [
    ("cuda", ("fp32", "bf16", "fp8"), False), ("cuda", ("fp32", "bf16"), True), ("cpu", ("fp32", "fp8"), True), (None, (), True),
])  # fmt: skip
def test_torchao_multiplies_natively_where_the_device_can(kind, native, emulated):
    device = kind and Device(kind, "a device", None, (), None, None, native, ())
    model = convert_with_torchao(GPT(CONFIG, 0), device=device)
    assert model.blocks[0].widen.config.emulate is emulated and model.blocks[1].attention.qkv.config.emulate is emulated
    assert type(model.head) is torch.nn.Linear and sum("Float8" in type(m).__name__ for m in model.modules()) == 8


# ---- the three products


def quantisers(name):
    """How the operands of a recipe are quantised, written down once more: (activation, weight, gradient), inner dimension last."""
    return {
        "row-wise E4M3": (lambda x: scaled(x, E4M3, "row", power_of_two=True),) * 3,
        "1×128 and 128×128": (lambda x: scaled(x, E4M3, (1, 128)), lambda x: scaled(x, E4M3, (128, 128)), lambda x: scaled(x, E4M3, (1, 128))),
        "MXFP8": (lambda x: mx(x, E4M3, "round-up"),) * 3,
        "MXFP8, floor": (lambda x: mx(x, E4M3, "floor"),) * 3,
        "MXFP4": (lambda x: mx(x, E2M1, "floor"),) * 3,
        "NVFP4, nearest": (lambda x: nvfp4(x), lambda x: nvfp4(x, (16, 16)), lambda x: nvfp4(x)),
        "current E4M3 / E5M2": (lambda x: scaled(x, E4M3), lambda x: scaled(x, E4M3), lambda x: scaled(x, E5M2)),
        "current E4M3 / E4M3": (lambda x: scaled(x, E4M3),) * 3,
        "unscaled E4M3 / E5M2": (lambda x: with_multiplier(x, E4M3, 1.0), lambda x: with_multiplier(x, E4M3, 1.0), lambda x: with_multiplier(x, E5M2, 1.0)),
        "unscaled E4M3 / E4M3": (lambda x: with_multiplier(x, E4M3, 1.0),) * 3,
        "FP4, one scale": (lambda x: scaled(x, E2M1),) * 3,
    }[name]


@pytest.mark.parametrize("name", [
    "row-wise E4M3", "1×128 and 128×128", "MXFP8", "MXFP8, floor", "MXFP4", "NVFP4, nearest", "current E4M3 / E5M2", "current E4M3 / E4M3",
    "unscaled E4M3 / E5M2", "unscaled E4M3 / E4M3", "FP4, one scale",
])  # fmt: skip
def test_scales_run_along_the_dimension_that_is_summed_over(name):
    _, x, w, g, y, x_gradient, w_gradient = passed(RECIPES[name])
    a, b, c = (lambda each, quantise=quantise: quantise(each).dequantise() for quantise in quantisers(name))
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(y, a(x) @ b(w).T, **close)
    torch.testing.assert_close(x_gradient, c(g) @ b(w.T).T, **close)
    torch.testing.assert_close(w_gradient, c(g.T) @ a(x.T).T, **close)
    assert not torch.allclose(w_gradient, g.T @ x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", RECIPES)
def test_what_every_format_holds_is_multiplied_exactly(name):
    """Powers of two that need no rounding under any scale: nothing but the products is left."""
    linear = torch.nn.Linear(128, 128)
    signs = np.random.default_rng(4).choice([-2.0, 2.0], (3, 128, 128)).astype(np.float32)
    linear.weight.data, x, gradient = map(torch.from_numpy, signs)
    torch.nn.init.constant_(linear.bias, 3.0)
    recipe = replace(RECIPES[name], mixed=False)  # a transform makes other numbers of them
    layer = ScaledLinear(linear, recipe, torch.Generator().manual_seed(0))
    y = layer(x.view(2, 64, 128).requires_grad_())
    assert torch.equal(y.reshape(128, 128), x @ linear.weight.T + 3)
    y.backward(gradient.view(2, 64, 128))
    if recipe.scaling != "nvfp4":  # whose scales 2/6 are rounded to E4M3
        assert torch.equal(linear.weight.grad, gradient.T @ x) and torch.equal(linear.bias.grad, gradient.sum(0))


@pytest.mark.parametrize("name", ["NVFP4, nearest", "FP4, one scale"])
def test_a_transform_goes_over_both_operands_of_the_weights_gradient_only(name):
    plain, quantise = passed(RECIPES[name]), quantisers(name)[0]
    layer, x, w, g, y, x_gradient, w_gradient = passed(replace(RECIPES[name], mixed=True))
    assert torch.equal(y, plain[4]) and torch.equal(x_gradient, plain[5]) and not torch.equal(w_gradient, plain[6])
    turned = [quantise(hadamard(each.T.contiguous(), 16, layer.signs)).dequantise() for each in (g, x)]
    torch.testing.assert_close(w_gradient, turned[0] @ turned[1].T, rtol=1e-5, atol=1e-5)


def test_one_vector_of_signs_serves_all_layers():
    model = convert(GPT(CONFIG, 0), "NVFP4", seed=5)
    signs = model.blocks[0].widen.signs
    assert set(signs.tolist()) == {-1.0, 1.0} and model.blocks[1].narrow.signs is signs  # one vector for all layers


def test_dice_are_for_gradients_and_take_the_bias_away():
    recipe = RECIPES["FP4, one scale, dice"]
    *_, y, _, _ = passed(recipe)
    assert torch.equal(y, passed(RECIPES["FP4, one scale"])[4])
    gradient = torch.full((1, 4096), 0.1)
    gradient[0, 0] = 1.0  # the rest are a tenth of it: to nearest in FP4 they are 0.083
    kept = {r.name: fp8.rounded(gradient, r, "gradient", generator=torch.Generator().manual_seed(1))[0, 1:].mean() for r in (recipe, RECIPES["FP4, one scale"])}
    assert abs(kept[recipe.name] - 0.1) < 0.003 < 0.01 < abs(kept["FP4, one scale"] - 0.1)


def test_delayed_scaling_uses_what_it_has_seen_and_a_spike_bites_once():
    recipe = replace(RECIPES["delayed E4M3 / E5M2"], history=2)
    layer = ScaledLinear(torch.nn.Linear(8, 8, bias=False), recipe)
    layer.weight.data = torch.eye(8)
    seen = []
    for size in (1.0, 1.0, 64.0, 1.0, 1.0, 1.0):
        x = torch.full((1, 8), -size, requires_grad=True)  # an amax is a magnitude
        seen.append((layer.histories["activation"].multiplier, -layer(x).min().item()))
    assert seen == [(1.0, 1.0), (448.0, 1.0), (448.0, 1.0), (7.0, 1.0), (7.0, 1.0), (448.0, 1.0)]
    assert layer.histories["gradient"].multiplier == 1.0
    layer(torch.ones(1, 8, requires_grad=True)).backward(torch.full((1, 8), 2.0))
    assert layer.histories["gradient"].multiplier == E5M2.max / 2 and layer.histories["weight"].multiplier == 448


# ---- models


def test_which_layers_are_converted_and_which_are_frozen():
    model = convert(GPT(CONFIG, 0), "MXFP8")
    names = [name for name, module in model.named_modules() if isinstance(module, ScaledLinear)]
    assert names == [f"blocks.{i}.{layer}" for i in range(2) for layer in ("attention.qkv", "attention.out", "widen", "narrow")]
    assert [n for n, p in model.named_parameters()] == [n for n, p in GPT(CONFIG, 0).named_parameters()]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), GPT(CONFIG, 0).parameters()))
    frozen = [n for n, p in freeze(GPT(CONFIG, 0)).named_parameters() if not p.requires_grad]
    assert len(frozen) == 16 and all(n.rpartition(".")[0] in names for n in frozen)


def test_mistakes_are_told():
    for wrong, words in ((lambda: convert(GPT(CONFIG, 0), "FP7"), "no recipe 'FP7'.*NVFP4"), (lambda: ScaledRecipe("x", "cols"), "scaling='cols'.*tensor")):
        with pytest.raises(RunError, match=words):
            wrong()
    with pytest.raises(ValueError, match="does not divide"):
        ScaledLinear(torch.nn.Linear(64, 64), RECIPES["1×128 and 128×128"])(torch.ones(128, 64))


# ---- accumulation


def by_hand(a, b, bits, every, group):
    """One dot product, number by number."""

    def cut(value, exponent):
        step = 2.0 ** (exponent - bits)
        return math.trunc(value / step) * step

    total = part = 0.0
    for at in range(0, len(a), group):
        products = [x * y for x, y in zip(a[at : at + group], b[at : at + group])]
        exponent = max(math.frexp(p)[1] for p in products)
        part += sum(cut(p, exponent) for p in products)
        part = cut(part, math.frexp(part)[1])
        if (at + group) % every == 0:
            total, part = float(np.float32(total + part)), 0.0
    return float(np.float32(total + part))


@pytest.mark.parametrize(("bits", "promote"), [(14, None), (14, 128), (10, 64)])
def test_a_short_accumulator_number_by_number(bits, promote):
    generator = np.random.default_rng(bits)
    a, b = (scaled(torch.from_numpy(generator.standard_normal((3, 512)).astype(np.float32)), E4M3).values for _ in range(2))
    found = accumulate(a, b.T, bits, promote)
    for i in range(3):
        for j in range(3):
            assert found[i, j] == by_hand(a[i].tolist(), b[j].tolist(), bits, promote or 512, 32)


@pytest.mark.parametrize("seed", range(5))
def test_promotion_takes_the_growth_away(seed):
    generator = np.random.default_rng(seed)
    off = {}
    for inner in (512, 4096):
        a, b = (scaled(torch.from_numpy(generator.standard_normal((16, inner)).astype(np.float32)), E4M3).values for _ in range(2))
        exact = a.double() @ b.double().T
        off[inner] = [((accumulate(a, b.T, bits, promote) - exact).norm() / exact.norm()).item() for bits, promote in ((14, None), (14, 128), (None, None))]
    assert off[4096][0] > 5 * off[512][0] and off[4096][0] > 15 * off[4096][1]
    assert off[4096][1] < 1.5 * off[512][1] and off[4096][2] < 1e-6


def test_groups_have_to_fit():
    for shape, promote in (((1, 48), None), ((1, 256), 48)):
        with pytest.raises(ValueError, match="multiples of the group"):
            accumulate(torch.ones(shape), torch.ones(shape).T, promote=promote)
