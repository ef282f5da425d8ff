"""A pytest plugin that closes nbval's loopholes: each cell of a notebook is run, compared, and passed or failed.

nbval by itself passes a cell that was never run, skips or ignores what a tag or a comment tells it to, and calls
the cells after a time-out expected failures.
"""

import os
import shutil
import tempfile

import pytest
from nbval.plugin import IPyNbCell

from course.teaching.build import ROOT, clean_environment

FOLDER = pytest.StashKey[str]()


def pytest_configure(config):
    """The mask is the repository's own from wherever pytest is called; kernels see nothing of the user's."""
    config.option.nbval_sanitize_with = str(ROOT / "tests" / "nbval.cfg")
    config.stash[FOLDER] = tempfile.mkdtemp(prefix="course-")
    os.environ.update(clean_environment(config.stash[FOLDER]))


def pytest_unconfigure(config):
    shutil.rmtree(config.stash[FOLDER], ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """The kernel of each notebook, which starts with its first cell, finds no progress: neither ours nor another's."""
    if isinstance(item, IPyNbCell) and item.parent.kernel is None:
        os.environ.update(clean_environment(tempfile.mkdtemp(dir=item.config.stash[FOLDER])))


def cell_faults(cell, options) -> list[str]:
    """Why a code cell would not really be checked, in nbval's `options` for it; an empty list if it will be.

    >>> from nbformat.v4 import new_code_cell
    >>> cell_faults(new_code_cell("1", execution_count=1), {"check": False, "skip": False})
    ['its output is ignored without a reason: say why in the metadata, as nbval_reason']
    """
    exempt = {
        "is skipped": options.get("skip"),
        "its output is ignored": not options.get("check"),
        "may raise": options.get("check_exception"),
    }
    reason = str(cell.metadata.get("nbval_reason", "")).strip()
    faults = [f"{what} without a reason: say why in the metadata, as nbval_reason" for what, so in exempt.items() if so]
    if reason:
        faults = []
    if cell.execution_count is None:
        faults.append("was never run: run `python -m course build`")
    return faults


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Refuse to start with a notebook that has a cell which would not be checked."""
    faults = []
    for item in items:
        if isinstance(item, IPyNbCell):
            where = f"{item.path.name}, cell {item.cell.get('id', item.cell_num)}"
            faults += [f"{where}: {fault}" for fault in cell_faults(item.cell, item.options)]
    if faults:
        raise pytest.UsageError("\n".join(faults))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    """A cell either passes or fails: skipped, expected to fail and passed against expectation all mean unchecked."""
    report = yield
    if not isinstance(item, IPyNbCell):
        return report
    excused = item.options["skip"] and item.cell.metadata.get("nbval_reason")
    if (report.skipped and not excused) or hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.path.name}, cell {item.cell.get('id')}: not checked, because a cell above failed to end"
        vars(report).pop("wasxfail", None)
    return report
