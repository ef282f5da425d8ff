"""The text: the same on every run, split by file, and windows that depend on (seed, step) alone."""

import numpy as np
import pytest

from course.training import RunError, corpus


@pytest.fixture
def folder(tmp_path):
    for i in range(40):
        (tmp_path / f"m{i}.py").write_text(f"number = {i}\n" * 30)
    return tmp_path


def test_the_standard_library_is_enough_text_and_stays_the_same():
    first, second = corpus.load(), corpus.load()
    assert first.as_dict() == second.as_dict()
    assert np.array_equal(first.train, second.train) and np.array_equal(first.validation, second.validation)
    assert len(first.train) > 1_000_000 and len(first.validation) > 50_000
    assert first.train.max() < corpus.VOCABULARY and first.validation.max() < corpus.VOCABULARY
    assert b"class OrderedDict" in first.train.tobytes() + first.validation.tobytes()


def test_no_file_is_on_both_sides(folder):
    loaded = corpus.load(folder)
    for i in range(40):
        line = f"number = {i}\n".encode()
        held_out = corpus.in_validation(f"m{i}.py")
        assert (line in loaded.train.tobytes()) != held_out
        assert (line in loaded.validation.tobytes()) == held_out
    assert loaded.files == 40 and 0 < loaded.validation_files < 40


def test_the_hash_sees_every_change(folder):
    before = corpus.load(folder).sha256
    (folder / "m3.py").write_text("number = 4\n" * 30)
    changed = corpus.load(folder).sha256
    (folder / "m3.py").rename(folder / "n3.py")
    assert len({before, changed, corpus.load(folder).sha256}) == 3


def test_what_is_no_source_is_left_out(folder):
    before = corpus.load(folder)
    (folder / "accents.py").write_text("name = 'é'\n")
    (folder / "notes.txt").write_text("text\n")
    (folder / "test").mkdir()
    (folder / "test" / "test_it.py").write_text("assert True\n")
    (folder / "zero.py").write_bytes(b"a\0b")
    (folder / "dangling.py").symlink_to(folder / "nowhere.py")
    assert corpus.load(folder).sha256 == before.sha256


def test_windows_line_ends_make_no_difference(folder):
    before = corpus.load(folder).sha256
    path = folder / "m7.py"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert corpus.load(folder).sha256 == before


def test_batches_depend_on_seed_and_step_alone(folder):
    loaded = corpus.load(folder)
    inputs, targets = loaded.batch(seed=1, step=5, batch=4, context=16)
    for other in range(3):  # whatever was drawn between
        loaded.batch(1, other, 4, 16)
    again = loaded.batch(seed=1, step=5, batch=4, context=16)
    assert np.array_equal(inputs, again[0]) and np.array_equal(targets, again[1])
    assert inputs.shape == targets.shape == (4, 16) and inputs.dtype == np.int64
    assert np.array_equal(inputs[:, 1:], targets[:, :-1])
    others = [loaded.batch(1, 6, 4, 16)[0], loaded.batch(2, 5, 4, 16)[0], loaded.batch(1, 5, 4, 16, "validation")[0]]
    assert not any(np.array_equal(inputs, other) for other in others)


def test_every_place_of_the_text_can_be_drawn():
    text = np.arange(12, dtype=np.uint8)
    small = corpus.Corpus("twelve", text, text, 1, 1, "")
    starts = {int(start) for step in range(50) for start in small.batch(0, step, 8, 4)[0][:, 0]}
    assert starts == set(range(8))  # a window of 4 and its last target need 5 of 12 places


def test_a_python_without_sources_says_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(RunError, match="too few .py files.*--corpus"):
        corpus.load(tmp_path)
    monkeypatch.setattr(corpus.sysconfig, "get_path", lambda name: str(tmp_path / "python311.zip"))
    with pytest.raises(RunError, match="keeps no sources of its library in .*python311.zip.*conda"):
        corpus.load()


def test_a_window_longer_than_the_text(folder):
    with pytest.raises(RunError, match="context 100000 does not fit into the validation text .*smaller --context"):
        corpus.load(folder).batch(0, 0, 1, 100000, "validation")
