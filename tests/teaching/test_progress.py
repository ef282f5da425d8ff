"""Saved progress: survives corruption, a kill in the middle of a write, and a folder that cannot be written."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from course.teaching import progress


@pytest.fixture(autouse=True)
def own_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_PROGRESS_DIR", str(tmp_path / "progress"))


def test_nothing_recorded_is_an_empty_record():
    assert progress.load() == {"version": 1, "predictions": {}, "exercises": {}}
    assert not progress.progress_file().exists()


@pytest.mark.parametrize("garbage", [b"", b"{", b"[]", b"\xff\xfe\x00", b'{"version": 9}', b'{"version": 1, "exercises": 3, "predictions": {}}',
                                     b'{"version": 1, "exercises": {"01-2": 3}, "predictions": {}}', b"[" * 100_000])
def test_a_corrupted_file_is_set_aside_and_the_copy_before_it_used(garbage):
    progress.record("exercises", "01-1", status="right")
    progress.record("exercises", "01-2", status="right")
    path = progress.progress_file()
    path.write_bytes(garbage)
    assert set(progress.load()["exercises"]) == {"01-1"}, "the copy of the write before"
    assert progress.record("exercises", "01-3", status="wrong") == ""
    assert set(progress.load()["exercises"]) == {"01-1", "01-3"}
    assert any("unreadable" in name for name in os.listdir(path.parent))


def test_kinds_that_are_not_there_yet_are_made():
    progress.record("exercises", "01-1", status="right")
    assert progress.record("votes", "weights-store-back", vote="false") == ""
    assert progress.load()["votes"]["weights-store-back"]["vote"] == "false" and set(progress.load()["exercises"]) == {"01-1"}


def test_a_kill_while_writing_loses_nothing():
    progress.record("exercises", "kept", status="right")
    code = "from course.teaching import progress\ni = 0\nwhile True:\n    progress.record('exercises', f'n{i}', status='right'); i += 1"
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", code], env=os.environ)
        deadline = time.time() + 60
        size = len(progress.load()["exercises"])
        while len(progress.load()["exercises"]) < size + 5 and time.time() < deadline:
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
        child.wait()
        record = json.loads(progress.progress_file().read_text())
        assert record["exercises"]["kept"]["status"] == "right" and len(record["exercises"]) >= size + 5


def test_writers_at_the_same_time_lose_nothing():
    code = "import sys; from course.teaching import progress\nfor i in range(30): progress.record('exercises', f'{sys.argv[1]}-{i}', status='right')"
    writers = [subprocess.Popen([sys.executable, "-c", code, name], env=os.environ) for name in "abc"]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert len(progress.load()["exercises"]) == 90


def test_a_lock_left_by_a_crash_is_broken(monkeypatch):
    progress.record("exercises", "01-1", status="right")
    progress.progress_file().with_suffix(".lock").touch()
    monkeypatch.setattr(progress._alone.__wrapped__, "__defaults__", (0.1,))
    assert progress.record("exercises", "01-2", status="right") == "" and len(progress.load()["exercises"]) == 2


def test_a_folder_that_cannot_be_written_is_one_sentence(monkeypatch, tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    monkeypatch.setenv("COURSE_PROGRESS_DIR", str(blocker))
    assert "set COURSE_PROGRESS_DIR" in progress.record("exercises", "01-1", status="right")
    assert progress.load()["exercises"] == {}
