"""DailyReview: the questions that are due today, one after the other; each rating decides when one comes again."""

from dataclasses import dataclass, field, replace
from datetime import date

from ..interview import review
from ..interview.bank import TOPICS, bank
from ..panel import Panel
from .parts import button, can_start_over, escape, plain_table, rich, sentence

NAMES = {"again": "again (I did not know it)", "hard": "hard", "good": "good", "easy": "easy"}


@dataclass(frozen=True)
class ReviewState:
    """`queue` holds the ids that are still to come, the first on screen; None before the reader begins."""

    day: date
    new_per_day: int = review.NEW_PER_DAY
    queue: tuple | None = None
    shown: bool = False
    rated: tuple = ()
    unreadable: int = 0
    trouble: str = ""
    first: "ReviewState | None" = field(default=None, compare=False, repr=False)

    @property
    def item(self):
        """The question on screen, or None."""
        return bank()[self.queue[0]] if self.queue else None


@can_start_over
def update(state: ReviewState, action: dict) -> ReviewState:
    """Apply one action: begin | show | rate again, hard, good or easy | restart."""
    name, *rest = action["act"].split()
    if name == "begin" and state.queue is None:
        found = review.today(state.day, state.new_per_day)
        return replace(state, queue=found.due + found.new, unreadable=len(found.unreadable))
    if name == "show" and state.item:
        return replace(state, shown=True)
    if name == "rate" and state.item and state.shown:
        due, trouble = review.rate(state.item.id, rest[0], state.day)
        later = (state.item.id,) if rest[0] == "again" else ()  # what was not known comes once more today
        return replace(state, queue=state.queue[1:] + later, shown=False, rated=(*state.rated, (state.item.id, rest[0], due)), trouble=trouble)
    raise ValueError("answer in your head, show the answer, then rate it" if state.item else "there is nothing to rate now")


def view(state) -> str:
    """The panel as HTML."""
    if state.queue is None:
        page = f'<div class="cp-bar">{button("begin", "Begin today’s review")}</div>'
    elif state.item is None:
        page = f'{_table(state)}<div class="cp-bar">{button("restart", "↺ look again")}</div>'
    else:
        page = _card(state)
    return page + sentence(say(state), state.trouble)


def _card(state):
    item = state.item
    head = f'<p class="cp-label">{escape(TOPICS[item.topic])}, {item.level}; {len(state.queue)} to go</p><p style="font-size:1.15em">{rich(item.question)}</p>'
    if not state.shown:
        return f'{head}<div class="cp-bar">{button("show", "Show the answer")}</div>'
    days = review.choices(item.id, state.day)
    buttons = "".join(button(f"rate {rating}", f"{name}: {days[rating]} {'day' if days[rating] == 1 else 'days'}") for rating, name in NAMES.items())
    must = "".join(f"<li>{rich(point)}</li>" for point in item.must)
    return (
        f"{head}<p><strong>{rich(item.short)}</strong></p><ul>{must}</ul><p><em>The trap:</em> {rich(item.trap)}</p>"
        f'<div class="cp-presets" role="group" aria-label="How well did you know it?">{buttons}</div>'
    )


def _table(state):
    rows = [(bank()[item_id].question, rating, due.isoformat()) for item_id, rating, due in state.rated]
    return plain_table(("question", "rated", "due again"), rows, "Reviewed today") if rows else ""


def say(state) -> str:
    """The sentence that says what the present state means."""
    lost = f" {state.unreadable} kept cards could not be read and begin anew." if state.unreadable else ""
    if state.queue is None:
        return f"At most {state.new_per_day} new questions a day, and those that are due. Answer aloud before you look."
    if state.item is None:
        return f"Done for {state.day.isoformat()}: {len(state.rated)} ratings.{lost}"
    return ("Rate how well you knew it; the button says when it comes again." if state.shown else "Answer first, in two sentences.") + lost


def table(state) -> str:
    """The state as plain HTML."""
    question = f"<p><strong>{rich(state.item.question)}</strong></p>" if state.item else ""
    return f"{question}{_table(state)}<p>{rich(say(state))}</p>"


def text(state) -> str:
    """The state as text."""
    lines = ["DailyReview"] + ([f"({state.item.id}) {state.item.question}"] if state.item else [])
    lines += [state.item.short] if state.item and state.shown else []
    lines += [f"{item_id}: {rating}, due {due.isoformat()}" for item_id, rating, due in state.rated]
    return "\n".join([*lines, say(state)])


class DailyReview(Panel):
    """The day's cards with FSRS scheduling; what is due is kept with the reader's progress. `day` is today unless given.

    >>> print(DailyReview(date(2026, 3, 2), new_per_day=2))
    DailyReview
    At most 2 new questions a day, and those that are due. Answer aloud before you look.
    """

    update, view, table, text = map(staticmethod, (update, view, table, text))

    def __init__(self, day=None, new_per_day=review.NEW_PER_DAY):
        super().__init__(ReviewState(day or date.today(), new_per_day))
        self.given = day

    def act(self, action: dict):
        """As in `Panel`; a notebook that was left open over night begins the new day."""
        if self.given is None and self.state.queue is None:
            self.state = replace(self.state, day=date.today())
        return super().act(action)
