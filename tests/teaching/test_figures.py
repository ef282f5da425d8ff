"""Figures: what is refused, what a notebook stores, and that the same drawing gives the same bytes."""

import io
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex

from course.teaching import figures
from course.teaching.figures import bar_look, figure, label_line, line_look, spread, threshold
from course.teaching.style import contrast

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


def frame(label):
    return label.get_bbox_patch().get_window_extent()


@pytest.mark.parametrize("height", [0, 5, 10])  # at the bottom of the axes, in the middle and at the top
def test_labels_of_lines_that_end_together_are_apart_in_order_and_inside(shown, height):
    with figure(title=TITLE, alt=ALT) as (fig, ax):
        ends = [height + i / 1000 for i in (2, 0, 1)]
        labels = [label_line(ax, ax.plot([0, 1], [0, end], **line_look(f))[0]) for f, end in zip(["FP32", "FP16", "BF16"], ends)]
        ax.set_ylim(0, 10)
    boxes = [frame(label) for _, label in sorted(zip(ends, labels), key=lambda pair: pair[0])]
    assert all(below.y1 < above.y0 for below, above in zip(boxes, boxes[1:]))
    assert ax.bbox.y0 - 1 <= boxes[0].y0 and boxes[-1].y1 <= ax.bbox.y1 + 1
    assert max(box.x1 for box in boxes) < 698  # not at the edge of the card either


def test_a_name_is_tied_to_its_own_line_by_colour_and_by_a_leader(shown):
    with figure(title=TITLE, alt=ALT) as (fig, ax):
        lines = [ax.plot([0, 1], [0, 1 + i / 1000], **line_look(f))[0] for i, f in enumerate(["FP32", "FP16", "BF16"])]
        labels = [label_line(ax, line) for line in lines]
        ax.set_ylim(0, 1.5)
    for line, label in zip(lines, labels):
        end = ax.transData.transform(line.get_xydata()[-1])
        tie = label.arrow_patch.get_window_extent()  # from the frame to the end of the line, a pixel of stroke aside
        assert np.allclose([tie.x0, tie.x1], [end[0], frame(label).x0], atol=3)
        assert min(abs(tie.y0 - end[1]), abs(tie.y1 - end[1])) < 3
        for ink in (label.get_bbox_patch().get_edgecolor(), label.arrow_patch.get_edgecolor()):
            assert to_hex(ink).upper() == line.get_color()
        assert contrast(to_hex(label.get_color()), to_hex(label.get_bbox_patch().get_facecolor())) >= 4.5


def test_a_name_moves_only_for_names_in_its_own_column(shown):
    with figure(title=TITLE, alt=ALT) as (fig, ax):
        labels = [label_line(ax, ax.plot([0, x], [0, 5], **line_look(f))[0]) for x, f in ((10, "FP16"), (1, "BF16"))]
        ax.set_ylim(0, 10)
    for label in labels:
        box, end = frame(label), ax.transData.transform(label.xy)
        assert abs((box.y0 + box.y1) / 2 - end[1]) < 2 and 0 < box.x0 - end[0] < 40


def test_a_name_stands_at_the_last_point_that_can_be_drawn(shown):
    with figure(title=TITLE, alt=ALT) as (fig, ax):
        label = label_line(ax, ax.plot([0, 1, 2, 3], [1, 2, np.inf, np.nan], **line_look("FP16"))[0])
        with pytest.raises(ValueError, match="without a finite point"):
            label_line(ax, ax.plot([0, 1], [np.nan, np.inf])[0])
    assert label.xy == (1, 2)


@given(st.lists(st.floats(-50, 150), min_size=1, max_size=12), st.floats(1, 30))
def test_places_are_in_order_inside_and_apart_as_far_as_there_is_room(wanted, gap):
    places = spread(sorted(wanted), 0, 100, gap)
    assert all(-1e-6 <= place <= 100 + 1e-6 for place in places)
    room = min(gap, 100 / max(len(wanted) - 1, 1))
    assert all(after - before >= room - 1e-6 for before, after in zip(places, places[1:]))
    if len(wanted) == 1:
        assert places == [min(max(wanted[0], 0), 100)]


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
