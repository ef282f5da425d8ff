"""`python -m course release --out DIR`: the course as a folder for students that runs on its own, and the answer key apart.

With `--without-solutions` the student's exercises know what their solutions and misconceptions *give* for each case, but not
how: `check` and `hint` answer as before, `solution` sends the student to the teacher.
"""

import ast
import copy
import json
import shutil
import sys
import tempfile
from pathlib import Path

from .build import ROOT

STUDENT = ("README.md", "start.py", "pyproject.toml", "constraints.txt", "environment.yml", "course", "data", "notebooks", "tests/nbval.cfg")
APART = ("instructor", "__pycache__", "*.pyc", ".ipynb_checkpoints", "*.egg-info", "*.partial")
RECORD = "answers.json"


def add_arguments(parser):
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder: it will hold `student` and `answer_key`")
    parser.add_argument("--without-solutions", action="store_true", help="the students' copy has no code of any solution")


def run(args) -> int:
    """Write both folders, or nothing: 0, or 2 if the folder is there already or cannot be written."""
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        print(f"{args.out} is there already and not empty: name a new folder, or remove it first", file=sys.stderr)
        return 2
    args.out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=args.out.parent, prefix=f".{args.out.name}-") as folder:
            made = Path(folder) / "made"
            release(made, args.without_solutions)
            if args.out.exists():
                args.out.rmdir()
            made.rename(args.out)
    except OSError as error:
        print(f"{args.out} could not be written ({error.strerror or error})", file=sys.stderr)
        return 2
    print(f"{args.out / 'student'}: give this to students; it starts with `python3 start.py`")
    print(f"{args.out / 'answer_key'}: keep this")
    return 0


def release(out, without_solutions=False):
    """Write `out/student` and `out/answer_key`; `out` must not exist."""
    for name in STUDENT:
        source, target = ROOT / name, out / "student" / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns(*APART))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    if without_solutions:
        withhold(out / "student" / "course" / "teaching")
    key = out / "answer_key"
    key.mkdir(parents=True)
    (key / "solutions.md").write_text(answer_key(), encoding="utf-8")
    if (ROOT / "notebooks" / "instructor").is_dir():
        shutil.copytree(ROOT / "notebooks" / "instructor", key / "instructor")


def answer_key() -> str:
    """Every exercise with its solution, why it is so, and the mistakes that `check` knows, as Markdown."""
    from .exercises import EXERCISES

    parts = ["# Answer key\n"]
    for id in sorted(EXERCISES):
        exercise = EXERCISES[id]
        mistakes = "\n".join(f"- **{m.name}**: {m.message}" for m in exercise.misconceptions)
        parts.append(f"## {id}: {exercise.title}\n\n{exercise.difficulty}, {exercise.minutes} minutes. {exercise.why}\n\n"
                     f"```python\n{exercise.solution_text}\n```\n\n{mistakes}\n")  # fmt: skip
    return "\n".join(parts)


# ---- the students' exercises: what solutions give, without what they are


def withhold(teaching):
    """Replace every solution and misconception in the copied package `teaching` by a record of what it gives."""
    from .exercises import EXERCISES
    from .grading import wire

    record = {}
    for id, exercise in EXERCISES.items():
        if hasattr(exercise, "judge"):  # a trainer of the clinic: judged by its run, without a solution to compare with
            continue
        solvers = [exercise.reference, *(m.solve for m in exercise.misconceptions)]
        record[id] = [[wire.pack(_result(solve, case)) for case in exercise.cases] for solve in solvers]
    (teaching / "exercises" / RECORD).write_text(json.dumps(record, separators=(",", ":")), encoding="utf-8")
    for path in (teaching / "exercises").glob("*.py"):
        if path.stem not in ("__init__", "model", "checking", "answers"):
            path.write_text(without_solutions(path.read_text(encoding="utf-8")), encoding="utf-8")
    for path in (teaching / "clinic").glob("*.py"):
        path.write_text(without_repairs(path.read_text(encoding="utf-8")), encoding="utf-8")


def without_repairs(source) -> str:
    """The source of a module of the clinic with every repair, good or bad, left empty; all else stays as it is written.

    >>> without_repairs('A = make_case("13-1", broken, fix=(("a", "b"),), others=(("c", ()),))')
    'A = make_case("13-1", broken, fix=(), others=())'
    """
    data, starts = source.encode(), [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line.encode()))
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "make_case"]
    repairs = [keyword.value for call in calls for keyword in call.keywords if keyword.arg in ("fix", "others", "hiding")]
    for node in sorted(repairs, key=lambda node: (-node.lineno, -node.col_offset)):  # from the end, so that places stay
        data = data[: starts[node.lineno - 1] + node.col_offset] + b"()" + data[starts[node.end_lineno - 1] + node.end_col_offset :]
    return data.decode()


def _result(solve, case):
    return solve(*copy.deepcopy(case))


def without_solutions(source) -> str:
    """The source of a module of exercises with solutions and misconceptions looked up, and all that only they used left out.

    >>> print(without_solutions('def f(x):\\n    return x\\nA = Exercise(id="01-1", reference=f, misconceptions=(Misconception("m", g, "no"),))\\nEXERCISES = (A,)'))
    from .answers import Answers
    A = Exercise(id='01-1', reference=Answers('01-1', 0), misconceptions=(Misconception('m', Answers('01-1', 1), 'no'),))
    EXERCISES = (A,)
    """
    tree = ast.parse(source)
    for call in [node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Exercise"]:
        _look_up(call)
    tree.body = _reachable(tree.body)
    at = next((i + 1 for i, s in reversed(list(enumerate(tree.body))) if isinstance(s, ast.ImportFrom) and s.level), 0)
    tree.body.insert(at, ast.parse("from .answers import Answers").body[0])
    return ast.unparse(ast.fix_missing_locations(tree))


def _look_up(call):
    fields = {keyword.arg: keyword for keyword in call.keywords}
    id, place = fields["id"].value.value, 0
    fields["reference"].value = ast.parse(f"Answers({id!r}, 0)", mode="eval").body
    for node in ast.walk(fields["misconceptions"].value):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Misconception":
            place += 1
            node.args[1] = ast.parse(f"Answers({id!r}, {place})", mode="eval").body


def _reachable(body):
    """The statements that are needed from EXERCISES on, in their order; docstrings and imports of names in use."""
    needed, kept = {"EXERCISES"}, set()
    while more := {i for i, s in enumerate(body) if i not in kept and _names(s) & needed}:
        kept |= more
        needed |= {node.id for i in more for node in ast.walk(body[i]) if isinstance(node, ast.Name)}
    return [s for i, s in enumerate(body) if i in kept or (i == 0 and isinstance(s, ast.Expr))]


def _names(statement):
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return {(name.asname or name.name).partition(".")[0] for name in statement.names}
    if hasattr(statement, "name"):
        return {statement.name}
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def leaks(folder) -> list:
    """Exercises whose solution can still be read in a released folder: three lines of its body in a row (a hint may show two), in any file of its kind."""
    from .exercises import EXERCISES

    texts = {kind: [_flat(ast.unparse(ast.parse(path.read_text(encoding="utf-8")))) for path in sorted(Path(folder).rglob(f"{kind}/*.py"))] for kind in ("exercises", "clinic")}
    found = []
    for id, exercise in EXERCISES.items():
        known = _pieces(exercise.broken_text) if hasattr(exercise, "judge") else []
        pieces = [piece for piece in _pieces(exercise.solution_text) if piece not in known and len(piece) > 25]
        found += [id] if any(piece in text for piece in pieces for text in texts["clinic" if hasattr(exercise, "judge") else "exercises"]) else []
    return found


def _flat(text):
    """The lines without what surrounds them, each with a mark at both ends, so that a part of a line is not taken for a line."""
    return "¶".join(["", *(" ".join(line.split()) for line in text.splitlines() if line.strip()), ""])


def _pieces(source):
    """Each three lines of a function's body in a row."""
    body = ast.unparse(ast.parse(source).body[0]).splitlines()[1:]
    return [_flat("\n".join(body[i : i + 3])) for i in range(max(1, len(body) - 2))]
