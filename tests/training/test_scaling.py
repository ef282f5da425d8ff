"""Loss scalers against torch.amp.GradScaler: the same scales, counts, skipped steps and weights, step by step."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course.training.scaling import DynamicScaler, StaticScaler, next_scale

OPTIMIZERS = {
    "SGD": lambda params: torch.optim.SGD(params, lr=0.25),
    "momentum": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.01),
    "AdamW": lambda params: torch.optim.AdamW(params, lr=0.1),
    "Adagrad": lambda params: torch.optim.Adagrad(params, lr=0.1),
}
NAMES = sorted(OPTIMIZERS)
SLOPES = (0.0, 1.0, -0.3, 1e-6, 3e-8, 2.0**-25, 0.9, 2.5, -7e4, 1e30, 3e38, math.inf, math.nan)
ordinary = st.sampled_from(SLOPES[:8])
slopes = st.lists(st.one_of(ordinary, ordinary, st.sampled_from(SLOPES)), min_size=3, max_size=3)
steps = st.fixed_dictionaries({"slopes": slopes, "unscale": st.sampled_from(["no", "early", "clip"]), "second": st.booleans()})
settings_of_scaler = st.fixed_dictionaries({
    "init_scale": st.sampled_from([65536.0, 1.0, 3.7, 2.0**24, 2.0**127, 3e38, 2.0**-120, 2.0**-127, 2.0**-149]),
    "growth_factor": st.sampled_from([2.0, 1.1, 4.0, 1e30]),
    "backoff_factor": st.sampled_from([0.5, 0.3, 0.0, 2.0**-60]),
    "growth_interval": st.integers(1, 4),
})  # fmt: skip


class Run:
    """Three weights of which two are computed with in FP16, and a fourth that a second optimizer owns, under one scaler."""

    def __init__(self, scaler, name):
        self.weights = torch.nn.Parameter(torch.tensor([1.0, -0.5, 2.0]))
        self.other = torch.nn.Parameter(torch.tensor([0.5], dtype=torch.bfloat16))
        self.optimizer, self.second = OPTIMIZERS[name]([self.weights]), OPTIMIZERS["SGD"]([self.other])
        self.scaler = scaler

    def step(self, slopes, unscale, second):
        optimizers = [self.optimizer, self.second] if second else [self.optimizer]
        for optimizer in (self.optimizer, self.second):
            optimizer.zero_grad()
        c = torch.tensor(slopes)
        loss = (c[:2] * self.weights[:2].half().float()).sum() + c[2] * self.weights[2] + c[2] * self.other.float().sum()
        self.scaler.scale(loss).backward()
        for optimizer in optimizers:
            if unscale != "no":
                self.scaler.unscale_(optimizer)
            if unscale == "clip":
                torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
            self.scaler.step(optimizer)
        self.scaler.update()
        return self.weights.detach().clone(), self.other.detach().clone(), self.scaler.state_dict()


def same(one, two):
    """Bitwise, NaN included."""
    bits = {torch.float32: torch.int32, torch.bfloat16: torch.int16}[one.dtype]
    return torch.equal(one.isnan(), two.isnan()) and torch.equal(one.nan_to_num().view(bits), two.nan_to_num().view(bits))


@settings(max_examples=1000, deadline=None)
@given(settings_of_scaler, st.sampled_from(NAMES), st.lists(steps, min_size=1, max_size=7))
def test_every_step_is_torchs(options, name, sequence):
    ours, theirs = Run(DynamicScaler(**options), name), Run(torch.amp.GradScaler("cpu", **options), name)
    for step in sequence:
        (w, o, state), (their_w, their_o, their_state) = ours.step(**step), theirs.step(**step)
        assert same(w, their_w) and same(o, their_o)
        assert state == their_state


@settings(max_examples=1000, deadline=None)
@given(settings_of_scaler, st.lists(st.booleans(), min_size=1, max_size=30))
def test_a_long_run_of_good_and_bad_steps_leaves_the_same_scale(options, sequence):
    theirs, count = torch.tensor(options["init_scale"]), torch.tensor(0, dtype=torch.int32)
    rule = [options[key] for key in ("growth_factor", "backoff_factor", "growth_interval")]
    scale, good = theirs.clone().expand(2).clone(), torch.zeros(2)
    for bad in sequence:
        scale, good = next_scale(scale, good, torch.tensor([bad, bad]), *rule)
        torch._amp_update_scale_(theirs, count, torch.tensor(float(bad)), *rule)
        assert scale.tolist() == [theirs.item()] * 2 and good.tolist() == [count.item()] * 2


def test_a_count_beyond_the_interval_never_grows():
    """As torch's: it asks for equality. A state loaded with a shorter interval therefore waits for a bad step."""
    scale, good = next_scale(torch.tensor(8.0), torch.tensor(5), torch.tensor(False), growth_interval=4)
    assert (scale.item(), good.item()) == (8.0, 6)


def test_each_run_of_a_sweep_has_its_own_scale():
    scale, good = torch.tensor([[1.0, 2.0], [4.0, 8.0]]), torch.tensor([[1, 0], [1, 5]])
    scale, good = next_scale(scale, good, torch.tensor([[False, False], [True, True]]), growth_interval=2)
    assert scale.tolist() == [[2.0, 2.0], [2.0, 4.0]] and good.tolist() == [[0, 1], [0, 0]] and scale.dtype == torch.float32


def nan_steps(scaler, count):
    w = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([w], lr=0.5)
    for _ in range(count):
        optimizer.zero_grad()
        scaler.scale((w * math.nan).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    return w, optimizer


@pytest.mark.parametrize("make", [DynamicScaler, lambda: torch.amp.GradScaler("cpu")], ids=["ours", "torch"])
def test_166_nan_steps_bring_the_scale_to_zero_for_good_and_the_next_clean_step_spoils_the_weights(make):
    scaler = make()
    nan_steps(scaler, 165)
    assert scaler.get_scale() == 2.0**-149
    scaler = make()
    w, optimizer = nan_steps(scaler, 166)
    assert scaler.get_scale() == 0.0 and w.item() == 1.0
    for _ in range(3):
        optimizer.zero_grad()
        scaler.scale(w.sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 0.0 and math.isnan(w.item())


@pytest.mark.parametrize("make", [DynamicScaler, lambda: torch.amp.GradScaler("cpu")], ids=["ours", "torch"])
def test_calls_out_of_order_are_refused_as_by_torch(make):
    w = torch.nn.Parameter(torch.ones(1))
    optimizer, scaler = torch.optim.SGD([w], lr=0.5), make()
    scaler.scale(w.sum()).backward()
    with pytest.raises((RuntimeError, AssertionError), match="No inf checks"):
        scaler.update()
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="already been called on this optimizer since the last update"):
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    with pytest.raises(RuntimeError, match="step.. has already been called"):
        scaler.step(optimizer)
    with pytest.raises(RuntimeError, match="being called after step"):
        scaler.unscale_(optimizer)
    scaler.update()
    scaler.step(optimizer)  # a new step begins
    half = torch.nn.Parameter(torch.ones(1).half())
    scaler.scale(half.sum()).backward()
    with pytest.raises(ValueError, match="Attempting to unscale FP16 gradients"):
        scaler.step(torch.optim.SGD([half], lr=0.5))
    idle = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.5)
    with pytest.raises((RuntimeError, AssertionError), match="No inf checks|has a gradient"):
        scaler.step(idle)


@given(st.sampled_from(NAMES), st.lists(steps, min_size=2, max_size=6), st.data())
@settings(max_examples=50, deadline=None)
def test_either_scaler_continues_from_the_others_state(name, sequence, data):
    cut = data.draw(st.integers(1, len(sequence) - 1))
    whole, first = (Run(DynamicScaler(growth_interval=2), name) for _ in range(2))
    expected = [whole.step(**step) for step in sequence]
    for step in sequence[:cut]:
        first.step(**step)
    for scaler in (DynamicScaler(), torch.amp.GradScaler("cpu")):
        rest = copy.deepcopy(first)
        rest.scaler = scaler
        scaler.load_state_dict(first.scaler.state_dict())
        for step, (w, other, state) in zip(sequence[cut:], expected[cut:]):
            got = rest.step(**step)
            assert same(got[0], w) and same(got[1], other) and got[2] == state


def test_a_fresh_scaler_does_not_continue():
    """The control of the test above: without the state the count and the scale differ."""
    run = Run(DynamicScaler(growth_interval=3), "SGD")
    for _ in range(2):
        run.step([1.0, 1.0, 1.0], "no", False)
    assert run.scaler.state_dict() != DynamicScaler(growth_interval=3).state_dict()


def one_step(scaler, slope):
    w = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([w], lr=0.5)
    scaler.scale((w.half().float() * slope).sum()).backward()
    scaler.unscale_(optimizer)
    found = scaler.found_inf(optimizer)
    scaler.step(optimizer)
    scaler.update()
    return w.item(), found, scaler.get_scale()


def test_the_static_scaler_keeps_its_scale_and_skips_unless_told_not_to():
    assert one_step(StaticScaler(1024.0), 0.5) == (0.75, False, 1024.0)
    assert one_step(StaticScaler(1024.0), 64.0) == (1.0, True, 1024.0)  # 65536 is Inf in FP16
    assert one_step(StaticScaler(1024.0, skip=False), 64.0) == (-math.inf, True, 1024.0)
    assert one_step(StaticScaler(1.0), 2.0**-25) == (1.0, False, 1.0)  # flushed
    static = StaticScaler(8.0)
    static.load_state_dict(StaticScaler(16.0).state_dict())
    assert static.get_scale() == 16.0


def test_a_skipped_step_leaves_the_optimizers_moments_alone():
    w = torch.nn.Parameter(torch.ones(2))
    optimizer, scaler = torch.optim.AdamW([w], lr=0.1), DynamicScaler()
    for slope in (1.0, math.inf):
        optimizer.zero_grad()
        scaler.scale((w * slope).sum()).backward()
        before = copy.deepcopy(optimizer.state_dict()["state"])
        scaler.step(optimizer)
        scaler.update()
    after = optimizer.state_dict()["state"]
    assert after[0]["step"] == before[0]["step"] == 1 and torch.equal(after[0]["exp_avg_sq"], before[0]["exp_avg_sq"])


def test_steps_arguments_and_result_pass_through():
    class Told(torch.optim.SGD):
        def step(self, first=None, skip=None):
            return first, skip

    w = torch.nn.Parameter(torch.ones(1))
    optimizer, scaler = Told([w], lr=1.0), DynamicScaler()
    scaler.scale(w.sum()).backward()
    assert scaler.step(optimizer, 7, skip="rows") == (7, "rows") and scaler.found_inf(optimizer) is False
    scaler.update()
    assert scaler.found_inf(optimizer) is None


@pytest.mark.parametrize("make", [DynamicScaler, lambda: torch.amp.GradScaler("cpu")], ids=["ours", "torch"])
@pytest.mark.parametrize("bad", [None, 0, 1, 2, 3])
def test_every_weight_of_every_group_is_divided_and_looked_at(make, bad):
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(5)]  # the last one has no gradient
    optimizer, scaler = torch.optim.SGD([{"params": weights[:2]}, {"params": weights[2:], "lr": 0.25}], lr=0.5), make()
    scaler.scale(sum((w * (math.inf if i == bad else 1.0)).sum() for i, w in enumerate(weights[:4]))).backward()
    scaler.step(optimizer)
    scaler.update()
    assert [w[1].item() for w in weights] == ([0.5, 0.5, 0.75, 0.75, 1.0] if bad is None else [1.0] * 5)
    assert scaler.get_scale() == (65536.0 if bad is None else 32768.0)


@pytest.mark.parametrize("make", [DynamicScaler, lambda: torch.amp.GradScaler("cpu")], ids=["ours", "torch"])
def test_a_closure_is_refused_as_by_torch(make):
    w = torch.nn.Parameter(torch.ones(1))
    scaler = make()
    scaler.scale(w.sum()).backward()
    with pytest.raises(RuntimeError, match="[Cc]losure"):
        scaler.step(torch.optim.SGD([w], lr=0.5), closure=lambda: w.sum())
    assert w.item() == 1.0


@pytest.mark.parametrize("make", [DynamicScaler, lambda: torch.amp.GradScaler("cpu")], ids=["ours", "torch"])
@pytest.mark.parametrize(("slope", "moved"), [(3.0, -1.0), (math.inf, 0.5)])
def test_sparse_gradients_are_divided_too(make, slope, moved):
    table = torch.nn.Embedding(4, 2, sparse=True)
    torch.nn.init.constant_(table.weight, 0.5)
    optimizer, scaler = torch.optim.SGD(table.parameters(), lr=0.25), make()
    scaler.scale((table(torch.tensor([1, 1])) * slope).sum()).backward()
    scaler.step(optimizer)
    assert table.weight[0].tolist() == [0.5, 0.5] and table.weight[1].tolist() == [moved, moved]


@pytest.mark.parametrize(("make", "words"), [
    (lambda: StaticScaler(0.0), "positive number"), (lambda: StaticScaler(1e39), "FP32 can hold"), (lambda: DynamicScaler(1e-50), "FP32 can hold"),
    (lambda: StaticScaler(math.inf), "positive number"),
    (lambda: DynamicScaler(growth_factor=1.0), "above 1"), (lambda: DynamicScaler(backoff_factor=1.0), "below 1"),
])  # fmt: skip
def test_settings_that_cannot_work_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
