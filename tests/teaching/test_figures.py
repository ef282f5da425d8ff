"""Figures: what is refused, what a notebook stores, and that the same drawing gives the same bytes."""

import io
import re

import numpy as np
import pytest

from course.teaching import figures
from course.teaching.figures import bar_look, figure, label_line, line_look, threshold

TITLE = "FP16 sums of ones stop at 2048"
ALT = "Line of the running sum against the number of ones added: it rises with slope one and is flat from 2048 on."


@pytest.fixture
def shown(monkeypatch):
    pictures = []
    monkeypatch.setattr(figures, "_show", pictures.append)
    return pictures


def draw(**words):
    with figure(**{"title": TITLE, "alt": ALT} | words) as (fig, ax):
        line, = ax.plot([0, 2048, 4096], [0, 2048, 2048], **line_look("FP16"))
        label_line(ax, line)
        threshold(ax, 2048, "half an ulp is 1")
        threshold(ax, 2048, "here", axis="x")


@pytest.mark.parametrize("title", ["", None, "Sum", "sum vs steps of the run", "Loss as a function of time", "Histogram of the gradients"])
def test_a_title_without_a_finding_is_refused(title, shown):
    with pytest.raises(ValueError, match="finding"):
        draw(title=title)
    assert not shown


@pytest.mark.parametrize("alt", ["", None, "A line.", "x" * 79, "x" * 401])
def test_an_alt_text_that_says_nothing_or_too_much_is_refused(alt, shown):
    with pytest.raises(ValueError, match="80 to 400"):
        draw(alt=alt)
    assert not shown


def test_an_alt_text_that_repeats_the_title_is_refused(shown):
    long = "FP16 sums of ones stop at 2048 because half the distance to the next number is then larger than one"
    with pytest.raises(ValueError, match="repeats the title"):
        draw(title=long, alt=long + ".")


def test_a_notebook_stores_the_alt_text_where_a_screen_reader_finds_it(shown):
    draw(alt=ALT + ' <b> & "')
    bundle = shown[0]._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain"}
    assert 'alt="' + ALT + ' &lt;b&gt; &amp; &quot;"' in bundle["text/html"]
    assert bundle["text/plain"] == f"Figure: {TITLE}\n{ALT} <b> & \""
    masked = re.sub("data:image/png;base64,[A-Za-z0-9+/=]+", "PNG", bundle["text/html"])
    assert len(masked) < 300  # the documented mask leaves nothing of the picture's bytes


def test_the_same_drawing_gives_the_same_bytes_without_a_date_or_a_version(shown):
    draw(), draw()
    assert shown[0].png == shown[1].png
    assert b"Software" not in shown[0].png and b"tIME" not in shown[0].png
    assert len(shown[0].png) < 80_000


def test_a_readers_matplotlib_settings_change_nothing(shown):
    import matplotlib

    draw()
    with matplotlib.rc_context({"figure.dpi": 300, "font.size": 30, "axes.linewidth": 6, "xtick.labelsize": 30}):
        draw()
        assert matplotlib.rcParams["font.size"] == 30  # and are given back
    assert shown[0].png == shown[1].png


def test_size_is_in_hundreds_of_pixels_and_the_picture_is_saved(shown, tmp_path):
    from PIL import Image

    draw(size=(5, 3), save_to=tmp_path / "sum.png")
    assert Image.open(tmp_path / "sum.png").size == (500, 300)
    assert Image.open(io.BytesIO(shown[0].png)).getpixel((0, 0))[:3] == (255, 255, 255)  # a card, not transparent


def test_labels_of_lines_that_end_together_are_apart(shown):
    with figure(title=TITLE, alt=ALT) as (fig, ax):
        labels = [label_line(ax, ax.plot([0, 1], [0, 1 + i / 1000], **line_look(f))[0]) for i, f in enumerate(["FP32", "FP16", "BF16"])]
        ax.set_ylim(0, 10)
    boxes = [label.get_window_extent() for label in labels]
    assert all(below.y1 <= above.y0 + 1 for below, above in zip(boxes, boxes[1:]))


def test_nothing_is_shown_when_the_cell_failed(shown):
    with pytest.raises(ZeroDivisionError):
        with figure(title=TITLE, alt=ALT):
            1 / 0
    assert not shown


def test_a_wrong_axis_is_named(shown):
    with pytest.raises(ValueError, match="axis='z'"):
        with figure(title=TITLE, alt=ALT) as (fig, ax):
            threshold(ax, 1, "no", axis="z")


def test_several_axes_and_bars(shown):
    with figure(title=TITLE, alt=ALT, rows=1, columns=2, sharey=True) as (fig, (left, right)):
        left.bar([1], [2], **bar_look("FP32"))
        right.bar(np.arange(3), [1, 2, 3], **bar_look("BF16"))
    assert shown[0].png.startswith(b"\x89PNG")
