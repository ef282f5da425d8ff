"""The question bank, and two widgets on it: a prediction before a result, and the self-test that finds a starting point."""

import zlib
from dataclasses import dataclass, replace
from functools import lru_cache

from .panel import Panel
from .panels.parts import button, escape, plain_table, rich
from .progress import load, record
from .session import DATA, NOTEBOOKS

LEVELS = ("basic", "advanced", "expert")


@dataclass(frozen=True)
class Option:
    """One answer: its text, why it is right or what is wrong with it."""

    text: str
    why: str
    correct: bool = False


@dataclass(frozen=True)
class Question:
    """A closed question. `proof` is an expression over the course's names that a test evaluates and expects to be true.

    `use` is "prediction" (asked in its notebook before the result) or "self-test" (asked in notebook 00).
    """

    id: str
    use: str
    notebook: str
    topic: str
    level: str
    question: str
    options: tuple
    trap: str
    follow_up: str
    proof: str

    @property
    def answer(self) -> int:
        """Position of the right option."""
        return next(i for i, option in enumerate(self.options) if option.correct)


@lru_cache(maxsize=1)
def bank() -> dict:
    """All questions of `data/questions/*.yaml` by id. Raises `ValueError` naming file and id for one that is malformed.

    >>> all(question.id == key for key, question in bank().items())
    True
    """
    import yaml

    questions = {}
    for path in sorted((DATA / "questions").glob("*.yaml")):
        for entry in yaml.safe_load(path.read_text(encoding="utf-8")):
            question = _read(path.name, entry)
            if question.id in questions:
                raise ValueError(f"{path.name}: the id {question.id} is used twice")
            questions[question.id] = question
    return questions


def _read(name, entry):
    where = f"{name}, question {entry.get('id', '?')}"
    try:
        options = tuple(Option(**option) for option in entry.pop("options"))
        turn = zlib.crc32(entry["id"].encode()) % len(options)  # so that no letter is the usual right one
        options = options[turn:] + options[:turn]
        question = Question(options=options, **entry)
    except (TypeError, KeyError) as error:
        raise ValueError(f"{where}: {error}") from None
    if sum(option.correct for option in options) != 1 or len({option.text for option in options}) != len(options):
        raise ValueError(f"{where}: exactly one option must be correct, and no two the same")
    if question.level not in LEVELS or question.notebook not in NOTEBOOKS or question.use not in ("prediction", "self-test"):
        raise ValueError(f"{where}: level, notebook or use is unknown")
    return question


def predictions() -> dict:
    """The questions that notebooks ask before a result, by id."""
    return {key: question for key, question in bank().items() if question.use == "prediction"}


def predict(question_id: str, answer: str = ""):
    """Ask a prediction; the choice is kept, and the explanation opens when the reader wants it.

    `answer` chooses a letter without a mouse. Raises `ValueError` for an unknown id or letter.

    >>> print(predict("02-tie"))  # doctest: +ELLIPSIS
    Predict (02-tie): ...
    """
    if question_id not in predictions():
        raise ValueError(f"there is no prediction {question_id!r}: choose one of {', '.join(predictions())}")
    kept = load()["predictions"].get(question_id, {})
    panel = Prediction(Asked(predictions()[question_id], kept.get("answer"), settled=bool(kept.get("settled"))))
    if answer:
        letters = _letters(panel.state.question)
        if answer.upper() not in letters:
            raise ValueError(f"answer={answer!r}: choose one of {', '.join(letters)}")
        panel.act({"act": f"choose {letters.index(answer.upper())}"})
    return panel


def _letters(question):
    return [chr(ord("A") + i) for i in range(len(question.options))]


@dataclass(frozen=True)
class Asked:
    """A prediction on screen: what was chosen, whether the explanation is open, or was ever (then the choice stays)."""

    question: Question
    chosen: int | None = None
    revealed: bool = False
    settled: bool = False
    trouble: str = ""


def update(state: Asked, action: dict) -> Asked:
    """"choose i" commits an answer and keeps it until the explanation was seen; "reveal" opens or closes that."""
    name, *arguments = action["act"].split()
    if name == "choose" and state.settled:
        raise ValueError("you have seen the explanation, so your first choice stands")
    if name == "choose":
        chosen = int(arguments[0])
        correct = state.question.options[chosen].correct
        trouble = record("predictions", state.question.id, answer=chosen, correct=correct)
        return replace(state, chosen=chosen, trouble=trouble)
    if name == "reveal" and state.chosen is not None:
        trouble = state.trouble if state.settled else record("predictions", state.question.id, settled=True)
        return replace(state, revealed=not state.revealed, settled=True, trouble=trouble)
    raise ValueError("choose an answer first")


def view(state: Asked) -> str:
    """The question with its options as buttons, and the explanation once it is asked for."""
    question = state.question
    parts = [f"<p><strong>Predict.</strong> {rich(question.question)}</p>", _options(question, state.chosen)]
    if state.chosen is not None:
        parts.append(f'<div class="cp-bar">{button("reveal", "Hide the explanation" if state.revealed else "Compare with the answer", pressed=state.revealed)}</div>')
    parts.append(f'<p class="cp-say" role="status" aria-live="polite">{rich(_say(state))}</p>')
    if state.revealed:
        parts.append(_reasons(question))
    return "".join(parts)


def _options(question, chosen):
    buttons = (button(f"choose {i}", f"{letter} · {option.text}", pressed=chosen == i) for i, (letter, option) in enumerate(zip(_letters(question), question.options)))
    return f'<div role="group" aria-label="Answers" style="display:grid;gap:4px;justify-items:start;margin-bottom:8px">{"".join(buttons)}</div>'


def _say(state):
    if state.chosen is None:
        return "Choose before you run the next cell: a guess that was wrong is remembered best."
    letter = _letters(state.question)[state.chosen]
    if state.settled and not state.revealed:
        return f"You chose {letter} before. {state.trouble}".strip()
    if not state.revealed:
        return f"{letter} it is. Now run the next cell and see. {state.trouble}".strip()
    right = _letters(state.question)[state.question.answer]
    return f"You chose {letter}, and that is right." if letter == right else f"You chose {letter}; the answer is {right}."


def _reasons(question):
    items = (
        f"<li><strong>{letter} {'✓' if option.correct else '✗'}</strong> {rich(option.why)}</li>"
        for letter, option in zip(_letters(question), question.options)
    )
    return f'<ul style="list-style:none;padding-left:4px">{"".join(items)}</ul><p><em>The trap:</em> {rich(question.trap)}</p><p><em>Next:</em> {rich(question.follow_up)}</p>'


def static_table(state: Asked) -> str:
    """The question for readers without a kernel; the explanation is folded away."""
    question = state.question
    options = "".join(f"<li><strong>{letter}</strong> {escape(option.text)}</li>" for letter, option in zip(_letters(question), question.options))
    return f"<p><strong>Predict.</strong> {escape(question.question)}</p><ul>{options}</ul><details><summary>The answer</summary>{_reasons(question)}</details>"


def text(state: Asked) -> str:
    """The question as plain text."""
    options = (f"  {letter}  {option.text}" for letter, option in zip(_letters(state.question), state.question.options))
    return "\n".join([f"Predict ({state.question.id}): {state.question.question}", *options])


class Prediction(Panel):
    """A prediction with its options as buttons; see `predict`."""

    update, view, table, text = map(staticmethod, (update, view, static_table, text))


# ---- the self-test of notebook 00


@dataclass(frozen=True)
class Quiz:
    """Questions in order, the answers given so far, and whether the last one's explanation is on screen."""

    questions: tuple
    answers: tuple = ()
    explaining: bool = False


def update_quiz(state: Quiz, action: dict) -> Quiz:
    """"choose i" answers the present question, "next" goes on, "again" starts over."""
    name, *arguments = action["act"].split()
    if name == "choose" and not state.explaining and len(state.answers) < len(state.questions):
        return replace(state, answers=(*state.answers, int(arguments[0])), explaining=True)
    if name == "next" and state.explaining:
        return replace(state, explaining=False)
    if name == "again":
        return Quiz(state.questions)
    raise ValueError("answer the question, then go on")


def starting_point(questions, answers) -> str:
    """The notebook of the first question that was not answered rightly; "03" if all were.

    >>> starting_point(self_test().state.questions, [])
    '01'
    """
    for i, question in enumerate(questions):
        if i >= len(answers) or not question.options[answers[i]].correct:
            return question.notebook
    return "03"


def view_quiz(state: Quiz) -> str:
    """One question at a time; at the end the verdict."""
    total, done = len(state.questions), len(state.answers)
    if done == total and not state.explaining:
        return f'{_verdict(state)}<div class="cp-bar">{button("again", "Start over")}</div>'
    at = done - state.explaining
    question = state.questions[at]
    chosen = state.answers[at] if state.explaining else None
    parts = [f"<p><strong>Question {at + 1} of {total}.</strong> {rich(question.question)}</p>", _options(question, chosen)]
    say = "Choose one; guessing tells nothing, so take your honest best."
    if state.explaining:
        option = question.options[chosen]
        say = f"{'Right' if option.correct else 'Not so'}. {option.why}"
        if not option.correct:
            say += f" The answer is {_letters(question)[question.answer]}: {question.options[question.answer].why}"
        parts.append(f'<div class="cp-bar">{button("next", "Next question" if done < total else "Where do I start?")}</div>')
    return "".join(parts) + f'<p class="cp-say" role="status" aria-live="polite">{rich(say)}</p>'


def _verdict(state):
    right = sum(q.options[a].correct for q, a in zip(state.questions, state.answers))
    start = starting_point(state.questions, state.answers)
    words = f"{right} of {len(state.questions)} right. Start with notebook {start} ({NOTEBOOKS[start]})"
    words += "." if right == len(state.questions) else ", the first with a question that you missed."
    if not (DATA.parent / "notebooks" / f"{start}_{NOTEBOOKS[start]}.ipynb").exists():
        words += " It is not written yet: until then, the exercises of the notebooks before it are worth your time."
    return f'<p class="cp-say" role="status" aria-live="polite"><strong>{escape(words)}</strong></p>'


def quiz_table(state: Quiz) -> str:
    """All questions for readers without a kernel."""
    return plain_table(("notebook", "question"), [(q.notebook, q.question) for q in state.questions], f"Self-test: {len(state.questions)} questions")


def quiz_text(state: Quiz) -> str:
    """All questions as text."""
    return "\n".join(f"{i}. (notebook {q.notebook}) {q.question}" for i, q in enumerate(state.questions, 1))


class SelfTest(Panel):
    """Ten questions that end with the notebook to start at; see `self_test`."""

    update, view, table, text = map(staticmethod, (update_quiz, view_quiz, quiz_table, quiz_text))


def self_test() -> SelfTest:
    """The self-test of notebook 00: its questions in the order of the notebooks they point to."""
    questions = sorted((q for q in bank().values() if q.use == "self-test"), key=lambda q: q.id)
    return SelfTest(Quiz(tuple(questions)))
