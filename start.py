#!/usr/bin/env python3
"""Set the course up and open it: `python3 start.py`. Run every test: `python3 start.py test`.

The first start makes `.venv` beside this file and installs there what pyproject.toml asks for, in the versions that
constraints.txt pins. Later starts skip that and ask the network for nothing. An activated environment that already
has it all (conda, venv, Colab) is used as it is. Whatever follows `lab` or `test` goes on to JupyterLab or pytest.
"""

import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "course-set-up"  # holds the `fingerprint()` of the last set-up that ended well
INSTALL = ["-e", ".[test]"]  # what environment.yml gives to pip
CPU_TORCH = "{} -m pip install {} --index-url https://download.pytorch.org/whl/cpu"
TOO_OLD = "Python 3.11 or newer is needed, this is {}: install one and start again with it (`python3.11 start.py`)."
NO_VENV = "This Python has no venv module: install it (Debian, Ubuntu: `sudo apt install python{}.{}-venv`), start again."

# What venv or pip say when something fails, and the sentence for it; the first that matches is shown.
TRANSLATIONS = {
    "No space left|Errno 28|not enough space":
        "The disk is full: free at least 3 GB where {root} lies, then start again.",
    "Permission denied|Read-only file system|Access is denied":
        "{root} cannot be written to: move the course to a folder of your own, then start again.",
    r"NewConnection|NameResolution|Timeout|ProxyError|Connection ?(broken|Reset)|unreachable|setuptools\S+ .from":
        "The package index could not be reached: connect (or check the proxy), then start again; it goes on from here.",
    "ResolutionImpossible|No matching distribution|Requires-Python":
        "A pinned package has no build for Python {python} here: start again with Python 3.11, which the tests run on.",
}  # fmt: skip


def main(argv):
    if sys.version_info < (3, 11):
        sys.exit(TOO_OLD.format(platform.python_version()))
    command, *rest = argv if argv[:1] in (["lab"], ["test"]) else ["lab", *argv]
    python = sys.executable if activated() and not missing(command) else set_up()
    arguments, path = [str(python), "-m", "course", command, *rest], [str(ROOT), os.environ.get("PYTHONPATH")]
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, path)))
    if os.name != "posix":  # Windows cannot become another program: wait for it
        sys.exit(subprocess.run(arguments, env=env).returncode)
    os.execve(arguments[0], arguments, env)


def activated():
    """Whether this Python belongs to an environment that the user chose: a venv, conda's, or Colab's."""
    own = sys.prefix == sys.base_prefix and not {"CONDA_PREFIX", "COLAB_RELEASE_TAG"} & set(os.environ)
    return not own and Path(sys.prefix) != VENV


def missing(command):
    """The requirements in pyproject.toml that this Python's packages do not meet; the tests' own too for `test`."""
    import tomllib
    from importlib import metadata

    try:
        from packaging.requirements import Requirement
    except ImportError:  # JupyterLab brings it: where it is missing, so is more
        return ["packaging"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + (project["optional-dependencies"]["test"] if command == "test" else [])
    wanted = [each for each in map(Requirement, wanted) if each.marker is None or each.marker.evaluate()]
    found = {each.name: next(metadata.distributions(name=each.name), None) for each in wanted}
    return [str(each) for each in wanted
            if not found[each.name] or not each.specifier.contains(found[each.name].version, prereleases=True)]  # fmt: skip


def set_up():
    """Make `.venv` and fill it, unless that was done before; returns the path of its Python."""
    python = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if python.exists() and STAMP.exists() and STAMP.read_text() == fingerprint():
        return python
    if not python.exists() or subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode:
        make_venv()  # none yet, or one that was left half made
    for half in VENV.glob("**/site-packages/*.dist-info"):  # pip writes RECORD last: without it, it was cut short
        if not (half / "RECORD").exists():
            shutil.rmtree(half)
    say_what_comes(python)
    step([python, "-m", "pip", "install", "--disable-pip-version-check", "-c", "constraints.txt", *INSTALL])
    STAMP.write_text(fingerprint())  # only now: an interrupted set-up goes on from what pip has already done
    return python


def make_venv():
    """Make an empty `.venv`; it sees this Python's packages if the pinned torch is among them (conda, Colab)."""
    if not all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
        sys.exit(NO_VENV.format(*sys.version_info))
    keep = sys.prefix == sys.base_prefix and torch_of(sys.executable) == pinned_torch()
    step([sys.executable, "-m", "venv", "--clear", *["--system-site-packages"] * keep, VENV])


def say_what_comes(python):
    """Before a large download, say so and name the way around it; a matching torch that is there is kept."""
    if torch_of(python) == pinned_torch():
        print(f"{pinned_torch()} is already there and is kept.")
    elif platform.system() == "Linux":
        print("On Linux, PyPI's torch is a CUDA build: several GB to download. Without an NVIDIA GPU, press Ctrl-C now")
        print("and put the CPU build (200 MB) there first; the next start keeps it:")
        print(f"\n    {CPU_TORCH.format(python, pinned_torch())}\n")
    print("Installing the course; once, for a few minutes ...", flush=True)


def pinned_torch():
    return re.search("^torch==.*$", (ROOT / "constraints.txt").read_text(), re.MULTILINE).group()


def torch_of(python):
    """The torch that a Python has, written as a pin and without the `+cpu` of a build; or None."""
    code = "from importlib.metadata import version; print('torch==' + version('torch').split('+')[0])"
    return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip() or None


def fingerprint():
    """Changes when what must be installed changes, or the Python that it is installed for."""
    files = [ROOT / "pyproject.toml", ROOT / "constraints.txt", VENV / "pyvenv.cfg"]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files if path.exists())).hexdigest()


def step(command):
    """Run a step of the set-up and show its progress; where it fails, stop with one sentence that says what to do."""
    done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, errors="replace")
    if done.returncode:
        sys.exit(translate(done.stderr))


def translate(errors):
    """One sentence for what venv or pip wrote to stderr; where it is nothing well known, that as well."""
    for signs, sentence in TRANSLATIONS.items():
        if re.search(signs, errors):
            return sentence.format(root=ROOT, python=platform.python_version())
    print(errors, file=sys.stderr)
    last = ([line for line in errors.splitlines() if "rror:" in line or "ERROR" in line] or ["no reason given"])[-1]
    return f"Setting up failed ({last.strip()}): start again, or delete {VENV} first. The details are above."


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit("Stopped. The next start goes on from here.")
    except OSError as error:
        sys.exit(translate(str(error)))
