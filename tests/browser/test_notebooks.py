"""Each notebook runs from top to bottom in JupyterLab, in a real browser, without an error and without the network."""

import pytest

from course.teaching.lab import ROOT
from tests.browser.harness import open_notebook, run_all

pytestmark = pytest.mark.browser
NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_runs_from_top_to_bottom(lab_server, lab_page, name):
    open_notebook(lab_page, lab_server, name)
    run_all(lab_page)
