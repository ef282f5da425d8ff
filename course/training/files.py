"""Writing files so that a crash at any moment leaves the old file or the new one, never half of either; and hushing C++ code."""

import os
import uuid
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path, data) -> Path:
    """Replace the file at `path` by `data` (bytes or str, UTF-8) in one step.

    The data go to a temporary file in the same folder and reach the disk before the rename, so a kill or a
    full disk keeps the previous file. Missing folders are made. Raises `OSError` as the system gives it.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "note.txt"
    >>> write_atomically(path, "kept").read_text()
    'kept'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")  # beside it: a rename cannot cross file systems
    try:
        with open(temporary, "xb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


@contextmanager
def silent_errors():
    """Within it nothing reaches the process's error stream, not even from C++ code, which writes past Python.

    >>> with silent_errors():
    ...     os.write(2, b"not seen")
    8
    """
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
