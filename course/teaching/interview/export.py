"""`python -m course cards`: the questions as an Anki deck, as a table of tab-separated values, as printable sheets.

Every note has an identifier made of the question's id, so that a newer deck updates the notes of an older one and keeps
what Anki knows about them. Predictions and the self-test are among the cards, tagged as such.
"""

import csv
import io
import sys
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from course.training.files import write_atomically

from ..panels.parts import escape, rich
from ..questions import bank as closed_bank
from ..session import NOTEBOOKS
from .bank import TOPICS, bank
from .sheets import sheet

MODEL, DECK = 1607392319, 2059400110  # never to be changed: Anki knows the note type and the decks by these numbers
FIELDS = ("id", "question", "answer", "details")


@dataclass(frozen=True)
class Flashcard:
    """One card as plain text. `details` are titled paragraphs: (title, text)."""

    id: str
    deck: str
    question: str
    answer: str
    details: tuple
    tags: tuple

    @property
    def note(self) -> str:
        """The name by which Anki knows the note, in a deck and in a table alike."""
        return f"mixed-precision-{self.id}"


def flashcards() -> list:
    """All cards: the interview questions topic by topic, then predictions and self-test.

    >>> flashcards()[0].id, flashcards()[0].tags
    ('bits-01', ('interview', 'bits', 'junior', 'notebook-01'))
    """
    return [_of_item(item) for item in bank().values()] + [_of_closed(question) for question in closed_bank().values()]


def _of_item(item):
    details = [("In two minutes", item.long), ("Must mention", "; ".join(item.must)), ("The usual trap", item.trap), ("Follow-up", item.follow_up)]
    details += [("Source", item.source)] if item.source else []
    details.append(("Shown in", f"notebook {item.notebook} ({NOTEBOOKS[item.notebook]}), cell {item.see.partition('#')[2]}"))
    return Flashcard(item.id, TOPICS[item.topic], item.question, item.short, tuple(details), ("interview", item.topic, item.level, f"notebook-{item.notebook}"))


def _of_closed(question):
    letters = [chr(ord("A") + i) for i in range(len(question.options))]
    asked = " ".join([question.question, *(f"({letter}) {option.text}" for letter, option in zip(letters, question.options))])
    right = question.options[question.answer]
    details = (("The usual trap", question.trap), ("Follow-up", question.follow_up), ("Shown in", f"notebook {question.notebook} ({NOTEBOOKS[question.notebook]})"))
    deck = "self-test" if question.use == "self-test" else "predictions"
    return Flashcard(question.id, deck, asked, f"({letters[question.answer]}) {right.text}. {right.why}", details, (question.use, question.topic, question.level, f"notebook-{question.notebook}"))


# ---- Anki


def deck_bytes(cards) -> bytes:
    """An Anki package (.apkg) of these cards, a deck for each topic below "Mixed precision"."""
    import genanki

    model = genanki.Model(MODEL, "Mixed precision course", fields=[{"name": name} for name in FIELDS], templates=[{
        "name": "Question", "qfmt": '<div class="q">{{question}}</div>', "afmt": '{{FrontSide}}<hr id="answer"><div>{{answer}}</div>{{details}}<p class="id">{{id}}</p>',
    }], css=".card{font-family:sans-serif;font-size:18px;text-align:left;max-width:44em;margin:auto}.q{font-weight:bold}p{font-size:15px}.id{color:#777;font-size:12px}", sort_field_index=0)  # fmt: skip
    decks = {}
    for card in cards:
        deck = decks.setdefault(card.deck, genanki.Deck(DECK + zlib.crc32(card.deck.encode()) % 10**8, f"Mixed precision::{card.deck}"))
        details = "".join(f"<p><b>{escape(title)}.</b> {rich(text)}</p>" for title, text in card.details)
        fields = [escape(card.id), rich(card.question), rich(card.answer), details]
        deck.add_note(genanki.Note(model=model, fields=fields, tags=[tag.replace(" ", "-") for tag in card.tags], guid=card.note))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "deck.apkg"
        genanki.Package(list(decks.values())).write_to_file(str(path))
        return path.read_bytes()


# ---- tab-separated values


def table_text(cards) -> str:
    """The cards as tab-separated values, with the header lines by which Anki recognises columns and tags."""
    columns = ("note", "deck", "question", "answer", "details", "tags")
    out = io.StringIO()
    out.write(f"#separator:tab\n#html:false\n#guid column:1\n#deck column:2\n#tags column:{len(columns)}\n#columns:" + "\t".join(columns) + "\n")
    writer = csv.writer(out, "excel-tab", lineterminator="\n")
    for card in cards:
        details = " | ".join(f"{title}: {text}" for title, text in card.details)
        tags = " ".join(tag.replace(" ", "-") for tag in card.tags)
        row = (card.note, f"Mixed precision::{card.deck}", card.question, card.answer, details, tags)
        writer.writerow([" ".join(cell.split()) for cell in row])
    return out.getvalue()


# ---- the command


def add_arguments(parser):
    """The options of `python -m course cards`."""
    parser.add_argument("--anki", metavar="FILE", type=Path, help="write an Anki deck, such as deck.apkg; importing a newer one updates the notes")
    parser.add_argument("--tsv", metavar="FILE", type=Path, help="write a table of tab-separated values, for Anki and for spreadsheets")
    parser.add_argument("--sheets", metavar="DIR", type=Path, help="write one printable page for each topic, as HTML")
    parser.add_argument("--force", action="store_true", help="replace files that exist")


def run(args) -> int:
    """Write what was asked for; 0 if all was written, 2 if an option is missing or a file would be replaced, 1 if the system refused."""
    if not (args.anki or args.tsv or args.sheets):
        return _refuse("say what to write: --anki deck.apkg, --tsv cards.tsv or --sheets FOLDER (several at once are fine)")
    wanted = _wanted(args)
    for path, _ in wanted:
        if path.is_dir():
            return _refuse(f"{path} is a folder: give the name of a file, such as {path / 'deck.apkg'}")
        if path.exists() and not args.force:
            return _refuse(f"{path} exists: choose another name, or add --force to replace it")
    try:
        for path, make in wanted:
            write_atomically(path, make())
    except OSError as error:
        return _refuse(f"{path} could not be written ({error.strerror}): choose a folder you can write to", 1)
    cards = flashcards()
    print(f"{len(cards)} cards, {len(bank())} of them interview questions.")
    print("\n".join(f"Wrote {path}" for path, _ in wanted))
    return 0


def _wanted(args):
    """(path, what makes its content) of every file that was asked for."""
    found = [(args.anki, lambda: deck_bytes(flashcards()))] if args.anki else []
    found += [(args.tsv, lambda: table_text(flashcards()))] if args.tsv else []
    if args.sheets:
        found += [(args.sheets / f"{topic}.html", lambda topic=topic: sheet(topic)) for topic in TOPICS]
    return found


def _refuse(words, code=2):
    print(f"cards: {words}", file=sys.stderr)
    return code
