"""Sums over processes: by hand in numpy's types, the real collective as the oracle where there is one, and compressors' promises."""

import numpy as np
import pytest
import torch

from course.numerics import BF16, E4M3, E5M2, FP16, FP32
from course.training import RunError
from course.training.reduction import ErrorFeedback, PowerSGD, all_reduce, random_k, scaled_short, short, top_k


def parts(count, size=37, seed=0, scale=1.0):
    return torch.from_numpy((scale * np.random.default_rng(seed).normal(size=(count, size))).astype(np.float32))


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_the_ring_by_hand(count):
    ranks = parts(count)
    short_ranks = ranks.numpy().astype(np.float16)
    expected = []
    for number in range(37):
        start = number * count // 37
        total = short_ranks[start, number]
        for step in range(1, count):
            total = total + short_ranks[(start + step) % count, number]
        expected.append(float(total))
    assert all_reduce(ranks, FP16, "ring").tolist() == expected


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_the_tree_by_hand(count):
    level = list(parts(count).numpy().astype(np.float16))
    while len(level) > 1:
        level = [sum(level[i : i + 2][1:], level[i]) for i in range(0, len(level), 2)]
    assert all_reduce(parts(count), FP16, "tree").tolist() == level[0].astype(float).tolist()


def test_two_ranks_know_no_order():
    ranks = parts(2)
    first, second, wide = (all_reduce(ranks, BF16, order) for order in ("ring", "tree", "wide"))
    assert torch.equal(first, second) and torch.equal(first, wide)
    assert torch.equal(first, (ranks[0].bfloat16() + ranks[1].bfloat16()).float())


@pytest.mark.parametrize("seed", range(5))
def test_a_long_ring_in_bf16_drifts_and_the_others_do_not(seed):
    ranks = parts(512, seed=seed) + 0.1
    exact = ranks.double().sum(0)
    error = {order: ((all_reduce(ranks, BF16, order) - exact).norm() / exact.norm()).item() for order in ("ring", "tree", "wide")}
    assert error["ring"] > 3 * error["tree"] and error["wide"] < error["tree"], error
    assert ((all_reduce(ranks, FP32, "ring") - exact).norm() / exact.norm()).item() < 1e-5


def test_fp16_sums_overflow_unless_the_parts_are_divided_first():
    ranks = 200 + parts(512)
    assert all_reduce(ranks, FP16).isinf().all() and all_reduce(ranks / 512, FP16).isfinite().all()
    assert all_reduce(1e6 * parts(4), E5M2).isinf().any()


def test_mistakes_are_told():
    with pytest.raises(RunError, match="order='star' is unknown: choose one of ring, tree, wide"):
        all_reduce(parts(2), order="star")
    with pytest.raises(RunError, match="give one float32 row per process"):
        all_reduce(parts(2).double())
    with pytest.raises(RunError, match=r"share=0: give a number above 0"):
        top_k(0)(torch.ones(3))
    with pytest.raises(RunError, match=r"shape \(3,\) is no matrix: send it whole"):
        PowerSGD(1)(torch.ones(3))


def test_what_compressors_send():
    x = parts(8, 16)
    assert short(BF16)(x).bits == 16 * 128 and torch.equal(short(BF16)(x).values, x.bfloat16().float())
    sent = top_k(0.25)(x)
    assert (sent.values != 0).sum() == 32 and sent.bits == 32 * 64 and top_k(0.25, index_bits=16)(x).bits == 32 * 48
    assert sent.values.abs()[sent.values != 0].min() >= (x - sent.values).abs().max()
    dice = torch.Generator().manual_seed(0)
    mean = torch.stack([random_k(0.25, dice)(x).values for _ in range(4000)]).mean(0)
    assert (mean - x).abs().max() < 0.25 and random_k(0.25, dice)(x).bits == 32 * 32
    assert top_k(0.01)(torch.ones(3)).bits == 64  # one number at least


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_power_sgd_finds_the_best_thin_product_when_asked_again(rank):
    x = parts(12, 9, seed=3)
    compress = PowerSGD(rank)
    first = (compress(x).values - x).norm()
    for _ in range(60):
        sent = compress(x)
    left, sizes, right = torch.linalg.svd(x)
    best = (x - left[:, :rank] @ torch.diag(sizes[:rank]) @ right[:rank]).norm()
    assert best <= (sent.values - x).norm() * 1.00001 < 1.01 * best < first
    assert sent.bits == 32 * rank * 21 and torch.linalg.matrix_rank(sent.values) == rank


@pytest.mark.parametrize("make", [lambda: top_k(0.1), lambda: short(E5M2), lambda: PowerSGD(1)], ids=["top-k", "fp8", "power"])
def test_error_feedback_loses_nothing_for_good(make):
    with_memory, without = ErrorFeedback(make()), make()
    sent, lost, wanted = torch.zeros(8, 16), torch.zeros(8, 16), torch.zeros(8, 16)
    steady = parts(8, 16, seed=9)
    for step in range(200):
        x = steady + parts(8, 16, seed=100 + step, scale=0.1)
        sent, lost, wanted = sent + with_memory(x).values, lost + without(x).values, wanted + x
    assert torch.allclose(sent + with_memory.memory, wanted, atol=1e-3)
    assert (sent - wanted).norm() < 0.1 * wanted.norm() and (sent - wanted).norm() < 0.5 * (lost - wanted).norm()


def test_a_scale_of_its_own_brings_small_gradients_into_eight_bits():
    x = parts(8, 16, scale=2.0**-20)
    assert not short(E4M3)(x).values.any() and short(E4M3)(x).bits == 8 * 128
    for block, scales in ((None, 1), ((1, 4), 32)):
        sent = scaled_short(E4M3, block)(x)
        assert ((sent.values - x).norm() / x.norm()) < 0.05 and sent.bits == 8 * 128 + 32 * scales
    assert torch.equal(scaled_short(E4M3)(x).values.abs().max(), x.abs().max())


def test_random_places_with_and_without_the_factor():
    x = torch.ones(100)
    pairs = [random_k(0.25, torch.Generator().manual_seed(0), unbiased)(x) for unbiased in (True, False)]
    assert torch.equal(pairs[0].values, 4 * pairs[1].values) and pairs[0].values.sum() == 100 and pairs[0].bits == pairs[1].bits
