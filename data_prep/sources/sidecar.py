"""source.yaml: what the user says of data that comes with no card of ours. Nobody may guess an access class.

    domain: clinical          # biomedical, clinical or general
    license: our hospital's data use agreement 7
    access: credentialed      # public, gated or credentialed
    text: note_text           # the column of the text (default: text)
    id: note_id               # a column that is unique; without it the id is a hash of the text
    meta: [ward, year]        # further columns to keep

and for data of the Hub (hub.py) also `dataset`, `revision`, `split` and, where there are several, `config`.
"""

from pathlib import Path

from data_prep.files import read_yaml
from data_prep.schema import BadInput, HubSidecar, Sidecar, parse
from data_prep.sources.text_records import printable, with_text

NAME = "source.yaml"
CARD = ("domain", "license", "access")


def read_sidecar(path: Path, hub: bool = False) -> dict:
    """The settings in a source.yaml, with defaults. BadInput names the file and the key that is missing,
    unknown or impossible."""
    return {"config": None} | parse(read_yaml(path) or {}, HubSidecar if hub else Sidecar, path).model_dump()


def above(path: str | Path) -> Path:
    """The source.yaml that is for a file or folder: in it, or in the nearest folder above. BadInput if there
    is none."""
    path = Path(path)
    for folder in (path, *path.parents):
        if (folder / NAME).is_file():
            return folder / NAME
    raise BadInput(
        f"{path}: no {NAME} beside it says its domain, licence and access. Next: write one, see "
        f"data_prep/sources/sidecar.py"
    )


def card(path: str | Path) -> dict[str, str]:
    """Domain, licence and access of a file, from its source.yaml."""
    settings = read_sidecar(Path(path)) if Path(path).name == NAME else read_sidecar(above(path))
    return {key: settings[key] for key in CARD}


def documents(source: str, collection: str, settings: dict, records, drops):
    """Yield the documents of the (where, record) pairs of one collection."""
    for where, record, text, digest in with_text(source, (settings["text"],), records, drops):
        name = record.get(settings["id"]) if settings["id"] else digest
        if name in (None, ""):
            drops.add(source, f"no '{settings['id']}'", where, bad=True)
            continue
        yield {
            "id": f"{source}:{collection}:{printable(name)}",
            "text": text,
            "source": source,
            **{key: settings[key] for key in CARD},
            "meta": {
                "collection": collection,
                **{key: printable(record[key]) for key in settings["meta"] if record.get(key) is not None},
            },
        }
