"""The grader: solutions of every exercise get their point, untouched notebooks none, moved and copied cells do not matter,
a class that is cut off goes on, and a hostile submission gets a zero with a reason and harms nothing."""

import csv
import inspect
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from fractions import Fraction
from pathlib import Path

import nbformat
import pytest

from course.teaching.build import ROOT
from course.teaching.exercises import EXERCISES, checking
from course.teaching.grading import collect, command, fence, wire
from course.teaching.grading.pool import Limits, Nursery

pytestmark = pytest.mark.skipif(os.name != "posix", reason="grade needs Linux or macOS")
QUICK = Limits(seconds=2, clock=5.0)


@pytest.fixture(scope="module")
def nursery():
    with Nursery(QUICK) as one:
        yield one


def notebook(path, *cells):
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(textwrap.dedent(cell)) for cell in cells]), path)
    return path


def grade(tmp_path, *cells, nursery=None, name="15_fact_check.ipynb"):
    """Exercise id → row of a notebook with these cells."""
    path = notebook(tmp_path / name, *cells)
    return {row["exercise"]: row for row in command._rows(name, path, nursery)}


RIGHT = """
def percent_faster(before, after):
    return 100 * (before / after - 1)
course.check("15-4", percent_faster)
"""


def start_cell(number):
    path = next(ROOT.glob(f"notebooks/{number}_*.ipynb"), None)
    return collect.cells_of(path)[0] if path else ""


def own_names(exercise):
    """Helpers that a solution uses from its module, as a learner would have written or imported them."""
    module = inspect.getmodule(exercise.reference)
    used = [name for name in exercise.reference.__code__.co_names if name in vars(module)]
    return "\n".join(inspect.getsource(vars(module)[name]) for name in used if inspect.isfunction(vars(module)[name]) and vars(module)[name].__module__ == module.__name__)


@pytest.mark.parametrize("number", sorted({id[:2] for id in EXERCISES}))
def test_every_solution_gets_its_point(tmp_path, nursery, number):
    mine = {id: exercise for id, exercise in EXERCISES.items() if id.startswith(number) and hasattr(exercise, "reference")}
    imports = start_cell(number) + "\nimport math\nimport statistics\nfrom fractions import Fraction\nfrom itertools import accumulate\nimport numpy as np\nimport torch\nimport torch.nn.functional as F\nfrom course.numerics import *"
    cells = [f"{own_names(e)}\n{e.solution_text}\ncourse.check({id!r}, {e.reference.__name__})" for id, e in mine.items()]
    rows = grade(tmp_path, imports, *cells, nursery=nursery, name=f"{number}_x.ipynb")
    assert {id: (row["status"], row["reason"][:200]) for id, row in rows.items() if id in mine and row["points"] != 1} == {}


@pytest.mark.parametrize("path", sorted(ROOT.glob("notebooks/[0-9]*.ipynb")), ids=lambda path: path.stem)
def test_an_untouched_notebook_has_not_been_attempted(path, nursery):
    found, rows = command.work_of(path.name, path)
    if path.name[:2] in {id[:2] for id in EXERCISES}:
        assert {c.exercise_id for c in found} == {id for id in collect.stub_names() if id[:2] == path.name[:2]} and rows == []
        assert nursery.grade(found[0]).status == "not attempted"


def test_every_exercise_has_a_cell_in_its_notebook_but_for_the_cases_of_the_clinic():
    assert set(EXERCISES) - set(collect.stub_names()) == {id for id, e in EXERCISES.items() if hasattr(e, "judge")} - {"13-1", "13-6", "13-12", "13-18"}


def test_cells_that_were_moved_copied_renamed_or_deleted(tmp_path, nursery):
    helper = "def ratio(a, b):\n    return a / b"
    moved = RIGHT.replace("before / after", "ratio(before, after)")
    assert grade(tmp_path, moved, "x = 1", helper, nursery=nursery)["15-4"]["points"] == 1
    wrong = RIGHT.replace("100 *", "1 *")
    assert grade(tmp_path, wrong, RIGHT, wrong, nursery=nursery)["15-4"]["points"] == 1
    assert grade(tmp_path, RIGHT.replace("percent_faster", "speed"), nursery=nursery)["15-4"]["points"] == 1
    assert grade(tmp_path, RIGHT.rpartition("course.check")[0], nursery=nursery)["15-4"]["points"] == 1
    alike = "before = nothing.at.all\nafter = before / 0"  # other cells use the same names for something else
    assert grade(tmp_path, alike, RIGHT, alike, nursery=nursery)["15-4"]["points"] == 1
    rows = grade(tmp_path, RIGHT, nursery=nursery)
    assert rows["15-1"]["status"] == "missing" and rows["15-1"]["points"] == 0
    assert grade(tmp_path, "!pip list\n" + RIGHT, "%matplotlib inline", nursery=nursery)["15-4"]["points"] == 1


def test_what_is_wrong_is_told_as_in_the_notebook(tmp_path, nursery):
    rows = grade(tmp_path, RIGHT.replace("100 * (before / after - 1)", "100 * (1 - after / before)"), nursery=nursery)
    assert (rows["15-4"]["status"], rows["15-4"]["misconception"]) == ("wrong", "time saved")
    rows = grade(tmp_path, RIGHT.replace("after - 1", "afterwards - 1"), nursery=nursery)
    assert rows["15-4"]["status"] == "crashed" and "NameError" in rows["15-4"]["reason"] and "afterwards - 1" in rows["15-4"]["reason"]
    rows = grade(tmp_path, RIGHT.replace("return", "retrun"), nursery=nursery)
    assert "the cell is not Python" in rows["15-4"]["reason"]
    (tmp_path / "torn.ipynb").write_text('{"cells": [')
    assert command._rows("torn.ipynb", tmp_path / "torn.ipynb", nursery)[0]["status"] == "unreadable"


def test_functions_of_a_case_stay_with_the_grader(nursery):
    exercise = EXERCISES["10-4"]
    assert any(callable(part) for case in exercise.cases for part in case)
    source = f"import math\n{inspect.getsource(exercise.reference)}"
    candidate = collect.Candidate("10-4", "import math", (), source, exercise.reference.__name__)
    assert nursery.grade(candidate).status == "right"


# ---- hostile submissions: what is in the function's body, and a word of the reason

HOSTILE = {
    "an endless loop": ("while True: pass", "crashed", "loop"),
    "a loop that swallows everything": ("while True:\n        try:\n            while True: pass\n        except BaseException: pass", "crashed", "loop"),
    "sleep": ("import time; time.sleep(3600)", "crashed", "no end after"),
    "fork": ("import os\n    while True: os.fork()", "refused", "starts another process"),
    "a program": ("import subprocess; subprocess.run(['touch', '{target}'])", "refused", "starts another program"),
    "a shell": ("import os; os.system('touch {target}')", "refused", "starts another program"),
    "exit": ("import sys; sys.exit(0)", "crashed", "SystemExit"),
    "exit without a word": ("import os; os._exit(0)", "crashed", "ended its own process"),
    "overwriting check": ("import course; course.check = lambda *a: True; return None", "not attempted", "None"),
    "importing the solutions": ("from course.teaching.exercises.verdicts import percent_faster as f; return f(before, after)", "refused", "reads the solutions"),
    "asking for the solution": ("import course; exec(course.solution('15-4').code); return 1.0", "refused", "reads the solutions"),
    "opening the solutions": ("open('{exercises}/verdicts.py').read(); return 1.0", "refused", "reads the solutions"),
    "ten gigabytes": ("x = bytearray(10 << 30); return len(x)", "crashed", "MemoryError"),
    "ten gigabytes of torch": ("import torch; return torch.ones(10 << 28).sum()", "crashed", "memory"),
    "writing a file": ("open('{target}', 'w').write('x'); return 1.0", "refused", "writes a file"),
    "writing past Python": ("import torch; torch.save({{}}, '{target}'); return 1.0", None, ""),
    "removing a file": ("import os; os.remove('{victim}')", "refused", "removes a file"),
    "a connection": ("import socket; socket.create_connection(('127.0.0.1', {port}))", "refused", "network"),
    "a signal to its parents": ("import os, signal; os.kill(os.getppid(), signal.SIGKILL)", "refused", "signal"),
    "machine code": ("import ctypes; ctypes.CDLL(None).system(b'touch {target}')", "refused", "machine code"),
    "a result that equals everything": ("class Any:\n        def __eq__(self, other): return True\n        def __float__(self): return 1.0\n    return Any()", "wrong", ""),
    "a number that equals everything": ("class Any(float):\n        def __eq__(self, other): return True\n        def __hash__(self): return 0\n    return Any(7.0)", "wrong", ""),
    "an endless result": ("x = []\n    x.append(x)\n    return x", "wrong", ""),
    "a long result": ("return list(range(1_000_000))", "crashed", "too long"),
    "a deep recursion": ("return percent_faster(before, after)", "crashed", "RecursionError"),
    "noise on every channel": ("import os\n    for d in range(3, 64):\n        try: os.write(d, b'x' * 100_000_000)\n        except OSError: pass\n    return 1.0", "crashed", ""),
    "threads that stay": ("import threading, time\n    threading.Thread(target=time.sleep, args=(3600,)).start()\n    return 100 * (before / after - 1)", "right", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_submission_harms_nothing(name, tmp_path, nursery):
    body, status, words = HOSTILE[name]
    victim, target = tmp_path / "victim", tmp_path / "target"
    victim.write_text("precious")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        body = body.format(target=target, victim=victim, port=listener.getsockname()[1], exercises=ROOT / "course" / "teaching" / "exercises")
        cell = f'def percent_faster(before, after):\n    {body}\ncourse.check("15-4", percent_faster)'
        started = time.monotonic()
        row = grade(tmp_path, cell, nursery=nursery)["15-4"]
        assert time.monotonic() - started < 30
        listener.settimeout(0.1)
        with pytest.raises(TimeoutError):
            listener.accept()
    assert row["status"] == status if status else row["points"] == 0, row
    assert words in row["reason"] and row["points"] == int(status == "right") and row["reason"]
    assert victim.read_text() == "precious" and not target.exists()
    assert grade(tmp_path, RIGHT, nursery=nursery)["15-4"]["points"] == 1, "the next one is graded as if nothing had been"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's filter is Linux's")
def test_the_filter_holds_without_the_hook(tmp_path):
    """Two fences, each alone: here only the filter of system calls stands."""
    code = f"""
import os, socket, sys
from course.teaching.grading import fence
assert fence.filter_calls()
def refused(call):
    try: call()
    except OSError: return True
    return False
print(refused(os.fork), refused(socket.socket), refused(lambda: open({str(tmp_path / "x")!r}, "w")), refused(lambda: os.remove({str(tmp_path / "victim")!r})),
      refused(lambda: os.kill(os.getppid(), 0)), refused(lambda: os.execv("/bin/true", ["true"])), refused(lambda: open("/dev/null").read()))
import threading
t = threading.Thread(target=print, args=("threads work",)); t.start(); t.join()
"""
    (tmp_path / "victim").write_text("")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.stdout.split("\n")[:2] == ["True True True True True True False", "threads work"], done.stderr


def test_the_hook_holds_without_the_filter(tmp_path):
    with Nursery(Limits(seconds=3, clock=8.0, filter=False)) as plain:
        for name in ("a shell", "writing a file", "a connection", "machine code", "fork"):
            body, status, words = HOSTILE[name]
            body = body.format(target=tmp_path / "target", victim="", port=9, exercises="")
            row = grade(tmp_path, f'def percent_faster(before, after):\n    {body}\ncourse.check("15-4", percent_faster)', nursery=plain)["15-4"]
            assert (row["status"], words in row["reason"]) == (status, True)
    assert not (tmp_path / "target").exists()


def test_other_submissions_cannot_be_read(tmp_path):
    other = notebook(tmp_path / "theirs.ipynb", RIGHT)
    with Nursery(QUICK, command.hidden([other], tmp_path / "out.csv.partial")) as careful:
        for body, words in ((f"return len(open('{other}').read())", "reads other submissions"), (f"import os; return len(os.listdir('{tmp_path}'))", "looks at other submissions"),
                            ("import os; return len(open(f'/proc/{os.getppid()}/maps').read())", "reads another process")):
            row = grade(tmp_path, f'def percent_faster(before, after):\n    {body}\ncourse.check("15-4", percent_faster)', nursery=careful)["15-4"]
            assert row["status"] == "refused" and words in row["reason"]
        assert grade(tmp_path, RIGHT, nursery=careful)["15-4"]["points"] == 1


def test_children_do_not_have_the_exercises_in_memory(tmp_path, nursery):
    body = "import sys, gc\n    found = [n for n in sys.modules if 'exercises' in n]\n    return ' '.join(found) or 'none'"
    row = grade(tmp_path, f'def percent_faster(before, after):\n    {body}\ncourse.check("15-4", percent_faster)', nursery=nursery)["15-4"]
    assert "'none'" in row["reason"] and row["status"] == "wrong"


# ---- the command


def submissions(folder, count):
    for i in range(count):
        cell = RIGHT if i % 2 else RIGHT.replace("100 *", "1 *")
        (folder / f"student{i:02d}").mkdir(parents=True)
        notebook(folder / f"student{i:02d}" / "15_fact_check.ipynb", f"# {i}\n{cell}")


def call(*arguments):
    return subprocess.run([sys.executable, "-m", "course", "grade", *map(str, arguments)], capture_output=True, text=True, timeout=240, cwd=ROOT)


def test_a_class_and_its_table(tmp_path):
    submissions(tmp_path / "class", 6)
    done = call(tmp_path / "class", "--csv", tmp_path / "out.csv", "--jobs", 2)
    assert done.returncode == 0 and "student01/15_fact_check.ipynb: 1 of 4 (3 missing)" in done.stdout
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert len(rows) == 24 and sum(int(row["points"]) for row in rows) == 3 and set(rows[0]) == set(command.COLUMNS)
    assert {row["misconception"] for row in rows if row["status"] == "wrong"} == {"a factor"}
    assert not (tmp_path / "out.csv.partial").exists()


def test_a_run_that_is_killed_goes_on(tmp_path):
    submissions(tmp_path / "class", 8)
    slow = "def percent_faster(before, after):\n    import time; time.sleep(0.15)\n    return 1.0\ncourse.check('15-4', percent_faster)"
    for i in range(8):
        notebook(tmp_path / "class" / f"student{i:02d}" / "15_fact_check.ipynb", f"# {i}\n{slow}")
    arguments = [sys.executable, "-m", "course", "grade", str(tmp_path / "class"), "--csv", str(tmp_path / "out.csv"), "--jobs", "1"]
    first = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    partial = tmp_path / "out.csv.partial"
    deadline = time.monotonic() + 120
    while (not partial.exists() or partial.read_text().count("\n") < 2) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    kept = partial.read_text().count("\n")
    assert 2 <= kept < 8 and not (tmp_path / "out.csv").exists()
    with partial.open("a") as file:
        file.write('{"of": "torn')
    journal = command.Journal(tmp_path / "out.csv", False, 10)
    assert len(journal.done) == kept
    before = [row["seconds"] for rows in journal.done.values() for row in rows if row["exercise"] == "15-4"]
    again = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=240)
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert again.returncode == 0 and len(rows) == 32 and not partial.exists()
    assert set(map(str, before)) <= {row["seconds"] for row in rows}, "what was graded is not graded again"


def test_mistakes_are_told(tmp_path):
    assert call(tmp_path / "nowhere", "--csv", tmp_path / "out.csv").returncode == 2
    (tmp_path / "note.ipynb").write_text(json.dumps({"cells": []}))
    done = call(tmp_path / "note.ipynb", "--csv", tmp_path / "out.csv")
    assert done.returncode == 1 and "unreadable" in done.stdout
    assert "=1+1" not in [value for row in csv.DictReader(command.table([command.row("=1+1", "", checking.Verdict("wrong", "", "@x"))]).splitlines()) for value in row.values()]


def test_values_survive_the_wire():
    values = [None, True, 7, -(2**200), 0.1, float("inf"), -0.0, "ä", Fraction(1, 3), (1, [2.5, None]), {"a": (1,), 2: [3]}, {1, 2}]
    back = [wire.unpack(json.loads(wire.text(wire.pack(value)))) for value in values]
    assert back == values and [type(a) for a in back] == [type(b) for b in values]
    assert str(back[6]) == "-0.0" and wire.unpack(wire.pack(lambda: 0)) != 0
    with pytest.raises(ValueError, match="too long"):
        wire.text("x" * 3_000_000)
    with pytest.raises(ValueError, match="tag"):
        wire.unpack({"os.system": "ls"})


def test_the_secret_places_are_real():
    assert Path(fence.SECRET[0]).is_dir() and fence.SECRET_MODULES[0] == "course.teaching.exercises"
