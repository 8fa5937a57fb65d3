"""Say of each of the twelve evaluation sets, and of those of your own in RAW, whether it can be used, and if
not, what to do next.

    python -m data_prep.tasks_status --raw data/demo/raw --rows data/demo/tasks

Reads   RAW/<task>/ (are the raw files there?) and ROWS/<task>/manifest.json (have rows been made of them?)
Writes  nothing; prints one line a set:
        ready              the rows are made, or the raw files are there; with the next command
        needs credential   the raw files are not there, and their publisher asks for an agreement; with the
                           page
        missing            the raw files are not there or cannot be used; with the page
"""

import argparse
from pathlib import Path

from data_prep import benchmarks
from data_prep.files import one_sentence, read_json
from data_prep.schema import BadInput


def status(name: str, raw: Path, rows: Path) -> tuple[str, str]:
    """(state, what there is and what to do next) of one set. The raw files are looked for, not read."""
    folder, made = raw / name, rows / name / "manifest.json"
    if made.is_file():
        counts = ", ".join(
            f"{Path(entry['path']).stem} {entry['records']:,}" for entry in read_json(made)["outputs"]
        )
        command = (
            f"python -m evaluation.generate --model MODEL --rows {rows} --tasks {name} --preset "
            "chat --out OUT"
        )
        return "ready", f"{counts} rows. Next: {command}"
    module = benchmarks.load(name, folder)
    problem = f"no folder {folder}"
    if folder.is_dir():
        try:
            benchmarks.raw_files(name, folder)
            return (
                "ready",
                f"raw files in {folder}. Next: python -m data_prep.build_tasks --raw {raw} --tasks "
                f"{name} --out {rows}",
            )
        except BadInput as error:
            problem = str(error).partition(" Next: ")[0].rstrip(".")
    state = "missing" if module.ACCESS == "public" else "needs credential"
    return state, f"{problem}. Next: {module.PAGE}, files as in data_prep/benchmarks/{name}.py"


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--raw", type=Path, required=True, help="folder that holds one folder of raw files for each task"
    )
    parser.add_argument(
        "--rows", type=Path, required=True, help="folder that build_tasks writes, or will write"
    )
    return parser


def main(argv=None) -> None:
    args = make_parser().parse_args(argv)
    with one_sentence():
        for name in benchmarks.names(args.raw):
            state, text = status(name, args.raw, args.rows)
            print(f"{name:<12} {state:<17} {text}")


if __name__ == "__main__":
    main()
