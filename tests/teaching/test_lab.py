"""`course lab` and `course test`: what they start, and how the verdicts of the two passes are joined."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from course.__main__ import main
from course.teaching import lab


@pytest.fixture
def started(monkeypatch):
    """Commands instead of processes; `codes` gives their exit codes in turn."""
    record = SimpleNamespace(calls=[], codes=[])

    def call(command, env=None):
        record.calls.append((command, env))
        return record.codes.pop(0) if record.codes else 0

    monkeypatch.setattr(lab, "_call", call)
    monkeypatch.setattr(lab, "_become", call)
    return record


def test_lab_opens_the_first_notebook_on_this_machine_only(started, monkeypatch, tmp_path):
    monkeypatch.setattr(lab, "ROOT", tmp_path)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / lab.FIRST_NOTEBOOK).write_text("{}")
    assert main(["lab", "--no-browser"]) == 0
    (command, env), = started.calls
    assert "--ip=127.0.0.1" in command and command[-1] == "--no-browser"
    settings = Path(env["JUPYTER_CONFIG_PATH"].split(os.pathsep)[-1])
    assert (settings / "labconfig" / "default_setting_overrides.json").exists()


def test_lab_says_what_is_missing(started, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(lab, "ROOT", tmp_path)
    assert main(["lab"]) == 1 and not started.calls
    assert "notebooks/00_start_here.ipynb is not in" in capsys.readouterr().err


def test_everything_goes_on_to_pytest_twice(started):
    assert main(["test", "-k", "ulp", "-x"]) == 0
    (first, env), (second, slow) = started.calls
    assert first[1:] == ["-m", "pytest", "-k", "ulp", "-x"] and "ATEN_CPU_CAPABILITY" not in env
    assert second[-4:] == ["-k", "ulp", "-x", "notebooks"] and slow["ATEN_CPU_CAPABILITY"] == "default"


def test_the_whole_suite_takes_all_cores_in_both_passes(started, monkeypatch):
    monkeypatch.setattr(lab, "_cores", lambda: 3)
    main(["test"])
    for command, env in started.calls:
        assert {"--numprocesses=3", "--dist=loadfile"} <= set(command) and env["OMP_NUM_THREADS"] == "1"
    assert lab.side_by_side(1) == [] and lab.side_by_side(64)[0] == "--numprocesses=4"


CODES = [([1], 1), ([0, 0], 0), ([0, 1], 1), ([0, 5], 0), ([5, 5], 5), ([5, 0], 0), ([2], 2)]


@pytest.mark.parametrize(("codes", "verdict"), CODES)
def test_either_pass_can_fail_the_run(started, codes, verdict):
    started.codes += codes
    assert main(["test"]) == verdict
    assert not started.codes


def test_the_second_pass_is_for_notebooks(started):
    main(["test", "tests/notebooks/test_style.py"])
    assert len(started.calls) == 1
    main(["test", "-q", "notebooks"])
    assert started.calls[2][0][-2:] == ["-q", "notebooks"]


def test_vector_features_are_really_off():
    show = "import torch; print(torch.backends.cpu.get_cpu_capability()); import numpy._core._multiarray_umath as m; " \
           "print([n for n in m.__cpu_dispatch__ if m.__cpu_features__[n]])"  # fmt: skip
    env = os.environ | lab.without_vector_features()
    run = subprocess.run([sys.executable, "-c", show], env=env, capture_output=True, text=True, timeout=60)
    assert run.stdout.split("\n")[:2] == ["DEFAULT", "[]"] and run.stderr == ""
