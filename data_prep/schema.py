"""What flows between the stages: the document, the row, and the rule for access classes.

Every stage that writes one of these checks it here, so that a bad record is named by file and field where it is made,
and not three stages later. The packed block is described in `build_blocks.py`, the manifest in `manifest.py`.

Document (one line of DOCUMENTS/<source>/*.jsonl.gz)
    id, text            str, both non-empty; the id is unique inside its source and can be traced to the raw record
    source              str, the name of the reader, e.g. "pubmed"
    domain              "biomedical" | "clinical" | "general"
    license, access     str; "public" | "gated" | "credentialed"
    meta                dict, whatever else the publisher says of the record

Row (one line of INSTRUCTIONS/*.jsonl and TASKS/<task>/{train,validation,test}.jsonl)
    id, task, split     str; split is "train" | "validation" | "test"
    prompt, completion  str; the prompt ends in a newline, so that prompt + completion tokenises without a seam.
                        Multi-turn sources carry `messages` instead: [{"role": "user" | "assistant" | "system", "content"}]
    scoring             how an output is scored, one of SCORINGS; evaluation knows a row by this field alone
    choices             list of str: the labels that may be answered (scoring "choice" and "labels"), or the entity types ("entities")
    question, options   for multiple-choice rows: the bare question and the text of each choice, in the order of `choices`;
                        the log-likelihood twin of a task reads these
    question, synonyms  for diagnosis cases (scoring "diagnosis", build_cases.py): the bare text of the case, and other names of the final
                        diagnosis, which is the completion
    source, license, access
A row only gains fields: generation adds `output` and `model_access`, the class of the model that wrote it; scoring adds `parsed` and `score`.
"""

from data_prep import egress

ACCESS = ("public", "gated", "credentialed")  # loosest first
DOMAINS = ("biomedical", "clinical", "general")
SPLITS = ("train", "validation", "test")
SCORINGS = ("choice", "labels", "span", "entities", "summary", "diagnosis", "none")

DOCUMENT_FIELDS = {
    "id": str,
    "text": str,
    "source": str,
    "domain": str,
    "license": str,
    "access": str,
    "meta": dict,
}
ROW_FIELDS = {
    "id": str,
    "task": str,
    "split": str,
    "scoring": str,
    "source": str,
    "license": str,
    "access": str,
}
ROW_OPTIONAL = {"prompt": str, "completion": str, "messages": list, "choices": list, "question": str, "options": list, "synonyms": list,
                "output": object, "model_access": str, "parsed": object, "score": object}  # fmt: skip


class BadInput(Exception):
    """A file, row or key that cannot be used. The message names it, says what is wrong, and what to do next."""


def strictest(access_classes) -> str:
    """The access class of something made from inputs of these classes. Nothing made of nothing is public."""
    return max(access_classes, key=ACCESS.index, default="public")


def hold(record: dict) -> dict:
    """Return `record`; if it is credentialed, this process reaches nothing beyond this machine from now on (egress.py)."""
    if record["access"] == "credentialed":
        egress.keep_inside([record["license"]], BadInput)
    return record


def shown(row: dict, text: str) -> str:
    """`text` as an error may say it, which may end in a log: of a credentialed row, not at all."""
    return "(credentialed, not shown)" if row.get("access") == "credentialed" else f"'{text}'"


def _check_fields(record: dict, required: dict, optional: dict, where: str) -> None:
    if not isinstance(record, dict):
        raise BadInput(f"{where}: expected a JSON object, found {type(record).__name__}")
    for field, kind in required.items():
        if field not in record:
            raise BadInput(
                f"{where}: field '{field}' is missing (found: {', '.join(sorted(record)) or 'none'})"
            )
        if not isinstance(record[field], kind):
            raise BadInput(
                f"{where}: field '{field}' must be {kind.__name__}, found {type(record[field]).__name__}"
            )
    for field, value in record.items():
        if field in required:
            continue
        if field not in optional:
            raise BadInput(f"{where}: unknown field '{field}' (known: {', '.join((*required, *optional))})")
        if not isinstance(value, optional[field]):
            raise BadInput(
                f"{where}: field '{field}' must be {optional[field].__name__}, found {type(value).__name__}"
            )


def _check_value(record: dict, field: str, allowed: tuple, where: str) -> None:
    if record[field] not in allowed:
        raise BadInput(f"{where}: field '{field}' is '{record[field]}', must be one of {', '.join(allowed)}")


def check_document(document: dict, where: str) -> dict:
    """Return `document` unchanged, or raise BadInput naming `where` (file and record) and the field."""
    _check_fields(document, DOCUMENT_FIELDS, {}, where)
    _check_value(document, "domain", DOMAINS, where)
    _check_value(document, "access", ACCESS, where)
    for field in ("id", "text", "source", "license"):
        if not document[field].strip():
            raise BadInput(f"{where}: field '{field}' is empty")
    if document["id"].splitlines() != [document["id"]]:  # ids are written line by line
        raise BadInput(
            f"{' '.join(where.splitlines())}: field 'id' holds a line end. Next: mend the raw file, or name another column as id"
        )
    return hold(document)


def check_row(row: dict, where: str) -> dict:
    """Return `row` unchanged, or raise BadInput naming `where` (file and record) and the field."""
    _check_fields(row, ROW_FIELDS, ROW_OPTIONAL, where)
    _check_value(row, "split", SPLITS, where)
    _check_value(row, "scoring", SCORINGS, where)
    _check_value(row, "access", ACCESS, where)
    hold(row)
    if ("messages" in row) == ("prompt" in row):
        raise BadInput(f"{where}: a row has either 'prompt' and 'completion' or 'messages' (row {row['id']})")
    if "messages" in row:
        turns = [
            m.get("role")
            for m in row["messages"]
            if isinstance(m, dict) and isinstance(m.get("content"), str)
        ]
        spoken = turns[1:] if turns[:1] == ["system"] else turns
        if (
            len(turns) != len(row["messages"])
            or not spoken
            or spoken != ["user", "assistant"] * (len(spoken) // 2)
        ):
            raise BadInput(
                f"{where}: 'messages' must alternate user and assistant, and end with assistant (row {row['id']})"
            )
    else:
        if not row.get("completion"):
            raise BadInput(f"{where}: field 'completion' is missing or empty (row {row['id']})")
        if not row["prompt"].endswith("\n") or not row["prompt"].strip():
            raise BadInput(f"{where}: field 'prompt' must be text that ends in a newline (row {row['id']})")
    if row["scoring"] in ("choice", "labels", "entities") and not row.get("choices"):
        raise BadInput(f"{where}: scoring '{row['scoring']}' needs 'choices' (row {row['id']})")
    if row["scoring"] == "choice" and row["completion"] not in row["choices"]:
        raise BadInput(
            f"{where}: completion {shown(row, row['completion'])} is not among the choices {row['choices']} (row {row['id']})"
        )
    if "options" in row and (len(row["options"]) != len(row.get("choices", ())) or "question" not in row):
        raise BadInput(
            f"{where}: 'options' needs 'question' and as many entries as 'choices' (row {row['id']})"
        )
    return row
