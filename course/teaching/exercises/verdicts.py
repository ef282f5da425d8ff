"""Exercises of notebook 15: a verdict from cases, a border from tries, a difference beyond the seeds, and "x % faster"."""

import math

from .model import Exercise, Misconception


def near(got, wanted) -> bool:
    """Equality up to the last digits."""
    return isinstance(got, (int, float)) and math.isclose(got, wanted, rel_tol=1e-9, abs_tol=1e-9)


# ---- 15-1


def verdict(holds: dict) -> str:
    answers = set(holds.values())
    return "depends" if len(answers) > 1 else "true" if answers == {True} else "false"


VERDICT = Exercise(
    id="15-1",
    title="the verdict that follows from the conditions under which a claim was tried",
    difficulty="easy",
    minutes=5,
    why="A general sentence is true if it holds wherever it was tried, false if nowhere. In between the condition is the answer.",
    reference=verdict,
    cases=(
        ({"FP16": True, "BF16": True},), ({"FP16": False, "BF16": False},), ({"FP16": True, "BF16": False},), ({"a": False, "b": True, "c": True},),
        ({"a": True, "b": True, "c": False},), ({"only": True},), ({"only": False},), ({"a": False, "b": False, "c": True},), ({"a": True, "b": False, "c": False},),
    ),
    misconceptions=(
        Misconception("one case is enough", lambda holds: "true" if any(holds.values()) else "false", "one case where it holds makes it true for you. The sentence was general: the cases where it fails count as well."),
        Misconception("one failure refutes", lambda holds: "true" if all(holds.values()) else "false", "one failure makes it false for you. It refutes the general sentence; but it also holds somewhere, and the reader wants to know where: that is 'depends'."),
        Misconception("majority", lambda holds: "true" if sum(holds.values()) * 2 > len(holds) else "false", "you let the cases vote. How many were tried is the author's choice; no majority makes a general sentence true."),
        Misconception("first case", lambda holds: "true" if next(iter(holds.values())) else "false", "only the first case counts for you: look at all values."),
    ),
    hints=(
        "There are three kinds of collections: all true, all false, some of each. What does a set of the values look like in each?",
        "set(holds.values()) has one or two members. Two means that the condition decides.",
        'answers = set(holds.values()); return "depends" if len(answers) > 1 else ___',
    ),
)  # fmt: skip


# ---- 15-2


def border(tries: list) -> tuple | None:
    answers = [held for _, held in sorted(tries)]
    if len(set(answers)) == 1 or answers != sorted(answers, reverse=answers[0]):
        return None
    flip = answers.index(not answers[0])
    sizes = [size for size, _ in sorted(tries)]
    return sizes[flip - 1], sizes[flip]


def _border(order=sorted, whole=True, point=lambda low, high: (low, high)):
    def solve(tries):
        rows = order(tries)
        answers = [held for _, held in rows]
        if len(set(answers)) == 1 or (whole and answers != sorted(answers, reverse=answers[0])):
            return None
        flip = answers.index(not answers[0])
        return point(rows[flip - 1][0], rows[flip][0])

    return solve


def _even(without_border):
    def solve(tries):
        rows = sorted(tries)
        answers = [held for _, held in rows]
        return (rows[0][0], rows[-1][0]) if len(set(answers)) == 1 and without_border else border(tries)

    return solve


BORDER = Exercise(
    id="15-2",
    title="the two tries between which a claim stops (or begins) to hold; None if there is no one border",
    difficulty="medium",
    minutes=10,
    why="A border between two measured points is all that tries can show. Where the answers go to and fro, size is not the condition.",
    reference=border,
    cases=(
        ([(1, True), (2, True), (4, False), (8, False)],), ([(8, False), (1, True), (4, False), (2, True)],), ([(1, False), (2, False), (4, True)],), ([(1, True), (2, False), (4, True)],),
        ([(1, True), (2, True)],), ([(16, True), (4, False), (2, False), (64, True)],), ([(0.5, True), (0.25, False)],), ([(3, False), (1, False)],),
        ([(1, False), (2, True), (3, False), (4, True)],), ([(10, True), (30, False), (20, True), (40, False)],), ([(5, True), (1, True), (3, False)],),
    ),
    misconceptions=(
        Misconception("not sorted", _border(order=list), "you take the tries in the order in which they were made: sort them by size first."),
        Misconception("the first flip as it came", _border(order=list, whole=False), "you take the tries in the order in which they were made, and stop at the first change. Sort by size first; then see whether the answer changes back."),
        Misconception("the first flip", _border(whole=False), "you stop at the first change. Where the answer changes back there is no one border, and size alone is not the condition: None."),
        Misconception("the middle", _border(point=lambda low, high: (low + high) / 2), "the middle was not tried. Say what was measured: the last size before the change and the first after it."),
        Misconception("border without a change", _even(True), "all tries gave the same answer, so no border was found: None, not the ends of what was tried."),
    ),
    hints=(
        "Sort by size, then read the answers from left to right. How many times may they change?",
        "A list of booleans with one change is sorted, one way or the other: compare it with sorted(answers, reverse=answers[0]).",
        "rows = sorted(tries); answers = [held for _, held in rows]; …; flip = answers.index(not answers[0]); return rows[___][0], rows[flip][0]",
    ),
)  # fmt: skip


# ---- 15-3


def beyond_the_seeds(losses: list, others: list) -> bool:
    gaps = [b - a for a, b in zip(losses, others)]
    mean = sum(gaps) / len(gaps)
    spread = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / (len(gaps) - 1))
    return abs(mean) > 2 * spread / math.sqrt(len(gaps))


def _mean(values):
    return sum(values) / len(values)


def _spread(values, less=1):
    return math.sqrt(sum((v - _mean(values)) ** 2 for v in values) / (len(values) - less))


def _gaps(a, b):
    return [y - x for x, y in zip(a, b)]


def _unpaired(a, b):
    return abs(_mean(b) - _mean(a)) > 2 * math.sqrt((_spread(a) ** 2 + _spread(b) ** 2) / len(a))


SEEDS = Exercise(
    id="15-3",
    title="whether two recipes differ by more than their seeds explain, run for run with the same seed",
    difficulty="medium",
    minutes=12,
    why="Runs with the same seed share weights and batches, so their difference scatters less than the runs do. One run of each says nothing.",
    reference=beyond_the_seeds,
    cases=(
        ([1.0, 2.0, 3.0, 4.0], [1.1, 2.12, 3.09, 4.11]), ([1.0, 2.0, 3.0], [1.2, 1.8, 3.1]), ([0.5, 0.6, 0.7, 0.8, 0.9], [0.5, 0.61, 0.69, 0.8, 0.9]), ([2.0, 2.1, 1.9, 2.05], [1.9, 2.0, 1.79, 1.96]),
        ([1.0, 1.0, 1.0], [1.5, 0.6, 1.2]), ([1.0, 1.1, 1.2, 1.3], [1.4, 1.1, 1.3, 1.7]), ([0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2], [0.3, 0.1, 0.4, 0.2, 0.35, 0.25, 0.3, 0.15, 0.36]),
        ([3.0, 1.0], [3.3, 1.0]), ([3.0, 1.0], [3.3, 1.3]), ([5.0, 1.0, 3.0], [5.05, 1.02, 3.08]), ([1.0, 2.0, 3.0], [1.1, 2.42, 3.1]), ([1.0, 2.0, 3.0, 4.0], [0.9, 1.5, 2.9, 3.8]),
    ),
    misconceptions=(
        Misconception("means only", lambda a, b: _mean(a) != _mean(b), "any difference of the means counts for you. Means of a few runs always differ: compare with their scatter."),
        Misconception("not paired", _unpaired, "you treat the runs as strangers. The same seed means the same weights and batches: take the differences run by run, then their scatter."),
        Misconception("scatter of one run", lambda a, b: abs(_mean(_gaps(a, b))) > 2 * _spread(_gaps(a, b)), "that is the scatter of a single difference. The mean of n of them scatters √n times less."),
        Misconception("one direction", lambda a, b: _mean(_gaps(a, b)) > 2 * _spread(_gaps(a, b)) / math.sqrt(len(a)), "a difference may go either way: take its absolute value."),
        Misconception("divided by n", lambda a, b: abs(_mean(_gaps(a, b))) > 2 * _spread(_gaps(a, b), 0) / math.sqrt(len(a)), "around their own mean the squares are divided by n − 1: with few seeds it matters."),
        Misconception("first seed", lambda a, b: abs(b[0] - a[0]) > 0.01 * abs(a[0]), "one pair of runs says nothing about seeds."),
    ),
    hints=(
        "Which runs belong together? Make one number of each pair first.",
        "Mean of the differences against twice its standard error: spread / √n, with n − 1 under the root of the spread.",
        "gaps = [b - a for a, b in zip(losses, others)]; mean = …; spread = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / ___); return abs(mean) > 2 * spread / math.sqrt(len(gaps))",
    ),
)  # fmt: skip


# ---- 15-4


def percent_faster(before: float, after: float) -> float:
    return 100 * (before / after - 1)


FASTER = Exercise(
    id="15-4",
    title="how many percent faster something is, from the seconds of a step before and after",
    difficulty="easy",
    minutes=5,
    why="Faster is a statement about steps per second. Half the time is 100 % faster, and 50 % of the time saved.",
    reference=percent_faster,
    cases=((1.0, 0.5), (1.0, 1.0), (2.0, 1.6), (0.9, 0.6), (1.0, 1.25), (3.0, 1.0), (0.4, 0.39), (10.0, 8.0)),
    same=near,
    misconceptions=(
        Misconception("time saved", lambda before, after: 100 * (1 - after / before), "that is the share of time saved, which can never pass 100 %. Faster compares steps per second: before / after."),
        Misconception("turned round", lambda before, after: 100 * (after / before - 1), "that is how much longer it takes. Steps per second are the inverse of seconds: before / after − 1."),
        Misconception("times instead of percent more", lambda before, after: 100 * before / after, "that is how many percent of the old speed it has: take away the 100 % that it had before."),
        Misconception("a factor", lambda before, after: before / after - 1, "percent, please: 100 times that."),
    ),
    hints=(
        "How many steps per second were there before, how many are there now?",
        "1 / before and 1 / after: by how many percent is the second larger than the first?",
        "return 100 * (___ - 1)",
    ),
)  # fmt: skip

EXERCISES = (VERDICT, BORDER, SEEDS, FASTER)
