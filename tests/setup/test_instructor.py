"""The teacher's guides: one for each notebook, one page, times that add up, and nothing named that is not there."""

import json
import re

import pytest

from course.teaching.build import ROOT
from course.teaching.exercises import EXERCISES
from course.teaching.questions import bank

NOTEBOOKS = sorted(ROOT.glob("notebooks/[0-9]*.ipynb"))
HEADS = ["Outcomes", "50 minutes", "90 minutes", "Show live", "Ask, expect, reply", "Set"]


def guide(path):
    return (path.parent / "instructor" / f"{path.stem}.md").read_text(encoding="utf-8")


def part(text, head):
    return text.partition(f"## {head}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_has_a_guide_of_one_page(path):
    text = guide(path)
    assert text.startswith(f"# Teaching {path.stem[:2]}, {path.stem[3:]}\n") and re.findall("^## (.+)$", text, re.MULTILINE) == HEADS
    assert len(text.splitlines()) <= 60 and len(text) < 5000
    for minutes in (50, 90):
        assert sum(map(int, re.findall(r"^\| (\d+) \|", part(text, f"{minutes} minutes"), re.MULTILINE))) == minutes
    assert len(re.findall("^- ", part(text, "Outcomes"), re.MULTILINE)) >= 2 and len(re.findall("^- ", part(text, "Show live"), re.MULTILINE)) >= 2
    rows = re.findall(r"^\| (?!ask|---)(.+?) \| (.+?) \| (.+?) \|$", part(text, "Ask, expect, reply"), re.MULTILINE)
    assert len(rows) >= 2 and all(len(reply) > 15 for _, _, reply in rows)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_a_guide_names_is_there(path):
    text, notebook = guide(path), json.loads(path.read_text(encoding="utf-8"))
    cells, own = {cell["id"] for cell in notebook["cells"]}, {id for id in EXERCISES if id.startswith(path.stem[:2])}
    assert set(re.findall(r"\b(\d\d-\d+)\b", text)) <= own
    assert {id for id in re.findall(r"\b(\d\d-[a-z][a-z0-9-]*)\b", text)} <= set(bank())
    code = {word for word in re.findall(r"`([a-z0-9-]+)`", text) if "-" in word}
    assert code <= cells, "cells are named by their ids"
    listed = set(re.findall(r"\b(\d\d-\d+) \(", part(text, "Set")))
    assert not own or listed == own, "every exercise is set, in the lesson or at home"
    minutes = {id: int(found) for id, found in re.findall(r"(\d\d-\d+) \((\d+) min", part(text, "Set"))}
    assert all(EXERCISES[id].minutes == found for id, found in minutes.items())
