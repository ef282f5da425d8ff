"""Who holds what, and who sends what: bytes per process for DDP, ZeRO-1, ZeRO-2, ZeRO-3 and FSDP2, predicted and counted.

The prediction is arithmetic on formats, per parameter and exact. The count watches the collectives that torch really calls (`Wire`) and
the tensors that a process really keeps (`held_here`). Bytes sent are those of ring algorithms: to gather or to scatter S bytes among n
processes each sends (n − 1)/n · S, to all-reduce them twice as much. Source: S. Rajbhandari and others, *ZeRO*, arXiv:1910.02054, 5 and 7.
"""

from dataclasses import dataclass
from fractions import Fraction

from course.numerics.formats import BF16, FP32, FloatFormat
from course.training import RunError
from course.training.storage import bytes_per_parameter

KINDS = ("weights", "gradients", "optimizer")  # optimizer: moments, and master weights where there are any
# Which kinds are cut into as many parts as there are processes; the rest is whole in each of them.
STRATEGIES = {
    "DDP": (),
    "ZeRO-1": ("optimizer",),
    "ZeRO-2": ("optimizer", "gradients"),
    "ZeRO-3": KINDS,
    "FSDP2": KINDS,
}


@dataclass(frozen=True)
class Formats:
    """What is stored and sent in which format: the weights that compute, the gradients as they are summed, master weights, moments.

    >>> Formats().sums.name, Formats(sums=FP32).stored("ZeRO-3")["gradients"]
    ('BF16', Fraction(2, 1))
    """

    weights: FloatFormat = BF16
    sums: FloatFormat = BF16
    master: bool = True
    moments: FloatFormat = FP32

    def stored(self, strategy) -> dict:
        """Bytes per parameter, in one process, by kind; FSDP2's shards *are* the master weights, and gradients have their format."""
        if strategy == "FSDP2":
            weights, update = FP32 if self.master else self.weights, "nearest-even"
        else:
            weights, update = self.weights, "master" if self.master and self.weights.bits < 32 else "nearest-even"
        found = bytes_per_parameter(weights=weights, update=update, first_moment=self.moments, second_moment=self.moments)
        parts = {kind: Fraction(found.pop(kind)) for kind in ("weights", "gradients")}
        return parts | {"optimizer": Fraction(sum(found.values()))}


def held(strategy, processes, formats=Formats()) -> dict:
    """Bytes per parameter that each process holds between two steps, by kind, as exact fractions; activations come on top.

    >>> {name: float(7 * sum(held(name, 8).values())) for name in STRATEGIES}  # GB for 7 billion parameters
    {'DDP': 112.0, 'ZeRO-1': 38.5, 'ZeRO-2': 26.25, 'ZeRO-3': 14.0, 'FSDP2': 14.0}
    """
    _check(strategy, processes)
    return {kind: size / (processes if kind in STRATEGIES[strategy] else 1) for kind, size in formats.stored(strategy).items()}


def collectives(strategy, formats=Formats(), micro_batches=1) -> list:
    """(collective, format, how often) in one step of so many micro-batches; each moves as many numbers as there are parameters.

    DDP and ZeRO-1 keep whole gradients and can wait for the last micro-batch. ZeRO-2 and beyond keep a part, so that each micro-batch
    sends its own. With sharded weights each micro-batch gathers them twice, for its forward and for its backward pass.

    >>> [(name, fmt.name, times) for name, fmt, times in collectives("ZeRO-3", Formats(sums=FP32))]
    [('all-gather', 'BF16', 2), ('reduce-scatter', 'FP32', 1)]
    """
    _check(strategy, micro_batches)
    if strategy == "DDP":
        return [("all-reduce", formats.sums, 1)]
    whole_weights = "weights" not in STRATEGIES[strategy]
    gathers = 1 if whole_weights else 2 * micro_batches
    sums = micro_batches if "gradients" in STRATEGIES[strategy] else 1
    return [("all-gather", formats.weights, gathers), ("reduce-scatter", formats.sums, sums)]


def sent(strategy, processes, formats=Formats(), micro_batches=1) -> dict:
    """Bytes per parameter that each process sends in one step, by collective, as exact fractions.

    >>> {name: float(7 * sum(sent(name, 8).values())) for name in STRATEGIES}  # GB for 7 billion parameters
    {'DDP': 24.5, 'ZeRO-1': 24.5, 'ZeRO-2': 24.5, 'ZeRO-3': 36.75, 'FSDP2': 36.75}
    """
    _check(strategy, processes)
    return {name: ring_share(name, processes) * times * Fraction(fmt.bits, 8) for name, fmt, times in collectives(strategy, formats, micro_batches)}


def ring_share(collective, processes) -> Fraction:
    """What one process sends in a ring, over the size of the whole tensor.

    >>> ring_share("all-reduce", 4), ring_share("all-gather", 4)
    (Fraction(3, 2), Fraction(3, 4))
    """
    return Fraction(processes - 1, processes) * (2 if collective == "all-reduce" else 1)


def _check(strategy, count):
    if strategy not in STRATEGIES:
        raise RunError(f"{strategy!r} is no strategy: choose one of {', '.join(STRATEGIES)}")
    if not (isinstance(count, int) and count >= 1):
        raise RunError(f"{count!r}: give a whole number of processes and of micro-batches, at least 1")


# ---- counted, in a process of a group

_NAMES = {"allreduce_": "all-reduce", "_allgather_base_": "all-gather", "_reduce_scatter_base_": "reduce-scatter", "broadcast_": "broadcast"}


def wire():
    """A context manager that writes down each collective that torch calls in it: its `calls` are (collective, dtype, numbers).

    "numbers" counts the whole tensor, before it is scattered or after it is gathered. It sees what goes through torch's dispatcher in this
    thread, which on CPUs is all that DDP and FSDP2 do. `bytes_sent(calls, processes)` adds it up.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Wire(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.calls = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function.namespace == "c10d":
                name = function.__name__.partition(".")[0]
                tensors = [x for x in _flat(args) if isinstance(x, torch.Tensor) and x.dtype != torch.uint8]
                if tensors:
                    whole = max(tensors, key=torch.Tensor.numel)
                    self.calls.append((_NAMES.get(name, name), str(whole.dtype).removeprefix("torch."), whole.numel()))
            return function(*args, **(kwargs or {}))

    return Wire()


def _flat(value):
    if isinstance(value, (list, tuple)):
        return [item for part in value for item in _flat(part)]
    return [value]


def bytes_sent(calls, processes) -> dict:
    """Bytes that one process sends in a ring, by (collective, dtype), for the calls that a `wire` has seen.

    >>> bytes_sent([("all-reduce", "bfloat16", 1000), ("all-gather", "float32", 1000)], 4)
    {('all-reduce', 'bfloat16'): 3000.0, ('all-gather', 'float32'): 3000.0}
    """
    import torch

    found = {}
    for name, dtype, numbers in calls:
        size = numbers * getattr(torch, dtype).itemsize
        found[name, dtype] = found.get((name, dtype), 0.0) + float(ring_share(name, processes) * size)
    return found


def held_here(model, optimizer) -> dict:
    """Bytes of weights, gradients and optimizer tensors (no step counts) that this process keeps; of sharded ones its own part.

    >>> import torch
    >>> model = torch.nn.Linear(3, 2)
    >>> held_here(model, torch.optim.SGD(model.parameters()))
    {'weights': 32, 'gradients': 0, 'optimizer': 0}
    """
    weights = list(model.parameters())
    states = getattr(optimizer, "optim", optimizer).state.values()  # ZeroRedundancyOptimizer keeps its part inside
    moments = [value for slot in states for value in slot.values() if getattr(value, "dim", lambda: 0)()]
    return dict(zip(KINDS, map(_bytes, (weights, [p.grad for p in weights if p.grad is not None], moments))))


def _bytes(tensors):
    local = [getattr(tensor, "to_local", lambda: tensor)() for tensor in tensors]
    return sum(tensor.numel() * tensor.element_size() for tensor in local)
