"""The evaluation sets of the paper (its Table 3), one module per set: from the publisher's files to rows
(`schema.py`).

To add a set: one file here, one prompt of the same name in data_prep/prompts, one fixture in the tests. The
files of this folder are found by their names; one that starts with an underscore is not a set. A benchmark
of your own needs no file here, only a table and a source.yaml in its raw folder: see _table.py. A module's
docstring is the card of the set, and the module has
    LICENSE, ACCESS      of the raw files
    PAGE                 where to find them
    SCORING              how an answer is scored, one of schema.SCORINGS
    EXPECTED             rows per split in the paper's Table 3 (of a set that is not in it: as published)
    DIFFERENCE           why ours are not exactly as many; printed when they are not
    COMMON               the fields that all rows share; with scoring "choice", "labels" and "entities" it
                         holds `choices`
    files(folder)        the raw files that are read; BadInput if what is needed is not in `folder`
    read(folder, drops)  yield the rows of every split that is in `folder`, in the order of the files. What is
                         left out is counted in `drops` by reason; a label is never guessed.
The prompt of a set is the text file data_prep/prompts/<set>.txt: change the wording there, its hash is in the
manifest. Rows that come from the Hugging Face Hub with a prompt of their own are taken as they are (_hub.py).
"""

import hashlib
import importlib
import os.path
import pkgutil
import re
import string
from pathlib import Path

from data_prep.files import read_yaml
from data_prep.schema import BadInput
from data_prep.sources import tables

NAMES = tuple(
    sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
)
PROMPTS = Path(__file__).resolve().parent.parent / "prompts"
OURS = PROMPTS / "ours.yaml"
RELEASE_WORDS = False  # prompts in the words of the release page alone: build_tasks --release_words
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "valid": "validation",
    "validation": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
LABELS = ("labels", "specialties", "options")  # placeholders of prompts without text of a record


def names(raw: Path) -> tuple[str, ...]:
    """NAMES, those beyond the twelve that `raw` has (_beyond.py), and the folders of `raw` that a source.yaml
    makes a benchmark of your own (_table.py)."""
    own = [name for name in tables.described(raw, "choice", "labels") if name not in NAMES]
    return (*NAMES, *(name for name in _others() if (raw / name).is_dir() and name not in own), *own)


def _others() -> dict:
    from data_prep.benchmarks._beyond import BEYOND  # here, as it imports from this file

    return BEYOND


def load(name: str, folder: Path | None = None):
    """The module of one of NAMES, or its equivalent for your own table in RAW/name, `folder`."""
    if name in NAMES:
        return importlib.import_module(f"data_prep.benchmarks.{name}")
    if name in _others() and not (folder and (folder / "source.yaml").is_file()):
        return _others()[name]
    from data_prep.benchmarks import _table

    return _table.Table(name, folder)


def from_hub(folder: Path) -> bool:
    """Whether the rows of this raw folder come from the Hub, with prompts of their own."""
    return (folder / "hub").is_dir()


def raw_files(name: str, folder: Path) -> list[Path]:
    """The raw files of set `name` that are read: those of folder/hub if it is there, else the publisher's."""
    from data_prep.benchmarks import _hub  # here, as it takes pyarrow with it

    return _hub.files(folder) if from_hub(folder) else load(name, folder).files(folder)


def read(name: str, folder: Path, drops):
    """The rows of set `name`, from folder/hub if it is there, else from the publisher's files."""
    from data_prep.benchmarks import _hub

    module = load(name, folder)
    return _hub.read(name, module, folder, drops) if from_hub(folder) else module.read(folder, drops)


def prompt_file(name: str) -> Path:
    return PROMPTS / f"{name}.txt"


def read_prompt(name: str, *fields: str) -> str:
    """The template of task `name`, to be filled with str.format. BadInput unless its placeholders are exactly
    `fields` (a forgotten {options} would ask every question without its options) and it ends in a newline."""
    path = prompt_file(name)
    if not path.is_file():
        raise BadInput(f"{path}: no such prompt")
    template, ours = _template(name)
    try:
        found = _fields(template)
        fields = set(fields) - (_fields(ours) if RELEASE_WORDS else set())
    except ValueError as error:
        raise BadInput(f"{path}: {error}. Next: write a literal brace twice") from error
    if found != fields:
        raise BadInput(
            f"{path}: the placeholders are {sorted(found)}, must be {sorted(fields)}. A literal brace is "
            "written twice"
        )
    if not template.endswith("\n"):
        raise BadInput(
            f"{path}: must end in a newline, so that prompt and completion tokenize without a seam"
        )
    return template


def _fields(template: str) -> set[str]:
    return {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}


def _template(name: str) -> tuple[str, str]:
    """The text of a prompt file, and what of it is ours (prompts/ours.yaml): left out with RELEASE_WORDS."""
    text = prompt_file(name).read_text(encoding="utf-8")
    ours = (read_yaml(OURS).get(name) or "") if OURS.is_file() else ""
    if RELEASE_WORDS and ours not in text:
        raise BadInput(f"{OURS}: {name}: is not in {prompt_file(name)}. Next: write it as the prompt has it")
    return (text.replace(ours, "") if RELEASE_WORDS and ours else text), ours


def prompt_pattern(name: str) -> re.Pattern | None:
    """The prompts that the template of task `name` makes, each placeholder a group of its name; None without
    a template."""
    path = prompt_file(name)
    if not path.is_file():
        return None
    parts = string.Formatter().parse(_template(name)[0])
    return re.compile(
        "".join(re.escape(text) + (f"(?P<{field}>.*)" if field else "") for text, field, _, _ in parts),
        re.DOTALL,
    )


def wording(name: str, prompts, words: int) -> str:
    """The lines that all `prompts` of a task begin with, as far as they contain no text of a record: those
    before the first text in its template.

    Of prompts that no template made (_hub.py), all common lines; none where fewer than `words` words of every
    prompt would be left, as of a single prompt, or of questions on one text."""
    pattern, head, longest = prompt_pattern(name), None, 0
    for prompt in prompts:
        if found := pattern.fullmatch(prompt) if pattern else None:
            prompt = prompt[: min(found.start(field) for field in found.groupdict() if field not in LABELS)]
        else:
            longest = max(longest, len(prompt.split()))
        head = prompt if head is None else os.path.commonprefix([head, prompt])
    head = (head or "")[: (head or "").rfind("\n") + 1]
    return "" if 0 < longest < len(head.split()) + words else head


def pick(record, where: str, **kinds) -> list:
    """The values of the named fields of a raw record, in the order of the arguments: pick(r, where,
    question=str, options=dict). BadInput names `where` and the field that is missing or of another type."""
    if not isinstance(record, dict):
        raise BadInput(f"{where}: expected a JSON object, found {type(record).__name__}")
    for field, kind in kinds.items():
        if field not in record:
            raise BadInput(
                f"{where}: field '{field}' is missing (found: {', '.join(sorted(record)) or 'none'})"
            )
        if not isinstance(record[field], kind):
            raise BadInput(
                f"{where}: field '{field}' must be {kind.__name__}, found {type(record[field]).__name__}"
            )
    return [record[field] for field in kinds]


def texts(values: list, where: str, field: str) -> list[str]:
    """The texts of a list field without outer white space. BadInput if one of them is no text."""
    for value in values:
        if not isinstance(value, str):
            raise BadInput(f"{where}: field '{field}' must contain text only, found {type(value).__name__}")
    return [value.strip() for value in values]


def answerable(scoring: str, answer: str, choices: list[str] | None) -> bool:
    """Whether `answer` can be scored: one of `choices` (scoring "choice"), or some of them joined by "; "
    ("labels")."""
    if scoring == "labels":
        return set(answer.split("; ")) <= set(choices)
    return scoring != "choice" or answer in choices


def fraction(key: str) -> float:
    """A number in [0, 1) that depends on `key` alone: whole notes, patients or documents go to a split by it,
    the same way on every machine and whatever else is in the file."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64
