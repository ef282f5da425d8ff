"""What MemoryLedger knows: recipes, sizes as people write them, and the exact arithmetic of both."""

import math
import re
from fractions import Fraction

from course.numerics.formats import BF16, E4M3, FP32
from course.training.storage import bytes_per_parameter

from .parts import read_number

SIZES = {"125 M": 125 * 10**6, "1.3 B": 1300 * 10**6, "7 B": 7 * 10**9, "70 B": 70 * 10**9, "671 B": 671 * 10**9}
CARDS = (24, 40, 80, 141)  # GB of common accelerators, a GB taken as 10⁹ bytes
LARGEST = 10**15
_UNITS = {"": 1, "k": 10**3, "thousand": 10**3, "m": 10**6, "million": 10**6, "b": 10**9, "g": 10**9, "billion": 10**9, "t": 10**12, "trillion": 10**12}
_SHORT = {"first_moment": BF16, "second_moment": BF16}

# What `bytes_per_parameter` is asked, and what the recipe does. "Adam" stands for AdamW too: both keep two moments.
RECIPES = {
    "FP32 and Adam": ({}, "everything in FP32"),
    "FP32 masters": ({"weights": BF16, "update": "master"}, "mixed precision with BF16 weights and gradients, and FP32 masters behind the weights"),
    "FP32 masters and gradients": ({"weights": BF16, "gradients": FP32, "update": "master"}, "as before, with gradients summed up in FP32"),
    "autocast": ({"copy": BF16}, "FP32 weights and gradients, and BF16 copies of the weights while a step runs"),
    "pure BF16": ({"weights": BF16, **_SHORT}, "everything in BF16, updates rounded to nearest; small ones are lost"),
    "BF16 and dice": ({"weights": BF16, "update": "stochastic", **_SHORT}, "everything in BF16, updates rounded stochastically"),
    "BF16 and Kahan": ({"weights": BF16, "update": "kahan", **_SHORT}, "everything in BF16, with a carry beside each weight"),
    "16 + 16 split": ({"weights": BF16, "update": "remainder"}, "FP32 masters cut into a BF16 weight and the 16 bits that it lacks"),
    "BF16 moments": ({"weights": BF16, "update": "master", **_SHORT}, "FP32 masters, both moments in BF16"),
    "8-bit moments": (
        {"weights": BF16, "update": "master", "first_moment": E4M3, "second_moment": E4M3, "block": 256},
        "FP32 masters, both moments in 8 bits with one FP32 scale for 256 of them",
    ),
    "like DeepSeek-V3": (
        {"weights": E4M3, "gradients": FP32, "update": "master", **_SHORT},
        "8-bit weights where they are multiplied, FP32 masters and gradients, BF16 moments",
    ),
    "SGD with momentum": ({"optimizer": "sgd"}, "everything in FP32, one moment"),
}  # fmt: skip
REFERENCE = "FP32 and Adam"


def read_size(text) -> int:
    """A number of parameters as people write it; raises `ValueError` that says what can be typed.

    >>> read_size("7B"), read_size("1.3 billion"), read_size("350 000 000"), read_size("2^20")
    (7000000000, 1300000000, 350000000, 1048576)
    """
    typed = str(text).strip()
    clean = re.sub(r"(?<=\d)[ ,_](?=\d{3}\b)", "", typed)
    digits, unit = re.fullmatch(r"(.*?)\s*([A-Za-z]*)", clean, re.DOTALL).groups()
    try:
        size = read_number(digits) * _UNITS[unit.lower()]
    except (ValueError, KeyError):
        raise ValueError(f"{typed[:40]!r} is no size that I can read: try 7B, 125 M, 1.3e9 or 350 000 000") from None
    if not (math.isfinite(size) and 1 <= size <= LARGEST and size == int(size)):
        raise ValueError(f"{typed[:40]!r} is no whole number of parameters from 1 to {LARGEST:.0e}: try 7B, 125 M or 1.3e9")
    return int(size)


def name_size(parameters: int) -> str:
    """A number of parameters, short.

    >>> name_size(7 * 10**9), name_size(1300 * 10**6), name_size(12_345_678)
    ('7 B', '1.3 B', '12 345 678')
    """
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6)):
        part = Fraction(parameters, size)
        if part >= 1 and (part * 100).denominator == 1:
            return f"{float(part):g} {unit}"
    return f"{parameters:,}".replace(",", " ")


def two_digits(size) -> int:
    """A size rounded to two digits, as sizes of models are given.

    >>> two_digits(10**9.75), two_digits(10**6)
    (5600000000, 1000000)
    """
    unit = 10 ** (math.floor(math.log10(size)) - 1)
    return round(size / unit) * unit


# ---- the arithmetic, exact


def ledger(recipe) -> dict:
    """Bytes per parameter by kind, as exact fractions, for one of the recipes by name.

    >>> {kind: str(size) for kind, size in ledger("16 + 16 split").items()}
    {'weights': '2', 'gradients': '2', 'remainder': '2', 'first moment': '4', 'second moment': '4'}
    """
    return {kind: Fraction(size) for kind, size in bytes_per_parameter(**RECIPES[recipe][0]).items()}


def total(recipe) -> Fraction:
    """Bytes per parameter, all kinds together."""
    return sum(ledger(recipe).values())


def cards_needed(parameters: int, recipe: str, card: int) -> int:
    """How many cards of so many GB (10⁹ bytes) hold it all, if it can be spread evenly and nothing else lived there."""
    return math.ceil(parameters * total(recipe) / (card * 10**9))


def largest_model(recipe: str, card: int) -> int:
    """The most parameters that one card of so many GB holds."""
    return math.floor(card * 10**9 / total(recipe))
