"""Moved weights of a real step, counted by kind."""

import torch

from course.numerics import BF16, FP32
from course.training.models import GPT, GPTConfig
from course.training.moved import KINDS, kind_of_weight, moved_shares, snapshot


def test_every_weight_of_the_model_has_its_kind():
    model = GPT(GPTConfig(width=32, layers=2, context=8), 0)
    kinds = {name: kind_of_weight(name) for name, _ in model.named_parameters()}
    assert set(kinds.values()) == set(KINDS)
    assert sum(kind == "gains" for kind in kinds.values()) == 5 and sum(kind == "embeddings" for kind in kinds.values()) == 2
    assert all((p.dim() == 2) == (kinds[name] in ("matrices", "embeddings")) for name, p in model.named_parameters())


def test_shares_are_of_all_weights_of_a_kind_and_a_snapshot_stays():
    model = GPT(GPTConfig(width=32, layers=1, context=8), 0)
    before = snapshot(model)
    assert set(moved_shares(before, model, FP32).values()) == {0.0}
    with torch.no_grad():
        model.norm.weight[:8] += 1.0  # 8 of 96 gains
        model.head.weight.mul_(1 + 2**-12)  # moves in FP32; BF16 rounds nearly all of it away
    found, in_fp32 = moved_shares(before, model, BF16), moved_shares(before, model, FP32)
    matrices = sum(p.numel() for name, p in model.named_parameters() if kind_of_weight(name) == "matrices")
    assert found["gains"] == 8 / 96 and found["biases"] == found["embeddings"] == 0
    assert found["matrices"] == in_fp32["multiplied"] == model.head.weight.numel() / matrices
    assert 0 < found["multiplied"] < 0.2 * found["matrices"]
