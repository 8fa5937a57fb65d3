"""PubMed Central full texts: title, abstracts and body of the articles of the Open Access subset.

Origin      National Library of Medicine: PMC Cloud Service, https://pmc.ncbi.nlm.nih.gov/tools/pmcaws/ (one
            .xml a paper), or the bulk archives of its FTP server up to 2026 (.tar.gz as they are, or
            unpacked)
License     per article, written into each document's `license`: CC0, CC BY, CC BY-NC-ND ... or "unknown".
            Public download.
Raw schema  One XML file (.nxml, .xml) an article: <article> in JATS 1.x or the older NLM DTD 2.x. Read here:
            front/article-meta {article-id@pub-id-type, title-group, abstract, kwd-group, pub-date,
            permissions}, journal-title, body.
In the paper    "over 3 million" full articles, taken from The Pile's PubMed Central.

Oddities    Two DTD generations name the PMCID "pmc" (with or without the letters) or "pmcid". Some articles
            have two abstracts, some none. Many state their license in words only, or have no <license> but a
            copyright statement: both are read, and of several licenses named the most restrictive counts.
            Tables, figures, formulas, references, footnotes and acknowledgements are left out. A citation
            mark goes with its brackets ("[3,4]", "(Hites 2004; ...)"), but an author's name that is a word of
            the sentence stays ("Hites (2004) showed"). Papers that were retracted, withdrawn or put under an
            expression of concern are dropped, and so are the notices.
"""

import re
import tarfile
from pathlib import Path

from lxml import etree

from data_prep.files import LONGEST_XML, open_bytes, read_whole
from data_prep.schema import BadInput
from data_prep.sources.raw_files import files_below
from data_prep.sources.xml_text import SAFE, bare_text, is_number, local_name, spell_out

DOMAIN = "biomedical"
LICENSE = "per article"
ACCESS = "public"
FILES_PER_OUTPUT = 10_000  # one article a file: three million output files would be unusable

LEFT_OUT = (
    "table-wrap",
    "table-wrap-group",
    "table",
    "fig",
    "fig-group",
    "graphic",
    "inline-graphic",
    "media",
    "supplementary-material",
    "inline-supplementary-material",
    "disp-formula",
    "disp-formula-group",
    "inline-formula",
    "tex-math",
    "math",
    "chem-struct-wrap",
    "ref-list",
    "fn",
    "fn-group",
    "ack",
    "label",
    "object-id",
    "related-article",
    "sec-meta",
    "kwd-group",
)
BLOCKS = {
    "title",
    "subtitle",
    "p",
    "sec",
    "abstract",
    "body",
    "list",
    "list-item",
    "disp-quote",
    "boxed-text",
    "statement",
    "def-list",
    "def-item",
    "term",
    "def",
    "verse-group",
    "verse-line",
    "attrib",
    "code",
    "preformat",
    "speech",
    "speaker",
}
# Characters that XML forbids, so no article can hold them: between two blocks, and around a citation.
# Not \x1c to \x1f, which are white space to str.split.
BLOCK, CITE, CITE_END = "\x01", "\x02", "\x03"

# From free to restricted.
LICENSES = ("public domain", "CC0", "CC BY", "CC BY-SA", "CC BY-ND", "CC BY-NC", "CC BY-NC-SA", "CC BY-NC-ND")


# What JATS calls a retraction, an expression of concern or a withdrawal: @article-type of the notice, and
# @related-article-type in the notice ("retracted-article", "object-of-concern") or in the paper
# ("retraction-forward").
UNSOUND = re.compile(r"retract|concern|withdraw", re.IGNORECASE)
UNSOUND_TITLE = re.compile(
    r"\W*(retracted|retraction|withdrawn|expression of concern)\b[^:]{0,40}:", re.IGNORECASE
)


def files(path: str | Path) -> list[Path]:
    return files_below(path, ("*.nxml", "*.xml", "*.nxml.gz", "*.xml.gz", "*.tar.gz", "*.tar"), "pmc")


def read(file: Path, drops):
    """Yield the article of one file (or the articles, if the root is a set), or those of an archive."""
    with open_bytes(file) as stream:
        if not file.name.endswith((".tar.gz", ".tar")):
            yield from _articles(str(file), read_whole(stream, file, LONGEST_XML), drops)
            return
        try:
            with tarfile.open(
                fileobj=stream, mode="r|", tarinfo=_Member
            ) as archive:  # in its order: no seeking back in a compressed stream
                for member in archive:
                    where = f"{file}: {member.name}"
                    if not member.isfile() and not member.isdir():
                        drops.add("pmc", "member of an archive that is no file", where, bad=True)
                    elif member.isfile() and member.name.endswith((".nxml", ".xml")):
                        if member.size > LONGEST_XML:
                            drops.add("pmc", f"larger than {LONGEST_XML:,} bytes", where, bad=True)
                        else:
                            yield from _articles(where, archive.extractfile(member).read(), drops)
        except (tarfile.TarError, ValueError, OverflowError) as error:  # the last two: of numbers in a header
            raise BadInput(f"{file}: cannot be read to its end ({error}). Next: fetch it again") from error


class _Member(tarfile.TarInfo):
    """A header that is read to its end or not at all: tarfile takes a damaged one for the end of the archive,
    and a long name of any length."""

    @classmethod
    def frombuf(cls, *given):
        try:
            member = super().frombuf(*given)
        except tarfile.InvalidHeaderError as error:
            raise tarfile.ReadError(f"a damaged header: {error}") from error
        if not member.isreg() and member.size > LONGEST_XML:
            raise tarfile.ReadError(f"a header of {member.size:,} bytes")
        return member


def _articles(name: str, content: bytes, drops):
    """The documents of one XML file; `name` says where it is."""
    try:
        root = etree.fromstring(content, etree.XMLParser(**SAFE))
    except etree.XMLSyntaxError as error:
        drops.add(
            "pmc",
            f"not well-formed XML ({error.msg.split(',')[0]})" if error.msg else "not well-formed XML",
            name,
            bad=True,
        )
        return
    articles = list(root.iter("{*}article"))
    if not articles:
        drops.add("pmc", f"no <article> in it (the root element is '{local_name(root)}')", name, bad=True)
    for number, article in enumerate(articles, 1):
        front = article.find("{*}front/{*}article-meta")
        where = f"{name}: record {number}"
        if front is None:
            drops.add("pmc", "<article> has no front/article-meta, this is not JATS", where, bad=True)
            continue
        ids = {e.get("pub-id-type"): bare_text(e) for e in front.iterfind("{*}article-id")}
        digits = (ids.get("pmc") or ids.get("pmcid") or ids.get("pmcaid") or "").upper().removeprefix("PMC")
        body = article.find("{*}body")
        language = article.get("{http://www.w3.org/XML/1998/namespace}lang") or "en"
        if not digits:
            drops.add("pmc", "no PMCID", where)
            continue
        if not language.lower().startswith("en"):
            drops.add("pmc", "not English", where)
            continue
        if _unsound(article, front):
            drops.add("pmc", "retracted, withdrawn or under concern, or a notice of it", where)
            continue
        license, license_link = _license(front)
        meta = {
            "pmid": ids.get("pmid"),
            "doi": ids.get("doi"),
            "year": min(
                (int(y.text) for y in front.iterfind("{*}pub-date/{*}year") if is_number(y.text)),
                default=None,
            ),
            "journal": bare_text(article.find("{*}front/{*}journal-meta//{*}journal-title")),
            "article_type": article.get("article-type"),
            "license_link": license_link,
        }
        parts = [front.find("{*}title-group/{*}article-title"), *front.iterfind("{*}abstract")]
        body_blocks = _blocks(body) if body is not None else []
        if not body_blocks:
            drops.add("pmc", "no body text", where)
            continue
        title, *abstracts = [_blocks(part) if part is not None else [] for part in parts]
        blocks = [*title, *(block for abstract in abstracts for block in abstract), *body_blocks]
        first = len(abstracts[0]) if abstracts else 0
        # how many blocks of the text are which part, in their order: the instruction sources pmc_* take the
        # article apart again
        meta["blocks"] = {
            "title": len(title),
            "abstract": first,
            "further_abstracts": sum(map(len, abstracts[1:])),
            "body": len(body_blocks),
        }
        meta["keywords"] = list(
            dict.fromkeys(filter(None, (bare_text(keyword) for keyword in front.iterfind(".//{*}kwd"))))
        )
        yield {
            "id": f"pmc:PMC{digits}",
            "text": "\n\n".join(blocks),
            "source": "pmc",
            "domain": DOMAIN,
            "license": license,
            "access": ACCESS,
            "meta": meta,
        }


def _unsound(article, front) -> bool:
    """Whether the record is retracted, withdrawn or under an expression of concern, or is the notice that
    says so."""
    related = [link.get("related-article-type") or "" for link in front.iterfind("{*}related-article")]
    related += [link.get("related-object-type") or "" for link in front.iterfind("{*}related-object")]
    title = bare_text(front.find("{*}title-group/{*}article-title"))
    kinds = [article.get("article-type") or "", *related]
    return any(map(UNSOUND.search, kinds)) or bool(UNSOUND_TITLE.match(title))


def _blocks(element) -> list[str]:
    """The titles and paragraphs below `element`, in order, each on one line. Changes `element`."""
    etree.strip_elements(element, *(f"{{*}}{name}" for name in LEFT_OUT), with_tail=False)
    spell_out(element)
    for section in reversed(list(element.iter("{*}sec"))):
        words = bare_text(section).removeprefix(bare_text(section.find("{*}title"))).strip()
        if not words or re.match(r"acknowledge?ments?\b", bare_text(section.find("{*}title")), re.IGNORECASE):
            section.getparent().remove(section)  # nothing but a heading is left of it, or it is thanks
    pieces = []
    _walk(element, pieces)
    blocks = (_without_citations(" ".join(block.split())) for block in "".join(pieces).split(BLOCK))
    return [block for block in blocks if block]


def _walk(element, pieces: list[str]) -> None:
    name = local_name(element)
    if name == "xref" and element.get("ref-type") in ("bibr", "fn", "table-fn"):
        pieces.append(CITE + bare_text(element) + CITE_END)
        return
    if (
        name == "sup"
        and not re.search(r"\w", "".join(x.tail or "" for x in element) + (element.text or ""))
        and len(element)
    ):
        inner = "".join(
            element.itertext()
        )  # raised "1,2-5": the commas between citations are part of the mark
        pieces.append(CITE + inner + CITE_END if _only_citations(element) else inner)
        return
    edge = BLOCK if name in BLOCKS else " " if name == "break" else ""
    pieces.append(edge + (element.text or ""))
    for child in element:
        _walk(child, pieces)
        pieces.append(child.tail or "")
    pieces.append(edge)


def _only_citations(element) -> bool:
    return all(
        local_name(child) == "xref" and child.get("ref-type") in ("bibr", "fn", "table-fn")
        for child in element
    )


_ONE = f"{CITE}[^{CITE_END}]*{CITE_END}"
_CITATION = re.compile(_ONE)
_BRACKETS = re.compile(rf"\s?([\[(])([^\[\](){CITE}]*{CITE}[^\[\]()]*)([\])])")
_RUN = re.compile(rf"\s?{_ONE}(?:[\s,;\u2013\u2014-]*{_ONE})*")
_CONNECTING = re.compile(
    r"(?:\W|\b(?:see|also|and|eg?|g|ie?|cf|for|reviews?|reviewed|in|by|refs?|references?|therein)\b)*",
    re.IGNORECASE,
)


def _without_citations(block: str) -> str:
    """Take the marked citations out of a block, with the brackets and separators that only served them."""
    if CITE not in block:
        return block

    def bracket(match):
        rest = _RUN.sub("", match[2])
        return (
            ""
            if _CONNECTING.fullmatch(rest)
            else match[0][: match[0].index(match[1])] + match[1] + rest + match[3]
        )

    def name_or_nothing(match):
        words = _CITATION.findall(match[0])
        return match[0] if any(re.search(r"[^\W\d_]{2}", word) for word in words) else ""

    # "[1]" may stand inside the mark itself; a mark of digits needs no words, and its brackets would hide
    # those around it.
    block = _CITATION.sub(
        lambda match: match[0] if re.search(r"[^\W\d_]{2}", match[0]) else CITE + CITE_END, block
    )
    block = _BRACKETS.sub(bracket, block)
    block = _RUN.sub(name_or_nothing, block).replace(CITE, "").replace(CITE_END, "")
    block = re.sub(r"\bal\.\.(?!\.)", "al.", block)
    block = re.sub(r"([\[(])\s*[,;]\s*", r"\1", re.sub(r"\s*[,;]\s*([\])])", r"\1", block))
    return re.sub(r"\s+([.,;:])(?=\s|$)", r"\1", re.sub(r" {2,}", " ", block)).strip()


def _license(front) -> tuple[str, str | None]:
    """(the license, one of LICENSES or "unknown"; the first license link or None) from the attributes and the
    words of an article."""
    elements = [e for e in front.iter("{*}license", "{*}copyright-statement") if isinstance(e.tag, str)]
    words = " ".join(bare_text(e) for e in elements)
    values = [
        value
        for e in elements
        for below in e.iter()
        if isinstance(below.tag, str)
        for value in below.attrib.values()
    ]
    said = " ".join((words, *values)).lower()
    found = {
        "CC " + code.upper()
        for code in re.findall(r"creativecommons\.org/licen[sc]es/(by(?:-nc)?(?:-nd|-sa)?)\b", said)
    }
    if re.search(r"publicdomain/zero|\bcc[ -]?0\b|\bcc[ -]zero\b", said):
        found.add("CC0")
    if re.search(r"public[ -]domain(?! dedication)|publicdomain/mark", said):
        found.add("public domain")
    if re.search(r"creative commons|\bcc[ -]by", said):
        terms = [
            ("NC", r"non-?\s?commercial|\bby-nc"),
            ("ND", r"no-?\s?deriv|\b(?:by|nc)-nd"),
            ("SA", r"share-?\s?alike|\b(?:by|nc)-sa"),
        ]
        terms = [term for term, pattern in terms if re.search(pattern, said)]
        if terms or re.search(r"creative commons attribution|\bcc[ -]by|attribution licen[sc]e", said):
            found.add("-".join(["CC BY", *terms[:2]]))
    links = [value for value in values if "creativecommons.org" in value] or re.findall(
        r"https?://creativecommons\.org/[^\s)\],;]+", words
    )
    known = [license for license in LICENSES if license in found]
    return (known[-1] if known else "unknown"), (links[0] if links else None)
