"""Where a short gradient points, and what the sum of short products loses when it is rounded instead of cut."""

import numpy as np
import pytest
import torch

from course.training import corpus, fp8, fp8_runs
from course.training.models import GPTConfig

TINY = GPTConfig(width=64, layers=1, context=16)


@pytest.fixture(scope="module")
def text():
    return corpus.load()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_without_a_scale_what_is_left_of_a_gradient_points_elsewhere(text, seed):
    batch = [torch.from_numpy(each) for each in text.batch(seed, 99, 8, 16)]
    found = {}
    for name, share in (("FP32", 1.0), ("current E4M3 / E5M2", 2.0**-6), ("unscaled E4M3 / E5M2", 2.0**-6), ("unscaled E4M3 / E4M3", 2.0**-30)):
        model = fp8_runs.prepare(name, TINY, seed)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        found[name] = fp8_runs.alignment(model, *batch, share)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        assert all(p.grad is None for p in model.parameters())
    assert found["FP32"] == pytest.approx(1, abs=1e-9) and 0.98 < found["current E4M3 / E5M2"] < 0.99999
    assert found["unscaled E4M3 / E5M2"] < 0.9 and found["unscaled E4M3 / E4M3"] == 0


def test_an_accumulator_that_rounds_to_nearest():
    three = torch.tensor([[3.0] + [0.0] * 31, [5.0] + [0.0] * 31, [7.0] + [0.0] * 31])
    ones = torch.ones(32, 1)
    assert fp8.accumulate(three, ones, bits=2).flatten().tolist() == [3, 4, 6]
    assert fp8.accumulate(three, ones, bits=2, nearest=True).flatten().tolist() == [3, 4, 8]  # 5 and 7 are ties


@pytest.mark.parametrize("seed", range(5))
def test_cutting_grows_with_the_length_and_rounding_with_its_root(seed):
    draw = np.random.default_rng(seed)
    a, b = torch.from_numpy(draw.standard_normal((16, 4096))), torch.from_numpy(draw.standard_normal((4096, 16)))

    def off(length, nearest):
        short, exact = fp8.accumulate(a[:, :length], b[:length], nearest=nearest), a[:, :length] @ b[:length]
        return ((short - exact).norm() / exact.norm()).item()

    assert 6 < off(4096, False) / off(512, False) < 11 and 1.5 < off(4096, True) / off(512, True) < 4.5
