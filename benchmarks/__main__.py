"""`python -m benchmarks` runs the rounding table; `python -m benchmarks NAME` another module of this folder."""

import importlib
import pkgutil
import sys

import benchmarks

NAMES = [module.name for module in pkgutil.iter_modules(benchmarks.__path__) if not module.name.startswith("__")]


def main():
    name = sys.argv.pop(1) if len(sys.argv) > 1 else "rounding"  # what follows is the benchmark's own
    if name not in NAMES:
        sys.exit(f"no benchmark {name!r}: choose one of {', '.join(NAMES)}")
    importlib.import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main()
