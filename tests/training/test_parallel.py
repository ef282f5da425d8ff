"""Simulated data parallel training: autograd as the oracle of its gradients, and what sums and compressors do to a run."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from course.numerics import BF16, E5M2, FP32
from course.training.parallel import batch_for, compressed, compressed_mean, flat, losses_and_gradients, summed, train, weights_of
from course.training.reduction import ErrorFeedback, PowerSGD, all_reduce, random_k, short, top_k


def test_gradients_are_those_of_autograd():
    weights, (images, labels) = weights_of(3), batch_for(0, 0, 3, 5)
    losses, gradients = losses_and_gradients(weights, images, labels, loss_scale=8.0)
    for rank in range(3):
        leaves = [weight.clone().requires_grad_() for weight in weights]
        loss = F.cross_entropy((images[rank] @ leaves[0] + leaves[1]).relu() @ leaves[2] + leaves[3], labels[rank])
        loss.backward()
        assert losses[rank].item() == pytest.approx(loss.item(), rel=1e-6)
        for ours, leaf in zip(gradients, leaves, strict=True):
            torch.testing.assert_close(ours[rank], 8 * leaf.grad, rtol=1e-4, atol=1e-6)
    assert flat(gradients).shape == (3, 4810) and torch.equal(flat(gradients)[1, :4096], gradients[0][1].flatten())


def test_a_step_is_a_step_of_sgd_on_the_whole_batch():
    one, four = (train(summed(), ranks, 64 // ranks, 5, momentum=0.9) for ranks in (1, 4))
    assert one == pytest.approx(four, rel=1e-5) and train(summed(), 4, 16, 5, seed=1) != four
    images, labels = batch_for(0, 0, 1, 64)
    weights = [w.requires_grad_() for w in weights_of(0)]
    optimizer, losses = torch.optim.SGD(weights, lr=0.1, momentum=0.9), []
    for step in range(5):
        images, labels = batch_for(0, step, 1, 64)
        losses.append(F.cross_entropy((images[0] @ weights[0] + weights[1]).relu() @ weights[2] + weights[3], labels[0]))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert one == pytest.approx([loss.item() for loss in losses], rel=1e-4)


def test_a_sum_in_a_format_is_the_all_reduce():
    ranks = torch.from_numpy(np.float32(np.random.default_rng(0).normal(size=(6, 4, 5))))
    assert torch.equal(summed(BF16, "ring")(0, ranks), all_reduce(ranks.flatten(1), BF16, "ring").view(4, 5) / 6)


def test_each_process_has_a_compressor_of_its_own_for_each_weight():
    made = []

    def make():
        made.append(ErrorFeedback(short(E5M2)))
        return made[-1]

    way = compressed(make, whole=(3,))
    train(way, ranks=3, steps=2)
    assert len(made) == 9 and way.bits == 2 * (8 * (64 * 64 + 64 + 640) + 32 * 10)
    way = compressed_mean(lambda: PowerSGD(2))
    train(way, ranks=3, steps=1)
    assert way.bits == 32 * (2 * 128 + 2 * 74 + 64 + 10)


@pytest.mark.parametrize("seed", range(5))
def test_error_feedback_is_what_makes_a_compressor_train(seed):
    ends = {}
    for name, way in {
        "exact": summed(), "top": compressed(lambda: top_k(0.01)), "top with memory": compressed(lambda: ErrorFeedback(top_k(0.01))),
        "power": compressed_mean(lambda: PowerSGD(1)), "power with memory": compressed_mean(lambda: ErrorFeedback(PowerSGD(1))),
    }.items():  # fmt: skip
        ends[name] = np.mean(train(way, steps=150, seed=seed)[-20:])
    assert ends["top"] > 2.5 * ends["exact"] and ends["power"] > 2.5 * ends["exact"], ends
    assert ends["top with memory"] < 1.3 * ends["exact"] and ends["power with memory"] < 1.3 * ends["exact"], ends


def test_a_memory_needs_a_compressor_that_sends_no_more_than_it_got():
    def way(unbiased):
        return compressed(lambda: ErrorFeedback(random_k(0.01, torch.Generator().manual_seed(5), unbiased)))

    assert not np.isfinite(train(way(True), steps=150)[-1]) and train(way(False), steps=150)[-1] < 1.5 * train(summed(), steps=150)[-1] + 0.5


def test_fp32_does_not_mind_the_order():
    assert train(summed(FP32, "ring"), 8, 8, 10) == pytest.approx(train(summed(FP32, "tree"), 8, 8, 10), rel=1e-5)
