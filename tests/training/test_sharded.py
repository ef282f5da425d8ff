"""`torchrun … -m course train`: the same losses, sharded checkpoints for any number of processes, and what a kill leaves.

Real processes, few launches: `story` kills and interrupts torchrun, `several` lets one launch play many worlds.
"""

import json
import math
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time

import jsonschema
import psutil
import pytest
import torch

from course.__main__ import main
from course.training import RunError, closing, hardware, recipes, records, sharded, train
from course.training.processes import Alone
from course.training.sharded import MARGINS
from tests.training import several

SMALL = "--width 32 --layers 1 --context 16 --batch 6 --threads 1 --device cpu --checkpoint-every 2".split()
STEPS, SINGLE_STOP, PAIR_STOP = 16, 5, 11
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
JOBS = []
LONG = 240  # seconds: a limit for what takes ten on a machine with nothing else to do


NAMES = several.names_here()


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(closing, "gemm_ratios", several.unmeasured)
        yield


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return several.text_in(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def new(text):
    return [*SMALL, "--precision", *NAMES[:-1], "--steps", str(STEPS), "--corpus", str(text)]


def curves(folder):
    """What must not depend on a kill, of each run: losses, validation, skipped steps, scales."""
    record = json.loads((folder / "record.json").read_text())
    return [[run[key] for key in ("losses", "validation", "skipped_steps", "scales")] for run in record["runs"]]


def distances(folder, other):
    """The largest distance between two losses of the same step and recipe, by recipe."""
    both = [json.loads((each / "record.json").read_text())["runs"] for each in (folder, other)]
    return {a["recipe"]["name"]: max(abs(x - y) for x, y in zip(a["losses"], b["losses"], strict=True))
            for a, b in zip(*both, strict=True)}  # fmt: skip


def weight_bytes(folder):
    return json.loads((folder / "record.json").read_text())["runs"][-1]["memory"]["weights"]


def newest(folder):
    """The step of the newest sharded checkpoint, -1 before there is one."""
    return max((int(path.name.split("-")[1]) for path in folder.glob("checkpoint-????????")), default=-1)


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left():
    yield
    while JOBS:
        JOBS.pop().stop()


class Job:
    """torchrun in a session of its own, with all that it prints, and all processes that it ever had."""

    def __init__(self, folder, *words):
        self.folder, self.seen = folder, {}
        JOBS.append(self)
        self.log = open(folder / "log.txt", "w+")
        self.process = subprocess.Popen(
            [*TORCHRUN, *map(str, words)], stdout=self.log, stderr=self.log, env={**os.environ, "TMPDIR": str(folder)}
        )

    def workers(self):
        """{rank: process} of those that are alive now."""
        found = {}
        for child in psutil.Process(self.process.pid).children():
            try:
                found[int(child.environ()["RANK"])] = child
            except (psutil.Error, KeyError):
                continue
        self.seen |= {child.pid: child for child in found.values()}
        return found

    def until(self, condition):
        end = time.monotonic() + LONG
        while not condition():
            assert self.process.poll() is None and time.monotonic() < end, self.printed()
            time.sleep(0.02)

    def end(self):
        """(exit code, seconds until torchrun and all its processes were gone)."""
        begun = time.monotonic()
        code = self.process.wait(LONG)
        _, alive = psutil.wait_procs(list(self.seen.values()), timeout=30)
        assert not alive, self.printed()
        return code, time.monotonic() - begun

    def stop(self):
        """Leave nothing behind, however the test went."""
        if self.process.poll() is None:
            self.workers()
            self.process.kill()
            self.process.wait()
        for child in self.seen.values():
            if child.is_running():
                child.kill()
        self.log.close()

    def printed(self):
        return (self.folder / "log.txt").read_text()


@pytest.fixture(scope="module")
def story(new, tmp_path_factory):
    """Process 1 is killed, and torchrun, as it was told, starts both again once; then process 0 is killed."""
    folder = tmp_path_factory.mktemp("story")
    out = folder / "run"
    job = Job(folder, "--max-restarts", 1, "--nproc-per-node", 2, "-m", "course", "train", *new, "--out", out)
    killed = []
    for rank in (1, 0):
        begun = newest(out)
        job.until(lambda begun=begun: newest(out) > begun and len(job.workers()) == 2)
        time.sleep(random.uniform(0, 0.2))
        job.workers()[rank].send_signal(signal.SIGKILL)
        killed.append(newest(out))
    code, seconds = job.end()
    assert not (out / "record.json").exists(), "the run ended before it was disturbed: give it more steps"
    printed = job.printed()
    command = shlex.split(printed.split("torchrun ")[-1].splitlines()[0])
    return {"folder": out, "code": code, "seconds": seconds, "printed": printed, "killed": killed, "command": command}


@pytest.fixture(scope="module")
def worlds(story, new, text, tmp_path_factory):
    """Everything that one launch of four processes can tell, and the folders of its runs."""
    folder = tmp_path_factory.mktemp("worlds")
    out = {name: folder / name for name in ("odd", "undisturbed", "plain", "single", "endless")}
    shutil.copytree(story["folder"], out["single"])
    with pytest.MonkeyPatch.context() as patch:
        stop_alone(patch, SINGLE_STOP)
        assert main(["train", *new, "--out", str(out["plain"])]) == 130
    plan = {"text": str(text), "names": NAMES, "new": new, "stop": PAIR_STOP, "out": {k: str(v) for k, v in out.items()},
            "advice": story["command"][story["command"].index("train") + 1 :]}  # fmt: skip
    (folder / "plan.json").write_text(json.dumps(plan))
    job = Job(folder, "--nproc-per-node", 3, "-m", "tests.training.several", folder)
    assert main(["train", "--resume", "--out", str(out["single"])]) == 0
    job.until(lambda: newest(out["endless"]) == 0)
    ports = [c.laddr.ip for child in job.workers().values() for c in child.net_connections("inet") if c.status == "LISTEN"]
    (folder / "ports.json").write_text(json.dumps(ports))
    job.process.send_signal(signal.SIGINT)
    job.end()
    return folder


def stop_alone(patch, step):
    """As at Ctrl-C during this step."""
    real = train._Saver.__call__

    def call(saver, comparison):
        if comparison.done == step:
            saver.stop.append(signal.SIGINT)
        real(saver, comparison)

    patch.setattr(train._Saver, "__call__", call)


@pytest.fixture(scope="module")
def alone(new, tmp_path_factory):
    """The same run by one process, undisturbed."""
    out = tmp_path_factory.mktemp("alone") / "run"
    assert main(["train", *new, "--out", str(out)]) == 0
    return out


def answer(worlds, name, rank=0):
    return json.loads((worlds / f"{name}.{rank}.json").read_text())


def test_a_killed_process_ends_the_job_with_its_number_and_the_way_out(story):
    assert story["code"] != 0 and story["seconds"] < 90  # and PATIENCE is far above
    for rank in (0, 1):
        assert story["printed"].count(f"error: process {rank} of 2 has gone: it was killed") == 1, story["printed"]
    assert "RuntimeError" not in story["printed"]  # gloo's own words about closed sockets
    assert story["command"][:5] == ["--nproc-per-node", "2", "-m", "course", "train"] and story["command"][-1] == "--resume"


def test_torchrun_starts_again_from_the_checkpoint(story):
    printed = story["printed"]
    assert printed.count("Going on after step") == 1 and "holds an unfinished run" not in printed
    gone_on = int(printed.split("Going on after step ")[1].split()[0])
    assert 0 <= story["killed"][0] <= gone_on < story["killed"][1]


def test_ctrl_c_is_obeyed_after_a_checkpoint(worlds):
    code, printed = answer(worlds, "endless")
    stopped = newest(worlds / "endless")
    assert code == 130 and f"stopped after step {stopped}; go on with the same command and --resume" in printed
    kept = sorted(path.name for path in (worlds / "endless").iterdir())
    assert stopped > 0 and kept == ["checkpoint-00000000", f"checkpoint-{stopped:08d}"]  # none was due in between
    assert answer(worlds, "endless", 1) == [130, ""]  # one process speaks


def test_the_processes_speak_over_loopback_alone(worlds):
    ports = json.loads((worlds / "ports.json").read_text())
    assert ports and set(ports) == {"127.0.0.1"}


def test_killed_twice_and_resumed_as_advised_it_ends_with_the_same_bits(story, worlds):
    assert answer(worlds, "killed")[0] == 0 and "Going on after step" in answer(worlds, "killed")[1]
    assert curves(story["folder"]) == curves(worlds / "undisturbed")
    assert sorted(path.name for path in story["folder"].iterdir()) == ["curves.png", "record.json"]


def test_what_is_sharded_is_said(worlds, alone):
    code, printed = answer(worlds, "undisturbed")
    assert code == 0 and answer(worlds, "undisturbed", 1) == [0, ""]  # the first process alone speaks
    ours, whole = (json.loads((folder / "record.json").read_text()) for folder in (worlds / "undisturbed", alone))
    jsonschema.validate(ours, records.SCHEMA)
    assert "Memory is that of one of the 2 processes" in printed
    assert ours["configuration"]["processes"] == 2 and whole["configuration"]["processes"] == 1
    for run, all_of_it in zip(ours["runs"], whole["runs"], strict=True):
        for part in ("weights", "gradients", "optimizer"):
            assert run["memory"][part] == all_of_it["memory"][part] / 2
        for ours_moved, their in zip(run["moved"], all_of_it["moved"], strict=True):
            assert ours_moved.keys() == their.keys() and ours_moved["matrices"] == pytest.approx(their["matrices"], abs=0.02)


def test_losses_of_two_processes_are_those_of_one(worlds, text):
    found, expected = answer(worlds, "seeds"), several.losses_over_seeds(Alone(), NAMES, text)
    assert found == answer(worlds, "seeds", 1)  # all processes have the same losses
    for name in NAMES:
        pairs = [(a, b) for ours, theirs in zip(found[name], expected[name], strict=True) for a, b in zip(ours, theirs, strict=True)]
        assert max(abs(a - b) for a, b in pairs) < MARGINS[name], name
    one, other = expected["fp32"][:2]  # a control: what another batch or another seed would do is no small thing
    assert min(abs(a - b) for a, b in zip(one, other)) > 10 * MARGINS["fp32"]


def test_whole_runs_agree_within_the_margins(worlds, alone):
    for name, distance in distances(worlds / "undisturbed", alone).items():
        assert distance < MARGINS[name], (name, distance)


def test_gradients_are_the_mean_over_all_processes(worlds, text):
    """AdamW and the clipping would hide a factor; the gradients themselves do not."""
    with Alone() as here:
        expected = several.first_gradients(here, text)
    for ours, theirs in zip(answer(worlds, "gradients"), expected, strict=True):
        torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=1e-4, atol=1e-6)


def test_an_overflow_in_one_process_skips_the_step_in_all(worlds):
    first, second = answer(worlds, "overflow"), answer(worlds, "overflow", 1)
    assert first == second and first[0] == [several.OVERFLOWS_AT]
    assert first[1] == [[0, 2.0**16], [several.OVERFLOWS_AT + 1, 2.0**15]]
    assert math.isfinite(first[2])  # no weight became NaN


def test_one_two_three(worlds, alone):
    """From one process to two, then three; and from two to one."""
    words = answer(worlds, "plain")
    assert words[0] == 130 and f"Going on after step {SINGLE_STOP} of {STEPS}" in words[1]
    assert "note: processes was 1, is 2 with FSDP2: the last bits of the losses may differ" in words[1]
    assert f"stopped after step {PAIR_STOP}" in words[1]  # though the last process alone had been told to
    words = answer(worlds, "onto-three")
    assert words[0] == 0 and f"Going on after step {PAIR_STOP} of {STEPS}" in words[1]
    for folder in (worlds / "plain", worlds / "single"):
        for name, distance in distances(folder, alone).items():
            assert distance < MARGINS[name], (folder.name, name, distance)
        assert sorted(path.name for path in folder.iterdir()) == ["curves.png", "record.json"]
    record = json.loads((worlds / "plain" / "record.json").read_text())
    assert record["configuration"]["processes"] == 3 and record["when"]["resumed"] == 2
    one, three, whole = (weight_bytes(folder) for folder in (worlds / "single", worlds / "plain", alone))
    assert one == whole and whole / 3 <= three < 0.4 * whole  # measured again where the number of processes changed


def test_what_several_processes_cannot_do_is_one_sentence(worlds):
    assert answer(worlds, "odd") == [1, "\nerror: --batch 5 does not divide by 2 processes: use --batch 4 or 6\n"]
    code, printed = answer(worlds, "dice")
    assert code == 1 and printed.splitlines()[-1].startswith("error: bf16-sr throws its dice in one process only")
    for name in ("odd", "dice"):
        assert answer(worlds, name, 1) == [1, ""]  # said once


def test_each_recipe_of_one_process_is_killed_and_ends_with_the_same_bits(text, tmp_path):
    """Every recipe that one process can train here, at once: kill -9 at a random moment, resume, the same bits."""
    possible = [name for name in recipes.RECIPES if name != "tf32"]  # which no CPU knows
    out, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    flags = [*SMALL, "--precision", *possible[1:], "--versus", "fp32", "--steps", "30", "--corpus", str(text)]
    process = subprocess.Popen([sys.executable, "-m", "course", "train", *flags, "--out", str(out)], stdout=-3, stderr=-3)
    assert main(["train", *flags, "--out", str(undisturbed)]) == 0
    end, wanted, seen = time.monotonic() + LONG, random.randint(2, 8), set()
    while len(seen) < wanted:  # a checkpoint every two steps
        assert process.poll() is None and time.monotonic() < end
        seen |= {path.stat().st_mtime_ns for path in out.glob("checkpoint-?.pt")}
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "the run ended before it was killed: give it more steps"
    assert main(["train", "--resume", "--out", str(out)]) == 0
    assert curves(out) == curves(undisturbed)
    record = json.loads((out / "record.json").read_text())
    assert [run["recipe"]["name"] for run in record["runs"]] == [*possible[1:], "fp32"]


@pytest.mark.gpu
def test_gpus_give_the_losses_of_one(text, tmp_path):
    """Over NCCL, with every recipe that this GPU can shard; one process for each GPU, and two of them do."""
    device, names = hardware.probe().on("cuda"), []
    for name in recipes.RECIPES:
        try:
            names.append(sharded.sharded_plan(recipes.plan(name, device)).recipe.name)
        except RunError:
            continue
    flags = [*SMALL, "--device", "cuda", "--precision", *names[1:], "--versus", "fp32", "--steps", STEPS, "--corpus", text]
    one, several_of_them = tmp_path / "one", tmp_path / "several"
    subprocess.run([sys.executable, "-m", "course", "train", *map(str, flags), "--out", str(one)], check=True, timeout=LONG)
    count = min(2, torch.cuda.device_count())
    job = Job(tmp_path, "--nproc-per-node", count, "-m", "course", "train", *flags, "--out", several_of_them)
    assert job.end()[0] == 0, job.printed()
    for name, distance in distances(several_of_them, one).items():
        assert distance < MARGINS[name], (name, distance)
