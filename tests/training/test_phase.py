"""The phase diagram and what it is trained on: its conditions reach the sweep, its record is whole and true."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from course.numerics import BF16, E4M3, FP16, FP32
from course.numerics.rounding import round_to
from course.numerics.scales import scaled
from course.training import RunError, digits, phase, waves
from course.training.models import MLP
from course.training.phase import Condition, format_of
from course.training.recipes import Recipe
from course.training.sweeps import Trial, sweep

# ---- waves

FIRST, TOTAL, LABELS = [112, 177, 163, 160, 180, 145], 20615864, [2, 5, 4, 8, 6, 7, 5, 3]


def test_waves_are_pictures_of_ten_kinds_that_no_single_pixel_tells():
    data = waves.load()
    images, labels = torch.cat([data.train_images, data.test_images]), torch.cat([data.train_labels, data.test_labels])
    assert images.shape == (5000, 40) and images.dtype == torch.float32 and labels.dtype == torch.int64
    assert torch.equal(images * 256, (images * 256).round()) and 0 <= images.min() < images.max() <= 1
    assert min(np.bincount(labels, minlength=10)) > 400 and len(np.bincount(labels)) == 10
    for pixel in range(40):  # the best guess from one brightness, in 17 steps
        counts = torch.zeros(17, 10).index_put_(((images[:, pixel] * 16).int(), labels), torch.ones(5000), accumulate=True)
        assert counts.max(1).values.sum() / 5000 < 0.3


def test_waves_are_the_same_everywhere():
    data = waves.load()
    assert (data.train_images[0, :6] * 256).int().tolist() == FIRST
    assert int((data.train_images * 256).sum()) == TOTAL and data.train_labels[:8].tolist() == LABELS


# ---- what the sweep gained


def test_a_sweep_takes_other_pictures_and_says_when_they_do_not_fit():
    data = waves.load()
    result = sweep([Trial("fp32", seed=3)], widths=(40, 16, 10), steps=2, batch=8, data=data)
    images, labels = data.batch(3, 0, 8)
    assert result.losses[0, 0] == pytest.approx(F.cross_entropy(MLP((40, 16, 10), 3)(images), labels).item(), rel=1e-6)
    with pytest.raises(RunError, match="widths begin with 64, the pictures have 40"):
        sweep([Trial("fp32")], widths=(64, 10), steps=1, data=data)


def test_gradients_may_overflow_otherwise_than_activations():
    tiny = format_of(2, 2)  # its largest number is 3.5
    recipe = Recipe("tiny", FP32, tiny, tiny, FP32)
    options = {"widths": (64, 16, 10), "steps": 3, "batch": 8, "initial_gain": 3.0}
    big = [Trial(recipe, loss_weight=1e4, skip=True)]
    saturated = sweep(big, overflow="saturate", **options)
    assert not saturated.skipped.any()
    ieee = sweep(big, overflow="saturate", gradient_overflow="ieee", **options)
    assert ieee.skipped.all() and np.isfinite(ieee.losses).all()  # forward still saturates
    assert np.array_equal(saturated.losses[0], ieee.losses[0])


def test_tensor_scales_are_current_scaling_of_each_row():
    """One linear layer: its loss is that of a product whose operands are scaled, rounded and scaled back."""
    recipe = Recipe("e4m3", E4M3, E4M3, FP32, FP32, master=FP32)
    options = {"widths": (64, 10), "steps": 1, "batch": 16, "overflow": "saturate"}
    found = sweep([Trial(recipe), Trial(recipe, seed=1)], tensor_scales=True, **options).losses[0]
    for seed in (0, 1):
        images, labels = digits.load().batch(seed, 0, 16)
        layer = MLP((64, 10), seed).layers[0]

        def short(x):
            return scaled(x.detach(), E4M3, power_of_two=True).dequantise()

        logits = short(short(images) @ short(layer.weight).T + short(layer.bias))
        assert found[seed] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-6)
    plain = sweep([Trial(recipe)], **options).losses[0]
    assert plain[0] != found[0]


def test_tensor_scales_leave_zeros_and_lost_rows_alone():
    from course.training.sweeps import _Rounding

    rounding = _Rounding("saturate", "ieee", tensor_scales=True)
    x = torch.tensor([[0.0, 0.0], [1e-30, 3e-30], [np.inf, 1.0], [3e38, 1.0]])
    found = rounding.backward(x, FP16)
    assert torch.equal(found[0], x[0]) and found[2, 0] == torch.inf and found[2, 1] == 1
    assert torch.allclose(found[3], torch.tensor([3e38, 0.0]), rtol=1e-3)
    assert found[1, 1] == 0  # below 1e-12 a tensor is counted as 1e-12: what is smaller still is lost


# ---- the diagram


def test_the_diagram_holds_77_formats_and_28_conditions():
    assert [f.name for f in phase.formats()][:12] == [f"E2M{m}" for m in range(11)] + ["E3M0"] and len(phase.formats()) == 77
    every = phase.conditions()
    assert len(every) == len({c.key for c in every}) == 28
    assert format_of(5, 10).max == FP16.max and format_of(8, 7).min_subnormal == BF16.min_subnormal
    with pytest.raises(RunError, match="stored='kahan' is unknown: choose one of master, nearest, stochastic"):
        Condition(stored="kahan")


def test_a_condition_reaches_the_sweep():
    chosen = [format_of(8, 3)]

    def final(**words):
        return phase.train(Condition(**words), chosen, steps=6).losses[-1, 0]

    losses = {name: final(**words) for name, words in {
        "plain": {}, "nearest": {"stored": "nearest"}, "dice": {"stored": "stochastic"}, "slow": {"lr": 2e-4},
        "waves": {"task": "waves", "lr": 4e-3}}.items()}  # fmt: skip
    assert len(set(losses.values())) == 5
    assert final(scaling="loss") == losses["plain"]  # where the range suffices, a loss scale changes nothing
    short = [format_of(4, 3)]
    assert phase.train(Condition(scaling="loss"), short, steps=6).scales[0, 0] == 2.0**16
    assert (phase.train(Condition(scaling="loss"), short, steps=6).skipped[0, 0], phase.train(Condition(), short, steps=6).skipped.any()) == (True, False)
    tensor, loss = (phase.train(Condition(scaling=s), short, steps=6) for s in ("tensor", "loss"))
    assert not tensor.skipped.any() and tensor.losses[-1, 0] != loss.losses[-1, 0]


def test_what_the_record_says_of_scale_and_dice_is_what_runs():
    grown = phase.train(Condition(scaling="loss"), [format_of(8, 10)], steps=52).scales[:, 0]
    assert phase.configuration()["growth_interval"] == 50 and set(grown[:50]) == {2.0**16} and set(grown[50:]) == {2.0**17}
    fmt, options = format_of(8, 3), {"steps": 3, "batch": 64, "lr": 2e-3, "update": "stochastic", "initial_gain": phase.GAIN}
    own = phase.train(Condition(stored="stochastic"), [fmt], seed=3, steps=3)
    recipe = Recipe("own", fmt, fmt, fmt, fmt)
    for seed, same in ((3, True), (0, False)):  # each seed throws its own dice
        dice = torch.Generator().manual_seed(seed)
        other = sweep([Trial(recipe, 3, skip=True)], widths=(64, *phase.HIDDEN, 10), overflow="saturate", generator=dice, **options)
        assert np.array_equal(own.losses, other.losses) == same


def test_the_record_is_whole():
    record = phase.load()
    assert record.provenance["configuration"] == json.loads(json.dumps(phase.configuration()))
    assert set(record.diagrams) == {c.key for c in phase.conditions()}
    for condition in phase.conditions():
        reference = record.reference(condition)
        assert record.final(condition).shape == (7, 11, 5) and np.isfinite(reference).all()
        assert record.curve(condition, 8, 7).shape == (15,) and 0 <= record.skipped(condition, 2, 0) <= 1
    for (e, m), words in {(9, 0): "E9M0", (2, 11): "E2M11"}.items():
        with pytest.raises(RunError, match=f"{words} is outside of the diagram"):
            record.curve(Condition(), e, m)
    with pytest.raises(RunError, match="no diagram was recorded for 'digits 1 master none'"):
        record.final(Condition(lr=1.0))


@pytest.mark.parametrize("condition", [Condition(), Condition(stored="nearest", scaling="loss"), Condition("waves", 4e-3)], ids=lambda c: c.key)
def test_the_record_can_be_measured_again(condition):
    """Some formats on one seed, far from the borders of the diagram: the recorded loss again, but for the order of sums."""
    chosen, seed = [(5, 10), (8, 3), (8, 7), (2, 1)], 2
    again = phase.train(condition, [*(format_of(e, m) for e, m in chosen), FP32], seed).final
    final, reference = phase.load().final(condition), phase.load().reference(condition)
    for (e, m), loss in zip(chosen, again):
        scatter = np.ptp(final[e - 2, m]) + 0.02 * final[e - 2, m, seed]
        assert loss == pytest.approx(final[e - 2, m, seed], abs=scatter), (e, m)
    assert again[-1] == pytest.approx(reference[seed], abs=np.ptp(reference))


def test_numbers_are_shortened_and_losses_that_are_none_become_null():
    assert phase._plain(np.array([0.123456, np.nan, np.inf])) == [0.1235, None, None]


def test_rounding_of_a_trial_is_that_of_its_format():
    result = phase.train(Condition(stored="nearest"), [format_of(5, 2)], steps=2)
    assert all(torch.equal(w, round_to(w, format_of(5, 2))) for layer in result.weights for w in layer)


def test_a_measured_diagram_holds_medians_of_curves_and_means_of_skips(monkeypatch):
    class Fake:
        def __init__(self, seed):
            self.losses = np.full((phase.STEPS, 78), [0.0, 1.0, 2.0, 3.0, 100.0][seed])
            self.losses[: phase.WINDOW] += np.arange(phase.WINDOW)[:, None]
            self.final, self.skipped = self.losses[-1], np.arange(phase.STEPS)[:, None] < [0, 30, 30, 30, 60][seed]

    monkeypatch.setattr(phase, "train", lambda condition, chosen, seed: Fake(seed))
    found = phase.measure(Condition())
    assert found["final"] == [[0.0, 1.0, 2.0, 3.0, 100.0]] * 78
    assert found["curve"] == [[11.5, *[2.0] * 14]] * 78 and found["skipped"] == [0.1]
