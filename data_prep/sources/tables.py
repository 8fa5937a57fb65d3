"""Tables of any site: CSV, TSV, Excel, JSON lines, Parquet, SQLite and DuckDB, row by row; and the
source.yaml beside them.

source.yaml says once what a table is and what its columns are called; `python -m data_prep.describe PATH`
writes it.
    kind            notes (documents), instructions (rows to train on), preferences (pairs of answers),
                    choice or labels (a benchmark)
    license, access, deidentified     who may read it; "yes", "no" or "unknown"
    encoding        of CSV, TSV and .txt, where it is not UTF-8
    table, query    of a database: the table to read (of a workbook: the sheet), or the SQL that selects rows
    patient         column: documents and rows of one patient go to the same split
and the columns of its kind, see the classes below. `read_settings` checks it.
"""

import collections
import itertools
import json
import re
import sqlite3
import zipfile
from pathlib import Path
from typing import Annotated, Literal

import openpyxl
import pydantic
from openpyxl.utils.exceptions import InvalidFileException

from data_prep import egress
from data_prep.files import LONGEST, open_bytes, open_text, read_json, read_jsonl, read_parquet, read_yaml
from data_prep.schema import Access, BadInput
from data_prep.sources import sidecar
from data_prep.sources.raw_files import csv_records, files_below

NAME = "source.yaml"
LOOKED_AT = 200  # records in which the columns are looked for
DATABASES = (".sqlite", ".sqlite3", ".db", ".duckdb")
SUFFIXES = (
    ".csv",
    ".csv.gz",
    ".tsv",
    ".tsv.gz",
    ".jsonl",
    ".jsonl.gz",
    ".jsonl.zst",
    ".json",
    ".parquet",
    ".xlsx",
    *DATABASES,
)


# ---------------------------------------------------------------- source.yaml
def _word(value):
    """YAML 1.1 reads an unquoted yes or no as true or false."""
    return {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value


Word = Annotated[str, pydantic.BeforeValidator(_word)]
ENCODINGS = ("utf-8", "cp1252", "iso-8859-1", "iso-8859-15", "utf-16")
# What a header does not hold: a text, or a number or date of three digits and more.
RECORD = re.compile(r".{101,}|(?=(?:\D*\d){3})[\d.,:/+-][\d.,:/+ -]*", re.DOTALL)


class Table(pydantic.BaseModel):
    """What every kind has."""

    model_config = pydantic.ConfigDict(extra="forbid")
    license: Annotated[str, pydantic.Field(min_length=1)]
    access: Access
    deidentified: Annotated[Literal["yes", "no", "unknown"], pydantic.BeforeValidator(_word)] = "unknown"
    encoding: Literal[ENCODINGS] | None = None
    table: str | None = None
    query: str | None = None
    id: str | None = None
    patient: str | None = None

    def columns(self) -> list[str]:
        """The columns that must be in the table."""
        return [name for name in (self.id, self.patient) if name]


class Notes(Table):
    """Documents, one a row or one a .txt file; of these, `patient: folder` if each patient has a folder."""

    kind: Literal["notes"] = "notes"
    domain: Literal["biomedical", "clinical", "general"] = "clinical"
    text: str = "text"
    date: str | None = None
    meta: list[str] = []

    def columns(self) -> list[str]:
        return [self.text, *super().columns(), *filter(None, [self.date]), *self.meta]


class Instructions(Table):
    """Rows to train on: `prompt` and `answer`, with `input` and `system` if there are such, or a column of
    `conversations`."""

    kind: Literal["instructions"]
    prompt: str | None = None
    input: str | None = None
    answer: str | None = None
    system: str | None = None
    conversations: str | None = None

    def columns(self) -> list[str]:
        names = (self.prompt, self.input, self.answer, self.system, self.conversations)
        return [*filter(None, names), *super().columns()]

    @pydantic.model_validator(mode="after")
    def _complete(self):
        if bool(self.conversations) == bool(self.prompt and self.answer):
            raise ValueError("needs the columns of --prompt and --answer, or of --conversations")
        return self


class Preferences(Table):
    """Two answers to one prompt, the better one in `chosen`. Pairs of one `patient` go to the same split."""

    kind: Literal["preferences"]
    prompt: str = "prompt"
    chosen: str = "chosen"
    rejected: str = "rejected"

    def columns(self) -> list[str]:
        return [self.prompt, self.chosen, self.rejected, *super().columns()]


class Benchmark(Table):
    """Questions with one right answer (`choice`) or with any number of labels (`labels`, joined by ";" in the
    table).

    A multiple-choice question has its `options` in columns, or all of them as a list in one; else `choices`
    lists the labels. `answer` is a letter, a number (`numbered_from` 1 or 0), or the text of an option or
    label. Without a `split` column all rows are test rows."""

    kind: Literal["choice", "labels"]
    question: str
    answer: str
    options: list[str] = []
    choices: list[Word] = []
    numbered_from: Literal[0, 1] = 1
    separator: Annotated[str, pydantic.Field(min_length=1)] = ";"
    split: str | None = None
    instruction: str | None = None

    def columns(self) -> list[str]:
        return [self.question, self.answer, *self.options, *filter(None, [self.split]), *super().columns()]

    @pydantic.model_validator(mode="after")
    def _complete(self):
        if bool(self.options) == bool(self.choices):
            raise ValueError("needs 'options' (columns) or 'choices' (labels), one of the two")
        if self.options and self.kind == "labels":
            raise ValueError("'labels' needs 'choices', as several may be right")
        return self


KINDS = {
    "notes": Notes,
    "instructions": Instructions,
    "preferences": Preferences,
    "choice": Benchmark,
    "labels": Benchmark,
}


def read_settings(path: str | Path, *kinds: str) -> Table:
    """The source.yaml of a file or folder: in it, or in the nearest folder above. BadInput names the file and
    the key."""
    path = Path(path)
    found = next((folder / NAME for folder in (path, *path.parents) if (folder / NAME).is_file()), None)
    if path.name == NAME:
        found = path
    if found is None:
        kind = f" --kind {kinds[0]}" if kinds and kinds[0] != "notes" else ""
        raise BadInput(f"{path}: no {NAME} says what it is. Next: python -m data_prep.describe {path}{kind}")
    given = read_yaml(found)
    if not isinstance(given, dict) or given.get("kind") not in kinds:
        raise BadInput(
            f"{found}: kind: must be {' or '.join(kinds)}. Next: python -m data_prep.describe {path}"
        )
    try:
        settings = KINDS[given["kind"]](**given)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or given["kind"]
        said = first["msg"].removeprefix("Value error, ")
        raise BadInput(f"{found}: {key}: {said}. Next: see data_prep/sources/tables.py") from error
    places = [found] if path.suffix == ".txt" else [found, path]
    return settings.model_copy(update=sidecar.kept_class({"access": settings.access}, *places))


def described(raw: Path, *kinds: str) -> list[str]:
    """The folders of `raw` whose source.yaml is of one of `kinds`."""
    found = sorted(path.parent for path in Path(raw).glob(f"*/{NAME}"))
    return [folder.name for folder in found if _kind(folder / NAME) in kinds]


def _kind(path: Path) -> str | None:
    given = read_yaml(path)
    return given.get("kind") if isinstance(given, dict) else None


# ---------------------------------------------------------------- rows
def files(path: str | Path, source: str, *more: str) -> list[Path]:
    """The tables (and files with the endings `more`) below a folder, or the one file."""
    endings = (*SUFFIXES, *more)
    found = files_below(path, tuple(f"*{ending}" for ending in endings), source)
    found = [file for file in found if file.name != "manifest.json"]  # of a folder that we wrote
    if found and found[0].name.endswith(endings):
        return found
    raise BadInput(f"{path}: not one of {', '.join(endings)}. Next: save it as CSV in UTF-8")


def rows(file: Path, settings: Table, drops=None, source: str = ""):
    """Yield ("FILE: record N", {column: value}) of a table, None for a value that a JSON object lacks. What
    is no record is counted as bad. BadInput where none of the first records has a column that `settings`
    names."""
    stream = raw_rows(file, settings.table, settings.query, drops, source, settings.encoding)
    first = list(itertools.islice(stream, LOOKED_AT))
    found, named = header(first), settings.columns()
    if not first and drops is not None:
        drops.add(source, "a table without records", str(file))
    if first and (missing := [column for column in named if column not in found]):
        raise BadInput(
            f"{file}: no column '{missing[0]}' (found: {', '.join(found)}). "
            f"Next: correct {NAME}, or python -m data_prep.describe {file}"
        )
    for where, row in itertools.chain(first, stream):
        if isinstance(row, dict):
            sidecar.check_class(row, settings.access, where)
            yield where, dict.fromkeys(named) | row
        elif drops is not None:
            drops.add(source, "no JSON object", where, bad=True)


def names(rows, settings: Table):
    """Yield (what a row is called, where, row) of `rows`: its id, else its number. BadInput for an id that is
    there twice."""
    seen = set()
    for number, (where, row) in enumerate(rows, 1):
        name = text(row.get(settings.id)).strip() if settings.id else ""
        if name in seen:
            raise BadInput(
                f"{where}: column '{settings.id}': this value is there twice. "
                f"Next: correct it, or take 'id' out of {NAME}"
            )
        seen |= {name} - {""}
        yield name or number, where, row


def header(records: list) -> list[str]:
    """The columns of some (where, record) pairs."""
    return list(dict.fromkeys(name for _, row in records if isinstance(row, dict) for name in row))


def raw_rows(
    file: Path,
    table: str | None = None,
    query: str | None = None,
    drops=None,
    source: str = "",
    encoding: str | None = None,
):
    """Yield ("FILE: record N", record) of a table, whatever its columns are."""
    if file.name.endswith(DATABASES):
        yield from _database(file, table, query)
    elif file.suffix == ".parquet":
        yield from ((f"{file}: record {number}", row) for number, row in read_parquet(file))
    elif file.suffix == ".xlsx":
        yield from _named(file, _sheet(file, table))
    elif file.suffix == ".json" and not _has_lines(file):
        if not isinstance(records := read_json(file), list):
            raise BadInput(f"{file}: one JSON object, not a list of records. Next: save the list alone")
        yield from ((f"{file}: record {number}", row) for number, row in enumerate(records, 1))
    elif file.suffix == ".json" or ".jsonl" in file.suffixes:
        yield from ((f"{file}: line {number}", row) for number, row in read_jsonl(file, drops, source))
    else:
        records = csv_records(file, encoding=encoding, delimiter=_delimiter(file, encoding))
        yield from _named(file, (cells for _, cells in records))


def _has_lines(file: Path) -> bool:
    """Whether a .json file holds an object a line, and not one value."""
    with open_text(file) as stream:
        first, second = stream.readline(LONGEST).strip(), stream.readline(LONGEST).strip()
    return first.startswith("{") and first.endswith("}") and second.startswith("{")


def _delimiter(file: Path, encoding: str | None) -> str:
    """The separator of a .csv or .tsv: the one that its first line has most of."""
    with open_text(file, encoding=encoding) as stream:
        line = stream.readline(1 << 16)
    return max(",;\t|", key=line.count)


def _named(file: Path, records):
    """Name the cells of each record by those of the first."""
    header = ["" if name is None else str(name).strip() for name in next(records, [])]
    if any(map(RECORD.fullmatch, header)):
        raise BadInput(f"{file}: the first line looks like a record. Next: put the columns' names above it")
    if twice := [name for name, count in collections.Counter(header).items() if count > 1 and name]:
        raise BadInput(f"{file}: two columns are called '{twice[0]}'. Next: rename one")
    for number, cells in enumerate(records, 1):
        if not cells:  # a blank line
            continue
        if len(cells) != len(header):
            raise BadInput(
                f"{file}: record {number} has {len(cells)} columns, the header has {len(header)}. "
                "Next: put double quotes around a value that holds the separator"
            )
        yield f"{file}: record {number}", dict(zip(header, cells, strict=True))


def _sheet(file: Path, name: str | None):
    with open_bytes(file) as stream:
        try:
            book = openpyxl.load_workbook(stream, read_only=True, data_only=True)
            known = [sheet.title for sheet in book.worksheets if name or any(_cells(sheet))]
            filled = [name] if name in known else known
            if len(filled) > 1 or name and name not in known:
                raise BadInput(
                    f"{file}: 'table' must be one of its sheets: {', '.join(filled)}. "
                    f"Next: --table SHEET, or {NAME}"
                )
            sheet = book[filled[0]] if filled else book.worksheets[0]
            yield from _cells(sheet)
        except (zipfile.BadZipFile, InvalidFileException, KeyError, ValueError) as error:
            raise BadInput(
                f"{file}: not a whole .xlsx file ({error}). Next: save it again as .xlsx or CSV"
            ) from error


def _cells(sheet):
    """The rows of a sheet that hold anything."""
    return (cells for cells in sheet.iter_rows(values_only=True) if any(cell is not None for cell in cells))


def _database(file: Path, table: str | None, query: str | None):
    """The rows of a table or query, read-only and without any extension from the network."""
    import duckdb

    lite = file.suffix != ".duckdb"
    try:
        with open_bytes(file):  # a missing file would be created
            pass
        connection = (
            sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)
            if lite
            else duckdb.connect(str(file), read_only=True, config={"enable_external_access": False})
        )
        listing = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')" if lite else "SHOW TABLES"
        tables = sorted(name for (name,) in connection.execute(listing).fetchall())
        if not query:
            if table is None and len(tables) == 1:
                [table] = tables
            if table not in tables:
                raise BadInput(
                    f"{file}: 'table' must be one of {', '.join(tables)}. Next: --table, or {NAME}"
                )
            quoted = table.replace('"', '""')
            query = f'SELECT * FROM "{quoted}"'
        cursor = connection.execute(query)
        names, number = [column[0] for column in cursor.description], 0
        while some := cursor.fetchmany(1000):
            for cells in some:
                number += 1
                yield f"{file}: record {number}", dict(zip(names, cells, strict=True))
        connection.close()
    except (sqlite3.Error, duckdb.Error) as error:
        # what could not be converted may be text of a record
        said = egress.shown(error) if isinstance(error, duckdb.DataError) else str(error)
        raise BadInput(
            f"{file}: cannot be queried ({said.splitlines()[0]}). Next: correct --table or --query, or {NAME}"
        ) from error


def text(value) -> str:
    """The text of a cell; nothing for an empty one, JSON for what is neither text nor number."""
    if value is None or isinstance(value, float) and value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)
