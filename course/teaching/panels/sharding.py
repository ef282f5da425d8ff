"""ShardLedger: bytes that each process holds and sends, for a model of any size, any number of processes, and five ways to share."""

from dataclasses import dataclass, field, replace

from course.numerics.formats import BF16, FP32
from course.training.comms import STRATEGIES, Formats, held, sent

from ..panel import Panel
from .ledger_sizes import name_size, read_size
from .parts import can_start_over
from .sharding_view import table, text, view

MOST = 10  # powers of two: 1024 processes
MICRO_BATCHES = (1, 4, 16)
# name: (formats, what that means)
RECIPES = {
    "FP32": (Formats(FP32, FP32), "everything in FP32"),
    "BF16, sums in FP32": (Formats(BF16, FP32), "BF16 weights and gradients over FP32 masters, gradients sent and summed in FP32"),
    "BF16, sums in BF16": (Formats(BF16, BF16), "BF16 weights and gradients over FP32 masters, gradients sent and summed in BF16"),
    "pure BF16": (Formats(BF16, BF16, master=False, moments=BF16), "everything in BF16, no masters"),
}
# name: (size, power of two of processes)
PRESETS = {"7 B on one GPU": ("7 B", 0), "7 B on a node of 8": ("7 B", 3), "7 B on 64": ("7 B", 6), "70 B on 64": ("70 B", 6), "70 B on 1024": ("70 B", 10)}


@dataclass(frozen=True)
class ShardState:
    """How many parameters, with the text they were typed as, 2^power processes, and what is shared in which formats."""

    parameters: int
    typed: str
    power: int
    strategy: str
    recipe: str
    micro_batches: int = 1
    draft: str | None = None  # a text that made no sense, shown until the number changes
    message: str = ""
    first: "ShardState | None" = field(default=None, compare=False, repr=False)  # what "start over" brings back

    @property
    def processes(self) -> int:
        return 2**self.power

    def held(self, strategy) -> dict:
        """Bytes that one process holds, by kind."""
        return {kind: self.parameters * size for kind, size in held(strategy, self.processes, RECIPES[self.recipe][0]).items()}

    def sent(self, strategy) -> dict:
        """Bytes that one process sends in a step, by collective."""
        found = sent(strategy, self.processes, RECIPES[self.recipe][0], self.micro_batches)
        return {name: self.parameters * size for name, size in found.items()}


def start(parameters="7 B", processes=8, strategy="FSDP2", recipe="BF16, sums in FP32") -> ShardState:
    """The first state. Raises `ValueError` for a size, a number of processes, a strategy or a recipe that there is not."""
    if processes not in [2**power for power in range(MOST + 1)]:
        raise ValueError(f"processes={processes!r}: choose a power of two from 1 to {2**MOST}")
    for name, value, known in (("strategy", strategy, STRATEGIES), ("recipe", recipe, RECIPES)):
        if value not in known:
            raise ValueError(f"{name}={value!r} is unknown: choose one of {'; '.join(known)}")
    typed = parameters if isinstance(parameters, str) else name_size(parameters)
    return ShardState(read_size(typed), typed.strip(), processes.bit_length() - 1, strategy, recipe)


@can_start_over
def update(state: ShardState, action: dict) -> ShardState:
    """Apply one action: type | processes (the slider's power) | move ±1 | preset n | strategy n | recipe n | micro n | restart."""
    name, *rest = action["act"].split()
    if name == "type":
        return _typed(state, str(action.get("value", "")).strip())
    if name in ("processes", "move"):
        return _to(state, round(float(action["value"])) if name == "processes" else state.power + int(rest[0]))
    state, number = replace(state, message="", draft=None), int(rest[0])
    if name == "preset":
        typed, power = list(PRESETS.values())[number]
        return replace(state, parameters=read_size(typed), typed=typed, power=power)
    if name in ("strategy", "recipe"):
        return replace(state, **{name: list({"strategy": STRATEGIES, "recipe": RECIPES}[name])[number]})
    if name == "micro":
        return replace(state, micro_batches=MICRO_BATCHES[number])
    raise ValueError(f"{name!r} is no action of this panel")


def _typed(state, value):
    try:
        return replace(state, parameters=read_size(value), typed=value, draft=None, message="")
    except ValueError as error:
        return replace(state, draft=value, message=f"{error}. The panel still shows {state.typed}.")


def _to(state, power):
    if not 0 <= power <= MOST:
        return replace(state, message=f"The slider goes from 1 to {2**MOST} processes.")
    return replace(state, power=power, message="")


class ShardLedger(Panel):
    """What each process holds between two steps and sends in one, for DDP, ZeRO-1, ZeRO-2, ZeRO-3 and FSDP2. Exact; rings.

    `parameters` is a number or text such as "7B"; `processes` a power of two up to 1024; `recipe` a key of `RECIPES`. Activations and
    the weights that are gathered for a moment are not in it. Raises `ValueError` for what there is not.

    >>> print(ShardLedger("7B", 8, "ZeRO-3"))
    ShardLedger: 7B parameters, 8 processes, BF16, sums in FP32, 1 micro-batch
    strategy  weights  gradients  optimizer  held GB  sent GB per step
    DDP       14       14         84         112      49
    ZeRO-1    14       14         10.5       38.5     36.75
    ZeRO-2    14       1.75       10.5       26.25    36.75
    ZeRO-3    1.75     1.75       10.5       14       49
    FSDP2     3.5      3.5        7          14       49
    ZeRO-3 with BF16 weights and gradients over FP32 masters, gradients sent and summed in FP32. Each of 8 processes holds 14 GB, an 8th of what one would hold alone, and sends 49 GB in a step, as much as DDP. That fits on a card of 24 GB, with 10 GB left for activations and gathered layers.
    """

    update, view, table, text = map(staticmethod, (update, view, table, text))

    def __init__(self, parameters="7 B", processes=8, strategy="FSDP2", recipe="BF16, sums in FP32"):
        super().__init__(start(parameters, processes, strategy, recipe))
