"""The closing words of a comparison: what was measured, and what it does and does not mean."""

import statistics

from course.training.hardware import timed_product

MIB = 2**20
GAIN = 1.1  # below this ratio the words are about why nothing was gained


def gemm_ratios(comparison) -> list:
    """Measure, for each run, how much faster one matrix product is in its format, at this model's size and at 1024.

    A list for each run: [{"rows", "inner", "columns", "ratio"}], empty where it is emulated or computes in FP32.
    """
    rows, width = comparison.settings.batch * comparison.config.context, comparison.config.width
    found = {}
    for plan in (run.plan for run in comparison.runs):
        name = plan.recipe.compute
        if name not in found:
            shapes = [(rows, width, 4 * width), (1024, 1024, 1024)] if plan.speed_counts and name != "fp32" else []
            found[name] = [_gemm_ratio(plan, *shape) for shape in shapes]
    return [found[run.plan.recipe.compute] for run in comparison.runs]


def _gemm_ratio(plan, rows, inner, columns):
    short, full = (timed_product(plan.torch_type, name, rows, inner, columns) for name in (plan.recipe.compute, "fp32"))
    for _ in range(2):  # warm-up
        short(), full()
    times = [(short(), full()) for _ in range(15)]  # interleaved; the fastest of each counts
    ratio = min(b for _, b in times) / min(a for a, _ in times)
    return {"rows": rows, "inner": inner, "columns": columns, "ratio": ratio}


def closing_words(record, warnings=()) -> str:
    """The table of the runs and the sentences that follow from it; every number comes from `record`."""
    *runs, versus = record["runs"]
    parts, explained = [_table(record["runs"])], set()
    for run in runs:
        parts += [_loss_words(run, versus), _speed_words(record, run, versus, explained)]
    parts += [*warnings, *(_memory_words(run, versus) for run in runs), _shared_words(record), _moved_words(record["runs"])]
    parts += [_where_words(run) for run in record["runs"]]
    return "\n\n".join(part for part in dict.fromkeys(parts) if part)


def worth(record) -> str:
    """What a contributed record is good for, in one sentence: its losses always, its speeds where they were claimed."""
    claimed = [_name(run) for run in record["runs"] if run["speed"] and run["speed"]["claimed"]]
    speeds = f"its speeds count for {', '.join(claimed)}" if claimed else "it claims no speed"
    return f"Its losses are true on every machine; {speeds}."


def _name(run):
    return run["recipe"]["name"].upper()


def _number(value, form):
    return "not finite" if value is None else format(value, form)


def _end_loss(run):
    """Mean training loss over the last tenth of the steps; None when one of them was not finite."""
    end = run["losses"][-max(1, len(run["losses"]) // 10) :]
    return None if None in end else statistics.fmean(end)


def _table(runs):
    lines = [f"{'':<12}{'loss, end':>12}{'validation':>12}{'ms a step':>12}{'tokens/s':>12}"]
    for run in runs:
        step = run["median_step_seconds"]
        speed = ("not timed", "") if step is None else (f"{1000 * step:.1f}", f"{run['tokens_per_second']:.0f}")
        lines.append(
            f"{_name(run):<12}{_number(_end_loss(run), '.4f'):>12}{_number(run['validation'][-1][1], '.4f'):>12}"
            f"{speed[0]:>12}{speed[1]:>12}"
        )
    return "\n".join(lines)


def _loss_words(first, second):
    pairs = [(a, b) for a, b in zip(first["losses"], second["losses"], strict=True) if a is not None and b is not None]
    if len(pairs) < len(first["losses"]):
        lost = " and ".join(_name(run) for run in (first, second) if None in run["losses"])
        return f"The loss of {lost} was not finite in {len(first['losses']) - len(pairs)} steps: that run diverged."
    gap = statistics.fmean(abs(a - b) for a, b in pairs)
    learned = second["losses"][0] - (_end_loss(second) or 0)
    names = f"{_name(first)} and {_name(second)}"
    words = f"Step by step the losses of {names} differ by {gap:.2g} on average; the loss itself moved by {learned:.4f}."
    if first["skipped_steps"] or second["skipped_steps"]:
        counts = f"{_name(first)} {len(first['skipped_steps'])}, {_name(second)} {len(second['skipped_steps'])}"
        words += f" Steps that the loss scaler skipped because a gradient overflowed: {counts}."
    return words


def _speed_words(record, first, second, explained):
    """What is said of the first run's speed; why it is so, once for each format, which joins `explained`."""
    speed, known = first["speed"], first["recipe"]["weights"] in explained
    if speed["ratio"] is None:
        return "The run was too short to time: every step belonged to the warm-up."
    emulated = " and ".join(_name(run) for run in (first, second) if run["execution"] == "emulated")
    if emulated:
        return f"No speed is claimed: {emulated} was emulated here, and emulation costs more than it saves."
    low, high = speed["quartiles"]
    if not speed["steady"]:
        return _unsteady_words(record, first)
    words = (
        f"{_name(first)} ran at {speed['ratio']:.2f} times the speed of {_name(second)} (median of "
        f"{first['timed_steps']} paired steps, half of them between {low:.2f} and {high:.2f})."
    )
    explained.add(first["recipe"]["weights"])
    return words + "".join(" " + sentence for sentence in ([] if known else _why(speed, first)))


def _unsteady_words(record, run):
    low, high = run["speed"]["quartiles"]
    load = record["hardware"]["load_average"]
    busy = "" if load is None else f" (load {load:.1f} on {record['hardware']['cores_usable']} cores at the start)"
    return (
        f"No speed is claimed for {_name(run)}: from step to step the ratio scattered too widely, half of "
        f"{run['timed_steps']} steps between {low:.2f} and {high:.2f}, as when other programs use the machine{busy}. "
        "Try again on a quiet machine, or with --threads 1, which suffers less from neighbours."
    )


def _why(speed, first):
    """Compare the whole step with its matrix products alone."""
    if not speed["gemm"]:
        return
    here, large = speed["gemm"]
    shape = f"{here['rows']} x {here['inner']} x {here['columns']}"
    name = first["recipe"]["weights"]
    yield f"{name} products alone: {here['ratio']:.2f} times at this model's size ({shape}),"
    yield f"{large['ratio']:.2f} times at 1024 cubed."
    if speed["ratio"] >= GAIN and here["ratio"] > speed["ratio"]:
        yield "The rest of the step (norms, softmax, casts, optimizer) is no matrix product and gains less, or nothing."
    elif speed["ratio"] < GAIN and max(here["ratio"], large["ratio"]) >= GAIN:
        yield (
            f"So {name} is faster on this device, but this model is too small to show it: casting every operand, the "
            "norms, the softmax and the optimizer cost as much as the products save. Try a larger --width."
        )
    elif speed["ratio"] < GAIN:
        yield "On this device the format gains next to nothing even in large products."


def _memory_words(first, second):
    if "emulated" in (first["execution"], second["execution"]):
        return "No saving of memory is claimed either: emulated values are held in FP32."
    kept = [sum(run["memory"]["saved_activations"].values()) / MIB for run in (first, second)]
    parts = ("weights", "gradients", "optimizer")
    states = [sum(run["memory"][part] for part in parts) / MIB for run in (first, second)]
    words = (
        f"Memory: activations kept for the backward pass {kept[0]:.1f} MiB ({_name(first)}), {kept[1]:.1f} MiB "
        f"({_name(second)}); weights, gradients and optimizer {states[0]:.1f} and {states[1]:.1f} MiB."
    )
    if states[0] == states[1] and first["recipe"]["master"]:
        words += " The latter are equal, because the master weights and what belongs to them stay in FP32."
    return words


def _shared_words(record):
    processes = record.get("configuration", {}).get("processes", 1)
    if processes == 1:
        return ""
    return f"Memory is that of one of the {processes} processes, which share weights, gradients and moments."


def _moved_words(runs):
    """Of the runs that store short weights: what moved in the last step that was counted."""
    told = []
    for run in runs:
        if run["moved"] and not run["recipe"]["master"] and run["recipe"]["weights"] != "FP32":
            last = run["moved"][-1]
            shares = ", ".join(f"{100 * share:.0f} % of the {kind}" for kind, share in last.items() if kind not in ("step", "multiplied"))
            told.append(f"Weights of {_name(run)} that changed in step {last['step']}: {shares}.")
    return " ".join(told)


def _where_words(run):
    if not run["breakdown"]:
        return ""
    phases, kinds = run["breakdown"]["phases"], run["breakdown"]["kinds"]
    whole = sum(phases.values())
    parts = (", ".join(f"{name} {100 * share:.0f} %" for name, share in each.items())
             for each in ({name: seconds / whole for name, seconds in phases.items()}, kinds))  # fmt: skip
    return f"A step of {_name(run)}: {'; '.join(parts)}."
