"""Loss scaling: multiply the loss so that small FP16 gradients survive, divide the gradients before anything uses them.

The order of one step, which both scalers share with `torch.amp.GradScaler`:

    scaler.scale(loss).backward()       # every gradient is S times as large
    scaler.unscale_(optimizer)          # divided by S, in the gradients' own FP32; looks for Inf and NaN (optional:
    clip_grad_norm_(parameters, 1.0)    # step does it if nobody did, but whoever clips has to do it first)
    scaler.step(optimizer)              # skipped if there was an Inf or a NaN
    scaler.update()                     # once per step, after all optimizers

Only powers of two scale exactly, so that is what the factors should be. Source: P. Micikevicius et al., Mixed Precision
Training, ICLR 2018, section 3.2; the dynamic rule is that of torch/amp/grad_scaler.py.
"""

from dataclasses import dataclass

import torch


def next_scale(scale, good_steps, found_inf, growth_factor=2.0, backoff_factor=0.5, growth_interval=2000):
    """The scale and the count of good steps after one more step, as `(scale, good_steps)`.

    Tensors of any one shape, an entry for each run: `scale` FP32, `good_steps` whole numbers, `found_inf` true where the
    step met Inf or NaN. A bad step multiplies the scale by `backoff_factor` and forgets the good ones; the step that makes
    `growth_interval` good ones in a row multiplies it by `growth_factor`, unless that is beyond FP32. Products are
    taken in FP64 and rounded to FP32, nearest-even. Source: the kernel `_amp_update_scale_` of torch.

    >>> scale, good = torch.tensor([65536.0, 65536.0, 65536.0]), torch.tensor([0, 1999, 1999])
    >>> next_scale(scale, good, torch.tensor([False, False, True]))
    (tensor([ 65536., 131072.,  32768.]), tensor([1, 0, 0]))
    """
    bad = found_inf.bool()
    grows = good_steps + 1 == growth_interval
    grown, reduced = ((scale.double() * factor).float() for factor in (growth_factor, backoff_factor))
    scale = torch.where(bad, reduced, torch.where(grows & grown.isfinite(), grown, scale))
    return scale, torch.where(bad | grows, 0, good_steps + 1)


@dataclass
class _Progress:
    """How far one optimizer has come since the last update: what `unscale_` found (None: not called yet), and `step`."""

    found_inf: bool | None = None
    stepped: bool = False


class StaticScaler:
    """A loss scale that never changes. Gradients that are Inf or NaN skip the step, as in `DynamicScaler`.

    `skip=False` takes such steps all the same, to show why nobody does. Raises `ValueError` for FP16 gradients.

    >>> w = torch.nn.Parameter(torch.ones(1))
    >>> optimizer, scaler = torch.optim.SGD([w], lr=0.5), StaticScaler(1024.0)
    >>> scaler.scale(w.sum()).backward()
    >>> w.grad.item(), scaler.step(optimizer), w.grad.item(), w.item()
    (1024.0, None, 1.0, 0.5)
    """

    def __init__(self, scale, skip=True):
        self._scale = torch.tensor(float(scale))
        if not 0 < self._scale < float("inf"):  # as FP32, in which it is kept
            raise ValueError(f"scale={scale!r}: choose a positive number that FP32 can hold, best a power of two such as 1024.0")
        self._skip = skip
        self._optimizers = {}  # id -> _Progress, emptied by update

    def scale(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss times S, to call `backward` on."""
        return loss * self._scale.to(loss.device)

    def unscale_(self, optimizer) -> None:
        """Divide the gradients of one optimizer by S, in place, and remember whether one of them was Inf or NaN.

        At most once between updates, else `RuntimeError`. Looks before it divides, as torch does.
        """
        progress = self._optimizers.setdefault(id(optimizer), _Progress())
        if progress.stepped:
            raise RuntimeError("unscale_() is being called after step().")
        if progress.found_inf is not None:
            raise RuntimeError("unscale_() has already been called on this optimizer since the last update().")
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        gradients = [gradient._values() if gradient.is_sparse else gradient for gradient in gradients]
        if any(gradient.dtype == torch.float16 for gradient in gradients):
            raise ValueError("Attempting to unscale FP16 gradients: keep the weights in FP32, only the computing is in FP16.")
        if not gradients:
            raise RuntimeError("no parameter of this optimizer has a gradient: call scale(loss).backward() first")
        progress.found_inf = not all(gradient.isfinite().all() for gradient in gradients)
        inverse = 1 / self._scale
        for gradient in gradients:
            wide = torch.promote_types(gradient.dtype, torch.float32)  # a BF16 gradient is divided in FP32, then rounded
            gradient.copy_(gradient.to(wide) * inverse.to(gradient.device, wide))

    def step(self, optimizer, *args, **kwargs):
        """`optimizer.step(…)` on unscaled gradients, or nothing at all if one of them was Inf or NaN.

        Divides them first if nobody did. At most once between updates, else `RuntimeError`; so too for a closure, whose
        gradients nobody would have divided.
        """
        if callable(kwargs.get("closure", args[0] if args else None)):
            raise RuntimeError("a closure computes new, scaled gradients inside the step: call backward yourself, and step without it")
        progress = self._optimizers.setdefault(id(optimizer), _Progress())
        if progress.stepped:
            raise RuntimeError("step() has already been called since the last update().")
        if progress.found_inf is None:
            self.unscale_(optimizer)
        progress.stepped = True
        return None if progress.found_inf and self._skip else optimizer.step(*args, **kwargs)

    def found_inf(self, optimizer) -> bool | None:
        """Whether `unscale_` met Inf or NaN since the last update; None if it has not looked yet."""
        return self._optimizers.get(id(optimizer), _Progress()).found_inf

    def update(self) -> None:
        """End the step: each optimizer may be unscaled and stepped again."""
        self._end_step()

    def _end_step(self) -> bool:
        """Start afresh; whether an optimizer met Inf or NaN in the step that ends."""
        found = [progress.found_inf for progress in self._optimizers.values() if progress.found_inf is not None]
        if not found:
            raise RuntimeError("No inf checks were recorded prior to update.")
        self._optimizers.clear()
        return any(found)

    def get_scale(self) -> float:
        """The present loss scale."""
        return self._scale.item()

    def state_dict(self) -> dict:
        """What a checkpoint needs."""
        return {"scale": self.get_scale()}

    def load_state_dict(self, state: dict) -> None:
        """Go on from `state_dict()`."""
        self._scale = torch.tensor(float(state["scale"]))


class DynamicScaler(StaticScaler):
    """A loss scale that finds its own size: halved by a bad step, doubled after `growth_interval` good ones in a row.

    The same numbers as `torch.amp.GradScaler`, step by step: scale, count, skipped steps and weights, and the same keys
    in `state_dict`, so that either continues where the other stopped. All arithmetic of the scale is FP32: it can reach 0,
    and then nothing brings it back.

    >>> w = torch.nn.Parameter(torch.ones(1))
    >>> optimizer, scaler = torch.optim.SGD([w], lr=0.5), DynamicScaler(growth_interval=2)
    >>> for factor in (1.0, float("inf"), 0.0, 0.0):
    ...     optimizer.zero_grad()
    ...     scaler.scale((factor * w).sum()).backward()
    ...     scaler.step(optimizer)
    ...     scaler.update()
    ...     print(f"{scaler.get_scale():.0f} w = {w.item()}")
    65536 w = 0.5
    32768 w = 0.5
    32768 w = 0.5
    65536 w = 0.5
    """

    def __init__(self, init_scale=65536.0, growth_factor=2.0, backoff_factor=0.5, growth_interval=2000):
        super().__init__(init_scale)
        if growth_factor <= 1 or backoff_factor >= 1:
            raise ValueError(f"growth_factor={growth_factor!r} must be above 1, and backoff_factor={backoff_factor!r} below 1")
        self._good_steps = torch.tensor(0)
        self.growth_factor, self.backoff_factor, self.growth_interval = growth_factor, backoff_factor, growth_interval

    @property
    def good_steps(self) -> int:
        """Steps without Inf or NaN since the scale last changed; torch calls this the growth tracker."""
        return self._good_steps.item()

    def update(self) -> None:
        """End the step: halve the scale if any optimizer met Inf or NaN, count it as a good one if none did."""
        found_inf = torch.tensor(self._end_step())
        factors = self.growth_factor, self.backoff_factor, self.growth_interval
        self._scale, self._good_steps = next_scale(self._scale, self._good_steps, found_inf, *factors)

    def state_dict(self) -> dict:
        """What a checkpoint needs, under the keys that torch uses."""
        return {
            "scale": self.get_scale(), "growth_factor": self.growth_factor, "backoff_factor": self.backoff_factor,
            "growth_interval": self.growth_interval, "_growth_tracker": self.good_steps,
        }  # fmt: skip

    def load_state_dict(self, state: dict) -> None:
        """Go on from a `state_dict()`, ours or torch's."""
        super().load_state_dict(state)
        self.growth_factor, self.backoff_factor = state["growth_factor"], state["backoff_factor"]
        self.growth_interval, self._good_steps = state["growth_interval"], torch.tensor(state["_growth_tracker"])
