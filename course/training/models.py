"""Two models that can be read in one sitting: a small GPT (pre-norm blocks, causal attention, GELU, learned positions) and an MLP."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from course.training import RunError


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT; `heads` None gives heads of 64 channels, and one head below 128 channels.

    >>> GPTConfig(width=256).head_count
    4
    """

    vocabulary: int = 128
    width: int = 256
    layers: int = 4
    context: int = 128
    heads: int | None = None
    tied: bool = False  # whether the output layer shares the token embedding's weights
    attention: str = "fused"  # or "written": the same as two products and a softmax between them

    def __post_init__(self):
        if self.attention not in ATTENTIONS:
            raise RunError(f"attention {self.attention!r} is unknown: choose one of {', '.join(ATTENTIONS)}")
        for name in ("vocabulary", "width", "layers", "context"):
            if getattr(self, name) < 1:
                raise RunError(f"{name} {getattr(self, name)} is no size: give at least 1")
        if self.width % self.head_count:
            raise RunError(f"width {self.width} does not divide into {self.head_count} heads: use a multiple of 64")

    @property
    def head_count(self) -> int:
        return self.heads or max(1, self.width // 64)

    @property
    def parameters(self) -> int:
        """How many numbers the model holds, without building it."""
        block = 12 * self.width**2 + 13 * self.width  # qkv 3, out 1, widen 4, narrow 4; biases 9, two norms 4
        embeddings = (self.vocabulary * (1 if self.tied else 2) + self.context) * self.width
        return embeddings + self.layers * block + 2 * self.width


def fused_attention(q, k, v):
    """torch's fused kernel: the table of scores is never stored. (batch, heads, time, width per head), causal."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def written_attention(q, k, v):
    """Two products and a softmax, in the dtype that they are given: the scores are stored, and rounded to it.

    >>> q = torch.linspace(-1, 1, 32).view(1, 1, 4, 8)
    >>> torch.allclose(written_attention(q, q, q), fused_attention(q, q, q))
    True
    """
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    return scores.masked_fill(later, float("-inf")).softmax(-1) @ v


ATTENTIONS = {"fused": fused_attention, "written": written_attention}


class Attention(nn.Module):
    """Causal self-attention: position t reads positions 0…t."""

    def __init__(self, config):
        super().__init__()
        self.heads, self.mix = config.head_count, ATTENTIONS[config.attention]
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, x):  # (batch, time, width)
        batch, time, width = x.shape
        q, k, v = self.qkv(x).view(batch, time, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = self.mix(q, k, v)  # (batch, heads, time, width per head)
        return self.out(mixed.transpose(1, 2).reshape(batch, time, width))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): the residual stream itself is never normalised."""

    def __init__(self, config):
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.attention = Attention(config)
        self.widen = nn.Linear(config.width, 4 * config.width)
        self.narrow = nn.Linear(4 * config.width, config.width)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x))
        return x + self.narrow(F.gelu(self.widen(self.mlp_norm(x))))


class GPT(nn.Module):
    """Token ids (batch, time) to logits (batch, time, vocabulary), time ≤ `config.context`.

    The weights come from numpy's generator seeded with `seed`, so they are equal on every machine:
    torch's own generator gives other normal numbers on another CPU.

    >>> GPT(GPTConfig(width=32, layers=1, context=8), seed=0)(torch.zeros(2, 8, dtype=torch.long)).shape
    torch.Size([2, 8, 128])
    """

    def __init__(self, config, seed):
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Embedding(config.context, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.vocabulary, bias=False)
        if config.tied:
            self.head.weight = self.tokens.weight
        self.initialise(np.random.default_rng(seed))

    @torch.no_grad()
    def initialise(self, generator):
        """Normal weights of standard deviation 0.02, smaller where a layer adds to the residual stream; zero biases."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0 if "norm.weight" in name else 0.0)
                continue
            adds = name.endswith(("attention.out.weight", "narrow.weight"))
            deviation = 0.02 / (2 * self.config.layers) ** 0.5 if adds else 0.02
            parameter.copy_(torch.from_numpy(deviation * generator.standard_normal(parameter.shape)))

    def forward(self, ids):
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def loss_of(model, inputs, targets):
    """Mean cross-entropy in nats per token, computed in FP32 whatever the format of the logits."""
    logits = model(inputs)
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


class MLP(nn.Module):
    """Linear layers of the given widths with ReLU between them: (batch, widths[0]) to logits (batch, widths[-1]).

    Weights and biases are uniform within ±1/√(inputs), which is what `nn.Linear` begins with, but drawn from
    numpy's generator seeded with `seed`, so that they are equal on every machine.

    >>> MLP((64, 32, 10), seed=0)(torch.zeros(5, 64)).shape
    torch.Size([5, 10])
    """

    def __init__(self, widths=(64, 128, 128, 128, 10), seed=0):
        super().__init__()
        if len(widths) < 2 or min(widths) < 1:
            raise RunError(f"widths {tuple(widths)} make no network: give at least two positive numbers")
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in zip(widths, widths[1:]))
        for layer, (weight, bias) in zip(self.layers, uniform_layers(widths, seed)):
            with torch.no_grad():
                layer.weight.copy_(weight)
                layer.bias.copy_(bias)

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


def uniform_layers(widths, seed) -> list:
    """The (weight (out, in), bias (out,)) of each layer of an `MLP`, float32."""
    generator = np.random.default_rng(seed)
    layers = []
    for inputs, outputs in zip(widths, widths[1:]):
        draws = generator.uniform(-1, 1, (outputs, inputs + 1)) / inputs**0.5
        layers.append(torch.from_numpy(draws.astype(np.float32)).split([inputs, 1], dim=1))
    return [(weight.contiguous(), bias.flatten()) for weight, bias in layers]
