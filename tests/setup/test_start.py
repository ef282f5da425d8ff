"""start.py: what it skips, what it recovers from, and the one sentence it says when it cannot go on."""

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
import time

import pytest

from course.teaching.build import ROOT

FAKE_PIP = """\
import os, sys, pathlib
pathlib.Path(os.environ["CALLS"]).open("a").write(" ".join(sys.argv[1:]) + "\\n")
if sys.argv[1] == "install":
    sys.stderr.write(os.environ.get("PIP_SAYS", ""))
    sys.exit(int(bool(os.environ.get("PIP_SAYS"))))
"""
FAKE_COURSE = "import sys; print('the course runs:', *sys.argv[1:])"
OLD_PYTHONS = [path for name in ("3.8", "3.9", "3.10") if (path := shutil.which(f"python{name}"))]


@pytest.fixture
def start(monkeypatch):
    """The module itself, for its parts."""
    spec = importlib.util.spec_from_file_location("start", ROOT / "start.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def clone(tmp_path):
    """A clone whose `.venv` is real but has a pip of ours, so that nothing is downloaded and pip can fail at will."""
    folder = tmp_path / "clone"
    folder.mkdir()
    for name in ("start.py", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    (folder / "course").mkdir()
    (folder / "course" / "__main__.py").write_text(FAKE_COURSE)
    return folder


def fill(clone):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", clone / ".venv"], check=True)
    packages = next((clone / ".venv").glob("lib/*/site-packages"), clone / ".venv" / "Lib" / "site-packages")
    (packages / "pip").mkdir()
    (packages / "pip" / "__main__.py").write_text(FAKE_PIP)
    return packages


def run(clone, *arguments, python=sys._base_executable, **env):
    """Run start.py outside any environment; returns exit code, stdout and stderr."""
    chosen = {"VIRTUAL_ENV", "CONDA_PREFIX", "COLAB_RELEASE_TAG", "PYTHONPATH"}
    env = {key: value for key, value in os.environ.items() if key not in chosen} | {"CALLS": str(clone / "calls")} | env
    done = subprocess.run([python, "start.py", *arguments], cwd=clone, env=env, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr.strip()


def calls(clone):
    path = clone / "calls"
    return [line for line in path.read_text().splitlines() if line.startswith("install")] if path.exists() else []


def test_the_second_start_skips_the_set_up(clone):
    fill(clone)
    code, out, _ = run(clone, "test", "-k", "ulp")
    assert code == 0 and out.endswith("the course runs: test -k ulp\n") and len(calls(clone)) == 1
    assert calls(clone)[0].endswith("-c constraints.txt -e .[test]")
    before = time.perf_counter()
    assert run(clone)[1] == "the course runs: lab\n"
    assert time.perf_counter() - before < 2
    assert len(calls(clone)) == 1


@pytest.mark.parametrize("file", ["pyproject.toml", "constraints.txt", ".venv/pyvenv.cfg"])
def test_a_change_of_what_is_needed_sets_up_again(clone, file):
    fill(clone)
    run(clone)
    with open(clone / file, "a") as text:
        text.write("\n# changed\n")
    run(clone)
    assert len(calls(clone)) == 2


def test_an_interrupted_install_goes_on_and_mends_what_was_cut_short(clone):
    packages = fill(clone)
    for name, files in {"whole-1.dist-info": ["METADATA", "RECORD"], "half-1.dist-info": ["METADATA"]}.items():
        (packages / name).mkdir()
        for file in files:
            (packages / name / file).touch()
    code, _, _ = run(clone, PIP_SAYS="ERROR: Operation cancelled by user")
    assert code == 1 and not (clone / ".venv" / "course-set-up").exists()
    assert (packages / "whole-1.dist-info").exists() and not (packages / "half-1.dist-info").exists()
    assert run(clone)[0] == 0 and len(calls(clone)) == 2


def test_a_half_made_venv_is_made_again(clone):
    (clone / ".venv" / "bin").mkdir(parents=True)
    (clone / ".venv" / "bin" / "python").symlink_to(clone / "gone")
    code, _, err = run(clone, PIP_INDEX_URL="https://127.0.0.1:9/", PIP_RETRIES="0", PIP_CONFIG_FILE=os.devnull,
                       PIP_EXTRA_INDEX_URL="", PIP_FIND_LINKS="")  # fmt: skip
    assert (clone / ".venv" / "pyvenv.cfg").exists()
    assert code == 1 and err.startswith("The package index could not be reached"), err  # a real pip, and no network


SAYINGS = {
    "OSError: [Errno 28] No space left on device": "The disk is full",
    "ERROR: Could not install packages due to an OSError: [Errno 13] Permission denied: '/x'": "cannot be written to",
    "WARNING: Retrying after connection broken by 'NewConnectionError(...: Failed to establish a new connection: "
    "[Errno 101] Network is unreachable')'\nERROR: No matching distribution found for torch": "could not be reached",
    "pip._vendor.urllib3.exceptions.ReadTimeoutError: HTTPSConnectionPool": "could not be reached",
    "ERROR: No matching distribution found for torch==2.13.0": "no build for Python",
    "ERROR: something new\n": "ERROR: something new",
}


@pytest.mark.parametrize("says", SAYINGS)
def test_a_failure_of_pip_is_one_sentence_that_says_what_to_do(clone, says):
    fill(clone)
    code, _, err = run(clone, PIP_SAYS=says)
    assert code == 1 and SAYINGS[says] in err and "start again" in err
    assert len(err.splitlines()) == 1 or "something new" in says  # what nobody foresaw is shown in full


def test_no_venv_module(clone):
    (clone / "ensurepip.py").write_text("")  # stands for a Python whose distribution left it out
    hide = "import importlib.util, runpy, sys; found = importlib.util.find_spec; " \
           "importlib.util.find_spec = lambda name: None if name == 'ensurepip' else found(name); " \
           "sys.argv = ['start.py']; runpy.run_path('start.py', run_name='__main__')"  # fmt: skip
    done = subprocess.run([sys._base_executable, "-c", hide], cwd=clone, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "has no venv module" in done.stderr and "apt install python3." in done.stderr
    assert not (clone / ".venv").exists()


def test_a_folder_that_cannot_be_written_to(start):
    assert "cannot be written to" in start.translate("Error: [Errno 30] Read-only file system: '/course/.venv'")


@pytest.mark.skipif(not OLD_PYTHONS, reason="no Python older than 3.11 here")
@pytest.mark.parametrize("python", OLD_PYTHONS)
def test_python_too_old(clone, python):
    if subprocess.run([python, "-c", ""], capture_output=True).returncode:
        pytest.skip(f"{python} does not start")
    code, _, err = run(clone, python=python)
    assert code == 1 and err.startswith("Python 3.11 or newer is needed, this is 3.") and len(err.splitlines()) == 1
    assert not (clone / ".venv").exists()


def test_python_too_old_is_said_whatever_pythons_are_here(start, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 9, "final", 0))
    with pytest.raises(SystemExit, match="Python 3.11 or newer is needed"):
        start.main([])


def test_an_environment_that_has_it_all_is_used(clone):
    code, out, _ = run(clone, "test", python=sys.executable)
    assert (code, out) == (0, "the course runs: test\n")
    assert not (clone / ".venv").exists()


def test_an_environment_that_lacks_something_is_left_alone(clone, start, monkeypatch):
    assert not start.missing("test")
    text = (clone / "pyproject.toml").read_text().replace('"tqdm>=4.66"', '"tqdm>=999", "no-such-package"')
    (clone / "pyproject.toml").write_text(text)
    monkeypatch.setattr(start, "ROOT", clone)
    assert start.missing("lab") == ["tqdm>=999", "no-such-package"]


def test_the_tests_own_packages_are_needed_for_tests_only(clone, start, monkeypatch):
    text = (clone / "pyproject.toml").read_text().replace('"pytest>=8.3"', '"pytest>=999"')
    (clone / "pyproject.toml").write_text(text)
    monkeypatch.setattr(start, "ROOT", clone)
    assert start.missing("lab") == [] and start.missing("test") == ["pytest>=999"]


def test_a_large_download_is_announced_and_a_matching_torch_is_kept(clone, start, monkeypatch, capsys):
    monkeypatch.setattr(start.platform, "system", lambda: "Linux")
    monkeypatch.setattr(start, "torch_of", lambda python: None)
    start.say_what_comes("python")
    out = capsys.readouterr().out
    assert "CUDA build: several GB" in out and f"pip install {start.pinned_torch()} --index-url" in out
    monkeypatch.setattr(start, "torch_of", lambda python: start.pinned_torch())
    start.say_what_comes("python")
    assert "is kept" in capsys.readouterr().out
    monkeypatch.undo()
    assert start.torch_of(sys.executable) == start.pinned_torch()


def test_it_stays_readable():
    source = (ROOT / "start.py").read_text()
    assert len(source.splitlines()) < 150
    imported = {line.split()[1].split(".")[0] for line in source.splitlines() if line.startswith(("import ", "from "))}
    assert imported <= set(sys.stdlib_module_names)
    ast.parse(source, feature_version=(3, 7))  # an old Python must get as far as saying that it is too old
