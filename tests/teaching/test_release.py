"""The students' folder runs on its own, and without solutions it checks as the course does and tells nobody how."""

import json
import subprocess
import sys

import pytest

from course.teaching import release
from course.teaching.build import ROOT
from course.teaching.exercises import EXERCISES, examine
from course.teaching.grading import wire

ORDINARY = {id: e for id, e in EXERCISES.items() if not hasattr(e, "judge")}
TRAINERS = {id: e for id, e in EXERCISES.items() if hasattr(e, "judge")}

ASK = """
import json, sys, copy
from course.teaching.exercises import EXERCISES, examine, solution
from course.teaching.exercises import answers
assert "student" in answers.__file__, answers.__file__
found = {}
for id, tries in json.load(open(sys.argv[1])).items():
    for place, packed in enumerate(tries):
        from course.teaching.grading import wire
        results = iter([wire.unpack(one) for one in packed])
        verdict = examine(EXERCISES[id], lambda *case: next(results))
        found[f"{id} {place}"] = [verdict.status, verdict.misconception, verdict.message]
    found[id] = solution(id).code
json.dump(found, open(sys.argv[2], "w"))
"""


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    out = tmp_path_factory.mktemp("release") / "autumn"
    done = subprocess.run([sys.executable, "-m", "course", "release", "--out", str(out), "--without-solutions"], capture_output=True, text=True, timeout=240, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "give this to students" in done.stdout
    return out


def test_the_students_copy_judges_as_the_course_does(kit, tmp_path):
    tries, wanted = {}, {}
    for id, exercise in ORDINARY.items():
        solvers = [exercise.reference, *(m.solve for m in exercise.misconceptions)]
        tries[id] = [[wire.pack(release._result(solve, case)) for case in exercise.cases] for solve in solvers]
        for place, packed in enumerate(tries[id]):
            results = iter([wire.unpack(one) for one in packed])
            verdict = examine(exercise, lambda *case: next(results))
            wanted[f"{id} {place}"] = [verdict.status, verdict.misconception, verdict.message]
    (tmp_path / "tries.json").write_text(json.dumps(tries))
    done = subprocess.run([sys.executable, "-c", ASK, str(tmp_path / "tries.json"), str(tmp_path / "found.json")], capture_output=True, text=True,
                          timeout=240, cwd=kit / "student", env={"PYTHONPATH": str(kit / "student"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)})  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert {key: value for key, value in found.items() if " " in key} == wanted
    assert all("ask your teacher" in found[id] for id in ORDINARY)


def test_the_clinic_judges_without_knowing_the_repair(kit, tmp_path):
    code = """
import json, sys
from course.teaching.exercises import EXERCISES, check, solution
found = {}
for id, text in json.load(open(sys.argv[1])).items():
    case = EXERCISES[id]
    found[id] = [check(id, case.from_text(case.broken_text)).misconception, check(id, case.from_text(text)).status, solution(id).code]
found["texts"] = {id: case.broken_text for id, case in EXERCISES.items() if hasattr(case, "judge")}
json.dump(found, open(sys.argv[2], "w"))
"""
    some = dict(list(TRAINERS.items())[::6])
    (tmp_path / "texts.json").write_text(json.dumps({id: case.solution_text for id, case in some.items()}))
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "texts.json"), str(tmp_path / "found.json")], capture_output=True, text=True, timeout=240, cwd=kit / "student",
                          env={"PYTHONPATH": str(kit / "student"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "COURSE_PROGRESS_DIR": str(tmp_path)})  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found.pop("texts") == {id: case.broken_text for id, case in TRAINERS.items()}, "a trainer is given out as it is written"
    assert len(found) >= 3 and {id: value[:2] for id, value in found.items()} == {id: [case.findings[0].name, "right"] for id, case in some.items()}
    assert all("ask your teacher" in value[2] for value in found.values())


def test_no_solution_can_be_read_in_the_students_copy(kit):
    assert release.leaks(kit / "student") == []
    assert len(release.leaks(ROOT)) > len(ORDINARY) / 2, "the search finds what is there"
    assert not (kit / "student" / "notebooks" / "instructor").exists()


def test_the_answer_key_has_every_solution(kit):
    key = (kit / "answer_key" / "solutions.md").read_text(encoding="utf-8")
    for id, exercise in ORDINARY.items():
        assert f"## {id}: " in key and exercise.solution_text in key and all(m.message in key for m in exercise.misconceptions)


def test_with_solutions_the_copy_is_the_course(tmp_path):
    release.release(tmp_path / "out")
    for path in sorted((ROOT / "course" / "teaching" / "exercises").glob("*.py")):
        assert (tmp_path / "out" / "student" / "course" / "teaching" / "exercises" / path.name).read_text() == path.read_text()
    assert not list((tmp_path / "out").rglob("__pycache__"))


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "precious").write_text("x")
    done = subprocess.run([sys.executable, "-m", "course", "release", "--out", str(tmp_path / "there")], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 2 and "not empty" in done.stderr and [p.name for p in tmp_path.iterdir()] == ["there"]


def test_only_known_cases_can_be_looked_up(kit, tmp_path):
    code = "from course.teaching.exercises import EXERCISES\ntry:\n    EXERCISES['15-4'].reference(7.0, 3.0)\nexcept ValueError as error:\n    print(error)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=kit / "student", env={"PYTHONPATH": str(kit / "student"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)})
    assert "15-4 was released without its solution" in done.stdout, done.stderr
