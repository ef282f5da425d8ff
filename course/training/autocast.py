"""What `torch.autocast` does to each operation, read from the installed torch itself; a GPU is not needed.

The list of operations that autocast touches is in torch's dispatcher. What it does to one is found by calling it on fake
tensors, which have a device and a dtype but no numbers, and watching which casts happen before it. The dispatcher's functions
and fake tensors are no public interface: `policies` raises `RunError` where a torch has changed them.
"""

import logging
import warnings
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from course.training import RunError
from course.training.files import silent_errors

LOWER, FULL, WIDEST, REFUSED, UNKNOWN = "lower precision", "fp32", "widest input", "refused", "not probed"
_KEYS = {"cuda": "AutocastCUDA", "cpu": "AutocastCPU", "xpu": "AutocastXPU", "mps": "AutocastMPS"}
_SHORT = {"cpu": torch.bfloat16}
# Shapes that some operation takes for its tensors, tried in turn. The casts come before an operation looks at its arguments,
# so that they show what autocast does also where the operation then refuses the shapes.
_SHAPES = ([(4, 4)] * 6, [(2, 4, 8)] * 6, [(2, 4, 8, 8)] * 6, [(2, 4, 8, 8, 8)] * 6, [(4,)] * 6)


def policies(device="cuda") -> dict:
    """What autocast does to each operation on a kind of device: {name of the ATen operator: policy}.

    "lower precision": inputs are cast to the autocast dtype. "fp32": inputs are cast up, or the result is computed in FP32.
    "widest input": all inputs are cast to the widest dtype among them. "refused": raises an error. "not probed": no arguments were found.
    Everything that is not in the dictionary runs in the dtype in which its inputs come. Takes some seconds.

    >>> found = policies("cpu")
    >>> found["linear"], "softmax" in found
    ('lower precision', False)
    """
    if device not in _KEYS:
        raise RunError(f"device={device!r}: autocast's lists are known for {', '.join(_KEYS)}")
    try:
        names = torch._C._dispatch_get_registrations_for_dispatch_key(_KEYS[device])
        found = {}
        with warnings.catch_warnings(), _silenced("torch._subclasses.fake_tensor"):
            warnings.simplefilter("ignore")
            for name in sorted(names):
                if name.startswith("aten::"):
                    name = name.removeprefix("aten::")
                    found.setdefault(name.split(".")[0], _policy(name, device))
    except (AttributeError, ImportError) as error:
        raise RunError(f"this torch ({torch.__version__}) does not tell its autocast lists: {error}") from None
    return found


def _policy(name, device):
    packet, _, overload = name.partition(".")
    op = getattr(getattr(torch.ops.aten, packet), overload or "default")
    short = _SHORT.get(device, torch.float16)
    for shapes in _SHAPES:
        verdict = _try(op, shapes, device, short)
        if verdict:
            return verdict
    return UNKNOWN


def _try(op, shapes, device, short):
    """The policy that one choice of shapes shows; None where it shows none."""
    casts, results = {}, {}
    for name, dtypes in {"full": [torch.float32] * 6, "short": [short] * 6, "mixed": [short, *[torch.float32] * 5]}.items():
        found = _called(op, shapes, device, dtypes)
        if not isinstance(found, tuple):
            return found
        casts[name], results[name] = found
    if short in casts["full"]:
        return LOWER
    if torch.float32 in casts["short"] or torch.float32 in results["short"]:
        return FULL
    return WIDEST if torch.float32 in casts["mixed"] else None


def _called(op, shapes, device, dtypes):
    """(dtypes cast to, dtypes of the results) of one call under autocast, "refused", or None where no arguments are known."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), _autocast(device, _SHORT.get(device, torch.float16)):
        arguments = _arguments(op._schema, [torch.empty(s, dtype=d, device=device) for s, d in zip(shapes, dtypes)])
        if arguments is None:
            return None
        result = None
        with _Casts() as casts:
            try:
                result = op(*arguments)
            except Exception as error:
                if "unsafe to autocast" in str(error):
                    return REFUSED
    return casts.to, {value.dtype for value in tree_leaves(result) if isinstance(value, torch.Tensor)}


def _arguments(schema, tensors):
    """Arguments for the parameters without a default; None where one is of an unknown kind."""
    made, tensors = [], list(tensors)
    simple = {"int": 1, "SymInt": 1, "float": 0.5, "bool": False, "number": 2, "Scalar": 2, "str": "mean"}
    for argument in schema.arguments:
        kind = str(argument.type)
        if argument.has_default_value() or argument.kwarg_only:
            break
        if "index" in argument.name and kind == "Tensor" or argument.name == "target" and "nll" in schema.name:
            made.append(torch.zeros(tensors[0].shape[: 1 if "nll" in schema.name else None], dtype=torch.long, device=tensors[0].device))
        elif kind == "Tensor":
            made.append(tensors.pop(0) if tensors else None)
        elif kind == "List[Tensor]":
            made.append([tensors.pop(0) for _ in range(min(2, len(tensors)))])
        elif kind == "List[Optional[Tensor]]":
            made.append([torch.zeros(1, dtype=torch.long, device=tensors[0].device)])
        elif kind.startswith("Optional"):
            made.append(None)
        elif kind in ("List[int]", "List[SymInt]"):
            made.append(list(tensors[0].shape[-1:]) if "shape" in argument.name and tensors else [1])
        elif kind in simple:
            made.append("ij,jk->ik" if argument.name == "equation" else simple[kind])
        else:
            return None
    return made


@contextmanager
def _silenced(name):
    """Keep a logger quiet (fake tensors report every call that does not suit them), and C++ code, which warns past Python."""
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        with silent_errors():
            yield
    finally:
        logger.disabled = before


@contextmanager
def _autocast(device, dtype):
    """Autocast for a device that need not be there: the public context would switch itself off with a warning."""
    before = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    torch.set_autocast_enabled(device, True)
    torch.set_autocast_dtype(device, dtype)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled(device, before[0])
        torch.set_autocast_dtype(device, before[1])


class _Casts(TorchDispatchMode):
    """Notes the dtypes that tensors are cast to."""

    def __init__(self):
        super().__init__()
        self.to = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.overloadpacket is torch.ops.aten._to_copy:
            self.to.add(kwargs.get("dtype"))
        return func(*args, **kwargs)
