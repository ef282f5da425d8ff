"""The closing words and the picture follow from what was measured."""

import pytest

from course.training import closing, picture, records


def made_up(ratio, here, large, quartiles=None, loss=2.0):
    """A record with only what the closing words read."""
    run = {
        "losses": [4.0, loss], "validation": [[2, loss]], "median_step_seconds": 0.1, "tokens_per_second": 10.0,
        "timed_steps": 2, "skipped_steps": [], "execution": "native", "moved": [], "breakdown": None, "speed": None,
        "memory": {"weights": 4, "gradients": 4, "optimizer": 8, "saved_activations": {"float32": 5}},
    }  # fmt: skip
    names = [{"name": name, "weights": name.upper(), "master": master} for name, master in (("bf16", "FP32"), ("fp32", None))]
    low, high = quartiles or (ratio, ratio)
    gemm = [{"rows": 8, "inner": 8, "columns": 8, "ratio": here}, {"rows": 9, "inner": 9, "columns": 9, "ratio": large}]
    steady = records.steady([low, high])
    speed = {"ratio": ratio, "quartiles": [low, high], "steady": steady, "claimed": steady, "gemm": gemm}
    machine = {"load_average": 5.7, "cores_usable": 2}
    first, last = (run | {"recipe": recipe} for recipe in names)
    return {"runs": [first | {"speed": speed}, last], "hardware": machine}


@pytest.mark.parametrize(
    ("ratio", "here", "large", "words", "absent"),
    [
        (1.6, 2.5, 4.0, "The rest of the step", "too small"),
        (0.9, 1.0, 4.0, "this model is too small to show it", "The rest of the step"),
        (0.9, 0.9, 1.0, "gains next to nothing even in large products", "too small"),
    ],
)
def test_the_reason_follows_from_the_measurement(ratio, here, large, words, absent):
    said = closing.closing_words(made_up(ratio, here, large))
    assert words in said and absent not in said and f"{ratio:.2f} times the speed" in said


def test_a_busy_machine_is_not_blamed_on_the_format():
    record = made_up(1.05, 3.6, 9.6, quartiles=(0.89, 1.68))
    said = closing.closing_words(record)
    assert "No speed is claimed for BF16: from step to step the ratio scattered too widely" in said
    assert "between 0.89 and 1.68" in said and "load 5.7 on 2 cores" in said and "--threads 1" in said
    assert "too small" not in said and "speed" not in picture.title(record)


def test_a_run_that_diverged_says_so(tmp_path):
    record = made_up(1.6, 2.5, 4.0)
    record["runs"][0] |= {"losses": [4.0, None], "validation": [[2, None]]}
    said = closing.closing_words(record)
    assert "The loss of BF16 was not finite in 1 steps: that run diverged." in said and "not finite" in said
    assert "BF16 ends at validation loss not a number" in picture.title(record)
    picture.draw(record, tmp_path / "curves.png")
    assert b"Training and validation loss of BF16 and FP32" in (tmp_path / "curves.png").read_bytes()


def test_the_reason_is_given_once_for_each_format():
    record = made_up(1.6, 2.5, 4.0)
    first, last = record["runs"]
    record["runs"] = [first, first | {"recipe": first["recipe"] | {"name": "pure-bf16"}}, last]
    said = closing.closing_words(record)
    assert said.count("products alone") == 1 and "PURE-BF16 ran at 1.60 times the speed of FP32" in said
    assert said.count("The rest of the step") == 1 and said.count("Step by step the losses of") == 2


def test_where_the_time_goes_and_what_moved():
    record = made_up(1.6, 2.5, 4.0)
    first = record["runs"][0]
    first["recipe"] |= {"master": None, "name": "pure-bf16"}
    first["moved"] = [{"step": 3, "matrices": 0.9, "multiplied": 0.9, "gains": 0.9}, {"step": 9, "matrices": 0.25, "multiplied": 0.25, "gains": 0.0}]
    first["breakdown"] = {"phases": {"forward": 1.0, "backward": 2.0, "optimizer": 1.0}, "kinds": {"matmul": 0.7, "rest": 0.3}}
    said = closing.closing_words(record)
    assert "Weights of PURE-BF16 that changed in step 9: 25 % of the matrices, 0 % of the gains." in said
    assert "A step of PURE-BF16: forward 25 %, backward 50 %, optimizer 25 %; matmul 70 %, rest 30 %." in said
    assert "Weights of FP32" not in said and "A step of FP32" not in said
