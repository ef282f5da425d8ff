"""What a training step keeps in memory: weights, gradients, optimizer state, and activations by format. Bytes."""

import sys

import torch

from course.training.models import loss_of


def step_memory(run, inputs, targets) -> dict:
    """Measure one run: {"weights", "gradients", "optimizer", "saved_activations": {dtype: bytes}, "device_peak"}.

    Saved activations are the tensors that the forward pass keeps for the backward pass, each storage once, parameters
    left out; under autocast they include the short copies of the weights. `device_peak` is what one step
    needs at most on a GPU beyond what was there before, None elsewhere. Where several processes share the weights, all
    is what one of them holds, without the weights that it gathers for a moment. Makes one step: use a run of your own.
    """
    weights = [p for p in run.model.parameters()]
    saved = saved_activations(run, inputs, targets)
    cuda = run.plan.torch_type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    run.step(0, inputs, targets)
    state = [value for slot in run.optimizer.state.values() for value in slot.values() if value.dim()]
    return {
        "weights": _bytes(weights),
        "gradients": _bytes(weights),  # a gradient has its parameter's shape and dtype
        "optimizer": _bytes(state),
        "saved_activations": saved,
        "device_peak": torch.cuda.max_memory_allocated() - before if cuda else None,
    }


def saved_activations(run, inputs, targets) -> dict:
    """Bytes that the forward pass of `run` keeps for its backward pass, by dtype."""
    found = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        # Asked anew each time: sharded parameters have another storage while they are gathered.
        if storage.data_ptr() not in {_local(p).untyped_storage().data_ptr() for p in run.model.parameters()}:
            # The tensor is kept in the table: a freed storage's address could come again.
            found[storage.data_ptr()] = (tensor, storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), run.plan.step():
        loss_of(run.model, inputs, targets)
    totals = {}
    for tensor, size in found.values():
        name = str(tensor.dtype).removeprefix("torch.")
        totals[name] = totals.get(name, 0) + size
    return dict(sorted(totals.items()))


def process_peak() -> int | None:
    """The most memory this process has held so far, in bytes (resident set); None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return getattr(psutil.Process().memory_info(), "peak_wset", None)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _bytes(tensors):
    return sum(_local(tensor).numel() * tensor.element_size() for tensor in tensors)


def _local(tensor):
    """The part of a sharded tensor that this process holds; any other tensor as it is."""
    return getattr(tensor, "to_local", lambda: tensor)()
