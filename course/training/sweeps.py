"""Sweeps: many small networks trained at once, each with its own formats, seed, loss weight and loss scale.

The runs are rows of one batched model: weights (K, out, in), activations (K, batch, width). `torch.baddbmm` multiplies all of
them in one call and `round_rows` rounds each row to the formats of its own recipe, so seventy runs cost about as much as ten.
Each run computes what `Emulation` computes for an `MLP`: FP32 arithmetic, every tensor rounded where it is handed on.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from course.numerics.formats import FP32
from course.numerics.rounding import cast
from course.numerics.scales import LEAST_AMAX
from course.training import RunError, digits
from course.training.models import uniform_layers
from course.training.optimizers import SGD, AdamW
from course.training.recipes import RECIPES, Recipe
from course.training.scaling import next_scale

LAST = 30  # steps whose mean loss is called final


@dataclass(frozen=True)
class Trial:
    """One run of a sweep: a recipe (or its name), a seed for weights and batches, and what the loss is multiplied by.

    `loss_weight` belongs to the task (a mean over more tokens, an auxiliary loss) and stays in the gradients; the loss
    scale is divided out of them again. With `dynamic`, `scale` is where it starts. `skip`: whether Inf or NaN in a gradient
    skips the step; the default is to skip if there is any scaling.

    >>> Trial("fp16", scale=1024.0).skips, Trial("fp16").skips
    (True, False)
    """

    recipe: Recipe | str
    seed: int = 0
    loss_weight: float = 1.0
    scale: float = 1.0
    dynamic: bool = False
    skip: bool | None = None

    def __post_init__(self):
        if isinstance(self.recipe, str):
            if self.recipe not in RECIPES:
                raise RunError(f"there is no recipe {self.recipe!r}: choose one of {', '.join(RECIPES)}, or make your own")
            object.__setattr__(self, "recipe", RECIPES[self.recipe])
        for name in ("loss_weight", "scale"):
            if not 0 < torch.tensor(float(getattr(self, name))) < float("inf"):
                raise RunError(f"{name}={getattr(self, name)!r}: give a positive number that FP32 can hold")

    @property
    def skips(self) -> bool:
        return (self.dynamic or self.scale != 1) if self.skip is None else self.skip


@dataclass(frozen=True)
class Result:
    """What a sweep of K trials leaves, as numpy arrays. Losses are those of the task: neither weighted nor scaled."""

    trials: tuple
    losses: np.ndarray  # (steps, K), before the step's update
    accuracy: np.ndarray  # (K,), of the held-out pictures, by the trained network in its own formats
    scales: np.ndarray  # (steps, K), the loss scale that the step used
    skipped: np.ndarray  # (steps, K), bool
    moved: np.ndarray | None  # (steps, K), share of the stored weights that changed; None unless counted
    lost: np.ndarray | None  # (steps, K), share of the weights with an update whose stored value did not change
    flushed: np.ndarray | None  # (steps, K), share of nonzero gradients of activations that rounding made zero
    weights: list  # per layer (weight (K, out, in), bias (K, 1, out)): what is stored at the end

    @property
    def final(self) -> np.ndarray:
        """(K,): the mean loss of the last 30 steps."""
        return self.losses[-LAST:].mean(0)


def sweep(trials, *, widths=(64, 128, 128, 128, 10), steps=300, batch=128, optimizer="adam", lr=1e-3, momentum=0.0,
          betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, update="nearest-even", overflow="ieee", growth_interval=2000,
          gradient_overflow=None, tensor_scales=False, initial_gain=1.0, generator=None, count=False, data=None) -> Result:  # fmt: skip
    """Train an MLP once for each trial, all at the same time, on the handwritten digits or on the `Pictures` in `data`.

    `optimizer` is "adam" or "sgd"; `update` says how the stored weights take an update, as in `course.training.optimizers`:
    of a recipe with a master, the master is what is stored; `overflow` is that of the rounding of activations and weights,
    and of gradients unless `gradient_overflow` names another. With `tensor_scales` each tensor of each run is multiplied by the power of
    two that brings its largest number just below the format's, rounded, and divided again: current scaling.
    `initial_gain` multiplies the first weights. `count` fills `moved`, `lost` and `flushed`, for about a third more time.
    Raises `RunError` for no trials, an unknown optimizer, or widths that do not fit the pictures.

    >>> result = sweep([Trial("fp32"), Trial("pure-bf16")], widths=(64, 16, 10), steps=3, batch=8)
    >>> result.losses.shape, bool(result.losses[0, 0] != result.losses[0, 1])
    ((3, 2), True)
    """
    trials, data = _checked(trials, widths, data)
    rounding = _Rounding(overflow, gradient_overflow or overflow, tensor_scales)
    network = _Network(trials, widths, rounding, initial_gain, count)
    stepper = _optimizer(trials, network.parameters, optimizer, update, generator, count,
                         dict(lr=lr, momentum=momentum, betas=betas, eps=eps, weight_decay=weight_decay))  # fmt: skip
    scale, factor = (torch.tensor([float(getattr(t, name)) for t in trials]) for name in ("scale", "loss_weight"))
    good = torch.zeros(len(trials), dtype=torch.int64)
    dynamic, skips = (torch.tensor([getattr(t, name) for t in trials]) for name in ("dynamic", "skips"))
    record = {name: [] for name in ("losses", "scales", "skipped", "moved", "lost", "flushed")}
    for step in range(steps):
        losses = network.losses(*_batches(data, trials, step, batch))
        network.backward((losses * factor * scale).sum())
        bad = network.unscale(scale)
        record["losses"].append(losses.detach())
        record["scales"].append(scale)
        record["skipped"].append(bad & skips)
        before = [p.detach().clone() for p in network.parameters] if count else None
        stepper.step(skip=bad & skips)
        if count:
            _count(record, network, before, stepper)
        grown, good = next_scale(scale, good, bad, growth_interval=growth_interval)
        scale = torch.where(dynamic, grown, scale)
    arrays = {name: torch.stack(rows).numpy() if rows else None for name, rows in record.items()}
    return Result(trials, accuracy=network.accuracy(data), weights=network.stored(), **arrays)


def _checked(trials, widths, data):
    trials, data = tuple(trials), data or digits.load()
    if not trials:
        raise RunError("a sweep needs at least one trial")
    if widths[0] != data.train_images.shape[1]:
        raise RunError(f"widths begin with {widths[0]}, the pictures have {data.train_images.shape[1]} pixels: make them equal")
    return trials, data


def _batches(data, trials, step, size):
    """(K, batch, pixels) images and (K, batch) labels; trials with the same seed see the same pictures."""
    drawn = {seed: data.batch(seed, step, size) for seed in {t.seed for t in trials}}
    images, labels = zip(*(drawn[t.seed] for t in trials))
    return torch.stack(images), torch.stack(labels)


def _optimizer(trials, parameters, name, update, generator, count, settings):
    other = next((t.recipe for t in trials if t.recipe.update not in ("nearest-even", update)), None)
    if other:
        raise RunError(f'{other.name} takes its updates in another way: sweep it with update="{other.update}" and a generator')
    rows = {role: tuple(getattr(t.recipe, role) for t in trials) for role in ("stored", "first_moment", "second_moment")}
    options = {"weights": _one(rows["stored"]), "update": update, "generator": generator, "count": count}
    if name == "adam":
        settings = {key: settings[key] for key in ("lr", "betas", "eps", "weight_decay")}
        moments = {"first_moment": _one(rows["first_moment"]), "second_moment": _one(rows["second_moment"])}
        return AdamW(parameters, **settings, **moments, **options)
    if name == "sgd":
        settings = {key: settings[key] for key in ("lr", "momentum", "weight_decay")}
        return SGD(parameters, **settings, moment=_one(rows["first_moment"]), **options)
    raise RunError(f'optimizer={name!r} is unknown: choose "adam" or "sgd"')


def _count(record, network, before, stepper):
    total = sum(p[0].numel() for p in network.parameters)
    changed = [p.detach() != old for p, old in zip(network.parameters, before)]
    record["moved"].append(sum(c.flatten(1).sum(1) for c in changed) / total)
    wanted = [taken != 0 for taken in stepper.changes]
    lost = sum((w & ~c).flatten(1).sum(1) for w, c in zip(wanted, changed))
    record["lost"].append(lost / sum(w.flatten(1).sum(1) for w in wanted).clamp_min(1))
    record["flushed"].append(network.flushed[:, 0] / network.flushed[:, 1].clamp_min(1))
    network.flushed.zero_()


def _one(formats):
    """A single format where all rows have the same: rounding one long row is the quicker way."""
    return formats[0] if len(set(formats)) == 1 else formats


class _Network:
    """K MLPs as one batched model, with a rounding at every boundary between operations."""

    def __init__(self, trials, widths, rounding, gain, count):
        self.rounding, self.count = rounding, count
        self.formats = {
            role: _one(tuple(getattr(t.recipe, role) for t in trials))
            for role in ("weights", "activations", "activation_gradients", "weight_gradients", "reductions")
        }
        drawn = {seed: uniform_layers(widths, seed) for seed in {t.seed for t in trials}}
        self.layers = []
        for i in range(len(widths) - 1):
            weight, bias = (torch.stack([gain * drawn[t.seed][i][part] for t in trials]) for part in (0, 1))
            self.layers.append((weight.requires_grad_(), bias.unsqueeze(1).requires_grad_()))
        self.parameters = [p for layer in self.layers for p in layer]
        self.flushed = torch.zeros(len(trials), 2, dtype=torch.int64)

    def _boundary(self, x, forward, backward):
        ways = [None if (fmt := self.formats.get(role)) == FP32 else fmt for role in (forward, backward)]
        watch = self.flushed if self.count and backward == "activation_gradients" else None
        return x if ways == [None, None] and watch is None else _Boundary.apply(x, *ways, self.rounding, watch)

    def logits(self, images):
        h = self._boundary(images, "activations", None)
        for i, layer in enumerate(self.layers):
            weight, bias = (self._boundary(p, "weights", "weight_gradients") for p in layer)
            h = torch.baddbmm(bias, h, weight.transpose(1, 2))
            h = h if i == len(self.layers) - 1 else F.relu(h)
            # One boundary for both operations: ReLU turns values of a format into values of it, both ways.
            h = self._boundary(h, "activations", "activation_gradients")
        return h

    def losses(self, images, labels):
        """(K,): each run's mean cross-entropy."""
        logs = self._boundary(F.log_softmax(self.logits(images), 2), "reductions", "reductions")
        return self._boundary(-logs.gather(2, labels.unsqueeze(2)).flatten(1).mean(1), "reductions", None)

    def backward(self, loss):
        for p in self.parameters:
            p.grad = None
        loss.backward()

    def unscale(self, scale):
        """Divide the gradients by the loss scales, in FP32; gives (K,) whether a gradient of the run is Inf or NaN."""
        bad = torch.zeros(len(scale), dtype=torch.bool)
        inverse = scale.double().reciprocal().float().view(-1, 1, 1)  # as torch's scaler divides
        for p in self.parameters:
            bad |= ~p.grad.isfinite().flatten(1).all(1)
            p.grad.mul_(inverse)
        return bad

    @torch.no_grad()
    def accuracy(self, data):
        images = data.test_images.expand(len(self.flushed), -1, -1)
        return (self.logits(images).argmax(2) == data.test_labels).float().mean(1).numpy()

    def stored(self):
        return [tuple(p.detach() for p in layer) for layer in self.layers]


@dataclass(frozen=True)
class _Rounding:
    """How tensors are brought into their formats on the way forward and back."""

    overflow: str
    gradient_overflow: str
    tensor_scales: bool

    def forward(self, x, formats):
        return self._cast(x, formats, self.overflow)

    def backward(self, gradient, formats):
        return self._cast(gradient, formats, self.gradient_overflow)

    def _cast(self, x, formats, overflow):
        if not self.tensor_scales:
            return cast(x, formats, overflow=overflow)
        ends = [fmt.max for fmt in (formats if isinstance(formats, tuple) else [formats] * len(x))]
        amax = x.abs().flatten(1).amax(1).double()
        # Where amax is Inf or NaN there is no scale: the row is rounded as it stands, and the step is lost.
        exponents = torch.frexp(torch.tensor(ends).double() / amax.clamp_min(LEAST_AMAX)).exponent - 1
        scale = torch.where(amax.isfinite(), torch.exp2(exponents.double().clamp(-126, 127)), 1.0)
        scale = scale.float().view(-1, *[1] * (x.dim() - 1))
        return cast(x * scale, formats, overflow=overflow) / scale


class _Boundary(torch.autograd.Function):
    """Rounds rows forward to one set of formats and their gradients backward to another; None leaves a way as it is."""

    @staticmethod
    def forward(ctx, x, forward, backward, rounding, watch):
        ctx.backward_formats, ctx.rounding, ctx.watch = backward, rounding, watch
        return x.clone() if forward is None else rounding.forward(x, forward)

    @staticmethod
    def backward(ctx, gradient):
        rounded = gradient if ctx.backward_formats is None else ctx.rounding.backward(gradient, ctx.backward_formats)
        if ctx.watch is not None:
            present = gradient != 0
            ctx.watch[:, 0] += (present & (rounded == 0)).flatten(1).sum(1)
            ctx.watch[:, 1] += present.flatten(1).sum(1)
        return rounded, None, None, None, None
