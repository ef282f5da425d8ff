"""Runs as bands over seeds: the recorded ones of data/runs and the reader's own, put together and drawn in the same way."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from course.training import records

from .figures import label_line, line_look
from .style import GREEN, VERMILLION

LOOKS = {
    "tf32": line_look("TF32"), "bf16": line_look("BF16"), "fp16": line_look("FP16"), "fp32": line_look("FP32"),
    "pure-bf16": {"color": VERMILLION, "linestyle": "dotted", "marker": "X"},
    "bf16-sr": {"color": GREEN, "linestyle": "dashdot", "marker": "*"},
}  # fmt: skip


@dataclass(frozen=True)
class Band:
    """One recipe over several seeds. Arrays: losses (seeds, steps), validation (seeds, times it was taken)."""

    name: str
    execution: str  # "native" or "emulated"
    losses: np.ndarray
    validation: np.ndarray
    runs: tuple  # what a record holds of each seed's run

    def gap(self, other, last=None) -> np.ndarray:
        """Validation loss above that of `other`, seed by seed; `last` counts from the end, None for the last one.

        >>> a, b = (Band(name, "native", np.zeros((2, 1)), np.array([[3.0, end], [3.0, 2.0]]), ()) for name, end in (("x", 2.5), ("y", 2.0)))
        >>> a.gap(b)
        array([0.5, 0. ])
        """
        place = -1 if last is None else -last
        return self.validation[:, place] - other.validation[:, place]

    def moved(self, kind) -> np.ndarray:
        """Shares of the weights of a kind that changed, (seeds, times they were counted); see `training.moved`."""
        return np.array([[count[kind] for count in run["moved"]] for run in self.runs])


def bands(made) -> dict:
    """{recipe's name: `Band`} of records of several seeds, or of finished `loop.Comparison`s.

    Raises `ValueError` where they do not have the same recipes and steps.
    """
    runs = [made_runs(each) for each in made]
    names = [[run["recipe"]["name"] for run in each] for each in runs]
    lengths = {len(run["losses"]) for each in runs for run in each}
    if not runs or any(each != names[0] for each in names) or len(lengths) != 1:
        raise ValueError("these runs do not belong together: give runs of the same recipes and steps")
    found = {}
    for name, *seeds in zip(names[0], *runs):
        losses, validation = (np.array(rows, dtype=float) for rows in (
            [run["losses"] for run in seeds], [[loss for _, loss in run["validation"]] for run in seeds]))  # fmt: skip
        found[name] = Band(name, seeds[0]["execution"], losses, validation, tuple(seeds))
    return found


def made_runs(made) -> list:
    """The runs of a record, or of a comparison in the form that a record gives them."""
    if isinstance(made, dict):
        return made["runs"]
    return [
        {"recipe": run.plan.recipe.as_dict(), "execution": run.plan.execution, "skipped_steps": run.history.skipped,
         **{name: getattr(run.history, name) for name in ("losses", "validation", "scales", "moved", "seconds")}}
        for run in made.runs
    ]  # fmt: skip


@lru_cache(maxsize=4)
def recorded(folder=records.RUNS) -> dict:
    """{what it is: its records, by seed}: the runs of data/runs, those together that differ in the seed only.

    A label names the device and the size, as in "AMD EPYC: width 128, 300 steps". Raises `RunError` for a file that is no record.
    """
    families = {}
    for path in sorted(folder.glob("*.json")):
        record = records.read(path)
        families.setdefault(label(record), []).append(record)
    return {name: sorted(each, key=lambda record: record["configuration"]["seed"]) for name, each in families.items()}


def label(record) -> str:
    """What a record is of, the seed apart: device, processes, width, steps, and the recipes where they are not all."""
    configuration = record["configuration"]
    kinds = [(device["kind"].replace("rocm", "cuda"), device["name"]) for device in record["hardware"]["devices"]]
    processes = f" × {configuration['processes']}" if configuration.get("processes", 1) > 1 else ""
    size = f"width {configuration['width']}, {configuration['steps']} steps"
    return f"{dict(kinds)[configuration['device']]}{processes}: {size}, {', '.join(configuration['precision'])}"


def draw_gaps(ax, found, versus="fp32", window=20) -> dict:
    """Draw how far each recipe's training loss lies above `versus`, smoothed over `window` steps: mean and range of seeds.

    Returns {name: the means that were drawn}.
    """
    drawn = {}
    for name, band in found.items():
        if name == versus:
            continue
        gaps = np.array([np.convolve(row, np.ones(window) / window, "valid") for row in band.losses - found[versus].losses])
        steps = np.arange(window, band.losses.shape[1] + 1)
        look = LOOKS[name] | {"label": name}
        ax.fill_between(steps, gaps.min(0), gaps.max(0), color=look["color"], alpha=0.2, linewidth=0)
        (line,) = ax.plot(steps, gaps.mean(0), **look, markevery=max(1, len(steps) // 5))
        label_line(ax, line, name if band.execution == "native" else f"{name}, emulated")
        drawn[name] = gaps.mean(0)
    last = found[versus].losses.shape[1]
    ax.axhline(0, color="#000000", linewidth=1)
    ax.set(xlim=(0, 1.5 * last), xticks=np.linspace(0, last, 6))  # room for the names behind the ends
    ax.set(xlabel="step", ylabel=f"training loss above {versus.upper()}")
    return drawn
