"""The articles of our own PMC documents, in the parts that the three PMC sources need."""

from pathlib import Path
from types import SimpleNamespace

from data_prep.files import read_jsonl
from data_prep.schema import BadInput, check_document

# Licenses that allow a work to be changed: a row is a change. "unknown" and the ND licenses do not.
FREE = ("public domain", "CC0", "CC BY", "CC BY-SA", "CC BY-NC", "CC BY-NC-SA")


def files(folder: Path) -> list[Path]:
    found = sorted([*folder.glob("*.jsonl.gz"), *folder.glob("*.jsonl")])
    if not found:
        raise BadInput(
            f"{folder}: no *.jsonl.gz. Next: python -m data_prep.build_documents --source pmc=RAW/pmc "
            f"--out {folder.parent}"
        )
    return found


def read(name: str, folder: Path, drops):
    """Yield articles: id, license, access, title, abstract (first of the article), body (list of paragraphs
    and headings), keywords."""
    for path in files(folder):
        for number, document in read_jsonl(path):
            where = f"{path}: line {number}"
            check_document(document, where)
            parts, keywords = document["meta"].get("blocks"), document["meta"].get("keywords")
            if parts is None or keywords is None:
                raise BadInput(
                    f"{where}: meta has no 'blocks' or 'keywords'. Next: python -m "
                    "data_prep.build_documents, with today's pmc.py"
                )
            blocks = document["text"].split("\n\n")
            if document["license"] not in FREE:
                drops.add(name, "license is unknown or allows no changes", where)
                continue
            start, end = parts["title"], parts["title"] + parts["abstract"]
            yield SimpleNamespace(
                id=document["id"],
                license=document["license"],
                access=document["access"],
                title=" ".join(blocks[:start]),
                abstract=" ".join(blocks[start:end]),
                body=blocks[end + parts["further_abstracts"] :],
                keywords=keywords,
                where=where,
            )
