"""Checkpoints: whatever happens to the newest slot, the one before is found, and said so."""

import errno
import os

import pytest
import torch

from course.training import RunError, checkpoint, files
from course.training.checkpoint import Checkpoints


def state(done):
    return {"done": done, "weights": torch.full((50,), float(done)), "losses": [0.1, 0.2], "name": None}


@pytest.fixture
def kept(tmp_path):
    made = Checkpoints(tmp_path)
    for done in (10, 20, 30):
        made.save(state(done))
    return made


def newest(kept):
    return max(kept.paths, key=lambda path: checkpoint.read(path)["done"])


def test_the_two_last_ones_are_kept(kept):
    assert sorted(checkpoint.read(path)["done"] for path in kept.paths) == [20, 30]
    found, notes = Checkpoints(kept.paths[0].parent).latest()
    assert found["done"] == 30 and notes == [] and torch.equal(found["weights"], torch.full((50,), 30.0))
    assert found["losses"] == [0.1, 0.2] and found["name"] is None


@pytest.mark.parametrize("damage", ["truncated", "emptied", "one bit", "header", "other file", "a folder"])
def test_a_damaged_latest_one_falls_back(kept, damage):
    path = newest(kept)
    data = path.read_bytes()
    middle = len(data) // 2
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    else:
        path.write_bytes(
            {
                "truncated": data[:-100],
                "emptied": b"",
                "one bit": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
                "header": data.replace(b"checkpoint 1", b"checkpoint 2", 1),
                "other file": b"something else entirely",
            }[damage]
        )
    found, notes = Checkpoints(path.parent).latest()
    assert found["done"] == 20
    assert len(notes) == 1 and path.name in notes[0] and notes[0].endswith("it is passed over")


def test_the_damaged_slot_is_the_one_written_next(kept):
    path = newest(kept)
    path.write_bytes(path.read_bytes()[:-1])
    again = Checkpoints(path.parent)
    again.latest()
    again.save(state(25))
    assert sorted(checkpoint.read(p)["done"] for p in kept.paths) == [20, 25]
    assert again.latest()[1] == []


def test_both_damaged(kept):
    for path in kept.paths:
        path.write_bytes(b"")
    found, notes = kept.latest()
    assert found is None and len(notes) == 2
    with pytest.raises(RunError, match="is not a checkpoint of this course"):
        checkpoint.read(kept.paths[0])


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_keeps_the_last_good_one(kept, monkeypatch, call):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    for _ in range(3):
        with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
            patched.setattr(files.os, call, full)
            kept.save(state(40))
    assert Checkpoints(kept.paths[0].parent).latest()[0]["done"] == 30
    assert sorted(os.listdir(kept.paths[0].parent)) == sorted(checkpoint.SLOTS)  # nothing half-written lies about
    kept.save(state(40))
    assert sorted(checkpoint.read(path)["done"] for path in kept.paths) == [30, 40]


def test_what_a_kill_leaves_is_cleaned_away(kept):
    folder = kept.paths[0].parent
    (folder / f".{checkpoint.SLOTS[0]}.x1y2").write_bytes(b"half")
    (folder / "notes.txt").write_text("mine")
    assert kept.latest()[0]["done"] == 30
    assert sorted(os.listdir(folder)) == sorted([*checkpoint.SLOTS, "notes.txt"])
    kept.delete()
    assert os.listdir(folder) == ["notes.txt"] and not kept.exist()
    assert kept.latest() == (None, [])


def test_a_checkpoint_runs_no_code(tmp_path):
    """It is read as data alone: a file that carries a call is refused."""

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    kept = Checkpoints(tmp_path)
    kept.save({"done": 1, "evil": Evil()})
    with pytest.raises(Exception, match="[Uu]nsupported|weights_only|Weights only"):
        checkpoint.read(kept.paths[0])
    assert not (tmp_path / "ran").exists()
