"""Where the time of a training step goes: by phase (forward, backward, optimizer), and by kind of operation.

Phases are timed with the device synchronised between them. Kinds come from torch's profiler: each operation's own time,
that of the operations within it taken away, so that nothing counts twice and the kinds add up to the whole.
"""

import re
import statistics
import time

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from course.training.files import silent_errors

PHASES = ("forward", "backward", "optimizer")
KINDS = ("matmul", "attention", "elementwise", "optimizer", "casts", "rest")
_STEP, _UPDATE = "course: step ", "course: update"
STEPS = 5
_PATTERNS = {  # the first that matches an operation's name decides
    "attention": r"scaled_dot_product|aten::(bmm|baddbmm|_softmax|_softmax_backward_data)$|fmha|flash",
    "matmul": r"aten::(mm|addmm|matmul|linear|_scaled_mm)$|mkldnn_linear",
    "elementwise": r"aten::(gelu|add|sub|mul|div|masked_fill|fill|zero|sum|native_layer_norm|_log_softmax|nll_loss|exp|log)"
    r"(_backward|_forward|_backward_data)?_?$",
}


def phases(run, batch, repeats=5, clock=time.perf_counter) -> dict:
    """Median seconds of each phase of a step of `run`, a `loop.Run` of your own; two more steps warm it up.

    `clock=time.process_time` counts what this process computed, on all of its threads, whatever else the machine does.
    """
    wait = (lambda: None) if run.plan.torch_type == "cpu" else torch.accelerator.synchronize

    def timed(action, *args):
        wait()
        start = clock()
        result = action(*args)
        wait()
        times[-1].append(clock() - start)
        return result

    times = []
    for index in range(repeats + 2):
        times.append([])
        loss = timed(run.forward, *batch)
        timed(run.backward, loss)
        timed(run.update, index)
    return {name: statistics.median(each) for name, each in zip(PHASES, zip(*times[2:]))}


def kinds(run, batch) -> dict:
    """The share of each kind of operation in a step of `run`, a `loop.Run` of your own; one more step warms it up.

    Of `STEPS` steps each operation's shortest time counts: what disturbs a step only ever adds to it. "matmul" are the linear layers, "attention" is what lies between their products, "casts" are copies that change the
    dtype, "optimizer" is all of the update, "rest" other copies, the embeddings, and the time between the operations.
    """
    run.step(0, *batch)
    accelerated = run.plan.torch_type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * accelerated
    found = profile(activities=activities)
    with silent_errors():  # the profiler's library writes notes of its own when it starts and stops
        found.start()
    try:
        for index in range(STEPS):
            with record_function(f"{_STEP}{index}"):
                _one_step(run, batch, index, accelerated)
    finally:
        with silent_errors():
            found.stop()
    return _shares(found.events(), accelerated)


def _one_step(run, batch, index, accelerated):
    loss = run.forward(*batch)
    run.backward(loss)
    with record_function(_UPDATE):
        run.update(index)
        if accelerated:
            torch.accelerator.synchronize()


def step_breakdown(run, batch) -> dict:
    """What a record holds: {"phases": seconds by phase, "kinds": shares by kind of operation}."""
    return {"phases": phases(run, batch), "kinds": kinds(run, batch)}


def _shares(events, accelerated):
    """Own times by kind. On a GPU they are those of its kernels, which the profiler books on the operations."""
    steps = {}
    for event in sorted(events, key=lambda event: event.time_range.start):
        if event.device_type == DeviceType.CPU:
            own = event.self_device_time_total if accelerated else event.self_cpu_time_total
            names = _names(event)
            # A GPU's way back is called from a thread of its own, outside of the step: such steps are taken together.
            steps.setdefault("all" if accelerated else names[-1], []).append((_kind(names), own))
    whole = [each for step, each in steps.items() if step == "all" or step.startswith(_STEP)]
    times = dict.fromkeys(KINDS, 0.0)
    for kind, own in _undisturbed(whole):
        times[kind] += own
    total = sum(times.values())
    return {kind: seconds / total for kind, seconds in times.items()} if total else times


def _undisturbed(steps):
    """Of steps that ran the same operations in the same order, each operation's shortest time; else the shortest step."""
    orders = {tuple(kind for kind, _ in step) for step in steps}
    if len(orders) > 1:
        return min(steps, key=lambda step: sum(own for _, own in step))
    return [(each[0][0], min(own for _, own in each)) for each in zip(*steps)]


def _names(event):
    """The event's name and those of the events around it, the outermost last."""
    names = []
    while event is not None:
        names.append(event.name)
        event = event.cpu_parent
    return names


def _kind(names):
    if _UPDATE in names:
        return "optimizer"
    if "aten::_to_copy" in names:
        return "casts"
    return next((kind for kind, pattern in _PATTERNS.items() if re.search(pattern, names[0])), "rest")
