"""The instruction-tuning sources of the paper (its Table 2), one module per source: from the publisher's file
to rows.

To add a source: one file here, one fixture in the tests. The files of this folder are found by their names;
one that starts with an underscore is shared by several sources. A module's docstring is the card of the
source, and the module has
    LICENSE, ACCESS      of the raw files
    files(folder)        the raw files that are read; BadInput if they are not in `folder`
    read(folder, drops)  yield rows (schema.py) of task "instruction" and scoring "none", or one that a
                         reward can verify, all of split "train": build_instructions holds some out.
                         What is left out is counted in `drops` by reason. A row may say its `group`, a
                         patient or a document: all rows of a group go to the same split.
    FOLDER               optional: the folder below RAW that it reads, if that is not its own name ("." is RAW
                         itself)
    FROM_DOCUMENTS       optional: True if FOLDER is below the folder that build_documents wrote, not below
                         RAW
The prompt is the instruction, and the input below a blank line if there is one; nothing is wrapped around it,
as the chat template of the recipe does that. paper.yaml holds the sizes of Table 2.
"""

import importlib
import pkgutil
import re
from pathlib import Path

import ftfy

from data_prep.files import read_json
from data_prep.schema import BadInput
from data_prep.sources import tables

NAMES = tuple(
    sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
)


REPAIRED = "text that was decoded or escaped twice, repaired"
REPAIRS = ftfy.TextFixerConfig(
    unescape_html=False,
    normalization=None,
    uncurl_quotes=False,
    fix_latin_ligatures=False,
    fix_character_width=False,
    fix_line_breaks=False,
    remove_terminal_escapes=False,
    remove_control_chars=False,
)


def names(raw: Path) -> tuple[str, ...]:
    """NAMES, and the folders of `raw` that a source.yaml makes instruction rows of your own (_table.py)."""
    return (*NAMES, *(name for name in tables.described(raw, "instructions") if name not in NAMES))


def load(name: str, folder: Path | None = None):
    """The module of one of NAMES, or its equivalent for your own table in RAW/name, `folder`."""
    if name in NAMES:
        return importlib.import_module(f"data_prep.instructions.{name}")
    from data_prep.instructions import _table

    return _table.Table(name, folder)


def read(name: str, folder: Path, drops):
    """The rows of one source, with text that was decoded or escaped twice repaired as in documents, and
    counted."""
    for row in load(name, folder).read(folder, drops):
        texts = row.get("messages", [row])
        changed = False
        for part in texts:
            for field in ("content",) if "messages" in row else ("prompt", "completion"):
                repaired = repair(part[field])
                changed |= repaired != part[field]
                part[field] = repaired
        if changed:
            drops.repair(name, REPAIRED, row["id"])
        yield row


def repair(text: str) -> str:
    """`text` with mojibake ("cafÃ©") and escaped entities ("&quot;") undone; nothing else is changed."""
    if "<" not in text:  # a text with "<" may be about markup
        while "&" in text and (once := ftfy.fixes.unescape_html(text)) != text:
            text = once
    return text if text.isascii() else ftfy.fix_text(text, REPAIRS)


def common(name: str, license: str, access: str) -> dict:
    """The fields that all rows of a source share."""
    return {
        "task": "instruction",
        "split": "train",
        "scoring": "none",
        "source": name,
        "license": license,
        "access": access,
    }


def check_text(record, where: str, *fields: str) -> dict:
    """Return `record` if it is an object whose `fields` are all text, else raise BadInput."""
    if not isinstance(record, dict):
        raise BadInput(f"{where}: expected a JSON object, found {type(record).__name__}")
    for field in fields:
        if not isinstance(record.get(field), str):
            raise BadInput(
                f"{where}: field '{field}' must be text (found: {', '.join(sorted(record)) or 'none'})"
            )
    return record


def read_array(path: Path):
    """Yield (where, record) for each element of a JSON array."""
    records = read_json(path)
    if not isinstance(records, list) or not records:
        raise BadInput(f"{path}: expected a JSON array of records, found {type(records).__name__}")
    for number, record in enumerate(records, 1):
        yield f"{path}: record {number}", record


def read_answered(source: str, paths: list[Path], fields: tuple[str, ...], drops):
    """Yield (path, record number, record, question, answer) of JSON arrays whose records have `fields`, all
    text; the last two are question and answer. Those without one of the two, and exact duplicates, are
    dropped and counted."""
    seen = set()
    for path in paths:
        for number, (where, record) in enumerate(read_array(path), 1):
            check_text(record, where, *fields)
            question, answer = (record[field].strip() for field in fields[-2:])
            if not question or not answer:
                drops.add(source, "empty question or answer", where)
            elif (question, answer) in seen:
                drops.add(source, "exact duplicate", where)
            else:
                seen.add((question, answer))
                yield path, number, record, question, answer


NO_INPUT = re.compile(
    r"\W*(no[ _-]?((further|additional|other) )?input"
    r"( (is )?(required|needed|necessary|provided|given|available|applicable))?"
    r"|n[/.]a|none|null|nan|nil|not applicable)?\W*",
    re.I,
)


def no_input(text: str) -> bool:
    """Whether an input only says that there is none: "", "<noinput>", "No input required.", "[noinput]",
    "N/A", "None"."""
    return bool(NO_INPUT.fullmatch(text))


def join(*parts: str) -> str:
    """A prompt of an instruction and what comes below it, each after a blank line; a part may be empty."""
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"
