"""How many weights a real training step moved, by kind of weight: matrices, embeddings, gains of norms, biases."""

from course.numerics import round_to

KINDS = ("matrices", "embeddings", "gains", "biases")


def kind_of_weight(name) -> str:
    """The kind of a parameter of `models.GPT`, by its name.

    >>> [kind_of_weight(name) for name in ("blocks.0.widen.weight", "positions.weight", "norm.weight", "norm.bias")]
    ['matrices', 'embeddings', 'gains', 'biases']
    """
    if name.endswith("bias"):
        return "biases"
    if name.endswith("norm.weight"):
        return "gains"
    return "embeddings" if name.startswith(("tokens.", "positions.")) else "matrices"


def snapshot(model) -> dict:
    """A copy of every parameter, by name."""
    return {name: _whole(parameter).clone() for name, parameter in model.named_parameters()}


def _whole(parameter):
    """The values of a parameter, put together from all processes where it is sharded."""
    return getattr(parameter, "full_tensor", lambda: parameter)().detach()


def moved_shares(before, model, fmt) -> dict:
    """The share of the stored weights that differ from `before`, a `snapshot`, by kind.

    "multiplied" is the same for the matrices after rounding to `fmt` (nearest-even, overflow "ieee"): what the products of
    the next step see of it. Of weights that are stored in `fmt` the two are equal.

    >>> import torch
    >>> from course.numerics import BF16
    >>> model = torch.nn.ModuleDict({"head": torch.nn.Linear(2, 1, bias=False)})
    >>> _ = model.head.weight.data.fill_(1.0)
    >>> before = snapshot(model)
    >>> model.head.weight.data += torch.tensor([[2**-9, 2**-6]])
    >>> moved_shares(before, model, BF16)
    {'matrices': 1.0, 'multiplied': 0.5}
    """
    moved, total = {}, {}
    for name, after in model.named_parameters():
        old, new, kind = before[name], _whole(after), kind_of_weight(name)
        counts = {kind: old != new}
        if kind == "matrices":
            counts["multiplied"] = round_to(old.float(), fmt) != round_to(new.float(), fmt)
        for each, changed in counts.items():
            moved[each] = moved.get(each, 0) + int(changed.sum())
            total[each] = total.get(each, 0) + changed.numel()
    return {each: moved[each] / total[each] for each in moved}
