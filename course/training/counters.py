"""What rounding does to gradients and to updates, counted exactly.

A count asks of each number which of five things rounding to a format makes of it, or of each weight whether an update
reached it. The borders between the five are exact numbers, `borders(fmt)`; nothing is rounded to find out.
"""

import math
from dataclasses import astuple, dataclass
from functools import lru_cache

import torch

from course.numerics.formats import FloatFormat


class _Sum:
    """Counts that add up field by field, so that layers and steps can be put together with `sum`."""

    def __add__(self, other):
        return type(self)(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __radd__(self, other):
        return self if other == 0 else NotImplemented


@dataclass(frozen=True)
class GradientCount(_Sum):
    """How many of `total` numbers were exact zeros, flushed to zero, became subnormal or normal, or overflowed.

    The five kinds leave nothing out: they add up to `total`. Shares are taken of the numbers that were not zero to begin with.

    >>> both = GradientCount(4, 1, 1, 1, 1, 0) + GradientCount(2, 0, 0, 0, 1, 1)
    >>> both, both.share("flushed")
    (GradientCount(total=6, zero=1, flushed=1, subnormal=1, normal=2, overflowed=1), 0.2)
    """

    total: int
    zero: int  # zero before rounding: not the format's doing
    flushed: int  # not zero, but rounded to zero: underflow
    subnormal: int  # kept, with fewer digits than a normal number
    normal: int
    overflowed: int  # beyond the format's largest number; Inf and NaN among them

    def share(self, kind) -> float:
        """The part of the nonzero numbers that is of this kind; 0 where there are none."""
        return getattr(self, kind) / max(1, self.total - self.zero)


@dataclass(frozen=True)
class UpdateCount(_Sum):
    """How many of `total` weights had a nonzero update (`wanted`), changed (`moved`), or had one and did not change (`lost`)."""

    total: int
    wanted: int
    moved: int
    lost: int


@dataclass(frozen=True)
class Borders:
    """Where the kinds meet, for rounding to nearest with ties to even. All four are FP64 numbers and exact.

    A magnitude m > 0 is flushed if m <= `flush`, subnormal if `flush` < m < `normal`, normal if `normal` <= m < `overflow`
    and else overflows. `largest` is the format's largest number.
    """

    flush: float
    normal: float
    overflow: float
    largest: float


@lru_cache(maxsize=256)
def borders(fmt: FloatFormat) -> Borders:
    """The borders of a format. Raises `ValueError` for one without a zero (E8M0).

    Half the smallest number is a tie, and zero is even. Half an ulp below the smallest normal number is a tie that goes up.
    Half an ulp beyond the largest number is a tie too: FP16's last code is odd, so 65 520 overflows; E4M3's is even, so 464 does not.

    >>> from course.numerics import E4M3, FP16
    >>> b = borders(FP16)
    >>> b.flush == 2**-25, b.normal == 2**-14 - 2**-25, b.overflow, b.largest
    (True, True, 65520.0, 65504.0)
    >>> borders(E4M3).overflow
    464.00000000000006
    """
    if fmt.specials == "exponent-only":
        raise ValueError(f"{fmt.name} has no zero, so nothing can be flushed to it: count in a format for gradients")
    smallest = fmt.min_subnormal or fmt.min_normal
    flush = smallest / 2
    normal = fmt.min_normal - flush if fmt.min_subnormal else math.nextafter(flush, math.inf)
    tie = fmt.max + fmt.ulp(fmt.max) / 2
    overflow = tie if fmt.encode(fmt.max) % 2 else math.nextafter(tie, math.inf)
    return Borders(flush, normal, overflow, fmt.max)


def count_gradients(x, fmt: FloatFormat, scale=1.0) -> GradientCount:
    """What rounding `x * scale` to `fmt` does: to nearest, ties to even, IEEE overflow. `x` is a float tensor of any shape.

    The product is taken in FP64, where it is exact for FP32 numbers and a power of two. A format that saturates has
    overflowed where it saturates. Raises `ValueError` for a format without zero.

    >>> import torch
    >>> from course.numerics import FP16
    >>> count_gradients(torch.tensor([0.0, 2**-25, 2**-24, 1e-3, 65520.0]), FP16)
    GradientCount(total=5, zero=1, flushed=1, subnormal=1, normal=1, overflowed=1)
    """
    edge = borders(fmt)
    size = x.detach().double().mul(scale).abs()
    zero, at_most_flush = _how_many(x == 0), _how_many(size <= edge.flush)
    below_normal, finite = _how_many(size < edge.normal), _how_many(size < edge.overflow)  # a NaN is below nothing
    total = x.numel()
    return GradientCount(total, zero, at_most_flush - zero, below_normal - at_most_flush, finite - below_normal, total - finite)


def kind_of(x: float, fmt: FloatFormat) -> str:
    """What rounding makes of one number: "zero" (it was), "flushed", "subnormal", "normal" or "overflowed".

    >>> from course.numerics import FP16
    >>> [kind_of(x, FP16) for x in (0.0, 2**-25, -1e-6, 1.0, 65520)]
    ['zero', 'flushed', 'subnormal', 'normal', 'overflowed']
    """
    count = count_gradients(torch.tensor([x], dtype=torch.float64), fmt)
    return next(field for field, there in vars(count).items() if there and field != "total")


def count_updates(before, after, update) -> UpdateCount:
    """Compare stored weights `before` and `after` a step that wanted to add `update`; three tensors of one shape.

    Rounding may also move a weight without an update; then `moved` counts it, `wanted` and `lost` do not.

    >>> import torch
    >>> w = torch.tensor([1.0, 1.0, 1.0], dtype=torch.bfloat16)
    >>> update = torch.tensor([2**-8, 2**-7, 0.0])
    >>> count_updates(w, (w + update).bfloat16(), update)
    UpdateCount(total=3, wanted=2, moved=1, lost=1)
    """
    wanted, moved = update.detach() != 0, after.detach() != before.detach()
    return UpdateCount(update.numel(), _how_many(wanted), _how_many(moved), _how_many(wanted & ~moved))


def _how_many(mask) -> int:
    return int(mask.sum())


class GradientWatch:
    """Keeps the gradients of a model's latest pass: of what its layers put out, and of its weights. Works on any `torch.nn` model.

    A layer is a module that holds parameters of its own. `activations` and `weights` map its name to flat tensors, the first
    in the order of the forward pass; a layer used several times in one pass has them one after the other. Used as a
    context, the hooks are gone at its end and the gradients stay.

    >>> import torch
    >>> from course.numerics import FP16
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    >>> with GradientWatch(model) as watch:
    ...     model(torch.ones(5, 2)).sum().backward()
    >>> list(watch.activations), watch.counts(FP16)["2"].normal, watch.weights["0.weight"].shape
    (['0', '2'], 5, torch.Size([6]))
    """

    def __init__(self, model):
        self.activations, self.weights = {}, {}
        self._hooks = [model.register_forward_pre_hook(self._start)]
        for name, module in model.named_modules():
            own = list(module.named_parameters(prefix=name, recurse=False))
            if own:
                self._hooks.append(module.register_forward_hook(self._catch(name)))
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self._hooks.append(parameter.register_hook(self._keep(self.weights, name)))

    def _start(self, module, inputs):
        self.activations.clear()
        self.weights.clear()

    def _catch(self, name):
        def caught(module, inputs, output):
            self.activations.setdefault(name, None)  # its place in the order of the forward pass
            for part in output if isinstance(output, (tuple, list)) else [output]:
                if getattr(part, "requires_grad", False):
                    part.register_hook(self._keep(self.activations, name))

        return caught

    @staticmethod
    def _keep(kept, name):
        def keep(gradient):
            flat, before = gradient.detach().flatten().clone(), kept.get(name)
            kept[name] = flat if before is None else torch.cat([before, flat])

        return keep

    def counts(self, fmt: FloatFormat, scale=1.0, kind="activations") -> dict:
        """`GradientCount` of each layer, in one format and under one loss scale; `kind` is "activations" or "weights"."""
        return {name: count_gradients(x, fmt, scale) for name, x in self.gradients(kind).items()}

    def gradients(self, kind="activations") -> dict:
        """Name to flat tensor, without layers that no gradient came back to. Raises `ValueError` for another kind."""
        if kind not in ("activations", "weights"):
            raise ValueError(f"kind={kind!r}: choose 'activations' or 'weights'")
        return {name: x for name, x in getattr(self, kind).items() if x is not None}

    def remove(self):
        """Take the hooks off the model; what was kept stays."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.remove()
