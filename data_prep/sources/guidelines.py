"""Clinical practice guidelines: the corpus behind Meditron, from which the paper's instruction set
GuidelineQA was made.

Origin      EPFL LLM team, https://huggingface.co/datasets/epfl-llm/guidelines (37,970 guidelines by its
            page), or the output of its scrapers, github.com/epfLLM/meditron, folder gap-replay/guidelines.
License     per publisher, written into each document's `license` by name. The page lists those that allow
            redistribution (cco, cdc, cma, icrc, nice, pubmed, spor, who, wikidoc); those of other publishers,
            which you scrape yourself, are not to be passed on.
Raw schema  JSON lines: {id, source, title, clean_text, raw_text, url, overview}; as scraped: {title, url or
            doi, content or text}
In the paper    not a source of pretraining text; of the instruction data "GuidelineQA".

Oddities    clean_text is read, never raw_text, which still has the page around it. As scraped there is no id
            and no source: the id is then a hash of the text, the publisher the name of the file. `overview`,
            a summary, is left out. Some are PMC articles too.
"""

from pathlib import Path

from data_prep.files import read_jsonl
from data_prep.sources.raw_files import files_below
from data_prep.sources.text_records import printable, with_text

DOMAIN = "biomedical"
LICENSE = "per publisher"
ACCESS = "public"
FILES_PER_OUTPUT = 1

TEXT = ("clean_text", "content", "text")  # the first of these that a record has


def files(path: str | Path) -> list[Path]:
    return files_below(path, ("*.jsonl", "*.jsonl.gz", "*.jsonl.zst"), "guidelines")


def read(file: Path, drops):
    """Yield the guidelines of one file."""
    lines = ((f"{file}: line {number}", record) for number, record in read_jsonl(file, drops, "guidelines"))
    for _, record, text, digest in with_text("guidelines", TEXT, lines, drops):
        publisher = printable(record.get("source") or file.name.partition(".")[0])
        yield {
            "id": f"guidelines:{printable(record.get('id') or digest)}",
            "text": text,
            "source": "guidelines",
            "domain": DOMAIN,
            "license": f"terms of {publisher}",
            "access": ACCESS,
            "meta": {
                "publisher": publisher,
                **{key: printable(record[key]) for key in ("title", "url", "doi") if record.get(key)},
            },
        }
