"""FactCheck: vote on a claim, run its proof, read what is true instead; one claim at a time, by topic."""

from dataclasses import dataclass, field, replace

from .. import claims as bank
from ..panel import Panel
from ..progress import load, record
from ..session import NOTEBOOKS
from .parts import button, can_start_over, escape, plain_table, rich, sentence

SETS = {"all": "all topics", "cost": "the ten that cost most", **bank.TOPICS}
VOTES = {"true": "true", "false": "false", "depends": "it depends"}


@dataclass(frozen=True)
class CheckState:
    """Which set of claims, the place in it, the votes by claim id, and the evidence once a proof has run."""

    chosen: str
    place: int = 0
    votes: tuple = ()
    shown: bool = False
    evidence: object = None
    trouble: str = ""
    first: "CheckState | None" = field(default=None, compare=False, repr=False)

    @property
    def claim(self):
        """The claim on screen."""
        return members(self.chosen)[self.place]

    @property
    def vote(self) -> str:
        """The reader's vote on it, or ""."""
        return dict(self.votes).get(self.claim.id, "")


def members(chosen) -> list:
    """The claims of a set, in the order of the file; the ten that cost most by their rank."""
    if chosen == "cost":
        return bank.costliest()
    return [claim for claim in bank.claims().values() if chosen in ("all", claim.topic)]


def start(chosen="all", claim="") -> CheckState:
    """The first state. Raises `ValueError` for a set or a claim that does not exist."""
    if chosen not in SETS:
        raise ValueError(f"{chosen!r} is no set of claims: choose one of {', '.join(SETS)}")
    names = [one.id for one in members(chosen)]
    if claim and claim not in names:
        raise ValueError(f"there is no claim {claim!r} among {SETS[chosen]}: try {', '.join(names[:4])}, …")
    kept = tuple((key, entry["vote"]) for key, entry in load().get("votes", {}).items() if entry.get("vote") in VOTES)
    return CheckState(chosen, names.index(claim) if claim else 0, kept)


@can_start_over
def update(state: CheckState, action: dict) -> CheckState:
    """Apply one action: set name | vote v | prove | next | back | unvoted | restart."""
    name, *rest = action["act"].split()
    if name == "set":
        return _at(replace(state, chosen=action.get("value") or rest[0]), 0)
    if name in ("next", "back"):
        return _at(state, (state.place + (1 if name == "next" else -1)) % len(members(state.chosen)))
    if name == "unvoted":
        open_ones = [i for i, claim in enumerate(members(state.chosen)) if claim.id not in dict(state.votes)]
        if not open_ones:
            raise ValueError("you have voted on all of these")
        return _at(state, next((i for i in open_ones if i > state.place), open_ones[0]))
    if name == "vote":
        return _vote(state, rest[0])
    if name == "prove":
        if not state.vote:
            raise ValueError("vote first: true, false, or it depends")
        evidence = bank.prove(state.claim.id) if state.claim.proof else None
        return replace(state, shown=True, evidence=evidence)
    raise ValueError(f"{name!r} is no action of this panel")


def _at(state, place):
    return replace(state, place=place, shown=False, evidence=None, trouble="")


def _vote(state, vote):
    if vote not in VOTES:
        raise ValueError(f"{vote!r} is no vote: choose {', '.join(VOTES)}")
    if state.shown:
        raise ValueError("you have seen the proof, so your vote stands")
    trouble = record("votes", state.claim.id, vote=vote, correct=vote == state.claim.verdict)
    return replace(state, votes=tuple({**dict(state.votes), state.claim.id: vote}.items()), trouble=trouble)


def view(state) -> str:
    """The panel as HTML."""
    options = "".join(f'<option value="{key}"{" selected" if key == state.chosen else ""}>{escape(name)} ({len(members(key))})</option>' for key, name in SETS.items())
    votes = "".join(button(f"vote {key}", name, pressed=state.vote == key) for key, name in VOTES.items())
    run = "Run the proof" if state.claim.proof else "Show what was read"
    return (
        f'<div class="cp-bar"><select data-act="set" data-key="set" aria-label="Which claims">{options}</select>{button("back", "◀ back")}{button("next", "next ▶")}'
        f'{button("unvoted", "next without a vote")}</div><p class="cp-label">Claim {state.place + 1} of {len(members(state.chosen))}: {escape(bank.TOPICS[state.claim.topic])}</p>'
        f'<p style="font-size:1.15em">“{rich(state.claim.claim)}”</p>'
        f'<div class="cp-bar"><span class="cp-presets" role="group" aria-label="Your vote">{votes}</span>{button("prove", run)}</div>'
        f'<div class="cp-card" style="min-height:220px">{_proof(state)}</div>{sentence(say(state), state.trouble)}'
    )


def _proof(state):
    if not state.shown:
        return "<p>The proof appears here: first your vote, then the evidence.</p>"
    claim, parts = state.claim, []
    if state.evidence:
        found = [(name, "holds" if value else "does not hold") for name, value in state.evidence.holds.items()]
        tried = f"<p>The claim {found[0][1]}.</p>" if found[0][0] == "" else plain_table(("under which condition", "the claim"), found, "What the proof tried")
        parts.append(tried)
        if state.evidence.shows:
            parts.append(plain_table(("", "found"), [(name, _value(value)) for name, value in state.evidence.shows.items()], "What it computed"))
    parts.append(f"<p>{rich(_correct(claim))}</p><p>{rich(_where(claim))}</p>")
    return "".join(parts)


def _value(value):
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_value(one)}" for key, one in value.items())
    if isinstance(value, float):
        return f"{value:.10g}"
    return str(value)


def _correct(claim):
    depends = f" It depends on {claim.depends_on}." if claim.depends_on else ""
    return f"{VOTES[claim.verdict].capitalize()}.{depends} {claim.correct}"


def _where(claim):
    read = f" Not run here, but sourced: {claim.sourced}." if claim.sourced else ""
    sources = f" Sources: {'; '.join(claim.sources)}." if claim.sources else ""
    cell = claim.taught.partition("#")[2]
    place = f"notebook {claim.notebook} ({NOTEBOOKS[claim.notebook]}){f', cell {cell}' if cell else ''}"
    return f"Taught in {place}.{read}{sources}".replace("*", "")


def tally(state) -> tuple:
    """(votes, of them right) among the set on screen."""
    votes = dict(state.votes)
    mine = [claim for claim in members(state.chosen) if claim.id in votes]
    return len(mine), sum(votes[claim.id] == claim.verdict for claim in mine)


def say(state) -> str:
    """The sentence that says what the present state means."""
    voted, right = tally(state)
    score = f"You have voted on {voted} of {len(members(state.chosen))}, {right} of them right."
    if state.shown:
        verdict = VOTES[state.claim.verdict]
        return f"You said “{VOTES[state.vote]}”; the verdict is “{verdict}”. {score}"
    if state.vote:
        return f"Your vote is “{VOTES[state.vote]}”. Now run the proof. {score}"
    return f"Vote before you look. {score}"


def table(state) -> str:
    """The state as a plain table."""
    return f"<p>“{rich(state.claim.claim)}”</p><p>True, false, or does it depend?</p>{_proof(state) if state.shown else ''}<p>{rich(say(state))}</p>"


def text(state) -> str:
    """The state as text."""
    lines = [f"FactCheck: {SETS[state.chosen]}, claim {state.place + 1} of {len(members(state.chosen))} ({state.claim.id})", f"“{state.claim.claim}”"]
    if state.shown:
        if state.evidence:
            lines += [f"  {name or 'the claim'}: {'holds' if value else 'does not hold'}" for name, value in state.evidence.holds.items()]
            lines += [f"  {name}: {_value(value)}" for name, value in state.evidence.shows.items()]
        lines += [_correct(state.claim), _where(state.claim)]
    return "\n".join([*lines, say(state)])


class FactCheck(Panel):
    """Claims that circulate, one at a time: vote, then run the proof. Votes are kept with the reader's progress.

    `chosen` is "all", "cost" (the ten that cost people most) or a topic; `claim` an id to begin with. Raises `ValueError` for others.

    >>> panel = FactCheck("formats", "formats-layouts")
    >>> print(str(panel).splitlines()[1])
    “The layouts are 1-8-23 for FP32, 1-5-10 for FP16, 1-8-7 for BF16, 1-4-3 for E4M3 and 1-5-2 for E5M2.”
    """

    update, view, table, text = map(staticmethod, (update, view, table, text))

    def __init__(self, chosen="all", claim=""):
        super().__init__(start(chosen, claim))
