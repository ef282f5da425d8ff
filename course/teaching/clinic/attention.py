"""Cases of attention: a mask that is too large for FP16, positions that BF16 does not have."""

import numpy as np
import torch
import torch.nn.functional as F

from .model import make_case, numbers, path_of

# ---- 13-18


def mask(seed):
    rng = np.random.default_rng(seed)
    keys = torch.tensor(rng.normal(size=(32, 12, 4)), dtype=torch.float32)
    values = torch.tensor(rng.normal(size=(32, 12)), dtype=torch.float32)
    length = torch.tensor(rng.integers(0, 13, 32))
    length[:2] = torch.tensor([0, 12])
    padding = (torch.arange(12) >= length[:, None]).float()
    exact = (keys @ torch.linspace(-2, 2, 4)).exp() * (1 - padding)
    target = (exact * values).sum(1) / exact.sum(1).clamp(min=1e-6)
    query = torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.Adam([query], lr=0.05)
    weights = []
    for step in range(200):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            scores = keys @ query
        scores = scores + (padding * -1e9).to(scores.dtype)
        attention = scores.softmax(1)
        output = (attention.float() * values).sum(1)
        used = length > 0
        loss = ((output - target) ** 2 * used).mean()
        loss.backward()
        optimizer.step()
        weights.append(query.detach().clone())
    return {"weights": weights, "attention": attention.detach().float()}


def _measure_mask(seed, record):
    path, attention = path_of(record), numbers(record["attention"])
    rng = np.random.default_rng(seed)
    rng.normal(size=(32, 12, 4)), rng.normal(size=(32, 12))
    length = rng.integers(0, 13, 32)
    length[:2] = 0, 12
    hidden = np.arange(12) >= length[:, None]
    truth = np.linspace(-2, 2, 4)
    left = float(np.mean((path[-1] - truth) ** 2) / np.mean(truth**2))
    seen = float((attention * hidden)[length > 0].sum(1).max())
    return {"loss": left if np.isfinite(left) else np.inf, "attention to padding": seen, "rows that are NaN": int(np.isnan(attention).any(1).sum())}


MASK = make_case(
    "13-18", mask,
    title="an attention that turns to NaN with the first empty sequence",
    group="attention", difficulty="medium", minutes=8,
    symptom="NaN from the first step on, though the loss leaves the empty sequences out.",
    why="-1e9 is -Inf in FP16, and a row in which everything is -Inf has no softmax: 0/0. The loss multiplies that row by 0, but 0 · NaN is NaN, and its gradient reaches the query. A mask within the format's range (torch.finfo(dtype).min, or -1e9 in FP32 scores), or no such row. Masks that are added up overflow again.",
    measure=_measure_mask,
    curve=lambda seed, record: [float(np.abs(row).max()) for row in path_of(record)],
    curve_label="largest number in the query",
    remedy="it still does not train: the query stays far from the one that made the targets.",
    findings=(
        ("a row of -Inf", lambda m: m["rows that are NaN"] > 0, "there are rows of NaN in the attention: everything in them is masked with -Inf, and such a row has no softmax."),
        ("NaN replaced", lambda m: m["loss"] == np.inf, "the attention shows no NaN any more, but the way back still goes through it, and the query is NaN."),
        ("a mask too weak", lambda m: m["attention to padding"] > 1e-3, "nothing is NaN, since padding is hardly masked now: the attention looks at positions that do not exist."),
    ),
    limit=0.02,
    fix=(("scores = keys @ query\n", "scores = (keys @ query).float()\n"),),
    hiding=(
        ("NaN replaced", (("attention = scores.softmax(1)", "attention = scores.softmax(1).nan_to_num()"),)),
        ("a mask too weak", (("-1e9", "-3.0"),)),
    ),
    others=(
        ("the format's own minimum", (("(padding * -1e9).to(scores.dtype)", "padding.to(scores.dtype) * torch.finfo(scores.dtype).min"),)),
        ("only sequences that exist", (("attention = scores.softmax(1)", "attention = torch.zeros(32, 12)\n        attention[length > 0] = scores[length > 0].softmax(1).float()"),)),
    ),
    hints=(
        "Which rows are NaN, and what is special about these sequences?",
        "What is -1e9 in FP16, and what is softmax of a row of which nothing is left?",
        "scores = (keys @ query).___()",
    ),
    threads=("huggingface/transformers #17306", "google/flax #982"),
)  # fmt: skip

# ---- 13-19


def rotary(seed):
    rng = np.random.default_rng(seed)
    late = torch.tensor(rng.integers(8, 2048, 256))
    distance = torch.tensor(rng.integers(0, 8, 256))
    target = (distance == 1).float()
    frequencies = torch.pi * 2.0 ** -torch.arange(0, 4, 0.25)
    positions = torch.arange(2048, dtype=torch.bfloat16)
    angles = positions[:, None] * frequencies
    turn = torch.polar(torch.ones(()), angles.float())
    query = torch.full((16,), 0.1, dtype=torch.complex64, requires_grad=True)
    bias = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.Adam([query, bias], lr=0.02)
    losses = []
    for step in range(300):
        optimizer.zero_grad()
        turned = turn[late] * turn[late - distance].conj()
        scores = (query * turned).sum(1).real + bias
        loss = F.mse_loss(scores, target)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return {"angles": angles, "losses": losses, "query": torch.view_as_real(query), "bias": bias}


def _measure_rotary(seed, record):
    rng = np.random.default_rng(seed)
    late, distance = rng.integers(8, 2048, 256), rng.integers(0, 8, 256)
    angles, query = numbers(record["angles"]), numbers(record["query"])
    found = len(np.unique(angles, axis=0))
    exact = np.arange(len(angles))[:, None] * (np.pi * 2.0 ** -np.arange(0, 4, 0.25))
    off = np.abs(np.exp(1j * angles) - np.exp(1j * exact)).max()
    reach = len(angles)
    if reach < 2048:
        return {"loss": np.inf, "positions": reach, "that differ": found, "largest error of a rotation": off}
    turn = np.exp(1j * angles)
    scores = (turn[late] * turn[late - distance].conj() @ (query[:, 0] + 1j * query[:, 1])).real + numbers(record["bias"])
    target = distance == 1
    return {"loss": float(np.mean((scores - target) ** 2) / np.mean((target - target.mean()) ** 2)), "positions": reach, "that differ": found, "largest error of a rotation": off}


ROTARY = make_case(
    "13-19", rotary,
    title="a position code that goes blind beyond 256",
    group="attention", difficulty="hard", minutes=12,
    symptom="A score that should depend only on the distance of two positions is learned, and its loss stops high. With positions below 256 the same trainer works.",
    why="BF16 has every whole number up to 256, then every second one, and near 2000 every eighth: neighbours get the same angle. Count positions in integers or FP32, multiply in FP32; cosines and sines may be rounded afterwards.",
    measure=_measure_rotary,
    curve=lambda seed, record: numbers(record["losses"]).tolist(),
    curve_label="loss",
    findings=(
        ("positions in BF16", lambda m: m["positions"] == 2048 and 257 < m["that differ"] < 2048, "of 2048 positions many have the same angles: they are still rounded to 8 significant bits before they are multiplied."),
        ("a shorter context", lambda m: m["positions"] < 2048, "the table of angles is shorter now: the fault is not met, because the positions that showed it are gone."),
        ("positions wrapped", lambda m: m["that differ"] <= 257 , "positions are counted modulo 256: each angle stands for eight places, and a distance across the border is wrong."),
        ("angles inexact", lambda m: m["largest error of a rotation"] > 0.1, "all angles differ, but some are far from position times frequency."),
    ),
    limit=0.3,
    fix=(("torch.arange(2048, dtype=torch.bfloat16)", "torch.arange(2048)"),),
    hiding=(
        ("a shorter context", (("2048, dtype", "256, dtype"), ("integers(8, 2048", "integers(8, 256"))),
        ("positions wrapped", (("torch.arange(2048, dtype=torch.bfloat16)", "(torch.arange(2048) % 256).bfloat16()"),)),
    ),
    others=(("rotations rounded afterwards", (("torch.arange(2048, dtype=torch.bfloat16)", "torch.arange(2048)"), ("torch.polar(torch.ones(()), angles.float())", "torch.complex(angles.cos().bfloat16().float(), angles.sin().bfloat16().float())"))),),
    hints=(
        "How many different rows does the table of angles have?",
        "Which whole numbers does BF16 have beyond 256?",
        "positions = torch.arange(2048, dtype=___)",
    ),
    threads=("huggingface/transformers #29285", "NVIDIA/TransformerEngine #1245"),
)  # fmt: skip

CASES = (MASK, ROTARY)
