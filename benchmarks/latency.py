"""Click to paint: how long a panel takes to answer, in JupyterLab in headless Chromium, kernel and all.

Each action is a real one of the browser's (mouse or key); the clock starts at the event's own time stamp and
stops in the first animation frame after the panel's page has changed. Goal on a quiet machine: median under
60 ms, 95th percentile under 120 ms.
"""

import shutil
import statistics
import tempfile
from pathlib import Path

ACTIONS = 60
PANELS = {
    "BitPanel, FP16 and BF16, click a bit": ('from course.teaching.panels.bits import BitPanel\nBitPanel(["FP16", "BF16"])', "[data-act='flip 0 3']"),
    "BitPanel, FP32 and FP64, click a bit": ('from course.teaching.panels.bits import BitPanel\nBitPanel(["FP32", "FP64"])', "[data-act='flip 1 30']"),
    "UlpRuler, five formats, next above": ('from course.teaching.panels.ruler import UlpRuler\nUlpRuler(["FP16", "BF16", "FP32", "E4M3", "E5M2"], 1, 0.001)', "[data-act='nudge 1']"),
    "RoundingBench, all formats, presets": ("from course.teaching.panels.bench import RoundingBench\nRoundingBench()", "[data-act='preset 1'],[data-act='preset 5']"),
}  # fmt: skip
WATCH = """panel => {
    window.times = []; let from = null;
    panel.addEventListener("click", event => { from = event.timeStamp }, true);
    new MutationObserver(() => { if (from === null) return; const start = from; from = null;
        requestAnimationFrame(() => window.times.push(performance.now() - start)); }
    ).observe(panel, { subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: ["aria-valuetext", "d", "value"] });
}"""


def measure(page, server, source, target) -> list[float]:
    """Milliseconds from each of `ACTIONS` clicks to the frame that shows its answer."""
    from tests.browser.harness import open_notebook, run_all, save_notebook

    save_notebook(server.notebooks / "latency.ipynb", [source])
    open_notebook(page, server, "latency")
    run_all(page)
    panel = page.locator(".course-panel")
    panel.wait_for()
    buttons = panel.locator(target)
    panel.evaluate(WATCH)
    for n in range(ACTIONS + 5):
        buttons.nth(n % buttons.count()).click()
        page.wait_for_function("count => window.times.length === count", arg=n + 1, timeout=5000, polling=20)
    return page.evaluate("window.times")[5:]  # the first few warm the browser up


def main():
    """Print median, 95th percentile and worst of each panel."""
    from playwright.sync_api import sync_playwright
    from tests.browser import harness

    folder = Path(tempfile.mkdtemp())
    server = harness.LabServer(folder)
    try:
        server.start()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=harness.find_browser(), args=[*harness.QUIET, "--no-sandbox"])
            print(f"{'click to paint, ms':<42}{'median':>8}{'p95':>8}{'worst':>8}   of {ACTIONS}")
            for name, (source, target) in PANELS.items():
                page = browser.new_page(viewport={"width": 1000, "height": 1000})
                times = sorted(measure(page, server, source, target))
                print(f"{name:<42}{statistics.median(times):>8.1f}{times[round(0.95 * len(times)) - 1]:>8.1f}{times[-1]:>8.1f}", flush=True)
                harness.shut_down_kernel(page)
                page.close()
            browser.close()
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
