"""Emulated precision: equal to what the format's own dtype computes, role by role, for models of every kind."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course.numerics import BF16, E4M3, E5M2, FP16, FP32
from course.numerics.rounding import cast, round_to
from course.training import digits
from course.training.emulation import Emulation
from course.training.models import GPT, MLP, GPTConfig
from course.training.recipes import RECIPES, Recipe

DTYPES = {"pure-bf16": (torch.bfloat16, BF16), "fp16": (torch.float16, FP16)}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(model, recipe, inputs, targets, scale=1.0, **options):
    model.zero_grad()
    with Emulation(model, recipe, **options):
        logits = model(inputs)
        loss = F.cross_entropy(logits.flatten(0, -2), targets.flatten())
    (loss * scale).backward()
    return logits.detach(), [p.grad for p in model.parameters()]


def native(model, dtype, inputs, targets, scale=1.0):
    model = model.to(dtype)
    logits = model(inputs.to(dtype) if inputs.is_floating_point() else inputs)
    (F.cross_entropy(logits.float().flatten(0, -2), targets.flatten()) * scale).backward()
    return logits.detach().float(), [p.grad.float() for p in model.parameters()]


def values_of(fmt, tensor):
    return torch.equal(round_to(tensor, fmt), tensor)


def distance(a, b):
    return ((a - b).norm() / b.norm()).item()


# ---- against the real dtypes


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("seed", range(3))
def test_an_mlp_equals_the_native_one_but_for_the_order_of_sums(name, seed):
    """In BF16 at most 1 % of the numbers differ, where another order of the sum tipped a rounding; together far below an ulp.

    FP16 drops fewer bits, so a sum's own error tips more roundings: up to a seventh of some gradient.
    """
    share, ulps = {"pure-bf16": (0.01, 1 / 50), "fp16": (0.15, 1 / 4)}[name]
    dtype, fmt = DTYPES[name]
    batch = digits.load().batch(seed, 0, 64)
    ours, our_gradients = run(MLP(seed=seed), RECIPES[name], *batch, scale=1024.0)
    theirs, their_gradients = native(MLP(seed=seed), dtype, *batch, scale=1024.0)
    for a, b in zip([ours, *our_gradients], [theirs, *their_gradients], strict=True):
        assert values_of(fmt, a) and (a != b).float().mean() <= share and distance(a, b) <= ulps * fmt.eps


@pytest.mark.parametrize("name", DTYPES)
def test_a_gpt_agrees_with_the_native_one(name):
    """Fused attention and layer norm round elsewhere inside, and native sums over a batch (biases, norms) are less exact."""
    dtype, fmt = DTYPES[name]
    config = GPTConfig(width=64, layers=2, context=32)
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 128, (4, 33)))
    ours, our_gradients = run(GPT(config, 0), RECIPES[name], ids[:, :-1], ids[:, 1:], scale=1024.0)
    theirs, their_gradients = native(GPT(config, 0), dtype, ids[:, :-1], ids[:, 1:], scale=1024.0)
    exact, exact_gradients = run(GPT(config, 0), RECIPES["fp32"], ids[:, :-1], ids[:, 1:], scale=1024.0)
    assert distance(ours, theirs) <= fmt.eps
    for a, b, c in zip(our_gradients, their_gradients, exact_gradients, strict=True):
        assert values_of(fmt, a) and distance(a, b) <= 4 * fmt.eps
        least = 0.7 if a.dim() > 1 else 0.1
        assert least * distance(b, c) <= distance(a, c) <= 1.6 * distance(b, c)  # about as far from FP32 as the native run


def test_masters_behind_bf16_agree_with_autocast():
    batch = digits.load().batch(0, 0, 64)
    model = MLP()
    before = [p.clone() for p in model.parameters()]
    _, ours = run(model, RECIPES["bf16"], *batch)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before))  # the masters are back
    other = MLP()
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(other(batch[0]).float(), batch[1])
    loss.backward()
    for a, p in zip(ours, other.parameters(), strict=True):
        assert distance(a, p.grad) <= BF16.eps / 4


@pytest.mark.parametrize("seed", range(2))
def test_a_training_run_follows_the_native_one_and_not_fp32(seed):
    """A hundred steps of SGD: pure BF16 emulated and native part by under 0.01, and by more than 0.05 from FP32."""
    losses = {}
    for kind, model in (("emulated", MLP(seed=seed)), ("native", MLP(seed=seed).bfloat16()), ("fp32", MLP(seed=seed))):
        recipe = RECIPES["pure-bf16" if kind == "emulated" else "fp32"]
        losses[kind] = np.zeros(100)
        for step in range(100):
            images, labels = digits.load().batch(seed, step, 64)
            model.zero_grad()
            if kind == "native":
                loss = F.cross_entropy(model(images.bfloat16()).float(), labels)
            else:
                with Emulation(model, recipe):
                    loss = F.cross_entropy(model(images), labels)
            loss.backward()
            with torch.no_grad():
                for p in model.parameters():
                    p.copy_(cast(p.float() - 0.1 * p.grad.float(), FP32 if kind == "fp32" else BF16))
            losses[kind][step] = loss.item()
    assert losses["native"][-1] < losses["native"][0] - 0.05
    assert np.abs(losses["emulated"] - losses["native"]).max() < 0.01
    assert np.abs(losses["emulated"] - losses["fp32"]).max() > 0.05


# ---- role by role


def roles(**formats):
    model = MLP((64, 32, 32, 10))
    logits, gradients = run(model, Recipe("one role", **formats), *digits.load().batch(0, 0, 32))
    return logits, gradients, list(model.parameters())


def test_each_role_changes_what_it_names_and_nothing_else():
    logits, gradients, parameters = roles()
    for role in ("weight_gradients", "activation_gradients", "first_moment", "second_moment"):
        assert torch.equal(roles(**{role: BF16})[0], logits)  # nothing of these is in the forward pass
    _, rounded, _ = roles(weight_gradients=BF16)
    assert all(torch.equal(a, cast(b, BF16)) for a, b in zip(rounded, gradients))  # once, and only at the end
    _, rounded, _ = roles(activation_gradients=BF16)
    assert not any(values_of(BF16, a) for a in rounded[:-1:2])  # weight gradients are sums of products, not rounded
    assert torch.equal(rounded[-1], cast_logit_gradient(BF16).sum(0)) or distance(rounded[-1], cast_logit_gradient(BF16).sum(0)) < 1e-6
    short, _, kept = roles(weights=BF16)
    assert all(values_of(BF16, p) for p in kept) and not torch.equal(short, logits)
    short, _, kept = roles(weights=BF16, master=FP32)
    assert not any(values_of(BF16, p) for p in kept[::2])
    short, _, _ = roles(activations=BF16)
    assert values_of(BF16, short) and not values_of(BF16, logits)


def cast_logit_gradient(fmt):
    images, labels = digits.load().batch(0, 0, 32)
    logits = MLP((64, 32, 32, 10))(images).detach()
    return cast((logits.softmax(1) - F.one_hot(labels, 10)) / 32, fmt)


def test_reductions_have_a_role_of_their_own():
    x, y = digits.load().batch(0, 0, 32)
    model = MLP((64, 10))
    with Emulation(model, Recipe("short sums", reductions=E5M2)):
        assert values_of(E5M2, F.cross_entropy(model(x), y)) and values_of(E5M2, model(x).mean(0))
        assert not values_of(E5M2, model(x))
    with Emulation(model, Recipe("long sums", activations=E5M2)):
        assert not values_of(E5M2, F.cross_entropy(model(x), y)) and not values_of(E5M2, model(x).sum(0))
        statistics = torch.ops.aten.native_layer_norm(x, [64], None, None, 1e-5)
    assert values_of(E5M2, statistics[0]) and not values_of(E5M2, statistics[1]) and not values_of(E5M2, statistics[2])


REDUCTIONS = {
    "log_softmax": lambda x, y: F.log_softmax(x, 1), "sum": lambda x, y: x.sum(0), "mean": lambda x, y: x.mean(0), "var": lambda x, y: x.var(0),
    "std": lambda x, y: x.std(0), "norm": lambda x, y: x.norm(dim=0), "prod": lambda x, y: x.prod(0), "logsumexp": lambda x, y: x.logsumexp(0),
    "cumsum": lambda x, y: x.cumsum(1), "cumsum in place": lambda x, y: x.clone().cumsum_(1), "mse": lambda x, y: F.mse_loss(x, y, reduction="none"),
    "huber": lambda x, y: F.huber_loss(x, y, reduction="none"), "smooth l1": lambda x, y: F.smooth_l1_loss(x, y, reduction="none"),
    "nll": lambda x, y: F.nll_loss(x, torch.tensor([0, 1, 1, 0]), reduction="none"), "bce": lambda x, y: F.binary_cross_entropy(x, y, reduction="none"),
    "bce with logits": lambda x, y: F.binary_cross_entropy_with_logits(x, y, reduction="none"),
    "group norm": lambda x, y: torch.ops.aten.native_group_norm(x, None, None, 4, 2, 1, 1, 1e-5)[1],
    "attention": lambda x, y: torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*[x.view(1, 1, 4, 2)] * 3)[1],
}  # fmt: skip


@pytest.mark.parametrize("name", REDUCTIONS)
def test_a_reduction_is_one_whatever_its_name(name):
    x, y = (torch.linspace(low, 0.9, 8).view(4, 2) for low in (0.3, 0.41))
    for role, short in (("reductions", True), ("activations", False)):
        with Emulation(nn.Identity(), Recipe("short", **{role: E5M2})):
            assert values_of(E5M2, REDUCTIONS[name](x, y)) == short


def test_an_operation_in_place_is_rounded_in_place():
    x, wide = torch.ones(1), torch.ones(1, dtype=torch.float64)
    with Emulation(nn.Identity(), Recipe("short", activations=BF16)):
        same = x.add_(2**-8)
        assert x.item() == same.item() == 1.0 and x is same
        assert (wide * (1 + 2**-9)).item() == 1.0  # float64 tensors too


def test_softmax_is_exact_inside_and_an_activation_outside():
    scores = torch.tensor([[12.0, 0.0, -3.0]])  # exp(12) is beyond FP16
    with Emulation(nn.Identity(), RECIPES["fp16"]):
        assert torch.equal(F.softmax(scores, 1), cast(torch.softmax(scores, 1), FP16))
        assert torch.exp(scores)[0, 0] == float("inf")


def test_a_gradient_that_underflows_is_zero_and_a_scale_saves_it():
    batch = digits.load().batch(0, 0, 64)
    lost = run(MLP(), RECIPES["fp16"], *batch, scale=2.0**-16)[1]
    assert (lost[0] == 0).all()
    saved = run(MLP(), RECIPES["fp16"], *batch, scale=1.0)[1]
    assert (saved[0] != 0).float().mean() > 0.5


def test_overflow_is_infinite_or_saturates_as_told():
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(300.0)
    recipe = Recipe("short", activations=FP16)
    for overflow, end in (("ieee", float("inf")), ("saturate", 65504.0)):
        with Emulation(layer, recipe, overflow=overflow):
            assert layer(torch.tensor([[300.0]])).item() == end
    wide = nn.Linear(1, 1, bias=False)
    for overflow, end in (("ieee", float("inf")), ("saturate", 65504.0)):
        wide.weight.data.fill_(1e6)
        wide.weight.grad = None
        with Emulation(wide, Recipe("all", weights=FP16, weight_gradients=FP16), overflow=overflow):
            assert wide.weight.item() == end
            loss = wide(torch.tensor([[40000.0]])).sum() + wide(torch.tensor([[40000.0]])).sum()
        loss.backward()
        assert wide.weight.grad.item() == end  # each half fits, and their sum does not
    with Emulation(layer, Recipe("e4m3", activations=E4M3)):
        assert layer(torch.tensor([[300.0]])).isnan()


def test_what_the_model_is_called_with_is_rounded_too():
    """1 + 2⁻⁸ is a tie and goes to 1: three times it is 3, and three times the long number would be 3 + 2⁻⁶."""
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(3.0)
    x, emulation = torch.tensor([[1 + 2**-8]], requires_grad=True), Emulation(layer, Recipe("short", activations=BF16, activation_gradients=BF16))
    with emulation:
        y, named, whole = layer(x), layer(input=x), nn.Identity()(torch.arange(3))
    assert y.item() == named.item() == 3.0 and x.item() == 1 + 2**-8 and whole.dtype == torch.int64
    (y * (1 + 2**-8)).sum().backward()
    assert layer.weight.grad.item() == 1 + 2**-8 and x.grad.item() == 3.015625  # 3 + 3/256 is nearer to 3 + 4/256
    assert layer(x).item() == 3 + 3 * 2**-8  # outside nothing is rounded


def test_scalar_weights_have_the_format_of_weights():
    model = nn.Identity()
    model.temperature = nn.Parameter(torch.tensor(1 + 2**-8))
    with Emulation(model, Recipe("short", weights=BF16, weight_gradients=BF16)):
        assert model.temperature.item() == 1.0
        (model.temperature * torch.tensor([1 + 2**-7, 2**-8])).sum().backward()
    assert model.temperature.grad.item() == 1 + 2**-6  # 1 + 3 · 2⁻⁸ is a tie


class Odd(nn.Module):
    """Parts that are built in other ways than from linear layers and sums."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(16, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm1d(8)
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.group = nn.GroupNorm(2, 8)
        self.scale = nn.Parameter(torch.ones(8))
        self.head = nn.Linear(8, 16)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        x = self.embed(ids)
        x = x + self.attention(x, x, x, need_weights=False)[0] * self.scale[:8]
        x = self.norm(self.conv(x.transpose(1, 2)).relu_()).transpose(1, 2)
        x = F.dropout(self.lstm(x)[0], 0.0) + x.clamp(-4, 4)
        return self.head(self.group(x.transpose(1, 2)).transpose(1, 2))


@pytest.mark.parametrize("name", ["pure-bf16", "fp16"])
def test_any_module_runs_and_all_it_stores_is_in_its_format(name):
    fmt = DTYPES[name][1]
    model = Odd()
    deviation = np.random.default_rng(0)
    for p in model.parameters():
        p.data = torch.from_numpy(0.3 * deviation.standard_normal(p.shape)).float()
    ids = torch.from_numpy(deviation.integers(0, 16, (4, 6)))
    handed = []
    for module in model.modules():
        module.register_forward_hook(lambda m, i, out: handed.extend(t for t in (out if isinstance(out, tuple) else [out]) if t is not None and not isinstance(t, tuple)))
    logits, gradients = run(model, RECIPES[name], ids, ids, scale=256.0)
    exact, exact_gradients = run(model, RECIPES["fp32"], ids, ids, scale=256.0)
    assert len(handed) > 12 and all(values_of(fmt, t) for t in handed[: len(handed) // 2])
    assert values_of(fmt, logits) and distance(logits, exact) < 8 * fmt.eps
    assert all(values_of(fmt, g) for g in gradients)


def test_scalars_are_not_shortened():
    with Emulation(nn.Identity(), RECIPES["fp16"]):
        assert (torch.tensor(2.3) * 65536.0).item() == torch.tensor(2.3).item() * 65536.0


def test_it_may_begin_where_no_gradients_are_kept():
    model = MLP((4, 2))
    with torch.no_grad(), Emulation(model, RECIPES["pure-bf16"]):
        out = model(torch.full((1, 4), 1 / 3))
    assert torch.equal(out, out.bfloat16().float()) and not out.requires_grad
