"""Colours with a fixed meaning, each doubled by a letter, a marker, a line style and a hatch.

Two families, so that a colour never means two things. The *fields* of a number (sign, exponent, mantissa) are
pale fills with dark text on them. The *formats* are strong colours for lines and markers, at least 3:1 against
a light and against a dark page. All come from the palette of Okabe and Ito (jfly, 2008), which stays apart under
the common forms of colour blindness, and a grey. Members of one family of formats share a colour and differ in
all else: nothing may be read from colour alone.
"""

from dataclasses import dataclass

ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILLION, PURPLE, BLACK = "#0072B2", "#D55E00", "#CC79A7", "#000000"
GREY, WHITE, INK, CARD = "#8A8A8A", "#FFFFFF", "#1A1A1A", "#FFFFFF"


@dataclass(frozen=True)
class Look:
    """How one thing looks everywhere: colour, and the letter, marker, line style and hatch that say the same."""

    colour: str
    letter: str
    marker: str
    line: str | tuple
    hatch: str


FIELDS = {
    "sign": Look(YELLOW, "S", "D", "solid", ".."),
    "exponent": Look(ORANGE, "E", "^", "dashed", "//"),
    "mantissa": Look(SKY, "M", "o", "dotted", ""),
}

_LONG_DASH, _DASH_DOT_DOT, _SPARSE = (0, (8, 2)), (0, (6, 2, 1, 2, 1, 2)), (0, (1, 3))
FORMAT_LOOKS = {
    "FP64": Look(BLACK, "FP64", "X", "dotted", "xx"),
    "FP32": Look(BLACK, "FP32", "o", "solid", ""),
    "TF32": Look(GREY, "TF32", "s", "dashdot", "--"),
    "FP16": Look(BLUE, "FP16", "^", "dashed", "//"),
    "BF16": Look(VERMILLION, "BF16", "v", _LONG_DASH, "\\\\"),
    "E4M3": Look(GREEN, "E4M3", "D", _DASH_DOT_DOT, ".."),
    "E5M2": Look(PURPLE, "E5M2", "P", (0, (3, 1, 1, 1)), "++"),
    "E4M3FNUZ": Look(GREEN, "E4M3FNUZ", "d", (0, (2, 2)), "oo"),
    "E5M2FNUZ": Look(PURPLE, "E5M2FNUZ", "p", (0, (4, 4)), "OO"),
    "E3M2": Look(GREY, "E3M2", "<", (0, (5, 1)), "||"),
    "E2M3": Look(GREY, "E2M3", ">", (0, (5, 5)), "**"),
    "E2M1": Look(GREY, "E2M1", "*", (0, (2, 1)), "///"),
    "E8M0": Look(GREY, "E8M0", "h", _SPARSE, "\\\\\\"),
}


def look(fmt) -> Look:
    """The look of a format, given as a `FloatFormat` or by name; grey with its own name for one a learner made.

    >>> look("FP16").colour, look("E3M4").letter
    ('#0072B2', 'E3M4')
    """
    name = getattr(fmt, "name", fmt)
    return FORMAT_LOOKS.get(name, Look(GREY, name, "8", (0, (3, 5)), "xxx"))


def text_on(fill: str) -> str:
    """The text colour for a fill "#RRGGBB": black wherever it reaches 4.5:1, which is on every fill but blue (and black).

    >>> text_on(ORANGE), text_on(BLUE)
    ('#000000', '#FFFFFF')
    """
    return BLACK if contrast(BLACK, fill) >= 4.5 else WHITE


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours "#RRGGBB", from 1 to 21. Source: WCAG 2.2, contrast ratio and relative luminance.

    >>> round(contrast("#000000", "#FFFFFF"), 6)
    21.0
    """
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
