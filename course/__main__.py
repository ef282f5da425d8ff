"""The command line: `python -m course <command>`; each command lives in the module that does the work."""

import argparse
import importlib
import sys

# command: (module under `course` with `add_arguments(parser)` and `run(args) -> exit code`, help)
COMMANDS = {
    "doctor": ("training.hardware", "what this machine can do, and the tier the notebooks will use"),
    "lab": ("teaching.lab", "open JupyterLab on the course"),
    "test": ("teaching.lab", "run every test"),
    "build": ("teaching.build", "execute and normalise notebooks"),
    "grade": ("teaching.grading.command", "grade submitted notebooks, each exercise in a fenced process"),
    "release": ("teaching.release", "the course as a folder for students, and the answer key apart"),
    "train": ("training.train", "train a small GPT in a chosen precision, beside another"),
    "cards": ("teaching.interview.export", "the interview questions as an Anki deck, a table or printable sheets"),
}


def main(argv=None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="python -m course", description=__doc__.split(":")[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, (module, text) in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text)
        if argv[:1] == [name]:  # load only the module that is asked for: `--help` stays quick
            importlib.import_module(f"course.{module}").add_arguments(sub)
    args = parser.parse_args(argv)
    return importlib.import_module(f"course.{COMMANDS[args.command][0]}").run(args)


if __name__ == "__main__":
    sys.exit(main())
