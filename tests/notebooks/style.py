"""The rules of a notebook, as functions `check_…(notebook) -> list of faults`; each fault names its cell by id.

They read the file only. That the stored outputs are true is nbval's part (see strict.py).
"""

import ast
import io
import re
import statistics
import tokenize
from html.parser import HTMLParser

from course.teaching.build import DEAD, id_faults, serialise

LARGEST = 600_000  # bytes of a notebook
PROMISE = re.compile(r"By the end you will have shown that .+, with .+ as evidence and .+ as (the )?control", re.DOTALL)
VAGUE = re.compile(r"\b(understand|learn|know|appreciate|be aware|be familiar|explore)\b", re.IGNORECASE)
CLOSING = ("what you showed", "where it breaks", "sources")
HOSTILE = {  # what cannot be compared from run to run, needs the network, or differs between machines
    r"\b(Out|In)\s*\[": "`Out[…]` and `In[…]` are empty when nbval runs the cell: give the value a name",
    r"\binteract(ive|ive_output)?\b": "`interact` leaks its output: use a panel",
    r"\bwidgets\.Output\b|\bOutput\(\)": "`Output` leaks what is printed in it: use a panel",
    r"\bclear_output\b": "`clear_output` cannot be compared: show one result",
    r"\bdisplay_id\b|\bupdate_display\b": "an updated display cannot be compared: show one result",
    r"^\s*[%!]": "no magics and no shell: a cell is Python, installs nothing and times with course.measured",
    r"\b(wget|urlopen|urlretrieve|requests\.get|hf_hub_download)\b": "no downloads: the course works without a network",
    r"\bsys\.path\b": "`course` is installed: no sys.path",
    r"\btorch\.(randn|rand|randint|manual_seed)\b": "torch's random numbers differ between processors: "
    "use numpy.random.default_rng",
    r"\b(np|numpy)\.random\.(?!default_rng|Generator)\w+": "numpy's global generator: use numpy.random.default_rng",
    r"\bwarnings\.warn\b": "a warning shows the path of a temporary file: print the sentence",
}


class _Images(HTMLParser):
    """Collects the attributes of every `<img>` of a piece of HTML."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.found.append(dict(attrs))


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def markdown_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "markdown"]


def code_lines(cell) -> list[str]:
    return [line for line in cell.source.splitlines() if line.strip()]


def code_only(source) -> str:
    """The source with what stands in strings and comments blanked out, line by line in its place.

    >>> code_only("a = 'torch.randn'  # not torch.randn")
    'a =                                 '
    """
    lines = [list(line) for line in source.splitlines()]
    text = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type in text:
                _blank(lines, token.start, token.end)
    except (tokenize.TokenError, IndentationError):  # a magic or a broken cell: judged as it stands
        return source
    return "\n".join("".join(line) for line in lines)


def _blank(lines, start, end):
    for row in range(start[0] - 1, end[0]):
        first = start[1] if row == start[0] - 1 else 0
        last = end[1] if row == end[0] - 1 else len(lines[row])
        lines[row][first:last] = " " * (last - first)


def nodes(cell) -> list[ast.AST]:
    try:
        return list(ast.walk(ast.parse(cell.source)))
    except SyntaxError:
        return []


def calls(cell, name) -> list[ast.Call]:
    """The calls of a function by its last name: `measured` finds `measured(x)` and `course.measured(x)`."""
    found = [node for node in nodes(cell) if isinstance(node, ast.Call)]
    return [node for node in found if getattr(node.func, "attr", getattr(node.func, "id", None)) == name]


def asserts(cell) -> bool:
    return any(isinstance(node, ast.Assert) for node in nodes(cell))


def texts(cell) -> list[str]:
    """Everything a code cell shows as text: streams, plain text and HTML."""
    shown = []
    for output in cell.outputs:
        data = output.get("data", {})
        shown += [output.get("text", ""), data.get("text/plain", ""), data.get("text/html", "")]
    return [text for text in shown if text]


def headings(notebook) -> list[tuple[int, str, str]]:
    """Level, text and cell id of each heading, those in fenced code left out."""
    found = []
    for cell in markdown_cells(notebook):
        prose = re.sub(r"^(```|~~~).*?^\1", "", cell.source, flags=re.MULTILINE | re.DOTALL)
        matches = re.findall(r"^(#{1,6})\s+(.+)$", prose, re.MULTILINE)
        found += [(len(marks), text.strip(), cell.id) for marks, text in matches]
    return found


def items(markdown) -> list[str]:
    """The entries of the lists in a piece of Markdown, each with the lines that continue it."""
    return re.findall(r"^(?:[-*+]|\d+\.)\s+(.+(?:\n[ \t]+\S.*)*)", markdown, re.MULTILINE)


# ---- every cell is run and compared


def check_ids(notebook):
    return id_faults(notebook)


def check_counts(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    if counts == list(range(1, len(counts) + 1)):
        return []
    return [f"the cells were run as {counts}, not once each from top to bottom: run `python -m course build`"]


def check_markers(notebook):
    marker = re.compile(r"#\s*(NBVAL_\w+|PYTEST_VALIDATE_\w+)")
    found = [(cell.id, marker.search(cell.source)) for cell in code_cells(notebook)]
    return [f"{id}: the comment {hit[1]}: use a tag, and metadata nbval_reason" for id, hit in found if hit]


def check_semicolons(notebook):
    ends = [(cell.id, line) for cell in code_cells(notebook) for line in code_only(cell.source).splitlines()]
    return [f"{id}: a line ends with `;`, which hides a result from readers but not from nbval"
            for id, line in ends if line.rstrip().endswith(";")]  # fmt: skip


def check_hostile(notebook):
    faults = []
    for cell in code_cells(notebook):
        code = code_only(cell.source)
        faults += [f"{cell.id}: {why}" for pattern, why in HOSTILE.items() if re.search(pattern, code, re.MULTILINE)]
    return faults


def check_visible(notebook):
    """Each cell shows something, asserts something, or only imports and defines."""
    quiet = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)

    def only_defines(cell):
        try:
            return all(isinstance(node, quiet) for node in ast.parse(cell.source).body)
        except SyntaxError:
            return False

    hidden = [c for c in code_cells(notebook) if not c.outputs and not asserts(c) and not (c.source and only_defines(c))]
    return [f"{cell.id}: shows nothing and asserts nothing" for cell in hidden]


def check_quiet(notebook):
    faults = []
    for cell in code_cells(notebook):
        kinds = {(output.output_type, output.get("name")) for output in cell.outputs}
        if ("error", None) in kinds and "raises-exception" not in cell.metadata.get("tags", []):
            faults.append(f"{cell.id}: an error is stored")
        if ("stream", "stderr") in kinds:
            faults.append(f"{cell.id}: a warning is stored: remove its cause")
        if any(" at 0x" in text for text in texts(cell)):
            faults.append(f"{cell.id}: shows the address of an object: give it a repr")
    return faults


def check_widgets(notebook):
    faults = ["widget state is stored: run `python -m course build`"] if "widgets" in notebook.metadata else []
    views = [cell.id for cell in code_cells(notebook) for output in cell.outputs if DEAD in output.get("data", {})]
    return faults + [f"{id}: a dead widget view is stored: run `python -m course build`" for id in views]


# ---- numbers and pictures


def check_measured(notebook):
    """A measured number is marked `≈` where it is shown, and the claim it supports is asserted beside it."""
    faults = []
    for cell in code_cells(notebook):
        marked = any("≈" in text for text in texts(cell))
        if calls(cell, "measured") and not marked:
            faults.append(f"{cell.id}: calls measured() but shows no `≈`")
        if marked and not asserts(cell):
            faults.append(f"{cell.id}: shows a measured number (`≈`) and asserts nothing about it")
    return faults


def check_pictures(notebook):
    """A picture comes from the figure helper, and the numbers in it are asserted: nbval does not compare it."""
    faults = []
    for cell in code_cells(notebook):
        data = [output.get("data", {}) for output in cell.outputs]
        if any(kind.startswith("image/") for each in data for kind in each):
            faults.append(f"{cell.id}: a bare picture has no alt text: draw it with course.teaching.figures.figure")
        if any("data:image/" in each.get("text/html", "") for each in data) and not asserts(cell):
            faults.append(f"{cell.id}: draws a picture and asserts none of its numbers")
    return faults


def check_alt(notebook):
    faults = []
    for cell in notebook.cells:
        pieces = [cell.source] if cell.cell_type == "markdown" else texts(cell)
        for image in [image for piece in pieces for image in _Images(piece).found]:
            if len((image.get("alt") or "").strip()) < 10:
                faults.append(f"{cell.id}: an image without alt text: say what it shows")
        if cell.cell_type == "markdown":
            alts = re.findall(r"!\[([^\]]*)\]\(", cell.source)
            faults += [f"{cell.id}: an image without alt text: say what it shows" for alt in alts if len(alt.strip()) < 10]
    return faults


# ---- shape


def check_length(notebook):
    lengths = {cell.id: len(code_lines(cell)) for cell in code_cells(notebook)}
    faults = [f"{id}: {length} lines of code, at most 20" for id, length in lengths.items() if length > 20]
    if len(code_cells(notebook)) > 25:
        faults.append(f"{len(code_cells(notebook))} code cells, at most 25")
    if lengths and statistics.median(lengths.values()) > 6:
        faults.append(f"the median cell has {statistics.median(lengths.values())} lines of code, at most 6")
    return faults


def check_headings(notebook):
    found, faults = headings(notebook), []
    if [level for level, _, _ in found].count(1) != 1 or found[0][0] != 1:
        faults.append("one heading of the first level, and it comes first")
    for (above, _, _), (level, text, id) in zip(found, found[1:], strict=False):
        if level > above + 1:
            faults.append(f"{id}: the heading {text!r} skips from level {above} to {level}")
    return faults


def check_sections(notebook):
    body = [text for level, text, _ in headings(notebook) if level == 2 and text.lower() not in (*CLOSING, "cards")]
    return [] if 5 <= len(body) <= 8 else [f"{len(body)} sections before the closing ones, not five to eight: {body}"]


def check_first_cell(notebook):
    cell = notebook.cells[0]
    if cell.cell_type != "markdown":
        return [f"{cell.id}: the first cell is the title, in Markdown"]
    faults, minutes = [], re.search(r"(\d+)\s+minutes", cell.source)
    if len((headings(notebook) or [(0, "", "")])[0][1].split()) < 3:
        faults.append("the title says with a verb what is done: three words or more")
    if not PROMISE.search(cell.source):
        faults.append("no sentence 'By the end you will have shown that …, with … as evidence and … as control'")
    if not minutes or not 1 <= int(minutes[1]) <= 45:
        faults.append("no time in minutes, 45 at most")
    if not re.search(r"\b(hardware|tier)\b", cell.source, re.IGNORECASE):
        faults.append("no hardware tier")
    outcomes = items(cell.source)
    if not 4 <= len(outcomes) <= 6:
        faults.append(f"{len(outcomes)} outcomes, not four to six")
    vague = [each for each in outcomes if VAGUE.search(each)]
    faults += [f"an outcome nobody can see: {each!r}: predict, implement, measure" for each in vague]
    return [f"{cell.id}: {fault}" for fault in faults]


def check_second_cell(notebook):
    cell = notebook.cells[1] if len(notebook.cells) > 1 else notebook.cells[0]
    started = re.search(r"""^course\.start\(["']\d\d["']\)$""", cell.source.strip(), re.MULTILINE)
    if cell.cell_type == "code" and re.search(r"^(import|from) ", cell.source, re.MULTILINE) and started:
        return []
    return [f"{cell.id}: the second cell imports and calls course.start with the notebook's number"]


def check_end(notebook):
    """The closing sections, and three to six sources that each say what is to be found there."""
    titles = [text.lower() for level, text, _ in headings(notebook) if level == 2]
    faults = [f"no section {name.capitalize()!r} at the end" for name in CLOSING if name not in titles[-4:]]
    prose = "\n\n".join(cell.source for cell in markdown_cells(notebook))
    sources = items(re.split(r"^## ", prose.partition("## Sources")[2], flags=re.MULTILINE)[0])
    if not 3 <= len(sources) <= 6:
        faults.append(f"{len(sources)} sources, not three to six")
    notes = {each: re.split(r":\s|\s[—–]\s", each, maxsplit=1)[1:] for each in sources}
    return faults + [f"a source without a note (': what it gives'): {each!r}"
                     for each, note in notes.items() if not note or len(note[0]) < 20]  # fmt: skip


def check_prose(notebook):
    """Prose lives in Markdown: nothing of more than 120 characters is printed as it stands in the code."""
    faults = []
    for cell in code_cells(notebook):
        for call in calls(cell, "print"):
            literals = [node.value for node in ast.walk(call) if isinstance(node, ast.Constant)]
            if sum(len(literal) for literal in literals if isinstance(literal, str)) > 120:
                faults.append(f"{cell.id}: prints a paragraph: write it in Markdown")
    return faults


def check_size(notebook):
    size = len(serialise(notebook).encode())
    return [] if size <= LARGEST else [f"{size:,} bytes, at most {LARGEST:,}"]


CHECKS = [check for name, check in sorted(globals().items()) if name.startswith("check_")]


def exempt_share(notebooks) -> float:
    """The share of all code cells that are skipped or not compared; at most 2 % are allowed."""
    cells = [cell for notebook in notebooks for cell in code_cells(notebook)]
    exempt = [cell for cell in cells if {"nbval-skip", "nbval-ignore-output"} & set(cell.metadata.get("tags", []))]
    return len(exempt) / max(len(cells), 1)
