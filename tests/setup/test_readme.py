"""README and CONTRIBUTING say what is there: links lead somewhere, the map is true, the commands exist."""

import json
import re

import pytest

from course.__main__ import COMMANDS
from course.teaching.build import ROOT
from course.teaching.session import NOTEBOOKS

README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
CLASS = (ROOT / "notebooks" / "instructor" / "class.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"^\| (.+?) \| (\d\d · .+?) \|$", README, re.MULTILINE)
MAP = re.findall(r"^\| (\d\d) \| (\w+) \|.*\| (here|planned) \|$", README, re.MULTILINE)


def test_the_map_is_the_one_of_the_course():
    assert {number: name for number, name, _ in MAP} == NOTEBOOKS


def test_the_map_says_honestly_what_is_there():
    there = {number for number, name, _ in MAP if (ROOT / "notebooks" / f"{number}_{name}.ipynb").exists()}
    assert there == {number for number, _, state in MAP if state == "here"}
    assert {path.name[:2] for path in (ROOT / "notebooks").glob("*.ipynb")} == there


def headings(number):
    """The headings of one notebook."""
    cells = json.loads((ROOT / "notebooks" / f"{number}_{NOTEBOOKS[number]}.ipynb").read_text(encoding="utf-8"))["cells"]
    return {line[3:].strip() for cell in cells if cell["cell_type"] == "markdown" for line in "".join(cell["source"]).splitlines() if line.startswith("## ")}


def test_what_is_shown_where_is_there():
    assert len(SHOWN) >= 54 and len({what for what, _ in SHOWN}) == len(SHOWN)
    places = [place.partition(" · ")[::2] for _, places in SHOWN for place in re.split(r"; (?=\d\d · )", places)]
    assert [(number, heading) for number, heading in places if heading not in headings(number)] == []
    assert {number for number, _ in places} >= {number for number, _, state in MAP if state == "here"} - {"00"}


@pytest.mark.parametrize("text", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_links_lead_somewhere(text):
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert not [link for link in links if not (ROOT / link).exists()]


@pytest.mark.parametrize("text", [README, CONTRIBUTING, CLASS], ids=["README", "CONTRIBUTING", "class"])
def test_commands_exist(text):
    named = set(re.findall(r"-m course (\w+)", text))
    assert named and named <= set(COMMANDS)
    paths = re.findall(r"(?<![\w/.-])((?:tests|course|notebooks|data)/[\w./]+\w)", text)
    assert not [path for path in paths if "NN_" not in path and "05_" not in path and not (ROOT / path).exists()]


def test_the_cpu_build_named_is_the_pinned_one():
    pin = re.search("^torch==.*$", (ROOT / "constraints.txt").read_text(), re.MULTILINE).group()
    assert f"pip install {pin} --index-url" in README
