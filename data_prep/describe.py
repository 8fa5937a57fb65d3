"""Say once what your own data is: guess the columns of a table, show them, and write source.yaml beside it.

    python -m data_prep.describe my_notes --access credentialed
    python -m data_prep.describe data/raw/our_questions --kind choice --access public --options a b c d

Reads   PATH: a folder of .txt files, or a CSV, TSV, Excel, JSON-lines or Parquet file, a database, or a
        folder of such
Writes  source.yaml in that folder; a flag that names a column wins over the guess. Nothing else is written.

Then    notes          python -m data_prep.build_documents --source notes=PATH --out data/documents
        instructions   python -m data_prep.build_instructions --raw RAW --sources NAME --out data/instructions
        preferences    python -m data_prep.build_preferences --raw RAW --sources NAME --out data/preferences
        benchmark      python -m data_prep.build_tasks --raw RAW --tasks NAME --out data/tasks
where PATH is RAW/NAME for the last three.
"""

import argparse
import itertools
import re
import sys
from pathlib import Path

import yaml

from data_prep import egress, files
from data_prep.schema import ACCESS, BadInput
from data_prep.sources import tables
from data_prep.sources.raw_files import walk

WHO = (
    "who may read this data? Anybody: --access public. Whoever accepted its terms: --access gated. "
    "Only people named in an agreement or an ethics approval, as with patient data: --access credentialed"
)
# What columns are usually called, most telling first.
USUAL = {
    "text": (
        "text",
        "note_text",
        "note",
        "report",
        "report_text",
        "content",
        "body",
        "transcription",
        "document",
    ),
    "id": ("id", "note_id", "document_id", "doc_id", "report_id", "row_id", "question_id", "accession"),
    "date": ("date", "note_date", "charttime", "chartdate", "datetime", "created", "timestamp"),
    "patient": ("patient_id", "patient", "subject_id", "person_id", "mrn", "pid"),
    "prompt": ("prompt", "instruction", "question", "query", "q"),
    "input": ("input", "context"),
    "answer": (
        "answer",
        "completion",
        "output",
        "response",
        "answer_idx",
        "correct",
        "key",
        "label",
        "labels",
        "a",
    ),
    "system": ("system", "system_prompt"),
    "conversations": ("conversations", "messages", "conversation"),
    "chosen": ("chosen", "response_chosen", "preferred", "better"),
    "rejected": ("rejected", "response_rejected", "dispreferred", "worse"),
    "question": ("question", "query", "text", "prompt", "stem"),
    "split": ("split", "fold"),
}
COLUMNS = {
    "notes": ("text", "id", "date", "patient"),
    "instructions": ("prompt", "input", "answer", "system", "conversations", "id", "patient"),
    "preferences": ("prompt", "chosen", "rejected", "id", "patient"),
    "choice": ("question", "answer", "split", "id", "patient"),
    "labels": ("question", "answer", "split", "id", "patient"),
}
OPTIONS = re.compile(r"(?:option|choice|opt|answer)?[ _]?([a-h]|[1-8])", re.IGNORECASE)
EMPTY = "(none)"


def guess(kind: str, header: list[str], records: list[dict]) -> dict:
    """{key: column} of what the columns of a table are likely to be."""
    found, free = {}, {re.sub(r"\W+", "_", name.lower()): name for name in header}
    for key in COLUMNS[kind]:
        name = next((free.pop(usual) for usual in USUAL[key] if usual in free), None)
        if name is not None:
            found[key] = name
    if kind == "notes" and "text" not in found and (others := list(free.values())):
        found["text"] = max(others, key=lambda name: sum(len(tables.text(row.get(name))) for row in records))
    if kind == "instructions" and "conversations" in found:
        found = {key: found[key] for key in ("conversations", "system", "id", "patient") if key in found}
    if kind == "choice":
        options = [name for name in free.values() if OPTIONS.fullmatch(name.strip())]
        found |= {"options": options} if len(options) > 1 else {}
    if kind in ("choice", "labels") and "options" not in found and "answer" in found:
        answers = [tables.text(row.get(found["answer"])) for row in records]
        labels = {
            part.strip() for text in answers for part in (text.split(";") if kind == "labels" else [text])
        }
        found["choices"] = sorted(labels - {""})
    return found


def describe(args) -> dict:
    """Write source.yaml and return what it says."""
    path, given = args.path, {key: value for key, value in vars(args).items() if value is not None}
    if not path.exists():
        raise BadInput(f"{path}: no such file or folder")
    if not args.access:
        raise BadInput(f"--access: {WHO}")
    folder = path if path.is_dir() else path.parent
    if (folder / tables.NAME).exists() and not args.again:
        raise BadInput(
            f"{folder / tables.NAME}: is there already. Next: edit it, or --again to describe anew"
        )
    settings = {"kind": args.kind, "license": args.license, "access": args.access}
    settings["deidentified"] = args.deidentified
    notes = (
        path.is_dir()
        and args.kind == "notes"
        and not any(f.name.endswith(tables.SUFFIXES) for f in walk(path))
    )
    if notes:
        count = sum(file.suffix == ".txt" for file in walk(path))
        print(f"{path}: {count:,} .txt files, one note each; the id is the path")
        if not count:
            raise BadInput(f"{path}: neither .txt nor {', '.join(tables.SUFFIXES)}")
    else:
        file = tables.files(path, args.kind)[0]
        settings |= {key: given[key] for key in ("table", "query") if key in given}
        sample = list(itertools.islice(tables.raw_rows(file, args.table, args.query), tables.LOOKED_AT))
        header, records = tables.header(sample), [row for _, row in sample if isinstance(row, dict)]
        if not records:
            raise BadInput(f"{file}: no record. Next: a table whose first line names the columns")
        settings |= guess(args.kind, header, records)
        settings |= {key: given[key] for key in (*COLUMNS[args.kind], "options", "choices") if key in given}
        settings = {key: value for key, value in settings.items() if value not in (EMPTY, [EMPTY])}
        show(file, header, records, settings)
    for key in ("domain", "instruction"):
        settings |= {key: given[key]} if key in given else {}
    written = folder / tables.NAME
    content = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    files.replaced(written, lambda partial: partial.write_text(content, encoding="utf-8"))
    try:
        checked = tables.read_settings(written, args.kind)
        if not notes:
            list(itertools.islice(tables.rows(file, checked), 1))
    except BadInput:
        written.unlink()
        raise
    if args.deidentified == "unknown":
        print("de-identification: unknown. Say --deidentified yes or no once you know")
    print(f"wrote {written}: read it, and correct what was guessed wrong")
    return settings


def show(file: Path, header: list[str], records: list[dict], settings: dict) -> None:
    """Print what each column was taken for; of values, only how long they are."""
    names = {column: key for key, column in settings.items() if key in USUAL and isinstance(column, str)}
    names |= dict.fromkeys(settings.get("options", ()), "option")
    print(f"{file}: {len(header)} columns")
    for column in header:
        lengths = [len(tables.text(row.get(column))) for row in records]
        mean = sum(lengths) / len(lengths)
        print(
            f"    {column or '(no name)':<24} {names.get(column, '-'):<14} {mean:,.0f} characters on average"
        )


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path)
    parser.add_argument("--kind", choices=tables.KINDS, default="notes")
    parser.add_argument("--access", choices=ACCESS, help=WHO.replace("%", "%%"))
    parser.add_argument(
        "--license", default="not stated", help="in words: the agreement or license it is under"
    )
    parser.add_argument("--deidentified", choices=("yes", "no", "unknown"), default="unknown")
    parser.add_argument(
        "--domain", choices=("biomedical", "clinical", "general"), help="of notes; else clinical"
    )
    parser.add_argument("--table", help="of a database or spreadsheet")
    parser.add_argument("--query", help="SQL that selects the rows of a database")
    parser.add_argument("--instruction", help="of a benchmark: what stands above each question")
    for key in USUAL:
        parser.add_argument(
            f"--{key}", metavar="COLUMN", help=f"else guessed; '{EMPTY}': there is no such column"
        )
    parser.add_argument("--options", nargs="+", metavar="COLUMN", help="of a multiple-choice benchmark")
    parser.add_argument("--choices", nargs="+", metavar="LABEL", help="of a benchmark without options")
    parser.add_argument("--again", action="store_true", help="replace an earlier source.yaml")
    return parser


def main(argv=None) -> None:
    try:
        describe(make_parser().parse_args(argv))
    except (BadInput, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    egress.isolate(sys.argv[1:], BadInput)
    main()
