"""Small GPTs trained under every recipe of `course.training.fp8`, and the record of such runs in `data/fp8_runs.json`.

`python -m course.training.fp8_runs` trains what the record lacks, over five seeds, and writes it after each run: about half an hour of
one CPU core from nothing. A record says with which versions, on which text and on which processor it was made.
"""

import argparse
import json
import statistics
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import torch

from course.training import corpus, files, hardware, records
from course.training.fp8 import RECIPES, convert, convert_with_torchao, freeze
from course.training.models import GPT, GPTConfig, loss_of

SMALL = GPTConfig(width=128, layers=2, context=32)
STEPS, BATCH, LR, WARM, TAIL = 150, 16, 1e-3, 20, 30
SEEDS = range(5)
OTHERS = ("FP32", "BF16 autocast", "frozen", "torchao tensorwise", "torchao rowwise")
SHARES = (1.0, 2.0**-4, 2.0**-8)  # of the loss that is trained on, as if a batch were 16 or 256 times as large
SHARED = ("FP32", "unscaled E4M3 / E4M3", "unscaled E4M3 / E5M2", "current E4M3 / E5M2")  # these run with every share
RECORD = Path(__file__).parents[2] / "data" / "fp8_runs.json"


def prepare(name, config=SMALL, seed=0):
    """A GPT that is ready to train under one of `RECIPES` or of `OTHERS`; "frozen" leaves its blocks' linear layers untrained.

    Raises `RunError` for an unknown name.

    >>> prepare("NVFP4", GPTConfig(width=32, layers=1, context=8)).blocks[0].widen.recipe.name
    'NVFP4'
    """
    model = GPT(config, seed)
    if name == "frozen":
        return freeze(model)
    if name.startswith("torchao "):
        return convert_with_torchao(model, name.removeprefix("torchao "))
    return model if name in ("FP32", "BF16 autocast") else convert(model, name, seed=seed)


def train(name, text, seed, steps=STEPS, share=1.0) -> list:
    """The loss of each step (nats per character) of a GPT under `name`, as `prepare` takes it; see `fit`."""
    return fit(prepare(name, seed=seed), text, seed, steps, share, autocast=name == "BF16 autocast")


def fit(model, text, seed, steps, share=1.0, batch=BATCH, lr=LR, autocast=False) -> list:
    """Train a GPT, and give the loss of each step (nats per character): AdamW, a warm-up, no decay of the rate.

    `text` is a `corpus.Corpus`; its batches depend on `seed` alone. `share` multiplies the loss before backward and nothing
    else: the mean over a batch 1/share times as large has gradients that much smaller at each token. `autocast`: to BF16.
    """
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    losses = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * min(1.0, (step + 1) / WARM)
        inputs, targets = map(torch.from_numpy, text.batch(seed, step, batch, model.config.context))
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = loss_of(model, inputs, targets)
        optimizer.zero_grad()
        (share * loss).backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def tens(losses) -> list:
    """The mean of each ten losses, to five digits: what the record keeps of a curve.

    >>> tens([4.0] * 10 + [2.0, 3.0] * 5)
    [4.0, 2.5]
    """
    return [round(statistics.fmean(losses[i : i + 10]), 5) for i in range(0, len(losses), 10)]


def operands(model, layer, inputs, targets, share=1.0) -> dict:
    """The activation (rows, in), weight (out, in) and gradient (rows, out) of the linear layer of that name, in one pass; FP32."""
    found, module = {}, model.get_submodule(layer)
    hooks = (
        module.register_forward_pre_hook(lambda _, args: found.update(activation=args[0].detach().flatten(0, -2))),
        module.register_full_backward_hook(lambda _, into, out: found.update(gradient=out[0].detach().flatten(0, -2))),
    )
    try:
        (share * loss_of(model, inputs, targets)).backward()
    finally:
        for hook in hooks:
            hook.remove()
        model.zero_grad()
    return {"activation": found["activation"], "weight": module.weight.detach(), "gradient": found["gradient"]}


def alignment(model, inputs, targets, share=1.0) -> float:
    """The cosine between the gradient of the blocks' linear weights under the model's recipe and in FP32, at the same weights and batch.

    `share` as in `fit`. It is 0 where nothing of the short gradient is left.

    >>> batch = torch.zeros(2, 8, dtype=torch.int64)
    >>> round(alignment(prepare("FP32", GPTConfig(width=32, layers=1, context=8)), batch, batch), 3)
    1.0
    """
    exact = GPT(model.config, seed=0)
    exact.load_state_dict(model.state_dict())
    gradients = []
    for each, part in ((model, share), (exact, 1.0)):
        each.zero_grad()
        (part * loss_of(each, inputs, targets)).backward()
        weights = [p for name, p in each.named_parameters() if name.startswith("blocks.") and p.dim() == 2]
        gradients.append(torch.cat([weight.grad.flatten() for weight in weights]).double())
        each.zero_grad()
    short, whole = gradients
    return (short @ whole / (short.norm() * whole.norm()).clamp_min(1e-300)).item()


def sixty_steps(text, name, share=1.0, seed=0) -> tuple[float, float]:
    """Train a GPT under `name` for sixty steps: (the mean loss of the last ten, the `alignment` of the gradient that comes next)."""
    model = prepare(name, seed=seed)
    losses = fit(model, text, seed, 60, share, autocast=name == "BF16 autocast")
    inputs, targets = map(torch.from_numpy, text.batch(seed, 60, BATCH, model.config.context))
    return tens(losses)[-1], alignment(model, inputs, targets, share)


def on_this_device(text, device) -> str:
    """What real FP8 products give on `device` (a `hardware.Device`), in a sentence: the first loss of a GPT beside the emulated one.

    Transformer Engine multiplies too, if it is installed: its error beside FP32. Where there are no such products, it says so.
    """
    if device.kind == "cpu" or "fp8" not in device.native:
        return "no FP8 products in hardware; torchao emulates them"
    inputs, targets = (torch.from_numpy(each).to(device.torch_type) for each in text.batch(0, 0, BATCH, SMALL.context))
    losses = []
    for where in (device, None):
        model = convert_with_torchao(GPT(SMALL, 0), device=where).to(device.torch_type)
        with torch.autocast(device.torch_type, torch.bfloat16):
            losses.append(loss_of(model, inputs, targets).item())
    told = f"a first loss of {losses[0]:.4f} with FP8 products in hardware, {losses[1]:.4f} emulated"
    return told + (f"; Transformer Engine is off by {transformer_engine_error():.3f}" if find_spec("transformer_engine") else "")


def transformer_engine_error() -> float:
    """Relative error of one linear layer of Transformer Engine under its current-scaling recipe, against FP32. Needs a GPU with FP8."""
    import transformer_engine.pytorch as te
    from transformer_engine.common.recipe import Float8CurrentScaling

    layer = te.Linear(128, 256, bias=False, params_dtype=torch.float32)
    x = torch.linspace(-1, 1, 128 * 128, device="cuda").view(128, 128)
    with te.fp8_autocast(enabled=True, fp8_recipe=Float8CurrentScaling()):
        short = layer(x)
    exact = x @ layer.weight.T
    return ((short - exact).norm() / exact.norm()).item()


# ---- the record


def wanted() -> list:
    """What is recorded: (name, share, seed)."""
    names = [(name, 1.0) for name in (*OTHERS, *RECIPES)] + [(name, share) for share in SHARES[1:] for name in SHARED]
    return [(name, share, seed) for name, share in names for seed in SEEDS]


def load(path=RECORD) -> dict:
    """The record: {(name, share): [the curve of each seed, by tens]}.

    >>> len(load()["FP32", 1.0]) == len(SEEDS)
    True
    """
    curves = {}
    for run in json.loads(Path(path).read_text(encoding="utf-8"))["runs"]:
        curves.setdefault((run["name"], run["share"]), []).append(run["losses_by_tens"])
    return curves


def final(curve) -> float:
    """The mean of the last 30 losses of a recorded curve."""
    return statistics.fmean(curve[-TAIL // 10 :])


def provenance(text) -> dict:
    """With what, where and on which text runs are made."""
    found = hardware.probe()
    return {
        "schema": 1, "command": "python -m course.training.fp8_runs", "started": records.now(),
        "configuration": {"width": SMALL.width, "layers": SMALL.layers, "context": SMALL.context, "steps": STEPS, "batch": BATCH,
                          "lr": LR, "warm_up": WARM, "optimizer": "AdamW", "threads": 1},
        "versions": found.versions | {"torchao": metadata.version("torchao")},
        "hardware": {"cpu": found.cpu.name, "tier": found.tier}, "execution": "emulated, but BF16 autocast",
        "corpus": text.as_dict(), "runs": [],
    }  # fmt: skip


def continued(path, told) -> dict:
    """The record at `path` where there is one, else `told`. Raises `ValueError` for one of another configuration: they are not mixed."""
    if not path.exists():
        return told
    before = json.loads(path.read_text(encoding="utf-8"))
    for key in ("configuration", "versions", "corpus"):
        if before[key] != told[key]:
            raise ValueError(f"{path} was recorded with another {key}: move it away, or record to another path")
    return before


def record(path=RECORD, steps=STEPS, todo=None) -> Path:
    """Train what the record at `path` lacks and write it after each run. Runs of another configuration are not mixed: give another path."""
    torch.set_num_threads(1)
    text, path = corpus.load(), Path(path)
    told = continued(path, provenance(text))
    made = {(run["name"], run["share"], run["seed"]) for run in told["runs"]}
    for name, share, seed in [each for each in (todo or wanted()) if each not in made]:
        losses = train(name, text, seed, steps, share)
        told["runs"].append({"name": name, "share": share, "seed": seed, "losses_by_tens": tens(losses)})
        lines = json.dumps(told, ensure_ascii=False).replace('{"name": ', '\n{"name": ')  # a run on a line
        files.write_atomically(path, lines + "\n")
        print(f"{name}, share {share:g}, seed {seed}: {statistics.fmean(losses[-TAIL:]):.4f}", flush=True)
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train what data/fp8_runs.json lacks.")
    parser.add_argument("--out", default=RECORD, help="where the record is, or is to be")
    record(parser.parse_args().out)
