"""How a number, a table and a foreign text are written, once for every report.

A name (of a model, a run, a folder) may hold any character. `printable` makes it one line of visible
characters; what each format would still read as code is escaped here: `latex_text`, `inert` (CSV),
`markdown_table` and `markdown_text`. Jinja escapes HTML, figures.py escapes SVG.
"""

import math

NAMED = {
    "\\": "backslash",
    "~": "asciitilde",
    "^": "asciicircum",
    "<": "less",
    ">": "greater",
    "|": "bar",
    "†": "dagger",
}
LATEX = {character: rf"\text{word}{{}}" for character, word in NAMED.items()} | {"–": "--"}
LATEX |= {character: "\\" + character for character in "&%$#_{}"}
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet runs a cell that begins so


def format_interval(value, low=None, high=None, *, signed=False, digits=3) -> str:
    """`0.513 (0.420 to 0.606)`. Without bounds the value alone; a value that is None or NaN is "not
    defined"."""
    if value is None or math.isnan(value):
        return "not defined"
    plain, sign = f".{digits}f", "+" if signed else ""
    if low is None or math.isnan(low):
        return format(value, sign + plain)
    return f"{value:{sign}{plain}} ({low:{sign}{plain}} to {high:{sign}{plain}})"


def format_difference(d: dict) -> str:
    """A paired difference with its interval; `d` has difference, low and high."""
    return format_interval(d["difference"], d["low"], d["high"], signed=True)


def printable(text) -> str:
    """One line: every control, bidirectional or undecodable character becomes U+FFFD, every kind of space a
    space."""
    one_line = " ".join(str(text).split())
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in one_line)


def inert(cell):
    """A CSV cell that a spreadsheet shows and does not run. Numbers stay numbers."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def latex_text(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is: no HTML, no link, no further column or line."""
    escaped = str(text).replace("<", "&lt;").replace("|", "\\|").replace("](", "]\\(")
    return escaped.replace("\r", " ").replace("\n", " ")


def markdown_table(head, rows) -> str:
    """A Markdown table. Cells may hold emphasis, but no HTML, link, column or line of their own."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(markdown_text, line))} |\n" for line in lines)
