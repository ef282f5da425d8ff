"""Sharded checkpoints and what is said of processes, in a world of one: a kill at any moment, damage, a full disk."""

import errno
import os
import signal
import sys

import pytest
import torch
from torch.distributed.tensor import DTensor

from course.__main__ import main
from course.training import RunError, corpus, hardware, models, processes, sharded, shards
from course.training import recipes as all_recipes
from course.training.processes import Alone, Group, world
from tests.training import several


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return several.text_in(tmp_path_factory.mktemp("text"))


INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


@pytest.fixture
def solo(monkeypatch):
    """What torchrun tells a process that is all of its world: sharded code in this very process."""
    alone = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 0}
    for name, value in alone.items():
        monkeypatch.setenv(name, str(value))
    for name in INTERFACES:
        monkeypatch.delenv(name, raising=False)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for name in INTERFACES:
        os.environ.pop(name, None)
    for number, handler in handlers.items():  # after an error they are ignored to the end
        signal.signal(number, handler)


def test_one_sharded_process_computes_the_bits_of_a_plain_one(solo, text):
    """Where FSDP2 casts nothing it changes nothing; where it does, it gathers other numbers than autocast casts."""
    with world() as here:
        sharded_losses = several.losses_over_seeds(here, several.names_here(), text)
    plain = several.losses_over_seeds(Alone(), several.names_here(), text)
    for name in several.names_here():
        casts = all_recipes.plan(name, hardware.probe().cpu).autocast is not None
        assert (sharded_losses[name] == plain[name]) is not casts, name


@pytest.fixture
def saved(solo, text, tmp_path):
    """Inside a world of one: (its checkpoints in `tmp_path` with steps 1 and 2 saved, the comparison at step 2)."""
    with world() as here:
        comparison = several.made(here, ["fp32"], text, several.Settings(100, 6), hardware.probe().cpu)
        kept = here.checkpoints(tmp_path)
        for _ in range(2):
            comparison.step()
            kept.save(state_of(comparison))
        yield kept, comparison


def state_of(comparison):
    return {"arguments": {"device": "cpu"}, **comparison.state()}


def weights(comparison):
    return [p.full_tensor().tolist() for p in comparison.runs[0].model.parameters()]


def going_on(kept, comparison):
    """(the step and the weights to which the newest checkpoint leads, the notes)."""
    state, notes = kept.latest()
    comparison.load(state)
    return state["done"], weights(comparison), notes


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", ["before the shards", "after the shards", "before the name", "after the name"])
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(saved, monkeypatch, tmp_path, moment):
    kept, comparison = saved
    before = weights(comparison)
    comparison.step()

    def killed(*args, **options):
        raise Killed

    where = {"before the shards": (shards.dcp, "save"), "after the shards": (shards, "write"),
             "before the name": (shards.os, "replace")}  # fmt: skip
    with monkeypatch.context() as patched, pytest.raises(Killed):
        after = weights(comparison)
        if moment == "after the name":  # the checkpoint before the last one is half deleted
            real = shards.shutil.rmtree
            patched.setattr(shards.shutil, "rmtree", lambda path, *args, **options:
                            killed() if path.name.startswith(".removed") and path.exists() else real(path, *args, **options))
        else:
            patched.setattr(*where[moment], killed)
        kept.save(state_of(comparison))
    done, found, notes = going_on(kept, comparison)
    named = moment == "after the name"
    assert (done, found) == ((3, after) if named else (2, before))
    assert notes == ([] if named else ["checkpoint-00000003 was still being written when the run ended: it is passed over"])
    kept.save(state_of(comparison) | {"done": 4})
    assert [path.name for path in sorted(tmp_path.iterdir())] == [f"checkpoint-{n:08d}" for n in (3 if named else 2, 4)]


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp", "state.pt"])
@pytest.mark.parametrize("harm", ["shorter", "altered", "gone"])
def test_a_damaged_checkpoint_is_named_and_passed_over(saved, tmp_path, name, harm):
    kept, comparison = saved
    path = tmp_path / "checkpoint-00000002" / name
    content = path.read_bytes()
    path.unlink()
    if harm != "gone":
        middle = len(content) // 2
        path.write_bytes(content[:middle] if harm == "shorter" else
                         content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])  # fmt: skip
    done, _, notes = going_on(kept, comparison)
    assert done == 1 and len(notes) == 1 and notes[0].startswith("checkpoint-00000002: ")
    assert name in notes[0] and "passed over" in notes[0]


def test_the_step_that_was_damaged_can_be_saved_again(saved, tmp_path):
    kept, comparison = saved
    (tmp_path / "checkpoint-00000002" / "state.pt").write_bytes(b"")
    state, _ = kept.latest()
    comparison.load(state)
    comparison.step()
    expected = weights(comparison)
    kept.save(state_of(comparison))
    assert going_on(kept, comparison) == (2, expected, [])


def test_a_full_disk_is_the_systems_own_error(saved, monkeypatch):
    kept, comparison = saved

    def full(*args, **options):
        raise shards.CheckpointException("write", {0: (OSError(errno.ENOSPC, "No space left on device"), None)})

    monkeypatch.setattr(shards.dcp, "save", full)
    with pytest.raises(OSError, match="No space left") as raised:
        kept.save(state_of(comparison))
    assert raised.value.errno == errno.ENOSPC


def test_no_checkpoint_is_whole(saved, tmp_path):
    for path in tmp_path.glob("*/state.pt"):
        path.write_bytes(b"")
    state, notes = saved[0].latest()
    assert state is None and len(notes) == 2


def test_a_single_process_is_told_too(solo, monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("RANK")
    (tmp_path / "checkpoint-00000002").mkdir()
    assert main(["train", "--out", str(tmp_path)]) == 1
    assert "holds an unfinished run: add --resume to go on, or --fresh to start anew" in capsys.readouterr().err
    assert main(["train", "--resume", "--out", str(tmp_path)]) == 1
    words = capsys.readouterr().err
    assert "checkpoint-00000002: state.pt cannot be read" in words and "add --fresh instead of --resume" in words


def test_what_was_never_finished_is_no_loss(solo, tmp_path):
    (tmp_path / ".checkpoint-00000000").mkdir()
    with world() as here:
        assert here.checkpoints(tmp_path).latest() == (None, [])


def test_on_one_machine_nothing_leaves_it(solo):
    with world():
        assert {os.environ[name] for name in INTERFACES} <= {"lo", "lo0"}


def test_an_orphan_wishes_to_stop(solo):
    with world() as here:
        assert here.most(0) == (0.0,) and not here.wishes
        here._parent = -1  # torchrun was killed: another process has adopted this one
        here.most(0)
        assert here.wishes


def group(rank, size, store):
    found = Group({"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size})
    found._store = store
    return found


def test_the_verdict_names_who_has_gone_and_who_has_stopped(monkeypatch):
    monkeypatch.setattr(processes, "ROLL_CALL", 0.3)
    monkeypatch.setattr(sys, "argv", ["course", "train", "--fresh", "--out", "my run"])
    store = torch.distributed.HashStore()
    first, fourth = group(0, 4, store), group(3, 4, store)
    store.set("ended/1", "MemoryError 8 GiB")
    store.set("here/3", "")
    speaks, words = first._whom_we_lost()
    assert speaks and "process 1 of 4 has stopped (MemoryError 8 GiB); process 2 of 4 has gone" in words
    assert words.endswith("torchrun --nproc-per-node 4 -m course train --out 'my run' --resume")
    assert fourth._whom_we_lost() == (False, words)


def test_who_hears_the_verdict_of_another_is_silent(solo, capsys):
    """Even the first process; nobody else has to be asked."""
    found = group(0, 3, torch.distributed.HashStore())
    Alone.__enter__(found)
    found._store.set("verdict", "process 2 of 3 has gone")
    with pytest.raises(RunError, match="process 2 of 3 has gone"):
        found.__exit__(RuntimeError, RuntimeError("[gloo/pair.cc:547] Connection closed by peer"), None)
    print("what the command says of the error")
    found._quiet.close()
    assert capsys.readouterr().out == ""


def test_an_error_of_one_process_is_said_by_it_and_one_of_all_by_the_first(monkeypatch):
    monkeypatch.setattr(processes, "ROLL_CALL", 0.3)
    store = torch.distributed.HashStore()
    first, second, third = (group(rank, 3, store) for rank in range(3))
    assert second._speaks(RunError("no such device"), None)  # the first is still at work
    assert first._speaks(RunError("too wide"), None)
    assert not third._speaks(RunError("too wide"), None) and second._speaks(RunError("no such device"), None)


@pytest.mark.parametrize(
    ("name", "gathered"),
    [("fp32", None), ("tf32", None), ("bf16", torch.bfloat16), ("fp16", torch.float16), ("pure-bf16", None)],
)
def test_what_is_gathered_and_what_is_summed(name, gathered):
    policy = sharded.sharded_plan(all_recipes.Plan(all_recipes.RECIPES[name], "cuda", "native")).policy
    assert (policy.param_dtype, policy.reduce_dtype) == (gathered, torch.float32)


def test_emulated_recipes_round_products_or_are_refused():
    emulated = sharded.sharded_plan(all_recipes.Plan(all_recipes.RECIPES["fp16"], "cpu", "emulated"))
    assert emulated.policy.param_dtype is None
    with emulated.step():
        assert torch.tensor([70000.0]).matmul(torch.ones(1)).isinf()  # no number of FP16
    with pytest.raises(RunError, match="emulated weights cannot be sharded: use --precision bf16 here"):
        sharded.sharded_plan(all_recipes.Plan(all_recipes.RECIPES["pure-bf16"], "cpu", "emulated"))


def test_weights_are_gathered_in_bf16_and_kept_in_fp32(solo, text):
    plan = all_recipes.Plan(all_recipes.RECIPES["bf16"], "cpu", "native")  # a slow way where it is not native, but a way
    with world() as here:
        config, settings = models.GPTConfig(width=32, layers=1, context=16), several.Settings(100, 6)
        comparison = here.comparison([plan], config, settings, corpus.load(text))
        run, seen = comparison.runs[0], []
        run.model.blocks[0].attention.register_forward_pre_hook(
            lambda module, inputs: seen.append((module.qkv.weight.dtype, inputs[0].dtype))
        )
        run.backward(run.forward(*comparison.batch(0)))
        assert seen == [(torch.bfloat16, torch.bfloat16)]
        assert all(p.dtype == p.grad.dtype == torch.float32 for p in run.model.parameters())
        comparison.validate()
        assert all(isinstance(p, DTensor) for p in run.model.parameters())  # whoever counts moved weights sees the shards


def test_what_cannot_be_done_by_several_processes_is_refused():
    sharded.check(8, False, 4)
    with pytest.raises(RunError, match="--batch 1 does not divide by 2 processes: use --batch 2$"):
        sharded.check(1, False, 2)
    with pytest.raises(RunError, match="--compile is for one process"):
        sharded.check(8, True, 2)
