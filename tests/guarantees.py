"""GUARANTEES.md: what the project promises, and the tests that hold it to it.

    python -m tests.guarantees            write it anew
    make guarantees                       and run those tests

A promise is a mark on the test that fails when it is broken: @pytest.mark.guarantee("Resume", "A run killed
with SIGKILL goes on bit for bit.")"""

import argparse
import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAD = """# What this project promises, and the tests that hold it to it

Made by `python -m tests.guarantees` from the tests: each line is a mark on a test. `make guarantees` runs them.
"""


def marks(path: Path):
    """(subject, promise, test) of each mark in a test file."""
    for node in ast.walk(ast.parse(path.read_text())):
        for mark in getattr(node, "decorator_list", ()):
            if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.guarantee":
                subject, promise = (ast.literal_eval(argument) for argument in mark.args)
                yield subject, promise, f"{path.relative_to(ROOT).as_posix()}::{node.name}"


def table() -> str:
    """The page. A promise that several tests hold is one line."""
    held = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for subject, promise, test in marks(path):
            held.setdefault(subject, {}).setdefault(promise, []).append(test)
    lines = [HEAD]
    for subject in sorted(held):
        lines += [f"## {subject}\n", "| promise | held by |", "|---|---|"]
        lines += [
            f"| {promise} | {'<br>'.join(f'`{test}`' for test in tests)} |"
            for promise, tests in held[subject].items()
        ]
        lines.append("")
    return "\n".join(lines)


def main(argv=None):
    argparse.ArgumentParser(
        description=__doc__.split("\n")[0], epilog="Writes GUARANTEES.md anew; there are no options."
    ).parse_args(argv)
    (ROOT / "GUARANTEES.md").write_text(table())
    print(f"wrote GUARANTEES.md: {table().count('| `tests/')} promises. Next: make guarantees")


if __name__ == "__main__":
    main()
