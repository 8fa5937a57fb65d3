"""What the readers of XML share: a parser that fetches and expands nothing, and text that survives losing its
markup."""

import html
from pathlib import Path

from lxml import etree

from data_prep.files import LONGEST_XML, open_bytes, read_whole
from data_prep.schema import BadInput

# The files name DTDs on other machines, and an entity can be made to expand without end. Neither is needed to
# read them.
SAFE = {"load_dtd": False, "no_network": True, "resolve_entities": False}


def parse(path: Path):
    """The root element of a whole file. BadInput if it is not well-formed."""
    with open_bytes(path) as stream:
        try:
            return etree.fromstring(read_whole(stream, path, LONGEST_XML), etree.XMLParser(**SAFE))
        except etree.XMLSyntaxError as error:
            raise BadInput(f"{path}: not whole XML ({error})") from error


def is_number(text: str | None) -> bool:
    """Whether a text is a number of at most nine digits, as years, versions and PMIDs are."""
    return bool(text) and text.strip().isdecimal() and len(text.strip()) < 10


def local_name(element) -> str:
    """The tag without its namespace; "" for a comment, a processing instruction or an entity."""
    return etree.QName(element).localname if isinstance(element.tag, str) else ""


def spell_out(element) -> None:
    """Change `element` in place so that its bare text still says what it said with markup.

    A raised number after a digit becomes a power (10<sup>6</sup> would read 106), a named character (&alpha;)
    becomes that character, and comments and processing instructions go."""
    # (element, whether text follows it or begins it) -> pieces of that text, joined once: a paragraph may
    # have a million of them
    after = {}
    for node in list(element.iter(etree.Comment, etree.ProcessingInstruction, etree.Entity)):
        character = html.unescape(node.text) if node.tag is etree.Entity else ""
        parent, before = node.getparent(), node.getprevious()
        if parent is None:
            continue
        place = (parent, "text") if before is None else (before, "tail")
        after.setdefault(place, [getattr(*place) or ""]).extend((character, node.tail or ""))
        node.tail = None
        parent.remove(node)
    for (where, name), pieces in after.items():
        setattr(where, name, "".join(pieces))
    for raised in element.iter("{*}sup"):
        before = raised.getprevious()
        left = (before.tail if before is not None else raised.getparent().text) or ""
        power = "".join(raised.itertext()).strip()
        if left[-1:].isdigit() and power.lstrip("+-\u2212\u2013").isdigit() and raised.text:
            raised.text = "^" + raised.text.lstrip()


def bare_text(element) -> str:
    """All text below `element`, markup dropped and nothing after an inline tag lost, on one line. None gives
    ""."""
    return "" if element is None else " ".join("".join(element.itertext()).split())
