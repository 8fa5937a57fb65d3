"""What the evaluation rows hold that no training document may hold: the texts of each item, and the ids of
the records they were made of.

Reads   ROWS/<task>/<split>.jsonl, the rows of build_tasks, and files of further cases: JSON lines of {id,
        text}, or objects with their text in any parts, as the published diagnosis cases are (their item is
        then the number of the line).

Several rows can be of one text: the lines of an i2b2 note, the questions on an emrQA note, the sentences of a
DDI document. Such rows are one item, since a single line of a note ("was discharged home in stable
condition") stands in a thousand others. The wording of the prompt, which all rows of a task share, is taken
off by its template in data_prep/prompts, or, where rows have prompts of their own, by the lines that most of
them share.

Credentialed rows and cases close this process (schema.mark_credentialed), and their items are named without
their id (`item_name`).
"""

import collections
import hashlib
import re
from pathlib import Path
from typing import NamedTuple

from data_prep import benchmarks
from data_prep.files import read_jsonl
from data_prep.schema import BadInput, mark_credentialed
from data_prep.sources.raw_files import csv_rows

# Words: texts of as many stand for their row alone; shorter ones (options, a question on a long context)
# where there is no other.
LONG = 26
# What the row ids of a task say of the raw record (see data_prep/benchmarks): group 1 of the id that a corpus
# document has too.
SOURCE_IDS = {
    "pubmedqa": ("pmid", r"pubmedqa:(\d+)"),
    "hoc": ("pmid", r"hoc:(\d+)"),
    "bionli": ("pmid", r"bionli:\w+:\d+:(\d+)"),
    "pubmed_summ": ("pmcid", r"pubmed_summ:\w+:\d+:(?:PMC)?(\d+)"),
    "mimic_cxr": ("cxr_study", r"mimic_cxr:(s\d+)"),
}
# The part of a row id that is the same for all rows of one text.
UNITS = {
    "i2b2": r"(i2b2:.+):\d+",
    "emrqa": r"(emrqa:.+):\d+:\d+",
    "ddi": r"(ddi:.+)\.s\d+\.p\d+",
    "bionli": r"(bionli:\w+):\d+:(\d+)",
}
SEAM = re.compile(
    r"@DRUG(?:-DRUG)?\$"
)  # written by the task over the text: a run of words across it stands in no document
MARKS = re.compile(r"<(?:re|er|el|le)>|</?S>")  # written by the task between two words


class Item(NamedTuple):
    task: str
    id: str  # of its first row, as `item_name` gives it
    texts: tuple[str, ...]  # runs of words are never taken across two of them


def item_name(record: dict, task: str, name: str) -> str:
    """What the lists of what was removed call an item: its id, `name`. They may lie beside public text, so
    they name the item of a credentialed `record` by its task and 12 digits of the SHA-256 of the id. Whoever
    has the rows can compute it; who tries all ids that there could be can, too."""
    if record.get("access") != "credentialed":
        return name
    return f"{task}:sha256:{hashlib.sha256(name.encode(errors='replace')).hexdigest()[:12]}"


def _mark(record: dict) -> None:
    """schema.mark_credentialed, for records that may have neither class nor license, as cases."""
    mark_credentialed({"access": record.get("access"), "license": str(record.get("license") or "not stated")})


def row_files(rows: str | Path, splits) -> list[Path]:
    """ROWS/<task>/<split>.jsonl of all tasks. BadInput where no file is found."""
    found = [path for path in sorted(Path(rows).glob("*/*.jsonl")) if path.stem in splits]
    if not found:
        raise BadInput(
            f"{rows}: no <task>/{{{','.join(splits)}}}.jsonl. Next: python -m data_prep.build_tasks "
            f"--raw RAW --tasks all --out {rows}"
        )
    return found


def id_blocklist(
    rows: str | Path, splits=("validation", "test"), pmc_ids: str | Path | None = None
) -> dict[tuple[str, str], tuple[str, str]]:
    """{(kind, id): (task, item_name of the row)} of the records behind the rows, as `document_ids` names
    them; kinds are pmid, pmcid and cxr_study.

    `pmc_ids`: NLM's PMC-ids.csv[.gz] (ftp.ncbi.nlm.nih.gov/pub/pmc); with it PMIDs and PMCIDs block each
    other."""
    blocked = {}
    for path in row_files(rows, splits):
        kind, pattern = SOURCE_IDS.get(path.parent.name, (None, None))
        for _, row in read_jsonl(path) if kind else ():
            _mark(row)
            if found := re.fullmatch(pattern, row["id"]):
                blocked.setdefault((kind, found[1]), (row["task"], item_name(row, row["task"], row["id"])))
    if pmc_ids:
        for _, row in csv_rows(Path(pmc_ids), ("pmcid", "pmid")):
            pair = ("pmcid", row["pmcid"].removeprefix("PMC")), ("pmid", row["pmid"])
            for known, other in (pair, pair[::-1]):
                if known in blocked and other[1]:
                    blocked.setdefault(other, blocked[known])
    return blocked


def document_ids(document: dict) -> list[tuple[str, str]]:
    """The (kind, id) by which a document can be known, its own first."""
    source, _, name = document["id"].partition(":")
    kind = {"pubmed": "pmid", "pmc": "pmcid", "mimic_cxr": "cxr_study"}.get(source)
    found = [(kind, name.removeprefix("PMC"))] if kind else []
    for kind in ("pmid", "pmcid"):
        if value := document["meta"].get(kind):
            found.append((kind, str(value).removeprefix("PMC")))
    return found


def read_items(rows: str | Path, splits=("validation", "test"), cases=()) -> list[Item]:
    """The items of all tasks in ROWS, and of files of cases. BadInput names a case without text."""
    items = []
    for path in row_files(rows, splits):
        units = collections.defaultdict(list)
        for row, texts in _row_texts(path):
            found = re.fullmatch(UNITS.get(row["task"], "(.*)"), row["id"])
            units[found.groups() if found else row["id"]].append((row, texts))
        for parts in units.values():
            first = parts[0][0]
            name = item_name(first, first["task"], first["id"])
            items.append(
                Item(first["task"], name, tuple(dict.fromkeys(text for _, texts in parts for text in texts)))
            )
            items += answers(row for row, _ in parts)
    for path in map(Path, cases):
        for number, case in read_jsonl(path):
            texts = _texts(list(_strings(case.get("text", case)))) if isinstance(case, dict) else []
            if not texts:
                raise BadInput(f"{path}: line {number} must be an object that holds the text of a case")
            _mark(case)
            items.append(
                Item(path.stem, item_name(case, path.stem, str(case.get("id", number))), tuple(texts))
            )
    return items


def answers(rows):
    """The gold summaries that are long enough to be looked for by themselves. In the item of the whole row an
    abstract is a small share beside its article, and a document that is just the abstract would stay."""
    for row in rows:
        if row["scoring"] == "summary" and len(row["completion"].split()) >= LONG:
            yield Item(
                row["task"], item_name(row, row["task"], row["id"]), tuple(_texts([row["completion"]]))
            )


def _strings(value):
    """All strings of a JSON value: published cases have their text in parts, history and findings and
    tests."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)


def _row_texts(path: Path):
    """Yield (row, its texts) for the rows of one file."""
    template = benchmarks.prompt_pattern(path.parent.name)
    others = []
    for _, row in read_jsonl(path):
        _mark(row)
        found = template.fullmatch(row["prompt"]) if template else None
        if "question" in row:
            yield row, _texts([row["question"], *row.get("options", ())])
        elif found:
            summary = [row["completion"]] if row["scoring"] == "summary" else []
            yield (
                row,
                _texts(
                    [value for name, value in found.groupdict().items() if name not in benchmarks.LABELS]
                    + summary
                ),
            )
        else:
            others.append(row)
    lines = collections.Counter(line for row in others for line in set(row["prompt"].split("\n")))
    for row in others:
        own = [line for line in row["prompt"].split("\n") if lines[line] <= max(1, len(others) / 2)]
        yield row, _texts(["\n".join(own)] + ([row["completion"]] if row["scoring"] == "summary" else []))


def _texts(fields: list[str]) -> list[str]:
    pieces = [piece for field in fields for piece in SEAM.split(MARKS.sub(" ", field)) if piece.strip()]
    return [piece for piece in pieces if len(piece.split()) >= LONG] or pieces
