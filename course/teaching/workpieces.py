"""What exercises hand to a learner's function and a graded submission may see: no solutions in here."""

from dataclasses import dataclass, field

import torch


@dataclass
class Device:
    """A device that works on its own: `run()` only asks for work and returns, `wait()` waits until all is done, `now()` is the clock."""

    launch: float
    kernels: list  # seconds that the device works for the first call, the second, ...; the last one repeats
    queued: float = 0.0  # seconds of work that it already has
    _clock: float = field(default=0.0, repr=False)
    _calls: int = field(default=0, repr=False)

    def run(self):
        self._clock += self.launch
        self.queued = max(self.queued, self._clock) + self.kernels[min(self._calls, len(self.kernels) - 1)]
        self._calls += 1

    def wait(self):
        self._clock = max(self._clock, self.queued)

    def now(self):
        return self._clock


@dataclass(frozen=True)
class Parts:
    """Makes (model, optimizer, scaler, batches), new each time: a layer of six weights, with or without batches that overflow."""

    scale: float
    targets: tuple

    def __call__(self):
        model = torch.nn.Linear(3, 2, bias=False)
        model.weight.data = torch.linspace(-1, 1, 6).view(2, 3)
        inputs = torch.tensor([[1.0, 0.5, -0.25], [0.125, -2.0, 1.0]])
        batches = [(inputs, torch.full((2, 2), float(target))) for target in self.targets]
        scaler = torch.amp.GradScaler("cpu", init_scale=self.scale, growth_interval=2)
        return model, torch.optim.SGD(model.parameters(), lr=0.25), scaler, batches

    def __repr__(self):
        return f"a scale of {self.scale:g} and batches with targets {', '.join(f'{target:g}' for target in self.targets)}"
