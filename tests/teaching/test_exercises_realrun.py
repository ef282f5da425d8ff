"""Exercises of notebook 08: their helpers, the decisions against the course's own, natural variants of the mistakes."""

import statistics

import pytest
import torch

from course.teaching.exercises import EXERCISES, examine
from course.teaching.exercises.realrun import GPUS, PROFILE, Device, Parts, choose, predicted_gain, train, utilisation
from course.training import recipes
from course.training.models import GPT, GPTConfig
from course.training.roofline import amdahl, step_flops
from tests.training.test_recipes import DEVICES
from tests.training.test_hardware import machine


def test_the_loops_cases_overflow_where_they_are_meant_to():
    for case, scales in zip(EXERCISES["08-5"].cases, ({1024.0, 2048.0}, None, None, None, None)):
        weights, scale = train(*case)
        assert all(w == w and abs(w) < 10 for w in weights) and (scales is None or scale in scales)
    ends = [train(*case)[1] / case[0].scale for case in EXERCISES["08-5"].cases]
    assert min(ends) < 1 < max(ends)  # some skip and halve, some double


def test_the_parts_are_new_each_time():
    parts = Parts(1024.0, (1.0,))
    first, second = parts(), parts()
    first[0].weight.data.zero_()
    assert second[0].weight.abs().sum() > 0 and second[1].param_groups[0]["params"][0] is second[0].weight


def test_the_device_works_on_its_own():
    device = Device(0.001, [0.5, 0.1], queued=0.2)
    device.run()
    assert device.now() == 0.001
    device.run()
    device.wait()
    assert device.now() == pytest.approx(0.2 + 0.5 + 0.1)
    device.wait()
    assert device.now() == pytest.approx(0.8)


@pytest.mark.parametrize("row", [row for row in DEVICES if row["kind"] != "cpu"], ids=lambda row: row["name"])
def test_the_choice_is_the_courses_own(row):
    capability = tuple(row["capability"]) if isinstance(row.get("capability"), list) else row.get("capability")
    device = machine(row["kind"], capability, row.get("features", ())).device
    plan = recipes.plan(recipes.recommended(device), device)
    name = {torch.bfloat16: "bf16", torch.float16: "fp16", None: None}[plan.autocast]
    assert choose(list(device.native)) == (name, plan.recipe.scaler)
    known = {row["name"]: row["native"] for row in DEVICES}
    assert all(set(native) == set(known[name]) for name, native in GPUS.items() if name in known)


def test_the_bound_is_amdahls_and_the_flops_are_the_models():
    gains = {"matmul": 4.0, "attention": 2.0}
    assert predicted_gain(PROFILE, gains, 0.0) == pytest.approx(amdahl(PROFILE, gains)) and sum(PROFILE.values()) == pytest.approx(1)
    config = GPTConfig(width=64, layers=3, context=32)
    matrices = sum(m.weight.numel() for m in GPT(config, 0).modules() if isinstance(m, torch.nn.Linear))
    assert utilisation(matrices, 3, 64, 32, 1.0, 1.0) == step_flops(config, 1) / 32


def unscales_by_hand(parts):
    model, optimizer, scaler, batches = parts()
    for inputs, targets in batches:
        with torch.autocast(device_type="cpu", dtype=torch.half):
            loss = ((model(inputs) - targets) ** 2).mean()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(list(model.parameters()), max_norm=1.0)
        scaler.step(optimizer)
        scaler.update()
        model.zero_grad(set_to_none=False)
    return [w for row in model.weight.tolist() for w in row], scaler.get_scale()


def by_total(device, warm_up, repeats):
    for _ in range(warm_up):
        device.run()
        device.wait()
    times = []
    for _ in range(repeats):
        device.wait()
        times.append(-device.now())
        device.run()
        device.wait()
        times[-1] += device.now()
    return sorted(times)[len(times) // 2] if repeats % 2 else statistics.median(times)


@pytest.mark.parametrize(("exercise_id", "solve", "words"), [
    ("08-5", lambda parts: (train(parts)[0], 65536.0), "not one of the usual"),
    ("08-1", by_total, "cases agree"),
    ("08-1", lambda device, w, r: (device.run(), device.now())[1], "without device.wait()"),
    ("08-2", lambda shares, gains, casts: 1 / (casts + sum(shares[k] / (gains[k] if k in gains else 1.0) for k in shares)), "cases agree"),
    ("08-4", lambda native: ("bf16" if "bf16" in native else "fp16" if "fp16" in native else None, "bf16" not in native and "fp16" in native), "cases agree"),
    ("08-4", lambda native: [("bf16", False), ("fp16", True), (None, False)]["bf16" not in native and 1 + ("fp16" not in native)], "cases agree"),
    ("08-3", lambda n, l, w, c, t, p: t * (2 + 4) * (n + 2 * l * w * c) / p, "cases agree"),
])  # fmt: skip
def test_natural_variants_are_judged_rightly(exercise_id, solve, words):
    assert words in examine(EXERCISES[exercise_id], solve).message


def test_a_loop_written_in_another_way_is_right():
    verdict = examine(EXERCISES["08-5"], unscales_by_hand)
    assert verdict.status == "right", verdict.message
