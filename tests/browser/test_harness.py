"""The browser tests' own tools can fail: an error in a cell, a request that leaves, a kernel that calls out."""

import pytest

from tests.browser import harness
from tests.browser.harness import open_notebook, run_all, save_notebook

pytestmark = pytest.mark.browser


def test_an_error_in_a_cell_is_seen(lab_server, lab_page):
    save_notebook(lab_server.notebooks / "broken.ipynb", ["1 + 1", "1 / 0", "2 + 2"])
    open_notebook(lab_page, lab_server, "broken")
    with pytest.raises(AssertionError, match="cell-1: ZeroDivisionError"):
        run_all(lab_page)


def test_a_request_that_leaves_is_stopped_and_recorded(lab_server, lab_page):
    open_page = "from IPython.display import HTML; HTML('<img src=\"https://example.org/pixel.png\">')"
    save_notebook(lab_server.notebooks / "calls.ipynb", [open_page])
    open_notebook(lab_page, lab_server, "calls")
    with lab_page.expect_request("https://example.org/**"):
        run_all(lab_page)
    harness.shut_down_kernel(lab_page)
    lab_page.goto("about:blank")  # Lab may draw the output, and ask, more than once: let it end first
    assert set(lab_page.left_the_machine) == {"https://example.org/pixel.png"}
    lab_page.left_the_machine.clear()


def test_a_kernel_that_calls_out_is_stopped_and_recorded(lab_server, lab_page):
    call = "import urllib.request\ntry: urllib.request.urlopen('http://example.org')\nexcept OSError as error: print(error)"
    save_notebook(lab_server.notebooks / "kernel_calls.ipynb", [call])
    open_notebook(lab_page, lab_server, "kernel_calls")
    run_all(lab_page)
    assert "example.org" in lab_server.left_the_machine.read_text()
    lab_server.left_the_machine.unlink()


def test_the_server_asks_for_its_token(lab_server):
    assert lab_server.answers(f"api/contents?token={harness.TOKEN}")
    assert not lab_server.answers("api/contents")


def test_no_question_about_news_covers_the_page(lab_server, lab_page):
    save_notebook(lab_server.notebooks / "quiet.ipynb", ["1 + 1"])
    open_notebook(lab_page, lab_server, "quiet")
    run_all(lab_page)
    assert lab_page.locator(".Toastify__toast").count() == 0
