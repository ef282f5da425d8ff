"""JupyterLab in headless Chromium, cut off from every host but this one: the parts that the browser tests share."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from course.teaching.lab import ROOT, lab_command, lab_environment

TOKEN = "a-token-of-the-browser-tests"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = [  # no service of the browser's own may talk to the network
    "--disable-background-networking", "--disable-component-update", "--disable-default-apps", "--disable-sync",
    "--disable-domain-reliability", "--disable-client-side-phishing-detection", "--no-first-run", "--no-pings",
    "--no-proxy-server", "--metrics-recording-only", "--disable-features=OptimizationHints,MediaRouter,Translate",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", "--disable-dev-shm-usage",
]  # fmt: skip
READY = "() => window.jupyterapp?.shell?.currentWidget?.context?.isReady"
KERNEL_READY = "() => jupyterapp.shell.currentWidget.sessionContext.ready"
RUN_ALL = "() => jupyterapp.commands.execute('notebook:run-all-cells')"  # resolves when the run has ended
CELLS = "() => jupyterapp.shell.currentWidget.content.widgets.map(cell => cell.model.toJSON())"
SHUT_DOWN = "() => jupyterapp.shell.currentWidget?.sessionContext?.shutdown?.()"


def find_browser() -> str | None:
    """The path of an installed Chromium, `COURSE_CHROMIUM` first, or None."""
    named = os.environ.get("COURSE_CHROMIUM")
    return named or next(filter(None, map(shutil.which, BROWSERS)), None)


def browser_is_required() -> bool:
    """Whether a missing browser is a failure: in CI, and where `COURSE_REQUIRE_BROWSER` says so."""
    return any(os.environ.get(name, "").lower() in ("1", "true") for name in ("CI", "COURSE_REQUIRE_BROWSER"))


@dataclass
class LabServer:
    """A JupyterLab over a copy of the notebooks, with settings, progress and kernels' start-up files of its own."""

    folder: Path
    port: int = 0
    process: subprocess.Popen | None = None
    log: Path = field(init=False)

    def __post_init__(self):
        self.root, self.log = self.folder / "root", self.folder / "server.log"
        self.left_the_machine = self.folder / "left-the-machine.txt"
        shutil.copytree(ROOT / "notebooks", self.root / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))

    @property
    def notebooks(self) -> Path:
        return self.root / "notebooks"

    def url(self, path="") -> str:
        return f"http://127.0.0.1:{self.port}/{path}"

    def environment(self) -> dict[str, str]:
        names = ["JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR"]
        names += ["JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "COURSE_PROGRESS_DIR"]
        own = {name: str(self.folder / name.lower()) for name in names}
        for path in own.values():
            Path(path).mkdir(exist_ok=True)
        offline = os.pathsep.join([str(Path(__file__).parent / "offline"), *filter(None, [os.environ.get("PYTHONPATH")])])
        return lab_environment() | own | {
            "JUPYTER_TOKEN": TOKEN, "PYTHONPATH": offline, "COURSE_OFFLINE_RECORD": str(self.left_the_machine),
        }  # fmt: skip

    def start(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        flags = ["--no-browser", f"--port={self.port}", "--ServerApp.port_retries=0", "--LabApp.expose_app_in_browser=True"]
        save_notebook(self.notebooks / "empty.ipynb", [])
        command = lab_command(self.root, "notebooks/empty.ipynb", flags)
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, cwd=self.root, env=self.environment(), stdout=log, stderr=log)
        deadline = time.monotonic() + 90
        while not self.answers(f"api/status?token={TOKEN}"):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"JupyterLab did not start:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.1)

    def answers(self, path) -> bool:
        with contextlib.suppress(OSError, urllib.error.URLError):
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            return opener.open(self.url(path), timeout=2).status == 200
        return False

    def stop(self):
        """Two interrupts (the second says yes to the server's question), and after ten seconds no more questions."""
        for _ in range(2):
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGINT)
                time.sleep(0.2)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def is_here(url: str) -> bool:
    """Whether a request to `url` stays on this machine.

    >>> is_here("http://127.0.0.1:8888/lab"), is_here("blob:http://127.0.0.1:8888/1"), is_here("https://example.org/")
    (True, True, False)
    """
    parts = urlsplit(url.removeprefix("blob:"))
    return parts.scheme in ("data", "about", "blob") or parts.hostname == "127.0.0.1"


def refuse_other_hosts(context) -> list[str]:
    """Abort each request of a browser context that would leave this machine; the list returned records them."""
    left = []

    def judge(route):
        if is_here(route.request.url):
            return route.continue_()
        left.append(route.request.url)
        return route.abort()

    def watch(page):
        page.on("websocket", lambda socket: None if is_here(socket.url) else left.append(socket.url))

    context.route("**/*", judge)
    context.on("page", watch)
    return left


def open_notebook(page, server, name):
    """Show one notebook of the server (`"01_bit_layouts"`, with or without the ending) and wait for its kernel."""
    name = name if name.endswith(".ipynb") else f"{name}.ipynb"
    page.goto(server.url(f"lab/tree/notebooks/{name}?reset&token={TOKEN}"))
    page.wait_for_function(READY, timeout=60_000)
    page.evaluate(KERNEL_READY)


def cells(page) -> list[dict]:
    """The cells of the notebook in view, as nbformat stores them."""
    return page.evaluate(CELLS)


def run_all(page):
    """Run the notebook in view from top to bottom; raises AssertionError with the first error, or a cell not run."""
    page.evaluate(RUN_ALL)
    for cell in cells(page):
        if cell["cell_type"] != "code" or not "".join(cell["source"]).strip():
            continue
        errors = [output for output in cell["outputs"] if output["output_type"] == "error"]
        assert not errors, f"cell {cell['id']}: {errors[0]['ename']}: {errors[0]['evalue']}"
        assert cell["execution_count"], f"cell {cell['id']} was not run"


def shut_down_kernel(page):
    """Stop the kernel of the notebook in view: each holds a torch of its own in memory."""
    with contextlib.suppress(Exception):  # a page that never showed a notebook has none
        page.evaluate(SHUT_DOWN)


def open_panel(page, server, source):
    """Run `source`, a cell that ends with a panel, in a notebook of its own; gives the panel on the page."""
    save_notebook(server.notebooks / "panel.ipynb", [source])
    open_notebook(page, server, "panel")
    run_all(page)
    panel = page.locator(".course-panel")
    panel.wait_for()
    return panel


def save_notebook(path, sources):
    """Write a small notebook with one code cell for each source, not run; for tests of the harness itself."""
    made = [{"cell_type": "code", "id": f"cell-{n}", "metadata": {}, "source": source, "outputs": [], "execution_count": None}
            for n, source in enumerate(sources)]  # fmt: skip
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    Path(path).write_text(json.dumps({"cells": made, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
