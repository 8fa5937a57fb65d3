"""MTSamples: which of 40 specialties does a medical transcription belong to?

Origin    mtsamples.com, as a CSV at kaggle.com/datasets/tboyle10/medicaltranscriptions. License: the copies
          we read state none; Kaggle says CC0 (recalled). Public.
Raw       mtsamples.csv: index (no column name), description, medical_specialty, sample_name, transcription,
          keywords. The header row is missing in some copies; both are read.
Splits    70 / 10 / 20 % by the hash of the transcription, so a text is on one side only, however many
          specialties list it. The paper's split is not published.
Table 3   4,999 / 500 / 999. The public set has 4,999 rows in all: as printed, the test rows may well be among
          the training rows.
Left out  and counted: empty transcriptions, exact duplicates (same text, same specialty), specialties outside
          the 40
Oddities  the same transcription occurs under several specialties, so a perfect accuracy is out of reach: such
          rows are kept, and build_tasks counts them. Specialties have a leading blank. Where the index column
          is empty, the record number is the id. Some names contain others ("Urology" is in "Neurology").
"""

import hashlib
from pathlib import Path

from data_prep.benchmarks import fraction, read_prompt
from data_prep.schema import BadInput
from data_prep.sources.raw_files import csv_records

LICENSE = "unknown"
ACCESS = "public"
PAGE = "https://www.kaggle.com/datasets/tboyle10/medicaltranscriptions"
SCORING = "choice"
EXPECTED = {"train": 4999, "validation": 500, "test": 999}
DIFFERENCE = (
    "The public set has 4,999 rows in all, as many as the paper's train alone; its split is not "
    "published, ours is by the text."
)
COLUMNS = ["", "description", "medical_specialty", "sample_name", "transcription", "keywords"]
TEST_SHARE, VALIDATION_SHARE = 0.2, 0.1
SPECIALTIES = [
    "Allergy / Immunology",
    "Autopsy",
    "Bariatrics",
    "Cardiovascular / Pulmonary",
    "Chiropractic",
    "Consult - History and Phy.",
    "Cosmetic / Plastic Surgery",
    "Dentistry",
    "Dermatology",
    "Diets and Nutritions",
    "Discharge Summary",
    "ENT - Otolaryngology",
    "Emergency Room Reports",
    "Endocrinology",
    "Gastroenterology",
    "General Medicine",
    "Hematology - Oncology",
    "Hospice - Palliative Care",
    "IME-QME-Work Comp etc.",
    "Lab Medicine - Pathology",
    "Letters",
    "Nephrology",
    "Neurology",
    "Neurosurgery",
    "Obstetrics / Gynecology",
    "Office Notes",
    "Ophthalmology",
    "Orthopedic",
    "Pain Management",
    "Pediatrics - Neonatal",
    "Physical Medicine - Rehab",
    "Podiatry",
    "Psychiatry / Psychology",
    "Radiology",
    "Rheumatology",
    "SOAP / Chart / Progress Notes",
    "Sleep Medicine",
    "Speech - Language",
    "Surgery",
    "Urology",
]
COMMON = {
    "task": "mtsamples",
    "source": "mtsamples",
    "scoring": SCORING,
    "license": LICENSE,
    "access": ACCESS,
    "choices": SPECIALTIES,
}


def files(folder: Path) -> list[Path]:
    path = folder / "mtsamples.csv"
    if not path.is_file():
        raise BadInput(
            f"{path}: no such file. Next: take it from kaggle.com/datasets/tboyle10/medicaltranscriptions"
        )
    return [path]


def read(folder: Path, drops):
    template = read_prompt("mtsamples", "specialties", "text")
    [path] = files(folder)
    seen = set()
    for number, (_, cells) in enumerate(csv_records(path), 1):
        where = f"{path}: record {number}"
        if number == 1 and "medical_specialty" in cells:
            if [cell.strip() for cell in cells] != COLUMNS:
                raise BadInput(f"{path}: the columns are {cells}, must be {COLUMNS}")
            continue
        if len(cells) != len(COLUMNS):
            raise BadInput(
                f"{where} has {len(cells)} columns, must have {len(COLUMNS)}. Next: fetch the file "
                "again, it may be cut"
            )
        index, specialty, text = cells[0].strip(), cells[2].strip(), cells[4].strip()
        key = hashlib.sha256(f"{specialty}\n{text}".encode()).digest()
        if not text:
            drops.add("mtsamples", "empty transcription", where)
        elif specialty not in SPECIALTIES:
            drops.add("mtsamples", "specialty is not one of the 40", where)
        elif key in seen:
            drops.add("mtsamples", "exact duplicate", where)
        else:
            seen.add(key)
            place = fraction(text)
            yield {
                "id": f"mtsamples:{index or f'record{number}'}",
                "split": "test"
                if place < TEST_SHARE
                else "validation"
                if place < TEST_SHARE + VALIDATION_SHARE
                else "train",
                **COMMON,
                "prompt": template.format(specialties="; ".join(SPECIALTIES), text=text),
                "completion": specialty,
            }
