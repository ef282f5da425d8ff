"""How an update reaches a stored weight: rounded, diced, carried over, or through a master copy. All float32 tensors.

The arithmetic is FP32, as in the registers of a chip; what is *stored* between two steps is rounded to a format, which
is therefore emulated. Weights beyond the format's largest number overflow as its standard says ("ieee").
"""

import torch

from course.numerics import BF16
from course.numerics.rounding import cast

from .storage import UPDATES


def check_update(update, formats, generator):
    """Raise `ValueError`, saying what to write instead, for an update that these formats cannot have."""
    if update not in UPDATES:
        raise ValueError(f"update={update!r} is unknown: choose one of {', '.join(UPDATES)}")
    if update == "stochastic" and not isinstance(generator, torch.Generator):
        way_out = "needs generator=torch.Generator().manual_seed(...), so that it can be repeated"
        raise ValueError(f'update="stochastic" {way_out}')
    several = formats if isinstance(formats, (tuple, list)) else (formats,)
    if update == "remainder" and any(fmt != BF16 for fmt in several):
        names = ", ".join(sorted({fmt.name for fmt in several}))
        what = 'update="remainder" splits FP32 into BF16 and 16 more bits'
        raise ValueError(f"{what}, so weights must be BF16, not {names}")


def split(master):
    """Cut FP32 numbers into BF16 weights (as float32) and int16 remainders, so that `join` restores every bit.

    The weight is the *nearest* BF16 number: as with FP32 masters, the forward pass sees no bias. It is the upper half
    of the bits, plus one where the lower half is 0x8000 or more; read as a signed number the remainder then says
    whether one was added. A tie therefore goes away from zero: going to even could not be undone, since an even weight
    with the remainder 0x8000 would have two origins. A NaN keeps its bits in the pair, but the weight alone shows it
    only for the usual quiet one. Source: NVIDIA Apex, DistributedFusedAdam, `store_param_remainders`.

    >>> weight, remainder = split(torch.tensor([1.0, 1.0 + 2**-9, 1.0 + 3 * 2**-9]))
    >>> weight.tolist(), remainder.tolist()
    ([1.0, 1.0, 1.0078125], [0, 16384, -16384])
    """
    bits = master.detach().contiguous().view(torch.int32)
    remainder = bits.to(torch.int16)  # the lower half: integer conversions keep the low bits
    upper = bits - remainder.to(torch.int32)  # taking a negative remainder away carries one into the upper half
    return upper.view(torch.float32), remainder


def join(weight, remainder):
    """The FP32 numbers that `split` cut: the weight's bits plus the signed remainder.

    >>> x = torch.tensor([0.1, -1e-40, float("inf")])
    >>> torch.equal(join(*split(x)), x)
    True
    """
    bits = weight.detach().contiguous().view(torch.int32) + remainder.to(torch.int32)
    return bits.view(torch.float32)


def kahan(weight, carry, change, formats):
    """Add `change + carry` to the weight; what the rounded weight did not take is the new carry, in the same format.

    Two roundings to nearest-even, of the weight and of the carry; the sums between them are FP32.

    >>> kahan(torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([2.0**-9]), BF16)
    (tensor([1.]), tensor([0.0020]))
    """
    wanted = carry + change
    moved = cast(weight + wanted, formats)
    return moved, cast(wanted - (moved - weight), formats)


def begin(weight, formats, update) -> tuple:
    """The weight as it is stored from the start (nearest-even), and a dict of what is stored beside it."""
    rounded = cast(weight, formats)
    if update == "master":
        return rounded, {"master": weight.detach().clone()}
    if update == "remainder":
        upper, remainder = split(weight)
        return upper, {"remainder": remainder}
    return rounded, {"carry": torch.zeros_like(weight)} if update == "kahan" else {}


def base_of(weight, extra):
    """The number that an update is added to: the master copy where there is one, else the stored weight itself."""
    if "remainder" in extra:
        return join(weight, extra["remainder"])
    return extra.get("master", weight.detach())


def finish(weight, extra, target, change, formats, update, generator=None) -> tuple:
    """Store an updated weight: (new weight, dict of what is stored beside it). `target` is base plus change in FP32."""
    if update == "kahan":
        moved, carry = kahan(weight, extra["carry"], change, formats)
        return moved, {"carry": carry}
    if update == "remainder":
        upper, remainder = split(target)
        return upper, {"remainder": remainder}
    if update == "master":
        return cast(target, formats), {"master": target}
    return cast(target, formats, update, generator=generator), {}
