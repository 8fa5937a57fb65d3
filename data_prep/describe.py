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
import unicodedata
from pathlib import Path

import yaml

from data_prep import egress, files
from data_prep.files import check_no_link, open_text, read_whole
from data_prep.schema import ACCESS, BadInput
from data_prep.sources import tables
from data_prep.sources.notes import check_one_kind
from data_prep.sources.raw_files import walk

WHO = (
    "who may read this data? Anybody: --access public. Whoever accepted its terms: --access gated. "
    "Only people named in an agreement or an ethics approval, as with patient data: --access credentialed"
)
# What columns are usually called, in English and German, most telling first; without case, accents and marks.
USUAL = {
    key: words.split()
    for key, words in {
        "text": "text notetext note report reporttext content body transcription document freetext "
        "befundtext berichtstext freitext befund bericht arztbrief inhalt",
        "id": "id noteid documentid docid reportid rowid questionid accession uid befundid "
        "berichtid dokumentid frageid befundnummer berichtnummer dokumentnummer fallnummer",
        "date": "date notedate charttime chartdate datetime created timestamp reportdate visitdate "
        "dateofvisit datum befunddatum berichtsdatum aufnahmedatum",
        "patient": "patientid patient subjectid personid mrn pid patientnumber patientno patientnr patid "
        "patno patnr patientenid patientennummer patientennr pseudonym subject",
        "prompt": "prompt instruction question query q frage anweisung aufgabe",
        "input": "input context kontext",
        "answer": "answer completion output response answeridx correct correctanswer key label labels a "
        "antwort losung loesung richtig richtigeantwort diagnosis diagnoses diagnose "
        "diagnosen kategorie",
        "system": "system systemprompt",
        "conversations": "conversations messages conversation",
        "chosen": "chosen responsechosen preferred better",
        "rejected": "rejected responserejected dispreferred worse",
        "question": "question query text prompt stem frage fragetext vignette sentence satz",
        "split": "split fold",
    }.items()
}
LISTS = ("options", "choices", "optionen")  # one column with all options
NAMED = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(?<!_ll)")  # of a set, as commands take it
MOST = 200  # labels
NEEDED = {
    "notes": ["text"],
    "instructions": [],
    "preferences": ["prompt", "chosen", "rejected"],
    "choice": ["question", "answer"],
    "labels": ["question", "answer"],
}
COLUMNS = {
    "notes": ("text", "id", "date", "patient"),
    "instructions": ("prompt", "input", "answer", "system", "conversations", "id", "patient"),
    "preferences": ("prompt", "chosen", "rejected", "id", "patient"),
    "choice": ("question", "answer", "split", "id", "patient"),
    "labels": ("question", "answer", "split", "id", "patient"),
}
OPTIONS = re.compile(r"(?:option|choice|opt|op|answer|antwort)?[ _]?([a-h]|[1-8])", re.IGNORECASE)
EMPTY = "(none)"


def plain(name: str) -> str:
    """A column's name as USUAL has it: "Patienten-ID" is patientenid."""
    ascii = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[\W_]", "", ascii.lower())


def guess(kind: str, header: list[str], records: list[dict]) -> dict:
    """{key: column} of what the columns of a table are likely to be."""
    found, free = {}, {plain(name): name for name in header}
    for key in COLUMNS[kind]:
        name = next((free.pop(usual) for usual in USUAL[key] if usual in free), None)
        if name is not None:
            found[key] = name
    if "id" in found and (again := repeated(found["id"], records)):
        print(f"column '{found.pop('id')}': {again} of {len(records)} values repeat, so it is not the id")
    if kind == "notes" and "text" not in found and (others := list(free.values())):
        found["text"] = max(others, key=lambda name: sum(len(tables.text(row.get(name))) for row in records))
    if kind == "instructions" and "conversations" in found:
        found = {key: found[key] for key in ("conversations", "system", "id", "patient") if key in found}
    if kind == "instructions" and "prompt" not in found and "input" in found:
        found["prompt"] = found.pop("input")
    if kind == "choice":
        options = [name for name in free.values() if OPTIONS.fullmatch(name.strip())]
        options = options if len(options) > 1 else [free[name] for name in LISTS if name in free][:1]
        found |= {"options": options} if options else {}
    return found


def repeated(column: str, records: list[dict]) -> int:
    """How many values of a column were there before."""
    values = [text for row in records if (text := tables.text(row.get(column)).strip())]
    return len(values) - len(set(values))


def benchmark(settings: dict, records) -> dict:
    """What a benchmark's answers say: the labels, how they are joined, and whether options are numbered from
    0."""
    answers = {tables.text(row.get(settings["answer"])).strip() for row in records} - {""}
    if settings.get("options"):
        return {"numbered_from": 0} if "0" in answers and all(map(str.isdecimal, answers)) else {}
    if settings["kind"] == "choice":
        return {"choices": sorted(answers)}
    parts = {mark: {part.strip() for text in answers for part in text.split(mark)} - {""} for mark in ";,|"}
    mark = min(parts, key=lambda mark: len(parts[mark]))  # joined labels are fewer once they are taken apart
    return {"choices": sorted(parts[mark])} | ({"separator": mark} if mark != ";" else {})


def describe(args) -> dict:
    """Write source.yaml and return what it says."""
    try:
        return _describe(args)
    except BadInput as error:
        if "iconv -f CP1252" not in str(error):
            raise
        raise BadInput(f"{error} (or here: --encoding cp1252)") from error


def _describe(args) -> dict:
    path, given = args.path, {key: value for key, value in vars(args).items() if value is not None}
    if not path.exists():
        raise BadInput(f"{path}: no such file or folder")
    if path.is_file():
        check_no_link(path)
    if not args.access:
        raise BadInput(f"--access: {WHO}")
    folder = path if path.is_dir() else path.parent
    if (folder / tables.NAME).exists() and not args.again:
        raise BadInput(
            f"{folder / tables.NAME}: is there already. Next: edit it, or --again to describe anew"
        )
    settings = {"kind": args.kind, "license": args.license, "access": args.access}
    settings |= {"deidentified": args.deidentified}
    settings |= {key: given[key] for key in ("encoding", "table", "query") if key in given}
    if args.kind != "notes" and not NAMED.fullmatch(folder.resolve().name):
        raise BadInput(
            f"{folder}: the set will have this name. Next: mv it to letters, digits, _ and -, not _ll"
        )
    if notes := _is_folder_of_texts(path, args.kind):
        _look_at_texts(path, args.encoding)
        settings |= {key: given[key] for key in ("patient",) if key in given}
    else:
        file = tables.files(path, args.kind)[0]
        records, header = _sample(file, args)
        settings |= guess(args.kind, header, records)
        settings |= {key: given[key] for key in (*COLUMNS[args.kind], "options", "choices") if key in given}
        settings = {key: value for key, value in settings.items() if value not in (EMPTY, [EMPTY])}
        show(file, header, records, settings)
        if missing := [key for key in NEEDED[args.kind] if key not in settings]:
            raise BadInput(
                f"{file}: which column is the {missing[0]}? "
                f"Next: --{missing[0]} COLUMN, one of {', '.join(header)}"
            )
        if args.kind in ("choice", "labels") and "choices" not in settings:
            every = (_sample(file, args, None)[0] for file in tables.files(path, args.kind))
            settings |= benchmark(settings, itertools.chain.from_iterable(every))
            if len(settings.get("choices", ())) > MOST:
                raise BadInput(
                    f"{file}: {len(settings['choices'])} different answers, so they are no labels. "
                    "Next: --options COLUMN COLUMN ..., or --kind instructions"
                )
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
    if "patient" not in settings and args.kind not in ("choice", "labels"):
        folders = "folder, if each patient has a folder" if notes else "COLUMN"
        print(f"patient: unknown, so one patient may be on both sides of a split. Say --patient {folders}")
    print(f"wrote {written}: read it, and correct what was guessed wrong")
    print(f"Next: {_next(path, folder, args.kind)}")
    return settings


def _is_folder_of_texts(path: Path, kind: str) -> bool:
    """Whether `path` is a folder of .txt files. BadInput for such beside tables, and for neither."""
    if not path.is_dir() or kind != "notes":
        return False
    found = list(walk(path))
    texts = [file for file in found if file.suffix == ".txt"]
    named = [file for file in found if file.name.endswith(tables.SUFFIXES)]
    beside = [file for file in named if file.name != "manifest.json"]
    if not texts and not beside:
        for file in found:
            check_no_link(file)
        holds = ", ".join(sorted({file.suffix or file.name for file in found})[:5]) or "nothing"
        raise BadInput(f"{path}: holds {holds}, which is not read. Next: save it as .txt, .xlsx or CSV")
    check_one_kind(path, texts, beside)
    return bool(texts) and not beside


def _look_at_texts(path: Path, encoding: str | None) -> None:
    """Read some of a folder's .txt files. BadInput for one that is not text, or is a table."""
    texts = [file for file in walk(path) if file.suffix == ".txt"]
    print(f"{path}: {len(texts):,} .txt files, one note each; the id is the path")
    for file in [file for file in texts if file.stat().st_size][: tables.LOOKED_AT]:
        with open_text(file, encoding=encoding) as stream:
            lines = read_whole(stream, file).splitlines()
        for mark in "\t;|":
            counts = {line.count(mark) for line in lines if line}
            if len(lines) > 1 and len(counts) == 1 and min(counts) > 1:
                raise BadInput(f"{file}: a table, not a note. Next: mv {file} {file.with_suffix('.csv')}")


def _sample(file: Path, args, most: int | None = tables.LOOKED_AT) -> tuple[list[dict], list[str]]:
    """(the first `most` records of a table, its columns)."""
    rows = tables.raw_rows(file, args.table, args.query, encoding=args.encoding)
    sample = list(itertools.islice(rows, most))
    records = [row for _, row in sample if isinstance(row, dict)]
    if not records:
        raise BadInput(f"{file}: no record. Next: a table whose first line names the columns")
    return records, tables.header(sample)


def _next(path: Path, folder: Path, kind: str) -> str:
    """The command that reads what was described."""
    raw, name = folder.resolve().parent, folder.resolve().name
    if " " in str(path):
        return "mv it to a path without blanks, as make splits its arguments there"
    return {
        "notes": f'make corpus SOURCES="notes={path}" TOKENIZER=MODEL',
        "instructions": f"make instructions RAW={raw} INSTRUCTIONS={name}",
        "preferences": f'make preferences RAW={raw} ARGS="--sources {name}"',
    }.get(kind, f"make tasks RAW={raw} TASKS={name}")


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
    parser.add_argument("--encoding", choices=tables.ENCODINGS, help="of CSV, TSV and .txt; else UTF-8")
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
    with files.one_sentence():
        describe(make_parser().parse_args(argv))


if __name__ == "__main__":
    egress.isolate(sys.argv[1:], BadInput)
    main()
