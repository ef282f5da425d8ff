"""Claims that circulate about mixed precision: each with a verdict, the correct statement, and a proof that computes it.

`data/claims.yaml` holds the words; the modules beside this one hold the proofs, one function each. A proof does not say
what the verdict is: it says where the claim holds, and the verdict follows.
"""

import importlib
from dataclasses import dataclass
from functools import lru_cache

from ..session import DATA, NOTEBOOKS
from .evidence import VERDICTS, Evidence

__all__ = ["Claim", "Evidence", "TOPICS", "VERDICTS", "claims", "costliest", "prove", "settled_in"]

TOPICS = {
    "formats": "formats and rounding",
    "weights": "weights, updates, masters",
    "scaling": "loss scaling",
    "adam": "Adam and its moments",
    "operations": "operations and autocast",
    "noise": "noise and tolerance",
    "inference": "quantised inference",
    "fp8": "FP8",
    "systems": "memory and speed",
    "sharded": "many processes",
    "practice": "practice and folklore",
}


@dataclass(frozen=True)
class Claim:
    """One claim. `numbers` are the entries of the list of circulating claims that say it; `taught` is "notebook#cell".

    `proof` names a function, "module.function"; a claim that needs hardware or a paper has `sourced` instead, which says
    what was read. `depends_on` is there for the verdict "depends" only; `cost` ranks the ten that cost people most.
    """

    id: str
    numbers: tuple
    topic: str
    claim: str
    verdict: str
    correct: str
    taught: str
    proof: str = ""
    sourced: str = ""
    depends_on: str = ""
    sources: tuple = ()
    cost: int = 0

    @property
    def notebook(self) -> str:
        """The notebook that teaches it, as "05"."""
        return self.taught.partition("#")[0]


@lru_cache(maxsize=1)
def claims() -> dict:
    """All claims by id, in the order of the file. Raises `ValueError` naming the claim that is malformed.

    >>> claims()["weights-store-back"].verdict
    'false'
    """
    import yaml

    found = {}
    for entry in yaml.safe_load((DATA / "claims.yaml").read_text(encoding="utf-8")):
        claim = _read(entry)
        if claim.id in found:
            raise ValueError(f"claims.yaml: the id {claim.id} is used twice")
        found[claim.id] = claim
    return found


def _read(entry):
    where = f"claims.yaml, claim {entry.get('id', '?')}"
    try:
        lists = {name: tuple(entry.pop(name, ())) for name in ("numbers", "sources")}
        claim = Claim(**lists, **entry)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from None
    if claim.verdict not in VERDICTS or claim.topic not in TOPICS or claim.notebook not in NOTEBOOKS:
        raise ValueError(f"{where}: the verdict, the topic or the notebook is unknown")
    if bool(claim.proof) == bool(claim.sourced) or (claim.verdict == "depends") != bool(claim.depends_on):
        raise ValueError(f"{where}: give a proof or say what was read; say on what it depends if and only if it does")
    return claim


def prove(claim_id: str) -> Evidence:
    """Compute the evidence for a claim. Raises `ValueError` for an unknown claim, or for one that is sourced, not run.

    >>> prove("weights-store-back").verdict
    'false'
    """
    import torch

    claim = claims().get(claim_id)
    if claim is None:
        raise ValueError(f"there is no claim {claim_id!r}: claims() lists them")
    if not claim.proof:
        raise ValueError(f"{claim_id} is sourced, not run: {claim.sourced}")
    module, _, name = claim.proof.partition(".")
    proof = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on tensors as small as these one thread is several times as quick as two
    try:
        return proof()
    finally:
        torch.set_num_threads(threads)


def settled_in(notebook: str) -> list:
    """The claims that a notebook settles."""
    return [claim for claim in claims().values() if claim.notebook == notebook]


def costliest() -> list:
    """The ten that cost people most, the dearest first."""
    return sorted((claim for claim in claims().values() if claim.cost), key=lambda claim: claim.cost)
