"""`python -m course train` as a user meets it: killed, interrupted, out of disk, misused, finished."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import jsonschema
import pytest
import torch

from course.__main__ import main
from course.training import checkpoint, memory, picture, records
from course.training.breakdown import PHASES


def expected_recipe():
    """What the command compares with FP32 on this CPU, were it named or not."""
    from course.training import hardware, recipes

    return recipes.to_try(hardware.probe().cpu)


SMALL = "--width 32 --layers 1 --context 16 --batch 2 --threads 1 --device cpu".split()


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for i in range(30):
        (folder / f"m{i}.py").write_text("".join(f"value_{j} = {i + j}\n" for j in range(80)))
    return folder


def command(text, out, *flags):
    return [sys.executable, "-m", "course", "train", *SMALL, "--corpus", str(text), "--out", str(out), *flags]


def finish(text, out, *flags, code=0, **options):
    done = subprocess.run(command(text, out, *flags), capture_output=True, text=True, timeout=120, **options)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def curves(folder):
    """What must not depend on a kill: every loss of both runs, to the last bit (JSON keeps floats exactly)."""
    record = json.loads((folder / "record.json").read_text())
    return [(run["losses"], run["validation"], run["skipped_steps"]) for run in record["runs"]]


def train(*flags):
    """The command in this process."""
    return main(["train", *SMALL, *map(str, flags)])


@pytest.fixture(scope="module")
def finished(text, tmp_path_factory):
    """An undisturbed run of 300 steps, and what it printed."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    return out, finish(text, out, "--steps", "300").stdout


def test_the_record_says_everything(finished, text):
    out, _ = finished
    record = json.loads((out / "record.json").read_text())
    jsonschema.validate(record, records.SCHEMA)
    assert record["configuration"]["precision"] == [expected_recipe()] and record["configuration"]["versus"] == "fp32"
    assert record["configuration"]["width"] == 32 and record["configuration"]["threads"] == 1
    assert record["seeds"] == {"weights": 0, "batches": 0} and record["when"]["resumed"] == 0
    assert record["corpus"]["name"] == text.name and len(record["corpus"]["sha256"]) == 64
    for run in record["runs"]:
        assert len(run["losses"]) == len(run["seconds"]) == 300 and run["validation"][-1][0] == 300
        assert run["losses"][0] - run["losses"][-1] > 1  # it learned
        assert run["tokens_per_second"] == pytest.approx(32 / run["median_step_seconds"])
        assert set(run["breakdown"]["phases"]) == set(PHASES) and min(run["breakdown"]["phases"].values()) > 0
        assert sum(run["breakdown"]["kinds"].values()) == pytest.approx(1)
        assert [count["step"] for count in run["moved"]] == [36, 74, 111, 149, 186, 224, 261, 299]
    speed, none = (run["speed"] for run in record["runs"])
    assert none is None and speed["quartiles"][0] <= speed["ratio"] <= speed["quartiles"][1]
    assert sorted(os.listdir(out)) == ["curves.png", "record.json"]  # checkpoints are gone
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "broken", ["runs", "seeds", "versions", "corpus", "hardware", "when", "configuration", "extra", "nan", "text", "one"]
)
def test_the_schema_can_fail(finished, broken):
    record = json.loads((finished[0] / "record.json").read_text())
    if broken == "extra":
        record["note"] = "more"
    elif broken == "nan":
        record["runs"][0]["losses"][0] = "NaN"
    elif broken == "text":
        record["configuration"]["precision"] = "bf16"
    elif broken == "one":
        del record["runs"][0]
    else:
        del record[broken]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(record, records.SCHEMA)


def test_killed_at_random_moments_it_ends_with_the_same_bits(finished, text, tmp_path):
    flags = ["--steps", "300", "--checkpoint-every", "5"]
    kills, seen = 0, []
    while kills < 3 and not (tmp_path / "record.json").exists():
        process = subprocess.Popen(command(text, tmp_path, *flags, "--resume"), stdout=-3, stderr=-3)
        stamp = newest(tmp_path)
        while process.poll() is None and newest(tmp_path) == stamp:  # until it has made some way
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.25))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "the run ended before three kills: give it more steps"
        kills += 1
        seen.append(checkpoint.Checkpoints(tmp_path).latest()[0]["done"])
    assert "Going on after step" in finish(text, tmp_path, *flags, "--resume").stdout
    assert curves(tmp_path) == curves(finished[0]), seen
    assert json.loads((tmp_path / "record.json").read_text())["when"]["resumed"] >= 1


def newest(folder):
    return max((path.stat().st_mtime_ns for path in folder.glob("checkpoint-?.pt")), default=0)


def test_ctrl_c_then_a_full_disk_then_the_end(finished, text, tmp_path):
    """One story: interrupted between two steps; resumed where no file may grow; resumed again to the same bits."""
    flags = ["--steps", "300", "--checkpoint-every", "5"]
    process = subprocess.Popen(command(text, tmp_path, *flags), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and newest(tmp_path) == 0:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=60)
    assert process.returncode == 130 and "stopped after step" in words and "--resume" in words
    assert "Traceback" not in words
    before = checkpoint.Checkpoints(tmp_path).latest()[0]["done"]

    resource = pytest.importorskip("resource")
    tight = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # noqa: E731
    failed = finish(text, tmp_path, "--resume", "--checkpoint-every", "5", code=1, preexec_fn=tight)
    assert "error: there is no room to write in" in failed.stderr and "--resume" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert checkpoint.Checkpoints(tmp_path).latest()[0]["done"] == before

    damaged = max(tmp_path.glob("checkpoint-?.pt"), key=lambda path: path.stat().st_mtime_ns)
    damaged.write_bytes(damaged.read_bytes()[:-7])
    done = finish(text, tmp_path, "--resume")  # no flag is needed: the checkpoint knows them
    if before > 0:  # else the only checkpoint is the one before the first step
        assert f"{damaged.name} is damaged" in done.stderr
    assert curves(tmp_path) == curves(finished[0])


def test_what_is_printed_is_what_was_measured(finished):
    out, printed = finished
    record = json.loads((out / "record.json").read_text())
    for run in record["runs"]:
        assert f"{run['validation'][-1][1]:.4f}" in printed and f"{run['tokens_per_second']:.0f}" in printed
    speed, name = record["runs"][0]["speed"], record["runs"][0]["recipe"]["name"].upper()
    if speed["claimed"]:
        assert f"{name} ran at {speed['ratio']:.2f} times the speed of FP32" in printed
    else:
        assert "No speed is claimed" in printed
    for run in record["runs"]:
        for kind, share in run["breakdown"]["kinds"].items():
            assert f"{kind} {100 * share:.0f} %" in printed


def test_finished_is_finished(finished, text, capsys):
    out, printed = finished
    before = (out / "record.json").read_bytes()
    assert train("--corpus", text, "--out", out, "--resume") == 0
    assert "This run is finished already" in capsys.readouterr().out
    assert train("--corpus", text, "--out", out) == 1
    assert "holds a finished run: add --fresh to replace it, or give another --out" in capsys.readouterr().err
    assert train("--corpus", text, "--out", out, "--resume", "--seed", 3) == 1
    assert "--seed 3 does not fit: this run was started with 0" in capsys.readouterr().err
    assert (out / "record.json").read_bytes() == before


@pytest.fixture
def unfinished(text, tmp_path, monkeypatch):
    """A run of six steps that stopped after the third, as at Ctrl-C."""
    from course.training import train as module

    real = module._Saver.__call__

    def call(saver, comparison):
        if comparison.done == 3:
            saver.stop.append(signal.SIGINT)
        real(saver, comparison)

    with monkeypatch.context() as patched:
        patched.setattr(module._Saver, "__call__", call)
        assert train("--corpus", text, "--out", tmp_path, "--steps", 6) == 130
    return tmp_path


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--width", "64", "--width 64 does not fit: this run was started with 32"),
        ("--steps", "7", "--steps 7 does not fit: this run was started with 6"),
        ("--minutes", "1", "--minutes 1.0 does not fit: this run was started without it"),
        ("--precision", "fp16", f"--precision fp16 does not fit: this run was started with {expected_recipe()}"),
        ("--compile", None, "--compile True does not fit: this run was started without it"),
        ("--lr", "0.1", "--lr 0.1 does not fit: this run was started with 0.001"),
        ("--threads", "2", "--threads 2 does not fit: this run was started with 1"),
    ],
)
def test_resuming_with_another_argument_names_it(unfinished, text, capsys, flag, value, words):
    assert train("--corpus", text, "--out", unfinished, "--resume", flag, *([value] if value else [])) == 1
    assert words in capsys.readouterr().err
    assert checkpoint.Checkpoints(unfinished).latest()[0]["done"] == 3


def test_an_unfinished_run_is_not_overwritten(unfinished, text, capsys):
    assert train("--corpus", text, "--out", unfinished, "--steps", 6) == 1
    assert "holds an unfinished run: add --resume to go on, or --fresh to start anew" in capsys.readouterr().err
    assert train("--corpus", text, "--out", unfinished, "--steps", 5, "--fresh") == 0
    assert json.loads((unfinished / "record.json").read_text())["configuration"]["steps"] == 5


def test_the_text_must_be_the_same(unfinished, text, tmp_path_factory, capsys):
    other = tmp_path_factory.mktemp("elsewhere") / "text"
    other.mkdir()
    for path in text.iterdir():
        (other / path.name).write_text(path.read_text() + "more = 1\n")
    state, _ = checkpoint.Checkpoints(unfinished).latest()
    state["arguments"]["corpus"] = str(other)
    checkpoint.Checkpoints(unfinished).save({**state, "done": 4})
    assert train("--out", unfinished, "--resume") == 1
    assert "the text has changed since this run began" in capsys.readouterr().err


def test_no_whole_checkpoint(unfinished, text, capsys):
    for path in unfinished.glob("checkpoint-?.pt"):
        path.write_bytes(b"")
    assert train("--corpus", text, "--out", unfinished, "--resume") == 1
    assert "no checkpoint in" in (words := capsys.readouterr().err) and "--fresh" in words


def test_another_machine_is_noted(unfinished, text, capsys):
    kept = checkpoint.Checkpoints(unfinished)
    state, _ = kept.latest()
    kept.delete()
    kept.save({**state, "environment": {**state["environment"], "torch": "1.0"}})
    assert train("--corpus", text, "--out", unfinished, "--resume") == 0
    assert "note: torch was 1.0, is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--precision", "fp12"], "invalid choice: 'fp12'"),
        (["--steps", "0"], "'0' is not a whole number of at least 1"),
        (["--steps", "-3"], "'-3' is not a whole number of at least 1"),
        (["--steps", "ten"], "'ten' is not a whole number of at least 1"),
        (["--minutes", "nan"], "'nan' is not a number above 0"),
        (["--minutes", "-1"], "'-1' is not a number above 0"),
        (["--lr", "inf"], "'inf' is not a number above 0"),
        (["--seed", "x"], "'x' is not a whole number of at least 0"),
        (["--steps", "3", "--minutes", "1"], "not allowed with argument"),
        (["--resume", "--fresh"], "not allowed with argument"),
        (["--device", "tpu"], "invalid choice: 'tpu'"),
    ],
)
def test_bad_flags(flags, words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["train", *flags])
    assert ended.value.code == 2 and words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--width", "200"], "width 200 does not divide into 3 heads: use a multiple of 64"),
        (["--context", "1000000"], "use a smaller --context"),
        (["--device", "xpu"], "there is no xpu device here"),
        (["--precision", "tf32"], "has no native TF32"),
    ],
)
def test_what_cannot_run_is_one_sentence(text, tmp_path, flags, words, capsys):
    assert train("--corpus", text, "--out", tmp_path, "--steps", 3, *flags) == 1
    printed = capsys.readouterr().err
    assert words in printed and len(printed.strip().splitlines()) == 1


def test_an_unwritable_folder(text, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert train("--corpus", text, "--out", tmp_path / "file" / "run", "--steps", 3) == 1
    words = capsys.readouterr().err
    assert "cannot write in" in words and "choose another folder with --out" in words and "Traceback" not in words


def test_a_model_that_can_never_fit_is_refused_before_it_is_built(text, tmp_path, capsys):
    assert train("--corpus", text, "--out", tmp_path, "--steps", 3, "--width", 64 * 2**18) == 1
    assert "2 such models need at least" in capsys.readouterr().err


def test_no_memory(text, tmp_path, capsys, monkeypatch):
    def full(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(memory, "step_memory", full)
    assert train("--corpus", text, "--out", tmp_path, "--steps", 3) == 1
    assert "use a smaller --batch, --context or --width" in capsys.readouterr().err


def test_emulated_fp16_is_announced_and_claims_no_speed(text, tmp_path, capsys):
    from course.training import hardware

    if "fp16" in hardware.probe().cpu.native:
        pytest.skip("FP16 is native here")
    assert train("--corpus", text, "--out", tmp_path, "--steps", 5, "--precision", "fp16") == 0
    printed = capsys.readouterr()
    assert "has no native FP16: fp16 is emulated" in printed.err
    assert "No speed is claimed: FP16 was emulated here" in printed.out
    record = json.loads((tmp_path / "record.json").read_text())
    jsonschema.validate(record, records.SCHEMA)
    assert record["runs"][0]["speed"]["claimed"] is False and record["runs"][0]["execution"] == "emulated"
    assert "speed" not in picture.title(record)


def test_minutes_choose_the_steps_once(text, tmp_path, capsys):
    assert train("--corpus", text, "--out", tmp_path, "--minutes", 0.02) == 0
    printed = capsys.readouterr().out
    record = json.loads((tmp_path / "record.json").read_text())
    steps = record["configuration"]["steps"]
    assert steps >= 10 and f"{steps} steps fit into 0.02 minutes here." in printed
    assert len(record["runs"][0]["losses"]) == steps


def test_several_precisions_in_one_run(text, tmp_path, capsys):
    names = ["bf16", "pure-bf16", "bf16-sr"]
    assert train("--corpus", text, "--out", tmp_path, "--steps", 16, "--precision", *names) == 0
    printed = capsys.readouterr().out
    record = records.read(tmp_path / "record.json")
    jsonschema.validate(record, records.SCHEMA)
    assert [run["recipe"]["name"] for run in record["runs"]] == [*names, "fp32"] and record["configuration"]["precision"] == names
    assert [run["speed"] is None for run in record["runs"]] == [False, False, False, True]
    for run in record["runs"]:
        assert f"{run['validation'][-1][1]:.4f}" in printed and "A step of " + run["recipe"]["name"].upper() in printed
    last = record["runs"][1]["moved"][-1]
    assert last["gains"] == 0 and f"Weights of PURE-BF16 that changed in step 15: {100 * last['embeddings']:.0f} % of the embeddings, 0 % of the gains" in printed
    assert printed.count("BF16 and FP32 differ by") == 2 and "Weights of BF16 that" not in printed  # PURE-BF16 ends in BF16, too
    title = picture.title(record)
    assert title.startswith("BF16 ends at validation loss ") and title.count(", ") >= 3
    assert b"Training and validation loss of BF16, PURE-BF16, BF16-SR and FP32" in (tmp_path / "curves.png").read_bytes()
    assert len({run["losses"][-1] for run in record["runs"]}) == 4


def test_a_record_is_contributed_once_it_is_wanted(tmp_path, capsys, monkeypatch):
    real = records.contribute
    monkeypatch.setattr(records, "contribute", lambda record: real(record, tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    assert train("--steps", 3) == 0
    capsys.readouterr()
    folder = tmp_path / "runs" / f"{expected_recipe()}-versus-fp32"  # where a run without --out is kept
    assert (folder / "record.json").exists() and not (tmp_path / "data").exists()
    assert train("--resume", "--record") == 0
    (path,) = (tmp_path / "data").iterdir()
    assert f"Contributed: {path}. Its losses are true on every machine" in capsys.readouterr().out
    assert records.read(path) == records.read(folder / "record.json")
    path.unlink()
    assert train("--steps", 3, "--fresh", "--record") == 0 and path.exists()


def test_a_text_of_ones_own_is_refused_before_the_training(text, tmp_path, capsys):
    assert train("--corpus", text, "--out", tmp_path, "--steps", 3, "--record") == 1
    assert "leave --corpus out, or --record" in capsys.readouterr().err and not (tmp_path / "record.json").exists()


def test_a_record_of_an_older_version_is_named(text, tmp_path, capsys):
    (tmp_path / "record.json").write_text('{"schema": 1}')
    assert train("--corpus", text, "--out", tmp_path, "--resume") == 1
    assert "schema 1, not 2" in capsys.readouterr().err
