"""`python -m course cards`: a deck that Anki reads and updates, a table that comes back as it went, sheets for paper."""

import csv
import io
import json
import re
import sqlite3
import zipfile
from html.parser import HTMLParser

import pytest

from course.__main__ import main
from course.teaching import questions
from course.teaching.interview import export
from course.teaching.interview.bank import TOPICS, bank
from course.teaching.interview.sheets import sheet

CARDS = export.flashcards()


def opened(data, tmp_path):
    """(notes as (guid, fields, tags), names of decks, number of cards) of an .apkg file."""
    with zipfile.ZipFile(io.BytesIO(data)) as package:
        package.extract("collection.anki2", tmp_path)
    base = sqlite3.connect(tmp_path / "collection.anki2")
    notes = [(guid, fields.split("\x1f"), tags.split()) for guid, fields, tags in base.execute("select guid, flds, tags from notes")]
    decks = {deck["name"] for deck in json.loads(base.execute("select decks from col").fetchone()[0]).values()}
    count = base.execute("select count(*) from cards").fetchone()[0]
    base.close()
    return notes, decks, count


def test_every_question_is_a_card():
    assert len(CARDS) == len(bank()) + len(questions.bank()) == len({card.id for card in CARDS})
    kinds = [card.tags[0] for card in CARDS]
    assert kinds.count("interview") == len(bank()) and kinds.count("self-test") == 10 and kinds.count("prediction") > 50
    tie = next(card for card in CARDS if card.id == "02-tie")
    assert "(A)" in tie.question and re.match(r"\([A-E]\) ", tie.answer) and tie.deck == "predictions"


def test_a_newer_deck_updates_the_notes_of_an_older_one(tmp_path):
    from dataclasses import replace

    older, decks, count = opened(export.deck_bytes(CARDS), tmp_path)
    assert count == len(older) == len(CARDS) and {f"Mixed precision::{title}" for title in TOPICS.values()} <= decks
    changed = [replace(CARDS[0], answer="Another answer."), *CARDS[1:]]
    newer, _, _ = opened(export.deck_bytes(changed), tmp_path)
    assert [guid for guid, _, _ in older] == [guid for guid, _, _ in newer] and len({guid for guid, _, _ in older}) == len(CARDS)
    assert older[0][1][2] != newer[0][1][2] == "Another answer." and older[1:] == newer[1:]
    assert "interview" in older[0][2] and export.MODEL == 1607392319 and export.DECK == 2059400110


def test_what_looks_like_a_tag_reaches_anki_as_text(tmp_path):
    from dataclasses import replace

    notes, _, _ = opened(export.deck_bytes([replace(CARDS[0], question="is 1 < 2 <b>?")]), tmp_path)
    assert notes[0][1][1] == "is 1 &lt; 2 &lt;b&gt;?"


def test_the_table_comes_back_as_it_went():
    lines = export.table_text(CARDS).splitlines()
    head = [line for line in lines if line.startswith("#")]
    assert head[:3] == ["#separator:tab", "#html:false", "#guid column:1"] and lines[:6] == head
    rows = list(csv.reader(lines[6:], "excel-tab"))
    assert {len(row) for row in rows} == {6} and [row[0] for row in rows] == [card.note for card in CARDS]
    assert [row[3] for row in rows] == [" ".join(card.answer.split()) for card in CARDS]
    assert all(cell[0] not in "=+-@#" for row in rows for cell in row), "a spreadsheet would take it for a formula"


class _Outline(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.links = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("topic", TOPICS)
def test_a_sheet_is_whole_and_needs_no_network(topic):
    page = sheet(topic)
    outline = _Outline(page)
    items = [item for item in bank().values() if item.topic == topic]
    assert not outline.open and outline.links == [] and "url(" not in page and "<script" not in page
    assert outline.tags.count("article") == len(items) and "size:A4" in page and "break-inside:avoid" in page
    assert all(item.id in page for item in items) and TOPICS[topic][1:] in page.partition("</h1>")[0]


def test_the_command_writes_all_three_and_replaces_only_when_told(tmp_path, capsys):
    deck, rows, sheets = tmp_path / "new" / "deck.apkg", tmp_path / "cards.tsv", tmp_path / "sheets"
    asked = ["cards", "--anki", str(deck), "--tsv", str(rows), "--sheets", str(sheets)]
    assert main(asked) == 0 and f"{len(CARDS)} cards" in capsys.readouterr().out
    assert zipfile.is_zipfile(deck) and {path.stem for path in sheets.iterdir()} == set(TOPICS)
    rows.write_text("mine")
    assert main(["cards", "--tsv", str(rows)]) == 2 and rows.read_text() == "mine"
    assert "--force" in capsys.readouterr().err
    assert main([*asked, "--force"]) == 0 and rows.read_text().startswith("#separator:tab")
    assert not [path for path in tmp_path.rglob(".*")], "no temporary file is left"


def test_one_file_that_exists_stops_all_of_them(tmp_path):
    (tmp_path / "sheets").mkdir()
    (tmp_path / "sheets" / "fp8.html").write_text("mine")
    assert main(["cards", "--tsv", str(tmp_path / "cards.tsv"), "--sheets", str(tmp_path / "sheets")]) == 2
    assert not (tmp_path / "cards.tsv").exists() and len(list((tmp_path / "sheets").iterdir())) == 1


@pytest.mark.parametrize(("arguments", "code", "words"), [
    ([], 2, "say what to write"),
    (["--anki", "."], 2, "is a folder"),
    (["--tsv", "blocked/below/cards.tsv"], 1, "could not be written"),
])  # fmt: skip
def test_what_cannot_be_done_is_said(arguments, code, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "blocked").write_text("")
    assert main(["cards", *arguments]) == code and words in capsys.readouterr().err


def test_a_failure_in_the_middle_keeps_the_old_deck(tmp_path, monkeypatch):
    deck = tmp_path / "deck.apkg"
    deck.write_bytes(b"old")
    monkeypatch.setattr("genanki.Package.write_to_file", lambda *a, **k: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert main(["cards", "--anki", str(deck), "--force"]) == 1 and deck.read_bytes() == b"old"
