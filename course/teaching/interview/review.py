"""Daily review: which questions are due on a day, and when each comes again, by the FSRS scheduler of the `fsrs` package.

Days are what counts here, so all times are noon of a day (UTC), the scheduler has no steps of minutes and no random
fuzz: the same ratings on the same days always give the same dates. Each card is kept as an entry of its own among the
learner's progress; one that cannot be read counts as new and leaves the others alone.
"""

import math
import zlib
from dataclasses import dataclass
from datetime import date, datetime, time, timezone

from ..progress import load, record
from .bank import TOPICS, bank

RATINGS = ("again", "hard", "good", "easy")
NEW_PER_DAY = 10
RETENTION = 0.9  # the chance of knowing a card on the day on which it is due


@dataclass(frozen=True)
class Today:
    """What a day asks for: ids that are due (longest overdue first), ids that are new, and kept cards that could not be read."""

    due: tuple
    new: tuple
    unreadable: tuple = ()


def scheduler(retention=RETENTION):
    """FSRS with its published weights, in whole days."""
    from fsrs import Scheduler

    return Scheduler(desired_retention=retention, learning_steps=(), relearning_steps=(), enable_fuzzing=False)


def today(day: date, new_per_day=NEW_PER_DAY) -> Today:
    """What there is to review on a day; new questions come from all topics in turn, easy levels first."""
    cards, unreadable, begun = {}, [], 0
    kept = load().get("cards", {})
    for item_id in bank():
        if item_id in kept:
            card = _read(kept[item_id])
            begun += kept[item_id].get("first") == day.isoformat()
            if card is None:
                unreadable.append(item_id)
            else:
                cards[item_id] = card
    due = sorted((card.due, item_id) for item_id, card in cards.items() if card.due.date() <= day)
    new = [item_id for item_id in _in_turn() if item_id not in cards]
    return Today(tuple(item_id for _, item_id in due), tuple(new[: max(0, new_per_day - begun)]), tuple(unreadable))


def _in_turn():
    """All ids: the first of each topic, then the second of each …, within a topic by level."""
    from .bank import LEVELS

    by_topic = [sorted((item for item in bank().values() if item.topic == topic), key=lambda item: (LEVELS.index(item.level), item.id)) for topic in TOPICS]
    longest = max(map(len, by_topic))
    return [items[place].id for place in range(longest) for items in by_topic if place < len(items)]


def rate(item_id: str, rating: str, day: date) -> tuple:
    """Keep a rating given on a day; gives (the day it is due again, "" or why it could not be kept). Raises `ValueError`."""
    if item_id not in bank():
        raise ValueError(f"there is no question {item_id!r}")
    entry = load().get("cards", {}).get(item_id, {})
    card = _after(_read(entry) or _new(item_id, day), rating, day)
    first = entry.get("first") if isinstance(entry.get("first"), str) else day.isoformat()
    return card.due.date(), record("cards", item_id, card=card.to_dict(), rating=rating, first=first)


def choices(item_id: str, day: date) -> dict:
    """{rating: days until the question comes again}, without keeping anything."""
    card = _read(load().get("cards", {}).get(item_id, {})) or _new(item_id, day)
    return {rating: (_after(card, rating, day).due.date() - day).days for rating in RATINGS}


def intervals(ratings, retention=RETENTION) -> list:
    """Days between reviews when each comes on the day it is due and gets these ratings in turn.

    >>> intervals(["good", "good", "good", "again", "good"])
    [2, 11, 46, 3, 8]
    """
    day, found = date(2026, 1, 1), []
    card = _new("", day)
    for rating in ratings:
        card = _after(card, rating, day, retention)
        found.append((card.due.date() - day).days)
        day = card.due.date()
    return found


def _after(card, rating, day, retention=RETENTION):
    from fsrs import Rating

    if rating not in RATINGS:
        raise ValueError(f"{rating!r} is no rating: choose {', '.join(RATINGS)}")
    return scheduler(retention).review_card(card, Rating(RATINGS.index(rating) + 1), _noon(day))[0]


def _new(item_id, day):
    from fsrs import Card

    return Card(card_id=zlib.crc32(item_id.encode()), due=_noon(day))


def _noon(day):
    return datetime.combine(day, time(12), tzinfo=timezone.utc)


def _read(entry):
    """The kept card, or None where there is none or it makes no sense."""
    from fsrs import Card

    try:
        card = Card.from_dict(entry["card"])
        sound = all(isinstance(x, (int, float)) and math.isfinite(x) and x > 0 for x in (card.stability, card.difficulty))
        return card if sound and card.due.tzinfo and card.last_review.tzinfo else None
    except Exception:  # whatever a damaged file may hold
        return None
