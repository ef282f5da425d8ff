"""environment.yml and constraints.txt say what start.py does, checked without conda and without the network."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import metadata

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from rattler import MatchSpec

from course.teaching.build import ROOT
from start import INSTALL

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())
PINS = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
PINNED = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in PINS}
ELSEWHERE = {"appnope", "colorama", "pywinpty"}  # macOS and Windows only
NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
SCHEMA = {
    "type": "object", "additionalProperties": False, "required": ["name", "channels", "dependencies"],
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z][a-z0-9-]*$"},
        "channels": {"type": "array", "items": {"enum": ["conda-forge", "nodefaults"]}, "minItems": 1},
        "dependencies": {
            "type": "array", "minItems": 3, "maxItems": 3,
            "prefixItems": [{"type": "string"}, {"const": "pip"}, {
                "type": "object", "additionalProperties": False, "required": ["pip"],
                "properties": {"pip": {"type": "array", "items": {"type": "string"}, "minItems": 1}},
            }],
        },
    },
}  # fmt: skip


def spec_faults(spec) -> list[str]:
    """What conda would not understand in a line of `dependencies`, or would understand as a package of another name."""
    try:
        name = MatchSpec(spec).name.normalized
    except Exception as error:  # the grammar's own exceptions have no common public base
        return [f"{spec!r}: {error}"]
    written = re.match(r"[^=<>!~ \[]+", spec)
    if not NAME.fullmatch(name or "") or not written or written[0] != name or " " in spec.strip():
        return [f"{spec!r} names the package {name!r}"]
    return []


def python_pin():
    return next(spec for spec in ENVIRONMENT["dependencies"] if isinstance(spec, str) and spec.startswith("python"))


def test_schema():
    jsonschema.validate(ENVIRONMENT, SCHEMA)


def test_conda_understands_each_line():
    lines = [spec for spec in ENVIRONMENT["dependencies"] if isinstance(spec, str)]
    assert lines and not [fault for spec in lines for fault in spec_faults(spec)]
    assert [re.match("[a-z]+", line)[0] for line in lines] == ["python", "pip"]


@pytest.mark.parametrize("spec", ["torch==", "py thon", "python = 3.11", "", "Python!", "python>=3.11,<"])
def test_a_line_that_conda_would_misread_is_found(spec):
    assert spec_faults(spec)


def test_the_python_is_one_that_the_project_allows_and_the_one_that_ci_runs():
    version = re.fullmatch(r"python=(\d+\.\d+)", python_pin())[1]
    assert version in SpecifierSet(PROJECT["requires-python"])
    assert f"Python {version}" in (ROOT / "start.py").read_text(), "start.py names the Python that the tests run on"
    ci = (ROOT / ".ci" / "run").read_text()
    assert re.search(rf"^tested={re.escape(version)}$", ci, re.MULTILINE)


def test_the_tests_run_on_the_python_that_is_pinned_where_they_must():
    if os.environ.get("CI") != "true":
        pytest.skip("another Python than CI's is fine outside CI")
    assert python_pin() == "python={}.{}".format(*sys.version_info)


def test_conda_installs_what_start_installs():
    pip = ENVIRONMENT["dependencies"][-1]["pip"]
    assert [word for line in pip for word in shlex.split(line)] == INSTALL


def test_the_extras_exist():
    extras = re.fullmatch(r"\.\[(.+)\]", INSTALL[INSTALL.index("-e") + 1])[1].split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"])


def test_every_pin_is_one_exact_version_in_order():
    for pin in PINS:
        assert re.fullmatch(r"==[\w.]+", str(pin.specifier)) and not pin.url and not pin.extras, pin
    names = [str(pin) for pin in PINS]
    assert names == sorted(names, key=lambda name: (canonicalize_name(name.split("==")[0]), name)) and len(PINNED) == len(PINS)


def test_each_direct_requirement_allows_its_pin():
    wanted = PROJECT["dependencies"] + sum(PROJECT["optional-dependencies"].values(), [])
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(PINNED[canonicalize_name(requirement.name)]), requirement


def closure(name, extras=()):
    """Every package that `name` needs on this machine, by following the requirements of what is installed."""
    seen, open_ends = set(), [(canonicalize_name(name), frozenset(extras))]
    while open_ends:
        name, extras = end = open_ends.pop()
        if end in seen:
            continue
        seen.add(end)
        for requirement in map(Requirement, metadata.requires(name) or []):
            relevant = requirement.marker is None or any(requirement.marker.evaluate({"extra": e}) for e in ("", *extras))
            if relevant:
                open_ends.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return {name for name, _ in seen}


def test_everything_needed_is_pinned_and_installed_as_pinned():
    needed = closure("float-course", ["test"]) - {"float-course"}
    cuda = {name for name in needed if name.startswith(("nvidia-", "cuda-")) or name == "triton"}  # torch pins them
    wrong = {name: (PINNED.get(name), metadata.version(name)) for name in needed - cuda
             if PINNED.get(name) is None or Version(metadata.version(name).split("+")[0]) != Version(PINNED[name])}  # fmt: skip
    assert not wrong, f"pinned and installed: {wrong}"
    assert set(PINNED) - needed <= ELSEWHERE, "pinned, but nothing needs it"


def test_every_import_is_a_declared_requirement():
    """A module that is there only because something else happens to bring it would vanish with that."""
    sources = [*(ROOT / "course").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    lines = "\n".join(path.read_text() for path in sources)
    imported = {name for name in re.findall(r"^\s*(?:import|from) (\w+)", lines, re.MULTILINE)}
    ours = {"course", "tests", "start", "benchmarks", "conftest"}
    wanted = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]
    declared = {canonicalize_name(Requirement(line).name) for line in wanted}
    providers = metadata.packages_distributions()
    undeclared = {name for name in imported - ours - set(sys.stdlib_module_names) if name in providers
                  and not declared & {canonicalize_name(each) for each in providers[name]}}  # fmt: skip
    parts = {"IPython", "jupyter_client", "jupyter_server", "packaging", "traitlets", "PIL"}  # of JupyterLab, matplotlib
    assert not undeclared - parts, undeclared


def test_ci_is_a_script_that_bash_accepts():
    path = ROOT / ".ci" / "run"
    assert path.stat().st_mode & 0o111, "not executable"
    assert subprocess.run(["bash", "-n", path]).returncode == 0
    text = path.read_text()
    assert "set -eu" in text and re.search(r"start\.py test$", text, re.MULTILINE)
