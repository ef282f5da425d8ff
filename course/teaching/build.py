"""`python -m course build [NOTEBOOKS]` runs notebooks from top to bottom and writes them in one normal form.

A notebook that was built twice differs only in its measured numbers (`≈`) and the bytes of its pictures.
`--check` writes nothing and says which notebooks would come out differently.
"""

import asyncio
import copy
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat

from course.training.files import write_atomically

ROOT = Path(__file__).parents[2]
CELL_METADATA = {"tags", "nbval_reason", "jupyter"}
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"},
}
DEAD = "application/vnd.jupyter.widget-view+json"  # refers to a kernel that is gone: the panels' own HTML stays
KEBAB = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
CLAIMS = "<details><summary>"  # how the list of claims begins
RANDOM = re.compile(r"(?=[a-f]*[0-9])[0-9a-f]{8}(-[0-9a-f]{4}){0,3}(-[0-9a-f]+)?")  # as Jupyter draws them


class BuildError(Exception):
    """A notebook cannot be built; the message names the notebook, the cell, and what is wrong with it."""


def add_arguments(parser):
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: each in notebooks/")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a notebook would change")
    parser.add_argument("--claims", action="store_true", help="run nothing; renew the lists of claims that notebooks settle")
    parser.add_argument("--timeout", type=int, default=120, metavar="SECONDS", help="longest time for one cell")


def run(args) -> int:
    """Build the notebooks named, or all of them; the exit code is the number that failed, or changed with --check."""
    paths, bad = args.notebooks or sorted((ROOT / "notebooks").glob("*.ipynb")), 0
    for path in paths:
        start = time.perf_counter()
        try:
            changed = renew_claims(path, args.check) if args.claims else build(path, timeout=args.timeout, check=args.check)
        except (BuildError, OSError, nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
            bad += 1
            print(f"{path.name}: {error}", file=sys.stderr)
            continue
        bad += changed and args.check
        verb = "would change" if changed and args.check else "changed" if changed else "as it was"
        print(f"{path.name}: {verb} ({time.perf_counter() - start:.1f} s)")
    return min(bad, 100)


def build(path, timeout=120, check=False) -> bool:
    """Run one notebook and write it normalised; returns whether anything but measured numbers and pictures changed.

    Raises `BuildError` for a cell without a telling id and for a cell that raises; nothing is written then.
    """
    path = Path(path)
    old = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(old, as_version=4)
    if faults := id_faults(notebook):
        raise BuildError("; ".join(faults))
    new = serialise(with_claims(normalise(execute(notebook, path.parent, timeout)), path.name[:2]))
    if not check:
        write_atomically(path, new)
    return masked(new) != masked(old)


def renew_claims(path, check=False) -> bool:
    """Write the list of claims of one notebook anew, running nothing; returns whether it was out of date."""
    path = Path(path)
    old = path.read_text(encoding="utf-8")
    new = serialise(with_claims(nbformat.reads(old, as_version=4), path.name[:2]))
    if not check and new != old:
        write_atomically(path, new)
    return new != old


def with_claims(notebook, number):
    """The notebook with a list of the claims that it settles at the end of its cell `cards`, by data/claims.yaml.

    A list that is there is replaced; a notebook that settles none has none. The verdicts are not told.
    """
    from .claims import settled_in

    settled = settled_in(number)
    for cell in notebook.cells:
        if cell.id == "cards" and cell.cell_type == "markdown":
            rest = cell.source.partition(CLAIMS)[0].rstrip()
            lines = "\n".join(f"- {claim.claim}" for claim in settled)
            count = "claim" if len(settled) == 1 else f"{len(settled)} claims"
            head = f"{CLAIMS}The {count} that circulate and are settled here; notebook 15 lets you vote first</summary>"
            cell.source = f"{rest}\n\n{head}\n\n{lines}\n\n</details>" if settled else rest
    return notebook


def execute(notebook, folder, timeout=120):
    """A copy of `notebook` run from top to bottom in a fresh kernel of this Python, in `folder`.

    The kernel sees neither the learner's saved progress nor his IPython start-up files.
    """
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    class ThisPython(AsyncKernelManager):  # whatever kernel a user may have registered as python3
        kernel_spec = KernelSpec(argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"])

    notebook, running = copy.deepcopy(notebook), []
    client = NotebookClient(notebook, timeout=timeout, store_widget_state=False, kernel_manager_class=ThisPython)
    client.on_cell_start = lambda cell, cell_index: running.append(cell.id)
    if sys.platform == "win32":
        asyncio.set_event_loop_policy(asyncio.WindowsSelectorEventLoopPolicy())  # the kernel's sockets need it there
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        env = os.environ | clean_environment(temporary)
        try:
            client.execute(env=env, cwd=str(folder), stderr=subprocess.DEVNULL)  # the kernel's own log
        except CellExecutionError as error:
            raise BuildError(f"cell {running[-1]}: {error.ename}: {error.evalue}") from None
        except CellTimeoutError:
            raise BuildError(f"cell {running[-1]}: still running after {timeout} s (--timeout allows more)") from None
        except DeadKernelError:
            raise BuildError(f"cell {running[-1]}: the kernel died") from None
    return notebook


def clean_environment(folder) -> dict[str, str]:
    """Where a kernel of the checks keeps progress and looks for start-up files: in `folder`, and nowhere else."""
    return {"COURSE_PROGRESS_DIR": f"{folder}/progress", "IPYTHONDIR": f"{folder}/ipython"}


def normalise(notebook):
    """A copy of `notebook` in the form that is committed; what is normal comes back unchanged.

    Kept are the cells with their ids, tags and outputs. Dropped is what differs from run to run or from machine
    to machine: times, versions, widget state, the front end's own notes.

    >>> notebook = nbformat.v4.new_notebook(metadata={"widgets": {"state": {}}})
    >>> "widgets" in normalise(notebook).metadata
    False
    """
    notebook = nbformat.from_dict(copy.deepcopy(notebook))
    notebook.metadata = nbformat.from_dict(copy.deepcopy(METADATA))
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for cell in notebook.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key in CELL_METADATA}
        if cell.cell_type == "code":
            cell.outputs = [_normal_output(output, cell) for output in _merged_streams(cell.outputs)]
    return notebook


def _normal_output(output, cell):
    output = nbformat.from_dict(copy.deepcopy(output))
    if "data" in output:
        output.data.pop(DEAD, None)
        output.metadata = {}
    if output.output_type == "execute_result":
        output.execution_count = cell.execution_count
    return output


def _merged_streams(outputs):
    """The outputs with every stream in one piece, where its first piece stood: how it was cut is a matter of timing."""
    merged, streams = [], {}
    for output in copy.deepcopy(outputs):
        name = output.get("name") if output.output_type == "stream" else None
        if name in streams:
            streams[name].text += output.text
            continue
        if name:
            streams[name] = output
        merged.append(output)
    return merged


def serialise(notebook) -> str:
    """The text of a notebook's file: sorted keys, one step of indentation, a newline at the end."""
    return nbformat.writes(notebook, version=4).rstrip("\n") + "\n"


def masked(text) -> str:
    """`text` with everything hidden that nbval does not compare (tests/nbval.cfg), for comparing two builds."""
    rules = (ROOT / "tests" / "nbval.cfg").read_text(encoding="utf-8")
    for pattern, replacement in re.findall("^regex: (.*)$\n^replace: (.*)$", rules, flags=re.MULTILINE):
        text = re.sub(pattern, replacement, text)
    return text


def id_faults(notebook) -> list[str]:
    """What is wrong with the ids of the cells: they name the cell for readers, links and translations.

    >>> cells = [nbformat.v4.new_markdown_cell("", id="3f2a90bc"), nbformat.v4.new_markdown_cell("", id="ties")]
    >>> id_faults(nbformat.v4.new_notebook(cells=cells))
    ["cell 1 has the id '3f2a90bc': give it a telling one, such as 'swamping-threshold'"]
    """
    ids = [cell.get("id", "") for cell in notebook.cells]
    untelling = [(n, id) for n, id in enumerate(ids, 1) if not KEBAB.fullmatch(id) or RANDOM.fullmatch(id)]
    faults = [f"cell {n} has the id {id!r}: give it a telling one, such as 'swamping-threshold'" for n, id in untelling]
    return faults + [f"two cells have the id {id!r}" for id in sorted({id for id in ids if ids.count(id) > 1 and id})]


def write_notebook(path, cells):
    """Write a notebook from a list of cells, keeping the outputs that the file at `path` has for unchanged ones.

    A cell is `(kind, id, source)` or `(kind, id, source, metadata)` with the kind "md" or "code". Returns the path.

    >>> path = Path(tempfile.mkdtemp()) / "small.ipynb"
    >>> [cell.id for cell in nbformat.read(write_notebook(path, [("md", "title", "# Add one")]), 4).cells]
    ['title']
    """
    path, kinds = Path(path), {"md": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
    old = {cell.id: cell for cell in nbformat.read(path, as_version=4).cells} if path.exists() else {}
    made = []
    for kind, id, source, *metadata in cells:
        if kind not in kinds:
            raise ValueError(f"cell {id!r} is of the kind {kind!r}: choose 'md' or 'code'")
        cell = kinds[kind](source.strip("\n"), id=id, metadata=metadata[0] if metadata else {})
        before = old.get(id)
        if kind == "code" and before is not None and before.cell_type == "code" and before.source == cell.source:
            cell.outputs, cell.execution_count = before.outputs, before.execution_count
        made.append(cell)
    notebook = normalise(nbformat.v4.new_notebook(cells=made))
    if faults := id_faults(notebook):
        raise BuildError("; ".join(faults))
    return write_atomically(path, serialise(notebook))
