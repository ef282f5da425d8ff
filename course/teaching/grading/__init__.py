"""`python -m course grade PATHS --csv out.csv`: run the exercises of submitted notebooks, each in a fenced process of its own.

A submission's code never meets the solutions: `collect` picks the functions out of the notebooks, a child process that
does not have the exercises in memory runs them on the cases (`child`, behind the `fence`), what they give comes back
as plain numbers and words (`wire`), and only then is it compared (`pool`). A function that a case hands to the learner's
code stays with the parent; the child asks for its values. `command` writes the table and goes on after a crash.

Nothing is imported here: the children import this package, and must not have the exercises in memory.
"""
