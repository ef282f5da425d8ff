"""Building notebooks: reproducible, in one normal form, blind to the learner, and harmless when a cell fails."""

import nbformat
import pytest

from course.__main__ import main
from course.teaching.build import (
    DEAD, BuildError, build, execute, id_faults, masked, normalise, serialise, write_notebook,
)  # fmt: skip

CELLS = [
    ("md", "title", "# Draw a line"),
    ("code", "streams", "import os, sys\nprint(1)\nprint('aside', file=sys.stderr)\nprint(2)"),
    ("code", "seconds", "import time\nprint(f'≈ {time.perf_counter():.6f} s')"),
    ("code", "slider", "import ipywidgets\nipywidgets.IntSlider()"),
    ("code", "where", "os.path.basename(os.getcwd()), os.environ['COURSE_PROGRESS_DIR'] != 'mine'"),
]


@pytest.fixture
def path(tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    return write_notebook(folder / "07_small.ipynb", CELLS)


def test_two_builds_differ_in_measured_numbers_only(path, monkeypatch):
    monkeypatch.setenv("COURSE_PROGRESS_DIR", "mine")
    assert build(path)
    first = path.read_text()
    assert not build(path)
    second = path.read_text()
    assert first != second and masked(first) == masked(second)
    assert "('notebooks', True)" in second


def test_what_is_built_is_normal_and_has_run(path):
    build(path)
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert serialise(normalise(notebook)) == path.read_text()
    assert [cell.execution_count for cell in notebook.cells[1:]] == [1, 2, 3, 4]
    assert [cell.id for cell in notebook.cells] == [id for _, id, _ in CELLS]
    assert DEAD not in path.read_text() and "execution\":" not in path.read_text()
    assert [output.text for output in notebook.cells[1].outputs] == ["1\n2\n", "aside\n"]


def test_normalising_drops_what_differs_between_machines():
    cell = nbformat.v4.new_code_cell("1", id="one", execution_count=3, metadata={
        "execution": {"iopub.status.busy": "now"}, "scrolled": True, "tags": ["kept"], "nbval_reason": "kept"})  # fmt: skip
    cell.outputs = [nbformat.v4.new_output("execute_result", {"text/plain": "1", DEAD: {}}, execution_count=9)]
    messy = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {}, "language_info": {"name": "python", "version": "3.12.1"}})
    clean = normalise(messy)
    assert "widgets" not in clean.metadata and "version" not in clean.metadata.language_info
    assert clean.cells[0].metadata == {"tags": ["kept"], "nbval_reason": "kept"}
    assert clean.cells[0].outputs[0].data == {"text/plain": "1"} and clean.cells[0].outputs[0].execution_count == 3
    assert serialise(normalise(clean)) == serialise(clean)
    assert messy.cells[0].metadata.scrolled, "the original was changed"


def test_an_error_names_the_cell_and_nothing_is_written(path, capsys):
    write_notebook(path, [*CELLS[:2], ("code", "divide", "1 / 0")])
    before = path.read_bytes()
    with pytest.raises(BuildError, match="cell divide: ZeroDivisionError: division by zero"):
        build(path)
    assert path.read_bytes() == before
    assert main(["build", str(path)]) == 1
    assert "07_small.ipynb: cell divide: ZeroDivisionError" in capsys.readouterr().err


def test_a_cell_that_does_not_end_is_named():
    endless = normalise(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("while True: pass", id="endless")]))
    with pytest.raises(BuildError, match="cell endless: still running after 1 s"):
        execute(endless, ".", timeout=1)


def test_check_writes_nothing(path, capsys):
    before = path.read_bytes()
    assert main(["build", "--check", str(path)]) == 1
    assert path.read_bytes() == before
    build(path)
    assert main(["build", "--check", str(path)]) == 0


def test_a_file_that_is_no_notebook_is_named(tmp_path, capsys):
    (tmp_path / "torn.ipynb").write_text('{"cells": [')
    assert main(["build", str(tmp_path / "torn.ipynb"), str(tmp_path / "absent.ipynb")]) == 2
    errors = capsys.readouterr().err
    assert "torn.ipynb: " in errors and "absent.ipynb: " in errors


def test_writing_keeps_the_outputs_of_unchanged_cells(path):
    build(path)
    changed = [CELLS[0], ("code", "streams", "print(3)"), *CELLS[2:]]
    cells = nbformat.read(write_notebook(path, changed), as_version=4).cells
    assert not cells[1].outputs and cells[2].outputs and cells[3].outputs


@pytest.mark.parametrize("id", ["3f2a90bc", "a3f1c2d4-0b1c-4f5e-8a9b-0123456789ab", "Ties", "two_words", "", "-x", "9-lives"])
def test_an_untelling_id_is_refused(id):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("")])
    notebook.cells[0]["id"] = id
    assert len(id_faults(notebook)) == 1


@pytest.mark.parametrize("id", ["ties", "fp16-max", "e4m3-448", "bf16-by-chopping", "facade"])
def test_a_telling_id_is_accepted(id):
    assert not id_faults(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("", id=id)]))
