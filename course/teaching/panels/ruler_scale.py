"""Where numbers stand on a drawn line: exact values to pixels, a format's numbers as ticks, or as a band if too dense."""

import math
from fractions import Fraction

from .parts import binary, floor_log2, power

TICK_ROOM, HALF_ROOM = 3, 14  # pixels that ticks, and marks half-way between them, need to stay apart


FAR = 10**6  # pixels: out of sight, and still a number that a browser can read


class Scale:
    """A stretch of the number line [low, high], drawn from pixel `left` to `right`. Places are computed in fractions.

    >>> Scale(Fraction(0), Fraction(2), 0, 100)(Fraction(1, 2))
    25.0
    """

    def __init__(self, low: Fraction, high: Fraction, left: int, right: int):
        self.low, self.high, self.left, self.right = low, high, left, right
        self.pixels = (right - left) / (high - low)  # per unit, a Fraction

    def __call__(self, value) -> float:
        place = self.left + (Fraction(value) - self.low) * self.pixels
        return round(float(min(max(place, -FAR), FAR)), 1)

    def shows(self, value) -> bool:
        """Whether a value lies in the stretch."""
        return self.low <= value <= self.high

    def powers(self) -> list:
        """Zero and the powers of two in view, ± as they come, far enough apart to be drawn: (value, name)."""
        found = [(Fraction(0), "0")] if self.shows(0) else []
        for exponent in self.exponents():
            for sign in (1, -1):
                if self.shows(sign * Fraction(2) ** exponent):
                    found.append((sign * Fraction(2) ** exponent, ("−" if sign < 0 else "") + power(exponent)))
        return sorted(found)

    def exponents(self) -> range:
        """The binades that reach into view and are at least eight pixels wide there."""
        reach = max(abs(self.low), abs(self.high))
        return range(floor_log2(8 / Fraction(self.pixels)), floor_log2(reach) + 1)


def marks(fmt, scale) -> tuple:
    """A format's numbers in view: (ticks, half-way points, bands); a band is (from, to, spacing) in pixels."""
    ticks, halves, bands = set(), set(), []
    for start, stop, spacing in stretches(fmt, scale):
        room = spacing * scale.pixels
        if room < TICK_ROOM:
            bands.append((scale(start), scale(stop), binary(spacing)))
            continue
        first, last = -(-start // spacing), stop // spacing
        ticks.update(scale(k * spacing) for k in range(first, last + 1))
        if room >= HALF_ROOM:
            middles = ((k + Fraction(1, 2)) * spacing for k in range(first - 1, last + 1))
            halves.update(scale(value) for value in middles if start <= value <= stop)
    return sorted(ticks), sorted(halves), bands


def stretches(fmt, scale):
    """The parts of the view in which a format's spacing is constant: (start, stop, spacing), exact."""
    lowest = Fraction(fmt.min_normal)
    if fmt.min_subnormal and lowest * scale.pixels >= 1:
        yield from _cut(scale, -lowest if fmt.signed else Fraction(0), lowest, Fraction(fmt.min_subnormal))
    top = Fraction(fmt.max)
    first = max(floor_log2(lowest), scale.exponents().start)
    if Fraction(2) ** first > lowest:  # the binades too narrow to draw, all of them in one
        inner = Fraction(2) ** first
        yield from _cut(scale, -inner if fmt.signed else lowest, inner, Fraction(fmt.min_subnormal or fmt.min_normal))
    for exponent in range(first, floor_log2(top) + 1):
        start, spacing = Fraction(2) ** exponent, Fraction(2) ** (exponent - fmt.mantissa_bits)
        stop = min(2 * start, top)
        yield from _cut(scale, start, stop, spacing)
        if fmt.signed:
            yield from _cut(scale, -stop, -start, spacing)


def _cut(scale, start, stop, spacing):
    start, stop = max(start, scale.low), min(stop, scale.high)
    if start <= stop:
        yield start, stop, spacing


MOST_STOPS, FINEST = 200, 32  # of the delta slider: stops on each side of zero, and stops to an ulp where they suffice


def delta_slider(fmts, x) -> tuple:
    """How far the delta slider goes: (stops on each side of zero, their step, the range in words, the first format and its gap).

    It reaches three ulp of the first format, or a whole gap of the coarsest one if that is more; the step is a power
    of two, a 32nd of the finest ulp where the stops suffice for that. Formats that x overflows do not count.

    >>> from course.numerics.formats import BF16, FP16
    >>> delta_slider([FP16, BF16], Fraction(1))[:3]
    (128, Fraction(1, 16384), '±2⁻⁷, one gap of BF16')
    """
    starts = [(fmt, fmt.decode(fmt.encode(x))) for fmt in fmts]
    gaps = [(fmt, Fraction(fmt.ulp(start))) for fmt, start in starts if math.isfinite(start)]
    first, gap = gaps[0] if gaps else (fmts[0], Fraction(fmts[0].ulp(fmts[0].max)))
    coarsest, widest = max(gaps, key=lambda pair: pair[1], default=(first, gap))
    reach = max(3 * gap, widest)
    finest = min((other for _, other in gaps), default=gap)
    step = max(finest / FINEST, Fraction(2) ** -floor_log2(MOST_STOPS / reach))  # the first power of two with few enough stops
    what = f"one gap of {coarsest.name}" if widest > 3 * gap else f"3 ulp of {first.name}"
    return int(reach / step), step, f"±{binary(reach)}, {what}", first, gap
