"""`python -m course lab` opens JupyterLab on the course; `python -m course test` runs every test.

`start.py` sets the environment up and then calls one of the two, so both ways in do the same thing.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FIRST_NOTEBOOK = "notebooks/00_start_here.ipynb"
MOST_WORKERS = 4  # each holds torch, a browser or a kernel: about 1.5 GB
NO_TESTS = 5  # pytest's exit code when a selection such as `-k ulp` leaves nothing to run


def add_arguments(parser):
    """Everything after the command goes on to JupyterLab or to pytest as it stands."""
    parser.prefix_chars = "\0"  # `-k ulp` is no option of ours; nargs=REMAINDER alone refuses it in first place
    parser.add_argument("rest", nargs="*", help="passed on to JupyterLab (lab) or pytest (test)")


def run(args) -> int:
    """Do what the command line asks and return its exit code."""
    return {"lab": open_lab, "test": run_tests}[args.command](args.rest)


def lab_command(root=ROOT, notebook=FIRST_NOTEBOOK, extra=()) -> list[str]:
    """The command that starts JupyterLab on `root`, on this machine only, and asks the network for nothing.

    The token is the one Jupyter draws for each start; Jupyter moves on from a busy port 8888 to a free one.

    >>> [flag for flag in lab_command() if "--ip" in flag or "news" in flag]
    ['--ip=127.0.0.1', '--LabApp.news_url=None']
    """
    as_root = hasattr(os, "geteuid") and os.geteuid() == 0  # containers and Colab; Jupyter refuses root otherwise
    return [
        sys.executable, "-m", "jupyterlab", str(Path(root) / notebook),
        f"--ServerApp.root_dir={root}", "--ip=127.0.0.1",
        "--LabApp.news_url=None", "--LabApp.extension_manager=readonly",
        "--LabApp.check_for_updates_class=jupyterlab.handlers.announcements.NeverCheckForUpdate",
        *(["--allow-root"] if as_root else []), *extra,
    ]  # fmt: skip


def lab_environment() -> dict[str, str]:
    """The environment for `lab_command`: this one, and settings that keep JupyterLab from asking about its news.

    They are defaults, found beside this file in `labconfig/`: what a user has set still wins. In JupyterLab's
    terminals `python` is the Python that JupyterLab runs on, the one that has the course.
    """
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    paths = [os.environ.get("JUPYTER_CONFIG_PATH"), str(Path(__file__).parent)]
    return os.environ | {"JUPYTER_CONFIG_PATH": os.pathsep.join(filter(None, paths)), "PATH": programs}


def open_lab(extra) -> int:
    """Open JupyterLab and wait until it is closed."""
    if not (ROOT / FIRST_NOTEBOOK).exists():
        print(f"{FIRST_NOTEBOOK} is not in {ROOT}: get the whole repository, then start again.", file=sys.stderr)
        return 1
    return _become(lab_command(extra=extra), lab_environment())


def run_tests(extra) -> int:
    """Run the whole suite, then every notebook again with the processor's vector features switched off.

    What was measured may differ between the two, what is exact may not: the second pass finds a stored
    output that is true on one processor only.
    """
    pytest = [sys.executable, "-m", "pytest", *([] if extra else side_by_side(_cores()))]
    env = os.environ | ({} if extra else {"OMP_NUM_THREADS": "1"})  # side by side, each worker has one core
    first = _call([*pytest, *extra], env)
    named = [arg for arg in extra if not arg.startswith("-") and (ROOT / arg.split("::")[0]).exists()]
    notebooks = [path for path in named if ".ipynb" in path or path.rstrip("/") == "notebooks"]
    if first not in (0, NO_TESTS) or (named and not notebooks):
        return first
    print("\nThe notebooks again, without the processor's vector features:", flush=True)
    options = [arg for arg in extra if arg not in named]
    second = _call([*pytest, *options, *(notebooks or ["notebooks"])], env | without_vector_features())
    return first if second == NO_TESTS else second


def side_by_side(cores) -> list[str]:
    """The options that spread the test files over the cores, the longest first; none where there is one core.

    A file stays whole: its notebook's kernel or its browser serves all of its tests.

    >>> side_by_side(2)
    ['--numprocesses=2', '--dist=loadfile', '--no-loadscope-reorder']
    """
    workers = min(cores, MOST_WORKERS)
    return [f"--numprocesses={workers}", "--dist=loadfile", "--no-loadscope-reorder"] if workers > 1 else []


def _cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def without_vector_features() -> dict[str, str]:
    """The environment in which torch, oneDNN, MKL, numpy and numba use the processor's oldest instructions only.

    >>> without_vector_features()["ATEN_CPU_CAPABILITY"]
    'default'
    """
    from numpy._core import _multiarray_umath as numpy_core  # numpy warns about a feature that is not there to disable

    found = [name for name in numpy_core.__cpu_dispatch__ if numpy_core.__cpu_features__.get(name)]
    return {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "NPY_DISABLE_CPU_FEATURES": " ".join(found),
        "NUMBA_CPU_NAME": "generic",
    }


def _become(command, env) -> int:
    """Run a command in this one's place, so that whoever stops this process stops it; Windows can only wait for it."""
    if os.name != "posix":
        return _call(command, env)
    os.chdir(ROOT)
    os.execve(command[0], command, env)


def _call(command, env=None) -> int:
    """Run a command in the repository and return its exit code; Ctrl-C goes to it, and it ends by itself."""
    process = subprocess.Popen(command, cwd=ROOT, env=env)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # JupyterLab asks once more before it stops: go on waiting
            continue
