"""Colours can be told apart without colour, and read on light and on dark."""

import itertools
import math

import pytest

from course.numerics.formats import FORMATS, FloatFormat
from course.teaching import style

LAB_DARK = "#111111"  # the page of JupyterLab's dark theme


def test_the_contrast_formula_against_published_values():
    assert style.contrast("#FFFFFF", "#FFFFFF") == 1
    assert math.isclose(style.contrast("#777777", "#FFFFFF"), 4.48, abs_tol=0.005)  # the textbook near miss of 4.5
    assert math.isclose(style.contrast("#0000FF", "#FFFFFF"), 8.59, abs_tol=0.005)


def test_text_is_readable_on_every_fill_and_white_only_on_blue_and_black():
    fills = {look.colour for look in [*style.FIELDS.values(), *style.FORMAT_LOOKS.values()]}
    assert fills >= {style.BLUE, style.VERMILLION, style.GREEN, style.PURPLE, style.ORANGE, style.SKY, style.YELLOW}
    for fill in fills:
        assert style.contrast(style.text_on(fill), fill) >= 4.5, fill
        assert (style.text_on(fill) == style.WHITE) == (fill in (style.BLUE, style.BLACK)), fill


def test_lines_are_visible_on_the_card():
    for name, look in style.FORMAT_LOOKS.items():
        assert style.contrast(look.colour, style.CARD) >= 3, name


def test_formats_in_panels_are_visible_on_light_and_dark():
    for name, look in style.FORMAT_LOOKS.items():
        if look.colour != style.BLACK:  # the panels draw black as currentColor
            assert min(style.contrast(look.colour, page) for page in (style.WHITE, LAB_DARK)) >= 3, name


def test_a_colour_means_one_thing():
    fields = {look.colour for look in style.FIELDS.values()}
    formats = {look.colour for look in style.FORMAT_LOOKS.values()}
    assert len(fields) == 3 and not fields & formats


def test_every_format_has_a_look_and_no_cue_is_colour_alone():
    assert set(style.FORMAT_LOOKS) == set(FORMATS)
    for one, other in itertools.combinations(style.FORMAT_LOOKS.values(), 2):
        assert one.letter != other.letter and one.marker != other.marker
        assert one.line != other.line and one.hatch != other.hatch, (one.letter, other.letter)
    for one, other in itertools.combinations(style.FIELDS.values(), 2):
        assert one.letter != other.letter and one.hatch != other.hatch and one.marker != other.marker


def test_a_learners_own_format_has_a_look():
    assert style.look(FloatFormat("E3M4", 3, 4)).letter == "E3M4"


@pytest.mark.parametrize("name", style.FORMAT_LOOKS)
def test_matplotlib_accepts_the_look(name):
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    look = style.look(name)
    Line2D([0], [0], color=look.colour, marker=look.marker, linestyle=look.line)
    Rectangle((0, 0), 1, 1, hatch=look.hatch)
