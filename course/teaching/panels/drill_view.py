"""What InterviewDrill shows: set-up, question, rubric, model answer, summary."""

from ..interview.bank import LEVELS, TOPICS, bank, choose
from ..session import NOTEBOOKS
from .parts import button, escape, plain_table, rich, sentence

TWO_MINUTES = 120
WEAK = 0.6  # a topic in which a smaller share of the points was named is called weak


def view(state) -> str:
    """The panel as HTML."""
    page = {"setup": _setup, "ask": _asked, "rubric": _rubric, "answer": _answer, "done": _summary}[state.phase](state)
    return page + sentence(say(state), state.trouble)


def _setup(state):
    levels = "".join(button(f"level {name}", name, pressed=name in state.levels) for name in LEVELS)
    topics = "".join(button(f"topic {name}", title, pressed=name in state.topics) for name, title in TOPICS.items())
    lengths = "".join(button(f"length {n}", f"{n} questions", pressed=n == state.length) for n in (3, 6, 10))
    groups = (("Levels", levels), ("Topics", topics), ("Length", lengths))
    rows = "".join(f'<p class="cp-label">{name}</p><div class="cp-presets" role="group" aria-label="{name}" style="margin-bottom:8px">{buttons}</div>' for name, buttons in groups)
    return f'{rows}<div class="cp-bar">{button("start", "Start the interview")}{button("every", "everything")}</div>'


def _head(state):
    item = state.item
    place = f"Question {len(state.answered) + 1} of {len(state.order)}: {TOPICS[item.topic]}, {item.level}"
    return f'<p class="cp-label">{escape(place)}</p><p style="font-size:1.15em">{rich(item.question)}</p>'


def _asked(state):
    # The tag alternates from question to question: the page then gets a new text box instead of the old one with its text.
    tag = "section" if len(state.answered) % 2 else "div"
    box = (
        f'<{tag}><label class="cp-label" for="cp-notes-{state.item.id}">Your notes (optional; kept with your progress)</label><br>'
        f'<textarea id="cp-notes-{state.item.id}" data-act="notes" data-key="notes" rows="7" style="width:100%;box-sizing:border-box;background:var(--page);color:inherit;font:inherit">{escape(state.notes)}</textarea></{tag}>'
    )
    return f'{_head(state)}{box}<div class="cp-bar" style="margin-top:8px">{button("rubric", "Show the rubric")}{button("restart", "↺ start over")}</div>'


def _own_notes(state):
    return f'<div class="cp-card"><p class="cp-label">Your notes</p><p style="white-space:pre-wrap">{escape(state.notes)}</p></div>' if state.notes else ""


def _rubric(state):
    points = "".join(button(f"tick {i}", f"{'✓' if i in state.ticked else '○'} {point}", pressed=i in state.ticked) for i, point in enumerate(state.item.must))
    group = f'<div role="group" aria-label="Points that a good answer mentions" style="display:grid;gap:4px;justify-items:start;margin:6px 0 8px">{points}</div>'
    bar = f'<div class="cp-bar">{button("answer", "Show the model answer")}{button("restart", "↺ start over")}</div>'
    return f'{_head(state)}{_own_notes(state)}<p class="cp-label">A good answer mentions</p>{group}{bar}'


def _answer(state):
    item = state.item
    proof = "" if state.proof is None else f'<p><strong>{"The proof holds." if state.proof else "The proof does not hold here."}</strong></p>'
    code = f"<pre style=\"white-space:pre-wrap\">{escape(item.proof)}</pre>"
    source = f"<p><em>Source:</em> {escape(item.source)}</p>" if item.source else ""
    missed = [point for i, point in enumerate(item.must) if i not in state.ticked]
    missing = f"<p><em>You did not mention:</em> {rich('; '.join(missed))}.</p>" if missed else ""
    last = len(state.answered) + 1 == len(state.order)
    return (
        f"{_head(state)}{_own_notes(state)}{missing}<p><strong>{rich(item.short)}</strong></p><p>{rich(item.long)}</p>"
        f'<p><em>The trap:</em> {rich(item.trap)}</p>{source}<details><summary>The proof as code</summary>{code}</details>{proof}'
        f"<p><em>Follow-up:</em> {rich(item.follow_up)}</p><p>Shown in notebook {item.notebook} ({NOTEBOOKS[item.notebook]}), cell {escape(item.see.partition('#')[2])}.</p>"
        f'<div class="cp-bar">{button("prove", "Run the proof")}{button("next", "Summary" if last else "Next question")}{button("restart", "↺ start over")}</div>'
    )


def by_topic(answered) -> dict:
    """{topic: (questions, points named, points in all, seconds)} of the answered questions, in the bank's order."""
    found = {}
    for topic in TOPICS:
        mine = [one for one in answered if bank()[one.id].topic == topic]
        if mine:
            named, total = sum(len(one.ticked) for one in mine), sum(len(bank()[one.id].must) for one in mine)
            found[topic] = (len(mine), named, total, sum(one.seconds for one in mine))
    return found


def weak(answered) -> list:
    """Topics in which less than 60 % of the points were named, the weakest first."""
    shares = {topic: named / total for topic, (_, named, total, _) in by_topic(answered).items()}
    return sorted((topic for topic in shares if shares[topic] < WEAK), key=shares.get)


def _table(state):
    rows = [(TOPICS[topic], count, f"{named} of {total}", f"{seconds} s") for topic, (count, named, total, seconds) in by_topic(state.answered).items()]
    return plain_table(("topic", "questions", "points named", "time to answer"), rows, "Your interview")


def _summary(state):
    read = [f"<li>{rich(bank()[one.id].question)} <em>Notebook {bank()[one.id].notebook}, cell {escape(bank()[one.id].see.partition('#')[2])}</em></li>" for one in _missed(state)]
    again = f"<p>Read again:</p><ul>{''.join(read)}</ul>" if read else ""
    return f'{_table(state)}{again}<div class="cp-bar">{button("restart", "Another interview")}</div>'


def _missed(state):
    return [one for one in state.answered if len(one.ticked) < WEAK * len(bank()[one.id].must)]


def say(state) -> str:
    """The sentence that says what the present state means."""
    if state.phase == "setup":
        return f"{len(choose(state.levels, state.topics))} questions to draw from. Press “Start” when you are ready to answer aloud or in writing."
    if state.phase == "ask":
        return "Two minutes are usual. The clock runs until you ask for the rubric."
    if state.phase == "rubric":
        pace = "within two minutes" if state.seconds <= TWO_MINUTES else "longer than two minutes: begin with the answer in two sentences"
        return f"You took {state.seconds} s, {pace}. Tick what your answer really said: {len(state.ticked)} of {len(state.item.must)} so far."
    if state.phase == "answer":
        return f"{len(state.ticked)} of {len(state.item.must)} points. Run the proof, and try the follow-up before you go on."
    found = weak(state.answered)
    return f"Weak topics: {', '.join(TOPICS[topic] for topic in found)}." if found else "No weak topic: take a harder level, or more questions."


def table(state) -> str:
    """The state as plain HTML."""
    if state.phase == "setup":
        rows = [(TOPICS[topic], *(sum(item.topic == topic for item in choose([level])) for level in LEVELS)) for topic in state.topics]
        return plain_table(("topic", *LEVELS), rows, f"A mock interview of {state.length} questions: what there is to draw from") + f"<p>{rich(say(state))}</p>"
    if state.phase == "done":
        return f"{_table(state)}<p>{rich(say(state))}</p>"
    return f"<p><strong>{rich(state.item.question)}</strong></p><p>{rich(say(state))}</p>"


def text(state) -> str:
    """The state as text."""
    lines = [f"InterviewDrill: a mock interview of {state.length} questions"]
    if state.phase == "setup":
        lines += [f"levels: {', '.join(state.levels)}", f"topics: {'; '.join(TOPICS[topic] for topic in state.topics)}"]
    elif state.phase == "done":
        lines += [f"{TOPICS[topic]}: {named} of {total} points, {count} questions, {seconds} s" for topic, (count, named, total, seconds) in by_topic(state.answered).items()]
    else:
        lines += [f"Question {len(state.answered) + 1} of {len(state.order)} ({state.item.id}): {state.item.question}"]
        lines += [f"  {'x' if i in state.ticked else '-'} {point}" for i, point in enumerate(state.item.must)] if state.phase == "rubric" else []
        lines += [state.item.short, f"The trap: {state.item.trap}"] if state.phase == "answer" else []
        lines += [] if state.proof is None else [f"The proof {'holds' if state.proof else 'does not hold'}."]
    return "\n".join([*lines, say(state)])
