"""UMLS relations: which relation holds between two concepts of the UMLS semantic network? (Wu et al. 2023 use
UMLS in this form)

Origin    the public knowledge graph of 135 concepts that is known as UMLS; the licensed Metathesaurus is not
          needed, nor may it be passed on. "Openrail" by Table 2. Public.
Raw       UMLS_train.jsonl, one {text "what is the relationship between A and B ?", label} a line; 5,216
          lines. UMLS_dev.jsonl and UMLS_test.jsonl (652, 661) are not read.
Paper     10,000 (Table 2), from PMC-LLaMA's instruction set, whose records {instruction, input, output}
          include definitions too
Rows      one for each question; the completion lists all its labels, separated by "; ", in the order of the
          alphabet: 1,033 of the train questions have more than one, and each alone would call the others
          wrong
Left out  and counted: lines that were joined to the row of the same question, exact duplicates, empty ones
"""

from pathlib import Path

from data_prep.files import read_jsonl
from data_prep.instructions import check_text, common, join
from data_prep.schema import BadInput

LICENSE = "openrail"
ACCESS = "public"
COMMON = common("umls_relation", LICENSE, ACCESS)


def files(folder: Path) -> list[Path]:
    path = folder / "UMLS_train.jsonl"
    if not path.is_file():
        raise BadInput(
            f"{path}: no such file. Next: write one line {{text, label}} for each triple of the public "
            "UMLS graph there"
        )
    return [path]


def read(folder: Path, drops):
    [path] = files(folder)
    labels, first = {}, {}
    for number, record in read_jsonl(path):
        where = f"{path}: line {number}"
        check_text(record, where, "text", "label")
        question, label = record["text"].strip(), record["label"].strip()
        if not question or not label:
            drops.add("umls_relation", "empty question or label", where)
        elif label in labels.setdefault(question, set()):
            drops.add("umls_relation", "exact duplicate", where)
        else:
            if labels[question]:
                drops.add("umls_relation", "joined to the row of the same question", where)
            labels[question].add(label)
            first.setdefault(question, number)
    for question, found in labels.items():
        if found:
            row_id = f"umls_relation:{first[question]}"
            yield {"id": row_id, **COMMON, "prompt": join(question), "completion": "; ".join(sorted(found))}
