"""MemoryLedger: its account against bytes_per_parameter and the tensors' own arithmetic, and every action."""

import re
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course.teaching.panels.ledger import MemoryLedger, start, table, text, update, view
from course.teaching.panels.ledger_sizes import (
    CARDS, LARGEST, RECIPES, REFERENCE, SIZES, cards_needed, largest_model, ledger, name_size, read_size, total, two_digits,
)
from course.teaching.panels.ledger_view import about, number, say
from course.training.storage import bytes_per_parameter

sizes = st.integers(1, LARGEST) | st.integers(1, 999).flatmap(lambda n: st.sampled_from([n * 10**e for e in range(12)]))


def do(state, act, value=""):
    return update(state, {"act": act, "value": value})


BYTES = {
    "FP32 and Adam": 16, "FP32 masters": 16, "FP32 masters and gradients": 18, "autocast": 18, "pure BF16": 8, "BF16 and dice": 8,
    "BF16 and Kahan": 10, "16 + 16 split": 14, "BF16 moments": 12, "8-bit moments": Fraction(10 * 32 + 1, 32), "like DeepSeek-V3": 13,
    "SGD with momentum": 12,
}  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_computed_and_is_what_a_count_by_hand_says(recipe):
    kinds = ledger(recipe)
    assert sum(kinds.values()) == total(recipe) == BYTES[recipe] == Fraction(sum(bytes_per_parameter(**RECIPES[recipe][0]).values()))
    assert all(kinds.values()), "a kind that stores nothing is left out"
    state = do(start("7 B"), f"recipe {list(RECIPES).index(recipe)}")
    for shown in (text(state), table(state), view(state)):
        assert all(kind in shown for kind in kinds) and recipe in shown and number(7 * total(recipe)) in shown


def test_the_account_of_7_billion_in_both_units():
    lines = text(start("7B", "FP32 masters")).splitlines()
    assert lines[7].split() == ["together", "16", "112", "104.31"] and 7e9 * 16 / 2**30 == pytest.approx(104.31, abs=0.005)
    assert lines[4].split() == ["master", "4", "28", "26.08"]
    assert "exactly as much as FP32 and Adam" in lines[-1]
    assert "50 % less than FP32 and Adam" in say(start("7B", "pure BF16"))
    assert "12.5 % more than FP32 and Adam" in say(start("7B", "autocast"))
    assert "which the other recipes are compared with" in say(start("7B", REFERENCE))


@given(sizes, st.sampled_from(list(RECIPES)), st.sampled_from(CARDS))
def test_cards_and_largest_models_meet_at_the_border(parameters, recipe, card):
    needed = cards_needed(parameters, recipe, card)
    assert (needed - 1) * card * 10**9 < parameters * total(recipe) <= needed * card * 10**9
    most = largest_model(recipe, card)
    assert cards_needed(most, recipe, card) == 1 and cards_needed(most + 1, recipe, card) == 2
    assert 0.989 * most <= read_size(about(most)) <= most


def test_the_sentence_says_where_it_fits():
    assert "fits on one card of 24 GB, with 22 GB left" in say(start("125 M"))
    assert "fits on one card of 141 GB, with 29 GB left" in say(start("7 B"))
    assert "needs 8 cards of 141 GB before" in say(start("70 B"))
    exact = start("1500M")  # 24 GB to the byte
    assert "one card of 24 GB, with 0 GB left" in say(exact)
    assert "one card of 40 GB" in say(start("1500000001"))


@given(sizes)
def test_a_size_is_read_back_as_it_is_written(parameters):
    assert read_size(name_size(parameters)) == parameters == read_size(str(parameters)) == read_size(f"{parameters:,}")


@pytest.mark.parametrize(("typed", "size"), [
    ("7B", 7 * 10**9), (" 1.3 b ", 1300 * 10**6), ("70 billion", 70 * 10**9), ("1e9", 10**9), ("2^30", 2**30), ("0.5M", 500_000),
    ("350 000 000", 350 * 10**6), ("1/2 M", 500_000), ("1T", 10**12), ("1,000", 1000), ("12k", 12000),
])  # fmt: skip
def test_sizes_as_people_write_them(typed, size):
    assert read_size(typed) == size == do(start(), "type", typed).parameters


@pytest.mark.parametrize("typed", ["", "zz", "-7B", "0", "0.5", "1e16", "inf", "nan", "7 Q", "0x10", "<script>", "1/0", "1/3 B", "B" * 5000, "9" * 5000])
def test_nonsense_keeps_the_account(typed):
    before = start("7 B")
    state = do(before, "type", typed)
    assert state.message.endswith("The panel still shows 7 B.") and ": try 7B, 125 M" in state.message and state.parameters == before.parameters and len(state.message) < 250
    assert say(state) == say(before) and "<script>" not in view(state)
    other = do(state, "recipe 4")  # is no other number: the text stays, to be corrected
    assert (other.draft, other.message) == (typed.strip(), state.message)
    assert not do(other, "preset 1").message and not do(other, "type", "2B").message and not do(other, "slide", "200").message


def test_presets_and_the_slider_bring_what_they_say():
    for i, (name, size) in enumerate(SIZES.items()):
        state = do(start(), f"preset {i}")
        assert (state.parameters, state.typed) == (size, name) and name_size(size) == name
    assert do(start(), "slide", "180").parameters == 10**9 and do(start(), "slide", "197").parameters == two_digits(10**9.85) == 7_100_000_000
    for stop in range(120, 261):
        state = do(start(), "slide", str(stop))
        assert f'value="{stop}"' in view(state), "the slider stays where it was put"
        assert read_size(state.typed) == state.parameters


def test_the_bars_are_true_to_scale():
    page = view(start("7B", "pure BF16"))
    widths = [float(width) for width in re.findall(r'<rect[^>]* width="([\d.]+)"', page)]
    assert widths == pytest.approx([2 * 50 - 3] * 4 + [4 * 50 - 3] * 4), "50 pixels a byte, less the gap between segments"
    places = [float(x) for x in re.findall(r'<rect x="([\d.]+)"', page)]
    assert places == pytest.approx([1 + 100 * i for i in range(4)] + [1 + 200 * i for i in range(4)])
    assert view(start("7B", REFERENCE)).count("<rect") == 4, "the reference is not compared with itself"
    assert page.count('aria-pressed="true"') == 1 and page.index('aria-pressed="true"') < page.index("pure BF16</button>")


def test_small_things_are_not_shown_as_nothing():
    assert number(Fraction(7, 10**6)) == "7e-06" and number(Fraction(0)) == "0" and number(Fraction(123456)) == "123 456"
    assert "10.03125" in text(start("7B", "8-bit moments")) and "scales" in text(start("7B", "8-bit moments"))


def test_start_over_brings_the_first_state_back():
    first = start("70 B", "autocast")
    state = do(do(do(first, "preset 2"), "recipe 1"), "type", "zz")
    assert do(state, "restart") == first == do(first, "restart") != state


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([f"recipe {i}" for i in range(len(RECIPES))] + [f"preset {i}" for i in range(len(SIZES))]).map(lambda act: {"act": act})
                | st.integers(120, 260).map(lambda v: {"act": "slide", "value": str(v)})
                | st.text(max_size=10).map(lambda t: {"act": "type", "value": t}), max_size=6))  # fmt: skip
def test_any_sequence_of_actions_can_be_shown(sequence):
    panel = MemoryLedger()
    for action in sequence:
        panel.act(action)
        assert "nothing was changed" not in panel.frame["html"]
        assert panel.table(panel.state) and panel.text(panel.state)


def test_a_ledger_that_cannot_start_says_why():
    with pytest.raises(ValueError, match="choose one of FP32 and Adam"):
        MemoryLedger("7B", "FP17")
    with pytest.raises(ValueError, match="try 7B"):
        MemoryLedger("many")
    assert MemoryLedger(13 * 10**9).state.typed == "13 B"


def test_sizes_and_sums_in_the_sentence():
    assert "56 GB or 52.15 GiB" in say(start("7B", "pure BF16")) and read_size("7G") == 7 * 10**9
    assert name_size(1_000_005_000) == "1 000 005 000" and name_size(1_050 * 10**6) == "1.05 B"
    assert do(do(start(), "type", "zz"), "type", "2B").draft is None


def test_no_line_of_the_sentence_ends_inside_a_number():
    page = MemoryLedger("79 B", "autocast")
    assert "1\u00a0422 GB" in view(page.state) and "1 422 GB" in str(page)
