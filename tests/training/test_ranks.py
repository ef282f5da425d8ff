"""Processes for the length of a function: their answers, their errors, their deaths, and that nothing of them is left."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import psutil
import pytest
import torch
import torch.nn.functional as F

from course.numerics import BF16
from course.training import RunError, digits
from course.training.comms import bytes_sent, held, sent
from course.training.models import MLP
from course.training.ranks import launch
from course.training.reduction import all_reduce
from tests.training import rank_jobs


@pytest.fixture(autouse=True)
def nothing_is_left():
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    yield
    assert {process.pid for process in psutil.Process().children(recursive=True)} <= before and not ours()


def ours():
    """Processes that a test of this file has started, also those whose parents have gone."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        test = (process.info["environ"] or {}).get("PYTEST_CURRENT_TEST", "")
        if test.startswith("tests/training/test_ranks") and "course.training.ranks" in (process.info["cmdline"] or []):
            found.append(process)
    return found


def chain(rows, fmt_cast):
    """gloo's ring by hand: the piece that process p ends up with comes from p − 1, p − 2, … and p adds last."""
    count, size = rows.shape
    pieces = []
    for piece, part in enumerate(rows.split(size // count, 1)):
        total = part[(piece - 1) % count]
        for step in range(2, count + 1):
            total = fmt_cast(total + part[(piece - step) % count])
        pieces.append(total)
    return torch.cat(pieces)


def test_four_real_processes_sum_in_a_ring_and_round_at_each_stop():
    rows = rank_jobs.rows(4, 64)
    answers = launch(rank_jobs.reduced, 4, rows)
    assert all(torch.equal(answer, answers[0]) for answer in answers)
    short = rows.bfloat16()
    assert torch.equal(answers[0], chain(short, lambda x: x)), "BF16 adds round each time"
    assert not torch.equal(answers[0].float(), all_reduce(rows, BF16, "tree"))
    # The simulated ring is the same chain from the other side: what ends at p begins there.
    turned = torch.cat([all_reduce(rows.roll(-p, 0).flip(0)[:, 16 * p : 16 * p + 16].repeat(1, 4), BF16, "ring")[:16] for p in range(4)])
    assert torch.equal(answers[0].float(), turned)


def test_what_torch_sends_and_keeps_is_what_the_ledger_says():
    answers = launch(rank_jobs.strategies, 4)
    for rank, answer in enumerate(answers):
        for name, (strategy, formats, calls, kept) in rank_jobs.expected(answer).items():
            numbers = rank_jobs.NUMBERS
            assert sum(bytes_sent(calls, 4).values()) == numbers * sum(sent(strategy, 4, formats).values()), (rank, name)
            assert kept == {kind: numbers * size for kind, size in held(strategy, 4, formats).items()}, (rank, name)


def test_small_runs_of_real_processes_are_those_of_one():
    """What notebook 12 compares with: DDP's losses and FSDP2's gradient on the whole batch; and the numbers that PowerSGD sends."""
    answers = launch(rank_jobs.small_runs, 2)
    data, model, alone = digits.load(), MLP((64, 64, 10), 0), []
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    for step in range(12):
        loss = F.cross_entropy(model(data.batch(0, step, 64)[0]), data.batch(0, step, 64)[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        alone.append(loss.item())
    plain, power = ([sum(pair) / 2 for pair in zip(*(answer[i] for answer in answers))] for i in (0, 1))
    assert plain == pytest.approx(alone, rel=1e-4) and plain != pytest.approx(power, rel=1e-4)
    _, before, after = answers[0][2]
    assert before * 478 == after * 4810 and 2 * (64 + 64) + 2 * (64 + 10) + 64 + 10 == 478
    whole, (images, labels) = MLP((64, 64, 64, 10), 3), data.batch(3, 0, 64)
    F.cross_entropy(whole(images), labels).backward()
    expected = torch.cat([weight.grad.flatten() for weight in whole.parameters()])
    torch.testing.assert_close(answers[1][3], expected, rtol=1e-4, atol=1e-6)


def test_a_function_of_a_notebook_goes_as_text(monkeypatch):
    monkeypatch.setattr(rank_jobs.doubled, "__module__", "__main__")
    assert launch(rank_jobs.doubled, 2, {"a": [1.5, "b"]}) == [{"a": [1.5, "b"], "ranks": 2.0}] * 2


def test_spawned_processes_answer_too():
    assert launch(rank_jobs.doubled, 2, {}, method="spawn") == [{"ranks": 2.0}] * 2


@pytest.mark.parametrize(("job", "words"), [
    (rank_jobs.raises, "2 processes for raises: process 1 of 2: ValueError: mine alone"),
    (rank_jobs.dies, r"process 1 of 2 died \(signal 9\)"),
    (rank_jobs.unsendable, "a result is made of tensors, numbers"),
], ids=["raises", "dies", "unsendable"])  # fmt: skip
def test_whatever_goes_wrong_in_one_process_is_said(job, words):
    with pytest.raises(RunError, match=words):
        launch(job, 2)


def test_a_hang_ends_in_time():
    begin = time.monotonic()
    with pytest.raises(RunError, match="no answer within 6 s, so they were ended"):
        launch(rank_jobs.hangs, 2, patience=6)
    assert time.monotonic() - begin < 40


SCRIPT = """
    import sys
    from course.training.ranks import launch
    from tests.training import rank_jobs
    try:
        launch(rank_jobs.hangs, 2, sys.argv[1])
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.parametrize("how", ["interrupted", "killed"])
def test_an_interrupt_and_even_a_kill_of_the_caller_leave_no_process(how, tmp_path):
    """As a notebook's kernel is interrupted (SIGINT to its group), and as it is restarted (SIGKILL)."""
    flag = tmp_path / "running"
    caller = subprocess.Popen([sys.executable, "-c", textwrap.dedent(SCRIPT)] + [str(flag)], stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        _wait_for(lambda: flag.exists())
        family = psutil.Process(caller.pid).children(recursive=True)
        assert len(family) == 3, "a leader and two processes"
        os.killpg(caller.pid, signal.SIGINT) if how == "interrupted" else caller.kill()
        assert caller.communicate(timeout=30)[0].strip() == ("interrupted" if how == "interrupted" else "")
        assert psutil.wait_procs(family, 20)[1] == []
    finally:
        caller.kill()


def _wait_for(condition, patience=60):
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_two_launches_side_by_side_do_not_meet():
    answers = {}
    threads = [threading.Thread(target=lambda key=key: answers.__setitem__(key, launch(rank_jobs.doubled, 2, {"key": key}))) for key in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {key: [{"key": key, "ranks": 2.0}] * 2 for key in (1, 2)}
