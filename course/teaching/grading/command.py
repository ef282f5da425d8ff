"""The grade command: which notebooks, which exercises, the table, and what was done before a crash."""

import csv
import hashlib
import io
import json
import os
import queue
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from course.training.files import write_atomically

from ..build import ROOT
from ..exercises import EXERCISES
from ..exercises.checking import Verdict
from . import collect
from .pool import Limits, Nursery

COLUMNS = ("notebook", "exercise", "points", "status", "misconception", "reason", "seconds")
_RANK = {"right": 0, "wrong": 1, "crashed": 2, "refused": 3, "not attempted": 4}


def add_arguments(parser):
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="notebooks, or folders to search for them")
    parser.add_argument("--csv", type=Path, required=True, help="the table to write: one row for each notebook and exercise")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time (default: one for each core)")
    parser.add_argument("--seconds", type=int, default=10, help="processor time for one exercise (default: 10)")
    parser.add_argument("--fresh", action="store_true", help="grade all anew, whatever an earlier run that was cut off has left")


def run(args) -> int:
    """Grade and write the table; 0 if every notebook could be read, 1 if one could not, 2 for a path that is not there."""
    if os.name != "posix":
        print("grade needs Linux or macOS, whose limits on processes it relies on: run it there, in WSL or in a container", file=sys.stderr)
        return 2
    missing = [str(path) for path in args.paths if not path.exists()]
    if missing or args.jobs < 1 or args.seconds < 1:
        print(f"not found: {', '.join(missing)}" if missing else "--jobs and --seconds must be at least 1", file=sys.stderr)
        return 2
    notebooks = find(args.paths)
    journal = Journal(args.csv, args.fresh, args.seconds)
    rows = grade_all(notebooks, journal, args.jobs, Limits(seconds=args.seconds, clock=2.0 * args.seconds))
    write_atomically(args.csv, table(rows))
    journal.close()
    report(rows, args.csv)
    return int(any(row["status"] == "unreadable" for row in rows))


def find(paths) -> dict:
    """Name → path of every notebook at or below the paths, sorted; names are as short as they can be and stay apart."""
    files = []
    for path in paths:
        files += sorted(p for p in path.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts) if path.is_dir() else [path]
    files = sorted({file.resolve() for file in files})
    common = Path(os.path.commonpath([file.parent for file in files])) if files else Path()
    return {file.relative_to(common).as_posix(): file for file in files}


def work_of(name, path) -> tuple:
    """(candidates, finished rows) of one notebook: what has to be run, and what can be said without."""
    try:
        found, broken, number = collect.candidates(collect.cells_of(path), EXERCISES, collect.stub_names(), Path(name).name)
    except collect.Unreadable as error:
        return [], [row(name, "", Verdict("unreadable", "", str(error)))]
    due = [id for id in EXERCISES if id.startswith(f"{number}-") and id in collect.stub_names()]  # of the clinic's cases four have cells
    due += sorted({candidate.exercise_id for candidate in found} - set(due))
    if not due:
        return [], [row(name, "", Verdict("unreadable", "", "no exercise of the course was found in it"))]
    answered = {candidate.exercise_id for candidate in found}
    rows = [row(name, id, Verdict("crashed", id, broken[id])) for id in due if id in broken and id not in answered]
    missing = [id for id in due if id not in answered and id not in broken]
    rows += [row(name, id, Verdict("missing", id, "no cell checks this exercise, and no function has its stub's name")) for id in missing]
    return found, rows


def row(name, exercise_id, verdict, seconds=0.0) -> dict:
    """One row of the table."""
    reason = " ".join(verdict.message.split())
    values = (name, exercise_id, int(verdict.status == "right"), verdict.status, verdict.misconception, reason[:500], round(seconds, 2))
    return dict(zip(COLUMNS, values))


class Journal:
    """What has been graded, kept line by line beside the table until it is whole; keyed by the notebook's bytes."""

    def __init__(self, target, fresh, seconds):
        self.path, self.lock = target.with_name(target.name + ".partial"), threading.Lock()
        self.key = f"{seconds}:{len(EXERCISES)}"
        if fresh:
            self.path.unlink(missing_ok=True)
        self.done = self._read()

    def _read(self):
        done = {}
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except OSError:
            return done
        for line in lines:
            try:
                entry = json.loads(line)
                done[entry["of"]] = entry["rows"]
            except (ValueError, KeyError, TypeError):  # the line that a crash cut short
                pass
        return done

    def name(self, path) -> str:
        """What a notebook's entry is called."""
        return hashlib.sha256(self.key.encode() + path.read_bytes()).hexdigest()

    def keep(self, path, rows):
        """Write down the rows of one notebook."""
        with self.lock, self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"of": self.name(path), "rows": rows}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def close(self):
        """The table is whole: the journal goes."""
        self.path.unlink(missing_ok=True)


def hidden(paths, journal) -> list:
    """What no submission may read: the others, and the points. A folder that Python or the course lives in is left out."""
    folders = {path.parent for path in paths}
    used = (str(ROOT), sys.prefix, sys.base_prefix)
    return [journal, *(folder for folder in folders if not any(place.startswith(str(folder)) for place in used))]


def grade_all(notebooks, journal, jobs, limits) -> list:
    """All rows, in the order of the notebooks and exercises; a progress bar where someone watches."""
    from tqdm.auto import tqdm

    waiting, results, private = queue.Queue(), {}, hidden(notebooks.values(), journal.path)
    for name, path in notebooks.items():
        kept = journal.done.get(journal.name(path))
        if kept is None:
            waiting.put((name, path))
        else:
            results[name] = [{**entry, "notebook": name} for entry in kept]
    with tqdm(total=len(notebooks), initial=len(results), desc="grading", unit="notebook", disable=not sys.stderr.isatty()) as bar:
        threads = [threading.Thread(target=_worker, args=(waiting, results, journal, limits, bar, private), daemon=True) for _ in range(min(jobs, max(1, waiting.qsize())))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return [entry for name in notebooks for entry in results[name]]


def _worker(waiting, results, journal, limits, bar, private):
    with Nursery(limits, private) as nursery:
        while True:
            try:
                name, path = waiting.get_nowait()
            except queue.Empty:
                return
            rows = _rows(name, path, nursery)
            journal.keep(path, rows)
            results[name] = rows
            bar.update()


def _rows(name, path, nursery):
    found, rows = work_of(name, path)
    best = {}
    for candidate in found:
        start = time.perf_counter()
        try:
            verdict = nursery.grade(candidate)
        except Exception as error:  # one submission must not stop the class
            nursery.close()
            verdict = Verdict("crashed", candidate.exercise_id, f"could not be graded: {type(error).__name__}: {error}"[:200])
        entry = row(name, candidate.exercise_id, verdict, time.perf_counter() - start)
        old = best.get(candidate.exercise_id)
        if old is None or _RANK.get(entry["status"], 9) < _RANK.get(old["status"], 9):
            best[candidate.exercise_id] = entry
    order = list(EXERCISES)
    return sorted([*rows, *best.values()], key=lambda entry: order.index(entry["exercise"]) if entry["exercise"] else -1)


def table(rows) -> str:
    """The rows as CSV. A reason that a spreadsheet would take for a formula gets an apostrophe."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _harmless(value) for key, value in entry.items()} for entry in rows)
    return file.getvalue()


def _harmless(value):
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def report(rows, target):
    """Points for each notebook, and where the table is."""
    for name in dict.fromkeys(entry["notebook"] for entry in rows):
        mine = [entry for entry in rows if entry["notebook"] == name]
        other = Counter(entry["status"] for entry in mine if entry["status"] not in ("right",))
        rest = ", ".join(f"{count} {status}" for status, count in other.items())
        print(f"{name}: {sum(entry['points'] for entry in mine)} of {len(mine)}{f' ({rest})' if rest else ''}")
    print(f"{len(rows)} rows in {target}")
