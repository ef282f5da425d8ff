"""Each committed notebook keeps each rule of style.py, and is in the normal form that `course build` writes."""

import re

import nbformat
import pytest

from course.teaching.build import ROOT, normalise, serialise
from tests.notebooks.style import CHECKS, exempt_share

PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = [path.stem for path in PATHS]


@pytest.fixture(scope="module", params=PATHS, ids=NAMES)
def path(request):
    return request.param


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_rule(path, check):
    faults = check(nbformat.read(path, as_version=4))
    assert not faults, "\n" + "\n".join(f"{path.name}: {fault}" for fault in faults)


def test_normalising_is_a_no_op(path):
    text = path.read_text(encoding="utf-8")
    assert serialise(normalise(nbformat.reads(text, as_version=4))) == text, "run `python -m course build`"


def test_the_number_is_the_same_everywhere(path):
    notebook = nbformat.read(path, as_version=4)
    started = re.search(r"course\.start\([\"'](\d\d)[\"']\)", notebook.cells[1].source)
    assert started and started[1] == path.name[:2]


def test_hardly_any_cell_is_exempt():
    assert exempt_share([nbformat.read(path, as_version=4) for path in PATHS]) <= 0.02
