"""Which operation ran in which dtype, forward and backward: a trace of every call that reaches torch's kernels."""

from collections import Counter
from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operations that move no numbers and compute nothing: left out unless asked for.
_VIEWS = set(
    "t transpose permute view _unsafe_view _reshape_alias reshape unsqueeze squeeze select slice split split_with_sizes expand alias detach as_strided "
    "unbind view_as_real empty empty_like empty_strided is_same_size lift_fresh".split()
)
_NAMES = {torch.float32: "FP32", torch.bfloat16: "BF16", torch.float16: "FP16", torch.float64: "FP64"}


@dataclass(frozen=True)
class Call:
    """One call of an ATen operator. Dtypes are those of floating-point tensors, by the course's names for formats."""

    phase: str  # "forward" or "backward"
    layer: str  # the path of the module that was running, or whose forward call this is the way back of; "" outside of all
    op: str  # the operator's name, such as "addmm"
    inputs: tuple
    outputs: tuple
    numel: int  # numbers in the first output

    @property
    def is_cast(self) -> bool:
        """Whether the call only changes a dtype."""
        return self.op == "_to_copy" and self.inputs != self.outputs


class Trace(TorchDispatchMode):
    """A context that records each call as a `Call`, with the layer of `model` that it belongs to; `calls` has them in order.

    Backward calls get the layer of the forward call that they are the way back of: autograd numbers its nodes as the
    forward pass makes them. `views=True` keeps operations that compute nothing. Weights, inputs and results are not kept.

    >>> model, x = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()), torch.ones(1, 2)
    >>> with Trace(model) as trace, torch.autocast("cpu", torch.bfloat16):
    ...     _ = model(x)
    >>> [(call.layer, call.op, call.outputs) for call in trace.calls if not call.is_cast]
    [('0', 'addmm', ('BF16',)), ('1', 'relu', ('BF16',))]
    """

    def __init__(self, model, views=False):
        super().__init__()
        self.model, self.views, self.calls = model, views, []
        self._path, self._layers, self._hooks = [], {}, []

    def __enter__(self):
        for name, module in self.model.named_modules():
            if name:
                self._hooks.append(module.register_forward_pre_hook(lambda *_, name=name: self._path.append(name)))
                self._hooks.append(module.register_forward_hook(lambda *_: self._path.pop() and None, always_call=True))
        return super().__enter__()

    def __exit__(self, *error):
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._path = [], []
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        node = torch._C._current_autograd_node()
        if node is None:
            layer = self._path[-1] if self._path else ""
            # The autograd node of this call was numbered just before; its way back will say the same number.
            self._layers[torch.autograd._get_sequence_nr() - 1] = layer
        else:
            layer = self._layers.get(node._sequence_nr(), "")
        name = func.overloadpacket.__name__
        outputs = _dtypes(result)
        if outputs and (self.views or name not in _VIEWS):
            inputs, size = _dtypes((args, kwargs)), next(x.numel() for x in _floats(result))
            self.calls.append(Call("backward" if node is not None else "forward", layer, name, inputs, outputs, size))
        return result

    def counts(self, phase=None) -> Counter:
        """How many calls wrote each dtype: {"FP32": 12, ...}, casts left out.

        >>> with Trace(torch.nn.Identity()) as trace:
        ...     _ = torch.ones(2) + 1
        >>> trace.counts()["FP32"]
        2
        """
        return Counter(call.outputs[0] for call in self.calls if phase in (None, call.phase) and not call.is_cast)

    def dtypes_of(self, op, phase="forward") -> set:
        """The dtypes that calls of an operator wrote."""
        return {call.outputs[0] for call in self.calls if call.op == op and call.phase == phase}


def _floats(values):
    return [x for x in tree_leaves(values) if isinstance(x, torch.Tensor) and x.is_floating_point()]


def _dtypes(values):
    return tuple(_NAMES.get(x.dtype, str(x.dtype).removeprefix("torch.")) for x in _floats(values))


def cast_as_fsdp(model, dtype=torch.bfloat16):
    """Make `model` run as FSDP2's `MixedPrecisionPolicy(param_dtype=dtype)` would, without sharding: gives a function of its inputs.

    Parameters are cast for the forward pass and stay what they are; floating-point inputs are cast at the root. There
    is no list of operations: whatever is called sees the short dtype. Gradients come back in the parameters' own dtype.

    >>> layer = torch.nn.Linear(2, 2)
    >>> y = cast_as_fsdp(layer)(torch.ones(1, 2))
    >>> y.sum().backward(); y.dtype, layer.weight.grad.dtype
    (torch.bfloat16, torch.float32)
    """

    def run(*inputs):
        short = {name: p.to(dtype) for name, p in model.named_parameters()}
        inputs = tuple(x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in inputs)
        return torch.func.functional_call(model, short, inputs)

    return run
