"""MIMIC-III clinical notes: NOTEEVENTS, the notes of intensive-care stays in one Boston hospital, 2001-2012.

Origin      PhysioNet, https://physionet.org/content/mimiciii/1.4/
License     PhysioNet Credentialed Health Data License 1.5.0: credentialed access, training and a signed
            agreement.
Raw schema  NOTEEVENTS.csv[.gz]: ROW_ID, SUBJECT_ID, HADM_ID, CHARTDATE, CHARTTIME, STORETIME, CATEGORY,
            DESCRIPTION, CGID, ISERROR, TEXT; some 2 million rows.
In the paper    part of the clinical share (1 of 15:1:4), not counted apart.

Oddities    ISERROR "1" is a note its author withdrew: dropped. TEXT is quoted, spans many lines and may be
            longer than Python's CSV limit. CATEGORY has trailing spaces. De-identification marks ([** ...
            **]) are left as they are. The notes of i2b2 2010, emrQA and MedNLI come partly from here.
"""

from pathlib import Path

from data_prep.sources.raw_files import csv_rows, files_below

DOMAIN = "clinical"
LICENSE = "PhysioNet Credentialed Health Data License 1.5.0"
ACCESS = "credentialed"
FILES_PER_OUTPUT = 1


def files(path: str | Path) -> list[Path]:
    return files_below(path, ("NOTEEVENTS.csv", "NOTEEVENTS.csv.gz"), "mimic_iii")


def read(file: Path, drops):
    """Yield the notes of NOTEEVENTS that were not withdrawn."""
    for number, row in csv_rows(
        file,
        ("row_id", "subject_id", "hadm_id", "chartdate", "category", "description", "iserror", "text"),
        drops,
        "mimic_iii",
    ):
        where = f"{file}: record {number}"
        if row["iserror"].strip() == "1":
            drops.add("mimic_iii", "marked as an error (ISERROR)", where)
            continue
        if not row["row_id"].strip():
            drops.add("mimic_iii", "no ROW_ID", where, bad=True)
            continue
        if not row["text"].strip():
            drops.add("mimic_iii", "empty text", where, bad=True)
            continue
        yield {
            "id": f"mimic_iii:{row['row_id'].strip()}",
            "text": row["text"],
            "source": "mimic_iii",
            "domain": DOMAIN,
            "license": LICENSE,
            "access": ACCESS,
            "meta": {
                name: row[name].strip()
                for name in ("subject_id", "hadm_id", "chartdate", "category", "description")
            },
        }
