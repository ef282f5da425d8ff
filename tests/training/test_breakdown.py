"""Phases and kinds of a step: whole, exclusive, and each where it belongs."""

import time

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile, record_function

from course.training import breakdown, corpus, hardware
from course.training.breakdown import KINDS, PHASES, kinds, phases, step_breakdown
from course.training.loop import Run, Settings
from course.training.models import GPTConfig
from course.training.recipes import plan


pytestmark = pytest.mark.usefixtures("one_thread")


def made(cpu, name, width=64):
    run = Run(plan(name, cpu), GPTConfig(width=width, layers=2, context=32), Settings(100))
    inputs, targets = corpus.load().batch(0, 0, 4, 32)
    return run, (torch.from_numpy(inputs), torch.from_numpy(targets))


def test_the_kinds_of_a_step_are_shares_of_it(cpu):
    found = {name: kinds(*made(cpu, name, 128)) for name in ("fp32", "bf16")}
    for shares in found.values():
        assert tuple(shares) == KINDS and sum(shares.values()) == pytest.approx(1) and min(shares.values()) >= 0
        assert shares["optimizer"] > 0.01 and shares["attention"] > 0.01 and shares["elementwise"] > 0.01
    assert found["fp32"]["casts"] < 0.02 < found["bf16"]["casts"] and found["fp32"]["matmul"] > 0.3


def test_a_slow_phase_is_seen_where_it_is(cpu):
    run, batch = made(cpu, "fp32")
    real = run.backward
    run.backward = lambda loss: (time.sleep(0.2), real(loss))
    found = phases(run, batch, repeats=1)
    assert tuple(found) == PHASES and found["backward"] > 0.2 > max(found["forward"], found["optimizer"])


def test_the_median_of_the_repeats_counts_and_warming_up_does_not(cpu, monkeypatch):
    clock, calls = {"now": 0.0}, []
    run, batch = made(cpu, "fp32")

    def forward(*batch):
        calls.append(1)
        clock["now"] += {1: 100.0, 2: 100.0, 4: 50.0}.get(len(calls), 1.0)

    run.forward, run.backward, run.update = forward, lambda loss: None, lambda index: None
    found = phases(run, batch, repeats=3, clock=lambda: clock["now"])
    assert len(calls) == 5 and found == {"forward": 1.0, "backward": 0.0, "optimizer": 0.0}


def test_a_device_that_answers_early_is_waited_for(cpu, monkeypatch):
    """Work that is only asked for takes no time on the clock; it passes when the device is waited for."""
    clock, queue = {"now": 0.0}, []
    run, batch = made(cpu, "fp32")
    run.plan = plan("fp32", hardware.Device("cuda", "fake", (8, 0), (), None, None, ("fp32",), ()))
    run.forward = lambda *batch: queue.append(3.0)
    run.backward = lambda loss: queue.append(6.0)
    run.update = lambda index: queue.append(1.0)

    def synchronize():
        clock["now"] += sum(queue)
        queue.clear()

    monkeypatch.setattr(breakdown.torch.accelerator, "synchronize", synchronize)
    assert phases(run, batch, repeats=1, clock=lambda: clock["now"]) == {"forward": 3.0, "backward": 6.0, "optimizer": 1.0}


def sorted_out(action):
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for index in range(breakdown.STEPS):
            with record_function(f"{breakdown._STEP}{index}"):
                action()
    return breakdown._shares(found.events(), accelerated=False)


x = torch.linspace(-1, 1, 400 * 400).view(400, 400)
ALONE = {
    "matmul": lambda: x @ x, "attention": lambda: F.scaled_dot_product_attention(x[None, None], x[None, None], x[None, None]),
    "elementwise": lambda: F.gelu(x), "casts": lambda: x.bfloat16(),
}  # fmt: skip


@pytest.mark.parametrize("kind", ALONE)
def test_each_operation_is_of_its_kind(kind):
    shares = sorted_out(lambda: [ALONE[kind]() for _ in range(10)])
    assert shares[kind] > 0.6 and sum(shares.values()) == pytest.approx(1)


def test_what_happens_in_the_update_is_the_optimizers_whatever_it_is():
    def update():
        with record_function(breakdown._UPDATE):
            x @ x

    assert sorted_out(update)["optimizer"] > 0.6


def test_what_disturbs_one_step_does_not_count():
    assert breakdown._undisturbed([[("casts", 1.0), ("rest", 5.0)], [("casts", 3.0), ("rest", 2.0)]]) == [("casts", 1.0), ("rest", 2.0)]
    more = [[("casts", 1.0), ("rest", 5.0)], [("rest", 4.0)], [("rest", 9.0)]]  # not the same operations: the shortest step
    assert breakdown._undisturbed(more) == [("rest", 4.0)]
    steps = iter([0, 300, 0, 0, 0])

    def action():
        F.gelu(x)
        for _ in range(next(steps)):
            x.bfloat16()

    assert sorted_out(action)["casts"] < 0.05


def test_the_profiler_writes_nothing_to_the_screen(cpu, capfd):
    step_breakdown(*made(cpu, "fp32"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.gpu
def test_the_kinds_of_a_step_on_a_gpu():
    device = hardware.probe().accelerator
    run = Run(plan("fp32", device), GPTConfig(width=256, layers=2, context=128), Settings(100))
    batch = tuple(torch.from_numpy(a).cuda() for a in corpus.load().batch(0, 0, 8, 128))
    shares = kinds(run, batch)
    assert sum(shares.values()) == pytest.approx(1) and shares["matmul"] > 0.05 and shares["optimizer"] > 0
