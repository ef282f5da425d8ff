"""Roofline and Amdahl's bound: the arithmetic against autograd's own counts, the timing against a clock of our own."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from course.training import corpus, hardware, roofline
from course.training.loop import Run, Settings
from course.training.models import GPTConfig
from course.training.recipes import plan
from course.training.roofline import amdahl, attainable, compare, fastest, intensity, linear_layers, linear_seconds, step_flops


pytestmark = pytest.mark.usefixtures("one_thread")


def run(cpu, name, config, batch=2):
    made = Run(plan(name, cpu), config, Settings(100))
    return made, tuple(torch.from_numpy(a) for a in corpus.load().batch(0, 0, batch, config.context))


@pytest.mark.parametrize("config", [GPTConfig(width=64, layers=2, context=32), GPTConfig(width=128, layers=1, context=16)])
def test_flops_of_a_step_are_those_that_torch_counts(cpu, config):
    """torch counts the fused attention's way back as five products where four are needed, so the written one is counted."""
    config = GPTConfig(width=config.width, layers=config.layers, context=config.context, attention="written")
    made, batch = run(cpu, "fp32", config)
    from course.training.models import GPT, loss_of

    model = GPT(config, 0)
    with FlopCounterMode(display=False) as counter:
        loss_of(model, *batch).backward()
    assert step_flops(config, 2) == counter.get_total_flops()


def test_linear_layers_are_those_of_the_model(cpu):
    config = GPTConfig(width=64, layers=3)
    made, _ = run(cpu, "fp32", config)
    found = sorted((m.in_features, m.out_features) for m in made.model.modules() if isinstance(m, torch.nn.Linear))
    assert found == sorted((i, o) for i, o, count in linear_layers(config) for _ in range(count))


def test_amdahl_and_the_roof():
    shares = {"matmul": 0.6, "attention": 0.2, "rest": 0.2}
    assert amdahl(shares, {}) == pytest.approx(1)
    assert amdahl(shares, {"matmul": 3, "attention": 2}) == pytest.approx(1 / (0.2 + 0.1 + 0.2))
    assert amdahl(shares, {"matmul": 1e9, "attention": 1e9}) == pytest.approx(5)  # the rest alone stays
    assert amdahl({"matmul": 1.0}, {"matmul": 0.5}) == 0.5  # a loss counts as well
    assert intensity(4, 6, 8, 4) == 2 * 4 * 6 * 8 / (4 * (4 * 6 + 6 * 8 + 4 * 8)) and intensity(9, 9, 9, 2) == 2 * intensity(9, 9, 9, 4)
    assert [attainable(i, 100, 10) for i in (0, 5, 10, 20)] == [0, 50, 100, 100]


def test_the_fastest_turn_counts_the_first_does_not_and_all_take_turns():
    clock, order, costs = {"now": 0.0}, [], {"a": [0.1, 5, 3, 4], "b": [0.2, 7, 9, 8]}

    def action(name):
        clock["now"] += costs[name][order.count(name)]
        order.append(name)

    found = fastest({name: lambda name=name: action(name) for name in "ab"}, rounds=3, clock=lambda: clock["now"])
    assert found == pytest.approx({"a": 3, "b": 7}) and order == list("abababab")


def test_a_device_that_answers_early_is_waited_for(monkeypatch):
    clock, queue = {"now": 0.0}, []

    def synchronize():
        clock["now"] += sum(queue)
        queue.clear()

    monkeypatch.setattr(roofline.torch.accelerator, "synchronize", synchronize)
    asked = {name: lambda seconds=seconds: queue.append(seconds) for name, seconds in (("a", 2.0), ("b", 5.0))}
    assert fastest(asked, 2, lambda: clock["now"], "cuda") == {"a": 2.0, "b": 5.0}


def test_the_products_of_a_step_are_counted_as_often_as_there_are_layers():
    config = GPTConfig(width=64, layers=3)
    times = {("fp32", i, o): 1.0 for i, o, _ in linear_layers(config)}
    assert linear_seconds(times, config, "fp32") == 4 * 3 + 1


def test_three_products_are_those_of_backward(monkeypatch):
    seen = []
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: seen.append((tuple(a.shape), tuple(b.shape), a.dtype)))
    roofline._three_products("bf16", 10, 4, 6, "cpu")()
    short = torch.bfloat16
    assert seen == [((10, 4), (4, 6), short), ((10, 6), (6, 4), short), ((6, 10), (10, 4), short)]


def test_a_comparison_is_put_together_from_its_parts(cpu, monkeypatch):
    """Times and shares are made up; what is allowed and achieved follows from them."""
    config = GPTConfig(width=64, layers=2, context=16)
    (first, batch), (second, _) = run(cpu, "bf16", config), run(cpu, "fp32", config)
    shares = {"matmul": 0.5, "attention": 0.25, "elementwise": 0.25}
    monkeypatch.setattr(roofline, "kinds", lambda run, batch: shares if run is second else {"matmul": 1.0})
    monkeypatch.setattr(roofline, "fastest", lambda actions, *rest: {key: 8.0 if key == "fp32" else 4.0 for key in actions})
    monkeypatch.setattr(roofline, "product_seconds", lambda config, size, names, *rest: {(n, i, o): {"fp32": 6.0}.get(n, 2.0) for n in names for i, o, _ in linear_layers(config)})
    monkeypatch.setattr(roofline, "attention_seconds", lambda config, size, plans, *rest: {"fp32": 10.0, "bf16": 4.0})
    found = compare([first, second], batch)
    assert (found["achieved"], found["linear"], found["attention"]) == (2.0, 3.0, 2.5)
    assert found["allowed"] == pytest.approx(1 / (0.5 / 3 + 0.25 / 2.5 + 0.25)) and found["seconds"] == {"bf16": 4.0, "fp32": 8.0}
    work = 6 * 2 * 16 * (2 * 12 * 64**2 + 64 * 128)  # 6 a token and weight; 2 windows of 16 tokens
    assert found["rates"] == {"bf16": work / (2.0 * 9), "fp32": work / (6.0 * 9)}  # 9 linear layers


def test_real_times_are_times(cpu):
    config = GPTConfig(width=64, layers=1, context=16)
    (first, batch), (second, _) = run(cpu, "bf16", config), run(cpu, "fp32", config)
    found = compare([first, second], batch, rounds=1)
    assert found["achieved"] > 0 and found["allowed"] > 0 and set(found["kinds"]) == {"bf16", "fp32"}
    assert 1e8 < roofline.bandwidth(megabytes=8, rounds=1) < 1e13
    assert 1e8 < roofline.peak_rates(("fp32",), size=128, rounds=1)["fp32"] < 1e15


@pytest.mark.gpu
def test_a_comparison_on_a_gpu():
    device = hardware.probe().accelerator
    config = GPTConfig(width=512, layers=2, context=256)
    made = [Run(plan(name, device), config, Settings(100)) for name in ("fp16", "fp32")]
    batch = tuple(torch.from_numpy(a).cuda() for a in corpus.load().batch(0, 0, 16, 256))
    found = compare(made, batch)
    assert found["linear"] > 1 and found["achieved"] > 0.8 * found["allowed"]
