"""Rows that come from the Hugging Face Hub with a prompt of their own (clinicalnlplab/<set>_test), for any
set of this folder.

Raw       RAW/<set>/hub/*.parquet or *.jsonl, records of {query, answer, choices?, gold?, text?, id?}; the
          name of a file holds its split, as in test-00000-of-00001.parquet or valid.jsonl
Rows      prompt = query, completion = answer, both as they are but for outer white space of the answer and a
          newline after the query. Scoring, license and access are those of the set; `choices` too, where the
          record brings none.
Instead   If the folder hub is there, the publisher's files beside it are not read: one set has one kind of
          prompt.
Left out  and counted: records without query or answer, answers outside the choices, or not the choice that
          `gold` points at
Oddities  the exports named _test contain train, valid and test with the same rows: build_tasks drops what is
          in the test, so no train row is left of them. `gold` is the place of the answer in `choices`,
          counted from 0.
"""

import re
from pathlib import Path

from data_prep.benchmarks import SPLIT_NAMES, answerable
from data_prep.files import read_jsonl, read_parquet
from data_prep.schema import BadInput


def files(folder: Path) -> list[Path]:
    found = sorted([*folder.glob("hub/*.parquet"), *folder.glob("hub/*.jsonl")])
    if not found:
        raise BadInput(
            f"{folder / 'hub'}: no *.parquet and no *.jsonl. Next: put the export of the Hub there, or "
            "remove the folder"
        )
    return found


def read(name: str, module, folder: Path, drops):
    common = {key: value for key, value in module.COMMON.items() if key != "choices"}
    for path in files(folder):
        split = _split(path)
        for number, record in _records(path):
            where = f"{path}: record {number}"
            if missing := [field for field in ("query", "answer") if field not in record]:
                found = ", ".join(map(str, record)) or "none"
                raise BadInput(
                    f"{where}: field '{missing[0]}' is missing (found: {found}). "
                    f"Next: an export with query and answer, or remove {path.parent} to read the "
                    "publisher's files"
                )
            query, answer, gold = record.get("query"), record.get("answer"), record.get("gold")
            choices = record.get("choices") or module.COMMON.get("choices")
            if (
                not isinstance(query, str)
                or not query.strip()
                or not isinstance(answer, str)
                or not answer.strip()
            ):
                drops.add(name, "no query or no answer", where)
                continue
            answer = answer.strip()
            if not answerable(module.SCORING, answer, choices):
                drops.add(name, "answer is not among the choices", where)
                continue
            if module.SCORING == "choice" and type(gold) is int and choices[gold : gold + 1] != [answer]:
                drops.add(name, "gold points at another choice than the answer", where)
                continue
            row = {"id": f"{name}:hub:{path.stem}:{number}:{record.get('id', '')}", "split": split, **common}
            row |= {"choices": list(choices)} if choices else {}
            yield row | {"prompt": query if query.endswith("\n") else query + "\n", "completion": answer}


def _split(path: Path) -> str:
    found = {SPLIT_NAMES[word] for word in re.split(r"[-_.]", path.stem.lower()) if word in SPLIT_NAMES}
    if len(found) != 1:
        raise BadInput(
            f"{path}: the name must contain one of {', '.join(SPLIT_NAMES)}, separated by - or _. Next: "
            "rename it"
        )
    return found.pop()


def _records(path: Path):
    """Yield (number from 1, record)."""
    for number, record in read_jsonl(path) if path.suffix == ".jsonl" else read_parquet(path):
        if not isinstance(record, dict):
            raise BadInput(f"{path}: line {number} is no JSON object")
        yield number, record
