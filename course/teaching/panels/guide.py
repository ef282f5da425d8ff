"""RecipeGuide: which precision to train with on which chip, why, and how much of a promised gain a step can feel."""

from dataclasses import dataclass, field, replace

from course.training.chips import load, step_speedup
from course.training.recipes import RECIPES

from ..panel import Panel
from .parts import button, can_start_over, plain_table, rich, sentence

SHARES = {"small model": 50, "medium model": 80, "large model": 95}  # per cent of an FP32 step that are matrix products


@dataclass(frozen=True)
class GuideState:
    """Which chip, and the share of an FP32 step that matrix products take, in per cent."""

    chip: str
    share: int
    first: "GuideState | None" = field(default=None, compare=False, repr=False)


def start(chip="T4", share=80) -> GuideState:
    """The first state. Raises `ValueError` for a chip that is not in `data/chips.yaml` or a share outside of 0 … 99."""
    if chip not in load():
        raise ValueError(f"{chip!r} is no chip of data/chips.yaml: choose one of {', '.join(load())}")
    if share not in range(100):
        raise ValueError(f"share={share!r}: give whole per cents from 0 to 99")
    return GuideState(chip, share)


@can_start_over
def update(state: GuideState, action: dict) -> GuideState:
    """Apply one action: chip n | share | preset n | restart."""
    name, *rest = action["act"].split()
    if name == "chip":
        return replace(state, chip=list(load())[int(rest[0])])
    if name == "share":
        return replace(state, share=min(99, max(0, int(action["value"]))))
    if name == "preset":
        return replace(state, share=list(SHARES.values())[int(rest[0])])
    raise ValueError(f"{name!r} is no action of this panel")


def view(state) -> str:
    """The panel as HTML."""
    chips = "".join(button(f"chip {i}", name, pressed=state.chip == name) for i, name in enumerate(load()))
    shares = "".join(button(f"preset {i}", name, pressed=state.share == size) for i, (name, size) in enumerate(SHARES.items()))
    return (
        f'<div class="cp-bar">{button("restart", "↺ start over")}<span class="cp-presets" role="group" aria-label="Chip">{chips}</span></div>'
        f'<div class="cp-slide"><span class="cp-label">matrix products: {state.share} % of an FP32 step</span><input type="range" min="0" max="99" '
        f'step="1" value="{state.share}" data-act="share" data-key="share" aria-label="Share of an FP32 step that matrix products take, in per cent">'
        f'<span class="cp-presets" role="group" aria-label="Presets">{shares}</span></div>'
        f'<div class="cp-card" style="min-height:250px">{plain_table(*rates(state))}</div>'
        '<p class="cp-legend"><span>Rates: the maker’s data sheet.</span> <span>FLOP per byte: from this many operations per byte on, arithmetic and not memory '
        "is the limit of a product.</span></p>"
        f"{sentence(say(state), '')}"
    )


def rates(state) -> tuple:
    """Head, rows and caption: each native format's promise, and what is left of it in a whole step."""
    chip = load()[state.chip]
    rows = [
        (fmt.upper(), f"{rate:,.0f}".replace(",", " "), f"{chip.gain(fmt):.1f}", f"{step_speedup(state.share / 100, chip.gain(fmt)):.1f}",
         f"{chip.ridge(fmt):,.0f}".replace(",", " "))
        for fmt, rate in chip.peak.items()
    ]  # fmt: skip
    head = ("format", "peak TFLOP/s, dense", "product: × FP32", "step: × FP32", "FLOP per byte")
    return head, rows, f"{chip.name}: {chip.memory} GB, {chip.bandwidth:g} TB/s"


def say(state) -> str:
    """The sentence that says what the present state means."""
    chip = load()[state.chip]
    recipe = RECIPES[chip.recipe]
    best = max(chip.peak, key=chip.gain)
    limit = 100 / (100 - state.share)
    how = {"fp16": "FP16 with a loss scaler: it has no native BF16, so the range must be made by scaling",
           "bf16": "BF16 autocast over FP32 weights: FP32's range, so no loss scaler"}[chip.recipe]  # fmt: skip
    eight = [fmt.upper() for fmt in chip.peak if fmt.startswith(("fp8", "mx", "nv"))]
    more = f" {', '.join(eight)} for the large linear layers can come on top, each tensor or block with its scale." if eight else ""
    return (
        f"On {chip.name} train in {how}.{more} If matrix products are {state.share} % of an FP32 step, no format makes the step more than "
        f"{limit:.1f} times as fast; the {chip.gain(best):.0f} times of {best.upper()} products become {step_speedup(state.share / 100, chip.gain(best)):.1f}"
        f"{', and the scaler costs a check of every gradient' if recipe.scaler else ''}."
    )


def table(state) -> str:
    """The state as a plain table."""
    return f"{plain_table(*rates(state))}<p>{rich(say(state))}</p>"


def text(state) -> str:
    """The state as text."""
    head, rows, caption = rates(state)
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in (head, *rows)]
    return "\n".join([f"RecipeGuide: {caption}", *lines, say(state)])


class RecipeGuide(Panel):
    """Pick a chip: its native formats with their peak rates, the recipe to train with, and what Amdahl's law leaves of a gain.

    `chip` is a name of `data/chips.yaml`; `share` the per cents of an FP32 step that matrix products take. The rates are the
    makers' promises, not measured. Raises `ValueError` for other chips and shares.

    >>> print(RecipeGuide("T4", 80))
    RecipeGuide: T4: 16 GB, 0.32 TB/s
    format  peak TFLOP/s, dense  product: × FP32  step: × FP32  FLOP per byte
    FP32    8                    1.0              1.0           25
    FP16    65                   8.0              3.3           203
    On T4 train in FP16 with a loss scaler: it has no native BF16, so the range must be made by scaling. If matrix products are 80 % of an FP32 step, no format makes the step more than 5.0 times as fast; the 8 times of FP16 products become 3.3, and the scaler costs a check of every gradient.
    """

    update, view, table, text = map(staticmethod, (update, view, table, text))

    def __init__(self, chip="T4", share=80):
        super().__init__(start(chip, share))
