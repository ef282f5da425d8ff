"""What a submitted notebook has to be graded: for each exercise the functions that answer it, found by the exercise's id.

Cells may have been moved, copied, renamed or deleted. A call `course.check("04-2", name)` names the function; where no such call is
left, a function with the name of the stub counts. Of other cells only definitions, imports and simple constants are used.
"""

import ast
import json
import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..build import ROOT

_BRACES = re.compile(r"^\s*[%!].*$", re.MULTILINE)


@dataclass(frozen=True)
class Candidate:
    """One answer: the source of its own cell, what other cells may lend it, and the expression that gives the function.

    `helpers` are single definitions and constants; one that fails is left out, since its name may only look alike.
    """

    exercise_id: str
    imports: str
    helpers: tuple
    definitions: str
    function: str


class Unreadable(Exception):
    """A submission that is no notebook; the message says why."""


def cells_of(path) -> list:
    """The sources of a notebook's code cells. Raises `Unreadable`."""
    try:
        notebook = json.loads(Path(path).read_text(encoding="utf-8"))
        cells = notebook["cells"]
        return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Unreadable(f"no notebook: {type(error).__name__}: {error}"[:200]) from None


def parsed(sources) -> tuple:
    """(trees, ids of exercises in cells that are not Python)."""
    trees, broken = [], {}
    for source in sources:
        try:
            trees.append(ast.parse(_BRACES.sub("", source)))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            for found in re.findall(r"""check\(\s*["'](\d\d-\d+)["']""", source):
                broken[found] = f"the cell is not Python: {getattr(error, 'msg', error)}"
    return trees, broken


def candidates(sources, known, stubs, named="") -> tuple:
    """(list of `Candidate`s, exercise id → why a cell for it could not be read, the notebook's number or "").

    The number is that of most of the exercises found, else the one in the notebook's name, `named`.
    """
    trees, broken = parsed(sources)
    numbers = Counter(id[:2] for tree in trees for id, _ in _checks(tree, known)) + Counter(id[:2] for id in broken)
    number = numbers.most_common(1)[0][0] if numbers else named[:2]
    found, everything = [], [statement for tree in trees for statement in tree.body if _is_definition(statement)]
    for tree in trees:
        own = [statement for statement in tree.body if not isinstance(statement, ast.Expr)]
        for exercise_id, function in _checks(tree, known):
            found.append(_candidate(exercise_id, everything, own, function))
    answered = {candidate.exercise_id for candidate in found} | set(broken)
    defined = {statement.name for statement in everything if isinstance(statement, ast.FunctionDef)}
    found += [_candidate(id, everything, [], name) for id, name in stubs.items() if id[:2] == number and id not in answered and name in defined]
    return found, broken, number


def _checks(tree, known):
    """(exercise id, source of the second argument) of each call of `check` in a cell."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "check" and len(node.args) >= 2:
            first = node.args[0]
            if isinstance(first, ast.Constant) and first.value in known:
                yield first.value, ast.unparse(node.args[1])


def _is_definition(statement):
    simple = isinstance(statement, (ast.Assign, ast.AnnAssign)) and not any(isinstance(node, (ast.Call, ast.Await)) for node in ast.walk(statement))
    return simple or isinstance(statement, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))


def _candidate(exercise_id, helpers, own, function):
    """Only what the function needs: names are followed from it through the definitions, the last of each name counting."""
    statements = [*helpers, *own]
    needed = {node.id for node in ast.walk(ast.parse(function)) if isinstance(node, ast.Name)}
    chosen = {i for i, s in enumerate(statements) if isinstance(s, ast.ImportFrom) and s.names[0].name == "*"}  # may bind anything
    while more := {i for i, statement in enumerate(statements) if i not in chosen and _binds(statement) & needed}:
        chosen |= more
        needed |= {node.id for i in more for node in ast.walk(statements[i]) if isinstance(node, ast.Name)}
    kept = [(i, statements[i]) for i in sorted(chosen)]
    imports = [s for _, s in kept if isinstance(s, (ast.Import, ast.ImportFrom))]
    lent = tuple(ast.unparse(s) for i, s in kept if s not in imports and i < len(helpers) and s not in own)
    mine = [s for i, s in kept if s not in imports and i >= len(helpers)]
    return Candidate(exercise_id, _source(imports), lent, _source(mine), function)


def _binds(statement):
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return {(name.asname or name.name).partition(".")[0] for name in statement.names}
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {statement.name}
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def _source(statements):
    return "\n".join(map(ast.unparse, statements))


@lru_cache(maxsize=1)
def stub_names() -> dict:
    """Exercise id → name of its stub in the course's notebooks."""
    from ..exercises import EXERCISES

    names = {}
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        for tree in parsed(cells_of(path))[0]:
            names |= {id: function for id, function in _checks(tree, EXERCISES) if function.isidentifier()}
    return names
