"""Cases of what is kept from step to step: averages, Adam's moments and its step counter, weight decay, a warm-up factor."""

import numpy as np
import torch
import torch.nn.functional as F

from .model import SWITCHED_OFF, distance_from_exact, lengths, line_task, loss_curve, loss_left, make_case, numbers, path_of, rates

# ---- 13-10


def average(seed):
    rng = np.random.default_rng(seed)
    x = torch.tensor(rng.normal(size=(128, 8)), dtype=torch.float32)
    y = x @ torch.linspace(1.1, 1.3, 8)
    model = torch.nn.Linear(8, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    averaged = model.weight.detach().clone().bfloat16()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    weights, averages = [], []
    for step in range(500):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            output = model(x)
        F.mse_loss(output.float().squeeze(1), y).backward()
        optimizer.step()
        averaged.mul_(0.99).add_(model.weight.detach(), alpha=0.01)
        weights.append(model.weight.detach().clone())
        averages.append(averaged.clone())
    return {"weights": weights, "averages": averages}


def _measure_average(seed, record):
    (x, y), path, averages = line_task(seed, truth=(1.1, 1.3)), path_of(record), path_of(record, "averages")
    exact = np.ones(8)
    for k, row in enumerate(path):
        exact = 0.99 * exact + 0.01 * row
        middle = exact if k == 99 else middle if k > 99 else None
    span = np.abs(path[-1] - 1).mean()
    return {"loss": loss_left(averages[-1], x, y, 1.0), "error of the average": np.abs(averages[-1] - exact).mean() / span, "after 100 steps": (averages[99] - 1).mean() / (middle - 1).mean(), "moved": int((np.diff(averages, axis=0) != 0).sum()), "distance from an FP32 run": distance_from_exact(path, x, y, 0.02, 1.0)}


AVERAGE = make_case(
    "13-10", average,
    title="an average of the weights that is still the first model",
    group="states", difficulty="easy", minutes=6,
    symptom="The weights learn, the loss falls. The exponential moving average of the weights, which is what will be shipped, is as bad as on the first day.",
    why="One step moves the average by 1 % of its distance to the weights: less than half an ulp of BF16, so it is rounded away, each time anew. An average needs FP32, whatever the weights are.",
    measure=_measure_average,
    curve=lambda seed, record: loss_curve(path_of(record, "averages"), *line_task(seed, truth=(1.1, 1.3)), 1.0),
    curve_label="loss of the averaged weights that is left",
    findings=(
        ("the average is frozen", lambda m: m["error of the average"] > 0.1 and m["moved"] < 400, "the average hardly moves: its updates are still less than half an ulp of the format it is kept in."),
        ("not this average", lambda m: m["error of the average"] > 0.05 or not 0.8 < m["after 100 steps"] < 1.25, "the average moves, but it is not the one with decay 0.99: it follows the weights too closely, or too late."),
        ("precision switched off", lambda m: m["distance from an FP32 run"] < 1e-5, SWITCHED_OFF),
    ),
    limit=0.05,
    fix=((".clone().bfloat16()", ".clone()"),),
    hiding=(
        ("not this average", (("mul_(0.99)", "mul_(0.5)"), ("alpha=0.01", "alpha=0.5"))),
        ("precision switched off", ((".clone().bfloat16()", ".clone()"), ("torch.bfloat16)", "torch.bfloat16, enabled=False)"))),
    ),
    others=(("kept in FP64", (("        averaged.mul_(0.99).add_(model.weight.detach(), alpha=0.01)\n", "        exact = exact.lerp(model.weight.detach().double(), 0.01)\n        averaged = exact.float()\n"), (".clone().bfloat16()\n", ".clone()\n    exact = averaged.double()\n"))),),
    hints=(
        "How far should the average move in one step, and how large is half an ulp of it?",
        "Nothing is wrong with the formula. Look at the dtype of what it is stored in.",
        "averaged = model.weight.detach().clone()___",
    ),
    threads=("lucidrains/ema-pytorch #18", "OpenNMT/OpenNMT-py #1294"),
)  # fmt: skip

# ---- 13-11


def second(seed):
    rng = np.random.default_rng(seed)
    x = torch.tensor(rng.normal(size=(128, 8)), dtype=torch.float32)
    y = x @ torch.linspace(-4, 4, 8)
    w = torch.zeros(8, requires_grad=True)
    m = torch.zeros(8, dtype=torch.bfloat16)
    v = torch.zeros(8, dtype=torch.bfloat16)
    weights, seconds = [], []
    for step in range(1, 1501):
        F.mse_loss(x @ w, y).backward()
        m.mul_(0.9).add_(w.grad, alpha=0.1)
        v.mul_(0.999).add_(w.grad**2, alpha=0.001)
        with torch.no_grad():
            estimate = (v.float() / (1 - 0.999**step)).sqrt()
            w -= 0.02 * m.float() / (1 - 0.9**step) / (estimate + 1e-8)
            w.grad = None
        if step % 10 == 0:
            weights.append(w.detach().clone())
            seconds.append(v.clone())
    return {"weights": weights, "second moments": seconds}


def _exact_second(seed):
    """The second moments of the same training in FP64, after every tenth step."""
    x, y = line_task(seed, truth=(-4, 4))
    w, m, v, seconds = np.zeros(8), np.zeros(8), np.zeros(8), []
    for step in range(1, 1501):
        gradient = 2 * (x @ w - y) @ x / len(y)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        w = w - 0.02 * m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        if step % 10 == 0:
            seconds.append(v)
    return np.array(seconds)


def _measure_second(seed, record):
    (x, y), path, seconds = line_task(seed, truth=(-4, 4)), path_of(record), path_of(record, "second moments")
    exact = _exact_second(seed)
    return {"loss": loss_left(path[-1], x, y), "v in the end by the exact v": float(np.median(seconds[-1] / exact[-1])), "v at its largest by the exact one": float(np.median(seconds.max(0) / exact.max(0)))}


SECOND = make_case(
    "13-11", second,
    title="a second moment that never decays",
    group="states", difficulty="medium", minutes=8,
    symptom="Adam's v rises and then stays where it is, though the gradients have become tiny: its square root holds every update down.",
    why="0.999 is 1 in BF16, and v · 0.999 is v: the step down is less than half an ulp for most v. What is added, a thousandth of a square, is lost as well. β₂ = 0.95 would survive the rounding, but it is another optimizer. Keep v in FP32, or round it stochastically.",
    measure=_measure_second,
    curve=lambda seed, record: path_of(record, "second moments").mean(1).tolist(),
    curve_label="mean of v",
    findings=(
        ("v never decays", lambda m: m["v in the end by the exact v"] > 1.3, "in the end v is larger than it should be: 0.999 of it is still rounded back to all of it."),
        ("a smaller β₂", lambda m: m["v in the end by the exact v"] < 0.75, "v decays again, but far too fast for β₂ = 0.999: the memory of Adam's denominator is a different one now. That can be a choice; it is no repair."),
        ("another v", lambda m: not 0.8 < m["v at its largest by the exact one"] < 1.25, "v falls, but it is not the average of the squares of the gradients."),
    ),
    limit=1e-3,
    fix=(("v = torch.zeros(8, dtype=torch.bfloat16)", "v = torch.zeros(8)"),),
    hiding=(("a smaller β₂", (("mul_(0.999)", "mul_(0.95)"), ("alpha=0.001", "alpha=0.05"), ("0.999**step", "0.95**step"))),),
    others=(("torch's own Adam", (
        ("    m = torch.zeros(8, dtype=torch.bfloat16)\n    v = torch.zeros(8, dtype=torch.bfloat16)\n", "    optimizer = torch.optim.Adam([w], lr=0.02)\n"),
        ("        m.mul_(0.9).add_(w.grad, alpha=0.1)\n        v.mul_(0.999).add_(w.grad**2, alpha=0.001)\n        with torch.no_grad():\n            estimate = (v.float() / (1 - 0.999**step)).sqrt()\n            w -= 0.02 * m.float() / (1 - 0.9**step) / (estimate + 1e-8)\n            w.grad = None\n", "        optimizer.step()\n        optimizer.zero_grad()\n"),
        ("v.clone()", 'optimizer.state[w]["exp_avg_sq"].clone()'),
    )),),
    hints=(
        "Plot v. What should happen to it when the gradients become small?",
        "Multiply a BF16 number by 0.999 and round it. What is the nearest BF16 number?",
        "v = torch.zeros(8, dtype=___)",
    ),
    threads=("Nerogar/OneTrainer #1005",),
)  # fmt: skip

# ---- 13-12


def counter(seed):
    rng = np.random.default_rng(seed)
    x = torch.tensor(rng.normal(size=(128, 8)), dtype=torch.float32)
    y = x @ torch.linspace(-0.5, 0.5, 8)
    w = torch.zeros(8, requires_grad=True)
    m, v = torch.zeros(8), torch.zeros(8)
    step = torch.zeros((), dtype=torch.bfloat16)
    weights = []
    for batch in range(1200):
        with torch.autocast("cpu", torch.bfloat16):
            output = x @ w
        F.mse_loss(output.float(), y + 0.3 * (-1) ** batch).backward()
        step += 1
        m.mul_(0.9).add_(w.grad, alpha=0.1)
        v.mul_(0.999).add_(w.grad**2, alpha=0.001)
        with torch.no_grad():
            mean, square = m / (1 - 0.9 ** step.item()), v / (1 - 0.999 ** step.item())
            w -= 2e-4 * mean / (square.sqrt() + 1e-8)
            w.grad = None
        weights.append(w.detach().clone())
    return {"weights": weights}


def _measure_counter(seed, record):
    x, y = line_task(seed)
    path = path_of(record)
    m, v, wanted = np.zeros(8), np.zeros(8), []
    for k, w in enumerate(np.vstack([np.zeros(8), path[:-1]])):
        gradient = 2 * (x @ w - y - 0.3 * (-1) ** k) @ x / len(y)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        wanted.append(2e-4 * m / (1 - 0.9 ** (k + 1)) / np.sqrt(v / (1 - 0.999 ** (k + 1))))
    ratio = lengths(path) / np.sqrt((np.array(wanted) ** 2).sum(1))
    return {"loss": loss_left(path[-1], x, y), "first update by Adam's": ratio[:20].mean(), "update 200": ratio[190:210].mean(), "last update by Adam's": ratio[-20:].mean(), "ratios": ratio}


def _without(key, measure):
    return lambda seed, record: {name: value for name, value in measure(seed, record).items() if name != key}


COUNTER = make_case(
    "13-12", counter,
    title="an Adam whose updates are right for 256 steps, and then too short",
    group="states", difficulty="medium", minutes=8,
    symptom="Each update by the one that Adam's formula wants: 1 for 256 steps, then lower and lower.",
    why="In BF16 256 + 1 is 256: the counter stands still, and with it the correction of v, which is divided by 1 − 0.999²⁵⁶ = 0.226 for ever. A counter is an integer, or FP32, which counts to 16 million.",
    measure=_without("ratios", _measure_counter),
    curve=lambda seed, record: _measure_counter(seed, record)["ratios"].tolist(),
    curve_label="length of an update by that of Adam's formula",
    findings=(
        ("the counter stands still", lambda m: m["last update by Adam's"] < 0.9 and abs(m["first update by Adam's"] - 1) < 0.1, "the late updates are too short: the step counter has stopped at 256, and the correction of v with it."),
        ("no correction", lambda m: m["first update by Adam's"] > 1.3 * m["update 200"], "the late updates are nearer to right, the first ones are not: without the corrections Adam starts with the wrong length of step."),
        ("learning rate raised", lambda m: m["update 200"] > 1.15, "the late updates have their length back, but all those before are too long now."),
    ),
    limit=0.45,
    fix=(("    step = torch.zeros((), dtype=torch.bfloat16)\n", "    step = torch.zeros(())\n"),),
    hiding=(
        ("no correction", ((" / (1 - 0.9 ** step.item())", ""), (" / (1 - 0.999 ** step.item())", ""))),
        ("learning rate raised", (("2e-4", "3.5e-4"),)),
    ),
    others=(("an integer", (("torch.zeros((), dtype=torch.bfloat16)", "0"), ("step.item()", "step"))),),
    hints=(
        "Something changes after step 256. Which numbers of an optimizer know how many steps there have been?",
        "Which is the first whole number that BF16 does not have?",
        "step = torch.zeros((), dtype=___)",
    ),
    threads=("pytorch/ao #4915", "deepspeedai/DeepSpeed #8496"),
)  # fmt: skip

# ---- 13-13


def decay(seed):
    rng = np.random.default_rng(seed)
    x = torch.tensor(rng.normal(size=(128, 8)), dtype=torch.float32)
    x[:, 4:] = 0
    y = x @ torch.linspace(0.5, 1.5, 8)
    model = torch.nn.Linear(8, 1, bias=False).bfloat16()
    torch.nn.init.ones_(model.weight)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    weights = []
    for step in range(400):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            output = model(x)
        F.mse_loss(output.float().squeeze(1), y).backward()
        optimizer.step()
        weights.append(model.weight.detach().clone())
    return {"weights": weights}


def _measure_decay(seed, record):
    path = path_of(record)
    truth = np.linspace(0.5, 1.5, 8)[:4]
    left = float(np.mean((path[-1][:4] - truth) ** 2) / np.mean((1 - truth) ** 2))
    return {"loss": left, "unused weights in the end": path[-1][4:].mean(), "halfway": path[199][4:].mean()}


DECAY = make_case(
    "13-13", decay,
    title="a weight decay that does nothing",
    group="states", difficulty="easy", minutes=6,
    symptom="Four of the eight weights have inputs that are always 0: nothing but weight decay moves them, and it does not.",
    why="Weight decay multiplies by 1 − lr · wd = 0.999, and in BF16 0.999 of a weight is rounded back to the weight. FP32 weights decay; under autocast the products stay BF16.",
    measure=_measure_decay,
    curve=lambda seed, record: path_of(record)[:, 4:].mean(1).tolist(),
    curve_label="mean of the unused weights",
    findings=(
        ("the decay is rounded away", lambda m: m["unused weights in the end"] > 0.95, "the unused weights are where they began: a factor of 0.999 is still rounded away."),
        ("another decay", lambda m: not 0.6 < m["unused weights in the end"] < 0.74 or not 0.75 < m["halfway"] < 0.88, "the unused weights shrink, but not by 0.999 in each step: this is another weight decay, and the weights in use feel it too."),
    ),
    limit=0.05,
    fix=((".bfloat16()\n    torch.nn.init", "\n    torch.nn.init"),),
    hiding=(("another decay", (("weight_decay=0.1", "weight_decay=1.0"),)),),
    others=(("the decay apart, in FP32", (
        ("    optimizer =", "    master = torch.ones(1, 8, requires_grad=True)\n    optimizer ="),
        ("AdamW(model.parameters()", "AdamW([master]"),
        ("        optimizer.step()\n", "        master.grad = model.weight.grad.float()\n        model.zero_grad()\n        optimizer.step()\n        model.weight.data.copy_(master)\n"),
        ("model.weight.detach()", "master.detach()"),
    )),),
    hints=(
        "By which factor does one step of AdamW shrink a weight without gradient?",
        "Is 0.999 of a BF16 number another BF16 number?",
        "model = torch.nn.Linear(8, 1, bias=False)___",
    ),
    threads=("Nerogar/OneTrainer #996",),
)  # fmt: skip

# ---- 13-14


def warmup(seed):
    rng = np.random.default_rng(seed)
    x = torch.tensor(rng.normal(size=(128, 8)), dtype=torch.float32)
    y = x @ torch.linspace(-0.5, 0.5, 8)
    w = torch.zeros(8, dtype=torch.float32, requires_grad=True)
    factor = torch.zeros((), dtype=torch.bfloat16)
    weights = []
    for step in range(1000):
        if factor < 1:
            factor += 1 / 1000
        with torch.autocast("cpu", torch.bfloat16):
            output = x @ w
        F.mse_loss(output.float(), y).backward()
        with torch.no_grad():
            w -= 2e-3 * factor.float() * w.grad
            w.grad = None
        weights.append(w.detach().clone())
    return {"weights": weights}


def _measure_warmup(seed, record):
    (x, y), path = line_task(seed), path_of(record)
    real = rates(path, x, y) / 2e-3
    share = [float(np.median(real[k - 20 : k + 20])) for k in (100, 500, 980)]
    return {"loss": loss_left(path[-1], x, y), "factor in step 100": share[0], "in step 500": share[1], "in step 980": share[2]}


WARMUP = make_case(
    "13-14", warmup,
    title="a warm-up that never arrives",
    group="states", difficulty="medium", minutes=6,
    symptom="The learning rate that each step really has, by the one it should reach: it should rise to 1 over 1000 steps, in a straight line.",
    why="In BF16 the sum of thousandths is wrong long before it stops: each step is rounded to a multiple of an ulp that grows with the sum, and from 1/2 on an ulp is so large that 0.001 is rounded away. Compute the factor from the step, (step + 1) / 1000, in Python or FP32.",
    measure=_measure_warmup,
    curve=lambda seed, record: (rates(path_of(record), *line_task(seed)) / 2e-3).tolist(),
    curve_label="learning rate by the full one",
    findings=(
        ("the factor is rounded away", lambda m: m["in step 980"] < 0.75 and m["factor in step 100"] < 0.3 and m["in step 500"] < 0.75, "the learning rate never reaches its full height: the warm-up factor still stops on its way."),
        ("no warm-up", lambda m: m["factor in step 100"] > 0.3, "the learning rate is high from the start: the warm-up is gone, and with it what it was for."),
        ("learning rate raised", lambda m: not 0.4 < m["in step 500"] < 0.6, "it arrives, but not in a straight line: halfway through the factor should be 1/2."),
    ),
    limit=0.2,
    fix=(("        if factor < 1:\n            factor += 1 / 1000\n", "        factor = torch.tensor((step + 1) / 1000)\n"), ("    factor = torch.zeros((), dtype=torch.bfloat16)\n", "")),
    hiding=(
        ("no warm-up", (("factor = torch.zeros((), dt", "factor = torch.ones((), dt"),)),
        ("learning rate raised", (("2e-3 *", "4e-3 *"),)),
    ),
    others=(("the sum in FP32", (("torch.zeros((), dtype=torch.bfloat16)", "torch.zeros(())"),)),),
    hints=(
        "Print the factor every hundred steps.",
        "What is half an ulp of BF16 just above 1/4, and above 1/2?",
        "factor = (step + 1) / ___",
    ),
    threads=("kyegomez/SingLoRA #6",),
)  # fmt: skip

CASES = (AVERAGE, SECOND, COUNTER, DECAY, WARMUP)
