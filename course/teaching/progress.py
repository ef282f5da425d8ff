"""What the learner has done, kept in one small file that survives crashes, corruption and read-only homes."""

import json
import os
import time
from contextlib import contextmanager
from pathlib import Path

from course.training.files import write_atomically

_EMPTY = {"version": 1, "predictions": {}, "exercises": {}}


def progress_file() -> Path:
    """Where progress is kept: the user's data folder, or `COURSE_PROGRESS_DIR` if that is set."""
    if folder := os.environ.get("COURSE_PROGRESS_DIR"):
        return Path(folder).expanduser() / "progress.json"
    import platformdirs

    return Path(platformdirs.user_data_dir("float-course", appauthor=False)) / "progress.json"


def load() -> dict:
    """Everything recorded so far; an empty record at first.

    An unreadable file is set aside under another name and the copy kept from the write before is used.
    """
    path = progress_file()
    for candidate in (path, path.with_suffix(".previous.json")):
        record = _read(candidate)
        if record is not None:
            return record
    return {key: dict(value) if isinstance(value, dict) else value for key, value in _EMPTY.items()}


def _read(path):
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if _is_whole(record):
            return record
    except OSError:
        return None
    except (ValueError, RecursionError):
        pass
    try:
        path.replace(path.with_name(f"{path.name}.unreadable-{time.strftime('%Y%m%d-%H%M%S')}"))
    except OSError:
        pass
    return None


def _is_whole(record):
    if not isinstance(record, dict) or record.get("version") != 1:
        return False
    parts = [value for kind, value in record.items() if kind != "version"]
    return {"predictions", "exercises"} <= set(record) and all(isinstance(part, dict) and all(isinstance(entry, dict) for entry in part.values()) for part in parts)


@contextmanager
def _alone(path, patience=5.0):
    """Keep other writers waiting: two notebooks may be checked at once. A lock left behind by a crash is broken."""
    lock = path.with_suffix(".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience
    while True:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
            break
        except FileExistsError:
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def record(kind: str, key: str, **entry) -> str:
    """Keep `entry` under `kind` and `key`; gives "" or one sentence why it could not be kept.

    Kinds are "predictions", "exercises", and what later notebooks add: "votes", "cards", "trainers".
    """
    path = progress_file()
    try:
        with _alone(path):
            state = load()  # read again each time: another notebook may have written since
            entries = state.setdefault(kind, {})
            entries[key] = {**entries.get(key, {}), **entry, "when": time.strftime("%Y-%m-%dT%H:%M:%S")}
            if path.exists():
                write_atomically(path.with_suffix(".previous.json"), path.read_bytes())
            write_atomically(path, json.dumps(state, indent=1, sort_keys=True))
    except OSError as error:
        return f"Progress could not be saved to {path.parent} ({error.strerror}); set COURSE_PROGRESS_DIR to a folder you can write to."
    return ""


def progress():
    """The learner's progress through all exercises and predictions, as a table.

    >>> print(progress())  # doctest: +ELLIPSIS
    Your progress
    notebook  exercises solved  predictions made  of them right
    ...
    """
    from .exercises import EXERCISES
    from .questions import predictions
    from .tables import Table

    kept, rows = load(), []
    for notebook in sorted({key[:2] for key in EXERCISES}):
        mine = [key for key in EXERCISES if key.startswith(notebook)]
        asked = [key for key, question in predictions().items() if question.notebook == notebook]
        solved = sum(kept["exercises"].get(key, {}).get("solved", False) for key in mine)
        given = [kept["predictions"][key] for key in asked if key in kept["predictions"]]
        right = sum(bool(answer.get("correct")) for answer in given)
        rows.append((notebook, f"{solved} of {len(mine)}", f"{len(given)} of {len(asked)}", right))
    return Table(("notebook", "exercises solved", "predictions made", "of them right"), rows, "Your progress")
