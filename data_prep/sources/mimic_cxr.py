"""MIMIC-CXR: free-text chest radiograph reports, one file a study.

Origin      PhysioNet, https://physionet.org/content/mimic-cxr/2.0.0/ (mimic-cxr-reports.zip, unpacked)
Licence     PhysioNet Credentialed Health Data License 1.5.0: credentialed access, training and a signed agreement.
Raw schema  files/pNN/pNNNNNNNN/sNNNNNNNN.txt: the folder is the patient, the file the study. 227,835 reports by its page.
In the article  part of the clinical share (1 of 15:1:4), not counted apart.

Oddities    Text is indented by one space and has no fixed sections; it is kept whole, with its de-identification marks (___).
            The summarisation task of the evaluation is made of these reports: where mimic-cxr-2.0.0-split.csv[.gz] lies beside files/,
            the studies of its test split are left out and counted.
"""

import re
from pathlib import Path

from data_prep.contracts import BadInput
from data_prep.files import open_text
from data_prep.sources.raw_files import csv_rows, files_below

DOMAIN = "clinical"
LICENSE = "PhysioNet Credentialed Health Data License 1.5.0"
ACCESS = "credentialed"
FILES_PER_OUTPUT = 10_000  # one report a file


def files(path: str | Path) -> list[Path]:
    return files_below(path, ("s" + "[0-9]" * 8 + ".txt",), "mimic_cxr")


def first_pass(raw_files: list[Path]) -> set:
    """The studies of the official test split, as "sNNNNNNNN"; none where its table is not there."""
    roots = {parent.parent for file in raw_files for parent in file.parents if parent.name == "files"}
    tables = [root / name for root in roots for name in ("mimic-cxr-2.0.0-split.csv", "mimic-cxr-2.0.0-split.csv.gz")]
    rows = (row for table in tables if table.is_file() for _, row in csv_rows(table, ("study_id", "split")))
    return {f"s{row['study_id']}" for row in rows if row["split"] == "test"}


def read(file: Path, drops, test_studies=frozenset()):
    """Yield the report of one file, unless its study is among `test_studies`."""
    if not re.fullmatch(r"s\d{8}\.txt", file.name):
        raise BadInput(f"{file}: not a report of MIMIC-CXR, whose files are named sNNNNNNNN.txt")
    if file.stem in test_studies:
        drops.add("mimic_cxr", "study of the official test split", f"{file}: record 1")
        return
    with open_text(file) as stream:
        text = stream.read()
    if not text.strip():
        drops.add("mimic_cxr", "empty text", f"{file}: record 1")
        return
    yield {
        "id": f"mimic_cxr:{file.stem}",
        "text": text,
        "source": "mimic_cxr",
        "domain": DOMAIN,
        "license": LICENSE,
        "access": ACCESS,
        "meta": {"subject_id": file.parent.name.removeprefix("p")},
    }
