"""Checkpoints of a run in several processes: each writes its shards, and any number of processes can read them.

A checkpoint is a folder, `checkpoint-00000120`: the shards as torch.distributed.checkpoint writes them, and a `state.pt`
in the form of `course.training.checkpoint`, with its own checksum, all that is not sharded, and the checksum of every
other file. It is written under another name and renamed at its end, so it is whole or it is not there. The one before is
kept. Source: PyTorch's page on torch.distributed.checkpoint.
"""

import hashlib
import os
import re
import shutil
import warnings
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.distributed.tensor import zeros as sharded_zeros

from course.training import RunError
from course.training.checkpoint import Checkpoints, read, write

_WHOLE = re.compile(r"checkpoint-(\d{8,})")
_STATE = "state.pt"


def shards_exist(folder) -> bool:
    """Whether `folder` holds sharded checkpoints, or what a kill has left of one."""
    return bool(_found(folder) + _unfinished(folder))


class SingleCheckpoints(Checkpoints):
    """The checkpoints of one process in a folder that holds sharded ones too: it can go on from either.

    Whole tensors are put together from the shards; new checkpoints are `Checkpoints`' own.
    """

    def __init__(self, folder):
        super().__init__(folder)
        self.folder = Path(folder)

    def latest(self):
        state, notes = super().latest()
        found, more = _newest(self.folder)
        if found and (state is None or found[1]["done"] > state["done"]):
            path, state = found
            state = _filled(path, state, lambda hole: torch.zeros(hole.shape, dtype=hole.dtype), no_dist=True)
        return state, notes + more

    def exist(self):
        return super().exist() or bool(_found(self.folder))

    def delete(self):
        super().delete()
        _delete(self.folder)


class ShardedCheckpoints:
    """The checkpoints of the processes of `world` (a `processes.Group`) in `folder`; all of them make each call.

    `latest` reads the plain checkpoints of a single process as well, and shards them.
    """

    def __init__(self, folder, world):
        self.folder, self.world, self.plain = Path(folder), world, Checkpoints(folder)

    def save(self, state):
        """Write `state`: DTensors shard by shard, the rest once. Raises `OSError`, in all processes, as the system does."""
        shards = {}
        rest = map_tensors(state, lambda name, tensor: _taken_out(shards, name, tensor))
        path = self.folder / f"checkpoint-{state['done']:08d}"
        partial = path.with_name(f".{path.name}")
        self.world.lead(lambda: _emptied(partial))
        try:
            dcp.save(shards, checkpoint_id=partial)
        except CheckpointException as error:
            raise _cause(error) from error
        self.world.lead(lambda: _complete(partial, rest, path))

    def latest(self):
        """(the state furthest on, or None; one sentence for each checkpoint that is not whole)."""
        path, notes = self.world.lead(self._choose)
        if path is None:
            return None, notes
        if path == "plain":
            state, _ = self.plain.latest()
            mesh = self.world.mesh(state["arguments"]["device"])
            return map_tensors(state, lambda name, tensor: _my_part(tensor, mesh)), notes
        state = read(path / _STATE)
        mesh = self.world.mesh(state["arguments"]["device"])
        return _filled(path, state, lambda hole: _empty(hole, mesh)), notes

    def exist(self):
        return self.world.lead(lambda: self.plain.exist() or bool(_found(self.folder)))

    def delete(self):
        self.world.lead(lambda: (self.plain.delete(), _delete(self.folder)))

    def _choose(self):
        state, notes = self.plain.latest()
        found, more = _newest(self.folder)
        if found and (state is None or found[1]["done"] > state["done"]):
            return found[0], notes + more
        return state and "plain", notes + more


def _my_part(tensor, mesh):
    """A whole weight or moment as FSDP2 shards it, by rows; a step count, or where dice stand, is no such tensor."""
    if tensor.dim() == 0 or not tensor.is_floating_point():
        return tensor
    return distribute_tensor(tensor.to(mesh.device_type), mesh, [Shard(0)], src_data_rank=None)


def _empty(hole, mesh):
    return sharded_zeros(*hole.shape, dtype=hole.dtype, device_mesh=mesh, placements=[Shard(0)])


def map_tensors(value, change, name=""):
    """A copy of nested dicts, lists and tuples in which each tensor is `change(its path, itself)`.

    >>> map_tensors({"a": [1, torch.ones(2)]}, lambda name, tensor: (name, tensor.sum().item()))
    {'a': [1, ('.a.1', 2.0)]}
    """
    if isinstance(value, torch.Tensor):
        return change(name, value)
    if isinstance(value, dict):
        return {key: map_tensors(item, change, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(item, change, f"{name}.{i}") for i, item in enumerate(value))
    return value


def _taken_out(shards, name, tensor):
    """Of a sharded tensor only its shape and dtype remain, as a tensor without data: a hole."""
    if not isinstance(tensor, DTensor):
        return tensor
    shards[name] = tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def _filled(path, state, empty, **options):
    """`state` with `empty(hole)` in place of each hole, filled from the shards at `path`."""
    shards = {}

    def put(name, tensor):
        return shards.setdefault(name, empty(tensor)) if tensor.is_meta else tensor

    state = map_tensors(state, put)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # just so: one process reads all shards
        dcp.load(shards, checkpoint_id=path, **options)
    state.pop("files")
    return state


def _cause(error):
    """What really happened in the process that failed."""
    causes = [failure[0] for failure in error.failures.values()]
    system = [cause for cause in causes if isinstance(cause, OSError)]
    return system[0] if system else causes[0]


def _emptied(partial):
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)


def _complete(partial, rest, path):
    """Add the state and the checksums, give the folder its name, and delete all but it and the one before."""
    write(partial / _STATE, rest | {"files": _checksums(partial)})
    _remove(path)  # only when a damaged one of the same step was passed over
    os.replace(partial, path)
    for old in _found(path.parent)[:-2]:
        _remove(old)


def _remove(path):
    """Delete a folder; under a hidden name first, so that a kill leaves no half of a checkpoint."""
    if path.exists():
        hidden = path.with_name(f".removed-{path.name}")
        shutil.rmtree(hidden, ignore_errors=True)
        os.replace(path, hidden)
        shutil.rmtree(hidden)


def _checksums(folder):
    files = sorted(path for path in folder.iterdir() if path.name != _STATE)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _found(folder):
    """The folders with the name of a whole checkpoint, the furthest on last."""
    paths = [path for path in Path(folder).glob("checkpoint-*") if path.is_dir() and _WHOLE.fullmatch(path.name)]
    return sorted(paths, key=lambda path: int(path.name.split("-")[1]))


def _unfinished(folder):
    return [path for path in Path(folder).glob(".checkpoint-*") if path.is_dir() and _WHOLE.fullmatch(path.name[1:])]


def _removed(folder):
    return Path(folder).glob(".removed-checkpoint-*")


def _delete(folder):
    for path in [*_unfinished(folder), *_removed(folder)]:
        shutil.rmtree(path)
    for path in _found(folder):
        _remove(path)


def _newest(folder):
    """((path, state without its shards) of the last whole checkpoint, or None; a sentence for each that is not whole)."""
    unfinished, damaged = [], []
    for path in _removed(folder):
        shutil.rmtree(path)
    for path in _unfinished(folder):
        unfinished.append(f"{path.name[1:]} was still being written when the run ended: it is passed over")
        shutil.rmtree(path)
    for path in reversed(_found(folder)):
        try:
            return (path, _verified(path)), unfinished + damaged
        except RunError as error:
            damaged.append(f"{path.name}: {error}")
    return None, damaged  # without any checkpoint, one that was never finished is no loss: the run starts at step 0


def _verified(path):
    """The state of the checkpoint at `path`; raises `RunError` when one of its files is not what was written."""
    state = read(path / _STATE)
    try:
        found = _checksums(path)
    except OSError as error:
        raise RunError(f"a file cannot be read ({error.strerror}): it is passed over") from error
    for name, checksum in state["files"].items():
        if found.get(name) != checksum:
            how = "is damaged" if name in found else "is missing"
            raise RunError(f"{name} {how}: the checkpoint is passed over")
    return state
