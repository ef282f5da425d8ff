"""Real pictures that are always at hand: 1797 handwritten digits of 8 × 8 pixels, shipped in `data/digits.csv.gz`.

Source: E. Alpaydin, C. Kaynak, *Optical Recognition of Handwritten Digits* (its test set), UCI Machine Learning Repository,
1998, doi:10.24432/C50P49, licence CC BY 4.0. One line a picture: 64 pixels from 0 to 16, row by row, then the digit.
"""

import gzip
import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from course.training import RunError

_FILE = Path(__file__).parents[2] / "data" / "digits.csv.gz"
_TRAIN = 1437  # four fifths of the pictures, drawn once with a fixed seed


@dataclass(frozen=True)
class Pictures:
    """Images (n, pixels) float32 from 0 to 1 and labels (n,) int64, for training and for testing."""

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor

    def batch(self, seed, step, size):
        """The (images, labels) of one step, drawn with replacement; they depend on (seed, step) alone."""
        chosen = np.random.default_rng((seed, step)).integers(0, len(self.train_labels), size=size)
        return self.train_images[chosen], self.train_labels[chosen]


@lru_cache(maxsize=1)
def load() -> Pictures:
    """Read the pictures and split them: 1437 to train, 360 to test. Raises `RunError` when the file is missing.

    >>> digits = load()
    >>> digits.train_images.shape, digits.test_labels.shape, digits.train_images.max().item()
    (torch.Size([1437, 64]), torch.Size([360]), 1.0)
    """
    try:
        text = gzip.decompress(_FILE.read_bytes())
    except OSError as error:
        raise RunError(f"{_FILE} cannot be read ({error}): restore data/digits.csv.gz from the course's repository") from None
    table = np.loadtxt(io.BytesIO(text), delimiter=",", dtype=np.int64)
    table = np.random.default_rng(0).permutation(table)
    images, labels = torch.from_numpy((table[:, :64] / 16).astype(np.float32)), torch.from_numpy(table[:, 64])
    return Pictures(images[:_TRAIN], labels[:_TRAIN], images[_TRAIN:], labels[_TRAIN:])
