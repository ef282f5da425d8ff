"""Measures the phase diagrams of `course.training.phase` and writes `data/phase.json`; goes on where it was stopped.

Losses do not depend on the machine's load, so it may run beside other work: 28 diagrams of 78 formats and 5 seeds, about
40 minutes of one core.
"""

import json
import sys


def main():
    import torch
    from tqdm.auto import tqdm

    from course.training import phase
    from course.training.files import write_atomically
    from course.training.hardware import probe
    from course.training.records import now

    torch.set_num_threads(1)
    hardware = probe()
    provenance = {
        "started": now(),
        "versions": hardware.versions,
        "cpu": {"name": hardware.cpu.name, "features": list(hardware.cpu.features)},
        "configuration": phase.configuration(),
    }
    if phase.RECORD.exists() and "--fresh" not in sys.argv:
        words = json.loads(phase.RECORD.read_text())
        if words["provenance"]["configuration"] != provenance["configuration"]:
            sys.exit(f"{phase.RECORD} has another configuration: add --fresh to measure everything anew")
    else:
        words = {"provenance": provenance, "diagrams": {}}
    for condition in tqdm(phase.conditions()):
        if condition.key not in words["diagrams"]:
            words["diagrams"][condition.key] = phase.measure(condition)
            words["provenance"]["finished"] = now()
            write_atomically(phase.RECORD, json.dumps(words, separators=(",", ":")) + "\n")
