"""Fixtures of the browser tests: `lab_server`, one JupyterLab for all of them, and `lab_page`, a fresh page each.

    def test_a_click(lab_page, lab_server):
        open_notebook(lab_page, lab_server, "01_bit_layouts")
        run_all(lab_page)
        lab_page.get_by_role("button", name="bit 15").click()

A test fails when anything it did, in the browser, the server or a kernel, asked for a host other than 127.0.0.1.
"""

import os
from pathlib import Path

import pytest

from tests.browser import harness


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium of this machine; skips where there is none, fails there in CI."""
    path = harness.find_browser()
    if path is None:
        reason = "no Chromium here: install the package `chromium`, or set COURSE_CHROMIUM to the path of one"
        (pytest.fail if harness.browser_is_required() else pytest.skip)(reason)
    playwright = pytest.importorskip("playwright.sync_api").sync_playwright().start()
    as_root = hasattr(os, "geteuid") and os.geteuid() == 0  # Chromium's sandbox refuses root
    browser = playwright.chromium.launch(executable_path=path, args=harness.QUIET + ["--no-sandbox"] * as_root)
    yield browser
    browser.close()
    playwright.stop()


@pytest.fixture(scope="session")
def lab_server(chromium, tmp_path_factory):
    """A running `harness.LabServer`; asks for the browser first, so that no server starts in vain."""
    server = harness.LabServer(tmp_path_factory.mktemp("lab"))
    try:
        server.start()
        yield server
    finally:
        if server.process is not None:
            server.stop()


@pytest.fixture
def lab_page(chromium, lab_server, request):
    """A new page; afterwards its kernel is stopped and no request may have left this machine."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    left = harness.refuse_other_hosts(context)
    page = context.new_page()
    page.set_default_timeout(30_000)
    page.left_the_machine = left
    yield page
    if getattr(request.node, "failed", False):
        picture = Path(lab_server.folder) / f"{request.node.name}.png".replace("/", "-")
        page.screenshot(path=picture)
        print(f"\nthe page when the test failed: {picture}")
    harness.shut_down_kernel(page)
    context.close()
    record = lab_server.left_the_machine
    left += record.read_text().splitlines() if record.exists() else []
    record.unlink(missing_ok=True)
    assert not left, f"requests that leave this machine: {left}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call":
        item.failed = report.failed
    return report
