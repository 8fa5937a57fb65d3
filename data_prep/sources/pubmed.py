"""PubMed abstracts: the title and abstract of each English article in the NLM baseline and update files.

Origin      National Library of Medicine, https://ftp.ncbi.nlm.nih.gov/pubmed/baseline/ and ../updatefiles/
License     NLM terms and conditions; an abstract may be under its publisher's copyright. Public download.
Raw schema  XML, gzip or plain. Root PubmedArticleSet > PubmedArticle > MedlineCitation, or MedlineCitationSet
            (to 2016), or one bare PubmedArticle or MedlineCitation. Read here: PMID@Version,
            Article/{ArticleTitle, Abstract/AbstractText@Label, Language, PublicationTypeList, Journal},
            DeleteCitation/PMID.
In the paper    "over 15 million" abstracts, taken from The Pile's PubMed Abstracts.

Oddities    Titles and abstracts carry inline markup and MathML, so all text below the element is taken, not
            its first piece. OtherAbstract (a translation, a lay summary) is never merged. A bracketed title
            marks a translation: such records are recognized by <Language> and dropped. Retracted articles and
            their notices are dropped. A PMID comes again in a later file when its record was revised, and
            DeleteCitation withdraws PMIDs from earlier files, so the files are read twice: `scan` lists the
            PMIDs of each, `first_pass` finds the deleted ones and the newest record of each, `read` leaves
            out the others.
"""

import re
from pathlib import Path

import numpy as np
from lxml import etree

from data_prep.files import LONGEST_XML, open_bytes
from data_prep.schema import BadInput
from data_prep.sources.raw_files import files_below
from data_prep.sources.xml_text import SAFE, bare_text, is_number, spell_out

DOMAIN = "biomedical"
LICENSE = "NLM terms and conditions; abstracts may be under copyright"
ACCESS = "public"
FILES_PER_OUTPUT = 1

ROOTS = ("PubmedArticleSet", "MedlineCitationSet", "PubmedArticle", "MedlineCitation")
RETRACTION_TYPES = {"Retracted Publication", "Retraction of Publication", "Retraction Notice"}


TRUNCATED = re.compile(r"\s*\(?ABSTRACT TRUNCATED(?: AT \d+ (?:WORDS|CHARACTERS))?\)?\.?\s*$")


def files(path: str | Path) -> list[Path]:
    return sorted(files_below(path, ("*.xml", "*.xml.gz"), "pubmed"), key=_number)


def _number(file: Path) -> list[int]:
    """The order in which NLM published the files: (year, number) of pubmed26n1400.xml.gz, whatever its folder
    is called."""
    return [int(digits) for digits in re.findall(r"\d+", file.name)]


def scan(file: Path) -> dict:
    """{"deleted": PMIDs, "records": {PMID: its newest version in this file}, "again": PMIDs that occur in it
    more than once}."""
    deleted, records, again = [], {}, set()
    for _, element in _records(file):
        if element.tag == "DeleteCitation":
            deleted += [int(pmid.text) for pmid in element.iter("PMID") if is_number(pmid.text)]
            continue
        pmid, version = _pmid(element)
        if pmid is not None:
            again |= {pmid} & records.keys()
            records[pmid] = max(records.get(pmid, 0), version)
    return {"deleted": deleted, "records": records, "again": sorted(again)}


def first_pass(raw_files: list[Path], scans: list[dict]) -> list[dict]:
    """For each file, the PMIDs of it that NLM deleted, those of which another file has a newer record (a
    higher version, or the same one in a later file), and the newest version of those that occur in it more
    than once."""
    pmids = np.concatenate(
        [np.fromiter(map(int, scan["records"]), np.int64, len(scan["records"])) for scan in scans]
    )
    versions = np.concatenate(
        [np.fromiter(scan["records"].values(), np.int32, len(scan["records"])) for scan in scans]
    )
    counts = [len(scan["records"]) for scan in scans]
    places = np.repeat(np.arange(len(scans), dtype=np.int32), counts)
    by_number = sorted(range(len(scans)), key=lambda place: _number(raw_files[place]))
    order = np.lexsort((np.repeat(np.argsort(by_number), counts), versions, pmids))
    replaced = order[:-1][pmids[order[:-1]] == pmids[order[1:]]]  # all but the last of each PMID
    deleted = np.isin(pmids, np.array(sorted({pmid for scan in scans for pmid in scan["deleted"]}), np.int64))
    known = [
        {"deleted": [], "replaced": [], "newest": {pmid: _newest(scan, pmid) for pmid in scan["again"]}}
        for scan in scans
    ]
    for verdict, rows in (("deleted", np.flatnonzero(deleted)), ("replaced", np.sort(replaced))):
        for place, pmid in zip(places[rows].tolist(), pmids[rows].tolist(), strict=True):
            known[place][verdict].append(pmid)
    return known


def _newest(scan: dict, pmid: int) -> int:
    return scan["records"].get(pmid) or scan["records"][str(pmid)]  # JSON made the keys strings


def read(file: Path, drops, known: dict | None = None):
    """Yield the documents of one file. `known` is what first_pass says of it; without it, no record is known
    to be deleted or replaced."""
    known = known or {"deleted": [], "replaced": [], "newest": {}}
    deleted, replaced = set(known["deleted"]), set(known["replaced"])
    newest = {int(pmid): version for pmid, version in known["newest"].items()}
    for number, element in _records(file):
        if element.tag == "DeleteCitation":
            continue
        pmid, version = _pmid(element)
        where = f"{file}: record {number}" + (f" (PMID {pmid})" if pmid is not None else "")
        article = element.find("Article")
        if element.tag == "PubmedBookArticle" or article is None:
            drops.add("pubmed", "not a journal article", where)
            continue
        if pmid is None:
            drops.add("pubmed", "no PMID", where)
            continue
        if pmid in deleted:
            drops.add("pubmed", "deleted by NLM", where)
            continue
        if pmid in replaced or version != newest.get(pmid, version):
            drops.add("pubmed", "replaced by a newer record", where)
            continue
        if "eng" not in [language.text for language in article.iterfind("Language")]:
            drops.add("pubmed", "not English", where)
            continue
        kinds = [bare_text(kind) for kind in article.iterfind("PublicationTypeList/PublicationType")]
        relations = [
            link.get("RefType") for link in element.iterfind("CommentsCorrectionsList/CommentsCorrections")
        ]
        if RETRACTION_TYPES.intersection(kinds) or "RetractionIn" in relations:
            drops.add("pubmed", "retracted, or a retraction notice", where)
            continue
        if "Expression of Concern" in kinds or "ExpressionOfConcernIn" in relations:
            drops.add("pubmed", "expression of concern", where)
            continue
        spell_out(article)
        title = bare_text(article.find("ArticleTitle"))
        if title.lower().startswith(("withdrawn:", "retracted:")):
            drops.add("pubmed", "withdrawn", where)
            continue
        if title.strip("[].").lower() == "not available":
            title = ""
        abstract = "\n".join(_paragraphs(article))
        if TRUNCATED.search(abstract):
            abstract = TRUNCATED.sub("", abstract)
            drops.repair("pubmed", "truncation mark taken off the abstract", where)
        if not abstract:
            drops.add("pubmed", "no abstract", where)
            continue
        yield {
            "id": f"pubmed:{pmid}",
            "text": f"{title}\n\n{abstract}" if title else abstract,
            "source": "pubmed",
            "domain": DOMAIN,
            "license": LICENSE,
            "access": ACCESS,
            "meta": {
                "version": version,
                "year": _year(article),
                "journal": bare_text(article.find("Journal/Title")),
                "publication_types": kinds,
            },
        }


def _records(file: Path):
    """Yield (record number from 1, element) for each citation and each DeleteCitation, freeing each as soon
    as it was used."""
    with open_bytes(file) as stream:
        try:
            chunks, number = _Chunks(file, stream), 0
            walk = etree.iterparse(
                chunks,
                events=("end",),
                tag=("MedlineCitation", "PubmedBookArticle", "DeleteCitation"),
                **SAFE,
            )
            for _, element in walk:
                chunks.pending = 0
                number += element.tag != "DeleteCitation"
                yield number, element
                element.clear()
                while element.getparent() is not None:
                    while element.getprevious() is not None:
                        del element.getparent()[0]
                    element = element.getparent()
        except etree.XMLSyntaxError as error:
            raise BadInput(f"{file}: not well-formed XML ({error})") from error
        if walk.root.tag not in ROOTS:
            raise BadInput(
                f"{file}: the root element is '{walk.root.tag}', expected one of {', '.join(ROOTS)}"
            )


class _Chunks:
    """A stream for iterparse, which keeps all it has read of a record: no record may be longer than
    LONGEST_XML."""

    def __init__(self, file: Path, stream):
        self.file, self.stream, self.pending = file, stream, 0

    def read(self, size: int) -> bytes:
        self.pending += size
        if self.pending > LONGEST_XML + size:
            raise BadInput(
                f"{self.file}: {LONGEST_XML:,} bytes without the end of a record. Next: check where this "
                "file came from"
            )
        return self.stream.read(size)


def _pmid(citation) -> tuple[int | None, int]:
    """(PMID or None, version). A record without a version attribute is the first."""
    element = citation.find("PMID")
    if element is None or not is_number(element.text):
        return None, 1
    version = element.get("Version")
    return int(element.text), int(version) if is_number(version) else 1


def _paragraphs(article):
    """The parts of the article's own abstract, each with its label ("METHODS: ...") where it has one."""
    for part in article.iterfind("Abstract/AbstractText"):
        text, label = bare_text(part), (part.get("Label") or "").strip(" :")
        if text:
            yield text if label in ("", "UNLABELLED") else f"{label}: {text}"


def _year(article) -> int | None:
    """The year of publication: PubDate/Year, or the first year in PubDate/MedlineDate ("1998 Dec-1999
    Jan")."""
    date = article.find("Journal/JournalIssue/PubDate")
    stated = "" if date is None else date.findtext("Year") or date.findtext("MedlineDate") or ""
    year = re.search(r"\b(1[6-9]|20)\d\d\b", stated)
    return int(year.group()) if year else None
