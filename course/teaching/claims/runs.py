"""Small training runs that several proofs share: digits, three seeds, each computed once."""

from functools import lru_cache

from course.numerics.formats import BF16, FP16
from course.training.recipes import Recipe
from course.training.sweeps import Trial, sweep

SEEDS = range(3)
SMALL = {"widths": (64, 64, 64, 10), "batch": 64}
WEIGHTS_BF16 = Recipe("weights stored in BF16", weights=BF16)
GRADIENTS = {fmt.name: Recipe(f"gradients in {fmt.name}", activation_gradients=fmt, weight_gradients=fmt) for fmt in (BF16, FP16)}


@lru_cache(maxsize=None)
def run(*recipes, steps=300, **settings):
    """One sweep over recipes (names, or `Trial`s without a seed) and seeds."""
    options = dict(settings)
    trials = [_trial(recipe, seed) for recipe in recipes for seed in SEEDS]
    return sweep(trials, **SMALL, steps=steps, **options)


def finals(*recipes, **settings):
    """(recipes, seeds): the mean loss of the last thirty steps."""
    return run(*recipes, **settings).final.reshape(len(recipes), len(SEEDS))


def _trial(recipe, seed):
    recipe, more = recipe if isinstance(recipe, tuple) else (recipe, ())
    return Trial(recipe, seed=seed, **dict(more))
