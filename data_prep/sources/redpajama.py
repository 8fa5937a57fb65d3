"""RedPajama-Data-1T: general text, which keeps the model from forgetting what it knew before the medical
corpus.

Origin      Together Computer, https://huggingface.co/datasets/togethercomputer/RedPajama-Data-1T
License     per slice, see its page (Common Crawl terms, CC BY-SA for Wikipedia and Stack Exchange, ...).
            Public download.
Raw schema  JSON lines, .jsonl, .jsonl.zst or .jsonl.gz: {"text", "meta"}. The keys of meta differ from slice
            to slice.
In the paper    "a subset" of it, 4 parts in 15:1:4 (about a fifth of 129 billion tokens).

Oddities    meta is an object in the published files and a string of JSON in exports of the Hugging Face
            loader; the Common Crawl files have none, there the other keys beside text are the metadata. File
            names repeat between Common Crawl snapshots, so an id is a hash of the text (an exact repeat is
            then a duplicate id, and dropped); meta keeps file and line. The slice is what the record or its
            path says, else "unknown".
"""

import contextlib
import hashlib
import json
from pathlib import Path

from data_prep.files import from_json, read_jsonl
from data_prep.sources.raw_files import files_below

DOMAIN = "general"
LICENSE = "per slice, see the RedPajama-Data-1T page"
ACCESS = "public"
FILES_PER_OUTPUT = 1

SLICES = ("arxiv", "book", "c4", "common_crawl", "github", "stackexchange", "wikipedia")


def files(path: str | Path) -> list[Path]:
    return files_below(path, ("*.jsonl", "*.jsonl.zst", "*.jsonl.gz"), "redpajama")


def read(file: Path, drops):
    """Yield the documents of one file."""
    slice_of_path = next(
        (name for part in (*file.parts[-2::-1], file.name) for name in SLICES if _names(part.lower(), name)),
        "unknown",
    )
    for number, record in read_jsonl(file, drops, "redpajama"):
        where, text = f"{file}: line {number}", record.get("text") if isinstance(record, dict) else None
        if not isinstance(record, dict) or "text" not in record:
            found = (
                ", ".join(map(str, list(record)[:20])) if isinstance(record, dict) else type(record).__name__
            )
            drops.add(
                "redpajama", "no object with 'text'", f"{where} (found: {found or 'no field'})", bad=True
            )
            continue
        if text is not None and not isinstance(text, str):
            drops.add("redpajama", "'text' is no string", where, bad=True)
            continue
        if not text or not text.strip():
            drops.add("redpajama", "empty text", where, bad=True)
            continue
        meta = _meta(record)
        try:
            digest = hashlib.sha256(text.encode()).hexdigest()[:20]
            json.dumps(meta, ensure_ascii=False).encode()
        except UnicodeEncodeError:  # JSON can spell half a character, UTF-8 cannot
            drops.add("redpajama", "not valid Unicode", where, bad=True)
            continue
        slice_name = str(
            record.get("red_pajama_subset") or meta.pop("red_pajama_subset", None) or slice_of_path
        )
        yield {
            "id": f"redpajama:{digest}",
            "text": text,
            "source": "redpajama",
            "domain": DOMAIN,
            "license": LICENSE,
            "access": ACCESS,
            "meta": {**meta, "slice": slice_name, "file": file.name, "line": number},
        }


def _names(part: str, slice_name: str) -> bool:
    """Whether a folder or file name says the slice: "arxiv", "arxiv_sample.jsonl", "c4-train.00000.jsonl";
    not "bookings"."""
    return part == slice_name or part.startswith((slice_name + "_", slice_name + "-", slice_name + "."))


def _meta(record: dict) -> dict:
    meta = record.get("meta")
    if isinstance(meta, str):
        with contextlib.suppress(ValueError):  # not JSON: kept below as the string it is
            meta = from_json(meta, raw=True)
    if meta is None:
        return {
            key: value for key, value in record.items() if key not in ("text", "meta", "red_pajama_subset")
        }
    return dict(meta) if isinstance(meta, dict) else {"meta": meta}
