"""The raw text of `make real`: the first abstracts and papers, and general text that every machine has.

    python -m data_prep.real_text --raw data/raw --out data/real/raw

Reads   RAW/pubmed, RAW/pmc as published (a file of PubMed has 30,000 records, and a CPU trains on
        hundreds); pydoc_data.topics, the language reference in the running Python's own help (PSF-2.0)
Writes  OUT/pubmed/*.xml.gz: the first --abstracts records, unchanged; OUT/pmc: the first --papers files;
        OUT/python_manual: a collection of `plain`, some 80 texts, about 90,000 tokens. A paragraph that
        several of these quote stays in the first, so that no held-out text was also trained on
"""

import argparse
import gzip
import itertools
import shutil
import sys
from pathlib import Path
from pydoc_data.topics import topics

from lxml import etree

from data_prep import egress
from data_prep.files import check_out, one_sentence, open_bytes, whole_folder, write_jsonl
from data_prep.schema import BadInput
from data_prep.sources import pmc, pubmed
from data_prep.sources.xml_text import SAFE

CARD = "domain: general\nlicense: PSF-2.0\naccess: public\nid: id\n"
RECORDS = ("PubmedArticle", "PubmedBookArticle", "DeleteCitation")
MARK = "python_manual/source.yaml"


def records(file: Path, most: int) -> list[bytes]:
    """The first records of a file of PubMed, as XML."""
    with open_bytes(file) as stream:
        try:
            found = etree.iterparse(stream, tag=RECORDS, **SAFE)
            return [etree.tostring(one, with_tail=False) for _, one in itertools.islice(found, most)]
        except etree.XMLSyntaxError as error:
            raise BadInput(f"{file}: not whole XML ({error})") from error


def manual():
    """{"id", "text"} of each topic."""
    seen = set()
    for name, text in sorted(topics.items()):
        paragraphs = [part for part in text.split("\n\n") if part.strip() not in seen]
        seen |= {part.strip() for part in paragraphs}
        if paragraphs:
            yield {"id": name, "text": "\n\n".join(paragraphs)}


def build(raw: Path, out: Path, abstracts: int, papers: int) -> None:
    check_out(out, MARK)
    with whole_folder(out, MARK) as folder:
        for name in ("pubmed", "pmc", "python_manual"):
            (folder / name).mkdir()
        for file in pubmed.files(raw / "pubmed"):
            kept = records(file, abstracts)
            abstracts -= len(kept)
            if kept:
                name = f"{file.name.removesuffix('.gz').removesuffix('.xml')}.xml.gz"
                xml = b"<PubmedArticleSet>\n" + b"\n".join(kept) + b"\n</PubmedArticleSet>\n"
                (folder / "pubmed" / name).write_bytes(gzip.compress(xml, mtime=0))
        for file in pmc.files(raw / "pmc")[:papers]:
            shutil.copy(file, folder / "pmc")
        write_jsonl(folder / "python_manual/topics.jsonl", manual())
        (folder / "python_manual/source.yaml").write_text(CARD, encoding="utf-8")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--raw", type=Path, required=True, help="the publishers' files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--abstracts", type=int, default=400, help="records of PubMed at most")
    parser.add_argument("--papers", type=int, default=4, help="files of PMC at most")
    args = parser.parse_args(argv)
    with one_sentence():
        build(args.raw, args.out, args.abstracts, args.papers)


if __name__ == "__main__":
    egress.isolate(sys.argv[1:], BadInput)
    main()
