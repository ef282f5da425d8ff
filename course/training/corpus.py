"""Text that is always at hand: the Python standard library's own sources, one character a token.

Files are split into training and validation by a hash of their path, so that no file is in both and the split is
the same on every machine with the same Python. The vocabulary is ASCII: 128 characters.
"""

import hashlib
import os
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from course.training import RunError

VOCABULARY = 128
# Tests, tables generated from data, installed packages, and what the build wrote about this very machine.
_SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "encodings", "pydoc_data", "__pycache__"}
_SEPARATOR = b"\0"  # stands between two files and in none of them


@dataclass(frozen=True)
class Corpus:
    """Tokens (uint8, 0…127) for training and validation, and where they came from."""

    name: str
    train: np.ndarray
    validation: np.ndarray
    files: int
    validation_files: int
    sha256: str

    def batch(self, seed, step, batch, context, split="train"):
        """Draw `batch` windows of `context` tokens: (inputs, targets), int64, targets one place further on.

        The draw depends on (seed, split, step) alone, so a resumed run sees exactly the windows it would have seen.
        Raises `RunError` when the split is shorter than one window.
        """
        tokens = getattr(self, split)
        if len(tokens) <= context:
            text = f"the {split} text of {len(tokens)} characters"
            raise RunError(f"context {context} does not fit into {text}: use a smaller --context")
        stream = ("train", "validation").index(split)
        starts = np.random.default_rng((seed, stream, step)).integers(0, len(tokens) - context, size=batch)
        windows = tokens[starts[:, None] + np.arange(context + 1)].astype(np.int64)
        return windows[:, :-1], windows[:, 1:]

    def as_dict(self) -> dict:
        """Name, sizes in characters, number of files and hash, as JSON values."""
        return {
            "name": self.name,
            "characters": len(self.train) + len(self.validation),
            "validation_characters": len(self.validation),
            "files": self.files,
            "validation_files": self.validation_files,
            "sha256": self.sha256,
        }


def in_validation(path) -> bool:
    """Whether the file with this relative path (with "/") is held out: one in ten, by a hash that never changes.

    >>> [path for path in ("ast.py", "json/decoder.py", "queue.py", "random.py") if in_validation(path)]
    ['ast.py', 'random.py']
    """
    return hashlib.sha256(path.encode()).digest()[0] % 10 == 0


def load(folder=None) -> Corpus:
    """Read every pure-ASCII .py file of the standard library, or of `folder`, in the order of their paths.

    Raises `RunError` when there are no sources, as in a frozen or zipped Python.

    >>> corpus = load()
    >>> len(corpus.train) > 1_000_000 and int(corpus.train.max()) < VOCABULARY
    True
    """
    root = Path(folder or sysconfig.get_path("stdlib"))
    texts = {path: text for path, text in _sources(root) if text.isascii() and _SEPARATOR not in text}
    held_out = [path for path in texts if in_validation(path)]
    if not held_out or len(held_out) == len(texts):
        where = f"{root} has too few .py files" if folder else f"this Python keeps no sources of its library in {root}"
        raise RunError(f"{where}: install Python from python.org or conda, or give a folder of .py files with --corpus")
    digest = hashlib.sha256()
    for path, text in texts.items():
        digest.update(f"{path}\0{len(text)}\0".encode() + text)
    train = _tokens(texts[path] for path in texts if not in_validation(path))
    validation = _tokens(texts[path] for path in held_out)
    name = root.name if folder else "Python standard library"
    return Corpus(name, train, validation, len(texts), len(held_out), digest.hexdigest())


def _sources(root):
    paths = []
    for folder, inner, files in os.walk(root):
        inner[:] = [name for name in inner if name not in _SKIPPED and not name.startswith("config-")]
        for name in files:
            if name.endswith(".py") and not name.startswith("_sysconfigdata"):
                path = Path(folder, name)
                paths.append((path.relative_to(root).as_posix(), path))
    for name, path in sorted(paths):
        try:
            # Universal newlines by hand: a Windows installation then has the same text and hash.
            yield name, path.read_bytes().replace(b"\r\n", b"\n")
        except OSError:  # a broken link, a file of another user
            continue


def _tokens(texts):
    return np.frombuffer(_SEPARATOR.join(texts), dtype=np.uint8)
