"""The picture of a comparison: both loss curves, and below them their difference."""

import statistics

# Okabe-Ito colours; the line style tells the two runs apart as well.
_FIRST, _SECOND, _INK = "#D55E00", "#0072B2", "#333333"


def title(record) -> str:
    """The finding in one sentence, from the record's own numbers.

    >>> run = lambda name, loss: {"recipe": {"name": name}, "validation": [[5, loss]]}
    >>> title({"runs": [run("bf16", 2.5), run("fp32", 2.498)], "speed": {"claimed": True, "ratio": 1.61}})
    'BF16 ends at validation loss 2.500, FP32 at 2.498, at 1.61 times the speed'
    """
    (first, loss), (second, other) = (
        (run["recipe"]["name"].upper(), run["validation"][-1][1]) for run in record["runs"]
    )
    said = ["not a number" if value is None else f"{value:.3f}" for value in (loss, other)]
    speed = f", at {record['speed']['ratio']:.2f} times the speed" if record["speed"]["claimed"] else ""
    return f"{first} ends at validation loss {said[0]}, {second} at {said[1]}{speed}"


def alt_text(record) -> str:
    """What the picture shows, for those who do not see it."""
    steps = len(record["runs"][0]["losses"])
    first, second = (run["recipe"]["name"].upper() for run in record["runs"])
    shown = f"Training and validation loss of {first} and {second} over {steps} steps, and their difference"
    return f"{shown}. {title(record)}."


def draw(record, path):
    """Write the picture as PNG to `path`; its alt text goes into the file's description."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.2), dpi=120, layout="constrained")
    curves, gaps = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    first, second = record["runs"]
    _draw_run(curves, first, _FIRST, "--", "o", 3)
    _draw_run(curves, second, _SECOND, "-", "s", 2)
    _label_ends(curves, first, second)
    curves.set_ylabel("loss (nats per character)")
    curves.set_title(title(record), fontsize=11, color=_INK, loc="left")
    curves.grid(alpha=0.25)
    _draw_gap(gaps, first, second)
    figure.savefig(path, format="png", metadata={"Description": alt_text(record)})


def _draw_run(axes, run, colour, style, marker, order):
    losses = [float("nan") if loss is None else loss for loss in run["losses"]]
    axes.plot(range(1, len(losses) + 1), losses, color=colour, alpha=0.15, lw=0.8)
    axes.plot(range(1, len(losses) + 1), _smooth(losses), color=colour, ls=style, lw=1.8, zorder=order)
    found = [(done, value) for done, value in run["validation"] if value is not None]
    steps, values = [done for done, _ in found], [value for _, value in found]
    axes.plot(steps, values, marker, color=colour, ms=6 if order == 3 else 9, mfc="none", mew=1.4, zorder=order + 2)


def _label_ends(axes, first, second):
    """Name each curve at its right end, one above the other; the markers are named in words."""
    ends = [
        (f"{first['recipe']['name'].upper()} (dashed, validation ○)", _FIRST, 0.93),
        (f"{second['recipe']['name'].upper()} (solid, validation □)", _SECOND, 0.85),
    ]
    for text, colour, height in ends:
        place = {"xycoords": "axes fraction", "ha": "right", "va": "top"}
        axes.annotate(text, (0.985, height), color=colour, weight="bold", **place)


def _draw_gap(axes, first, second):
    pairs = zip(first["losses"], second["losses"], strict=True)
    gaps = [float("nan") if a is None or b is None else a - b for a, b in pairs]
    axes.plot(range(1, len(gaps) + 1), gaps, color=_INK, lw=0.9)
    axes.axhline(0, color=_INK, lw=0.6, alpha=0.5)
    axes.set_xlabel("step")
    axes.set_ylabel(f"{first['recipe']['name'].upper()} − {second['recipe']['name'].upper()}")
    axes.grid(alpha=0.25)


def _smooth(values):
    """A running mean over a twentieth of the steps."""
    window = max(1, len(values) // 20)
    return [statistics.fmean(values[max(0, end - window) : end]) for end in range(1, len(values) + 1)]
