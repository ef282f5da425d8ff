"""Records: those of data/runs are what they say, a contributed one gets its name, older ones are refused in words."""

import copy
import json
import re

import jsonschema
import pytest

from course.training import RunError, closing, recipes, records

CONTRIBUTED = sorted(records.RUNS.glob("*.json"))


def test_there_are_records_and_nothing_else():
    assert len(CONTRIBUTED) >= 5 and {path.suffix for path in records.RUNS.iterdir()} <= {".json", ".md"}


@pytest.mark.parametrize("path", CONTRIBUTED, ids=lambda path: path.stem)
def test_every_record_in_data_runs(path):
    record = records.read(path)
    jsonschema.validate(record, records.SCHEMA)
    assert path.read_text(encoding="utf-8") == records.text(record)  # one normal form: a change of it can be read
    assert path.name == records.name_of(record)
    steps, runs = record["configuration"]["steps"], record["runs"]
    names = [run["recipe"]["name"] for run in runs]
    assert names == [*record["configuration"]["precision"], record["configuration"]["versus"]]
    assert record["configuration"]["corpus"] is None and record["versions"]["commit"]
    for run in runs:
        assert run["recipe"] == recipes.RECIPES[run["recipe"]["name"]].as_dict(), "a recipe has changed: record it again"
        assert len(run["losses"]) == len(run["seconds"]) == steps and run["validation"][-1][0] == steps
        assert bool(run["scales"]) == run["recipe"]["scaler"]
        assert run["speed"] is None or not run["speed"]["claimed"] or run["execution"] == runs[-1]["execution"] == "native"
        assert abs(sum(run["breakdown"]["kinds"].values()) - 1) < 1e-9


@pytest.fixture
def record():
    return copy.deepcopy(records.read(CONTRIBUTED[0]))


def test_a_record_is_contributed_under_its_name(record, tmp_path):
    record["hardware"]["devices"][0]["name"] = "Zen 4 (8 cores) @ 3.1 GHz"
    record["configuration"] |= {"device": "cpu", "precision": ["bf16", "pure-bf16"], "versus": "fp32", "width": 64, "steps": 5, "seed": 3}
    path = records.contribute(record, tmp_path)
    assert path.name == "zen-4-8-cores-3-1-ghz-bf16-pure-bf16-versus-fp32-width-64-steps-5-seed-3.json"
    assert records.read(path) == record and list(tmp_path.iterdir()) == [path]
    record["configuration"]["lr"] = 2.0
    assert records.contribute(record, tmp_path) == path and records.read(path)["configuration"]["lr"] == 2.0


def test_the_name_is_that_of_the_device_that_ran_it(record):
    record["hardware"]["devices"] = [{"kind": "cpu", "name": "host"}, {"kind": "rocm", "name": "MI300X"}]
    for device, name in (("cpu", "host"), ("cuda", "mi300x")):
        record["configuration"]["device"] = device
        assert records.name_of(record).startswith(f"{name}-")


def test_a_text_of_ones_own_is_not_contributed(record, tmp_path):
    record["configuration"]["corpus"] = "/home/me/poems"
    with pytest.raises(RunError, match="leave --corpus out"):
        records.contribute(record, tmp_path)
    assert not list(tmp_path.iterdir())


def test_another_version_and_other_files_are_refused(record, tmp_path):
    path = tmp_path / "record.json"
    for words, text in (("schema 1, not 2.*--fresh", json.dumps(record | {"schema": 1})), ("no record", "{"), ("no record", "[]"), ("no record", "{}")):
        path.write_text(text)
        with pytest.raises(RunError, match=words):
            records.read(path)


def test_numbers_stay_as_they_are_in_the_short_text(record):
    text = records.text(record)
    assert json.loads(text) == record
    assert max(map(len, text.splitlines())) > 500 and text.count("\n") < json.dumps(record, indent=1).count("\n") / 3


def test_the_commit_is_that_of_this_repository(monkeypatch):
    assert re.fullmatch(r"[0-9a-f]{40}\+?", records.commit() or "0" * 40)
    monkeypatch.setenv("PATH", "")
    assert records.commit() is None


def test_what_a_record_is_worth(record):
    for run in record["runs"][:-1]:
        run["speed"]["claimed"] = run["recipe"]["name"] == "bf16"
    assert closing.worth(record) == "Its losses are true on every machine; its speeds count for BF16."
    record["runs"][0]["speed"]["claimed"] = False
    assert closing.worth(record) == "Its losses are true on every machine; it claims no speed."
