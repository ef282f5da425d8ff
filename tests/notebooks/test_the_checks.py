"""The checks are checked: a sound notebook passes them all, and each defect put into it makes them fail."""

import copy
import os
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from nbval.plugin import get_sanitize_patterns

from course.teaching.build import ROOT, build, masked, serialise, write_notebook
from tests.notebooks import style
from tests.notebooks.samples import RUNNABLE, sound_notebook

PATTERNS = 5


def pytest_run(*arguments, env=None):
    """Run pytest as the repository does, over files that lie elsewhere; returns exit code and output."""
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), f"--rootdir={ROOT}", "-p",
               "tests.notebooks.strict", "-p", "no:hypothesispytest", "-rA", "--tb=no", "--color=no", *map(str, arguments)]  # fmt: skip
    run = subprocess.run(command, cwd=ROOT, env=os.environ | (env or {}), capture_output=True, text=True, timeout=300)
    return run.returncode, run.stdout + run.stderr


def verdicts(output) -> dict[tuple[str, int], str]:
    """From pytest's summary: (notebook, number of the code cell) → PASSED, FAILED …"""
    found = re.findall(r"^([A-Z]+) \S*?([\w-]+)\.ipynb::Cell (\d+)", output, re.MULTILINE)
    return {(name, int(number)): verdict for verdict, name, number in found}


# ---- rules of style.py


def cell(notebook, id):
    return next(cell for cell in notebook.cells if cell.id == id)


def replace(id, old, new):
    def change(notebook):
        assert old in cell(notebook, id).source
        cell(notebook, id).source = cell(notebook, id).source.replace(old, new)

    return change


def code(source, **keys):
    def change(notebook):
        cell(notebook, "ones-stop").update(source=source, **keys)

    return change


def output(**data):
    def change(notebook):
        cell(notebook, "ones-stop").source = "picture"
        cell(notebook, "ones-stop").outputs = [nbformat.v4.new_output("display_data", data)]

    return change


def stream(name, text):
    return code("total", outputs=[nbformat.v4.new_output("stream", name=name, text=text)])


def add_cells(notebook):
    extra = [copy.deepcopy(cell(notebook, "ones-stop")) for _ in range(26)]
    notebook.cells[3:3] = extra


def long_median(notebook):
    for each in style.code_cells(notebook):
        each.source += "\nassert True" * 7


IMG = "data:image/png;base64,AAAA"
DEFECTS = [
    ("ids", lambda nb: cell(nb, "ones-stop").update(id="3f2a90bc"), "a telling one"),
    ("ids", lambda nb: cell(nb, "ones-stop").update(id="title"), "two cells have the id"),
    ("counts", code("total", execution_count=None), "from top to bottom"),
    ("counts", code("total", execution_count=7), "from top to bottom"),
    ("markers", code("# NBVAL_IGNORE_OUTPUT\ntotal"), "NBVAL_IGNORE_OUTPUT"),
    ("semicolons", code("total;"), "ends with `;`"),
    ("hostile", code("Out[1]"), "Out"),
    ("hostile", code("len(In [1])"), "In"),
    ("hostile", code("widgets.interact(f, x=3)"), "interact"),
    ("hostile", code("with widgets.Output(): total"), "Output"),
    ("hostile", code("clear_output()"), "clear_output"),
    ("hostile", code("display(total, display_id=True)"), "updated display"),
    ("hostile", code("%timeit total"), "no magics"),
    ("hostile", code("!pip install torch"), "no magics"),
    ("hostile", code("urllib.request.urlopen('x')"), "no downloads"),
    ("hostile", code("sys.path.append('..')"), "sys.path"),
    ("hostile", code("torch.randn(3)"), "default_rng"),
    ("hostile", code("np.random.normal(3)"), "default_rng"),
    ("visible", code("total = 1", outputs=[]), "shows nothing"),
    ("quiet", stream("stderr", "a warning"), "a warning is stored"),
    ("quiet", stream("stdout", "<object object at 0x7f00>"), "address"),
    ("quiet", code("total", outputs=[nbformat.v4.new_output("error", ename="E", evalue="e")]), "an error is stored"),
    ("widgets", lambda nb: nb.metadata.update(widgets={"state": {}}), "widget state"),
    ("widgets", output(**{style.DEAD: {}}), "dead widget"),
    ("measured", code("measured(total)"), "shows no `≈`"),
    ("measured", stream("stdout", "≈ 3"), "asserts nothing"),
    ("pictures", output(**{"image/png": "AAAA"}), "bare picture"),
    ("pictures", output(**{"text/html": f'<img alt="the running sum stays" src="{IMG}">'}), "none of its numbers"),
    ("alt", output(**{"text/html": f'<img src="{IMG}">'}), "without alt text"),
    ("alt", output(**{"text/html": f'<img alt="" src="{IMG}">'}), "without alt text"),
    ("alt", replace("what-stops", "A sum", "![](sum.png) A sum"), "without alt text"),
    ("alt", replace("what-stops", "A sum", '<img src="sum.png"> A sum'), "without alt text"),
    ("length", code("\n".join(["total"] * 21)), "21 lines"),
    ("length", add_cells, "at most 25"),
    ("length", long_median, "median"),
    ("headings", replace("what-stops", "## ", "### "), "skips from level 1 to 3"),
    ("headings", replace("what-stops", "## ", "# "), "one heading of the first level"),
    ("sections", replace("what-stops", "## ", ""), "not five to eight"),
    ("first_cell", replace("title", "control", "contrast"), "By the end"),
    ("first_cell", replace("title", "20 minutes", "90 minutes"), "45 at most"),
    ("first_cell", replace("title", "tier", "kind").__call__, "hardware tier"),
    ("first_cell", replace("title", "- measure", "measure"), "3 outcomes"),
    ("first_cell", replace("title", "- measure", "- understand"), "nobody can see"),
    ("first_cell", replace("title", "# Watch ones stop counting", "# Ones"), "the title says"),
    ("second_cell", lambda nb: cell(nb, "start").update(source="import course"), "course.start"),
    ("second_cell", lambda nb: cell(nb, "start").update(source='course.start("02")'), "imports"),
    ("end", replace("shown", "## What you showed", "## Summary"), "What you showed"),
    ("end", replace("sources", "- David", "David"), "2 sources"),
    ("end", replace("sources", "why every programmer should care about the guard digit", "good"), "without a note"),
    ("prose", code(f"print('{'word ' * 30}')"), "a paragraph"),
    ("size", stream("stdout", "x" * 700_000), "bytes"),
]  # fmt: skip


@pytest.mark.parametrize("check", style.CHECKS, ids=lambda check: check.__name__)
def test_a_sound_notebook_keeps_every_rule(check):
    assert check(sound_notebook()) == []


@pytest.mark.parametrize(("name", "change", "words"), DEFECTS, ids=[f"{n}-{d[0]}" for n, d in enumerate(DEFECTS)])
def test_a_defect_breaks_its_rule(name, change, words):
    notebook = sound_notebook()
    change(notebook)
    faults = getattr(style, f"check_{name}")(notebook)
    assert any(words in fault for fault in faults), faults


def test_every_rule_has_a_defect():
    assert {f"check_{name}" for name, *_ in DEFECTS} == {check.__name__ for check in style.CHECKS}


def test_the_share_of_exempt_cells_is_counted():
    notebook = sound_notebook()
    assert style.exempt_share([notebook]) == 0
    style.code_cells(notebook)[0].metadata.tags = ["nbval-skip"]
    assert style.exempt_share([notebook]) > 0.02


# ---- what the mask hides, and what it must not


def test_the_mask_has_the_patterns_that_its_file_shows():
    text = (ROOT / "tests" / "nbval.cfg").read_text()
    assert len(get_sanitize_patterns(text)) == text.count("regex:") == PATTERNS


@pytest.mark.parametrize(("one", "other"), [
    ("<Thing at 0x7f12ab34cd56>", "<Thing at 0x7f99ab34cd00>"),
    ("/tmp/ipykernel_12/34.py:1: Note", "/tmp/ipykernel_56/78.py:1: Note"),
    ("loss ≈ 1.234 after", "loss ≈ 1.229 after"), ("≈ 1.2e-05 s", "≈ 9e-06 s"), ("≈ -0.5", "≈ 0.25"), ("≈ −3", "≈ 4"),
    ("≈ 12,345 tokens/s", "≈ 9,876 tokens/s"), ("|   ≈ 9.5|", "|  ≈ 10.5|"), ("≈ 3.1×10⁻⁵.", "≈ 2.9×10⁻⁵."), ("≈ 12 %", "≈ 9 %"),
    ("≈ 2×", "≈ 3×"), ("1\nTier: CPU, fast\n2", "1\nTier: GPU\n2"), ('src="data:image/png;base64,AAAA"', 'src="data:image/png;base64,BBBB=="'),
])  # fmt: skip
def test_the_mask_hides(one, other):
    assert masked(one) == masked(other)


def test_the_mask_reads_a_large_picture_once():
    """A pattern that begins anew at each of its characters would need hours for this one."""
    assert masked('<img src="data:image/png;base64,' + "iVBORw0KGgo" * 200_000 + '">') == masked('<img src="data:image/png;base64,A">')


@pytest.mark.parametrize(("one", "other"), [
    ("0x3f800000", "0x3f800001"), ("0x3ff0000000000000", "0x3ff0000000000001"), ("0x1.8p-3", "0x1.9p-3"), ("1.234", "1.235"),
    ("≈ 0x3f80", "≈ 0x3f81"), ("≈ 12 %", "≈ 12 ms"), ("≈ 12 of 64", "≈ 12 of 65"), ("≈ inf", "≈ nan"), ("≈ 1.5 ≤ 2", "≈ 1.5 ≤ 3"),
    ("Tier: a\n2", "Tier: b\n3"), ("≈ 3, 4", "≈ 3, 5"), ("≈ 1.5\n2", "≈ 1.5\n3"), ("0b1010", "0b1011"), ("True", "False"), ("≈ 3.1", "3.1"),
    ('alt="a line" src="data:image/png;base64,AAAA"', 'alt="a bar" src="data:image/png;base64,AAAA"'),
])  # fmt: skip
def test_the_mask_does_not_hide(one, other):
    assert masked(one) != masked(other)


# ---- nbval, strict


def shown(notebook, id, old, new):
    """Change what a cell's stored output says, in whichever form has it."""
    output = cell(notebook, id).outputs[0]
    place = output if "text" in output else output.data
    key = next(key for key, value in place.items() if isinstance(value, str) and old in value)
    place[key] = place[key].replace(old, new)


CHANGED = {  # a stored output is changed in the file: the cell that must fail, and the change
    "stdout": (1, lambda nb: shown(nb, "exact", "2048", "2049")),
    "result": (2, lambda nb: shown(nb, "result", "0x3f800000", "0x3f800001")),
    "html": (3, lambda nb: shown(nb, "table", "<td>1</td>", "<td>2</td>")),
    "alt": (4, lambda nb: shown(nb, "picture", "a line that is flat", "a line that rises")),
    "unit": (5, lambda nb: shown(nb, "measured", " %", " ms")),
    "unmarked": (5, lambda nb: shown(nb, "measured", "≈ ", "")),
    "removed": (1, lambda nb: cell(nb, "exact").update(outputs=[])),
    "added": (0, lambda nb: cell(nb, "define").update(outputs=[nbformat.v4.new_output("stream", text="1\n")])),
}
SAME = {  # these are not defects: every cell passes
    "untouched": lambda nb: None,
    "measured": lambda nb: shown(nb, "measured", "≈ 3", "≈ 2.9"),
    "bytes": lambda nb: shown(nb, "picture", "AAAA", "BBBB"),
}
UNCHECKED = {  # a cell that nbval would let pass: pytest must refuse to start, and say why
    "never-run": (dict(execution_count=None, outputs=[]), {}, "was never run"),
    "skipped": ({}, {"tags": ["nbval-skip"]}, "is skipped without a reason"),
    "ignored": ({}, {"tags": ["nbval-ignore-output"]}, "its output is ignored without a reason"),
    "ignored-by-comment": ({"source": "# NBVAL_IGNORE_OUTPUT\n2048"}, {}, "its output is ignored without a reason"),
    "raises": ({}, {"tags": ["raises-exception"]}, "may raise without a reason"),
    "empty-reason": ({}, {"tags": ["nbval-skip"], "nbval_reason": " "}, "is skipped without a reason"),
}  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    path = write_notebook(tmp_path_factory.mktemp("built") / "sample.ipynb", RUNNABLE)
    build(path)
    return path


def test_a_changed_output_fails_and_a_measured_number_does_not(built, tmp_path):
    changes = {name: change for name, (_, change) in CHANGED.items()} | SAME
    for name, change in changes.items():
        notebook = nbformat.read(built, as_version=4)
        change(notebook)
        (tmp_path / f"{name}.ipynb").write_text(serialise(notebook))
    code, output = pytest_run(tmp_path)
    failed = {key for key, verdict in verdicts(output).items() if verdict != "PASSED"}
    assert code == 1
    assert failed == {(name, number) for name, (number, _) in CHANGED.items()}, output
    assert len(verdicts(output)) == len(changes) * 6, "not every cell was run"


def test_a_cell_that_would_not_be_checked_stops_the_run(built, tmp_path):
    for name, (keys, metadata, _) in UNCHECKED.items():
        notebook = nbformat.read(built, as_version=4)
        cell(notebook, "exact").update(keys)
        cell(notebook, "exact").metadata.update(metadata)
        (tmp_path / f"{name}.ipynb").write_text(serialise(notebook))
    code, output = pytest_run(tmp_path)
    assert code == 4
    for name, (*_, words) in UNCHECKED.items():
        assert f"{name}.ipynb, cell exact: {words}" in output


def test_an_ignored_output_with_a_reason_is_allowed(built, tmp_path):
    notebook = nbformat.read(built, as_version=4)
    cell(notebook, "exact").metadata.update(tags=["nbval-ignore-output"], nbval_reason="shows this machine's name")
    (tmp_path / "sample.ipynb").write_text(serialise(notebook))
    assert pytest_run(tmp_path)[0] == 0


def test_cells_after_one_that_never_ends_are_failures(tmp_path):
    sources = ["import time; time.sleep(60)", "1 + 1", "assert False"]
    path = write_notebook(tmp_path / "hangs.ipynb", [("code", f"cell-{'abc'[n]}", each) for n, each in enumerate(sources)])
    notebook = nbformat.read(path, as_version=4)
    for count, each in enumerate(notebook.cells, 1):
        each.execution_count = count
    path.write_text(serialise(notebook))
    code, output = pytest_run(tmp_path, "--nbval-cell-timeout=1")
    assert code == 1
    assert set(verdicts(output).values()) == {"FAILED"} and len(verdicts(output)) == 3, output


# ---- the package itself altered: the stored outputs of the first notebooks must notice

MUTATIONS = {
    "scalar ties go away from zero": (
        "numerics/formats.py", "dropped == Fraction(1, 2) and magnitude % 2 == 1", "dropped == Fraction(1, 2)"),
    "scalar overflow always saturates": ("numerics/formats.py", 'overflow == "saturate" or', "True or"),
    "tensors are rounded toward zero": ("numerics/rounding.py", "table = parameters(fmt, carrier, rounding, overflow)",
                                        'table = parameters(fmt, carrier, "toward-zero", overflow)'),
    "tensor overflow always saturates": ("numerics/rounding.py", "table = parameters(fmt, carrier, rounding, overflow)",
                                         'table = parameters(fmt, carrier, rounding, "saturate")'),
}  # fmt: skip
FIRST = [path for name in ("01", "02") for path in sorted((ROOT / "notebooks").glob(f"{name}_*.ipynb"))]


def run_with_copy(tmp_path, file=None, old=None, new=None):
    """The first notebooks, checked against a copy of the package in which one place may be altered."""
    for folder in ("course", "data"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    if file:
        path = tmp_path / "course" / file
        assert path.read_text().count(old) == 1, f"{file} no longer has {old!r}: bring this test up to date"
        path.write_text(path.read_text().replace(old, new))
    return pytest_run(*FIRST, "-x", env={"PYTHONPATH": str(tmp_path)})


@pytest.mark.parametrize("name", MUTATIONS)
def test_an_altered_rounding_rule_fails(name, tmp_path):
    code, output = run_with_copy(tmp_path, *MUTATIONS[name])
    assert code == 1 and "FAILED" in verdicts(output).values(), output


def test_an_unaltered_copy_passes(tmp_path):
    code, output = run_with_copy(tmp_path)
    assert code == 0 and len(verdicts(output)) > 20, output
