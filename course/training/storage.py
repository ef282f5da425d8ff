"""What is stored for each parameter, in bytes: the arithmetic of memory, without a tensor and without torch."""

from course.numerics.formats import BF16, E4M3, FP32

UPDATES = ("nearest-even", "toward-zero", "stochastic", "kahan", "master", "remainder")
EXTRAS = {"kahan": "carry", "master": "master", "remainder": "remainder"}  # what is stored beside the weight


def extra_bytes(update, weights=FP32) -> float:
    """Bytes per parameter of what an update stores beside the weight: an FP32 master, a carry, a remainder, or nothing.

    >>> [extra_bytes(update, BF16) for update in UPDATES]
    [0.0, 0.0, 0.0, 2.0, 4.0, 2.0]
    """
    if update not in UPDATES:
        raise ValueError(f"update={update!r} is unknown: choose one of {', '.join(UPDATES)}")
    return {"master": FP32.bits / 8, "kahan": weights.bits / 8, "remainder": 2.0}.get(update, 0.0)


def bytes_per_parameter(optimizer="adamw", weights=FP32, gradients=None, update="nearest-even", first_moment=FP32,
                        second_moment=FP32, momentum=True, copy=None, block=None) -> dict:  # fmt: skip
    """Bytes that training keeps for each parameter, by kind, in the order of use; activations come on top.

    Formats are those of storage; `gradients` have the weights' by default. `copy` is a shorter copy of the weights
    that lives beside them, as autocast makes one. `block`: 8-bit moments share one FP32 scale between so many. Raises
    `ValueError` for an optimizer other than "adamw" and "sgd" (which has no moment at `momentum=False`).

    >>> bytes_per_parameter(weights=BF16, update="master")
    {'weights': 2.0, 'gradients': 2.0, 'master': 4.0, 'first moment': 4.0, 'second moment': 4.0}
    >>> sum(bytes_per_parameter().values())  # FP32 throughout: no master, and the same total
    16.0
    """
    if optimizer not in ("adamw", "sgd"):
        raise ValueError(f'optimizer={optimizer!r}: choose "adamw" or "sgd"')
    first = first_moment if optimizer == "adamw" or momentum else None
    second = second_moment if optimizer == "adamw" else None
    short = [moment for moment in (first, second) if moment and moment.bits == E4M3.bits]
    formats = {"weights": weights, "copy": copy, "gradients": gradients or weights}
    formats |= {"first moment": first, "second moment": second}
    sizes = {kind: fmt.bits / 8 for kind, fmt in formats.items() if fmt}
    extra = extra_bytes(update, weights)
    sizes |= {EXTRAS[update]: extra} if extra else {}
    sizes |= {"scales": len(short) * FP32.bits / 8 / block if block else 0.0}
    order = ("weights", "copy", "gradients", *EXTRAS.values(), "first moment", "second moment", "scales")
    return {kind: sizes[kind] for kind in sorted(sizes, key=order.index) if sizes[kind]}
