"""Plain values as JSON text and back: what a graded function may receive and give. Nothing in it can run."""

import json
from fractions import Fraction

LONGEST = 2_000_000  # characters of one message


class Unknown:
    """Something that is no number, text or collection of them: it equals nothing."""

    def __init__(self, kind):
        self.kind = kind

    def __repr__(self):
        return f"a {self.kind}"

    def __eq__(self, other):
        return False

    __hash__ = None


def pack(value, depth=0):
    """A value as JSON values, tagged where JSON has no such type; tensors and arrays become lists of numbers.

    >>> pack((1, Fraction(1, 3), [True, None, -0.0]))
    {'tuple': [1, {'Fraction': '1/3'}, [True, None, -0.0]]}
    """
    kind = type(value)
    if value is None or kind in (bool, str) or kind is float or (kind is int and abs(value) < 1 << 4096):
        return value
    if depth > 20:
        return {"unknown": "collection nested too deeply"}
    if isinstance(value, Fraction):
        return {"Fraction": f"{value.numerator}/{value.denominator}"}
    if kind in (tuple, list):
        items = [pack(item, depth + 1) for item in value]
        return {"tuple": items} if kind is tuple else items
    if kind is dict:
        return {"dict": [[pack(key, depth + 1), pack(item, depth + 1)] for key, item in value.items()]}
    if kind in (set, frozenset):
        return {"set": [pack(item, depth + 1) for item in value]}
    if hasattr(value, "tolist") and kind.__module__.partition(".")[0] in ("numpy", "torch"):
        return pack(value.tolist(), depth + 1)
    for base in (bool, int, float, str):
        if isinstance(value, base):  # a subclass, whatever it does to comparisons
            return pack(base(value), depth + 1)
    return {"unknown": kind.__name__[:60]}


def unpack(packed):
    """The value that `pack` was given, or an `Unknown`. Raises `ValueError` for anything else.

    >>> unpack(pack({"a": (1, 2.5)})), unpack(pack(object()))
    ({'a': (1, 2.5)}, a object)
    """
    if not isinstance(packed, (dict, list)):
        return packed
    if isinstance(packed, list):
        return [unpack(item) for item in packed]
    (tag, inner), *more = packed.items() or [("", None)]
    if more:
        raise ValueError("a message with several tags")
    if tag == "Fraction":
        above, _, below = str(inner).partition("/")
        return Fraction(int(above), int(below))
    if tag == "dict":
        return {_key(unpack(key)): unpack(item) for key, item in inner}
    if tag in ("tuple", "set"):
        items = [unpack(item) for item in inner]
        return tuple(items) if tag == "tuple" else {_key(item) for item in items}
    if tag == "unknown":
        return Unknown(str(inner)[:60])
    raise ValueError(f"a message with the tag {tag[:20]!r}")


def _key(value):
    return tuple(map(_key, value)) if isinstance(value, (list, tuple)) else value


def text(message) -> str:
    """One line of JSON. Raises `ValueError` for a message that is too long."""
    line = json.dumps(message)
    if len(line) > LONGEST:
        raise ValueError(f"the result is too long: {len(line)} characters")
    return line + "\n"
