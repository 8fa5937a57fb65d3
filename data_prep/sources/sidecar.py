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

from data_prep import egress
from data_prep.files import read_yaml
from data_prep.schema import BadInput, HubSidecar, Sidecar, parse, strictest
from data_prep.sources.text_records import printable, with_text

NAME = "source.yaml"
CARD = ("domain", "license", "access")


def read_sidecar(path: Path, hub: bool = False) -> dict:
    """The settings in a source.yaml, with defaults. BadInput names the file and the key that is missing,
    unknown or impossible."""
    return {"config": None} | parse(read_yaml(path) or {}, HubSidecar if hub else Sidecar, path).model_dump()


def above(path: str | Path) -> Path:
    """The source.yaml that is for a file or folder: in it, or in the nearest folder above. BadInput
    without one."""
    path = Path(path)
    for folder in (path, *path.parents):
        if (folder / NAME).is_file():
            return folder / NAME
    raise BadInput(
        f"{path}: no {NAME} beside it says its domain, licence and access. Next: write one, see "
        f"data_prep/sources/sidecar.py"
    )


def card(path: str | Path) -> dict[str, str]:
    """Domain, licence and access of a file, from its source.yaml. What is there of ours keeps its class if
    that is stricter."""
    described = Path(path) if Path(path).name == NAME else above(path)
    settings = kept_class(read_sidecar(described), described, path)
    return {key: settings[key] for key in CARD}


def kept_class(settings: dict, *paths) -> dict:
    """`settings` with the class that records of ours at `paths` state, if it is stricter."""
    return settings | {"access": strictest([settings["access"], *map(egress.access_beside, paths)])}


def check_class(record: dict, access: str, where: str) -> None:
    """BadInput if a record states a stricter class than its source.yaml does."""
    if found := egress.stricter(record, access):
        raise BadInput(
            f"{where}: the record is {found}, {NAME} says {access}. "
            f"Next: access: {found} there, or python -m data_prep.declassify for what it was made of"
        )


def documents(source: str, collection: str, settings: dict, records, drops):
    """Yield the documents of the (where, record) pairs of one collection."""
    for where, record, text, digest in with_text(source, (settings["text"],), records, drops):
        check_class(record, settings["access"], where)
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
