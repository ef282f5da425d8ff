"""SGD and AdamW whose weights and moments are stored in chosen formats. Arithmetic is FP32; storage is emulated.

Parameters stay float32 tensors, with values of the format `weights`. In FP32 throughout, each step gives the same
bits as torch.optim's (same operations, same order). A moment is computed in FP32, used so in this step, and rounded
(nearest-even, overflow "ieee") where it is stored for the next one: what fused optimizers do with moments in BF16.
"""

import torch

from course.numerics import BF16, FP32
from course.numerics.rounding import cast

from .storage import EXTRAS, bytes_per_parameter
from .updates import base_of, begin, check_update, finish

__all__ = ["SGD", "AdamW", "bytes_per_parameter"]


class _StoredOptimizer(torch.optim.Optimizer):
    """What both share: where weights are kept, rows that skip a step, counts, and a state that can be saved."""

    def __init__(self, params, defaults, weights, update, generator, count):
        check_update(update, weights, generator)
        self.weights, self.update, self.generator, self.count = weights, update, generator, count
        self.counts, self.changes = [], []
        super().__init__(params, defaults)

    def add_param_group(self, param_group):
        """Take parameters over: they are rounded to `weights` (nearest-even) here; a master keeps what they were.

        So load a model's weights before; those loaded later would be overwritten by what the master remembers.
        """
        super().add_param_group(param_group)
        for p in self.param_groups[-1]["params"]:
            if p.dtype != torch.float32:
                what = f"a parameter is {p.dtype}"
                raise TypeError(f"{what}: these optimizers emulate their formats over float32 parameters")
            rows = len(self.weights) if isinstance(self.weights, (tuple, list)) else None
            if rows is not None and (p.dim() == 0 or p.shape[0] != rows):
                raise ValueError(f"{rows} formats, but a parameter of shape {tuple(p.shape)}: one row per format")
            weight, extra = begin(p, self.weights, self.update)
            with torch.no_grad():
                p.copy_(weight)
            self.state[p] = extra | self._moments(p, self.param_groups[-1])

    @torch.no_grad()
    def step(self, closure=None, skip=None):
        """One step. `skip`, a boolean tensor with one entry per row, leaves those rows untouched, step count and all."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.counts, self.changes = [], []
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._step_one(p, group, skip)
        return loss

    def _step_one(self, p, group, skip):
        state = self.state[p]
        if skip is not None and (skip.dim() != 1 or p.dim() == 0 or len(skip) != p.shape[0]):
            shapes = tuple(skip.shape), tuple(p.shape)
            raise ValueError("skip has shape {}: give one entry for each row of a parameter {}".format(*shapes))
        extra = {EXTRAS[self.update]: state[EXTRAS[self.update]]} if self.update in EXTRAS else {}
        target, change, moments = self._move(base_of(p, extra), p.grad, state, group, skip)
        weight, extra = finish(p.detach(), extra, target, change, self.weights, self.update, self.generator)
        weight, new = _where_kept(skip, (p.detach(), weight), state, extra | moments)
        if self.count:
            from .counters import count_updates

            taken = change if skip is None else torch.where(_column(skip, p), 0.0, change)
            self.counts.append(count_updates(p.detach().clone(), weight, taken))
            self.changes.append(taken)
        p.copy_(weight)
        state.update(new)

    def __getstate__(self):
        """What a copy needs, as by copy.deepcopy: torch's three, and the formats."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    @property
    def _setting(self):
        """What a saved state must share with the optimizer that loads it."""
        names = [fmt.name for fmt in self.weights] if isinstance(self.weights, (tuple, list)) else self.weights.name
        return {"kind": type(self).__name__, "update": self.update, "weights": names}

    def state_dict(self):
        """torch's state dict, and how weights are stored and where the dice stand."""
        dice = None if self.generator is None else self.generator.get_state()
        return super().state_dict() | {"stored": self._setting, "generator": dice}

    def load_state_dict(self, state_dict):
        """Take a saved state up; raises `ValueError` where the weights were stored in another way."""
        found = state_dict.get("stored")
        if found != self._setting:
            both = f"this state was saved by {found or 'an optimizer without formats'}, and this optimizer is {self._setting}"
            raise ValueError(f"{both}: make it the same way first")
        super().load_state_dict({name: state_dict[name] for name in ("state", "param_groups")})
        for state in self.state.values():
            if "remainder" in state:  # torch gives every loaded tensor the parameter's dtype
                state["remainder"] = state["remainder"].to(torch.int16)
        if self.generator is not None and state_dict["generator"] is not None:
            self.generator.set_state(state_dict["generator"])


class SGD(_StoredOptimizer):
    """SGD with momentum and (coupled) weight decay as torch.optim.SGD; weights and momentum are stored in formats.

    `update` says how the sum reaches the stored weight: "nearest-even", "toward-zero", "stochastic" (needs
    `generator`), "kahan" (a carry in the weight's format), "master" (an FP32 copy), "remainder" (16 more bits beside a
    BF16 weight). Formats may be tuples, one per row of every parameter. `count=True` fills `counts` with an
    `UpdateCount` and `changes` with the wanted change for each parameter of the last step.

    >>> w = torch.nn.Parameter(torch.tensor([1.0]))
    >>> w.grad = torch.tensor([1.0])
    >>> SGD([w], lr=0.001, weights=BF16).step(); w.item()
    1.0
    """

    def __init__(self, params, lr, momentum=0.0, weight_decay=0.0, weights=FP32, update="nearest-even", moment=FP32,
                 generator=None, count=False):  # fmt: skip
        self.moment = moment
        defaults = dict(lr=lr, momentum=momentum, weight_decay=weight_decay)
        super().__init__(params, defaults, weights, update, generator, count)

    def _moments(self, p, group):
        return {"momentum": torch.zeros_like(p)} if group["momentum"] else {}

    def _move(self, base, grad, state, group, skip):
        if group["weight_decay"]:
            grad = grad.add(base, alpha=group["weight_decay"])
        moments = {}
        if group["momentum"]:
            grad = (state["momentum"] * group["momentum"]).add_(grad)
            moments["momentum"] = cast(grad, self.moment)
        return base.add(grad, alpha=-group["lr"]), grad * -group["lr"], moments


class AdamW(_StoredOptimizer):
    """AdamW as torch.optim.AdamW (Adam for weight_decay=0); weights and both moments are stored in formats.

    `weights`, `update`, `generator`, `count` and tuples of formats as in `SGD`. `eps` and the betas are FP64 numbers
    that multiply FP32 values: they are not rounded to a moment's format, but their products are, where they are stored.
    Source: I. Loshchilov and F. Hutter, arXiv:1711.05101.

    >>> w = torch.nn.Parameter(torch.tensor([1.0]))
    >>> w.grad = torch.tensor([5.0])  # the first step is lr, whatever the gradient: below half an ulp of 1.0
    >>> adam = AdamW([w], lr=0.001, weights=BF16, update="master"); adam.step()
    >>> w.item(), round(adam.state[w]["master"].item(), 6)
    (1.0, 0.999)
    """

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, weights=FP32,
                 update="nearest-even", first_moment=FP32, second_moment=FP32, generator=None, count=False):  # fmt: skip
        self.first_moment, self.second_moment = first_moment, second_moment
        defaults = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        super().__init__(params, defaults, weights, update, generator, count)

    def _moments(self, p, group):
        none_yet = torch.zeros((), dtype=torch.int64)
        return {"step": none_yet, "first": torch.zeros_like(p), "second": torch.zeros_like(p)}

    def _move(self, base, grad, state, group, skip):
        lr, (beta1, beta2), decay = group["lr"], group["betas"], group["lr"] * group["weight_decay"]
        step = state["step"] + (1 if skip is None else (~skip).long().cpu())  # a row that skips does not count it
        first = state["first"].lerp(grad, 1 - beta1)
        second = (state["second"] * beta2).addcmul_(grad, grad, value=1 - beta2)
        size = _scalars(step, base, lambda t: -lr / (1 - beta1**t))
        root = _scalars(step, base, lambda t: (1 - beta2**t) ** 0.5)
        change = (size * first) / (second.sqrt() / root).add_(group["eps"])
        target = (base * (1 - decay) if decay else base) + change
        if decay:
            change = change - decay * base
        moments = {"first": cast(first, self.first_moment), "second": cast(second, self.second_moment)}
        return target, change, moments | {"step": step}


def _scalars(steps, like, rule):
    """`rule` of each row's step count, in FP64 and then FP32 (as torch does with its scalars), to multiply `like`."""
    values = [rule(max(t, 1)) for t in steps.view(-1).tolist()]
    values = torch.tensor(values, dtype=torch.float32, device=like.device)
    return values.view(-1, *[1] * (like.dim() - 1)) if steps.dim() else values[0]


def _column(skip, like):
    return skip.to(like.device).view(-1, *[1] * (like.dim() - 1))


def _where_kept(skip, weights, old, new):
    """New weight and state; for rows that skip, the old ones."""
    before, after = weights
    if skip is None:
        return after, new
    keep = _column(skip, before)
    moved = {name: value if name == "step" else torch.where(keep, old[name], value) for name, value in new.items()}
    return torch.where(keep, before, after), moved
