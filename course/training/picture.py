"""The picture of a comparison: every loss curve, and below them the differences to the last one."""

import statistics

# Okabe-Ito colours; line style and marker tell the runs apart as well. The last run, the one compared with, is blue.
_VERSUS, _INK = ("#0072B2", "-", "s"), "#333333"
_LOOKS = (("#D55E00", "--", "o"), ("#009E73", "-.", "^"), ("#CC79A7", ":", "D"), ("#E69F00", (0, (5, 1)), "v"),
          ("#56B4E9", (0, (3, 1, 1, 1)), "P"))  # fmt: skip
_WORDS = {"o": "○", "^": "△", "D": "◇", "v": "▽", "P": "✚", "s": "□"}


def title(record) -> str:
    """The finding in one sentence, from the record's own numbers.

    >>> run = lambda name, loss, speed=None: {"recipe": {"name": name}, "validation": [[5, loss]], "speed": speed}
    >>> title({"runs": [run("bf16", 2.5, {"claimed": True, "ratio": 1.61}), run("fp32", 2.498)]})
    'BF16 ends at validation loss 2.500, FP32 at 2.498, at 1.61 times the speed'
    """
    ends = [(_name(run), run["validation"][-1][1]) for run in record["runs"]]
    said = [f"{name} {'ends ' * (i == 0)}at {'validation loss ' * (i == 0)}{_loss(loss)}" for i, (name, loss) in enumerate(ends)]
    fast = [(_name(run), run["speed"]["ratio"]) for run in record["runs"][:-1] if run["speed"]["claimed"]]
    if len(record["runs"]) == 2:
        return ", ".join(said + [f"at {ratio:.2f} times the speed" for _, ratio in fast])
    return ", ".join(said) + "".join(f"; {name} at {ratio:.2f} times the speed" for name, ratio in fast)


def _loss(value):
    return "not a number" if value is None else f"{value:.3f}"


def _name(run):
    return run["recipe"]["name"].upper()


def alt_text(record) -> str:
    """What the picture shows, for those who do not see it."""
    steps = len(record["runs"][0]["losses"])
    *others, last = map(_name, record["runs"])
    shown = f"Training and validation loss of {', '.join(others)} and {last} over {steps} steps, and their difference"
    return f"{shown}. {title(record)}."


def draw(record, path):
    """Write the picture as PNG to `path`; its alt text goes into the file's description."""
    import textwrap

    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.2), dpi=120, layout="constrained")
    curves, gaps = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    *runs, versus = record["runs"]
    looks = [_LOOKS[i % len(_LOOKS)] for i in range(len(runs))]
    for order, (run, look) in enumerate(zip([versus, *runs], [_VERSUS, *looks]), start=2):
        _draw_run(curves, run, look, order)
    _name_curves(curves, [*runs, versus], [*looks, _VERSUS])
    curves.set_ylabel("loss (nats per character)")
    curves.set_title(textwrap.fill(title(record), 90), fontsize=11, color=_INK, loc="left")
    curves.grid(alpha=0.25)
    _draw_gaps(gaps, runs, versus, looks)
    figure.savefig(path, format="png", metadata={"Description": alt_text(record)})


def _draw_run(axes, run, look, order):
    colour, style, marker = look
    losses = [float("nan") if loss is None else loss for loss in run["losses"]]
    axes.plot(range(1, len(losses) + 1), losses, color=colour, alpha=0.15, lw=0.8)
    axes.plot(range(1, len(losses) + 1), _smooth(losses), color=colour, ls=style, lw=1.8, zorder=order)
    found = [(done, value) for done, value in run["validation"] if value is not None]
    steps, values = [done for done, _ in found], [value for _, value in found]
    axes.plot(steps, values, marker, color=colour, ms=9 if look == _VERSUS else 6, mfc="none", mew=1.4, zorder=order + 9)


def _name_curves(axes, runs, looks):
    """Name each curve at the right, one above the other; the markers are named in words."""
    for i, (run, (colour, style, marker)) in enumerate(zip(runs, looks)):
        line = {"--": "dashed", "-": "solid", "-.": "dash-dotted", ":": "dotted"}.get(style, "broken")
        place = {"xycoords": "axes fraction", "ha": "right", "va": "top"}
        text = f"{_name(run)} ({line}, validation {_WORDS[marker]})"
        axes.annotate(text, (0.985, 0.95 - 0.08 * i), color=colour, weight="bold", **place)


def _draw_gaps(axes, runs, versus, looks):
    for run, (colour, style, _) in zip(runs, looks):
        pairs = zip(run["losses"], versus["losses"], strict=True)
        gaps = [float("nan") if a is None or b is None else a - b for a, b in pairs]
        axes.plot(range(1, len(gaps) + 1), gaps, color=colour if len(runs) > 1 else _INK, ls=style if len(runs) > 1 else "-", lw=0.9)
    axes.axhline(0, color=_INK, lw=0.6, alpha=0.5)
    axes.set_xlabel("step")
    axes.set_ylabel(f"{_name(runs[0]) if len(runs) == 1 else 'run'} − {_name(versus)}")
    axes.grid(alpha=0.25)


def _smooth(values):
    """A running mean over a twentieth of the steps."""
    window = max(1, len(values) // 20)
    return [statistics.fmean(values[max(0, end - window) : end]) for end in range(1, len(values) + 1)]
