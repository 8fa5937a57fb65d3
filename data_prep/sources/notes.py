"""Notes of your own: a folder of .txt files, a table (CSV, TSV, Excel, JSON lines, Parquet), or a database
(SQLite, DuckDB).

Origin      yours. `python -m data_prep.describe PATH` guesses the columns, shows them, and writes source.yaml
            (tables.py).
License     as source.yaml says, and so are the access class, the domain and whether the notes are
            de-identified.
Raw schema  one note a row, or a file; columns of id, date and patient if there are such

Oddities    Notes of one patient go to the same split of the corpus. The id of a .txt file is its path below
            the folder, and with `patient: folder` the first part of that path is its patient; a row without
            an id is known by a hash of its text. Ids begin with the name of the folder or file. Notes without
            a text are counted, and are no fault.
"""

from pathlib import Path

from data_prep.files import open_text, read_whole
from data_prep.schema import BadInput
from data_prep.sources import tables
from data_prep.sources.text_records import printable, with_text

FILES_PER_OUTPUT = 10_000  # a .txt file is one note
EMPTY = "empty text"


def files(path: str | Path) -> list[Path]:
    settings = tables.read_settings(path, "notes")
    found = tables.files(path, "notes", ".txt")
    texts = [file for file in found if file.suffix == ".txt"]
    found = [file for file in found if file.suffix != ".txt"] or texts
    check_one_kind(path, texts, found)
    beside = f", {len(texts)} .txt files beside the tables not read" if found is not texts and texts else ""
    said = f"de-identified: {settings.deidentified}, access {settings.access}{beside}"
    print(f"{path}: {said} ({tables.NAME})", flush=True)
    return found


def check_one_kind(path: Path, texts: list[Path], tables: list[Path]) -> None:
    """BadInput for a folder of texts and tables, where nobody may guess which are the notes. One text is a
    README."""
    if len(texts) > 1 and tables and tables != texts:
        asked = f"which are the notes, {len(texts):,} .txt files or {tables[0]}?"
        raise BadInput(f"{path}: {asked} Next: move the other away")


def card(path: str | Path) -> dict[str, str]:
    settings = tables.read_settings(path, "notes")
    return {key: getattr(settings, key) for key in ("domain", "license", "access", "deidentified")}


def read(file: Path, drops):
    """Yield the notes of one table or .txt file."""
    settings = tables.read_settings(file, "notes")
    folder = next(folder for folder in file.parents if (folder / tables.NAME).is_file())
    collection = (folder if file.suffix == ".txt" else file).resolve().name.partition(".")[0]
    if file.suffix == ".txt":
        name = file.relative_to(folder)
        with open_text(file, encoding=settings.encoding) as stream:
            record = {"id": name.as_posix(), "text": read_whole(stream, file), "folder": name.parts[0]}
        records = [(str(file), record)]
        patient = "folder" if settings.patient and len(name.parts) > 1 else None
        columns = {"id": "id", "text": "text", "date": None, "patient": patient, "meta": []}
        settings = settings.model_copy(update=columns)
    else:
        records = tables.rows(file, settings, drops, "notes")
    records = _without_empty(records, settings.text, drops)
    for where, record, text, digest in with_text("notes", (settings.text,), records, drops):
        name = tables.text(record.get(settings.id)).strip() if settings.id else digest
        if not name:
            name = digest
            drops.repair("notes", "no id: the hash of the text instead", where)
        columns = {
            "date": settings.date,
            "patient": settings.patient,
            **{name: name for name in settings.meta},
        }
        facts = {key: printable(tables.text(record.get(column))) for key, column in columns.items() if column}
        yield {
            "id": f"notes:{collection}:{printable(name)}",
            "text": text,
            "source": "notes",
            "domain": settings.domain,
            "license": settings.license,
            "access": settings.access,
            "meta": {"collection": collection, **{key: value for key, value in facts.items() if value}},
        }


def _without_empty(records, column: str, drops):
    """The records with a text; the others are counted, and are no fault of the table."""
    for where, record in records:
        if record.get(column) is None or not tables.text(record[column]).strip():
            drops.add("notes", EMPTY, where)
        else:
            yield where, record
