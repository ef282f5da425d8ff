"""Tests marked `gpu` say why they are skipped where there is no GPU; what tests that measure a step share."""

import pytest
import torch

from course.training import hardware
from course.training.loop import reproducible


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def one_thread():
    with reproducible(1):
        yield


@pytest.fixture(scope="module")
def cpu():
    return hardware.probe().cpu
