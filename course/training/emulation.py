"""Emulated precision: a `torch.nn` model trained as if its tensors were stored in other formats.

Arithmetic is done in FP32; what is handed from one operation to the next is rounded to the format of its role, once.
That is what a matrix unit with FP32 accumulation does, and what storing a tensor in 16 bits does to it.

Forward, a dispatch mode sees every operation below autograd, so what autograd saves for the way back is the rounded tensor.
Backward, hooks on the nodes of the autograd graph round each gradient where it passes from one node to the next: only the graph
tells the gradient of a weight from that of an activation. The hooks are hung up while the graph grows, so that `backward`
may be called anywhere and at any later time.

Rounding is to nearest, ties to even. Overflow is "ieee" (to infinity, or to NaN where the format has none) or "saturate".
"""

import re
from contextlib import nullcontext

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from course.numerics.rounding import cast
from course.training import RunError

# Operations whose result is a sum, a mean, a statistic, a log-probability or a loss, by the name of the ATen operator.
_REDUCTIONS = set(
    "_log_softmax nll_loss_forward nll_loss2d_forward mse_loss smooth_l1_loss huber_loss binary_cross_entropy "
    "binary_cross_entropy_with_logits sum mean var var_mean std std_mean norm linalg_vector_norm cumsum prod cumprod "
    "logsumexp".split()
)
# Operations whose first result is an activation, the others statistics that only the way back reads.
_WITH_STATISTICS = re.compile(r"native_(layer|batch|group)_norm|_native_batch_norm|_fused_rms_norm|_scaled_dot_product")
# Nodes of the graph that receive the gradient of such a result, and nodes that only move numbers about.
_REDUCTION_NODE = re.compile(
    r"(LogSoftmax|NllLoss|MseLoss|SmoothL1Loss|HuberLoss|BinaryCrossEntropy|Sum|Mean|Var|Std|Norm|LinalgVectorNorm|Cum|Prod|Logsumexp)"
)
_VIEW_NODE = re.compile(
    r"(T|Transpose|Permute|View|ReshapeAlias|UnsafeView|Squeeze|Unsqueeze|Alias|Slice|Select|Split|SplitWithSizes|Unbind|"
    r"AsStrided|Clone|Movedim)Backward\d*$"  # not Expand: its way back is a sum
)

_MARK = "course.training.emulation"


class Emulation:
    """A context in which the forward pass of `model` runs under `recipe`; its backward pass then does too.

    Within it the model's parameters are their roundings to `recipe.weights`. With `recipe.master` the parameters get
    their longer values back on leaving, as under autocast; without, the rounding stays: the model *is* in that format.
    What the model is called with is rounded to `recipe.activations`. Gradients are rounded where they pass between nodes,
    `.grad` after each accumulation by such a backward pass. Buffers are not rounded on entry. Keep optimizer steps outside.
    Activation checkpointing escapes it: what the backward pass computes anew is not rounded. Raises `RunError` when
    entered twice, or for parameters that are not float32.

    >>> from course.numerics import BF16
    >>> from course.training.recipes import Recipe
    >>> layer = torch.nn.Linear(1, 1, bias=False)
    >>> _ = layer.weight.data.fill_(1.0)
    >>> with Emulation(layer, Recipe("short", activations=BF16)):
    ...     layer(torch.tensor([3 + 2**-7])).item()  # a tie between 3 and 3 + 2⁻⁶
    3.0
    """

    def __init__(self, model, recipe, overflow="ieee"):
        self.model, self.recipe, self.overflow = model, recipe, overflow
        self._modes, self._masters = None, {}

    def __enter__(self):
        if self._modes:
            raise RunError("this emulation is already on: leave its with-block before entering it again")
        for parameter in self.model.parameters():
            if parameter.dtype != torch.float32:
                raise RunError(f"a parameter is {parameter.dtype}: emulation wants a float32 model, so call model.float() first")
        for parameter in self.model.parameters():
            rounded = cast(parameter.data, self.recipe.weights, overflow=self.overflow)
            if self.recipe.master is not None:
                self._masters[parameter] = parameter.data
            parameter.data = rounded
        self._inputs = self.model.register_forward_pre_hook(_inputs, with_kwargs=True)
        self._modes = (_saved_apart() if self._masters else nullcontext(), _Backward(self), _Forward(self))
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error):
        for mode in reversed(self._modes):
            mode.__exit__(*error)
        self._inputs.remove()
        for parameter, master in self._masters.items():
            parameter.data = master
        self._modes, self._masters = None, {}

    def rounded(self, value, fmt):
        """`value` in `fmt` if it is a float32 tensor (or float64), itself if it is anything else."""
        if not isinstance(value, torch.Tensor) or value.dtype not in (torch.float32, torch.float64):
            return value
        # Scalars are losses and factors, which no recipe keeps short: float16 would not even hold a loss scale of 2¹⁶.
        return cast(value, fmt if value.dim() else self.recipe.reductions, overflow=self.overflow)


def _inputs(module, args, kwargs):
    """Copies of what the model is called with: copying is an operation, so the modes round it and let its gradient through."""
    return tree_map(lambda value: value.clone() if isinstance(value, torch.Tensor) and value.is_floating_point() else value, (args, kwargs))


def _saved_apart():
    """Hooks by which backward reads the values of the forward pass, also of parameters that have their masters back by then.

    Of a leaf autograd saves the leaf itself; detached it is a tensor of its own. Hooks that are on already go on.
    """
    outer = torch._C._autograd._top_saved_tensors_default_hooks(True)
    keep, take = outer or (lambda tensor: (tensor, tensor._version), _unchanged)
    return torch.autograd.graph.saved_tensors_hooks(lambda tensor: keep(tensor.detach() if tensor.is_leaf else tensor), take)


def _unchanged(saved):
    """A saved tensor, if nobody has written into it since: torch looks itself only where there are no hooks."""
    tensor, version = saved
    if tensor._version != version:
        raise RunError("a tensor that backward needs was changed in place after the forward pass: call backward before that")
    return tensor


class _Forward(TorchDispatchMode):
    """Rounds what each operation of the forward pass returns; views of older tensors are left alone."""

    def __init__(self, emulation):
        super().__init__()
        self.emulation = emulation

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if torch._C._current_graph_task_id() != -1:  # within backward, where the hooks do it
            return result
        name, recipe = func.overloadpacket.__name__, self.emulation.recipe
        first = recipe.reductions if name.removesuffix("_") in _REDUCTIONS else recipe.activations
        rest = recipe.reductions if _WITH_STATISTICS.match(name) else first
        results = result if isinstance(result, tuple) else (result,)
        made = tuple(
            self._rounded(value, returned.alias_info, first if i == 0 else rest)
            for i, (value, returned) in enumerate(zip(results, func._schema.returns))
        )
        return result if not made else made if isinstance(result, tuple) else made[0]

    def _rounded(self, value, alias, fmt):
        if alias is None:
            return tree_map(lambda each: self.emulation.rounded(each, fmt), value)
        if alias.is_write and isinstance(value, torch.Tensor):  # an operation in place: so is its rounding
            value.copy_(self.emulation.rounded(value, fmt))
        return value


class _Backward(TorchFunctionMode):
    """Hangs hooks on the nodes that each call adds to the autograd graph."""

    def __init__(self, emulation):
        super().__init__()
        self.emulation = emulation
        self.oldest = _sequence_number()  # nodes up to here were there before
        self.hooked = set()  # nodes by their numbers; what they lead to has its hooks too
        self.reached = set()  # the inputs of nodes that an edge leads to

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor) and value.grad_fn is not None:
                self._hook_from(value.grad_fn)
        return result

    def _hook_from(self, node):
        waiting = [node]
        while waiting:
            node = waiting.pop()
            number = _number(node)
            if number is None or number <= self.oldest or number in self.hooked:
                continue
            self.hooked.add(number)
            self._hook(node)
            waiting += [after for after, _ in node.next_functions if after is not None]

    def _hook(self, node):
        """Round what `node` sends along each edge, and what an input receives from several edges."""
        formats, ends = [], []
        for after, place in node.next_functions:
            formats.append(None if after is None else _role(after, self.emulation.recipe))
            if after is None:
                continue
            if hasattr(after, "variable"):
                ends.append((_end(after), formats[-1]))
            elif (_number(after), place) in self.reached:
                after.register_prehook(_arriving(place, self.emulation.rounded, formats[-1]))
            else:
                self.reached.add((_number(after), place))
        if _VIEW_NODE.match(node.name()):
            formats = [None] * len(formats)
        if ends or any(formats):
            node.register_hook(_leaving(self.emulation, formats, ends))


def _leaving(emulation, formats, ends):
    def leaving(gradients, _):
        for wanted, fmt in ends:
            wanted[torch._C._current_graph_task_id()] = emulation, fmt
        return tuple(g if fmt is None else emulation.rounded(g, fmt) for g, fmt in zip(gradients, formats))

    return leaving


def _arriving(place, rounded, fmt):
    return lambda gradients: tuple(rounded(g, fmt) if i == place else g for i, g in enumerate(gradients))


def _end(node):
    """The format that each running backward pass wants `.grad` in, by the pass: an end may serve graphs of other recipes, or of none."""
    if _MARK not in node.metadata:
        node.metadata[_MARK] = {}
        node.register_hook(_stored(node.variable, node.metadata[_MARK]))
    return node.metadata[_MARK]


def _stored(parameter, wanted):
    def after_accumulation(*_):
        emulation, fmt = wanted.pop(torch._C._current_graph_task_id(), (None, None))
        wanted.clear()  # of passes that ended elsewhere, such as those of torch.autograd.grad
        if emulation and parameter.grad is not None:
            parameter.grad.copy_(cast(parameter.grad, fmt, overflow=emulation.overflow))

    return after_accumulation


def _role(node, recipe):
    """The format of a gradient that arrives at `node`."""
    while _VIEW_NODE.match(node.name()) and node.next_functions[0][0] is not None:
        node = node.next_functions[0][0]
    if isinstance(getattr(node, "variable", None), torch.nn.Parameter):
        return recipe.weight_gradients
    return recipe.reductions if _REDUCTION_NODE.match(node.name()) else recipe.activation_gradients


def _number(node):
    """The place of a node in the order of creation; None for the ends of the graph, which have none."""
    return None if hasattr(node, "variable") else node._sequence_nr()


def _sequence_number():
    with torch.enable_grad():  # an emulation may begin under no_grad
        return (torch.zeros((), requires_grad=True) * 1).grad_fn._sequence_nr()
