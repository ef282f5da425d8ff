"""Emulated precision in the graph: every operation's gradient is rounded once, by its own recipe, and nothing stays behind."""

import gc

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course.numerics import BF16, E5M2, FP32
from course.numerics.rounding import cast
from course.training import RunError, digits
from course.training.emulation import Emulation
from course.training.models import MLP
from course.training.recipes import RECIPES, Recipe
from tests.training.test_emulation import one_thread, run, values_of  # noqa: F401


@pytest.mark.parametrize("after", ["nothing", "another recipe"])
def test_a_graph_that_is_still_there_rounds_no_gradients_but_its_own(after):
    """The ends of a graph live as long as any graph that leads to them, and a loss that a variable still names is one."""
    x, y = digits.load().batch(0, 0, 16)
    model = MLP((64, 10))
    with Emulation(model, Recipe("short", weight_gradients=E5M2)):
        kept = F.cross_entropy(model(x), y)
    kept.backward(retain_graph=True)
    assert all(values_of(E5M2, p.grad) for p in model.parameters())
    torch.autograd.grad(kept, list(model.parameters()), retain_graph=True)  # it goes by the ends, and leaves nothing there
    exact = run(MLP((64, 10)), RECIPES["fp32"], x, y)[1]
    model.zero_grad()
    if after == "nothing":
        F.cross_entropy(model(x), y).backward()
        assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), exact))
    else:
        run(model, Recipe("longer", weight_gradients=BF16), x, y)
        assert all(torch.equal(p.grad, cast(g, BF16)) for p, g in zip(model.parameters(), exact))
    model.zero_grad()
    kept.backward()  # and its own gradients are still rounded
    assert all(torch.equal(p.grad, cast(g, E5M2)) for p, g in zip(model.parameters(), exact))


class Bare(nn.Module):
    """Layers of which autograd saves the weight itself, and not a view of it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv1d(2, 4, 3, padding=1), nn.LayerNorm(8)
        self.matrix, self.gain = nn.Parameter(torch.empty(8, 8)), nn.Parameter(torch.empty(8))
        for i, p in enumerate(self.parameters()):
            p.data = torch.from_numpy(np.random.default_rng(i).uniform(0.5, 1.5, p.shape)).float()

    def forward(self, x):
        return (self.norm(self.conv(x)) @ self.matrix) * self.gain


def through_bare(where):
    model, x = Bare(), torch.linspace(-1, 1, 32).view(2, 2, 8).requires_grad_()
    with Emulation(model, Recipe("with masters", weights=E5M2, master=FP32)):
        loss = model(x).square().sum()
        if where == "inside":
            loss.backward()
    if where == "outside":
        loss.backward()
    return [x.grad, *(p.grad for p in model.parameters())]


def test_backward_reads_the_short_weights_also_when_the_masters_are_back():
    for inside, outside in zip(through_bare("inside"), through_bare("outside"), strict=True):
        assert torch.equal(inside, outside)


def test_hooks_on_saved_tensors_go_on():
    seen = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: seen.append(tensor) or tensor, lambda tensor: tensor):
        outside = through_bare("outside")
    assert len(seen) >= 8 and all(torch.equal(a, b) for a, b in zip(outside, through_bare("inside"), strict=True))


def test_a_step_between_forward_and_backward_is_refused_as_by_torch():
    model = Bare()
    for recipe, error, words in (("bf16", RunError, "changed in place.*call backward before"), ("pure-bf16", RuntimeError, "modified by an inplace operation")):
        with Emulation(model, RECIPES[recipe]):
            loss = model(torch.ones(1, 2, 8)).sum()
        with torch.no_grad():
            model.gain += 1
        with pytest.raises(error, match=words):
            loss.backward()


class Heard(torch.autograd.Function):
    """Passes a number on, and writes down the gradient that its node receives."""

    @staticmethod
    def forward(ctx, x, arrived):
        ctx.arrived = arrived
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.arrived.append(gradient.item())
        return gradient, None


class Longer(torch.autograd.Function):
    """An operation of one's own, whose gradient is 1 + 2⁻⁹."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * (1 + 2**-9)


def fill(h):
    y = torch.zeros(1, 1)
    y[0] = (h * (1 + 2**-9))[0]  # a call that returns nothing
    return y


@pytest.mark.parametrize("operation", [Longer.apply, fill, lambda h: h.expand(3, 1) * torch.tensor([[1.0], [2**-10], [2**-10]])],
                         ids=["an operation of one's own", "an assignment", "a sum over copies"])  # fmt: skip
@pytest.mark.parametrize("others", [False, True], ids=["alone", "and others after it"])
def test_no_operation_escapes(operation, others):
    arrived = []
    with Emulation(nn.Identity(), Recipe("short", activation_gradients=BF16)):
        h = torch.ones(1, 1, requires_grad=True) * 1.0
        h.register_hook(lambda gradient: arrived.append(gradient.item()))
        y = operation(h)
        if others:
            torch.ones(1, requires_grad=True) * 2.0
        loss = (y * 1.0).sum()
    loss.backward()
    assert arrived == [1.0]


@pytest.mark.parametrize("recipe", [RECIPES["pure-bf16"], Recipe("coarse activations", activations=E5M2, activation_gradients=BF16)], ids=lambda recipe: recipe.name)
def test_backward_may_be_called_inside_outside_and_later(recipe):
    batch = digits.load().batch(0, 0, 32)
    found = []
    for where in ("inside", "outside", "later"):
        model = MLP((64, 32, 10))
        emulation = Emulation(model, recipe)
        with emulation:
            loss = F.cross_entropy(model(batch[0]), batch[1])
            if where == "inside":
                loss.backward()
        if where == "later":
            with emulation, torch.no_grad():
                model(batch[0])
        if where != "inside":
            loss.backward()
        found.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other))


def test_what_arrives_from_two_sides_is_rounded_apiece_and_together():
    model, arrived = nn.Identity(), []
    x = torch.tensor([[1.0]], requires_grad=True)
    with Emulation(model, Recipe("short", activation_gradients=BF16)):
        h = Heard.apply(x, arrived)
        y = h * (1 + 2**-8) + h * (1 + 2**-8) + h * 2**-7  # each 1 + 2⁻⁸ is a tie and rounds to 1
    y.sum().backward()
    assert arrived == [2.0] and x.grad.item() == 2.0  # 2 + 2⁻⁷ is a tie too; unrounded parts would have given 2 + 2⁻⁶


ODD = 1 + 2**-9  # no value of BF16 nor of E5M2


@pytest.mark.parametrize("way", [lambda w: w, lambda w: w.t(), lambda w: w.view(4), lambda w: w.clone(), lambda w: w[0], lambda w: w.unsqueeze(0), lambda w: w.split(1)[0]])
def test_a_weights_gradient_is_one_however_it_is_looked_at(way):
    for role, values in (("activation_gradients", ODD), ("weight_gradients", 1.0)):
        model = nn.Linear(2, 2, bias=False)
        with Emulation(model, Recipe("short", **{role: BF16})):
            seen = way(model.weight)
            loss = (seen * torch.full(seen.shape, ODD)).sum()
        loss.backward()
        assert set(model.weight.grad.flatten().tolist()) <= {values, 0.0}


@pytest.mark.parametrize("name", ["log_softmax", "sum", "mean", "var", "std", "cumsum", "prod", "logsumexp", "norm"])
def test_the_gradient_of_a_reductions_result_has_its_role(name):
    for role, values in (("reductions", 1.0), ("activation_gradients", ODD)):
        arrived = []
        with Emulation(nn.Identity(), Recipe("short", **{role: BF16})):
            y = getattr(torch, name)(torch.tensor([[1.0, 2.0]], requires_grad=True) * 1.0, dim=1)
            y.register_hook(lambda gradient: arrived.extend(gradient.flatten().tolist()))
            loss = (y * torch.full(y.shape, ODD)).sum()
        loss.backward()
        assert set(arrived) == {values}


def test_a_graph_from_before_is_left_alone():
    x = torch.ones(1, 1, requires_grad=True)
    before = x * ODD
    with Emulation(nn.Identity(), Recipe("short", activation_gradients=BF16)):
        loss = (before * 1.0).sum()
    loss.backward()
    assert x.grad.item() == ODD


def test_results_of_several_tensors_are_hooked_too():
    arrived = []
    with Emulation(nn.Identity(), Recipe("short", activation_gradients=BF16)):
        h = torch.ones(1, 3, requires_grad=True) * 1.0
        h.register_hook(arrived.append)
        _, mean = torch.var_mean(h, 1)
    mean.sum().backward()
    assert torch.equal(arrived[0], cast(torch.full((1, 3), 1 / 3), BF16))


class Nothing(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def test_a_weight_without_a_gradient_stays_without():
    model, x = nn.Linear(1, 1, bias=False), torch.ones(1, 1, requires_grad=True)
    with Emulation(model, RECIPES["pure-bf16"]):
        loss = Nothing.apply(x, model.weight).sum()
    loss.backward()
    assert model.weight.grad is None and x.grad.item() == 1.0


def test_shared_weights_and_accumulation_round_what_is_stored():
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    emulation = Emulation(model, Recipe("short", weight_gradients=BF16))
    for expected in (256.0, 256.0, 256.0):  # 256 + 1 is a tie in BF16, and goes back to 256
        with emulation:
            y = model(torch.tensor([[256.0 if model.weight.grad is None else 1.0]]))
            y.sum().backward()
        assert model.weight.grad.item() == expected
    model.weight.grad = None
    with emulation:
        y = model(torch.tensor([[256.0]])) + model(torch.tensor([[1.0]]))
    y.sum().backward()
    assert model.weight.grad.item() == 256.0


def test_nothing_piles_up():
    model = MLP((64, 32, 10))
    batch = digits.load().batch(0, 0, 8)
    emulation = Emulation(model, RECIPES["fp16"])
    counts = []
    for _ in range(6):
        model.zero_grad()
        with emulation:
            F.cross_entropy(model(batch[0]), batch[1]).backward()
        gc.collect()
        counts.append(len(gc.get_objects()))
    assert counts[-1] - counts[-2] < 20


def test_mistakes_are_told():
    emulation = Emulation(MLP((4, 2)), RECIPES["fp16"])
    with pytest.raises(RunError, match="already on"), emulation:
        emulation.__enter__()
    with emulation:  # and it is off again after the error
        pass
    with pytest.raises(RunError, match="torch.bfloat16.*float32 model"), Emulation(MLP((4, 2)).bfloat16(), RECIPES["fp16"]):
        pass


def test_parameters_come_back_after_an_error():
    model = MLP((4, 2))
    before = model.layers[0].weight.detach().clone()
    with pytest.raises(ZeroDivisionError), Emulation(model, RECIPES["bf16"]):
        raise ZeroDivisionError
    assert torch.equal(model.layers[0].weight, before) and not model._forward_pre_hooks
    assert torch.equal(torch.tensor([1 / 3]) * 1, torch.tensor([1 / 3]))  # and no mode is left on
