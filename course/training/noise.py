"""Two kinds of noise in a gradient: that of drawing a mini-batch, and that of rounding; and what is no noise but a bias."""

import math
from contextlib import nullcontext
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Noise:
    """Sizes are root mean squares of the vectors' norms over the mini-batches; cosines are means."""

    signal: float  # ‖mean gradient‖: what the mini-batches agree on
    batch: float  # how far one mini-batch's gradient lies from that mean
    rounding: float  # how far rounding moves one mini-batch's gradient
    bias: float  # ‖mean of what rounding did‖: this part no average over mini-batches takes away
    cosine: float  # between a mini-batch's gradient and its rounded twin
    between: float  # between the gradients of two mini-batches
    kept: float  # what a gradient's rounded twin holds of it: 1 if rounding does not shrink it along its own direction

    @property
    def ratio(self) -> float:
        """How many times as large the noise of mini-batches is as that of rounding."""
        return self.batch / self.rounding if self.rounding else float("inf")

    @property
    def shared(self) -> float:
        """The share of the rounding error that all n mini-batches have in common: 1 if it is the same for all, 1/√n if independent."""
        return self.bias / self.rounding if self.rounding else 0.0

    @property
    def turn(self) -> float:
        """The angle, in degrees, that belongs to `cosine`: how far rounding turns a gradient."""
        return math.degrees(math.acos(min(1.0, max(-1.0, self.cosine))))

    @property
    def apart(self) -> float:
        """The angle, in degrees, that belongs to `between`: how far apart the gradients of two mini-batches point."""
        return math.degrees(math.acos(min(1.0, max(-1.0, self.between))))


def gradients(model, loss, batches, context=nullcontext):
    """The gradient of each mini-batch, one flat row each: (batches, parameters), float32.

    `loss(model, batch)` computes the loss; the forward pass runs within `context()`, such as `lambda: Emulation(model, recipe)`.
    The model is not changed.

    >>> layer = torch.nn.Linear(2, 1, bias=False)
    >>> gradients(layer, lambda model, x: model(x).sum(), [torch.ones(1, 2), torch.zeros(1, 2)])
    tensor([[1., 1.],
            [0., 0.]])
    """
    rows, kept = [], [p.grad for p in model.parameters()]
    for batch in batches:
        for p in model.parameters():
            p.grad = None
        with context():
            value = loss(model, batch)
        value.backward()
        rows.append(torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).float().flatten() for p in model.parameters()]))
    for p, grad in zip(model.parameters(), kept):
        p.grad = grad
    return torch.stack(rows)


def noise(exact, rounded) -> Noise:
    """Compare gradients in FP32 with those in a short format, both as `gradients` gives them, of the same mini-batches.

    The noise of mini-batches is that of a sample: its squares are divided by the number of batches less one. Raises `ValueError`
    for fewer than two mini-batches, or where the shapes differ.

    >>> found = noise(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), torch.tensor([[1.0, 1.5], [1.0, -1.5]]))
    >>> found.signal, found.rounding, found.bias, round(found.batch, 3), found.kept
    (1.0, 0.5, 0.0, 1.414, 1.25)
    """
    if exact.shape != rounded.shape or len(exact) < 2:
        raise ValueError(f"shapes {tuple(exact.shape)} and {tuple(rounded.shape)}: give the same two or more mini-batches for both")
    exact, rounded = exact.double(), rounded.double()
    n, mean, error = len(exact), exact.mean(0), rounded - exact
    products = torch.nn.functional.normalize(exact, dim=1)
    pairs = (products.sum(0).square().sum() - n) / (n * (n - 1))  # the sum over i ≠ j of unit vectors' products
    return Noise(
        signal=mean.norm().item(),
        batch=((exact - mean).square().sum() / (n - 1)).sqrt().item(),
        rounding=error.square().sum(1).mean().sqrt().item(),
        bias=error.mean(0).norm().item(),
        cosine=torch.cosine_similarity(exact, rounded).mean().item(),
        between=pairs.item(),
        kept=((exact * rounded).sum(1) / exact.square().sum(1)).mean().item(),
    )
