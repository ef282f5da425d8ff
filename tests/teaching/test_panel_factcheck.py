"""FactCheck: a vote before the proof, kept; every set, every claim that is quick to prove on screen."""

import pytest

from course.teaching import claims as bank
from course.teaching import progress
from course.teaching.panels.factcheck import SETS, FactCheck, members, say, start, table, tally, text, update, view


@pytest.fixture(autouse=True)
def own_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_PROGRESS_DIR", str(tmp_path))


def do(state, act, value=""):
    return update(state, {"act": act, "value": value})


def test_the_sets_are_the_claims():
    assert sum(len(members(topic)) for topic in bank.TOPICS) == len(members("all")) == len(bank.claims())
    assert len(members("cost")) == 10 and len(SETS) == len(bank.TOPICS) + 2


def test_no_proof_before_a_vote_and_no_vote_after_the_proof():
    state = start("weights", "weights-web-bf16")
    correct = bank.claims()["weights-web-bf16"].correct
    assert correct not in view(state) + text(state) + table(state) and "Vote before you look" in say(state)
    with pytest.raises(ValueError, match="vote first"):
        do(state, "prove")
    state = do(do(state, "vote true"), "vote depends")
    assert correct not in view(state) and "Your vote is “it depends”" in say(state)
    state = do(state, "prove")
    assert correct in view(state) and correct in text(state) and correct in table(state)
    assert "does not hold" in view(state) and "1.234375" in text(state)
    assert "You said “it depends”; the verdict is “false”" in say(state) and tally(state) == (1, 0)
    with pytest.raises(ValueError, match="your vote stands"):
        do(state, "vote false")


def test_votes_are_kept_and_counted():
    do(start("formats", "formats-layouts"), "vote true")
    again = start("formats", "formats-layouts")
    assert again.vote == "true" and tally(again) == (1, 1)
    assert progress.load()["votes"]["formats-layouts"]["correct"] is True
    assert tally(start("adam")) == (0, 0)


def test_walking_through_a_set():
    state = start("cost")
    assert do(state, "back").place == 9 and do(do(state, "back"), "next").place == 0
    state = do(do(state, "vote true"), "unvoted")
    assert state.place == 1 and not state.shown
    for _ in range(9):
        state = do(do(state, "vote false"), "next")
    with pytest.raises(ValueError, match="voted on all"):
        do(state, "unvoted")
    assert do(state, "set", "fp8").claim.topic == "fp8"
    assert do(do(state, "set", "fp8"), "restart").chosen == "cost"


def test_a_sourced_claim_says_what_was_read():
    state = do(do(start("fp8", "fp8-llama3"), "vote true"), "prove")
    assert state.evidence is None and "Not run here, but sourced" in text(state) and "arXiv:2407.21783" in view(state)
    assert "Show what was read" in view(state)


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="'rumours' is no set of claims: choose one of all, cost, formats"):
        FactCheck("rumours")
    with pytest.raises(ValueError, match="there is no claim 'x' among FP8"):
        FactCheck("fp8", "x")
    with pytest.raises(ValueError, match="no vote"):
        do(start(), "vote maybe")
    with pytest.raises(ValueError, match="no action"):
        do(start(), "shout")
