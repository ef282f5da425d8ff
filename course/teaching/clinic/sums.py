"""Cases of sums and statistics: accumulated gradients, a running variance, a largest value taken over the wrong processes."""

import numpy as np
import torch
import torch.nn.functional as F

from .model import line_task, loss_curve, loss_left, make_case, numbers, path_of

# ---- 13-15


def accumulate(seed):
    rng = np.random.default_rng(seed)
    x = torch.tensor(rng.normal(size=(640, 4)), dtype=torch.float32)
    x = 0.05 * x + torch.tensor([1.0, 0.0, 0.0, 0.0])
    y = x @ torch.linspace(1, 0.1, 4)
    model = torch.nn.Linear(4, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    weights = []
    for step in range(10):
        total = torch.zeros(1, 4, dtype=torch.bfloat16)
        for micro in range(640):
            output = model(x[micro : micro + 1])
            loss = F.mse_loss(output.squeeze(1), y[micro : micro + 1]) / 640
            (gradient,) = torch.autograd.grad(loss, model.weight)
            total += gradient
        with torch.no_grad():
            model.weight -= 0.2 * total.float()
        weights.append(model.weight.detach().clone())
    return {"weights": weights}


def _sum_task(seed):
    x = torch.tensor(np.random.default_rng(seed).normal(size=(640, 4)), dtype=torch.float32)
    x = 0.05 * x + torch.tensor([1.0, 0.0, 0.0, 0.0])
    return x.double().numpy(), (x @ torch.linspace(1, 0.1, 4)).double().numpy()


def _update_errors(seed, record):
    """Each update against the gradient of all rows in FP64, per weight."""
    (x, y), path = _sum_task(seed), path_of(record)
    before = np.vstack([np.zeros(4), path[:-1]])
    exact = -0.2 * 2 * (before @ x.T - y) @ x / len(y)
    return path - before, exact


def _measure_accumulate(seed, record):
    (x, y), path = _sum_task(seed), path_of(record)
    got, exact = _update_errors(seed, record)
    return {"loss": loss_left(path[-1], x, y), "first update of the first weight by the exact one": got[0][0] / exact[0][0], "of the others": float(np.median(got[0][1:] / exact[0][1:])), "largest error": float(np.abs(got[0] / exact[0] - 1).max())}


ACCUMULATE = make_case(
    "13-15", accumulate,
    title="a batch of 640 that learns like a smaller one",
    group="sums", difficulty="easy", minutes=6,
    symptom="The gradient of 640 rows is summed row by row. The update that comes of it, by the one of the whole batch at once: too short.",
    why="A BF16 sum has 8 significant bits: when it is more than 256 times as large as what is added, nothing is added, and long before that much is rounded. Accumulate in FP32. (Gradients of BF16 weights accumulate in BF16 by themselves: .grad has the dtype of the weight.)",
    measure=_measure_accumulate,
    curve=lambda seed, record: [float(a[0] / b[0]) for a, b in zip(*_update_errors(seed, record))],
    curve_label="update of the first weight by the exact one",
    findings=(
        ("accumulated in BF16", lambda m: m["first update of the first weight by the exact one"] < 0.9, "the first update is too short: late rows are still rounded away in a BF16 sum."),
        ("learning rate raised", lambda m: m["largest error"] > 0.5 and 1.6 < m["of the others"] < 2.4, "a larger learning rate makes up for the missing part in one weight, and overshoots in the others: what is lost is not the same everywhere."),
        ("another gradient", lambda m: m["largest error"] > 0.03, "the length fits, but it is not the gradient of all rows: some still count less than others."),
    ),
    limit=0.05,
    fix=(("total = torch.zeros(1, 4, dtype=torch.bfloat16)", "total = torch.zeros(1, 4)"),),
    hiding=(
        ("learning rate raised", (("0.2 *", "0.4 *"),)),
        ("another gradient", (("range(640)", "range(64)"), ("/ 640", "/ 64"))),
    ),
    others=(("in FP64", (("total += gradient", "total = total.double() + gradient"),)),),
    hints=(
        "Compare the sum after 128, 256 and 640 rows with what it should be.",
        "How large must a sum be for BF16 to drop what is added to it?",
        "total = torch.zeros(1, 4, dtype=___)",
    ),
    threads=("pytorch/pytorch #106395", "hiyouga/LlamaFactory #9769"),
)  # fmt: skip

# ---- 13-16


def running(seed):
    rng = np.random.default_rng(seed)
    x = torch.tensor(rng.normal(size=(256, 6)) * 600, dtype=torch.float32)
    y = (x / 600) @ torch.linspace(-0.5, 0.5, 6)
    running_var = torch.ones(6, dtype=torch.float16)
    w = torch.zeros(6, requires_grad=True)
    weights, variances, losses = [], [], []
    for step in range(60):
        batch = x[step % 8 :: 8]
        variance = batch.var(0)
        normed = batch / (variance + 1e-5).sqrt()
        F.mse_loss(normed @ w, y[step % 8 :: 8]).backward()
        with torch.no_grad():
            w -= 0.1 * w.grad
            w.grad = None
            running_var.mul_(0.9).add_(0.1 * variance)
            evaluated = x / (running_var.float() + 1e-5).sqrt()
            losses.append(F.mse_loss(evaluated @ w, y).item())
        weights.append(w.detach().clone())
        variances.append(running_var.clone())
    return {"weights": weights, "variances": variances, "losses": losses}


def _measure_running(seed, record):
    x = torch.tensor(np.random.default_rng(seed).normal(size=(256, 6)) * 600, dtype=torch.float32).double().numpy()
    y = x / 600 @ np.linspace(-0.5, 0.5, 6)
    variances, path = path_of(record, "variances"), path_of(record)
    ratio = variances[-1] / x.var(0, ddof=1)
    with np.errstate(all="ignore"):
        left = float(np.mean((x / np.sqrt(variances[-1]) @ path[-1] - y) ** 2) / np.mean(y**2))
    trained = float(np.mean((x / x.std(0, ddof=1) @ path[-1] - y) ** 2) / np.mean(y**2))
    return {"loss": left if np.isfinite(left) else np.inf, "loss with the true variance": trained, "running variance by the true one": float(ratio.min()), "the largest": float(ratio.max())}


RUNNING = make_case(
    "13-16", running,
    title="a model that trains well and says zero when it is evaluated",
    group="sums", difficulty="medium", minutes=8,
    symptom="The training loss falls. In evaluation every output is exactly 0, without a NaN and without a warning.",
    why="The activations have a standard deviation of 600, and its square, 360 000, is beyond FP16: the running variance is infinite, and what is divided by it is 0. Nothing is NaN, so nothing complains. Statistics are FP32, always; clamping them is wrong by a factor and stays so.",
    measure=_measure_running,
    curve=lambda seed, record: numbers(record["losses"]).tolist(),
    curve_label="loss in evaluation",
    findings=(
        ("the variance is infinite", lambda m: m["the largest"] == np.inf, "the running variance is infinite: 360 000 has no place in FP16, and everything divided by its root is 0."),
        ("clamped", lambda m: m["running variance by the true one"] < 0.5, "the running variance is finite now, but not the variance of the data: it is held below 65504, and evaluation divides by far too little."),
        ("not a variance", lambda m: m["the largest"] > 2, "the running variance is not the variance of the data."),
    ),
    limit=0.05,
    fix=(("torch.ones(6, dtype=torch.float16)", "torch.ones(6)"),),
    hiding=(("clamped", (("add_(0.1 * variance)", "add_(0.1 * variance).clamp_(max=65504)"), ("mul_(0.9).add_(0.1 * variance)", "mul_(0.9).add_(0.1 * variance.clamp(max=65000))"))),),
    others=(("kept as a deviation", (
        ("running_var.mul_(0.9).add_(0.1 * variance)", "spread.mul_(0.9).add_(0.1 * variance / 1024)\n            running_var = spread.float() * 1024"),
        ("running_var = torch.ones(6, dtype=torch.float16)", "spread = torch.ones(6, dtype=torch.float16)"),
    )),),
    hints=(
        "What differs between training and evaluation? Print each thing that only evaluation uses.",
        "What is 600 squared, and what is the largest FP16 number?",
        "running_var = torch.ones(6, dtype=___)",
    ),
    threads=("NVIDIA/apex #121", "coreai-torch #54"),
)  # fmt: skip

# ---- 13-17


def amax(seed):
    rng = np.random.default_rng(seed)
    sizes = np.array([1.0, 0.5, 6.0, 3.0]).repeat(2)
    x = torch.tensor(rng.normal(size=(2, 64, 8)) * sizes, dtype=torch.float32)
    truth = torch.linspace(-0.5, 0.5, 8)
    y = x @ truth
    shards = x.unflatten(2, (4, 2)).transpose(1, 2)
    w = torch.zeros(8, requires_grad=True)
    weights = []
    for step in range(200):
        largest = shards.abs().amax((2, 3))
        largest = largest.amax(0, keepdim=True).expand(2, 4)
        scale = 448 / largest
        codes = (shards * scale[..., None, None]).clamp(-448, 448).to(torch.float8_e4m3fn)
        gathered = codes.transpose(1, 2).flatten(2).float() / scale[:, :1, None]
        F.mse_loss(gathered @ w, y).backward()
        with torch.no_grad():
            w -= 0.02 * w.grad
            w.grad = None
        weights.append(w.detach().clone())
    return {"weights": weights, "gathered": gathered}


def _measure_amax(seed, record):
    sizes = np.array([1.0, 0.5, 6.0, 3.0]).repeat(2)
    x = torch.tensor(np.random.default_rng(seed).normal(size=(2, 64, 8)) * sizes, dtype=torch.float32).double().numpy()
    path, gathered = path_of(record), numbers(record["gathered"])
    flat = x.reshape(-1, 8)
    relative = np.abs(gathered - x).mean((0, 1)) / np.abs(x).mean((0, 1))
    return {"loss": loss_left(path[-1], flat, flat @ np.linspace(-0.5, 0.5, 8)), "largest error of a column": float(relative.max()), "smallest": float(relative.min())}


AMAX = make_case(
    "13-17", amax,
    title="an FP8 run that learns the wrong weights as soon as the model is split",
    group="sums", difficulty="hard", minutes=15,
    symptom="Two replicas, four shards of columns each (simulated). The shards are gathered after they were cast to FP8. On one GPU the run is fine; here the loss does not come down.",
    why="One scale decodes what four shards encoded, so all four must encode with it: the largest value must be taken over the shards of one tensor (the tensor-parallel group), not over the replicas of one shard (the data-parallel group). Or each shard is decoded with its own scale.",
    measure=_measure_amax,
    curve=lambda seed, record: loss_curve(path_of(record), *_amax_task(seed)),
    findings=(
        ("the wrong group", lambda m: m["largest error of a column"] > 0.5, "after gathering some columns are wrong by more than any rounding of FP8: they were encoded with one scale and decoded with another."),
        ("FP8 switched off", lambda m: m["largest error of a column"] < 1e-3, "the gathered tensor has no error at all: FP8 is switched off."),
        ("too few of the codes", lambda m: m["largest error of a column"] > 0.06, "the scales agree now, but the numbers sit so low in the format that they lose digits, or vanish."),
    ),
    limit=0.02,
    fix=(("largest.amax(0, keepdim=True)", "largest.amax(1, keepdim=True)"),),
    hiding=(
        ("FP8 switched off", ((".to(torch.float8_e4m3fn)", ""), ("/ scale[:, :1, None]", "/ scale.repeat_interleave(2, 1)[:, None]"))),
        ("too few of the codes", (("largest = largest.amax(0, keepdim=True).expand(2, 4)", "largest = torch.full((2, 4), 1e5)"),)),
    ),
    others=(("each with its own scale", (("/ scale[:, :1, None]", "/ scale.repeat_interleave(2, 1)[:, None]"),)),),
    hints=(
        "Compare the gathered tensor with the shards, column by column.",
        "Who must agree on a scale: those who hold parts of one tensor, or those who hold copies of one part?",
        "largest = largest.amax(___, keepdim=True).expand(2, 4)",
    ),
    threads=("NVIDIA/Megatron-LM #442",),
)  # fmt: skip


def _amax_task(seed):
    sizes = np.array([1.0, 0.5, 6.0, 3.0]).repeat(2)
    flat = (np.random.default_rng(seed).normal(size=(2, 64, 8)) * sizes).reshape(-1, 8)
    return flat, flat @ np.linspace(-0.5, 0.5, 8)


CASES = (ACCUMULATE, RUNNING, AMAX)
