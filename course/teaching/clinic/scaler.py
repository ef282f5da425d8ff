"""Cases of the loss scaler: the order of its calls, what it is not to blame for, and when it must not be made anew."""

import numpy as np
import torch
import torch.nn.functional as F

from .model import SWITCHED_OFF, distance_from_exact, lengths, line_task, loss_curve, loss_left, make_case, numbers, path_of, rates

# ---- 13-1


def clip(seed):
    rng = np.random.default_rng(seed)
    x = torch.tensor(rng.normal(size=(128, 8)), dtype=torch.float32)
    y = x @ torch.linspace(-0.5, 0.5, 8)
    model = torch.nn.Linear(8, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14)
    weights = []
    for step in range(60):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            output = model(x)
        loss = F.mse_loss(output.float().squeeze(1), y)
        scaler.scale(loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        weights.append(model.weight.detach().clone())
    return {"weights": weights, "scale": scaler.get_scale()}


def _measure_clip(seed, record):
    (x, y), path = line_task(seed), path_of(record)
    steps = lengths(path)
    return {"loss": loss_left(path[-1], x, y), "longest update": steps.max(), "last update": steps[-1], "scale": float(record["scale"]), "distance from an FP32 run": distance_from_exact(path, x, y, 0.1, longest=1.0)}


CLIP = make_case(
    "13-1", clip,
    title="a trainer that clips its gradients and hardly moves",
    group="scaler", difficulty="easy", minutes=6,
    symptom="The loss stays where it began. No NaN, no skipped step, no warning; the gradients look healthy.",
    why="clip_grad_norm_ sees gradients that are still multiplied by the loss scale: it cuts them to length 1, and unscaling then divides that by the scale. First scaler.unscale_(optimizer), then clip; step knows that it was done.",
    measure=_measure_clip,
    curve=lambda seed, record: loss_curve(path_of(record), *line_task(seed)),
    findings=(
        ("clipped before unscale", lambda m: m["longest update"] < 0.01, "the gradients are still clipped while they carry the loss scale, so that unscaling makes each update thousands of times too short."),
        ("learning rate raised", lambda m: m["last update"] > 0.02, "a larger learning rate makes up for the scale, but each update now has the same length, clipped or not, and the weights never settle."),
        ("no clipping", lambda m: m["longest update"] > 0.11, "the first update is longer than learning rate times 1: the gradients are not clipped any more. The clipping was wanted; it came at the wrong time."),
        ("precision switched off", lambda m: m["distance from an FP32 run"] < 1e-6, SWITCHED_OFF),
        ("scale turned off", lambda m: m["scale"] < 256, "with so small a scale the wrong order hardly shows. But the scale is there for gradients that FP16 would flush, and a scaler raises it again: keep it, and put the calls in order."),
    ),
    fix=(("        torch.nn.utils.clip", "        scaler.unscale_(optimizer)\n        torch.nn.utils.clip"),),
    hiding=(
        ("learning rate raised", (("lr=0.1", "lr=0.1 * 2**14"),)),
        ("no clipping", (("        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n", ""),)),
        ("precision switched off", (("torch.float16)", "torch.float16, enabled=False)"), ('"cpu", init_scale=2.0**14', '"cpu", enabled=False'))),
        ("scale turned off", (("init_scale=2.0**14", "init_scale=1.0"),)),
    ),
    others=(("the border scaled as well", (("(), 1.0)", "(), 1.0 * scaler.get_scale())"),)),),
    hints=(
        "How long is one update, and how long should it be with this learning rate and this clipping?",
        "Which numbers does clip_grad_norm_ see: gradients, or gradients times the scale? The scaler has a call that divides early.",
        "scaler.___(optimizer); torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0); scaler.step(optimizer)",
    ),
    threads=("pytorch/examples #1196", "milesial/Pytorch-UNet #468"),
)  # fmt: skip

# ---- 13-2


def grown(seed):
    rng = np.random.default_rng(seed)
    x = torch.tensor(rng.normal(size=(128, 8)), dtype=torch.float32)
    y = x @ torch.linspace(-0.5, 0.5, 8)
    w = torch.zeros(8, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.05)
    scale, good, scales, weights = 2.0**8, 0, [], []
    for step in range(60):
        optimizer.zero_grad()
        output = (x.half() @ w.half()).float()
        (F.mse_loss(output, y) * scale).backward()
        finite = bool(w.grad.isfinite().all())
        good = good + 1 if finite else 0
        if not finite:
            scale /= 2
        elif good % 5 == 0:
            scale *= 2
        if finite:
            w.grad /= scale
            optimizer.step()
        scales.append(scale)
        weights.append(w.detach().clone())
    return {"weights": weights, "scales": scales}


def _measure_grown(seed, record):
    (x, y), path, scales = line_task(seed), path_of(record), numbers(record["scales"])
    steps, real = lengths(path), rates(path, x, y)[:20]
    moved = steps > 0
    return {"loss": loss_left(path[-1], x, y), "smallest rate": real[moved[:20]].min(), "last update by first": steps[-1] / steps[moved][0], "growth of the scale": scales.max() / scales[0], "distance from an FP32 run": distance_from_exact(path, x, y, 0.05)}


GROWN = make_case(
    "13-2", grown,
    title="a hand-written scaler under which every fifth update is half as long",
    group="scaler", difficulty="medium", minutes=8,
    symptom="The learning rate that each step really had, found from its update: 0.05, and 0.025 in every fifth step. The loss falls, and nobody would look.",
    why="The gradients carry the scale that the loss was multiplied with. If the scale grows before they are divided, they are divided by twice that. Keep the scale of this backward pass, or unscale first and update the scale last, as torch's step and update do. Where clipping binds nobody sees the fault.",
    measure=_measure_grown,
    curve=lambda seed, record: rates(path_of(record), *line_task(seed))[:20].tolist(),
    curve_label="learning rate that a step really had",
    findings=(
        ("divided by the grown scale", lambda m: m["smallest rate"] < 0.035 and m["last update by first"] < 0.5, "in some steps the update is half as long as learning rate times gradient: they are still divided by a scale that has grown since the backward pass."),
        ("updates of one length", lambda m: m["last update by first"] > 0.5, "each update now has the same length, however long the gradient is: that hides what it was divided by, and the weights do not settle."),
        ("a scale that never grows", lambda m: m["growth of the scale"] <= 1, "the scale does not grow any more: the halved updates are gone, and so is the scaler's way back up after an overflow."),
        ("precision switched off", lambda m: m["distance from an FP32 run"] < 2e-6, SWITCHED_OFF),
    ),
    fix=(("        finite = bool", "        used = scale\n        finite = bool"), ("w.grad /= scale", "w.grad /= used")),
    hiding=(
        ("updates of one length", (("w.grad /= scale", "w.grad *= 0.5 / w.grad.norm()"),)),
        ("precision switched off", (("(x.half() @ w.half()).float()", "x @ w"), ("        good = good", "        used = scale\n        good = good"), ("w.grad /= scale", "w.grad /= used"))),
        ("a scale that never grows", (("        elif good % 5 == 0:\n            scale *= 2\n", ""),)),
    ),
    others=(("unscaled at once", (("        finite = bool", "        w.grad /= scale\n        finite = bool"), ("            w.grad /= scale\n            opt", "            opt"))),),
    hints=(
        "In which steps is the update too short, and what else happens in these steps?",
        "A gradient must be divided by the very scale that its loss was multiplied with.",
        "used = ___ (before the scale changes) … w.grad /= ___",
    ),
    threads=("deepspeedai/DeepSpeed #8588",),
)  # fmt: skip

# ---- 13-3


def collapse(seed):
    rng = np.random.default_rng(seed)
    a = torch.tensor(rng.normal(size=(64, 4)), dtype=torch.float32)
    b = torch.tensor(rng.normal(size=(64, 4)), dtype=torch.float32)
    b[5] = a[5]
    target = ((a - b) * torch.tensor([0.5, 1.0, 1.5, 2.0])).norm(dim=1)
    w = torch.ones(4, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.2)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    weights, scales = [], []
    for step in range(200):
        optimizer.zero_grad()
        difference = ((a - b) * w).half().float()
        distance = torch.sqrt((difference**2).sum(1))
        loss = F.mse_loss(distance, target)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
        weights.append(w.detach().clone())
    return {"weights": weights, "scales": scales}


def _measure_collapse(seed, record):
    path, scales = path_of(record), numbers(record["scales"])
    truth = np.array([0.5, 1.0, 1.5, 2.0])
    left = float(np.mean((np.abs(path[-1]) - truth) ** 2) / np.mean((1 - truth) ** 2))
    return {"loss": left if np.isfinite(left) else np.inf, "last scale": scales[-1], "steps that moved": int((lengths(path, 1.0) > 0).sum())}


COLLAPSE = make_case(
    "13-3", collapse,
    title="a loss scale that halves at every step until it is 0",
    group="scaler", difficulty="hard", minutes=12,
    symptom="The loss is finite and does not change. The loss scale is halved in each of 200 steps, and is 0 in the end.",
    why="The scaler does its duty: it finds a NaN in every backward pass. One pair of points is the same point, and the slope of a square root at 0 is infinite; infinity times 0 is NaN, though the loss itself is finite. Keep the root away from 0, or use a norm that knows its slope there.",
    measure=_measure_collapse,
    curve=lambda seed, record: numbers(record["scales"]).tolist(),
    curve_label="loss scale",
    remedy="it still does not train: the weights stay far from the factors that made the distances.",
    findings=(
        ("the scale collapses", lambda m: m["last scale"] < 1e-6, "no step was ever made, and the scale has fallen to nothing: there is still a NaN in each backward pass. The scaler only reports it."),
        ("the scaler switched off", lambda m: m["loss"] == np.inf, "without the scaler nobody looks for the NaN any more, and it is in the weights now."),
        ("a floor under the scale", lambda m: m["steps that moved"] == 0 and m["last scale"] < 65536, "the scale stops at a floor, and still no step is made: the NaN does not come from the scale."),
        ("gradients set to zero", lambda m: m["steps that moved"] == 0, "the NaN has been replaced in the gradients. It had spread to all of them, so that every gradient is zero now, and nothing is learned."),
    ),
    limit=0.02,
    fix=(("(difference**2).sum(1)", "(difference**2).sum(1) + 1e-12"),),
    hiding=(
        ("the scaler switched off", (("init_scale=2.0**16", "enabled=False"),)),
        ("a floor under the scale", (("scaler.update()", "scaler.update(max(scaler.get_scale() / 2, 1.0))"),)),
        ("gradients set to zero", (("backward()\n", "backward()\n        w.grad.nan_to_num_(0.0)\n"),)),
    ),
    others=(
        ("a norm that knows its slope", (("torch.sqrt((difference**2).sum(1))", "torch.linalg.vector_norm(difference, dim=1)"),)),
        ("the pair left out", (("loss = F.mse_loss(distance, target)", "loss = F.mse_loss(distance[target > 0], target[target > 0])"), ("torch.sqrt((difference**2).sum(1))", "(difference**2).sum(1).clamp(min=1e-12).sqrt()"))),
    ),
    hints=(
        "A scale that falls in every step is no overflow: an overflow ends when the scale is small. What else makes a gradient that is not finite?",
        "Anomaly mode names the operation whose way back gives the NaN. At which number is its slope infinite?",
        "distance = torch.sqrt((difference**2).sum(1) + ___)",
    ),
    threads=("pytorch/pytorch #157436",),
)  # fmt: skip

# ---- 13-4


def schedule(seed):
    rng = np.random.default_rng(seed)
    x = torch.tensor(rng.normal(size=(128, 8)), dtype=torch.float32)
    y = x @ torch.linspace(-0.5, 0.5, 8)
    model = torch.nn.Linear(8, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
    weights = []
    for step in range(40):
        target = y * 1e5 if step == 25 else y
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            output = model(x)
        scaler.scale(F.mse_loss(output.float().squeeze(1), target)).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        weights.append(model.weight.detach().clone())
    return {"weights": weights}


def _measure_schedule(seed, record):
    (x, y), path = line_task(seed), path_of(record)
    real = rates(path, x, y)[lengths(path) > 0]
    ratio = real / (0.2 * 0.9 ** np.arange(len(real)))
    off = np.abs(ratio[:30] - 1).max()
    return {"loss": loss_left(path[-1], x, y), "updates": len(real), "rate of the first": real[0], "rate of the tenth": real[9], "largest deviation from the schedule": off}


SCHEDULE = make_case(
    "13-4", schedule,
    title="a learning rate that has fallen before the first update",
    group="scaler", difficulty="medium", minutes=8,
    symptom="The first ten steps are skipped, which is normal at the start. But the training then ends far from where it should, and torch warns of the order of scheduler and optimizer.",
    why="The scheduler counts steps, and a skipped step is none. Step it only when the optimizer has stepped: the scale has not fallen in update(), or a hook of the optimizer says so.",
    measure=_measure_schedule,
    curve=lambda seed, record: loss_curve(path_of(record), *line_task(seed)),
    findings=(
        ("stepped on skipped steps", lambda m: m["rate of the first"] < 0.15, "the first update has a learning rate that has been lowered already: the schedule still goes on while steps are skipped."),
        ("no schedule", lambda m: m["rate of the tenth"] > 0.18, "the learning rate does not fall any more: the schedule was wanted, only its clock was wrong."),
        ("only the start repaired", lambda m: m["largest deviation from the schedule"] > 0.06, "the first update has its full rate, but a step that is skipped later still moves the schedule: with a smaller scale the fault waits for the next overflow."),
    ),
    limit=0.02,
    fix=(("        scaler.update()\n        scheduler.step()", "        before = scaler.get_scale()\n        scaler.update()\n        if scaler.get_scale() >= before:\n            scheduler.step()"),),
    hiding=(
        ("no schedule", (("        scheduler.step()\n", ""),)),
        ("only the start repaired", (("2.0**24", "2.0**8"),)),
    ),
    others=(("a hook of the optimizer", (("        scheduler.step()\n", ""), ("    weights = []\n", "    optimizer.register_step_post_hook(lambda *_: scheduler.step())\n    weights = []\n"))),),
    hints=(
        "Which learning rate does the first update have that is really made?",
        "How does one see from outside that scaler.step has skipped? Look at what update() does then.",
        "before = scaler.get_scale(); scaler.update(); if scaler.get_scale() ___ before: scheduler.step()",
    ),
    threads=("pytorch/pytorch #44511", "Lightning-AI/pytorch-lightning #16228", "huggingface/transformers #11106"),
)  # fmt: skip

# ---- 13-5


def recreated(seed):
    rng = np.random.default_rng(seed)
    x = torch.tensor(rng.normal(size=(128, 8)), dtype=torch.float32)
    y = x @ torch.linspace(-200, 200, 8)
    model = torch.nn.Linear(8, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    weights, scales = [], []
    for epoch in range(8):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
        for step in range(12):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16):
                output = model(x)
            scaler.scale(F.mse_loss(output.float().squeeze(1), y)).backward()
            scaler.step(optimizer)
            scaler.update()
            scales.append(scaler.get_scale())
            weights.append(model.weight.detach().clone())
    return {"weights": weights, "scales": scales}


def _measure_recreated(seed, record):
    (x, y), path, scales = line_task(seed, truth=(-200, 200)), path_of(record), numbers(record["scales"])
    still = lengths(path)[12:] == 0
    return {"loss": loss_left(path[-1], x, y), "skipped after the first epoch": int(still.sum()), "jumps of the scale": int((scales[1:] > 2 * scales[:-1]).sum()), "largest scale": scales.max()}


RECREATED = make_case(
    "13-5", recreated,
    title="a training that stands still at the start of each epoch",
    group="scaler", difficulty="easy", minutes=5,
    symptom="The loss falls in stairs: a flat piece at the start of each epoch, then a few steps of progress.",
    why="A new scaler knows nothing: it starts at 65536 and has to find its scale again, one skipped step for each halving. Make one scaler for the whole training, and keep its state in the checkpoint.",
    measure=_measure_recreated,
    curve=lambda seed, record: loss_curve(path_of(record), *line_task(seed, truth=(-200, 200))),
    findings=(
        ("a new scaler each epoch", lambda m: m["jumps of the scale"] > 0, "the scale jumps back up at the start of an epoch: the scaler is still made anew and searches its scale once more."),
        ("a scale too small to help", lambda m: m["largest scale"] <= 64, "nothing is skipped, since the scale starts so low that it protects nothing: small gradients will underflow. The scaler is still made anew each epoch, or never gets to grow."),
        ("steps lost", lambda m: m["skipped after the first epoch"] > 8, "too many steps are still skipped after the first epoch."),
    ),
    limit=0.02,
    fix=(('        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)\n', ""), ("    weights, scales", '    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)\n    weights, scales')),
    hiding=(("a scale too small to help", (("2.0**16", "1.0"),)),),
    others=(("its state carried over", (
        ("    weights, scales", "    state = None\n    weights, scales"),
        ("2.0**16)\n", "2.0**16)\n        if state:\n            scaler.load_state_dict(state)\n"),
        ("clone())\n    return", "clone())\n        state = scaler.state_dict()\n    return"),
    )),),
    hints=(
        "Look at the scale beside the loss: what happens to both at the start of an epoch?",
        "The scale is state, like the weights: it must live as long as they do.",
        "___ = torch.amp.GradScaler(…) before the loop over ___",
    ),
    threads=("facebookresearch/fairseq2 #1346", "conservationtechlab/animl-py #304"),
)  # fmt: skip

CASES = (CLIP, GROWN, COLLAPSE, SCHEDULE, RECREATED)
