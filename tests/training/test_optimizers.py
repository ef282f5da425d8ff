"""Optimizers in chosen formats: equal to torch's in FP32, every stored tensor a value of its format, nothing lost where a remedy says so."""

import copy
import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course.numerics import BF16, E4M3, E5M2, FP16, FP32, round_rows, round_to
from course.training.optimizers import SGD, AdamW, bytes_per_parameter
from course.training.storage import EXTRAS, UPDATES, extra_bytes
from course.training.updates import base_of, check_update, join, kahan, split


def numbers(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype("float32"))


def dice(seed=0):
    return torch.Generator().manual_seed(seed)


def run(make, weight, gradients):
    """The parameter and the optimizer after a step with each gradient."""
    p = torch.nn.Parameter(weight.clone())
    optimizer = make([p])
    for gradient in gradients:
        p.grad = gradient.clone()
        optimizer.step()
    return p, optimizer


PAIRS = [
    (lambda p, **kw: SGD(p, lr=0.1, **kw), lambda p: torch.optim.SGD(p, lr=0.1)),
    (lambda p, **kw: SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1, **kw), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1)),
    (lambda p, **kw: AdamW(p, lr=1e-3, **kw), lambda p: torch.optim.Adam(p, lr=1e-3)),
    (lambda p, **kw: AdamW(p, lr=1e-3, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1, **kw),
     lambda p: torch.optim.AdamW(p, lr=1e-3, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)),
]  # fmt: skip


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_in_fp32_every_step_gives_torchs_bits(ours, theirs):
    gradients = numbers(1, 60, 5, 33)
    gradients[::7] = 0
    a, _ = run(ours, numbers(0, 5, 33), gradients)
    b, _ = run(theirs, numbers(0, 5, 33), gradients)
    assert torch.equal(a, b)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_a_master_is_the_fp32_run_and_the_weight_its_rounding(ours, theirs):
    gradients = numbers(1, 40, 5, 33)
    p, optimizer = run(lambda p: ours(p, weights=BF16, update="master"), numbers(0, 5, 33), gradients)
    exact, _ = run(theirs, numbers(0, 5, 33), gradients)
    assert torch.equal(optimizer.state[p]["master"], exact) and torch.equal(p, exact.bfloat16().float())


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_the_remainder_holds_what_a_master_holds(ours, theirs):
    gradients = numbers(1, 40, 5, 33)
    p, optimizer = run(lambda p: ours(p, weights=BF16, update="remainder"), numbers(0, 5, 33), gradients)
    exact, _ = run(theirs, numbers(0, 5, 33), gradients)
    remainder = optimizer.state[p]["remainder"]
    assert remainder.dtype == torch.int16 and torch.equal(join(p, remainder), exact)
    ties = remainder == -(2**15)
    assert torch.equal(p[~ties], exact.bfloat16().float()[~ties])


# ---- every update: what is stored lies in its format


OPTIONS = dict(lr=1e-2, momentum=0.9), dict(lr=1e-2)


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("kind", [SGD, AdamW])
@pytest.mark.parametrize("fmt", [BF16, FP16])
def test_everything_stored_is_a_value_of_its_format(update, kind, fmt):
    if update == "remainder" and fmt is not BF16:
        with pytest.raises(ValueError, match="must be BF16, not FP16"):
            kind([torch.nn.Parameter(numbers(0, 3))], lr=1, weights=fmt, update=update)
        return
    moments = {"moment": FP16} if kind is SGD else {"first_moment": E4M3, "second_moment": E5M2}
    options = (OPTIONS[0] if kind is SGD else OPTIONS[1]) | moments
    make = lambda p: kind(p, weights=fmt, update=update, generator=dice(), **options)  # noqa: E731
    p, optimizer = run(make, numbers(0, 4, 50), numbers(1, 30, 4, 50))
    state = optimizer.state[p]
    formats = {"carry": fmt, "momentum": FP16, "first": E4M3, "second": E5M2}  # none holds the values of another
    assert torch.equal(p, round_to(p, fmt)) and not torch.equal(p, round_to(numbers(0, 4, 50), fmt))
    for name in formats.keys() & state.keys():
        assert torch.equal(state[name], round_to(state[name], formats[name])) and state[name].any(), name
    beside = {EXTRAS[update]} if update in EXTRAS else set()
    assert set(state) == beside | ({"momentum"} if kind is SGD else {"step", "first", "second"})


def test_toward_zero_and_nearest_and_dice_round_the_sum():
    weight, gradient = torch.full((4000,), 1.0), torch.full((4000,), -0.003)  # 1.003: 0.384 of the gap of 2⁻⁷
    moved = {update: run(lambda p: SGD(p, lr=1.0, weights=BF16, update=update, generator=dice()), weight, [gradient])[0] for update in UPDATES[:3]}
    assert moved["nearest-even"].eq(1).all() and moved["toward-zero"].eq(1).all()
    up = moved["stochastic"].gt(1).float().mean().item()
    assert set(moved["stochastic"].tolist()) == {1.0, 1.0078125} and abs(up - 0.384) < 6 * (0.384 * 0.616 / 4000) ** 0.5
    more = run(lambda p: SGD(p, lr=1.0, weights=BF16, update="toward-zero"), weight, [gradient * 2])[0]
    assert more.eq(1).all() and run(lambda p: SGD(p, lr=1.0, weights=BF16), weight, [gradient * 2])[0].gt(1).all()


def test_dice_are_unbiased_over_many_steps_and_repeat_with_their_seed():
    gradients = [torch.full((4000,), 1.0)] * 400
    make = lambda seed: lambda p: SGD(p, lr=1e-4, weights=BF16, update="stochastic", generator=dice(seed))  # noqa: E731
    p, _ = run(make(3), torch.full((4000,), 1.0), gradients)
    assert abs(p.mean().item() - 0.96) < 6 * p.std().item() / 4000**0.5 and p.std() > 0.005
    again, _ = run(make(3), torch.full((4000,), 1.0), gradients)
    other, _ = run(make(4), torch.full((4000,), 1.0), gradients)
    assert torch.equal(p, again) and not torch.equal(p, other)


def test_a_carry_brings_home_what_nearest_loses():
    gradients = [torch.ones(3)] * 1000
    stuck, _ = run(lambda p: SGD(p, lr=1e-4, weights=BF16), torch.ones(3), gradients)
    carried, optimizer = run(lambda p: SGD(p, lr=1e-4, weights=BF16, update="kahan"), torch.ones(3), gradients)
    assert stuck.eq(1).all()
    total = carried + optimizer.state[carried]["carry"]
    assert (total - 0.9).abs().max() < 5e-3  # the carry is BF16 too, and rounds a little on each step
    assert torch.equal(carried, round_to(carried, BF16))


@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_a_carry_brings_decay_home_too_and_it_counts_as_wanted(kind):
    make = lambda update: lambda p: kind(p, lr=0.01, weight_decay=0.1, weights=BF16, update=update, count=True)  # noqa: E731
    stuck, optimizer = run(make("nearest-even"), torch.ones(3), [torch.zeros(3)] * 100)
    decayed, _ = run(make("kahan"), torch.ones(3), [torch.zeros(3)] * 100)
    assert stuck.eq(1).all() and (decayed - 0.999**100).abs().max() < 0.01
    assert (optimizer.counts[0].wanted, optimizer.counts[0].lost) == (3, 3)


@given(st.floats(-100, 100, width=32), st.floats(-1, 1, width=32))
def test_one_step_with_a_carry_loses_less_than_an_ulp_of_the_carry(w, change):
    w, change = round_to(torch.tensor([w]), BF16), torch.tensor([change])
    moved, carry = kahan(w, torch.zeros(1), change, BF16)
    lost = (w.double() + change.double()) - (moved.double() + carry.double())
    size = max(abs(w.item()), abs(change.item()), 1e-30)
    assert abs(lost.item()) <= 2.0**-16 * size and carry.abs() <= 2.0**-7 * size


# ---- the split


EDGES = [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF, 0x3F7F8000, 0x3F808000, 0x3F818000, 0x3FFFFFFF, 0x7F7FFFFF, 0x7F7F8000, 0x7F800000,
         0x7F800001, 0x7FC00000, 0x7FFFFFFF]  # fmt: skip


def floats(codes):
    return torch.from_numpy(np.asarray(codes, dtype=np.uint32).view(np.float32).copy())


@given(st.lists(st.integers(0, 2**32 - 1) | st.sampled_from(EDGES + [e | 2**31 for e in EDGES]), min_size=1, max_size=50))
def test_the_split_restores_every_bit_pattern(codes):
    master = floats(codes)
    weight, remainder = split(master)
    assert (weight.view(torch.int32) & 0xFFFF).eq(0).all() and remainder.dtype == torch.int16
    assert torch.equal(join(weight, remainder).view(torch.int32), master.view(torch.int32))


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
def test_the_split_is_the_nearest_bf16_but_for_ties(codes):
    master = floats([code for code in codes if code & 0x7F800000 != 0x7F800000] or [0])
    weight, remainder = split(master)
    nearest = master.bfloat16().float()
    ties = remainder == -(2**15)
    assert torch.equal(weight[~ties], nearest[~ties])
    assert (weight[ties].abs() > master[ties].abs()).all()


def test_a_tie_goes_away_from_zero_where_even_could_not_be_undone():
    tie = torch.tensor([1 + 2.0**-8, 1 + 3 * 2.0**-8, -1 - 2.0**-8])
    assert split(tie)[0].tolist() == [1.0078125, 1.015625, -1.0078125]
    assert tie.bfloat16().tolist() == [1.0, 1.015625, -1.0], "even: the first and the second would share a remainder"


# ---- rows: formats, skipped steps


@pytest.mark.parametrize("update", ["nearest-even", "kahan", "master", "stochastic"])
def test_each_row_is_the_run_it_would_be_alone(update):
    formats, weight, gradients = (BF16, FP16, FP32), numbers(0, 3, 20), numbers(1, 25, 3, 20)
    options = dict(lr=1e-2, weight_decay=0.1, update=update)
    both, _ = run(lambda p: AdamW(p, weights=formats, second_moment=formats, generator=dice(), **options), weight, gradients)
    assert torch.equal(both, round_rows(both, formats))
    if update == "stochastic":  # the dice belong to places, so a row alone throws others
        assert not torch.equal(both[0], both[1])
        return
    for row, fmt in enumerate(formats):
        alone, _ = run(lambda p: AdamW(p, weights=fmt, second_moment=fmt, **options), weight[row : row + 1], gradients[:, row : row + 1])
        assert torch.equal(both[row], alone[0])


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_a_skipped_row_is_untouched_and_others_go_on(update, kind):
    weight, gradients = numbers(0, 3, 20), numbers(1, 4, 3, 20)
    options = dict(lr=1e-2, weights=BF16, update=update, **({"momentum": 0.9} if kind is SGD else {}))
    p = torch.nn.Parameter(weight.clone())
    optimizer = kind([p], generator=dice(), count=True, **options)
    for t, gradient in enumerate(gradients):
        p.grad = gradient.clone()
        if t == 2:
            p.grad[1] = float("nan")
            before = {name: value.clone() for name, value in optimizer.state[p].items()} | {"weight": p.detach().clone()}
            optimizer.step(skip=torch.tensor([False, True, False]))
            after = optimizer.state[p] | {"weight": p.detach()}
            for name, value in before.items():
                if name != "step":
                    assert torch.equal(value[1], after[name][1]), name
                    assert name == "remainder" or not torch.equal(value[0], after[name][0]), name
            assert optimizer.counts[0].wanted == 40
        else:
            optimizer.step(skip=torch.zeros(3, dtype=torch.bool))
    if kind is AdamW:
        assert optimizer.state[p]["step"].tolist() == [4, 3, 4]
    if update != "stochastic":
        alone, _ = run(lambda q: kind(q, **options), weight[1:2], gradients[[0, 1, 3], 1:2])
        assert torch.equal(p[1], alone[0])


def test_a_row_may_skip_from_the_very_first_step():
    p = torch.nn.Parameter(torch.ones(2, 3))
    optimizer = AdamW([p], lr=0.5)
    for skip, steps in (([True, False], [0, 1]), ([False, False], [1, 2])):
        p.grad = torch.ones(2, 3)
        optimizer.step(skip=torch.tensor(skip))
        assert optimizer.state[p]["step"].tolist() == steps
    assert torch.allclose(p, torch.tensor([[0.5], [0.0]]).expand(2, 3), atol=1e-6)


def test_a_weight_without_a_gradient_stays():
    p, idle = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    p.grad = torch.ones(2)
    optimizer = SGD([p, idle], lr=0.5, weight_decay=0.1, update="kahan", count=True)
    assert not optimizer.state[p]["carry"].any()
    optimizer.step()
    assert p.ne(1).all() and idle.eq(1).all() and len(optimizer.counts) == 1


def test_a_carry_begins_empty():
    p = torch.nn.Parameter(torch.tensor([1 + 2**-9]))
    optimizer = SGD([p], lr=1, weights=BF16, update="kahan")
    assert p.item() == 1.0 and optimizer.state[p]["carry"].item() == 0.0  # the weight is what it was rounded to, as without a carry


# ---- counts, saving, scalers, errors


def test_counts_say_what_was_wanted_and_what_moved():
    p = torch.nn.Parameter(torch.tensor([1.0, 1.0, 0.01, 0.0]))
    p.grad = torch.tensor([0.001, 0.0, 0.001, 0.001])
    optimizer = SGD([p], lr=1.0, weights=BF16, count=True)
    optimizer.step()
    (count,) = optimizer.counts
    assert (count.total, count.wanted, count.moved, count.lost) == (4, 3, 2, 1)


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_a_saved_state_goes_on_as_if_nothing_had_happened(update, kind):
    options = dict(lr=1e-2, weights=BF16, update=update, **({"momentum": 0.9} if kind is SGD else {}))
    gradients = numbers(1, 10, 4, 20)
    p, first = run(lambda q: kind(q, generator=dice(), **options), numbers(0, 4, 20), gradients)
    file = io.BytesIO()
    torch.save({"weight": p.detach(), "optimizer": first.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    q = torch.nn.Parameter(saved["weight"])
    second = kind([q], generator=dice(99), **options)
    second.load_state_dict(saved["optimizer"])
    assert {name: value.dtype for name, value in second.state[q].items()} == {name: value.dtype for name, value in first.state[p].items()}
    for gradient in gradients:
        for w, optimizer in ((p, first), (q, second)):
            w.grad = gradient.clone()
            optimizer.step()
    assert torch.equal(p, q) and torch.equal(base_of(p, first.state[p]), base_of(q, second.state[q]))


@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_a_copy_goes_on_like_the_first(kind):
    p, first = run(lambda q: kind(q, lr=1e-2, weights=BF16, update="stochastic", generator=dice()), numbers(0, 4, 20), numbers(1, 3, 4, 20))
    second = copy.deepcopy(first)
    (q,) = second.param_groups[0]["params"]
    for w, optimizer in ((p, first), (q, second)):
        w.grad = numbers(2, 4, 20)
        optimizer.step()
    assert q is not p and torch.equal(p, q) and torch.equal(p, round_to(p, BF16))


def test_a_state_of_another_kind_is_refused():
    p = torch.nn.Parameter(torch.ones(2))
    saved = SGD([p], lr=1, weights=BF16, update="kahan").state_dict()
    for other in (SGD([p], lr=1, weights=BF16), SGD([p], lr=1, update="kahan"), AdamW([p], weights=BF16, update="kahan"), SGD([p], lr=1, weights=(BF16, BF16))):
        with pytest.raises(ValueError, match="make it the same way first"):
            other.load_state_dict(saved)
    with pytest.raises(ValueError, match="saved by an optimizer without formats"):
        SGD([p], lr=1, weights=BF16).load_state_dict(torch.optim.SGD([p], lr=1).state_dict())


def test_torchs_grad_scaler_and_a_scheduler_work_with_them():
    a, b = torch.nn.Parameter(numbers(0, 5)), torch.nn.Parameter(numbers(0, 5))
    ours, theirs = AdamW([a], lr=1e-2), torch.optim.AdamW([b], lr=1e-2, weight_decay=0)
    for p, optimizer in ((a, ours), (b, theirs)):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        plan = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        for t in range(6):
            optimizer.zero_grad()
            scaler.scale((p * p).sum() * (float("inf") if t == 3 else 1.0)).backward()
            scaler.step(optimizer)
            scaler.update()
            plan.step()
        assert scaler.get_scale() == 512.0
    assert torch.equal(a, b) and ours.param_groups[0]["lr"] == 1e-2 * 0.5**6


def test_a_closure_gives_the_loss():
    p = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = SGD([p], lr=0.25)

    def closure():
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0 and p.item() == 1.0


@pytest.mark.parametrize(("options", "error", "words"), [
    ({"update": "nearest"}, ValueError, "choose one of nearest-even"),
    ({"update": "stochastic"}, ValueError, "needs generator"),
    ({"update": "stochastic", "generator": 0}, ValueError, "needs generator"),
    ({"update": "remainder"}, ValueError, "must be BF16, not FP32"),
    ({"update": "remainder", "weights": (BF16, FP16, BF16)}, ValueError, "must be BF16, not BF16, FP16"),
    ({"weights": (BF16, FP16)}, ValueError, "2 formats, but a parameter of shape (3, 4)"),
])  # fmt: skip
def test_what_cannot_be_is_explained(options, error, words):
    with pytest.raises(error) as caught:
        AdamW([torch.nn.Parameter(torch.ones(3, 4))], **options)
    assert words in str(caught.value)


def test_wrong_types_and_rows_are_explained():
    with pytest.raises(TypeError, match="emulate their formats over float32"):
        SGD([torch.nn.Parameter(torch.ones(3).bfloat16())], lr=1)
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    with pytest.raises(ValueError, match="one entry for each row"):
        SGD([p], lr=1).step(skip=torch.tensor([True]))
    scalar = torch.nn.Parameter(torch.tensor(1.0))
    scalar.grad = torch.tensor(1.0)
    with pytest.raises(ValueError, match="one entry for each row"):
        SGD([scalar], lr=1).step(skip=torch.tensor([True]))
    with pytest.raises(ValueError, match="unknown"):
        check_update(None, BF16, None)


# ---- bytes


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize(("kind", "name"), [(AdamW, "adamw"), (SGD, "sgd")])
def test_the_bytes_are_those_of_the_tensors_that_are_kept(update, kind, name):
    options = {} if kind is AdamW else {"momentum": 0.9}
    p, optimizer = run(lambda q: kind(q, lr=1e-2, weights=BF16, update=update, generator=dice(), **options), numbers(0, 4, 20), numbers(1, 2, 4, 20))
    width = {"carry": 2, "remainder": optimizer.state[p].get("remainder", p).element_size()}  # the rest is FP32
    kept = sum(width.get(key, 4) for key, value in optimizer.state[p].items() if value.shape == p.shape)
    sizes = bytes_per_parameter(name, weights=BF16, update=update)
    assert sum(sizes.values()) == kept + 2 + 2  # and the weight and its gradient
    assert extra_bytes(update, BF16) == sizes.get(EXTRAS.get(update), 0)


def test_the_usual_recipes_in_bytes():
    total = lambda **options: sum(bytes_per_parameter(**options).values())  # noqa: E731
    assert total() == 16 == total(weights=BF16, update="master")
    assert total(weights=BF16, update="master", gradients=FP32) == 18
    assert total(weights=BF16, first_moment=BF16, second_moment=BF16) == 8
    assert total(weights=BF16, update="remainder") == 14 == total(weights=BF16, update="kahan")
    assert total(weights=BF16, first_moment=E4M3, second_moment=E4M3, block=256) == 4 + 2 + 8 / 256
    assert total(block=256) == 16 and total(update="kahan") == 20  # FP32 moments need no scales; a carry is as long as its weight
    assert total(optimizer="sgd", momentum=False) == 8 and total(optimizer="sgd") == 12
    assert bytes_per_parameter(copy=BF16)["copy"] == 2 and total(copy=BF16) == 18
    assert list(bytes_per_parameter(weights=BF16, update="kahan")) == ["weights", "gradients", "carry", "first moment", "second moment"]
    with pytest.raises(ValueError, match="adamw"):
        bytes_per_parameter("adam")
    with pytest.raises(ValueError, match="unknown"):
        bytes_per_parameter(update="none")

