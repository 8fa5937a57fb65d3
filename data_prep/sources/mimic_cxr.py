"""MIMIC-CXR: free-text chest radiograph reports, one file a study.

Origin      PhysioNet, https://physionet.org/content/mimic-cxr/2.0.0/ (mimic-cxr-reports.zip, unpacked)
Licence     PhysioNet Credentialed Health Data License 1.5.0: credentialed access, training and a signed agreement.
Raw schema  files/pNN/pNNNNNNNN/sNNNNNNNN.txt: the folder is the patient, the file the study. 227,835 reports by its page.
In the article  part of the clinical share (1 of 15:1:4), not counted apart.

Oddities    Text is indented by one space and has no fixed sections; it is kept whole, with its de-identification marks (___).
            The summarisation task of the evaluation is made of these reports: leave its test studies out of the corpus by id.
"""

import re
from pathlib import Path

from data_prep.contracts import BadInput
from data_prep.files import open_text
from data_prep.sources.raw_files import files_below

DOMAIN = "clinical"
LICENSE = "PhysioNet Credentialed Health Data License 1.5.0"
ACCESS = "credentialed"
FILES_PER_OUTPUT = 10_000  # one report a file


def files(path: str | Path) -> list[Path]:
    return files_below(path, ("s" + "[0-9]" * 8 + ".txt",), "mimic_cxr")


def read(file: Path, drops):
    """Yield the report of one file."""
    if not re.fullmatch(r"s\d{8}\.txt", file.name):
        raise BadInput(f"{file}: not a report of MIMIC-CXR, whose files are named sNNNNNNNN.txt")
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
