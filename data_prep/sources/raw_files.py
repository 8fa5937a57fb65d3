"""Finding the raw files of a source, and reading the publishers' CSV tables row by row."""

import csv
import fnmatch
import re
from pathlib import Path

from data_prep.files import LONGEST, NOT_UTF8, check_no_link, open_text
from data_prep.schema import BadInput

csv.field_size_limit(LONGEST)  # Python's 131,072 characters are fewer than a long clinical note has
COLUMN = re.compile(r"[a-z][a-z0-9_ ]{0,31}")  # a column that an error may name: a first line may be a record
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}


def files_below(path: str | Path, patterns: tuple[str, ...], source: str) -> list[Path]:
    """The files below a folder whose names match a pattern, sorted by path; a path to one file is that file.

    Linked folders are followed, and a file that two paths lead to is listed once. Hidden files (`.DS_Store`,
    `._*.xml`) are skipped. BadInput if nothing matches, or if a link leads back to a folder above it."""
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise BadInput(f"{path}: no such file or folder (source '{source}')")
    found = {}
    for file in sorted(walk(path), key=Path.as_posix):
        if any(fnmatch.fnmatchcase(file.name, pattern) for pattern in patterns):
            found.setdefault((file.parent.resolve(), file.name), file)
        elif not file.suffix:
            check_no_link(file)
    if not found:
        raise BadInput(
            f"{path}: no file of source '{source}' here; looked for {', '.join(patterns)} in it and its "
            "subfolders"
        )
    return list(found.values())


def walk(folder: Path, above: tuple[Path, ...] = ()):
    """The files below `folder`, links followed; `above` are the real paths of the folders on the way to
    it."""
    if not folder.is_dir():
        return
    above = (*above, folder.resolve())
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if path.resolve() in above:
                raise BadInput(f"{path}: this link leads back to a folder that contains it. Next: unlink it")
            yield from walk(path, above)
        elif path.is_file() and not path.name.startswith("."):
            yield path


def csv_records(file: Path, errors: str = "strict", encoding: str | None = None, **form):
    """Yield (last line from 1, cells) for each record of a CSV file, plain or .gz; `form` is csv.reader's.
    BadInput where it is not valid CSV, or a record is longer than LONGEST: a quote that never closes would
    otherwise take the rest of the file."""
    length = number = 0

    def lines():
        nonlocal length
        while line := text.readline(LONGEST + 1):
            length += len(line)
            if length > LONGEST:
                raise csv.Error(f"longer than {LONGEST:,} characters")
            yield line

    with open_text(file, errors=errors, encoding=encoding) as text:
        reader = csv.reader(lines(), **{"strict": True, **form})
        try:
            for cells in reader:
                length, number = 0, number + 1
                yield reader.line_num, cells
        except csv.Error as error:
            where = f"{file}: record {number} (line {reader.line_num})"  # the header is record 0
            raise BadInput(
                f"{where} is not valid CSV ({error}). Next: close its double quotes, or fetch it again"
            ) from error


def csv_rows(file: Path, columns: tuple[str, ...], drops=None, source: str | None = None):
    """Yield (record number from 1, {column in lower case: value}) for each row of a CSV file, plain or .gz.

    `columns` (lower case) must all be in the header; other columns are passed on. BadInput names a missing
    column, a row of another width and a quote that never closes: after any of these, no later row can be
    trusted. With `drops`, bytes that are not UTF-8 become U+FFFD and are counted as a repair of `source`;
    without, they are a BadInput."""
    records = csv_records(file, errors="strict" if drops is None else "replace")
    header = [name.strip().lower() for name in next(records, (0, []))[1]]
    for column in columns:
        if column not in header:
            raise BadInput(f"{file}: {_missing(column, header or [''])}")
    for number, (line, values) in enumerate(records, 1):
        if len(values) != len(header):
            raise BadInput(
                f"{file}: record {number} (line {line}) has {len(values)} columns, the header has "
                f"{len(header)}"
            )
        if drops is not None and any("\ufffd" in value for value in values):
            drops.repair(source, NOT_UTF8, f"{file}: record {number}")
        yield number, dict(zip(header, values, strict=True))


def _missing(column: str, header: list[str]) -> str:
    """What an error says where `column` is not in `header`: the columns found, unless the first line may be a
    record."""
    found, command = (
        f"found: {', '.join(name or '(no name)' for name in header)}",
        "use the publisher's own file",
    )
    separator = next(
        (name for mark, name in SEPARATORS.items() if len(header) == 1 and mark in header[0]), None
    )
    if separator:
        found, command = f"the cells of the first line are separated by {separator}", "save it with commas"
    elif not all(map(COLUMN.fullmatch, header[not header[0] :])):
        found = f"the first line has {len(header)} cells and does not look like a header"
        command = "use a table whose first line names the columns"
    return f"column '{column.upper()}' is missing ({found}). Next: {command}"
