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


def _field_css():
    return "".join(
        f".course-panel .cp-{name}{{background:{look.colour};color:{text_on(look.colour)};border-color:{BLACK}55}}"
        for name, look in FIELDS.items()
    )


# Colours of the page come from JupyterLab's theme, with a plain fallback elsewhere; only the fields bring their own.
PANEL_CSS = """
.course-panel{--ink:var(--jp-ui-font-color1,#1a1a1a);--line:var(--jp-border-color1,#bdbdbd);--page:var(--jp-layout-color1,#fff);
 --code:var(--jp-code-font-family,ui-monospace,monospace);color:var(--ink);font:13px/1.45 var(--jp-ui-font-family,system-ui,sans-serif);
 max-width:980px;padding:6px 4px 10px;container-type:inline-size}
.course-panel *{box-sizing:border-box}
.course-panel button,.course-panel select,.course-panel input{font:inherit;color:inherit}
.course-panel button{background:var(--jp-layout-color2,#eee);border:1px solid var(--line);border-radius:4px;padding:2px 8px;cursor:pointer}
.course-panel button:hover{filter:brightness(.94)}
.course-panel button[aria-pressed=true]:not(.cp-bit){background:var(--ink);color:var(--page)}
.course-panel button:disabled{opacity:.45;cursor:default}
.course-panel select,.course-panel input:not([type=range]){background:var(--jp-input-background,#f5f5f5);border:1px solid var(--line);
 border-radius:4px;padding:3px 6px}
.course-panel :is(button,select,input):focus-visible{outline:3px solid var(--jp-brand-color1,#1976d2);outline-offset:1px;position:relative;z-index:1}
.cp-bar{display:flex;flex-wrap:wrap;gap:5px 8px;align-items:center;margin:0 0 8px}
.cp-bar label,.cp-label{font-weight:600}
.cp-presets{display:flex;flex-wrap:wrap;gap:4px}
.cp-presets button{font-size:12px;padding:1px 7px;border-radius:10px}
.course-panel .cp-entry{font-family:var(--code);width:15em}
.cp-cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,330px),1fr));gap:10px}
.cp-card{border:1px solid var(--line);border-radius:8px;padding:8px 10px 10px;background:var(--page);min-width:0}
.cp-wide{grid-column:1/-1}
.cp-head{display:flex;flex-wrap:wrap;gap:6px 10px;align-items:center;margin-bottom:6px}
.cp-head select{font-weight:700}
.cp-head code,.cp-mono{font-family:var(--code)}
.cp-kind{margin-left:auto;border:1px solid currentColor;border-radius:10px;padding:0 8px;font-size:12px}
.cp-bits{display:flex;flex-wrap:wrap;gap:2px 1px}
.course-panel .cp-bit{width:18px;height:36px;padding:1px 0 0;border-radius:3px;border:1px solid #00000055;font:700 15px/18px var(--code);text-align:center}
.cp-bit small{display:block;font:600 9px/11px var(--code)}
.course-panel .cp-bit[aria-pressed=true]{box-shadow:inset 0 -4px 0 #000}
.course-panel .cp-gap{margin-left:6px}
.cp-fields{display:flex;flex-wrap:wrap;gap:4px 6px;margin:6px 0 2px;font-size:12px}
.cp-fields span{border:1px solid;border-radius:3px;padding:0 6px}
.cp-slide{display:flex;gap:6px;align-items:center;margin:6px 0}
.course-panel .cp-slide input{flex:1;min-width:60px;accent-color:var(--jp-brand-color1,#1976d2);margin:0}
.cp-steps{display:flex;gap:4px}
.cp-facts{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:1px 10px;margin:4px 0 0;min-height:9em;align-content:start}
.cp-facts span{font-family:var(--code);font-size:12.5px;overflow-wrap:anywhere}
.course-panel sup{font-size:.78em;line-height:0}
.cp-say{margin:10px 0 0;padding:7px 11px;border-left:4px solid var(--jp-brand-color1,#1976d2);background:var(--jp-layout-color2,#f3f3f3);border-radius:0 6px 6px 0}
.cp-oops{margin:8px 0 0;padding:6px 11px;border:2px solid var(--jp-error-color1,#d32f2f);border-radius:6px}
.cp-oops::before{content:"⚠ ";font-weight:700}
.cp-oops:empty{display:none}
.course-panel svg{display:block;width:100%;height:auto;max-width:900px}
.course-panel svg text{fill:currentColor;font:12px var(--jp-ui-font-family,system-ui,sans-serif)}
.cp-halo{paint-order:stroke;stroke:var(--page);stroke-width:3.5px;stroke-linejoin:round}
.cp-scroll{overflow-x:auto;border-radius:8px}
.cp-legend{display:flex;flex-wrap:wrap;gap:0 18px;margin:3px 0 9px;font-size:12px;min-height:1.45em}
.course-panel table{border-collapse:collapse;font-size:12px;width:100%;margin:0}
.course-panel :is(th,td){border:1px solid var(--line);padding:3px 7px;text-align:left;vertical-align:top;background:none;color:inherit;white-space:normal}
.course-panel td{font-family:var(--code)}
.course-panel td.cp-words{font-family:inherit}
.course-panel td small{margin-left:3px;opacity:.9;font:11.5px/1.35 var(--jp-ui-font-family,system-ui,sans-serif)}
.course-panel tr.cp-mark{box-shadow:inset 4px 0 0 var(--jp-warn-color1,#f57c00)}
""" + _field_css()
