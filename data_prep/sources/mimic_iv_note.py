"""MIMIC-IV-Note: discharge summaries and radiology reports of one Boston hospital, 2008-2019.

Origin      PhysioNet, https://physionet.org/content/mimic-iv-note/2.2/
License     PhysioNet Credentialed Health Data License 1.5.0: credentialed access, training and a signed
            agreement.
Raw schema  discharge.csv[.gz] and radiology.csv[.gz]: note_id, subject_id, hadm_id (may be empty in
            radiology), note_type, note_seq, charttime, storetime, text. 331,794 discharge and 2,321,355
            radiology notes by its page.
In the paper    part of the clinical share (1 of 15:1:4), not counted apart.

Oddities    The *_detail.csv tables beside them are no notes and are not read. text is quoted and spans many
            lines. De-identification marks (___) are left as they are.
"""

from pathlib import Path

from data_prep.sources.raw_files import csv_rows, files_below

DOMAIN = "clinical"
LICENSE = "PhysioNet Credentialed Health Data License 1.5.0"
ACCESS = "credentialed"
FILES_PER_OUTPUT = 1


def files(path: str | Path) -> list[Path]:
    return files_below(
        path, ("discharge.csv", "discharge.csv.gz", "radiology.csv", "radiology.csv.gz"), "mimic_iv_note"
    )


def read(file: Path, drops):
    """Yield the notes of one table."""
    for number, row in csv_rows(
        file, ("note_id", "subject_id", "hadm_id", "note_type", "charttime", "text"), drops, "mimic_iv_note"
    ):
        where = f"{file}: record {number}"
        if not row["note_id"].strip():
            drops.add("mimic_iv_note", "no note_id", where, bad=True)
            continue
        if not row["text"].strip():
            drops.add("mimic_iv_note", "empty text", where, bad=True)
            continue
        yield {
            "id": f"mimic_iv_note:{row['note_id'].strip()}",
            "text": row["text"],
            "source": "mimic_iv_note",
            "domain": DOMAIN,
            "license": LICENSE,
            "access": ACCESS,
            "meta": {name: row[name].strip() for name in ("subject_id", "hadm_id", "note_type", "charttime")},
        }
