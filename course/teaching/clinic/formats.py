"""Cases of a format that is too short for what it holds: weights, an epsilon, gains, logits."""

import numpy as np
import torch
import torch.nn.functional as F

from .model import SWITCHED_OFF, distance_from_exact, line_task, loss_curve, loss_left, make_case, numbers, path_of

# ---- 13-6


def half(seed):
    rng = np.random.default_rng(seed)
    x = torch.tensor(rng.normal(size=(128, 8)), dtype=torch.float32)
    y = x @ torch.linspace(1.5, 1.9, 8)
    model = torch.nn.Linear(8, 1, bias=False).half()
    torch.nn.init.constant_(model.weight, 1.25)
    optimizer = torch.optim.SGD(model.parameters(), lr=8e-4)
    weights = []
    for step in range(2000):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            output = model(x)
        loss = F.mse_loss(output.float().squeeze(1), y)
        (loss * 128).backward()
        model.weight.grad /= 128
        optimizer.step()
        if step % 20 == 0:
            weights.append(model.weight.detach().clone())
    return {"weights": weights}


def _measure_half(seed, record):
    (x, y), path = line_task(seed, truth=(1.5, 1.9)), path_of(record)
    short = float((path == path.astype(np.float16)).mean())
    return {"loss": loss_left(path[-1], x, y, 1.25), "first update": float(np.abs(path[0] - 1.25).max()), "share of the weights that are FP16 numbers": short, "distance from an FP32 run": distance_from_exact(path, x, y, 8e-4, 1.25, 20)}


HALF = make_case(
    "13-6", half,
    title="a model that learns for a while and then stands still",
    group="formats", difficulty="easy", minutes=6,
    symptom="The loss falls at first, then stays, far from what the same trainer reaches in FP32. The gradients are not zero and not small.",
    why="model.half() makes the weights themselves FP16, and the optimizer adds its updates to them: what is less than half an ulp is lost. (It is also the reason why torch's scaler refuses with “Attempting to unscale FP16 gradients”.) Keep the weights in FP32; autocast casts them for each product.",
    measure=_measure_half,
    curve=lambda seed, record: loss_curve(path_of(record), *line_task(seed, truth=(1.5, 1.9)), 1.25),
    findings=(
        ("FP16 weights", lambda m: m["share of the weights that are FP16 numbers"] == 1 and m["first update"] < 0.005, "each weight after each step is an FP16 number: the optimizer still updates FP16 weights, and updates below half an ulp are lost."),
        ("learning rate raised", lambda m: m["first update"] > 0.005, "a larger learning rate lifts the updates over half an ulp, for a while. It is another training, and the loss will stop at another height."),
        ("precision switched off", lambda m: m["distance from an FP32 run"] < 8e-6, SWITCHED_OFF),
    ),
    limit=0.03,
    fix=((".half()", ""),),
    hiding=(("learning rate raised", (("lr=8e-4", "lr=2e-2"),)), ("precision switched off", ((".half()", ""), ("torch.float16)", "torch.float16, enabled=False)")))),
    others=(("FP32 masters by hand", (
        ("    optimizer =", "    master = torch.full((1, 8), 1.25, requires_grad=True)\n    optimizer ="),
        ("SGD(model.parameters()", "SGD([master]"),
        ("        model.weight.grad /= 128\n", "        master.grad = model.weight.grad.float() / 128\n        model.zero_grad()\n"),
        ("optimizer.step()\n", "optimizer.step()\n        model.weight.data.copy_(master)\n"),
        ("model.weight.detach()", "master.detach()"),
    )),),
    hints=(
        "How many of the weights still move, and how large is an ulp of FP16 beside an update?",
        "Under autocast the products are FP16 anyway. What has to be FP16 about the weights?",
        "model = torch.nn.Linear(8, 1, bias=False)___",
    ),
    threads=("pytorch/pytorch #74739", "facebookresearch/fairscale #834"),
)  # fmt: skip

# ---- 13-7


def epsilon(seed):
    rng = np.random.default_rng(seed)
    sizes = torch.tensor([1.0, 1.0, 0.01, 0.0])
    tokens = torch.eye(4).repeat(32, 1) * sizes
    x = torch.tensor(rng.normal(size=(128, 1)), dtype=torch.float32) * tokens
    y = x @ torch.tensor([0.5, -0.5, 0.5, 0.5])
    model = torch.nn.Linear(4, 1, bias=False).half()
    torch.nn.init.zeros_(model.weight)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    weights = []
    for step in range(150):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            output = model(x)
        F.mse_loss(output.float().squeeze(1), y).backward()
        optimizer.step()
        weights.append(model.weight.detach().clone())
    return {"weights": weights}


def _measure_epsilon(seed, record):
    path = path_of(record)
    off = np.abs(path[-1] - np.array([0.5, -0.5, 0.5, path[-1][3]])).max()
    first = np.abs(path[0])
    return {"loss": off**2 if np.isfinite(path).all() else np.inf, "first move of the third weight": first[2], "of the first": first[0], "of the fourth": first[3]}


EPSILON = make_case(
    "13-7", epsilon,
    title="weights that are NaN after one step of Adam",
    group="formats", difficulty="medium", minutes=8,
    symptom="After the first step some weights are not finite, and then all outputs are NaN. The loss of the first step was fine, and so were its gradients.",
    why="Adam's state has the dtype of the weights. In FP16 its eps of 1e-8 is 0, and so is the square of a small gradient: 0/0 is NaN, and m/0 is infinite. A larger eps hides that and freezes every weight with small gradients. FP32 weights have FP32 states.",
    measure=_measure_epsilon,
    curve=lambda seed, record: [float(np.abs(row).max()) for row in path_of(record)],
    curve_label="largest weight",
    remedy="it still does not train: not all of the first three weights reach ±0.5.",
    findings=(
        ("eps is zero in FP16", lambda m: not m["first move of the third weight"] < 1 or not m["of the fourth"] < 1, "a weight is not finite, or leaps, after the first step: m is still divided by a root plus eps that are both zero in FP16."),
        ("a larger eps", lambda m: 0 < m["first move of the third weight"] < 0.5 * m["of the first"], "all is finite, but Adam's first step is as long as the learning rate for every weight, and that of the third is much shorter: the larger eps outweighs its small gradients."),
        ("not finite replaced", lambda m: m["first move of the third weight"] == 0, "what was not finite is zero now, so the third weight never learns: its gradient is small, not absent."),
    ),
    fix=((".half()", ""),),
    limit=0.01,
    hiding=(
        ("a larger eps", (("lr=0.01)", "lr=0.01, eps=1e-3)"),)),
        ("not finite replaced", (("        optimizer.step()\n", "        before = model.weight.detach().clone()\n        optimizer.step()\n        good = model.weight.detach().isfinite()\n        model.weight.data = torch.where(good, model.weight.data, before)\n"),)),
    ),
    others=(("FP32 masters by hand", (
        ("    optimizer =", "    master = torch.zeros(1, 4, requires_grad=True)\n    optimizer ="),
        ("Adam(model.parameters()", "Adam([master]"),
        ("        optimizer.step()\n", "        master.grad = model.weight.grad.float()\n        model.zero_grad()\n        optimizer.step()\n        model.weight.data.copy_(master)\n"),
        ("model.weight.detach()", "master.detach()"),
    )),),
    hints=(
        "Which weights are lost first, and what is special about their gradients?",
        "Adam divides by √v + eps. What are v and eps if they are FP16 numbers and the gradient is 1e-5, or 0?",
        "model = torch.nn.Linear(4, 1, bias=False)___",
    ),
    threads=("pytorch/pytorch #8860", "google-deepmind/optax #1754"),
)  # fmt: skip

# ---- 13-8


def gains(seed):
    rng = np.random.default_rng(seed)
    x = torch.tensor(rng.normal(size=(128, 8)), dtype=torch.float32)
    target = F.rms_norm(x, [8]) * torch.linspace(1.1, 1.3, 8)
    gain = torch.nn.Parameter(torch.ones(8, dtype=torch.bfloat16))
    shift = torch.nn.Parameter(torch.full((8,), 0.1, dtype=torch.bfloat16))
    optimizer = torch.optim.Adam([gain, shift], lr=1e-3)
    weights, shifts = [], []
    for step in range(500):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            normed = F.rms_norm(x, [8])
            output = normed * gain + shift
        F.mse_loss(output.float(), target).backward()
        optimizer.step()
        weights.append(gain.detach().clone())
        shifts.append(shift.detach().clone())
    return {"gains": weights, "shifts": shifts}


def _measure_gains(seed, record):
    path, shifts = path_of(record, "gains"), path_of(record, "shifts")
    truth = np.linspace(1.1, 1.3, 8)
    left = float(np.mean((path[-1] - truth) ** 2) / np.mean((1 - truth) ** 2))
    steps = np.abs(np.diff(path, axis=0))
    return {"loss": left, "gains at 1.0 in the end": int((path[-1] == 1).sum()), "shift left": float(np.abs(shifts[-1]).max()), "first gain": path[0][0], "median step": float(np.median(steps[:40]))}


GAINS = make_case(
    "13-8", gains,
    title="norm weights that are exactly 1.0 after the training",
    group="formats", difficulty="easy", minutes=5,
    symptom="A share of the loss goes quickly, the rest stays. In the checkpoint all gains of the norm are 1.0, to the last bit.",
    why="The ulp of BF16 is 2⁻⁷ above 1 and 2⁻⁸ below: Adam's steps of 0.001 are less than half of either, so a gain that begins at 1.0 stays there. Parameters in FP32, or a gain stored as its distance from 1, where the ulps are small.",
    measure=_measure_gains,
    curve=lambda seed, record: [float(np.mean((row - np.linspace(1.1, 1.3, 8)) ** 2)) for row in path_of(record, "gains")],
    curve_label="mean square of what the gains are off",
    remedy="it still does not train: the gains are far from those that made the targets.",
    findings=(
        ("gains stuck at 1.0", lambda m: m["gains at 1.0 in the end"] > 0, "there are still gains that are 1.0 to the last bit: an update of 0.001 is less than half an ulp of BF16 there."),
        ("learning rate raised", lambda m: m["median step"] > 0.0025, "the gains move, in steps of whole ulps: with the larger learning rate they hop around their targets, and all other weights got it as well."),
        ("another start", lambda m: m["first gain"] < 0.9, "a start at a small number has finer ulps, but the norm is another one now, and a gain that grows to 1 sticks there later."),
    ),
    limit=0.1,
    fix=(("torch.ones(8, dtype=torch.bfloat16)", "torch.ones(8)"), ("torch.full((8,), 0.1, dtype=torch.bfloat16)", "torch.full((8,), 0.1)")),
    hiding=(
        ("learning rate raised", (("lr=1e-3", "lr=1e-2"),)),
        ("another start", (("torch.ones(8, dtype=torch.bfloat16)", "torch.full((8,), 0.5, dtype=torch.bfloat16)"),)),
    ),
    others=(("stored as the distance from 1", (("torch.ones(8, d", "torch.zeros(8, d"), ("normed * gain", "normed * (1 + gain.float())"), ("gain.detach()", "(1 + gain.detach().float())"))),),
    hints=(
        "Which parameters moved, and which did not? What is special about where these began?",
        "Compare the step, 0.001, with half an ulp of BF16 at 1.0 and at 0.1.",
        "gain = torch.nn.Parameter(torch.ones(8, dtype=___))",
    ),
    threads=("fla-org/flame #47", "fla-org/flash-linear-attention #676"),
)  # fmt: skip

# ---- 13-9


def crossed(seed):
    rng = np.random.default_rng(seed)
    x = torch.tensor(rng.normal(size=(256, 6)), dtype=torch.float32)
    labels = (x @ torch.tensor(rng.normal(size=(6, 5)), dtype=torch.float32)).argmax(1)
    w = torch.zeros(6, 5, requires_grad=True)
    bias = torch.full((5,), 96.0)
    best, since, weights, losses = float("inf"), 0, [], []
    for step in range(400):
        with torch.autocast("cpu", torch.bfloat16):
            logits = (x @ w + bias).bfloat16()
        chosen = logits[torch.arange(256), labels]
        loss = (torch.logsumexp(logits, 1) - chosen).mean()
        (gradient,) = torch.autograd.grad(loss, w)
        w = (w - 0.5 * gradient).detach().requires_grad_()
        weights.append(w.detach().clone())
        losses.append(loss.item())
        best, since = (loss.item(), 0) if loss.item() < best else (best, since + 1)
        if since >= 10:
            break
    return {"weights": weights, "losses": losses}


def _measure_crossed(seed, record):
    path, losses = path_of(record), numbers(record["losses"])
    rng = np.random.default_rng(seed)
    x = torch.tensor(rng.normal(size=(256, 6)), dtype=torch.float32)
    labels = (x @ torch.tensor(rng.normal(size=(6, 5)), dtype=torch.float32)).argmax(1)
    true = [float(F.cross_entropy(x.double() @ torch.tensor(row).view(6, 5), labels)) for row in path[:-1]]
    off = max(abs(a - b) for a, b in zip(true[:50], losses[1:51]))
    return {"loss": true[-1] / np.log(5), "steps": len(path), "losses that differ": len(set(losses.tolist())) / len(losses), "largest error of a loss": off}


CROSSED = make_case(
    "13-9", crossed,
    title="a loss that comes down a staircase, and a training that stops early",
    group="formats", difficulty="medium", minutes=10,
    symptom="The loss comes down a staircase: it repeats values that it had before. The trainer stops when it has not improved for ten steps, and so ends far too early.",
    why="Logits near 96 have an ulp of 1/2 in BF16, and each loss is a difference of two such numbers. Autocast on CUDA would cast cross_entropy up to FP32; by hand, or under a policy that casts everything, nobody does. One .float() on the logits keeps the sum of exponentials, the difference and their gradient long.",
    measure=_measure_crossed,
    curve=lambda seed, record: numbers(record["losses"]).tolist(),
    curve_label="loss",
    findings=(
        ("cross-entropy in BF16", lambda m: m["largest error of a loss"] > 0.02 and m["steps"] < 400, "the losses are still far from those of the same weights in FP64: logits, or the sum of their exponentials, are BF16 numbers."),
        ("patience raised", lambda m: m["largest error of a loss"] > 0.02, "the training goes on, but its loss is as wrong as before: whoever compares two runs by it compares rounding errors."),
    ),
    limit=0.2,
    fix=(("(x @ w + bias).bfloat16()", "(x @ w).float() + bias"),),
    hiding=(("patience raised", (("since >= 10", "since >= 1000"),)),),
    others=(("no autocast around the head", (('        with torch.autocast("cpu", torch.bfloat16):\n            logits = (x @ w + bias).bfloat16()\n', "        logits = x @ w + bias\n"),)),),
    hints=(
        "How many different losses are there? What is the ulp of BF16 at 96?",
        "The product may be short. From which line on must the numbers be long?",
        "logits = (x @ w).___() + bias",
    ),
    threads=("Modalities/modalities #464", "google-deepmind/optax #1020"),
)  # fmt: skip

CASES = (HALF, EPSILON, GAINS, CROSSED)
