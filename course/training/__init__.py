"""What a run does: hardware, recipes, models, corpus, loop, records. Imports `numerics` only."""


class RunError(Exception):
    """A run cannot start or go on; the message is one sentence that names the cause and the way out."""
