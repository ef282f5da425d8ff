"""A second small task, harder than the digits: one-dimensional pictures, a line of 40 brightnesses, of ten kinds.

Each kind is a curve through twelve random heights. A picture of it is stretched in height, begins anywhere in the first
third of the line, and is noisy, so that no single pixel tells the kind. Made from numpy's generator, the same on every machine.
The idea of such a set is that of MNIST-1D (S. Greydanus, D. Kobak, *Scaling down deep learning*, arXiv:2011.14439).
"""

from functools import lru_cache

import numpy as np
import torch

from course.training.digits import Pictures

KINDS, LENGTH, CURVE = 10, 40, 28
_TRAIN, _TEST = 4000, 1000


@lru_cache(maxsize=1)
def load() -> Pictures:
    """Draw the pictures: 4000 to train, 1000 to test, brightnesses from 0 to 1 in steps of 1/256.

    >>> waves = load()
    >>> waves.train_images.shape, waves.train_images.dtype, len(waves.test_labels.unique())
    (torch.Size([4000, 40]), torch.float32, 10)
    """
    generator = np.random.default_rng(1)
    heights = generator.uniform(0.2, 0.8, (KINDS, 12))
    curves = np.stack([np.interp(np.linspace(0, 11, CURVE), np.arange(12), row) for row in heights])
    labels = generator.integers(0, KINDS, _TRAIN + _TEST)
    starts = generator.integers(0, LENGTH - CURVE + 1, len(labels))
    stretch = generator.uniform(0.7, 1.3, (len(labels), 1))
    images = np.full((len(labels), LENGTH), 0.5)
    places = starts[:, None] + np.arange(CURVE)
    np.put_along_axis(images, places, 0.5 + stretch * (curves[labels] - 0.5), axis=1)
    images += generator.normal(0, 0.05, images.shape)
    # Steps of 1/256: an interpolation that differs in its last bit between machines gives the same picture.
    images = torch.from_numpy((np.round(images.clip(0, 1) * 256) / 256).astype(np.float32))
    labels = torch.from_numpy(labels)
    return Pictures(images[:_TRAIN], labels[:_TRAIN], images[_TRAIN:], labels[_TRAIN:])
