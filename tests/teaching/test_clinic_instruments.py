"""Instruments of the clinic: each finds what it is for, in the right line, and leaves a sound trainer alone."""

import pytest

from course.teaching import clinic
from course.teaching.clinic import instruments
from course.teaching.clinic.instruments import INSTRUMENTS, read
from course.teaching.clinic.model import compiled

HEAD = "def train(seed):\n"


def of(lines, name="t"):
    return compiled(HEAD + "".join(f"    {line}\n" for line in lines.splitlines()), name)


def case(id, repaired=False):
    return clinic.CASES[id].from_text(clinic.CASES[id].solution_text if repaired else clinic.CASES[id].broken_text)


SOUND = "x = torch.ones(4, requires_grad=True)\n(x * 2).half().float().sum().backward()\nreturn {'weights': [x.detach(), x.grad]}"


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_a_sound_trainer_gives_no_alarm(name):
    says = read(name, of(SOUND)).says
    assert not any(word in says for word in ("stops:", "makes", "first that differs", "ended with"))


@pytest.mark.parametrize(("id", "kind", "line"), [
    ("13-6", "swamped", "optimizer.step()"), ("13-8", "swamped", "optimizer.step()"), ("13-11", "swamped", "v.mul_(0.999)"), ("13-12", "swamped", "step += 1"),
    ("13-13", "swamped", "optimizer.step()"), ("13-14", "swamped", "factor += 1 / 1000"), ("13-15", "swamped", "total += gradient"), ("13-16", "overflow", "running_var"),
    ("13-18", "overflow", "-1e9"), ("13-19", "whole numbers merged", "torch.arange"), ("13-7", "underflow", "optimizer.step()"),
])  # fmt: skip
def test_the_twin_finds_the_line_in_the_broken_trainer_only(id, kind, line):
    reading = read("twin", case(id))
    assert reading.rows[0][1] == kind and line in reading.rows[0][5]
    assert not any(row[1] == kind and line in row[5] for row in read("twin", case(id, repaired=True)).rows)


def test_what_the_twin_cannot_see():
    assert not read("twin", case("13-10")).rows  # two operations, each rounded correctly
    assert read("moved", case("13-10")).rows[1][:4] == ("averages", "0%", "0%", "0%")
    assert read("moved", case("13-10", repaired=True)).rows[1][:2] == ("averages", "100%")


@pytest.mark.parametrize(("lines", "stops", "first"), [
    ("x = torch.zeros(1, requires_grad=True)\n(x**2).sqrt().sum().backward()", True, "div (backward)"),
    ("torch.zeros(1, requires_grad=True).log().sum().backward()", False, "log (forward)"),
    ("torch.full((1,), 12.0, dtype=torch.float16).exp()", False, "exp (forward)"),
    ("a = torch.zeros(1)\na / a", False, "div (forward)"),
])  # fmt: skip
def test_anomaly_mode_and_its_blind_spots(lines, stops, first):
    train = of(lines)
    assert ("Anomaly mode stops" in read("anomaly", train).says) == stops
    reading = read("first", train)
    assert first in reading.says and reading.rows[0][1]


def test_the_twin_gives_its_kinds():
    kinds = {
        "overflow": "torch.tensor([300.0]).half() ** 2", "underflow": "torch.tensor([1e-5]).half() * 1e-5", "swamped": "torch.tensor([256.0]).bfloat16() + torch.tensor([1.0]).bfloat16()",
        "whole numbers merged": "torch.arange(300).bfloat16()",
    }  # fmt: skip
    for kind, line in kinds.items():
        assert read("twin", of(line)).rows[0][1] == kind
    assert not read("twin", of("torch.tensor([1.0, 3.0]).half() / 3")).rows  # a result that is only rounded


def test_readings_of_sizes_and_formats():
    reading = read("gradients", case("13-3"))
    assert "not finite" in reading.says and " 0 not finite" not in reading.says
    assert "by hand" in read("gradients", of("return {}")).says
    wrote = {(row[1], row[3]) for row in read("dtypes", case("13-1")).rows}
    assert any(dtype == "FP16" for _, dtype in wrote)


def test_a_trainer_that_fails_or_never_ends(monkeypatch):
    for name in INSTRUMENTS:
        assert "ValueError: no" in read(name, of("torch.ones(1)\nraise ValueError('no')")).says
    monkeypatch.setattr(instruments, "SECONDS", 0.3)
    assert "did not finish" in read("first", of("while True:\n    pass")).says
    with pytest.raises(KeyError):
        read("thermometer", of("return {}"))
