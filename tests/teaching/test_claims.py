"""Every claim that circulates: none forgotten, each verdict what its proof computes, each linked to where it is taught."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml

from course.teaching import claims as bank
from course.teaching.build import renew_claims
from course.teaching.claims.evidence import Evidence, cases, fact
from course.teaching.session import NOTEBOOKS

ALL = bank.claims()
ROOT = Path(__file__).parents[2] / "notebooks"
HOLDS = yaml.safe_load((Path(__file__).parent / "claims_holds.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("claim", [c for c in ALL.values() if c.proof], ids=lambda c: c.id)
def test_the_proof_gives_the_verdict(claim):
    evidence = bank.prove(claim.id)
    assert evidence.verdict == claim.verdict, evidence
    assert evidence.holds == HOLDS.get(claim.id, {"": claim.verdict == "true"}), "under some condition the answer is another one"
    assert evidence.instead, f"the correct statement does not hold: {evidence}"
    assert evidence.shows or claim.verdict == "depends" or claim.topic in ("weights", "scaling"), "a reader sees nothing"


def test_no_number_is_lost_or_used_twice():
    numbers = sorted(number for claim in ALL.values() for number in claim.numbers)
    assert numbers == [f"C{i:03d}" for i in range(1, 237)]


@pytest.mark.parametrize("claim", ALL.values(), ids=lambda c: c.id)
def test_every_claim_is_complete(claim):
    assert claim.id.startswith(f"{claim.topic}-") and claim.claim.endswith((".", "?")) and claim.correct.endswith(".")
    assert '"' not in claim.claim and "*" not in claim.claim + claim.correct + claim.depends_on
    assert len(claim.correct) > 3 and (claim.verdict != "depends" or len(claim.depends_on) > 2)
    assert not claim.sourced or len(claim.sourced) > 10


@pytest.mark.parametrize("notebook", sorted({claim.notebook for claim in ALL.values()}))
def test_every_claim_points_at_a_cell(notebook):
    path = ROOT / f"{notebook}_{NOTEBOOKS[notebook]}.ipynb"
    if not path.exists():
        pytest.skip(f"{path.name} is not written yet")
    cells = {cell["id"] for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]}
    places = [claim.taught.partition("#")[2] for claim in bank.settled_in(notebook)]
    assert not [place for place in places if place and place not in cells]


@pytest.mark.parametrize("path", sorted(ROOT.glob("[0-9]*.ipynb")), ids=lambda path: path.stem)
def test_every_notebook_lists_the_claims_it_settles(path):
    assert not renew_claims(path, check=True), "run `python -m course build --claims`"
    listed = json.loads(path.read_text(encoding="utf-8"))["cells"][-1]["source"]
    text = "".join(listed)
    assert [claim.id for claim in ALL.values() if f"- {claim.claim}" in text.splitlines()] == [claim.id for claim in bank.settled_in(path.name[:2])]


def test_every_proof_is_used_by_one_claim_or_named_private():
    for path in (Path(bank.__file__).parent).glob("*.py"):
        if path.stem in ("__init__", "evidence", "runs"):
            continue
        without_arguments = re.findall(r"^def ([a-z]\w*)\(\):", path.read_text(encoding="utf-8"), re.MULTILINE)
        used = [claim.proof for claim in ALL.values()]
        assert [name for name in without_arguments if used.count(f"{path.stem}.{name}") != 1] == []


def test_the_ten_that_cost_most():
    assert [claim.cost for claim in bank.costliest()] == list(range(1, 11))
    assert sum(claim.verdict == "false" for claim in bank.costliest()) >= 6


def test_the_verdict_follows_from_the_evidence():
    assert fact(True).verdict == "true" and fact(False, True).verdict == "false" and not fact(False).instead
    assert cases({"a": True, "b": False}).verdict == "depends" and cases({"a": True, "b": True}).verdict == "true"
    assert Evidence({"a": False, "b": False}, True).verdict == "false"
    assert fact(True, an_answer=42).shows == {"an answer": 42}


@pytest.mark.parametrize("change, words", [
    ({"verdict": "maybe"}, "the verdict, the topic or the notebook is unknown"),
    ({"topic": "gossip"}, "the verdict, the topic or the notebook is unknown"),
    ({"proof": ""}, "give a proof or say what was read"),
    ({"sourced": "a page"}, "give a proof or say what was read"),
    ({"verdict": "depends"}, "say on what it depends"),
    ({"author": "me"}, "unexpected keyword argument 'author'"),
])
def test_a_malformed_claim_is_named(change, words):
    entry = {"id": "x", "numbers": [], "topic": "formats", "claim": "a.", "verdict": "true", "correct": "b.", "taught": "01", "proof": "formats.layouts"}
    bank._read(dict(entry))
    with pytest.raises(ValueError, match=f"claim x.*{words}"):
        bank._read({**entry, **change})


def test_what_cannot_be_proved_says_so():
    with pytest.raises(ValueError, match="there is no claim 'moon'"):
        bank.prove("moon")
    with pytest.raises(ValueError, match="fp8-llama3 is sourced, not run: the paper's sections"):
        bank.prove("fp8-llama3")
