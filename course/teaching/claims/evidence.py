"""What a proof gives: under which conditions a claim holds, what is true instead, and the numbers that show it."""

from dataclasses import dataclass, field

from ..session import measured

VERDICTS = ("true", "false", "depends")


@dataclass(frozen=True)
class Evidence:
    """`holds`: condition → whether the claim holds there; `instead`: whether the correct statement does.

    `shows`: what → number or text, for a reader; what was measured is written with ≈, as everywhere.
    """

    holds: dict
    instead: bool
    shows: dict = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """True where it holds under every condition, false where under none, else it depends.

        >>> Evidence({"FP16": True, "BF16": False}, instead=True).verdict
        'depends'
        """
        answers = {bool(value) for value in self.holds.values()}
        return "depends" if len(answers) > 1 else "true" if answers == {True} else "false"


def fact(claimed, instead=None, /, **shows) -> Evidence:
    """Evidence for a claim without conditions. `instead` may be left out where the claim itself is the correct statement.

    Names of `shows` become labels: underscores are spaces.

    >>> fact(1 + 1 == 3, 1 + 1 == 2, one_and_one=2).shows
    {'one and one': 2}
    """
    claimed = bool(claimed)
    return Evidence({"": claimed}, bool(claimed if instead is None else instead), _labels(shows))


def cases(holds, instead=True, /, **shows) -> Evidence:
    """Evidence for a claim that is tried under several conditions: condition → whether it holds."""
    return Evidence({name: bool(value) for name, value in holds.items()}, bool(instead), _labels(shows))


def about(value, digits=3) -> str:
    """A measured number, as text with ≈."""
    return measured(value, digits)


def _labels(shows):
    return {name.replace("_", " "): value for name, value in shows.items()}
