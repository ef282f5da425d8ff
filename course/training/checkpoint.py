"""Checkpoints that survive a kill, a full disk and a damaged file: two slots, written in turn, each with its checksum.

A save never touches the newest good slot: it replaces the other one, in one step. So at every moment one complete
checkpoint is on the disk, and a damaged latest one falls back to the one before.
"""

import hashlib
import io
from pathlib import Path

import torch

from course.training import RunError
from course.training.files import write_atomically

SLOTS = ("checkpoint-a.pt", "checkpoint-b.pt")
_MAGIC = b"course checkpoint 1 "


class Checkpoints:
    """The two slots of a run in `folder`. Nothing is read or written before the first call.

    >>> import tempfile
    >>> kept = Checkpoints(tempfile.mkdtemp())
    >>> kept.save({"done": 7})
    >>> kept.latest()
    ({'done': 7}, [])
    """

    def __init__(self, folder):
        self.paths = [Path(folder) / name for name in SLOTS]
        self._newest = None  # the slot that must not be overwritten next

    def save(self, state):
        """Write `state` (with its number of steps in "done") to the older slot; raises `OSError` as the system does."""
        slot = self.paths[1] if self._newest == self.paths[0] else self.paths[0]
        write(slot, state)
        self._newest = slot

    def latest(self) -> tuple:
        """(the state furthest on among the good slots, or None; one sentence for each damaged slot)."""
        for path in self._unfinished():
            path.unlink()
        best, notes = None, []
        for path in self.paths:
            if not path.exists():
                continue
            try:
                state = read(path)
            except RunError as error:
                notes.append(str(error))
                continue
            if best is None or state["done"] > best["done"]:
                best, self._newest = state, path
        return best, notes

    def exist(self) -> bool:
        return any(path.exists() for path in self.paths)

    def delete(self):
        for path in [*self.paths, *self._unfinished()]:
            path.unlink(missing_ok=True)
        self._newest = None

    def _unfinished(self):
        """What a kill in the middle of a save leaves behind."""
        return [found for path in self.paths for found in path.parent.glob(f".{path.name}.*")]


def write(path, state):
    """Write `state` with its checksum to `path`, in one step; raises `OSError` as the system does."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    write_atomically(path, _MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload)


def read(path) -> dict:
    """Read one slot; raises `RunError` when it is truncated, altered or not a checkpoint at all."""
    try:
        header, _, payload = Path(path).read_bytes().partition(b"\n")
    except OSError as error:
        raise RunError(f"{path.name} cannot be read ({error.strerror}): it is passed over") from error
    if not header.startswith(_MAGIC):
        raise RunError(f"{path.name} is not a checkpoint of this course: it is passed over")
    if hashlib.sha256(payload).hexdigest().encode() != header.removeprefix(_MAGIC):
        raise RunError(f"{path.name} is damaged (its checksum does not match): it is passed over")
    return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
