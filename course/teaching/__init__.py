"""How it is shown: figures, panels, exercises, questions. Imports `numerics` and `training`."""
