"""ClinicBed: symptom first, instruments, an editor whose text is kept, a verdict."""

import pytest

from course.teaching import clinic, progress
from course.teaching.clinic.instruments import INSTRUMENTS
from course.teaching.panels.clinic import ClinicBed, say, start, table, text, update, view
from course.teaching.panels.clinic_view import draw, number


@pytest.fixture(autouse=True)
def own_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_PROGRESS_DIR", str(tmp_path))


def do(state, act, value=""):
    return update(state, {"act": act, "value": value})


@pytest.mark.parametrize("id", clinic.CASES)
def test_every_case_can_be_shown(id):
    state = start(id)
    page, case = view(state), clinic.CASES[id]
    assert "<textarea" in page and "<svg" in page and case.why not in page and case.hints[0] not in page
    assert case.symptom.split(".")[0][:20] in text(state) and f"Case {id}" in table(state) and "def train(seed)" in table(state)
    assert text(state) == text(start(id))


def test_what_is_typed_is_kept_and_survives_a_restart():
    state = do(start("13-3"), "edit", start("13-3").case.solution_text)
    assert progress.load()["trainers"]["13-3"]["text"] == state.source
    assert start("13-3").source == state.source and start("13-1").source == clinic.CASES["13-1"].broken_text
    assert "changed and kept" in say(state)
    assert do(state, "broken").source == state.case.broken_text == start("13-3").source
    with pytest.raises(ValueError, match="empty trainer"):
        do(state, "edit", "  \n")
    assert "\t" not in do(state, "edit", "def train(seed):\n\treturn {}").source


def test_check_says_broken_hidden_and_repaired():
    state = start("13-3")
    broken = do(state, "check")
    assert broken.verdict.misconception == "the scale collapses" and "Not yet (the scale collapses)" in say(broken)
    hiding = clinic.CASES["13-3"].hiding[0]
    hidden = do(do(state, "edit", hiding.apply(state.source)), "check")
    assert hidden.verdict.misconception == hiding.name
    right = do(do(state, "edit", state.case.solution_text), "check")
    assert right.verdict.status == "right" and "You have repaired 1 of" in say(right) and right.curve
    assert "stroke-dasharray" in view(right) and "✓" in view(right) and do(right, "edit", "x = 1").verdict is None


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_each_instrument_reads_what_is_typed(name):
    state = do(start("13-3"), f"instrument {name}")
    assert state.reading.says and f'data-act="instrument {name}" data-key="instrument {name}" aria-pressed="true"' in view(state)
    assert "not Python" in do(do(state, "edit", "def train(seed) return"), f"instrument {name}").reading.says


def test_hints_come_one_by_one_and_the_solution_is_open():
    state = do(start("13-1"), "hint")
    hints = state.case.hints
    assert state.hints == 1 and "How long is one update" in view(state) and "unscale" not in hints[0]
    for _ in range(5):
        state = do(state, "hint")
    assert state.hints == 3 and "All hints shown" in view(state)
    state = do(state, "solution")
    assert "<strong>        scaler.unscale_(optimizer)</strong>" in view(state) and "#1196" in view(state)
    assert "<strong>" not in view(do(state, "solution")).split("</textarea>")[1].split("cp-oops")[0]


def test_walking_between_cases_and_mistakes():
    assert do(start("13-1"), "case", "13-9").id == "13-9"
    assert do(do(start("13-1"), "case", "13-9"), "restart").id == "13-1"
    with pytest.raises(ValueError, match="there is no case '13-99': choose one of 13-1, 13-2"):
        ClinicBed("13-99")
    with pytest.raises(ValueError, match="no instrument"):
        do(start(), "instrument thermometer")
    with pytest.raises(ValueError, match="no action"):
        do(start(), "operate")


def test_a_curve_shows_what_is_not_finite():
    assert "NaN from here" in draw((1.0, 2.0, float("nan"), float("nan")), (), "loss")
    assert "logarithmic" in draw((1e-6, 1.0), (), "loss") and "0 from here" in draw((1e5, 1.0, 0.0), (), "scale")
    assert draw((float("nan"),), (), "x") and number(float("inf")) == "Inf"
