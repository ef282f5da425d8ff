"""Grids on models, gradients and products: equal to the course's integers, function kept where it must be, and the effects of notebook 11."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from course.numerics.integers import integers, nf4
from course.training import RunError, corpus, digits, fp8_runs, quantised, quantised_runs
from course.training.models import GPT, GPTConfig
from course.training.quantised import Grid, Int8Linear, QuantisedLinear, saturating_pairs

SMALL = GPTConfig(width=32, layers=2, context=16)


def normal(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).float()


def codes(*shape, end=127, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(-end, end + 1, shape)).to(torch.int8)


@pytest.fixture(scope="module")
def batches():
    text = corpus.load()
    return [tuple(map(torch.from_numpy, text.batch(0, step, 8, 16))) for step in range(2)]


@pytest.fixture
def model():
    made = GPT(SMALL, seed=0)
    for parameter in made.parameters():  # biases and gains of their own, as after training
        parameter.data += 0.3 * normal(*parameter.shape, seed=parameter.numel()) if parameter.dim() == 1 else 4 * parameter.data
    return made


# ---- the grid


@pytest.mark.parametrize(("block", "theirs"), [("tensor", None), ("row", "row"), (16, (1, 16))])
def test_a_grid_is_that_of_the_integers(block, theirs):
    x = normal(6, 32)
    for symmetric in (True, False):
        assert torch.equal(Grid(4, block, symmetric)(x), integers(x, 4, theirs, symmetric).dequantise())
    assert torch.equal(Grid(levels="nf4", block=16)(x), nf4(x, (1, 16)).dequantise())
    dice = [Grid(4, block, rounding="stochastic")(x, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(dice[0], dice[1]) and not torch.equal(dice[0], dice[2])


def test_a_batch_of_rows_keeps_its_shape_and_trials_have_scales_of_their_own():
    x = normal(3, 4, 8) * torch.tensor([1.0, 100.0, 0.01]).view(3, 1, 1)
    apart = torch.stack([Grid(4, "tensor")(each) for each in x])
    assert torch.equal(Grid(4, "tensor")(x, trials=True), apart)
    assert not torch.equal(Grid(4, "tensor")(x), apart), "without trials the largest of them all counts"
    assert torch.equal(Grid(4, "row")(x, trials=True), Grid(4, "row")(x))


def test_an_unknown_block_is_refused():
    with pytest.raises(RunError, match="column"):
        Grid(block="column")


# ---- gradients


def test_straight_through_rounds_forward_only_and_gradient_on_backward_only():
    x, towards = normal(4, 8).requires_grad_(), normal(4, 8, seed=1)
    out = quantised.straight_through(x, Grid(3))
    (out * towards).sum().backward()
    assert torch.equal(out, Grid(3)(x)) and torch.equal(x.grad, towards)
    x.grad = None
    out = quantised.gradient_on(x, Grid(3))
    (out * towards).sum().backward()
    assert torch.equal(out, x) and torch.equal(x.grad, Grid(3)(towards)) and not torch.equal(x.grad, towards)


# ---- models


def test_only_the_linear_layers_of_blocks_go_onto_the_grid(model, batches):
    before = {name: p.clone() for name, p in model.named_parameters()}
    made = quantised.quantised(model, Grid(4))
    after = dict(made.named_parameters())
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {n for n in before if n.startswith("blocks.") and n.endswith("weight") and "norm" not in n} and len(changed) == 8
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    assert all(len(row.unique()) <= 15 for row in made.blocks[0].widen.weight)


def test_each_grid_is_used_where_it_belongs():
    linear, x = nn.Linear(8, 6), normal(5, 8).requires_grad_()
    by = lambda **grids: QuantisedLinear(linear, **grids)(x)  # noqa: E731
    assert torch.equal(by(), linear(x))
    assert torch.allclose(by(weights=Grid(3)), nn.functional.linear(x, Grid(3)(linear.weight), linear.bias))
    assert torch.allclose(by(activations=Grid(3)), linear(Grid(3)(x)))
    (by(gradients=Grid(2)) * normal(5, 6)).sum().backward()
    assert torch.allclose(x.grad, Grid(2)(normal(5, 6)) @ linear.weight)


def test_errors_are_zero_where_nothing_changed_and_appear_where_something_did(model, batches):
    assert set(quantised.layer_errors(model, quantised.quantised(model), batches[0][0]).values()) == {0.0}
    forward = quantised.layer_errors(model, quantised.quantised(model, activations=Grid(4)), batches[0][0])
    assert forward["blocks.0.attention_norm"] == 0 < forward["blocks.0.attention.qkv"] and 0 < forward["head"] < 1
    assert set(forward) > {"blocks.0", "blocks.1", "norm", "blocks.1.widen"}
    back = quantised.quantised(model, gradients=Grid(4))
    assert set(quantised.layer_errors(model, back, batches[0][0]).values()) == {0.0}
    errors = quantised.gradient_errors(model, back, *batches[0])
    assert min(errors.values()) > 0 and list(errors)[0] == "blocks.0.attention.qkv" and len(errors) == 8
    assert set(quantised.gradient_errors(model, quantised.quantised(model), *batches[0]).values()) == {0.0}
    assert model.head.weight.grad is None


def test_a_planted_outlier_changes_the_channel_and_not_the_function(model, batches):
    made = quantised.plant_outlier(model, 3, 50.0)
    assert torch.allclose(made(batches[0][0]), model(batches[0][0]), rtol=1e-3, atol=1e-4)
    ratio = [quantised.activation_amax(each, batches)[each.blocks[1].widen] for each in (made, model)]
    assert ((ratio[0] / ratio[1])[[2, 3]] - torch.tensor([1.0, 50.0])).abs().max() < 0.01


def test_smoothing_evens_the_channels_out_and_keeps_the_function(model, batches):
    model = quantised.plant_outlier(model)
    made = quantised.smoothed(model, batches)
    assert torch.allclose(made(batches[0][0]), model(batches[0][0]), rtol=1e-3, atol=1e-4)
    seen, layer = quantised.activation_amax(made, batches), made.blocks[0].widen
    assert torch.allclose(seen[layer], layer.weight.abs().amax(0), rtol=1e-4)
    assert torch.equal(quantised.smooth_factors(torch.tensor([0.0, 4.0, 9.0]), torch.tensor([1.0, 0.0, 1.0])), torch.tensor([1.0, 1.0, 3.0]))
    strengths = [quantised.smooth_factors(torch.tensor([100.0]), torch.tensor([4.0]), s).item() for s in (0.0, 1.0)]
    assert strengths == [0.25, 100.0]


def test_the_largest_of_all_batches_counts(model, batches):
    each, found = [quantised.activation_amax(model, [batch]) for batch in batches], quantised.activation_amax(model, batches)
    assert len(found) == 8 and all(torch.equal(found[layer], torch.maximum(each[0][layer], each[1][layer])) for layer in found)
    assert any((each[0][layer] > each[1][layer]).any() for layer in found) and any((each[0][layer] < each[1][layer]).any() for layer in found)


def test_perplexity_comes_from_the_mean_of_the_batches(model, batches):
    assert quantised.validation_loss(model, batches) == pytest.approx(
        np.mean([quantised.validation_loss(model, [batch]) for batch in batches]), rel=1e-6)


# ---- INT8 products


def by_hand(a, b):
    total = 0
    for i in range(0, len(a), 2):
        pair = sum((int(x) + 128) * int(y) for x, y in zip(a[i : i + 2], b[i : i + 2]))
        total += max(-32768, min(32767, pair)) - 128 * sum(int(y) for y in b[i : i + 2])
    return total


def test_saturating_pairs_by_hand():
    a, b = codes(3, 10), codes(4, 10, seed=1)
    assert saturating_pairs(a, b).tolist() == [[by_hand(x, y) for y in b] for x in a]
    assert not torch.equal(saturating_pairs(a, b), a.long() @ b.long().T)
    low = torch.full((1, 10), -128, dtype=torch.int8)
    for x in (a, low, codes(2, 10, end=128 - 1)):
        b = codes(4, 10, end=64, seed=2)
        assert torch.equal(saturating_pairs(x, b), x.long() @ b.long().T)


@pytest.mark.parametrize("shape", [(1, 64, 16), (33, 128, 48)], ids=str)
def test_the_product_of_this_machine_is_one_of_the_two(shape):
    rows, inner, out = shape
    for end in (64, 127):
        a, b = codes(rows, inner), codes(out, inner, end=end, seed=1)
        exact, found = a.long() @ b.long().T, torch._int_mm(a, b.T).long()
        assert torch.equal(found, exact) or end == 127 and torch.equal(found, saturating_pairs(a, b))


def test_the_real_layer_is_the_emulated_one():
    linear, x = nn.Linear(64, 32), normal(2, 5, 64)
    real, emulated = Int8Linear(linear, bits=7)(x), QuantisedLinear(linear, Grid(7), Grid(8))(x)
    assert real.shape == (2, 5, 32) and torch.allclose(real, emulated, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(emulated, linear(x), rtol=1e-4, atol=1e-5) and Int8Linear(linear).weight.abs().max() == 127
    assert Int8Linear(linear, bits=7).weight.abs().max() == 63
    assert torch.equal(Int8Linear(linear)(torch.zeros(1, 64)), linear.bias.view(1, -1))


# ---- training


@pytest.fixture(scope="module")
def data():
    return digits.load()


def test_seeds_do_not_know_of_each_other(data):
    grid = Grid(4, "tensor")
    both = quantised_runs.train(data, (0, 1), 5, gradient=grid, weights=grid)
    alone = quantised_runs.train(data, (1,), 5, gradient=grid, weights=grid)
    assert torch.allclose(both.losses[:, 1], alone.losses[:, 0], rtol=1e-4)


def test_one_step_is_that_of_torch(data):
    trained = quantised_runs.train(data, (7,), steps=1)
    weight = quantised_runs._first([7], data, (64, 64, 64))[0][0][0].requires_grad_()
    assert weight.abs().max() < (6 / 64) ** 0.5
    images, labels = data.batch(7, 0, 64)
    layers = [(w[0].requires_grad_(), b[0]) for w, b in quantised_runs._first([7], data, (64, 64, 64))]
    x = images
    for i, (w, b) in enumerate(layers):
        x = x @ w.T + b
        x = x.relu() if i < 3 else x
    loss = nn.functional.cross_entropy(x, labels)
    loss.backward()
    assert trained.losses[0, 0].item() == pytest.approx(loss.item(), rel=1e-5)
    moved = trained.layers[0][0][0] - weight.detach()
    clear = layers[0][0].grad.abs() > 1e-5
    assert torch.equal(moved.sign()[clear], -layers[0][0].grad.sign()[clear]) and moved.abs().max() < 2.1e-3


def test_going_on_takes_new_batches_and_leaves_the_start_alone(data):
    start = quantised_runs.train(data, (0,), 3)
    kept = start.layers[0][0].clone()
    more = quantised_runs.train(data, (0,), 3, start=start)
    assert torch.equal(start.layers[0][0], kept) and not torch.equal(more.layers[0][0], kept)
    new, drawn = (start.loss(*data.batch(0, step, 64))[0] for step in (10**6, 0))
    assert more.losses[0, 0].item() == pytest.approx(new, rel=1e-5) and new != pytest.approx(drawn, rel=1e-4)


def test_four_bits_break_with_one_scale_and_dice_rescue(data):
    final = lambda *args: quantised_runs.train(data, range(3), gradient=Grid(*args)).final  # noqa: E731
    fp32 = quantised_runs.train(data, range(3)).final
    nearest, dice = final(4, "tensor"), final(4, "tensor", True, "stochastic")
    assert (nearest > 1.5 * fp32).all() and (dice < 0.8 * nearest).all()
    assert (abs(final(8, "tensor") / fp32 - 1) < 0.25).all()


def test_training_on_the_grid_adapts_to_it(data):
    grid, test = Grid(2, "tensor"), (data.test_images, data.test_labels)
    start = quantised_runs.train(data, range(3))
    longer, aware = (quantised_runs.train(data, range(3), 150, 1e-3, start=start, weights=g) for g in (None, grid))
    assert (aware.loss(*test, grid) < 0.5).all() and (longer.loss(*test, grid) > 1.5).all() and (start.loss(*test) < 0.1).all()


# ---- depth


def test_errors_grow_through_plain_layers_and_hardly_through_residual_ones():
    plain, residual = (quantised_runs.through_depth(kind, Grid(8, "tensor"), depth=16, width=64) for kind in ("plain", "residual"))
    assert len(plain[0]) == len(plain[1]) == 16
    assert plain[0][0] == pytest.approx(0.01, rel=0.5) and plain[0][-1] > 3 * plain[0][0] and plain[1][0] > 3 * plain[1][-1]
    assert residual[0][-1] < plain[0][-1] / 3 and residual[1][0] < plain[1][0] / 3
    assert max(quantised_runs.through_depth("plain", Grid(8), depth=4, width=16)[0]) < 0.1
    with pytest.raises(RunError, match="dense"):
        quantised_runs.through_depth("dense", Grid())


# ---- the record


def test_a_record_goes_on_where_it_ended(tmp_path, monkeypatch):
    path, todo, trained = tmp_path / "runs.json", [("FP32", 0), ("INT4, rows", 1)], []
    monkeypatch.setattr(quantised_runs, "fit_gpt", lambda *args: trained.append(args) or [3.0] * 10 + [2.0] * 10)
    quantised_runs.record(path, 20, todo[:1])
    quantised_runs.record(path, 20, todo)
    assert [(name, seed) for name, _, seed, _ in trained] == todo
    assert quantised_runs.load(path) == {"FP32": pytest.approx([2.5]), "INT4, rows": pytest.approx([2.5])}
    monkeypatch.setattr(quantised_runs, "LR", 5.0)
    with pytest.raises(ValueError, match="another configuration"):
        quantised_runs.record(path, 20, todo)


def test_the_record_is_whole_and_says_where_it_comes_from():
    record = json.loads(quantised_runs.RECORD.read_text(encoding="utf-8"))
    names = ["FP32", "frozen", *quantised_runs.GRIDS]
    assert [(run["name"], run["seed"]) for run in record["runs"]] == [(name, seed) for seed in quantised_runs.SEEDS for name in names]
    assert all(len(run["losses_by_tens"]) == quantised_runs.STEPS // 10 and np.isfinite(run["losses_by_tens"]).all() for run in record["runs"])
    assert record["execution"] == "emulated" and {"torch", "python"} <= record["versions"].keys() and len(names) == 14
    assert len(record["corpus"]["sha256"]) == 64 and record["configuration"]["lr"] == quantised_runs.LR and record["hardware"]["cpu"]


def test_the_record_can_be_made_again():
    """The first twenty steps of a run: another Python's library is another text, as far apart as another seed."""
    text, name = corpus.load(), "INT2, one scale"
    record = json.loads(quantised_runs.RECORD.read_text(encoding="utf-8"))
    recorded = next(run["losses_by_tens"][:2] for run in record["runs"] if (run["name"], run["seed"]) == (name, 0))
    same = text.as_dict()["sha256"] == record["corpus"]["sha256"]
    assert fp8_runs.tens(quantised_runs.fit_gpt(name, text, 0, 20)) == pytest.approx(recorded, abs=0.02 if same else 0.3)
    fp32 = fp8_runs.tens(quantised_runs.fit_gpt("FP32", text, 0, 20))
    assert abs(fp32[1] - recorded[1]) > 0.05, "a run in FP32 would not pass"


def test_a_gpt_trains_on_the_grid_it_is_told_and_frozen_blocks_stay():
    text, first = corpus.load(), GPT(quantised_runs.SHAPE, 0)
    model = quantised_runs.gpt(0, "frozen")
    fp8_runs.fit(model, text, 0, 2)
    assert torch.equal(model.blocks[0].widen.weight, first.blocks[0].widen.weight) and not torch.equal(model.head.weight, first.head.weight)
    grid = quantised_runs.GRIDS["INT4, rows, dice"]
    assert grid == Grid(4, "row", rounding="stochastic") and quantised_runs.gpt(0, grid).blocks[1].narrow.gradients == grid
    with pytest.raises(RunError, match="INT5"):
        quantised_runs.fit_gpt("INT5", text, 0)
