"""Short words for proofs: what an expression of one line cannot say by itself."""

import math

import torch

__all__ = [
    "after_infinite_gradients", "autocast_dtype", "backward_outside", "clipped_step", "close", "fold", "kahan_sum", "refusal",
    "running_sum", "stale_copy", "to", "trained_weight", "unscale",
]


def to(x, fmt, **how) -> float:
    """A number rounded to a format, to nearest-even and with the format's own overflow unless told otherwise.

    >>> from course.numerics import BF16
    >>> to(256 + 1, BF16)
    256.0
    """
    return fmt.decode(fmt.encode(x, **how))


def fold(step, start, times):
    """What becomes of `start` when `step` is taken so many times.

    >>> fold(lambda scale: scale / 2, 65536.0, 16)
    1.0
    """
    for _ in range(times):
        start = step(start)
    return start


def running_sum(x, fmt) -> float:
    """The sum of numbers one after the other, each addition rounded to `fmt`, nearest-even.

    >>> from course.numerics import BF16
    >>> running_sum([1.0] * 1000, BF16)
    256.0
    """
    total = 0.0
    for value in x:
        total = to(total + value, fmt)
    return total


def kahan_sum(x, fmt, start=0.0) -> float:
    """The sum of numbers with Kahan's compensation, total and carry both kept in `fmt`.

    >>> from course.numerics import BF16
    >>> kahan_sum([1.0] * 1000, BF16)
    1000.0
    """
    total, carry = start, 0.0
    for value in x:
        change = to(value + carry, fmt)
        after = to(total + change, fmt)
        total, carry = after, to(change - to(after - total, fmt), fmt)
    return total


def trained_weight(dtype, start=1.0, gradient=1.0, steps=200, **settings) -> float:
    """A weight of one number after so many steps of torch's AdamW with a constant gradient.

    >>> trained_weight(torch.bfloat16, lr=3e-4), trained_weight(torch.float32, lr=3e-4) < 0.95
    (1.0, True)
    """
    w = torch.nn.Parameter(torch.tensor([start], dtype=dtype))
    optimizer = torch.optim.AdamW([w], **settings)
    for _ in range(steps):
        w.grad = torch.full_like(w, gradient)
        optimizer.step()
    return w.item()


def close(a, b, relative=1e-3) -> bool:
    """Whether two numbers agree to a relative margin."""
    return math.isclose(a, b, rel_tol=relative)


def refusal(action) -> str:
    """The words with which an action is refused, or "" if it is not.

    >>> refusal(lambda: 1 / 0)
    'division by zero'
    """
    try:
        action()
    except Exception as error:
        return str(error) or type(error).__name__
    return ""


def autocast_dtype(operation, *inputs, device="cpu"):
    """The dtype of what an operation gives under torch's own autocast on the CPU (BF16)."""
    with torch.autocast(device, torch.bfloat16):
        return operation(*inputs).dtype


def clipped_step(order, gradient=50.0, count=4) -> float:
    """The length of one SGD step (lr 0.1, gradients clipped to norm 1, torch's GradScaler) with the calls in this order.

    >>> round(clipped_step("unscale clip step"), 4)
    0.1
    """
    w = torch.nn.Parameter(torch.zeros(count))
    optimizer, scaler = torch.optim.SGD([w], lr=0.1), torch.amp.GradScaler("cpu")
    scaler.scale((w * gradient).sum()).backward()
    for call in order.split():
        if call == "unscale":
            scaler.unscale_(optimizer)
        elif call == "clip":
            torch.nn.utils.clip_grad_norm_([w], 1.0)
        else:
            scaler.step(optimizer)
    return w.detach().norm().item()


def unscale(w, times=1):
    """Call `unscale_` of torch's scaler so many times on a parameter with gradients of one."""
    w.grad = torch.ones_like(w)
    scaler, optimizer = torch.amp.GradScaler("cpu"), torch.optim.SGD([w], lr=0.1)
    scaler.scale(torch.ones(1))
    for _ in range(times):
        scaler.unscale_(optimizer)


def after_infinite_gradients(*gradients) -> tuple:
    """Weights of 1, one for each gradient (scaled already) and each with its own SGD (lr 0.5), after one shared step; then the scale.

    >>> after_infinite_gradients(math.inf, 65536.0)
    (1.0, 0.5, 32768.0)
    """
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.ones(1))
    weights = [torch.nn.Parameter(torch.ones(1)) for _ in gradients]
    optimizers = [torch.optim.SGD([w], lr=0.5) for w in weights]  # kept: the scaler knows an optimizer by its id()
    for w, optimizer, gradient in zip(weights, optimizers, gradients):
        w.grad = torch.tensor([gradient])
        scaler.step(optimizer)
    scaler.update()
    return (*(w.item() for w in weights), scaler.get_scale())


def stale_copy() -> tuple:
    """What a product under autocast gives before its weight is doubled, after it in the same context, and in a context of its own.

    >>> stale_copy()
    (1.0, 1.0, 2.0)
    """
    w, x, found = torch.nn.Parameter(torch.ones(1, 1)), torch.ones(1, 1), []
    with torch.autocast("cpu", torch.bfloat16):
        found.append(torch.mm(x, w).item())
        w.data.mul_(2)
        found.append(torch.mm(x, w).item())
    with torch.autocast("cpu", torch.bfloat16):
        found.append(torch.mm(x, w).item())
    return tuple(found)


def backward_outside() -> tuple:
    """The dtypes of a linear layer's result under autocast, and of its weight's gradient, with backward after the context."""
    layer = torch.nn.Linear(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        result = layer(torch.ones(1, 2))
    result.sum().backward()
    return result.dtype, layer.weight.grad.dtype
