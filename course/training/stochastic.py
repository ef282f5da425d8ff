"""AdamW over real BF16 parameters, whose sums of weight and update are rounded stochastically.

Nothing of it is emulated: weights, gradients and both moments are BF16 tensors, as under `torch.optim.AdamW` of a model
in BF16. Each step widens them to FP32, lets torch's own fused AdamW make its step there, and stores the results: the
moments to nearest-even, as torch does, the weight by dice. So it differs from torch in one rounding only, and costs the
same memory between two steps. BF16 moments want a β₂ that moves in BF16, such as 0.95; 0.999 stands still there.
"""

import torch
from torch.optim.adamw import adamw

from course.numerics import BF16, round_to

_MOMENTS = ("exp_avg", "exp_avg_sq")  # torch's own names


class StochasticAdamW(torch.optim.Optimizer):
    """AdamW as `torch.optim.AdamW(fused=True)` for BF16 parameters, but w + update is rounded to w stochastically.

    Overflow of a weight is IEEE's. `generator` throws the dice; its state is in `state_dict()`, so that a run that goes
    on from a checkpoint throws the same ones. Raises `TypeError` for a parameter that is not BF16.
    Source: P. Zamirai et al., Revisiting BFloat16 Training, arXiv:2010.06192.

    >>> w = torch.nn.Parameter(torch.ones(4000, dtype=torch.bfloat16))
    >>> adam = StochasticAdamW([w], lr=0.001, generator=torch.Generator().manual_seed(0))
    >>> w.grad = torch.ones_like(w)  # every weight is to lose 0.001, a quarter of the gap below 1
    >>> adam.step(); w.unique().tolist(), 0.22 < w.ne(1).float().mean().item() < 0.29
    ([0.99609375, 1.0], True)
    """

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, *, generator):
        self.generator = generator
        # torch reads "fused" where it loads a state: the step counts then stay on the parameters' device.
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True))

    def add_param_group(self, param_group):
        """Take parameters over; they must be BF16."""
        super().add_param_group(param_group)
        for p in self.param_groups[-1]["params"]:
            if p.dtype != torch.bfloat16:
                raise TypeError(f"a parameter is {p.dtype}: this optimizer stores BF16 weights, so call model.bfloat16() first")

    @torch.no_grad()
    def step(self, closure=None):
        """One step over every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._step_group(params, group)
        return loss

    def _step_group(self, params, group):
        states = [self._state(p) for p in params]
        wide = [p.float() for p in params]
        firsts, seconds = ([state[name].float() for state in states] for name in _MOMENTS)
        adamw(
            wide, [p.grad.float() for p in params], firsts, seconds, [], [state["step"] for state in states],
            fused=True, amsgrad=False, maximize=False, lr=group["lr"], weight_decay=group["weight_decay"],
            beta1=group["betas"][0], beta2=group["betas"][1], eps=group["eps"],
        )  # fmt: skip
        for p, state, target, first, second in zip(params, states, wide, firsts, seconds):
            p.copy_(round_to(target, BF16, "stochastic", generator=self.generator))
            state["exp_avg"].copy_(first)  # copy_ rounds to nearest-even
            state["exp_avg_sq"].copy_(second)

    def _state(self, p):
        state = self.state[p]
        if not state:
            state |= {name: torch.zeros_like(p) for name in _MOMENTS}
            state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
        return state

    def state_dict(self):
        """torch's state dict, and where the dice stand."""
        return super().state_dict() | {"generator": self.generator.get_state()}

    def load_state_dict(self, state_dict):
        """Take a saved state up, dice included; raises `ValueError` for the state of an optimizer without dice."""
        if "generator" not in state_dict:
            raise ValueError("this state was saved by an optimizer without dice: it cannot go on stochastically")
        super().load_state_dict({name: state_dict[name] for name in ("state", "param_groups")})
        self.generator.set_state(state_dict["generator"])
