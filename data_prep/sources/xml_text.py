"""What the two XML sources share: a parser that fetches and expands nothing, and text that survives losing its markup."""

import html

from lxml import etree

# The files name DTDs on other machines, and an entity can be made to expand without end. Neither is needed to read them.
SAFE = {"load_dtd": False, "no_network": True, "resolve_entities": False}


def local_name(element) -> str:
    """The tag without its namespace; "" for a comment, a processing instruction or an entity."""
    return etree.QName(element).localname if isinstance(element.tag, str) else ""


def spell_out(element) -> None:
    """Change `element` in place so that its bare text still says what it said with markup.

    A raised number after a digit becomes a power (10<sup>6</sup> would read 106), a named character (&alpha;) becomes that
    character, and comments and processing instructions go."""
    for node in list(element.iter(etree.Comment, etree.ProcessingInstruction, etree.Entity)):
        character = html.unescape(node.text) if node.tag is etree.Entity else ""
        parent, before = node.getparent(), node.getprevious()
        if parent is None:
            continue
        text = character + (node.tail or "")
        if before is not None:
            before.tail = (before.tail or "") + text
        else:
            parent.text = (parent.text or "") + text
        node.tail = None
        parent.remove(node)
    for raised in element.iter("{*}sup"):
        before = raised.getprevious()
        left = (before.tail if before is not None else raised.getparent().text) or ""
        power = "".join(raised.itertext()).strip()
        if left[-1:].isdigit() and power.lstrip("+-\u2212\u2013").isdigit() and raised.text:
            raised.text = "^" + raised.text.lstrip()


def bare_text(element) -> str:
    """All text below `element`, markup dropped and nothing after an inline tag lost, on one line. None gives ""."""
    return "" if element is None else " ".join("".join(element.itertext()).split())
