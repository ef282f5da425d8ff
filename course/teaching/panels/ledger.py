"""MemoryLedger: what training keeps for each parameter, kind by kind, for a model of any size and many recipes."""

from dataclasses import dataclass, field, replace

from ..panel import Panel
from .ledger_sizes import RECIPES, SIZES, name_size, read_size, two_digits
from .ledger_view import table, text, view
from .parts import can_start_over

@dataclass(frozen=True)
class LedgerState:
    """How many parameters, with the text they were typed as, and which recipe."""

    parameters: int
    typed: str
    recipe: str
    draft: str | None = None  # a text that made no sense, shown until the number changes
    message: str = ""
    first: "LedgerState | None" = field(default=None, compare=False, repr=False)  # what "start over" brings back


def start(parameters="7 B", recipe="FP32 masters") -> LedgerState:
    """The first state. Raises `ValueError` for a size or a recipe that there is not."""
    if recipe not in RECIPES:
        raise ValueError(f"{recipe!r} is no recipe: choose one of {', '.join(RECIPES)}")
    typed = parameters if isinstance(parameters, str) else name_size(parameters)
    return LedgerState(read_size(typed), typed.strip(), recipe)


@can_start_over
def update(state: LedgerState, action: dict) -> LedgerState:
    """Apply one action: type | slide | preset n | recipe n | restart. The slider's value is a power of ten times 20."""
    name, *rest = action["act"].split()
    value = str(action.get("value", "")).strip()
    if name == "type":
        try:
            return replace(state, parameters=read_size(value), typed=value, draft=None, message="")
        except ValueError as error:
            return replace(state, draft=value, message=f"{error}. The panel still shows {state.typed}.")
    if name == "slide":
        size = two_digits(10 ** (int(value) / 20))
        return replace(state, parameters=size, typed=name_size(size), draft=None, message="")
    if name == "preset":
        typed = list(SIZES)[int(rest[0])]
        return replace(state, parameters=SIZES[typed], typed=typed, draft=None, message="")
    if name == "recipe":
        return replace(state, recipe=list(RECIPES)[int(rest[0])])
    raise ValueError(f"{name!r} is no action of this panel")


class MemoryLedger(Panel):
    """What a training recipe keeps for each parameter: bytes by kind, GB and GiB for a model's size, and what fits on a card.

    `parameters` is a number or text such as "7B"; `recipe` a key of `RECIPES`. Activations are not in it: they depend on the
    batch. Raises `ValueError` for a size or a recipe that there is not.

    >>> print(MemoryLedger("7B", "FP32 masters"))
    MemoryLedger: 7B parameters, FP32 masters
    kind           bytes each  GB   GiB
    weights        2           14   13.04
    gradients      2           14   13.04
    master         4           28   26.08
    first moment   4           28   26.08
    second moment  4           28   26.08
    together       16          112  104.31
    card    cards needed  largest model on one
    24 GB   5             1.5 B
    40 GB   3             2.5 B
    80 GB   2             5 B
    141 GB  1             8.81 B
    FP32 masters: mixed precision with BF16 weights and gradients, and FP32 masters behind the weights. It keeps 16 bytes per parameter, 112 GB or 104.31 GiB, exactly as much as FP32 and Adam. That fits on one card of 141 GB, with 29 GB left for activations.
    """

    update, view, table, text = map(staticmethod, (update, view, table, text))

    def __init__(self, parameters="7 B", recipe="FP32 masters"):
        super().__init__(start(parameters, recipe))
