"""The trace: dtypes and layers of real calls, forward and backward, for four ways of casting."""

from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from course.training import digits
from course.training.models import GPT, MLP, GPTConfig
from course.training.trace import Call, Trace, cast_as_fsdp

CONFIG = GPTConfig(width=32, layers=2, context=8)
IDS = torch.arange(16).view(2, 8)


def traced(kind, **options):
    model = GPT(CONFIG, 0)
    model = model.bfloat16() if kind == "bf16" else model
    run = cast_as_fsdp(model) if kind == "fsdp" else model
    with Trace(model, **options) as trace:
        with torch.autocast("cpu", torch.bfloat16) if kind == "autocast" else nullcontext():
            loss = F.cross_entropy(run(IDS).flatten(0, 1).float(), IDS.flatten())
        loss.backward()
    return model, trace


def test_fp32_has_one_dtype_and_no_casts():
    _, trace = traced("fp32")
    assert set(trace.counts()) == {"FP32"} and not any(call.is_cast for call in trace.calls)


def test_under_autocast_on_the_cpu_products_are_short_and_the_residual_stream_is_not():
    _, trace = traced("autocast")
    for phase, op in (("forward", "addmm"), ("forward", "mm"), ("backward", "mm"), ("forward", "gelu")):
        assert trace.dtypes_of(op, phase) == {"BF16"}
    for op in ("native_layer_norm", "_log_softmax", "add", "embedding"):
        assert trace.dtypes_of(op) == {"FP32"}
    casts = [call for call in trace.calls if call.is_cast and call.phase == "forward" and call.layer.endswith("widen")]
    assert [call.inputs + call.outputs for call in casts] == [("FP32", "BF16")] * 6  # weight, bias and input, in two blocks


def test_a_short_model_runs_everything_short_but_the_loss():
    _, trace = traced("bf16")
    long = {call.op for call in trace.calls if call.outputs[0] == "FP32" and not call.is_cast}
    assert long == {"_log_softmax", "nll_loss_forward", "ones_like", "nll_loss_backward", "_log_softmax_backward_data"}


def test_fsdp_style_computes_like_a_short_model_and_keeps_long_gradients():
    model, trace = traced("fsdp")
    _, short = traced("bf16")
    assert trace.counts() == short.counts()
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())
    up = [call for call in trace.calls if call.is_cast and call.phase == "backward" and call.outputs == ("FP32",)]
    assert len(up) >= len(list(model.parameters()))


def test_fsdp_style_is_what_fsdp2_itself_does(tmp_path):
    """One gloo process, the real `fully_shard`: the same outputs and FP32 gradients, bit for bit."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    images, labels = digits.load().batch(0, 0, 32)
    real, ours = MLP((64, 32, 10)), MLP((64, 32, 10))
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        fully_shard(real, mesh=init_device_mesh("cpu", (1,)), mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
        outputs = real(images), cast_as_fsdp(ours)(images)
        for output in outputs:
            F.cross_entropy(output.float(), labels).backward()
        gradients = [p.grad.full_tensor() for p in real.parameters()]
    finally:
        dist.destroy_process_group()
    assert outputs[0].dtype == torch.bfloat16 and torch.equal(*outputs)
    assert all(torch.equal(a, b.grad) and a.dtype == torch.float32 for a, b in zip(gradients, ours.parameters(), strict=True))


def test_a_copy_in_the_same_dtype_is_no_cast():
    assert not Call("forward", "", "_to_copy", ("FP32",), ("FP32",), 1).is_cast
    assert Call("forward", "", "_to_copy", ("FP32",), ("BF16",), 1).is_cast


def test_each_call_knows_its_layer_both_ways():
    model, trace = traced("fp32")
    for phase, products in (("forward", 1), ("backward", 2)):
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear):
                ops = [c.op for c in trace.calls if c.layer == name and c.phase == phase and c.op in ("addmm", "mm")]
                assert len(ops) == products, (phase, name)
            if isinstance(module, nn.LayerNorm):
                wanted = "native_layer_norm" + ("_backward" if phase == "backward" else "")
                assert [c.layer for c in trace.calls if c.op == wanted and c.phase == phase].count(name) == 1
    assert {c.layer for c in trace.calls if c.op == "gelu_backward"} == {"blocks.0", "blocks.1"}


def test_the_way_back_may_come_after_the_context_and_is_then_not_seen():
    model = nn.Linear(2, 2)
    with Trace(model) as trace:
        y = model(torch.ones(1, 2))
    y.sum().backward()
    assert {call.phase for call in trace.calls} == {"forward"}


def test_views_are_shown_when_asked_for():
    plain, full = traced("fp32")[1], traced("fp32", views=True)[1]
    extra = {call.op for call in full.calls} - {call.op for call in plain.calls}
    assert {"t", "permute", "select"} & extra and len(full.calls) > len(plain.calls)


def test_numbers_are_those_of_the_untraced_run_and_no_hook_stays():
    model = GPT(CONFIG, 0)
    before = model(IDS)
    with Trace(model):
        assert torch.equal(model(IDS), before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_an_error_inside_leaves_nothing_behind():
    class Breaks(nn.Module):
        def forward(self, x):
            raise ZeroDivisionError

    model = nn.Sequential(nn.Linear(2, 2), Breaks())
    with pytest.raises(ZeroDivisionError), Trace(model):
        model(torch.ones(1, 2))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with Trace(model[0]) as trace:
        model[0](torch.ones(1, 2))
    assert [call.op for call in trace.calls] == ["ones", "addmm"]


def test_a_layer_that_failed_and_was_caught_is_left_again():
    class Tries(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x):
            try:
                return self.inner(x)
            except RuntimeError:
                return x * 2

    model = nn.Sequential(Tries())
    with Trace(model) as trace:
        model(torch.ones(1, 2))
    assert ("0", "mul") in [(call.layer, call.op) for call in trace.calls]
