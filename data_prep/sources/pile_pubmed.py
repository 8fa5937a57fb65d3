"""The Pile's PubMed Central and PubMed Abstracts: the biomedical share of the paper's corpus.

Origin      EleutherAI, https://arxiv.org/abs/2101.00027. The publisher's own host no longer serves it
            (recalled); copies are on the Hugging Face Hub.
License     not stated for single texts: articles of PubMed Central in many licenses, abstracts under NLM's
            terms. Public.
Raw schema  JSON lines, .jsonl.zst, .jsonl.gz or .jsonl: {"text", "meta": {"pile_set_name": "PubMed Abstracts"
            | "PubMed Central" | ...}}
In the paper    "over 3 million" full articles and "over 15 million" abstracts, most of the biomedical 15 of
                15:1:4.

Oddities    A file mixes all 22 sets of The Pile: the others are left out and counted. No record has an id, a
            PMID or a license, so the id is a hash of the text (an exact repeat is then a duplicate id), and
            what is of an evaluation set can be found by its words only; the readers `pubmed` and `pmc` read
            the same texts with all of these. meta is a string of JSON in some exports of the Hub.
"""

import contextlib
from pathlib import Path

from data_prep.files import from_json, read_jsonl
from data_prep.sources.raw_files import files_below
from data_prep.sources.text_records import with_text

DOMAIN = "biomedical"
LICENSE = "not stated by The Pile, per article"
ACCESS = "public"
FILES_PER_OUTPUT = 1

SETS = ("PubMed Central", "PubMed Abstracts")


def files(path: str | Path) -> list[Path]:
    return files_below(path, ("*.jsonl.zst", "*.jsonl.gz", "*.jsonl"), "pile_pubmed")


def read(file: Path, drops):
    """Yield the documents of the two sets in one file."""
    lines = ((f"{file}: line {number}", record) for number, record in read_jsonl(file, drops, "pile_pubmed"))
    for where, record, text, digest in with_text("pile_pubmed", ("text",), lines, drops):
        meta = record.get("meta")
        if isinstance(meta, str):
            with contextlib.suppress(ValueError):
                meta = from_json(meta)
        pile_set = meta.get("pile_set_name") if isinstance(meta, dict) else None
        if not isinstance(pile_set, str):
            drops.add("pile_pubmed", "no meta.pile_set_name", where, bad=True)
        elif pile_set not in SETS:
            drops.add("pile_pubmed", "of another set of The Pile", where)
        else:
            yield {
                "id": f"pile_pubmed:{digest}",
                "text": text,
                "source": "pile_pubmed",
                "domain": DOMAIN,
                "license": LICENSE,
                "access": ACCESS,
                "meta": {"pile_set_name": pile_set},
            }
