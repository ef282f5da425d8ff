"""The ledger of sharded training: the paper's numbers, what must add up, and a ring counted by hand. Real processes: test_ranks.py."""

from fractions import Fraction

import pytest
import torch

from course.numerics import BF16, E4M3, FP16, FP32
from course.training import RunError
from course.training.comms import STRATEGIES, Formats, bytes_sent, collectives, held, held_here, ring_share, sent, wire


@pytest.mark.parametrize(("strategy", "gigabytes"), [("DDP", 120), ("ZeRO-1", 31.4), ("ZeRO-2", 16.6), ("ZeRO-3", 1.9)])
def test_the_figure_of_the_paper(strategy, gigabytes):
    """Figure 1 of arXiv:1910.02054: 7.5 billion parameters, 64 processes, Adam, 16 bytes per parameter."""
    assert float(7.5 * sum(held(strategy, 64, Formats(FP16, FP16)).values())) == pytest.approx(gigabytes, abs=0.05)


@pytest.mark.parametrize("processes", [1, 2, 8, 1000])
@pytest.mark.parametrize("formats", [Formats(), Formats(FP32, FP32), Formats(BF16, FP32), Formats(BF16, BF16, master=False, moments=BF16), Formats(E4M3, BF16)])
def test_parts_add_up_to_the_whole(formats, processes):
    for strategy in STRATEGIES:
        whole = formats.stored(strategy)
        mine = held(strategy, processes, formats)
        for kind, size in whole.items():
            assert mine[kind] * (processes if kind in STRATEGIES[strategy] else 1) == size
    assert sum(held("DDP", processes, formats).values()) == sum(held("ZeRO-3", 1, formats).values())
    totals = [sum(held(strategy, processes, formats).values()) for strategy in ("DDP", "ZeRO-1", "ZeRO-2", "ZeRO-3")]
    assert totals == sorted(totals, reverse=True) and (processes == 1 or len(set(totals)) == 4)


def test_fsdp2_keeps_the_masters_as_shards():
    assert Formats(BF16, FP32).stored("FSDP2") == {"weights": 4, "gradients": 4, "optimizer": 8}
    assert Formats(BF16, FP32).stored("ZeRO-3") == {"weights": 2, "gradients": 2, "optimizer": 12}
    assert Formats(BF16, master=False, moments=BF16).stored("FSDP2") == {"weights": 2, "gradients": 2, "optimizer": 4}
    assert Formats(FP32, FP32).stored("DDP") == {"weights": 4, "gradients": 4, "optimizer": 8}  # FP32 weights need no master


def a_ring(collective, processes, pieces=1):
    """Numbers that each process sends, counted hop by hop: one piece of 1/n of them to its neighbour at a time."""
    hops = {"reduce-scatter": processes - 1, "all-gather": processes - 1, "all-reduce": 2 * (processes - 1)}[collective]
    return hops * Fraction(pieces, processes)


@pytest.mark.parametrize("processes", [1, 2, 3, 64])
@pytest.mark.parametrize("collective", ["all-reduce", "all-gather", "reduce-scatter"])
def test_a_ring_hop_by_hop(collective, processes):
    assert ring_share(collective, processes) == a_ring(collective, processes)


def test_who_sends_how_often():
    assert {name: sum(sent(name, 2, micro_batches=5).values()) for name in STRATEGIES} == {"DDP": 2, "ZeRO-1": 2, "ZeRO-2": 6, "ZeRO-3": 15, "FSDP2": 15}
    assert all(not sum(sent(name, 1).values()) for name in STRATEGIES)  # alone nobody sends
    mixed = sent("FSDP2", 2, Formats(BF16, FP32))
    assert mixed == {"all-gather": 2, "reduce-scatter": 2} and sum(sent("FSDP2", 2).values()) == 3
    assert collectives("DDP", Formats(BF16, FP32), 7) == [("all-reduce", FP32, 1)]


def test_mistakes_are_told():
    with pytest.raises(RunError, match="'ZeRO-4' is no strategy: choose one of DDP, ZeRO-1"):
        held("ZeRO-4", 2)
    for wrong in (0, 1.5, -1):
        with pytest.raises(RunError, match="give a whole number of processes"):
            sent("DDP", wrong)
    with pytest.raises(RunError, match="give a whole number"):
        collectives("DDP", micro_batches=0)


def test_bytes_by_collective_and_dtype():
    calls = [("all-gather", "bfloat16", 100), ("all-gather", "bfloat16", 100), ("reduce-scatter", "float32", 100)]
    assert bytes_sent(calls, 4) == {("all-gather", "bfloat16"): 300.0, ("reduce-scatter", "float32"): 300.0}
    assert bytes_sent(calls, 1) == {("all-gather", "bfloat16"): 0.0, ("reduce-scatter", "float32"): 0.0}


def test_without_a_collective_the_wire_is_silent_and_what_is_held_is_counted():
    model = torch.nn.Linear(30, 20, dtype=torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters())
    with wire() as seen:
        model(torch.ones(1, 30, dtype=torch.bfloat16)).sum().backward()
        optimizer.step()
    assert seen.calls == [] and held_here(model, optimizer) == {"weights": 1240, "gradients": 1240, "optimizer": 2480}
