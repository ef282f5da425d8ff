"""One helper makes every figure, and refuses one that a part of the readers could not read.

    with figure(title="FP16 loses every gradient below 2⁻²⁵", alt="Histogram of …") as (fig, ax):
        line, = ax.plot(steps, kept, **line_look("FP16"))
        label_line(ax, line, "FP16")
        threshold(ax, 2**-25, "underflow")
    assert list(line.get_ydata()) == kept      # pictures are not compared: the numbers in them are asserted

The picture is shown when the block ends. What a notebook stores of it is

- `text/html`: `<img alt="…" src="data:image/png;base64,…" …>`, because JupyterLab gives no alt text to a bare
  `image/png`, whatever its metadata say. A bare `image/png` in a notebook therefore bypassed this helper.
- `text/plain`: `Figure: title` and the alt text on the next line.

Both are compared from run to run, except the bytes of the PNG, which differ between versions of matplotlib: the
comparison masks `data:image/png;base64,[A-Za-z0-9+/=]+`.

Every figure lies on a light card of its own: no single ink reaches 4.5:1 on white and on the near-black of
JupyterLab's dark theme, so a transparent figure would be hard to read in both.
"""

import base64
import html
import io
import math
import re
from contextlib import contextmanager

from course.training.files import write_atomically

from .style import CARD, INK, look

DPI = 100
ALT_LENGTH = range(80, 401)
_NAMES_AXES_ONLY = re.compile(r"\b(vs\.?|versus|as a function of)\b|^(plot|comparison|histogram|graph|distribution) of\b", re.I)
_RC = {
    "font.family": "DejaVu Sans", "font.size": 11, "axes.titlesize": 12.5, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": INK,
    "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK, "axes.facecolor": CARD,
    "figure.facecolor": CARD, "savefig.facecolor": CARD, "lines.linewidth": 2, "lines.markersize": 6,
    "axes.grid": True, "grid.color": "#E4E4E4", "grid.linewidth": 0.8, "axes.axisbelow": True, "hatch.linewidth": 0.7,
    "axes.unicode_minus": True,
}  # fmt: skip
_BACKING = {"boxstyle": "square,pad=0.1", "facecolor": CARD, "edgecolor": "none", "alpha": 0.85}
_TIE, _GAP = 14, 19  # points: from a line's end to its name, and from one name's middle to the next one's


class Picture:
    """A finished figure: `png` (bytes), `title` and `alt`. Shows itself in a notebook; `save(path)` writes the PNG."""

    def __init__(self, png: bytes, title: str, alt: str, width: int):
        self.png, self.title, self.alt, self.width = png, title, alt, width

    def __repr__(self):
        return f"Figure: {self.title}\n{self.alt}"

    def _repr_mimebundle_(self, include=None, exclude=None):
        source = base64.b64encode(self.png).decode()
        image = f'<img alt="{html.escape(self.alt)}" width="{self.width}" src="data:image/png;base64,{source}">'
        return {"text/html": image, "text/plain": repr(self)}

    def save(self, path):
        """Write the PNG, whole or not at all, and return its path."""
        return write_atomically(path, self.png)


@contextmanager
def figure(title: str, alt: str, size=(7, 4), rows=1, columns=1, save_to=None, **subplots):
    """Make, show and optionally save one figure: `with figure(title=…, alt=…) as (fig, ax)`.

    `title` states the finding. `alt` says in 80 to 400 characters what can be seen. `size` is in inches of 100
    pixels; `rows`, `columns` and further keywords go to matplotlib's `Figure.subplots`. Raises `ValueError` for a
    title or alt text that does not do its work, before anything is drawn.

    >>> with figure(title="Nothing", alt="A line."):
    ...     pass
    Traceback (most recent call last):
    ValueError: the title 'Nothing' names the figure but not its finding: say in four words or more what the reader should see, such as 'BF16 loses every update below half an ulp'
    """
    check_words(title, alt)
    import matplotlib  # only here: a second of loading that most of the package does not need
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a reader's own matplotlibrc changes nothing
        matplotlib.rcParams.update(_RC)
        fig = Figure(figsize=size, dpi=DPI, layout="constrained")
        fig.get_layout_engine().set(w_pad=0.07)  # inches: the frame of a line's name stays off the card's edge
        FigureCanvasAgg(fig)
        yield fig, fig.subplots(rows, columns, **subplots)
        picture = _render(fig, title, alt)
    if save_to is not None:
        picture.save(save_to)
    _show(picture)


def check_words(title: str, alt: str) -> None:
    """Raise `ValueError`, naming the way out, unless the title states a finding and the alt text describes a picture."""
    title, alt = title or "", alt or ""
    if len(title.split()) < 4 or _NAMES_AXES_ONLY.search(title):
        raise ValueError(
            f"the title {title!r} names the figure but not its finding: say in four words or more what the reader "
            "should see, such as 'BF16 loses every update below half an ulp'"
        )
    if len(alt) not in ALT_LENGTH:
        raise ValueError(
            f"the alt text has {len(alt)} characters: describe in {ALT_LENGTH[0]} to {ALT_LENGTH[-1]} what someone who "
            "cannot see the figure needs (what is drawn, against what, the shape, the values that matter)"
        )
    if alt.strip(". ").lower() == title.strip(". ").lower():
        raise ValueError("the alt text repeats the title: describe what is drawn instead")


def _render(fig, title, alt):
    import textwrap

    columns = int(fig.get_figwidth() * 10.5)  # about as many bold characters as fit on the card
    fig.suptitle(textwrap.fill(title, columns), x=0.01, ha="left", fontsize=12.5, fontweight="bold")
    fig.draw_without_rendering()  # settles the layout, which the labels are then placed in
    for ax in fig.axes:
        _spread_labels(ax)
    file = io.BytesIO()
    fig.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    return Picture(file.getvalue(), title, alt, round(fig.get_figwidth() * DPI))


def _show(picture):
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:  # a plain script: the picture is still there to be saved
        return
    if get_ipython() is not None:
        display(picture)


def line_look(fmt) -> dict:
    """Colour, line style, marker and label of a format, as keywords for `ax.plot`.

    >>> line_look("FP16")["color"], line_look("FP16")["marker"]
    ('#0072B2', '^')
    """
    style = look(fmt)
    return {"color": style.colour, "linestyle": style.line, "marker": style.marker, "label": style.letter}


def bar_look(fmt) -> dict:
    """Fill, hatch and edge of a format, as keywords for `ax.bar` and `ax.hist`.

    >>> bar_look("BF16")["facecolor"]
    '#D55E00'
    """
    style = look(fmt)
    edge = "#FFFFFF" if style.colour == "#000000" else "#000000"
    return {"facecolor": style.colour, "hatch": style.hatch, "edgecolor": edge, "label": style.letter}


def label_line(ax, line, text=None):
    """Write a line's name at its right end, in dark ink framed in the line's own colour and tied to its last point.

    Names that would meet are moved apart when the figure is finished; the tie still ends on their own line. `text`
    defaults to the line's label. Returns the annotation. Raises `ValueError` for a line without a finite point.
    """
    points = [point for point in zip(*line.get_data()) if all(math.isfinite(part) for part in point)]
    if not points:
        raise ValueError("a line without a finite point has no end to write a name at: drop it, or plot finite values")
    text = line.get_label() if text is None else text
    colour = line.get_color()
    frame = {"boxstyle": "round,pad=0.18", "facecolor": CARD, "edgecolor": colour, "linewidth": 1.4}
    tie = {"arrowstyle": "-", "color": colour, "linewidth": 1.4, "shrinkA": 0, "shrinkB": 0, "relpos": (0, 0.5)}
    place = {"xytext": (_TIE, 0), "textcoords": "offset points", "va": "center", "annotation_clip": False, "zorder": 4}
    label = ax.annotate(text, points[-1], bbox=frame, arrowprops=tie, **place)
    label.set_gid("line-label")
    return label


def threshold(ax, value, text, axis="y"):
    """Draw a labelled line at `value` on the given axis ("x" or "y"): the limit that the data are judged by."""
    if axis not in ("x", "y"):
        raise ValueError(f"axis={axis!r}: choose 'x' or 'y'")
    line = {"color": INK, "linewidth": 1.2, "linestyle": (0, (4, 3)), "zorder": 1.5}
    place = {"textcoords": "offset points", "fontsize": 10, "zorder": 5}
    if axis == "y":
        ax.axhline(value, **line)
        return ax.annotate(text, (0.01, value), xycoords=("axes fraction", "data"), xytext=(0, 4), bbox=_BACKING, **place)
    ax.axvline(value, **line)
    return ax.annotate(text, (value, 0.98), xycoords=("data", "axes fraction"), xytext=(5, 0), va="top", bbox=_BACKING, **place)


def _spread_labels(ax):
    """Move the names of lines up or down until those that share a column are apart, in order, and inside the axes."""
    labels = [text for text in ax.texts if text.get_gid() == "line-label"]
    points = 72 / DPI
    bottom, top = ax.bbox.y0 * points + _GAP / 2, ax.bbox.y1 * points - _GAP / 2
    for column in _columns(labels):
        ends = [ax.transData.transform(label.xy)[1] * points for label in column]
        for label, end, place in zip(column, ends, spread(ends, bottom, top, _GAP)):
            label.set_position((_TIE, place - end))


def _columns(labels):
    """Group names that could meet, since they stand above each other, each group by the height of the lines' ends."""
    groups = []
    frames = [(label.get_bbox_patch().get_window_extent(), label) for label in labels]
    for box, label in sorted(frames, key=lambda frame: frame[0].x0):
        if groups and box.x0 <= groups[-1][0]:
            groups[-1] = (max(groups[-1][0], box.x1), [*groups[-1][1], label])
        else:
            groups.append((box.x1, [label]))
    return [sorted(group, key=lambda label: label.axes.transData.transform(label.xy)[1]) for _, group in groups]


def spread(wanted, bottom, top, gap) -> list[float]:
    """Places near the `wanted` ones (ascending), `gap` apart and between `bottom` and `top`; closer if they must be.

    >>> spread([1, 2, 9.5], bottom=0, top=10, gap=3)
    [1, 4, 9.5]
    >>> spread([8, 9, 9.5], bottom=0, top=10, gap=3)
    [4, 7, 10]
    """
    gap = min(gap, (top - bottom) / max(len(wanted) - 1, 1))
    places = []
    for place in wanted:
        places.append(max(place, bottom, *(places[-1] + gap for _ in places[-1:])))
    for i in reversed(range(len(places))):
        places[i] = min(places[i], places[i + 1] - gap if i + 1 < len(places) else top)
    return places
