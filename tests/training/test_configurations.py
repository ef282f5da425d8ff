"""The configurations of six libraries: each given to its library's own parser where that is installed, and its default read back."""

import json
from types import SimpleNamespace

import pytest
import torch

from course.training.configurations import CONFIGURATIONS

FORMATS = {torch.float32: "FP32", torch.bfloat16: "BF16", torch.float16: "FP16", "float32": "FP32"}
BY_NAME = {each.library: each for each in CONFIGURATIONS}


def run(library):
    space = {"torch": torch}
    exec(BY_NAME[library].parsed, space)
    return SimpleNamespace(**space)


def holds(library, told, default, others=""):
    assert (FORMATS[told], FORMATS[default]) == ("FP32", BY_NAME[library].default), (library, told, default, others)


@pytest.mark.parametrize("each", CONFIGURATIONS, ids=lambda each: each.library)
def test_each_text_can_be_read_and_names_what_decides(each):
    assert each.parsed and each.says in each.text and each.says.split("=")[0] and each.default in FORMATS.values()
    if each.text.startswith("{"):
        assert json.loads(each.text)[each.says] == "fp32"


def test_fsdp2():
    """The policy as such; that None means the dtype of the gradients is counted on the wire in test_ranks.py."""
    from torch.distributed.fsdp import MixedPrecisionPolicy

    policy = run("FSDP2").policy
    assert policy == MixedPrecisionPolicy(torch.bfloat16, torch.float32) and MixedPrecisionPolicy(torch.bfloat16).reduce_dtype is None


def test_deepspeed():
    config = pytest.importorskip("deepspeed.runtime.config", reason="deepspeed is not installed: its own parser cannot be asked")
    told = config.DeepSpeedConfig(BY_NAME["DeepSpeed"].parsed)
    assert told.zero_config.stage == 3 and told.bfloat16_config.enabled and told.grad_accum_dtype == "fp32"
    silent = config.DeepSpeedConfig({key: value for key, value in BY_NAME["DeepSpeed"].parsed.items() if key != "communication_data_type"})
    from deepspeed.runtime.engine import DeepSpeedEngine

    def asked(configuration):
        engine = SimpleNamespace(_config=configuration, fp16_enabled=lambda: False, bfloat16_enabled=lambda: True)
        return DeepSpeedEngine.communication_data_type.fget(engine)

    holds("DeepSpeed", asked(told), asked(silent))


@pytest.mark.parametrize("key", ["bf16", "bfloat16"])
def test_deepspeed_takes_stage_2_and_the_older_key(key):
    """What notebook 12 says of it in a sentence."""
    config = pytest.importorskip("deepspeed.runtime.config", reason="deepspeed is not installed: its own parser cannot be asked")
    told = config.DeepSpeedConfig({"train_micro_batch_size_per_gpu": 4, key: {"enabled": True}, "zero_optimization": {"stage": 2}})
    assert told.zero_config.stage == 2 and told.bfloat16_config.enabled


def test_deepspeed_scales_a_loss_in_fp16():
    """What notebook 12 says of it in a sentence."""
    config = pytest.importorskip("deepspeed.runtime.config", reason="deepspeed is not installed: its own parser cannot be asked")
    scaler = config.DeepSpeedConfig({"train_micro_batch_size_per_gpu": 4, "fp16": {"enabled": True}}).float16_config
    assert (scaler.initial_scale_power, scaler.loss_scale_window, scaler.hysteresis, scaler.loss_scale) == (16, 1000, 2, 0)


def test_accelerate():
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed: its own class cannot be asked")
    plugin = accelerate.FullyShardedDataParallelPlugin(fsdp_version=2)
    plugin.set_mixed_precision("bf16")
    told = run("Accelerate").plugin
    told.set_mixed_precision("bf16")  # as the Accelerator does: what was given stays
    assert told.mixed_precision_policy.param_dtype == torch.bfloat16
    holds("Accelerate", told.mixed_precision_policy.reduce_dtype, plugin.mixed_precision_policy.reduce_dtype)


def test_lightning():
    precision = pytest.importorskip("lightning.pytorch.plugins.precision", reason="lightning is not installed: its own class cannot be asked")
    policy = precision.FSDPPrecision("bf16-mixed").mixed_precision_config
    holds("Lightning", run("Lightning").strategy.mixed_precision_config.reduce_dtype, policy.reduce_dtype)


def test_megatron():
    distributed = pytest.importorskip("megatron.core.distributed", reason="megatron-core is not installed: its own class cannot be asked")
    told, silent = run("Megatron Core").config, distributed.DistributedDataParallelConfig()
    dtypes = [torch.float32 if config.grad_reduce_in_fp32 else torch.bfloat16 for config in (told, silent)]
    holds("Megatron Core", *dtypes)


def test_torchtitan():
    configs = pytest.importorskip("torchtitan.config.configs", reason="torchtitan is not installed: its own class cannot be asked")
    from typing import get_args, get_type_hints

    silent = configs.TrainingConfig()
    assert silent.mixed_precision_param == "bfloat16" and get_args(get_type_hints(configs.TrainingConfig)["mixed_precision_reduce"]) == ("float32",)
    holds("torchtitan", run("torchtitan").config.mixed_precision_reduce, silent.mixed_precision_reduce)
