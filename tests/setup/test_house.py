"""The house stays small, its floors stay in order, and `import course` stays quick."""

import ast
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from course.teaching.build import ROOT

SOURCES = sorted((ROOT / "course").rglob("*.py"))
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def too_long(source) -> list[str]:
    """The functions of more than 40 lines; a function defined inside another counts for itself.

    >>> too_long("def f():\\n" + "    pass\\n" * 40)
    ['f: 41 lines']
    """
    def length(node):
        inner = [each for child in ast.iter_child_nodes(node) for each in outermost(child)]
        return node.end_lineno - node.lineno + 1 - sum(each.end_lineno - each.lineno + 1 for each in inner)

    def outermost(node):
        return [node] if isinstance(node, FUNCTION) else [e for c in ast.iter_child_nodes(node) for e in outermost(c)]

    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, FUNCTION)]
    return [f"{node.name}: {length(node)} lines" for node in functions if length(node) > 40]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_small(path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 400
    assert not too_long(source)


def lint(folder):
    command = [Path(sys.executable).parent / "lint-imports", "--config", folder / "pyproject.toml", "--no-cache"]
    run = subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)}, capture_output=True, text=True)
    return run.returncode, run.stdout + run.stderr


def test_nothing_runs_back_up(tmp_path):
    code, said = lint(ROOT)
    assert code == 0, said
    shutil.copytree(ROOT / "course", tmp_path / "course", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with open(tmp_path / "course" / "numerics" / "formats.py", "a") as file:
        file.write("\n\ndef up():\n    from course.training import files\n\n    return files\n")
    code, said = lint(tmp_path)
    assert code != 0 and "course.numerics is not allowed to import course.training" in said, "the check cannot fail"


def test_import_is_quick_and_loads_no_torch():
    code = "import time; start = time.perf_counter(); import course; print(time.perf_counter() - start); " \
           "import sys; print({'torch', 'numpy', 'numba', 'matplotlib', 'IPython'} & set(sys.modules))"  # fmt: skip
    times = []
    for _ in range(3):  # the best of three: the others on this machine are not our subject
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
        seconds, heavy = run.stdout.splitlines()
        times.append(float(seconds))
        assert heavy == "set()"
        time.sleep(0.05)
    assert min(times) < 0.3


def test_help_is_quick():
    start = time.perf_counter()
    run = subprocess.run([sys.executable, "-m", "course", "--help"], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "lab" in run.stdout and time.perf_counter() - start < 2
