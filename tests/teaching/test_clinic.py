"""The clinic: each fault shows, each repair is accepted, each repair that only hides the symptom is rejected by its name."""

import math
from functools import lru_cache

import numpy as np
import pytest
import torch

import course
from course.teaching import clinic, progress
from course.teaching.clinic.model import Edit, compiled, numbers, quietly
from course.teaching.exercises import EXERCISES, examine

CASES = list(clinic.CASES.values())
each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)


@pytest.fixture(autouse=True)
def own_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_PROGRESS_DIR", str(tmp_path))
    with quietly():
        yield


@lru_cache(maxsize=None)
def records(id, repaired):
    """What the broken or the repaired trainer of a case gives, run once for all tests."""
    case = clinic.CASES[id]
    return [(case.reference if repaired else case.broken)(*arguments) for arguments in case.cases]


def trainer(case, edit):
    return compiled(edit.apply(case.broken_text), case.id)


@each
def test_the_fault_shows_and_is_named(case):
    verdict = case.judge(records(case.id, False))
    assert (verdict.status, verdict.misconception) == ("wrong", case.findings[0].name)
    for arguments, record in zip(case.cases, records(case.id, False)):  # with each seed by itself
        assert case.findings[0].test(case.measure(*arguments, record))


@each
def test_the_repair_passes_and_shows_none_of_the_findings(case):
    for arguments, record in zip(case.cases, records(case.id, True)):
        numbers = case.measure(*arguments, record)
        assert not [finding.name for finding in case.findings if finding.test(numbers)]
    assert course.check(case.id, case.solution_text).status == "right"
    assert progress.load()["exercises"][case.id]["solved"]


@each
def test_a_hidden_symptom_is_seen_through(case):
    assert case.hiding
    names = [finding.name for finding in case.findings]
    for edit in case.hiding:
        verdict = examine(case, trainer(case, edit))
        assert (verdict.status, verdict.misconception) == ("wrong", edit.name) and edit.name in names[1:]


@pytest.mark.parametrize(("case", "edit"), [(case, edit) for case in CASES for edit in case.others], ids=lambda x: getattr(x, "id", "") or x.name)
def test_another_good_repair_is_accepted(case, edit):
    verdict = examine(case, trainer(case, edit))
    assert verdict.status == "right", verdict


@each
def test_a_verdict_survives_the_way_of_the_grader(case):
    from course.teaching.grading import wire

    for repaired, status in ((False, "wrong"), (True, "right")):
        packed = [wire.pack(record) for record in records(case.id, repaired)]
        assert case.judge([wire.unpack(record) for record in packed]).status == status
        assert max(len(wire.text({"result": record})) for record in packed) < wire.LONGEST / 2


@each
def test_a_run_is_the_same_each_time_and_the_text_is_short(case):
    assert repr(case.measure(0, case.broken(0))) == repr(case.measure(0, records(case.id, False)[0]))
    assert 15 <= len(case.broken_text.splitlines()) <= 40 and "#" not in case.broken_text
    assert len(case.solution_text.splitlines()) <= 42 and max(map(len, case.solution_text.splitlines())) <= 110


@each
def test_the_symptom_can_be_drawn(case):
    for repaired in (False, True):
        curve = case.curve(0, records(case.id, repaired)[0])
        assert len(curve) > 5 and all(isinstance(value, float) for value in curve)
    assert case.symptom.endswith(".") and case.group in clinic.GROUPS and case.threads and all(" #" in thread for thread in case.threads)


def test_there_are_enough_cases():
    assert list(clinic.CASES) == [f"13-{n}" for n in range(1, len(CASES) + 1)]
    assert len(CASES) >= 16 and all(case.others for case in CASES)


def test_a_learners_mistakes_are_told():
    case = clinic.CASES["13-1"]
    assert course.check("13-1", "def train(seed):\n    return {").message == "line 2 is not Python: '{' was never closed"
    assert "no function train" in course.check("13-1", "x = 1").message
    assert "NameError" in course.check("13-1", "y = nowhere").message
    crash = course.check("13-1", case.broken_text.replace("scaler.update()", "scaler.upgrade()"))
    assert crash.status == "crashed" and "line 18 (scaler.upgrade())" in crash.message
    assert course.check("13-1", lambda seed: {"losses": []}).message.startswith("this is not one of the usual mistakes.")
    assert course.check("13-1", case.broken).misconception == "clipped before unscale"
    with pytest.raises(ValueError, match="is not in the trainer"):
        Edit("x", (("no such text", ""),)).apply(case.broken_text)


@each
def test_no_record_breaks_a_verdict(case):
    good = records(case.id, True)[0]
    junk = [{}, {"weights": []}, 7, "weights", {key: [] for key in good}, {key: "x" for key in good}, {key: [[math.nan] * 8] * 60 for key in good}, {key: [[1e308] * 8] * 60 for key in good}]
    junk += [{key: torch.zeros_like(torch.as_tensor(np.array(numbers(value)))) for key, value in good.items()}]
    for record in junk:
        assert case.judge([record] * 3).status == "wrong"


def test_a_fault_in_one_seed_is_enough():
    case, mixed = clinic.CASES["13-3"], list(records("13-3", True))
    assert case.judge(mixed).status == "right"
    mixed[2] = records("13-3", False)[2]
    verdict = case.judge(mixed)
    assert verdict.misconception == "the scale collapses" and "train(2)" in verdict.message


def test_an_endless_trainer_is_stopped(monkeypatch):
    monkeypatch.setattr("course.teaching.exercises.checking.SECONDS", 0.5)
    assert "did not finish" in course.check("13-3", "def train(seed):\n    while True:\n        pass").message


def test_a_frozen_record_is_no_training():
    case = clinic.CASES["13-1"]
    record = case.reference(0)
    still = {"weights": [np.zeros(8)] * len(record["weights"])}
    assert case.judge([still] * 3).status == "wrong"
    assert EXERCISES["13-1"] is case
