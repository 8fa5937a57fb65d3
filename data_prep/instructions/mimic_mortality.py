"""In-hospital mortality from the structured tables of MIMIC-III: does a patient survive the admission?

Origin    physionet.org/content/mimiciii. PhysioNet Credentialed Health Data License 1.5.0, credentialed.
Raw       RAW/mimic_iii: ADMISSIONS.csv[.gz] (SUBJECT_ID, HADM_ID, ADMITTIME, ADMISSION_TYPE,
          ADMISSION_LOCATION, DIAGNOSIS, HOSPITAL_EXPIRE_FLAG), PATIENTS.csv[.gz] (SUBJECT_ID, GENDER, DOB)
          and, if both are there, LABEVENTS.csv[.gz] (HADM_ID, ITEMID, CHARTTIME, VALUE, VALUEUOM, FLAG) with
          D_LABITEMS.csv[.gz] (ITEMID, LABEL)
Paper     a part of 30,000 clinical rows (Table 2): "mortality prediction". Which columns it used is not
          stated; these are ours.
Rows      one for each admission. The prompt holds what is known on the first day and nothing that is known
          later (no discharge, no time of death, no billing codes): age, sex, type and place of admission, the
          diagnosis of the admission office, and up to 20 laboratory values flagged abnormal in the first 24
          hours, the first of each test. The answer is HOSPITAL_EXPIRE_FLAG.
Left out  and counted: admissions without a flag of 0 or 1, without patient, or without a readable time.
          Classes are not balanced.
Oddities  the birth of patients over 89 was moved back by centuries: their age is given as "over 89".
"""

import datetime
from pathlib import Path

from data_prep.instructions import common, join
from data_prep.schema import BadInput
from data_prep.sources.mimic_iii import LICENSE
from data_prep.sources.raw_files import csv_rows

ACCESS = "credentialed"
FOLDER = "mimic_iii"
INSTRUCTION = (
    "Predict from the first day in the hospital whether the patient dies during this "
    "admission. Reply with yes or no."
)
MAX_VALUES = 20
COMMON = common("mimic_mortality", LICENSE, ACCESS)


def _table(folder: Path, name: str) -> list[Path]:
    return [path for path in (folder / f"{name}.csv{end}" for end in ("", ".gz")) if path.is_file()][:1]


def files(folder: Path) -> list[Path]:
    needed = [*_table(folder, "ADMISSIONS"), *_table(folder, "PATIENTS")]
    if len(needed) < 2:
        raise BadInput(
            f"{folder}: no ADMISSIONS.csv and PATIENTS.csv. Next: physionet.org/content/mimiciii, with "
            "credentials"
        )
    laboratory = [*_table(folder, "LABEVENTS"), *_table(folder, "D_LABITEMS")]
    return needed + (laboratory if len(laboratory) == 2 else [])


def read(folder: Path, drops):
    admissions_path, patients_path, *laboratory_paths = files(folder)
    patients = {
        row["subject_id"].strip(): row for _, row in csv_rows(patients_path, ("subject_id", "gender", "dob"))
    }
    columns = (
        "subject_id",
        "hadm_id",
        "admittime",
        "admission_type",
        "admission_location",
        "diagnosis",
        "hospital_expire_flag",
    )
    admissions = {}
    for number, row in csv_rows(admissions_path, columns):
        where, patient = f"{admissions_path}: record {number}", patients.get(row["subject_id"].strip())
        admitted, born = _time(row["admittime"]), _time(patient["dob"]) if patient else None
        if row["hospital_expire_flag"].strip() not in ("0", "1"):
            drops.add("mimic_mortality", "HOSPITAL_EXPIRE_FLAG is not 0 or 1", where)
        elif patient is None:
            drops.add("mimic_mortality", "SUBJECT_ID is not in PATIENTS", where)
        elif admitted is None or born is None:
            drops.add("mimic_mortality", "ADMITTIME or DOB cannot be read", where)
        else:
            age = admitted.year - born.year - ((admitted.month, admitted.day) < (born.month, born.day))
            facts = {
                "Age": "over 89" if age > 89 else str(age),
                "Sex": patient["gender"].strip(),
                "Admission type": row["admission_type"].strip(),
                "Admitted from": row["admission_location"].strip(),
                "Diagnosis at admission": row["diagnosis"].strip(),
            }
            admissions[row["hadm_id"].strip()] = (
                f"mimic_iii:{row['subject_id'].strip()}",
                admitted,
                facts,
                "yes" if row["hospital_expire_flag"].strip() == "1" else "no",
            )

    values = _abnormal_values(*laboratory_paths, admissions) if laboratory_paths else {}
    for admission, (patient, _, facts, answer) in admissions.items():
        lines = [f"{name}: {value}" for name, value in facts.items() if value]
        if values.get(admission):
            lines.append(f"Abnormal laboratory values: {'; '.join(values[admission].values())}")
        yield {
            "id": f"mimic_mortality:{admission}",
            "group": patient,
            **COMMON,
            "prompt": join(INSTRUCTION, "\n".join(lines)),
            "completion": answer,
        }


def _abnormal_values(events_path: Path, names_path: Path, admissions: dict) -> dict:
    """{HADM_ID: {test: "test value unit"}} of the values flagged abnormal within 24 hours after admission."""
    names = {
        row["itemid"].strip(): row["label"].strip() for _, row in csv_rows(names_path, ("itemid", "label"))
    }
    found = {}
    for _, row in csv_rows(events_path, ("hadm_id", "itemid", "charttime", "value", "valueuom", "flag")):
        admission, name, time = (
            row["hadm_id"].strip(),
            names.get(row["itemid"].strip()),
            _time(row["charttime"]),
        )
        if (
            row["flag"].strip().lower() != "abnormal"
            or admission not in admissions
            or not name
            or time is None
        ):
            continue
        hours = (time - admissions[admission][1]).total_seconds() / 3600
        tests = found.setdefault(admission, {})
        if 0 <= hours <= 24 and len(tests) < MAX_VALUES and row["value"].strip():
            tests.setdefault(name, " ".join(f"{name} {row['value']} {row['valueuom']}".split()))
    return found


def _time(text: str) -> datetime.datetime | None:
    """A time such as "2150-03-01 11:20:00", or None."""
    try:
        return datetime.datetime.fromisoformat(text.strip())
    except ValueError:
        return None
