"""Autocast's lists: those of the documentation, found without a GPU; on the CPU confirmed by real calls."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from course.training import RunError
from course.training.autocast import FULL, LOWER, REFUSED, UNKNOWN, WIDEST, policies

# PyTorch documentation, "Automatic Mixed Precision package", CUDA Op-Specific Behavior; by the names of ATen operators.
DOCUMENTED = {
    LOWER: "addbmm addmm addmv addr baddbmm bmm chain_matmul linalg_multi_dot conv1d conv2d conv3d conv_transpose1d conv_transpose2d "
    "conv_transpose3d gru_cell linear lstm_cell matmul mm mv prelu rnn_tanh_cell rnn_relu_cell",
    FULL: "pow acos asin binary_cross_entropy_with_logits cosh cosine_embedding_loss cdist cosine_similarity cumprod cumsum dist erfinv exp "
    "expm1 group_norm hinge_embedding_loss kl_div l1_loss layer_norm log log10 log_softmax log1p log2 margin_ranking_loss mse_loss "
    "multilabel_margin_loss multi_margin_loss nll_loss norm pdist poisson_nll_loss prod reciprocal rsqrt sinh smooth_l1_loss "
    "soft_margin_loss softmax softplus sum renorm tan triplet_margin_loss",
    WIDEST: "addcdiv addcmul atan2 bilinear cross dot grid_sampler index_put scatter_add tensordot",
    REFUSED: "binary_cross_entropy",
}


@pytest.fixture(scope="module")
def cuda():
    return policies("cuda")


@pytest.fixture(scope="module")
def cpu():
    return policies("cpu")


@pytest.mark.parametrize("policy", DOCUMENTED)
def test_the_cuda_list_is_the_documented_one(cuda, policy):
    assert {name: cuda.get(name) for name in DOCUMENTED[policy].split()} == dict.fromkeys(DOCUMENTED[policy].split(), policy)


def test_what_the_documentation_leaves_out(cuda):
    named = set(" ".join(DOCUMENTED.values()).split())
    more = {name: policy for name, policy in cuda.items() if name not in named}
    assert more["rms_norm"] == more["logsumexp"] == FULL and more["scaled_dot_product_attention"] == more["einsum"] == LOWER
    assert [name for name, policy in cuda.items() if policy == UNKNOWN] == ["linalg_matrix_norm"]  # it refuses FP16 whatever autocast does


def test_the_cpu_list_is_another_one(cpu, cuda):
    assert UNKNOWN not in cpu.values()
    for name in ("softmax", "layer_norm", "exp", "sum", "log_softmax", "rms_norm"):
        assert cuda[name] == FULL and name not in cpu
    assert cpu["linear"] == cpu["scaled_dot_product_attention"] == LOWER and cpu["cat"] == WIDEST and cpu["mse_loss"] == FULL


def test_the_cpu_list_is_what_real_calls_do(cpu):
    x, short = torch.ones(4, 4), torch.ones(4, 4, dtype=torch.bfloat16)
    calls = {
        "linear": lambda t: F.linear(t, t), "mm": torch.mm, "softmax": lambda t: F.softmax(t, 1), "layer_norm": lambda t: F.layer_norm(t, [4]),
        "exp": torch.exp, "sum": torch.sum, "mse_loss": lambda t: F.mse_loss(t, t), "trace": torch.trace, "relu": F.relu, "prod": torch.prod,
    }  # fmt: skip
    for name, call in calls.items():
        with torch.autocast("cpu", torch.bfloat16):
            full, low = (call(t, t) if name == "mm" else call(t) for t in (x, short))
        expected = {LOWER: (torch.bfloat16, torch.bfloat16), FULL: (torch.float32, torch.float32)}.get(cpu.get(name), (torch.float32, torch.bfloat16))
        assert (full.dtype, low.dtype) == expected, name


def test_autocast_is_left_as_it_was():
    usual = torch.get_autocast_dtype("cuda")
    torch.set_autocast_dtype("cuda", torch.bfloat16)  # another one than the probing uses
    try:
        before = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
        policies("cuda")
        assert (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")) == before
    finally:
        torch.set_autocast_dtype("cuda", usual)
    assert F.linear(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.float32


def test_nothing_is_printed():
    """In a process of its own, since C++ code gives most of its warnings only once."""
    code = "from course.training.autocast import policies; policies('cpu')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_mistakes_are_told(monkeypatch):
    with pytest.raises(RunError, match="device='tpu'.*cuda, cpu"):
        policies("tpu")
    monkeypatch.delattr(torch._C, "_dispatch_get_registrations_for_dispatch_key")
    with pytest.raises(RunError, match="does not tell its autocast lists"):
        policies("cuda")
