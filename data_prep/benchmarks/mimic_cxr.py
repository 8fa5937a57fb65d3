"""MIMIC-CXR summarization: from the findings of a chest radiograph report to its impression. (Johnson et al.
2019)

Origin    physionet.org/content/mimic-cxr. License PhysioNet Credentialed Health Data License 1.5.0,
          credentialed.
Raw       files/pNN/pSUBJECT/sSTUDY.txt, a report whose sections begin with a capital header, " FINDINGS: ..."
          mimic-cxr-2.0.0-split.csv[.gz], optional (from MIMIC-CXR-JPG; columns recalled): dicom_id, study_id,
          subject_id, split
Splits    the official ones if the CSV is there (validate is validation), else 80 / 10 / 10 % by the hash of
          the subject. Never by the report: the reports of one patient resemble each other.
Table 3   122,014 / 957 / 1,606
Left out  and counted: reports without findings or without an impression, empty files, studies the CSV does
          not know
Oddities  of several sections of one name the last is used (an addendum comes first). White space is folded to
          single blanks, since the lines are wrapped by hand. "FINDINGS AND IMPRESSION" is neither of the two.
"""

import re
from pathlib import Path

from data_prep.benchmarks import fraction, read_prompt
from data_prep.files import open_text, read_whole
from data_prep.schema import BadInput
from data_prep.sources.raw_files import csv_rows

LICENSE = "PhysioNet Credentialed Health Data License 1.5.0"
ACCESS = "credentialed"
PAGE = "https://physionet.org/content/mimic-cxr/"
SCORING = "summary"
EXPECTED = {"train": 122014, "validation": 957, "test": 1606}
DIFFERENCE = (
    "The paper does not say which reports it took: ours are all with findings and impression, "
    "by the official split if its table is there."
)
TEST_SHARE, VALIDATION_SHARE = 0.1, 0.1
OFFICIAL = {"train": "train", "validate": "validation", "test": "test"}
HEADER = re.compile(r"^[ \t]*([A-Z][A-Z ()/,-]*):(?=\s|$)", re.MULTILINE)
NAMES = {
    "FINDING": "findings",
    "FINDINGS": "findings",
    "IMPRESSION": "impression",
    "IMPRESSIONS": "impression",
}
COMMON = {
    "task": "mimic_cxr",
    "source": "mimic_cxr",
    "scoring": SCORING,
    "license": LICENSE,
    "access": ACCESS,
}


def _split_files(folder: Path) -> list[Path]:
    return [
        path for path in (folder / f"mimic-cxr-2.0.0-split.csv{end}" for end in ("", ".gz")) if path.is_file()
    ][:1]


def files(folder: Path) -> list[Path]:
    reports = sorted(folder.glob("files/p*/p*/s*.txt"))
    if not reports:
        raise BadInput(
            f"{folder}: no files/pNN/pSUBJECT/sSTUDY.txt. Next: unpack mimic-cxr-reports.zip "
            "(physionet.org) there"
        )
    return _split_files(folder) + reports


def read(folder: Path, drops):
    template = read_prompt("mimic_cxr", "findings")
    official = None
    for path in files(folder):
        if path.suffix != ".txt":
            official = _read_splits(path)
            continue
        study, subject = path.stem, path.parent.name
        if official is not None and study not in official:
            drops.add("mimic_cxr", "study is not in the split file", str(path))
            continue
        found = {}
        if path.stat().st_size:
            with open_text(path) as stream:
                found = sections(read_whole(stream, path))
        if not found.get("findings") or not found.get("impression"):
            missing = " and ".join(name for name in ("findings", "impression") if not found.get(name))
            drops.add("mimic_cxr", f"no {missing}", str(path))
            continue
        if official is not None:
            split = official[study]
        else:
            place = fraction(subject)
            split = (
                "test"
                if place < TEST_SHARE
                else "validation"
                if place < TEST_SHARE + VALIDATION_SHARE
                else "train"
            )
        prompt = template.format(findings=found["findings"])
        yield {
            "id": f"mimic_cxr:{study}",
            "split": split,
            **COMMON,
            "prompt": prompt,
            "completion": found["impression"],
        }


def sections(report: str) -> dict:
    """{"findings": text, "impression": text} of a report, white space folded; of several sections of one
    name, the last."""
    headers = list(HEADER.finditer(report))
    found = {}
    for header, following in zip(headers, [*headers, None][1:], strict=True):
        name = NAMES.get(header[1].strip())
        if name:
            found[name] = " ".join(
                report[header.end() : following.start() if following else len(report)].split()
            )
    return found


def _read_splits(path: Path) -> dict:
    """{"sSTUDY": split}."""
    splits = {}
    for number, row in csv_rows(path, ("study_id", "split")):
        study, split = row["study_id"], row["split"]
        if not study or split not in OFFICIAL:
            raise BadInput(f"{path}: record {number} needs a study_id and a split of {', '.join(OFFICIAL)}")
        splits[f"s{study}"] = OFFICIAL[split]
    return splits
