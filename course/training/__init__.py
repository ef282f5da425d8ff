"""What a run does: hardware, recipes, models, corpus, loop, records. Imports `numerics` only."""
