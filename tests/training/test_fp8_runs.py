"""Runs under FP8 recipes: what is trained, what is recorded, and that the record holds what the course says of it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from course.training import RunError, corpus, fp8_runs
from course.training.fp8 import RECIPES, compare
from course.training.hardware import Device
from course.training.models import GPT, GPTConfig, loss_of

TINY = GPTConfig(width=128, layers=1, context=32)


@pytest.fixture(scope="module")
def text():
    return corpus.load()


def losses(model, text, **options):
    return fp8_runs.fit(model, text, 0, 4, batch=4, **options)


def test_the_share_of_the_loss_moves_unscaled_runs_only(text):
    plain = losses(GPT(TINY, 0), text)
    assert losses(GPT(TINY, 0), text, share=2.0**-8) == pytest.approx(plain, abs=1e-3) and len(plain) == 4
    for name, apart in (("current E4M3 / E5M2", False), ("unscaled E4M3 / E5M2", True)):
        whole, part = (losses(fp8_runs.prepare(name, TINY), text, share=share) for share in (1.0, 2.0**-8))
        assert (abs(whole[-1] - part[-1]) > 0.01) is apart


def test_a_frozen_run_trains_the_rest_only(text):
    model, first = fp8_runs.prepare("frozen", TINY), GPT(TINY, 0)
    losses(model, text)
    for (name, new), old in zip(model.named_parameters(), first.parameters()):
        frozen = any(layer in name for layer in ("qkv", "attention.out", "widen", "narrow"))
        assert torch.equal(new, old) is frozen, name


def test_runs_differ_by_the_recipe_and_nothing_else(text):
    assert losses(fp8_runs.prepare("FP32", TINY), text) == losses(fp8_runs.prepare("FP32", TINY), text)
    assert losses(fp8_runs.prepare("NVFP4", TINY), text) == losses(fp8_runs.prepare("NVFP4", TINY), text)  # dice too
    assert losses(fp8_runs.prepare("BF16 autocast", TINY), text, autocast=True) != losses(fp8_runs.prepare("FP32", TINY), text)
    with pytest.raises(RunError, match="no recipe 'FP6'"):
        fp8_runs.prepare("FP6", TINY)


def test_operands_are_those_of_the_products(text):
    model, batch = GPT(TINY, 0), tuple(map(torch.from_numpy, text.batch(0, 0, 4, 32)))
    found = fp8_runs.operands(model, "blocks.0.attention.qkv", *batch)
    assert {role: tuple(x.shape) for role, x in found.items()} == {"activation": (128, 128), "weight": (384, 128), "gradient": (128, 384)}
    layer = model.blocks[0].attention.qkv
    assert layer.weight.grad is None and not layer._forward_pre_hooks and not layer._backward_hooks
    loss_of(model, *batch).backward()
    torch.testing.assert_close(layer.weight.grad, found["gradient"].T @ found["activation"])
    assert compare(layer.weight.grad, layer.weight.grad)[0] == pytest.approx(1)
    halved = fp8_runs.operands(model, "blocks.0.attention.qkv", *batch, share=0.5)
    assert torch.equal(2 * halved["gradient"], found["gradient"])


@pytest.mark.parametrize(("kind", "native"), [("cpu", ("fp32", "bf16")), ("cpu", ("fp8",)), ("cuda", ("fp32", "bf16"))])
def test_without_fp8_circuits_nothing_is_claimed(text, kind, native):
    assert fp8_runs.on_this_device(text, Device(kind, "a device", None, (), None, None, native, ())).startswith("no FP8 products")


@pytest.mark.gpu
def test_fp8_products_in_hardware_come_near_the_emulated_ones(text):
    from course.training.hardware import probe

    device = probe().device
    if "fp8" not in device.native:
        pytest.skip("this GPU multiplies no FP8")
    words = fp8_runs.on_this_device(text, device).split()
    native, emulated = float(words[4]), float(words[-2])
    assert native == pytest.approx(emulated, abs=0.02)


# ---- the record


def test_a_record_goes_on_where_it_ended(tmp_path, monkeypatch):
    path, todo = tmp_path / "runs.json", [("FP32", 1.0, 0), ("unscaled E4M3 / E4M3", 0.0625, 1)]
    trained = []
    monkeypatch.setattr(fp8_runs, "train", lambda *args: trained.append(args) or [3.0] * 10 + [2.0] * 10)
    fp8_runs.record(path, 20, todo[:1])
    fp8_runs.record(path, 20, todo)
    assert [(name, seed, share) for name, _, seed, _, share in trained] == [("FP32", 0, 1.0), ("unscaled E4M3 / E4M3", 1, 0.0625)]
    assert fp8_runs.load(path) == {("FP32", 1.0): [[3.0, 2.0]], ("unscaled E4M3 / E4M3", 0.0625): [[3.0, 2.0]]}
    monkeypatch.setattr(fp8_runs, "LR", 5.0)
    with pytest.raises(ValueError, match="another configuration"):
        fp8_runs.record(path, 20, todo)


def test_the_record_is_whole_and_says_where_it_comes_from():
    record = json.loads(fp8_runs.RECORD.read_text(encoding="utf-8"))
    assert [(run["name"], run["share"], run["seed"]) for run in record["runs"]] == fp8_runs.wanted()
    assert all(len(run["losses_by_tens"]) == fp8_runs.STEPS // 10 and np.isfinite(run["losses_by_tens"]).all() for run in record["runs"])
    assert record["execution"].startswith("emulated") and {"torch", "torchao", "python"} <= record["versions"].keys()
    assert len(record["corpus"]["sha256"]) == 64 and record["configuration"]["steps"] == fp8_runs.STEPS and record["hardware"]["cpu"]


def test_the_final_loss_is_the_mean_of_the_last_thirty():
    assert fp8_runs.final([9.0] * 12 + [1.0, 2.0, 6.0]) == 3.0


def test_the_record_can_be_made_again(text):
    """The first twenty steps of a run: another Python's library is another text, as far apart as another seed."""
    here, recorded = fp8_runs.tens(fp8_runs.train("unscaled E4M3 / E4M3", text, 0, 20)), fp8_runs.load()["unscaled E4M3 / E4M3", 1.0][0][:2]
    same = text.as_dict()["sha256"] == json.loads(fp8_runs.RECORD.read_text())["corpus"]["sha256"]
    assert here == pytest.approx(recorded, abs=0.01 if same else 0.3)


def test_what_the_course_says_of_the_record():
    final = {key: np.array([fp8_runs.final(curve) for curve in curves]) for key, curves in fp8_runs.load().items()}
    over = {name: final[name, 1.0] - final["FP32", 1.0] for name, share in final if share == 1.0}
    half = np.ptp(final["FP32", 1.0]) / 2
    short = [name for name, recipe in RECIPES.items() if recipe.forward.bits == 8 and recipe.scaling != "unscaled"]
    assert len(short) == 7 and all(abs(over[name]).max() < half for name in [*short, "torchao tensorwise", "torchao rowwise", "BF16 autocast"])
    assert np.array_equal(final["torchao tensorwise", 1.0], final["current E4M3 / E5M2", 1.0])
    assert (over["frozen"] > 0.04).all() and (over["unscaled E4M3 / E4M3"] > 0.3).all()
    assert replace(RECIPES["MXFP8"], name="MXFP8, floor", rule="floor") == RECIPES["MXFP8, floor"]
