"""The interview bank: open questions in ten topics, each with a model answer, its rubric, the usual trap, and a proof.

`data/questions/interview/<topic>.yaml` holds the words; `proofs.run` runs what a proof says. The closed questions of
predictions and self-test live in `course.teaching.questions`.
"""

from dataclasses import dataclass
from functools import lru_cache

from ..session import DATA, NOTEBOOKS

LEVELS = ("junior", "mid", "senior")
TOPICS = {
    "bits": "bits and ranges",
    "rounding": "rounding",
    "amp": "AMP mechanics",
    "accumulation": "accumulation",
    "memory": "memory and speed",
    "fp8": "FP8 and FP4",
    "distributed": "distributed training",
    "inference": "quantised inference",
    "debugging": "debugging",
    "design": "design",
}


@dataclass(frozen=True)
class Item:
    """One question. `short` is the answer in two sentences, `long` in two minutes, `must` what it has to mention.

    `proof` is an expression or "claim:ID", see `proofs.run`; `source` says what was read where hardware or a paper is
    needed; `see` is "notebook#cell", the place that shows it.
    """

    id: str
    topic: str
    level: str
    question: str
    short: str
    long: str
    must: tuple
    trap: str
    follow_up: str
    see: str
    proof: str
    source: str = ""

    @property
    def notebook(self) -> str:
        """The notebook that shows it, as "05"."""
        return self.see.partition("#")[0]


@lru_cache(maxsize=1)
def bank() -> dict:
    """All interview questions by id, topic by topic. Raises `ValueError` naming file and id for one that is malformed.

    >>> bank()["bits-02"].level
    'junior'
    """
    import yaml

    found = {}
    for topic in TOPICS:
        path = DATA / "questions" / "interview" / f"{topic}.yaml"
        for entry in yaml.safe_load(path.read_text(encoding="utf-8")):
            item = _read(path.name, topic, entry)
            if item.id in found:
                raise ValueError(f"{path.name}: the id {item.id} is used twice")
            found[item.id] = item
    return found


def _read(name, topic, entry):
    where = f"{name}, question {entry.get('id', '?')}"
    try:
        item = Item(topic=topic, must=tuple(entry.pop("must")), **entry)
    except (TypeError, KeyError) as error:
        raise ValueError(f"{where}: {error}") from None
    if not item.id.startswith(f"{topic}-") or item.level not in LEVELS or item.notebook not in NOTEBOOKS:
        raise ValueError(f"{where}: the id, the level or the notebook is unknown")
    if not 3 <= len(item.must) <= 6 or not all(isinstance(point, str) and point for point in item.must):
        raise ValueError(f"{where}: give three to six points that must be mentioned")
    return item


def choose(levels=LEVELS, topics=tuple(TOPICS)) -> list:
    """The questions of some levels and topics, in the order of the bank. Raises `ValueError` for an unknown name.

    >>> [item.id for item in choose(["junior"], ["bits"])][:2]
    ['bits-01', 'bits-02']
    """
    for name in (*levels, *topics):
        if name not in LEVELS and name not in TOPICS:
            raise ValueError(f"{name!r} is no level and no topic: choose among {', '.join(LEVELS)}; {', '.join(TOPICS)}")
    return [item for item in bank().values() if item.level in levels and item.topic in topics]
