"""The loop: two recipes side by side, the same start, the same data; losses close, states exact."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from course.training import corpus, hardware, loop, memory
from course.training.loop import VALIDATIONS, WARM_STEPS, Comparison, Settings, reproducible, trial_seconds
from course.training.models import GPTConfig
from course.training.recipes import plan

SHAPE = GPTConfig(width=32, layers=2, context=32)


@pytest.fixture(autouse=True)
def one_thread():
    with reproducible(1):
        yield


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A small text with something to learn."""
    folder = tmp_path_factory.mktemp("text")
    for i in range(30):
        (folder / f"m{i}.py").write_text("".join(f"value_{j} = {i + j}\n" for j in range(80)))
    return corpus.load(folder)


@pytest.fixture(scope="module")
def cpu():
    return hardware.probe().cpu


@pytest.fixture(scope="module")
def laptop(cpu):
    """This CPU, as if it had no short format."""
    return dataclasses.replace(cpu, name="a laptop", native=("fp64", "fp32"))


def comparison(text, cpu, *names, steps=20, lr=3e-3, seed=0):
    return Comparison([plan(name, cpu) for name in names], SHAPE, Settings(steps, batch=4, lr=lr, seed=seed), text)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("short", ["bf16", "fp16"])
def test_a_short_format_learns_what_fp32_learns(text, cpu, short, seed):
    made = comparison(text, cpu, short, "fp32", steps=60, seed=seed)
    made.train()
    ours, full = (np.array(run.history.losses) for run in made.runs)
    learned = full[0] - full[-10:].mean()
    assert learned > 1
    assert abs(ours[-10:].mean() - full[-10:].mean()) < learned / 20
    assert not np.array_equal(ours, full)  # it was another precision
    assert abs(made.runs[0].history.validation[-1][1] - made.runs[1].history.validation[-1][1]) < learned / 20


def test_the_same_recipe_twice_gives_the_same_bits(text, cpu):
    made = comparison(text, cpu, "bf16", "bf16")
    made.train()
    first, second = made.runs
    assert first.history.losses == second.history.losses and first.history.validation == second.history.validation
    states = zip(first.model.parameters(), second.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in states)


@pytest.mark.parametrize("where", ["cpu", "laptop"])
@pytest.mark.parametrize("names", [("bf16", "fp32"), ("fp16", "fp32"), ("pure-bf16", "bf16-sr")])
def test_a_state_taken_at_any_step_leads_to_the_same_bits(text, request, names, where):
    cpu = request.getfixturevalue(where)
    straight = comparison(text, cpu, *names)
    states = []
    straight.train(lambda c: states.append(copy.deepcopy(c.state())))
    assert [state["done"] for state in states] == list(range(21))
    for state in (states[0], states[7], states[19], states[20]):
        resumed = comparison(text, cpu, *names)
        torch.rand(3)  # no global random state may matter
        resumed.load(state)
        resumed.train()
        for run, other in zip(straight.runs, resumed.runs, strict=True):
            assert run.history.losses == other.history.losses
            assert run.history.validation == other.history.validation
            assert run.history.moved == other.history.moved and run.history.scales == other.history.scales
            pairs = zip(run.model.parameters(), other.model.parameters(), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)


def test_warming_up_is_not_timed_and_the_order_alternates(text, cpu):
    made = comparison(text, cpu, "bf16", "fp32", steps=8)
    order = []
    for run in made.runs:
        real = run.step
        run.step = lambda *args, run=run, real=real: (order.append(run.plan.recipe.name), real(*args))[1]
    made.train()
    assert order[:4] == ["bf16", "fp32", "fp32", "bf16"] and len(order) == 16
    for run in made.runs:
        assert run.history.seconds[:WARM_STEPS] == [None] * WARM_STEPS
        assert all(seconds > 0 for seconds in run.history.seconds[WARM_STEPS:])


def test_an_overflowing_gradient_skips_the_step_and_halves_the_scale(text, cpu):
    run = comparison(text, cpu, "fp16", "fp32").runs[0]
    run.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = [p.clone() for p in run.model.parameters()]
    inputs, targets = (torch.from_numpy(a) for a in text.batch(0, 0, 4, 32))
    loss = run.step(0, inputs, targets)
    assert np.isfinite(loss) and run.history.skipped == [0]
    assert run.scaler.get_scale() == 2.0**39
    assert all(torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True))


@pytest.mark.parametrize("name", ["pure-bf16", "bf16-sr"])
def test_bf16_models_keep_weights_and_moments_short(text, cpu, name):
    if "bf16" not in cpu.native:
        pytest.skip("emulated values are held in FP32")
    made = comparison(text, cpu, name, "fp32", steps=3)
    made.train()
    short = memory.step_memory(made.runs[0], *made.batch(0))
    full = memory.step_memory(made.runs[1], *made.batch(0))
    assert 2 * short["weights"] == full["weights"] and 2 * short["optimizer"] == full["optimizer"]


@pytest.mark.parametrize("where", ["cpu", "laptop"])
def test_what_rounding_to_nearest_loses_the_dice_keep(text, request, where):
    """Half an ulp below 1 is 2⁻⁹: at this rate no gain of a norm leaves 1.0 in pure BF16, in any step; with dice some do."""
    made = comparison(text, request.getfixturevalue(where), "pure-bf16", "bf16-sr", "fp32", steps=40, lr=1e-3)
    made.train()
    pure, dice, full = made.runs
    assert all(count["gains"] == 0 for count in pure.history.moved)
    assert all(count["gains"] > 0.9 for count in full.history.moved)
    gains = [run.model.norm.weight.float() for run in made.runs]
    assert gains[0].eq(1).all() and 0.2 < gains[1].ne(1).float().mean() < 1
    assert abs(gains[1].mean() - gains[2].mean()) < 0.002 < abs(1 - gains[2]).max()
    for run in (pure, dice):
        assert torch.equal(run.model.head.weight.float(), run.model.head.weight.bfloat16().float())  # stored in BF16
        assert all(0 < count["matrices"] == count["multiplied"] < 1 for count in run.history.moved)
    assert full.history.losses[-1] < full.history.losses[0] - 1


def test_counting_moved_weights_is_not_timed(text, cpu, monkeypatch):
    """The clock stands while weights are copied and compared: a slow copy must not be seen in any step."""
    clock, real = {"now": 0.0}, loop.snapshot
    monkeypatch.setattr(loop.time, "perf_counter", lambda: clock["now"])

    def slow(model):
        clock["now"] += 1000.0
        return real(model)

    monkeypatch.setattr(loop, "snapshot", slow)
    made = comparison(text, cpu, "fp32", steps=10)
    made.train()
    assert clock["now"] == 8000.0 and len(made.runs[0].history.moved) == 8
    assert set(made.runs[0].history.seconds) == {None, 0.0}


@pytest.mark.parametrize(("steps", "counted"), [(1, [0]), (3, [0, 1, 2]), (8, list(range(8))), (300, [36, 74, 111, 149, 186, 224, 261, 299])])
def test_moved_weights_are_counted_at_the_end_of_each_eighth(steps, counted):
    assert [index for index in range(steps) if Settings(steps).counts_moved(index)] == counted


def test_the_trace_of_the_scale_has_its_changes_only(text, cpu):
    made = comparison(text, cpu, "fp16", "fp32", steps=12)
    run = made.runs[0]
    run.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=4)
    made.train()
    steps, scales = zip(*run.history.scales)
    assert scales[0] == 2.0**40 and steps == tuple(sorted(set(steps))) and made.runs[1].history.scales == []
    assert all(b in (a / 2, 2 * a) for a, b in zip(scales, scales[1:]))
    assert run.history.skipped == [step - 1 for step, b, a in zip(steps[1:], scales[1:], scales) if b < a] or run.history.skipped[-1] == 11


def test_compiled_runs_its_forward_pass_through_the_compiled_model(text, cpu, monkeypatch):
    compiled, calls = [], []
    monkeypatch.setattr(loop.torch, "compile", lambda model: compiled.append(model) or (lambda ids: calls.append(1) or model(ids)))
    settings = Settings(3, batch=4, compiled=True)
    made = Comparison([plan("fp32", cpu)], SHAPE, settings, text)
    made.train()
    plain = comparison(text, cpu, "fp32", steps=3, lr=settings.lr)
    plain.train()
    assert compiled == [made.runs[0].model] and len(calls) == 3  # validation goes through the plain one
    assert made.runs[0].history.losses == plain.runs[0].history.losses


def test_learning_rate_warms_up_and_comes_down():
    rates = [Settings(200, lr=1.0).learning_rate(step) for step in range(200)]
    assert rates[0] == pytest.approx(1 / 20) and max(rates) == rates[19] == rates[20] == 1.0
    assert all(a > b for a, b in zip(rates[20:], rates[21:], strict=False)) and rates[-1] == pytest.approx(0.1)
    assert Settings(1).learning_rate(0) == 1e-3
    assert max(range(12), key=Settings(12).learning_rate) == 5


@pytest.mark.parametrize("steps", [1, 2, 7, 8, 9, 100, 1001])
def test_validation_at_the_start_the_end_and_between(steps):
    at = [done for done in range(steps + 1) if Settings(steps).validates_after(done)]
    assert at[0] == 0 and at[-1] == steps and len(at) <= VALIDATIONS + 2


def test_validation_sees_fixed_batches_and_changes_nothing(text, cpu):
    made = comparison(text, cpu, "fp32", "bf16")
    before = copy.deepcopy(made.runs[0].model.state_dict())
    first = made.runs[0].validate(made.validation)
    assert made.runs[0].validate(made.validation) == first
    assert all(torch.equal(before[name], value) for name, value in made.runs[0].model.state_dict().items())
    assert all(p.grad is None for p in made.runs[0].model.parameters())


def test_saved_activations_shrink_under_autocast_and_weights_do_not(text, cpu):
    if "bf16" not in cpu.native:
        pytest.skip("emulated values are held in FP32")
    made = comparison(text, cpu, "bf16", "fp32")
    short, full = (memory.step_memory(run, *made.batch(0)) for run in made.runs)
    assert short["saved_activations"]["bfloat16"] > 0 and "bfloat16" not in full["saved_activations"]
    assert sum(short["saved_activations"].values()) < sum(full["saved_activations"].values())
    parameters = sum(p.numel() for p in made.runs[0].model.parameters())
    for used in (short, full):
        assert used["weights"] == used["gradients"] == 4 * parameters and used["optimizer"] == 8 * parameters
    assert memory.process_peak() > 2**27


def test_saved_activations_of_one_layer_can_be_counted_by_hand(cpu):
    class OneLayer:
        plan = plan("fp32", cpu)
        model = torch.nn.Linear(64, 32, bias=False)

    inputs, targets = torch.ones(4, 10, 64).requires_grad_(), torch.zeros(4, 10, dtype=torch.long)
    found = memory.saved_activations(OneLayer, inputs, targets)
    # The layer's input (4·10·64 floats), and for the cross-entropy its log-probabilities (4·10·32) and one weight.
    assert found["float32"] == 4 * (4 * 10 * 64 + 4 * 10 * 32 + 1) and found["int64"] == 8 * 40


def test_trial_measures_time(text, cpu):
    step, validation = trial_seconds(comparison(text, cpu, "bf16", "fp32"))
    assert 0 < step < 10 and 0 < validation < 10


def test_reproducible_puts_everything_back():
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with reproducible(2, "cuda"):
        assert torch.get_num_threads() == 2 and torch.are_deterministic_algorithms_enabled()
    assert before == (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())


@pytest.mark.gpu
def test_side_by_side_on_a_gpu(text):
    device = hardware.probe().accelerator
    made = Comparison([plan("fp16", device), plan("fp32", device)], SHAPE, Settings(20, batch=4), text)
    with reproducible(1, "cuda"):
        made.train()
        used = memory.step_memory(made.runs[0], *made.batch(0))
    assert used["device_peak"] > 0
    assert abs(made.runs[0].history.losses[-1] - made.runs[1].history.losses[-1]) < 0.1
