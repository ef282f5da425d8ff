"""One recipe in the words of six libraries: BF16 compute, FP32 masters, gradients summed in FP32; and what each does when not told.

The texts are what one would write; tests give each to its library's own parser or class, where that library is installed, and read back
in which format gradients are summed. Read with torch 2.13, deepspeed 0.19.8, accelerate 1.15.0, lightning 2.6.6, megatron-core 0.16.1
and torchtitan 0.3.0.
"""

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Configuration:
    """How a library is told the recipe. `default`: the format of sums where only BF16 was asked for; `because`: where that is decided."""

    library: str
    text: str  # Python, or JSON where it begins with a brace
    says: str  # the words of the text that decide about the sums
    default: str
    because: str

    @property
    def parsed(self):
        """The JSON as a dict, or the Python compiled (not run: the library may be missing)."""
        return json.loads(self.text) if self.text.startswith("{") else compile(self.text, self.library, "exec")


CONFIGURATIONS = (
    Configuration(
        "FSDP2", """\
from torch.distributed.fsdp import MixedPrecisionPolicy

policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
""", "reduce_dtype", "BF16", "reduce_dtype=None: gradients are summed in the dtype they were computed in, param_dtype",
    ),
    Configuration(
        "DeepSpeed", """\
{
  "train_micro_batch_size_per_gpu": 4,
  "bf16": {"enabled": true},
  "zero_optimization": {"stage": 3},
  "communication_data_type": "fp32",
  "data_types": {"grad_accum_dtype": "fp32"}
}
""", "communication_data_type", "BF16", "communication_data_type=None: FP16 with fp16, BF16 with bf16, else FP32",
    ),
    Configuration(
        "Accelerate", """\
from accelerate import FullyShardedDataParallelPlugin

sums = {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32, "output_dtype": torch.bfloat16}
plugin = FullyShardedDataParallelPlugin(fsdp_version=2, mixed_precision_policy=sums)
""", "mixed_precision_policy", "BF16", "mixed_precision=bf16 sets param_dtype, reduce_dtype and output_dtype alike",
    ),
    Configuration(
        "Lightning", """\
from lightning.pytorch.strategies import FSDPStrategy
from torch.distributed.fsdp import MixedPrecision

strategy = FSDPStrategy(mixed_precision=MixedPrecision(param_dtype=torch.bfloat16, reduce_dtype=torch.float32))
""", "mixed_precision", "BF16", "precision=bf16-mixed sets param_dtype, reduce_dtype and buffer_dtype alike",
    ),
    Configuration(
        "Megatron Core", """\
from megatron.core.distributed import DistributedDataParallelConfig

config = DistributedDataParallelConfig(grad_reduce_in_fp32=True, use_distributed_optimizer=True)
""", "grad_reduce_in_fp32", "BF16", "grad_reduce_in_fp32=False: the dtype of the weights",
    ),
    Configuration(
        "torchtitan", """\
from torchtitan.config.configs import TrainingConfig

config = TrainingConfig(mixed_precision_param="bfloat16", mixed_precision_reduce="float32")
""", "mixed_precision_reduce", "FP32", "mixed_precision_reduce knows one value only, float32",
    ),
)  # fmt: skip
