"""Two small notebooks for the tests of the checks: one that keeps every rule of style, one to run."""

import nbformat

from course.teaching.build import normalise

TITLE = """\
# Watch ones stop counting

By the end you will have shown that a running sum of ones stands still in FP16, with the sum as evidence and FP32 as control.

20 minutes · tier: any laptop

- predict where the sum stops
- implement the sum
- change the format
- measure the stall"""
SOURCES = """\
## Sources

- [IEEE 754-2019](https://doi.org/10.1109/IEEESTD.2019.8766229), 4.3: the roundings, of which ties-to-even is the default
- David Goldberg, *What Every Computer Scientist Should Know*: why every programmer should care about the guard digit
- Nicholas Higham, *Accuracy and Stability of Numerical Algorithms*, chapter 4: the error of a sum, and how to lower it"""
PLOT = '<img alt="a line that is flat from 2048 on" src="data:image/png;base64,AAAA">'


def _cell(number, id, source, text):
    shown = [nbformat.v4.new_output("execute_result", {"text/plain": text}, execution_count=number)]
    return nbformat.v4.new_code_cell(source, id=id, execution_count=number, outputs=shown)


def sound_notebook():
    """A notebook that keeps every rule of `style.py`; its cells are as if they had been run."""
    markdown = nbformat.v4.new_markdown_cell
    sections = [markdown(f"## Section {n}\n\n### Detail", id=f"section-{n}") for n in ("two", "three", "four", "five")]
    return normalise(nbformat.v4.new_notebook(cells=[
        markdown(TITLE, id="title"),
        _cell(1, "start", 'import course\n\ncourse.start("01")', "tier: cpu"),
        markdown("## What stops\n\nA sum of ones.", id="what-stops"),
        _cell(2, "ones-stop", "total = 2048  # not torch.randn\nassert total\ntotal", "2048"),
        *sections,
        markdown("## What you showed\n\nIt stops.", id="shown"),
        markdown("## Where it breaks\n\nIn FP32 much later.", id="breaks"),
        markdown(SOURCES, id="sources"),
    ]))  # fmt: skip


RUNNABLE = [
    ("md", "title", "# Show one of each"),
    ("code", "define", "from IPython.display import HTML\nhalf = 0.5"),
    ("code", "exact", "print(2048)"),
    ("code", "result", "hex(0x3f800000)"),
    ("code", "table", "HTML('<table><tr><td>1</td></tr></table>')"),
    ("code", "picture", f"HTML('{PLOT}')"),
    ("code", "measured", "print('≈ 3 % of', 64)"),
]
