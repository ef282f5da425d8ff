"""Running a question's proof: an expression over the course's names, or the claim of `data/claims.yaml` that settles it.

The expressions stand in `data/questions/interview/*.yaml`, part of the course; nothing that a reader types is evaluated.
"""

import importlib
from functools import lru_cache

# short names that proofs may use: name → module under `course`
_MODULES = {
    "scales": "numerics.scales",
    "integers": "numerics.integers",
    "kernels": "training.fp8",
    "scaling": "training.scaling",
    "storage": "training.storage",
    "comms": "training.comms",
    "reduction": "training.reduction",
    "chips": "training.chips",
    "roofline": "training.roofline",
    "quantised": "training.quantised",
    "updates": "training.updates",
    "capabilities": "training.capabilities",
    "autocast": "training.autocast",
    "models": "training.models",
    "workbench": "teaching.interview.workbench",
}
CLAIM = "claim:"


@lru_cache(maxsize=1)
def names() -> dict:
    """What a proof may name: math, Fraction, torch, np, F, the names of `course.numerics`, the course's modules, the workbench."""
    import math
    from fractions import Fraction

    import numpy as np
    import torch

    from course import numerics

    found = {"math": math, "Fraction": Fraction, "torch": torch, "np": np, "F": torch.nn.functional}
    found |= {name: getattr(numerics, name) for name in numerics.__all__}
    found |= {name: importlib.import_module(f"course.{module}") for name, module in _MODULES.items()}
    workbench = found["workbench"]
    return found | {name: getattr(workbench, name) for name in workbench.__all__}


def run(proof: str) -> bool:
    """Evaluate a proof: an expression that must be True, or "claim:ID", whose verdict must be the one on file.

    >>> run("FP16.max == 65504"), run("claim:formats-layouts")
    (True, True)
    """
    import torch

    if proof.startswith(CLAIM):
        from ..claims import claims, prove

        claim_id = proof.removeprefix(CLAIM)
        evidence = prove(claim_id)
        return evidence.instead and evidence.verdict == claims()[claim_id].verdict
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return eval(proof, dict(names())) is True
    finally:
        torch.set_num_threads(threads)
