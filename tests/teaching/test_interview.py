"""The interview bank: every proof holds, every answer is complete and of its length, every link leads to a cell."""

import json
import re
from pathlib import Path

import pytest

from course.teaching import questions
from course.teaching.interview import bank as interview
from course.teaching.interview import proofs

ITEMS = list(interview.bank().values())
NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
CELLS = {path.name[:2]: {cell["id"] for cell in json.loads(path.read_text())["cells"]} for path in NOTEBOOKS.glob("*.ipynb")}


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.id)
def test_every_proof_holds(item):
    assert proofs.run(item.proof) is True
    assert item.proof.strip() not in ("True", "1")


def test_the_bank_has_its_size_and_shape():
    assert len(ITEMS) >= 120 and len(interview.TOPICS) == 10
    for topic in interview.TOPICS:
        mine = [item for item in ITEMS if item.topic == topic]
        assert len(mine) >= 12 and {item.level for item in mine} == set(interview.LEVELS), topic
    assert len({item.question for item in ITEMS}) == len(ITEMS)
    assert not set(interview.bank()) & set(questions.bank()), "ids are shared with predictions"


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.id)
def test_every_answer_is_complete(item):
    assert len(re.findall(r"[.!?](?:\s|$)", item.short)) == 2, "two sentences"
    assert 120 <= len(item.long.split()) <= 220, "two minutes"
    assert item.question[-1] in "?." and item.follow_up[-1] in "?." and len(item.trap.split()) > 5
    assert not re.search(r"[*`\t]|  ", " ".join((item.question, item.short, item.long, item.trap, item.follow_up, *item.must)))


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.id)
def test_every_link_leads_to_a_cell(item):
    notebook, _, cell = item.see.partition("#")
    assert cell in CELLS[notebook]


def test_what_needs_a_paper_or_hardware_says_so():
    read = re.compile(r"([Tt]he|'s|By the) report\b|\bpaper\b|pull request|reports that|data sheet|TFLOP/s|TB/s")
    for item in ITEMS:
        assert item.source or not read.search(f"{item.short} {item.long}"), item.id
    assert sum(bool(item.source) for item in ITEMS) > 40


@pytest.mark.parametrize(("proof", "holds"), [
    ("FP16.max == 65504", True),
    ("FP16.max == 65505", False),
    ("FP16.max", False),  # true-ish is not true
    ("claim:formats-layouts", True),
])  # fmt: skip
def test_a_proof_is_true_and_nothing_else(proof, holds):
    assert proofs.run(proof) is holds


def test_a_claim_whose_verdict_would_change_fails(monkeypatch):
    from dataclasses import replace

    from course.teaching import claims

    claims.claims()  # the words on file now say something else than what the proof finds
    changed = {**claims.claims(), "formats-layouts": replace(claims.claims()["formats-layouts"], verdict="false")}
    monkeypatch.setattr(claims, "claims", lambda: changed)
    assert proofs.run("claim:formats-layouts") is False


def broken(**changes):
    entry = {"id": "bits-99", "level": "junior", "question": "q?", "short": "s", "long": "l", "must": ["a", "b", "c"], "trap": "t", "follow_up": "f?", "see": "01#limits", "proof": "1 == 1"}
    return {**entry, **changes}


@pytest.mark.parametrize(("changes", "words"), [
    ({"level": "expert"}, "bits-99: the id, the level"),
    ({"id": "amp-99"}, "amp-99: the id, the level"),
    ({"must": ["a", "b"]}, "three to six"),
    ({"must": ["a", "b", 3]}, "three to six"),
    ({"see": "77#x"}, "unknown"),
    ({"hint": "x"}, "unexpected keyword"),
])  # fmt: skip
def test_a_malformed_question_is_named(changes, words):
    with pytest.raises(ValueError, match=words):
        interview._read("bits.yaml", "bits", broken(**changes))


def test_choosing():
    assert {item.level for item in interview.choose(["senior"])} == {"senior"}
    with pytest.raises(ValueError, match="'expert' is no level and no topic: choose among junior, mid, senior; bits"):
        interview.choose(["expert"])


def test_the_other_bank_does_not_read_this_folder():
    assert not any(key.startswith("rounding-0") for key in questions.bank())
