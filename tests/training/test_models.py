"""The GPT: causal, equal to a second implementation in numpy, its gradient equal to finite differences."""

import math

import numpy as np
import pytest
import torch

from course.training import RunError
from course.training.models import GPT, GPTConfig, loss_of

CONFIG = GPTConfig(vocabulary=11, width=12, layers=2, context=7, heads=3)
IDS = torch.from_numpy(np.random.default_rng(0).integers(0, 11, (2, 7)))


def gpt(**changes):
    """A small GPT in float64 with weights large enough that every part of it matters."""
    model = GPT(GPTConfig(**{**vars(CONFIG), **changes}), seed=1).double()
    generator = np.random.default_rng(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.from_numpy(0.3 * generator.standard_normal(parameter.shape)))
    return model


def reference(model, ids):
    """The same function once more, in numpy, one sequence and one head at a time."""
    w = {name: p.detach().numpy() for name, p in model.named_parameters()}

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    gelu = np.vectorize(lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))))
    heads, size = model.config.head_count, model.config.width // model.config.head_count
    x = w["tokens.weight"][ids] + w["positions.weight"][: len(ids)]
    for i in range(model.config.layers):
        name = f"blocks.{i}"
        qkv = linear(norm(x, f"{name}.attention_norm"), f"{name}.attention.qkv")
        q, k, v = (part.reshape(len(ids), heads, size) for part in np.split(qkv, 3, axis=-1))
        mixed = np.zeros((len(ids), heads, size))
        for head in range(heads):
            for t in range(len(ids)):
                scores = k[: t + 1, head] @ q[t, head] / math.sqrt(size)
                weights = np.exp(scores - scores.max())
                mixed[t, head] = weights / weights.sum() @ v[: t + 1, head]
        x = x + linear(mixed.reshape(len(ids), -1), f"{name}.attention.out")
        x = x + linear(gelu(linear(norm(x, f"{name}.mlp_norm"), f"{name}.widen")), f"{name}.narrow")
    return norm(x, "norm") @ model.head.weight.detach().numpy().T


@pytest.mark.parametrize("tied", [False, True])
def test_equals_the_reference(tied):
    model = gpt(tied=tied)
    with torch.no_grad():
        logits = model(IDS).numpy()
    for row in range(2):
        np.testing.assert_allclose(logits[row], reference(model, IDS[row].numpy()), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("tied", [False, True])
def test_the_count_of_parameters(tied):
    model = gpt(tied=tied)
    assert model.config.parameters == sum(p.numel() for p in model.parameters())


def test_no_position_sees_the_future():
    model = gpt()
    with torch.no_grad():
        before = model(IDS)
        for place in range(7):
            changed = IDS.clone()
            changed[:, place] = (changed[:, place] + 1) % 11
            after = model(changed)
            assert torch.equal(before[:, :place], after[:, :place])
            assert not torch.allclose(before[:, place:], after[:, place:])


def test_gradient_equals_finite_differences():
    model = gpt()
    targets = IDS.flip(0)

    def loss():  # in float64: `loss_of` would round to FP32
        return torch.nn.functional.cross_entropy(model(IDS).flatten(0, 1), targets.flatten())

    loss().backward()
    generator = np.random.default_rng(3)
    for name, parameter in model.named_parameters():
        direction = torch.from_numpy(generator.standard_normal(parameter.shape))
        slope = (parameter.grad * direction).sum().item()
        ends = []
        with torch.no_grad():
            for sign in (1, -2):  # +h, then back to -h
                parameter.add_(sign * 1e-5 * direction)
                ends.append(loss().item())
            parameter.add_(1e-5 * direction)
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(slope, rel=1e-5, abs=1e-8), name


def test_weights_come_from_the_seed_alone():
    torch.manual_seed(1)
    first = GPT(CONFIG, seed=5).state_dict()
    torch.manual_seed(2)
    second, other = GPT(CONFIG, seed=5).state_dict(), GPT(CONFIG, seed=6).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["tokens.weight"], other["tokens.weight"])


def test_first_weights_are_smaller_where_layers_add_to_the_stream():
    model = GPT(GPTConfig(width=64, layers=8, context=32), seed=0)
    for name, p in model.named_parameters():
        if p.dim() == 1:
            assert p.eq(1.0 if "norm.weight" in name else 0.0).all(), name
            continue
        wanted = 0.02 / 4 if name.endswith(("attention.out.weight", "narrow.weight")) else 0.02  # sixteen additions: √16
        assert p.std().item() == pytest.approx(wanted, rel=0.05), name


def test_initial_loss_is_that_of_guessing():
    model = GPT(GPTConfig(width=64, layers=2, context=32), seed=0)
    ids = torch.from_numpy(np.random.default_rng(4).integers(0, 128, (4, 33)))
    assert loss_of(model, ids[:, :-1], ids[:, 1:]).item() == pytest.approx(math.log(128), abs=0.1)


def test_loss_is_fp32_whatever_the_weights():
    model = GPT(CONFIG, seed=0).bfloat16()
    assert loss_of(model, IDS, IDS).dtype == torch.float32


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ({"width": 200}, "width 200 does not divide into 3 heads: use a multiple of 64"),
        ({"width": 12, "heads": 5}, "width 12 does not divide into 5 heads"),
        ({"width": 0}, "width 0 is no size"),
        ({"layers": 0}, "layers 0 is no size"),
        ({"context": -1}, "context -1 is no size"),
    ],
)
def test_an_impossible_shape_is_named(shape, words):
    with pytest.raises(RunError, match=words):
        GPTConfig(**shape)
