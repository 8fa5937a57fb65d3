"""Any JSON lines or Parquet with a column of text, with a source.yaml beside them (sidecar.py) that says what
they are.

Origin      yours. The folder that holds source.yaml is the collection; several collections may be read, each
            in its folder.
License     as source.yaml says; it is required, and so are domain and access.
Raw schema  *.jsonl, *.jsonl.gz, *.jsonl.zst or *.parquet; one record a line or row, the columns named in
            source.yaml

Oddities    Only the columns that are named are read. Ids are unique within a collection:
            "plain:<folder>:<id>".
"""

from pathlib import Path

from data_prep.files import read_jsonl, read_parquet
from data_prep.sources import sidecar
from data_prep.sources.raw_files import files_below

FILES_PER_OUTPUT = 1
card = sidecar.card


def files(path: str | Path) -> list[Path]:
    found = files_below(path, ("*.jsonl", "*.jsonl.gz", "*.jsonl.zst", "*.parquet"), "plain")
    for file in found:
        card(file)  # what has no card is named before anything is read
    return found


def read(file: Path, drops):
    """Yield the documents of one file."""
    described = sidecar.above(file)
    settings = sidecar.kept_class(sidecar.read_sidecar(described), described, file)
    records = _rows(file, settings) if file.suffix == ".parquet" else _lines(file, drops)
    yield from sidecar.documents("plain", described.resolve().parent.name, settings, records, drops)


def _lines(file: Path, drops):
    for number, record in read_jsonl(file, drops, "plain"):
        yield f"{file}: line {number}", record


def _rows(file: Path, settings: dict):
    columns = [name for name in (settings["text"], settings["id"], *settings["meta"]) if name]
    for number, record in read_parquet(file, columns):
        yield f"{file}: row {number}", record
