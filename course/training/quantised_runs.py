"""Training on integer grids, and how errors grow through depth: small networks, five seeds side by side in one batch; and recorded GPTs.

What is on a grid is a number of the grid for real; products and sums, losses and Adam are FP32. `python -m course.training.quantised_runs`
trains what `data/quantised_runs.json` lacks, a GPT for each way and seed, and writes it after each run: some minutes of one CPU core.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from course.training import RunError, corpus, files, fp8_runs, hardware, records
from course.training.fp8 import freeze
from course.training.models import GPT, GPTConfig, uniform_layers
from course.training.quantised import Grid, gradient_on, quantised, straight_through

RECORD = Path(__file__).parents[2] / "data" / "quantised_runs.json"
SHAPE, STEPS, LR, SEEDS = GPTConfig(width=64, layers=2, context=32), 200, 2e-3, range(5)
GRIDS = {grid.name: grid for grid in (Grid(bits, block, rounding=rounding) for bits in (8, 4, 2) for block in ("tensor", "row")
                                      for rounding in ("nearest-even", "stochastic"))}  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """Networks of one shape trained side by side: `losses` (steps, seeds), `layers` a list of (weight (seeds, out, in), bias)."""

    losses: torch.Tensor
    layers: list

    @property
    def final(self):
        """The mean of the last 30 losses of each seed, (seeds,) float64 in numpy."""
        return self.losses[-30:].double().mean(0).numpy()

    @torch.no_grad()
    def loss(self, images, labels, weights=None):
        """The loss of each seed on pictures, (seeds,) in numpy, with the weights on a grid if one is given."""
        out = _forward(self.layers, images.expand(len(self.layers[0][0]), *images.shape), weights)
        return _loss(out, labels.expand(len(out), -1)).double().numpy()


def train(data, seeds=range(5), steps=300, lr=2e-3, hidden=(64, 64, 64), gradient=None, weights=None, start=None, batch=64):
    """Train an MLP for each seed at once on a set of `Pictures`, with Adam; FP32 but for the grids. Returns a `Trained`.

    `gradient`: the gradient of each layer's output is brought onto this grid, so both products of the way back read it there; dice of
    stochastic rounding start from the first seed. `weights`: quantisation-aware training, the forward pass reads them on this grid, the
    gradient passes straight through. `start`: the `Trained` to go on from, with batches that it has not drawn.

    >>> from course.training import digits
    >>> train(digits.load(), seeds=(0, 1), steps=2).losses.shape
    torch.Size([2, 2])
    """
    seeds = list(seeds)
    layers = _first(seeds, data, hidden) if start is None else [tuple(p.detach().clone() for p in pair) for pair in start.layers]
    begin = 0 if start is None else 10**6
    parameters = [p.requires_grad_() for pair in layers for p in pair]
    optimizer, losses = torch.optim.Adam(parameters, lr=lr), []
    generator = torch.Generator().manual_seed(seeds[0])
    for step in range(begin, begin + steps):
        images, labels = map(torch.stack, zip(*(data.batch(seed, step, batch) for seed in seeds)))
        loss = _loss(_forward(layers, images, weights, gradient, generator), labels)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        losses.append(loss.detach())
    return Trained(torch.stack(losses), [tuple(p.detach() for p in pair) for pair in layers])


def _first(seeds, data, hidden):
    """He's initialisation for ReLU: uniform within ±√(6/inputs); biases within ±1/√inputs."""
    widths = (data.train_images.shape[1], *hidden, 10)
    drawn = [uniform_layers(widths, seed) for seed in seeds]
    return [(6**0.5 * torch.stack([w for w, _ in layer]), torch.stack([b for _, b in layer]).unsqueeze(1)) for layer in zip(*drawn)]


def _forward(layers, x, weights=None, gradient=None, generator=None):
    for index, (weight, bias) in enumerate(layers):
        weight = straight_through(weight, weights, trials=True) if weights else weight
        x = x @ weight.mT + bias
        x = gradient_on(x, gradient, generator, trials=True) if gradient else x
        x = F.relu(x) if index < len(layers) - 1 else x
    return x


def _loss(out, labels):
    return F.cross_entropy(out.flatten(0, 1), labels.flatten(), reduction="none").view(len(out), -1).mean(1)


# ---- errors through depth


def through_depth(kind, grid, depth=32, width=128, rows=64, seed=0) -> tuple[list, list]:
    """(error of the activation behind each layer, error of the gradient in front of each layer), relative, from the first layer to the last.

    Random ReLU layers, "plain": x ← relu(Wx), or "residual": x ← x + W relu(norm x) / √depth. Forward error: every product reads its input on the
    grid. Backward error: a way forward in FP32, then the gradient of every product is on the grid; the loss is a random sum of the last activations.
    """
    if kind not in ("plain", "residual"):
        raise RunError(f'kind={kind!r}: choose "plain" or "residual"')
    draw = np.random.default_rng(seed)
    normal = lambda *shape: torch.from_numpy(draw.standard_normal(shape)).float()  # noqa: E731
    weights = [normal(width, width) * (2 / width) ** 0.5 for _ in range(depth)]
    x, towards = normal(rows, width), normal(rows, width)
    exact, short = (_run_deep(kind, weights, x, towards, *grids) for grids in ((None, None), (grid, None)))
    back = _run_deep(kind, weights, x, towards, None, grid)
    error = lambda a, b: ((a - b).norm() / b.norm()).item()  # noqa: E731
    return [error(a, b) for a, b in zip(short[0], exact[0])], [error(a, b) for a, b in zip(back[1], exact[1])]


def _run_deep(kind, weights, x, towards, forward, backward):
    """(the activations behind all layers, the gradients in front of all layers)."""
    fronts, backs = [], []
    for weight in weights:
        x = x.detach().requires_grad_() if not fronts else x
        x.retain_grad()
        fronts.append(x)
        read = x if kind == "plain" else F.relu(F.layer_norm(x, x.shape[-1:]))
        product = (straight_through(read, forward) if forward else read) @ weight.T
        product = gradient_on(product, backward) if backward else product
        x = F.relu(product) if kind == "plain" else x + product / len(weights) ** 0.5
        backs.append(x)
    (x * towards).sum().backward()
    return [each.detach() for each in backs], [each.grad for each in fronts]


# ---- recorded GPTs


def gpt(seed, gradient=None):
    """A GPT that is ready to train, the gradients of its blocks' products on a grid; "frozen" leaves the linear layers of its blocks untrained."""
    model = GPT(SHAPE, seed)
    return freeze(model) if gradient == "frozen" else quantised(model, gradients=gradient, seed=seed)


def fit_gpt(name, text, seed, steps=STEPS) -> list:
    """The loss of each step of a GPT under "FP32", "frozen" or a grid of `GRIDS` for its gradients. Raises `RunError` for another name."""
    if name not in ("FP32", "frozen", *GRIDS):
        raise RunError(f"{name!r} is unknown: choose FP32, frozen or one of {'; '.join(GRIDS)}")
    return fp8_runs.fit(gpt(seed, GRIDS.get(name, "frozen" if name == "frozen" else None)), text, seed, steps, lr=LR)


def load(path=RECORD) -> dict:
    """The record: {name: final loss of each seed, (5,)}, the mean of the last 30 losses.

    >>> sorted(load()) == sorted(["FP32", "frozen", *GRIDS])
    True
    """
    finals = {}
    for run in json.loads(Path(path).read_text(encoding="utf-8"))["runs"]:
        finals.setdefault(run["name"], []).append(fp8_runs.final(run["losses_by_tens"]))
    return {name: np.array(each) for name, each in finals.items()}


def provenance(text) -> dict:
    """With what, where and on which text runs are made."""
    found = hardware.probe()
    return {
        "schema": 1, "command": "python -m course.training.quantised_runs", "started": records.now(),
        "configuration": {"width": SHAPE.width, "layers": SHAPE.layers, "context": SHAPE.context, "steps": STEPS, "batch": fp8_runs.BATCH,
                          "lr": LR, "warm_up": fp8_runs.WARM, "optimizer": "AdamW", "threads": 1},
        "versions": found.versions, "hardware": {"cpu": found.cpu.name, "tier": found.tier}, "execution": "emulated",
        "corpus": text.as_dict(), "runs": [],
    }  # fmt: skip


def record(path=RECORD, steps=STEPS, todo=None) -> Path:
    """Train what the record at `path` lacks and write it after each run. Runs of another configuration are not mixed: give another path."""
    torch.set_num_threads(1)
    text, path = corpus.load(), Path(path)
    told = fp8_runs.continued(path, provenance(text))
    made = {(run["name"], run["seed"]) for run in told["runs"]}
    wanted = todo or [(name, seed) for seed in SEEDS for name in ("FP32", "frozen", *GRIDS)]
    for name, seed in [each for each in wanted if each not in made]:
        losses = fp8_runs.tens(fit_gpt(name, text, seed, steps))
        told["runs"].append({"name": name, "seed": seed, "losses_by_tens": losses})
        files.write_atomically(path, json.dumps(told, ensure_ascii=False).replace('{"name": ', '\n{"name": ') + "\n")  # a run on a line
        print(f"{name}, seed {seed}: {fp8_runs.final(losses):.4f}", flush=True)
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train what data/quantised_runs.json lacks.")
    parser.add_argument("--out", default=RECORD, help="where the record is, or is to be")
    record(parser.parse_args().out)
