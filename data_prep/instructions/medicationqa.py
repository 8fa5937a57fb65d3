"""MedicationQA: questions of consumers about medicines, answered from trusted pages. (Ben Abacha et al. 2019)

Origin    github.com/abachaa/Medication_QA_MedInfo2019 (address recalled). No license with the file; CC BY 4.0
          by Table 2. Public.
Raw       MedInfo2019-QA-Medications.xlsx, sheet DrugQA: Question, Focus (Drug), Question Type, Answer,
          Section Title, URL; 690 rows
Paper     690 (Table 2). The authors say 674.
Left out  and counted: one exact duplicate row, rows without question or answer
Oddities  39 questions repeat with another answer: kept. Answers have outer white space, one question a
          control character (U+009D): removed.
Needs     openpyxl, to read the spreadsheet.
"""

import re
import zipfile
from pathlib import Path

import openpyxl
from openpyxl.utils.exceptions import InvalidFileException

from data_prep.files import open_bytes
from data_prep.instructions import common, join
from data_prep.schema import BadInput

LICENSE = "CC-BY-4.0"
ACCESS = "public"
COLUMNS = ("Question", "Focus (Drug)", "Question Type", "Answer", "Section Title", "URL")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
COMMON = common("medicationqa", LICENSE, ACCESS)


def files(folder: Path) -> list[Path]:
    path = folder / "MedInfo2019-QA-Medications.xlsx"
    if not path.is_file():
        raise BadInput(
            f"{path}: no such file. Next: take it from github.com/abachaa/Medication_QA_MedInfo2019"
        )
    return [path]


def read(folder: Path, drops):
    [path] = files(folder)
    with open_bytes(path) as stream:
        try:
            sheet = openpyxl.load_workbook(stream, read_only=True, data_only=True).worksheets[0]
            records = list(sheet.iter_rows(values_only=True))
        except (zipfile.BadZipFile, InvalidFileException, KeyError, ValueError) as error:
            raise BadInput(f"{path}: not a whole .xlsx file ({error}). Next: fetch it again") from error
    if not records or records[0][: len(COLUMNS)] != COLUMNS:
        raise BadInput(f"{path}: the columns are {records[0] if records else 'none'}, must be {COLUMNS}")
    seen = set()
    for number, cells in enumerate(records[1:], 2):
        where = f"{path}: row {number}"
        if not any(cells):
            continue  # a formatted row below the table
        question, answer = (
            CONTROL.sub("", str(cells[COLUMNS.index(name)] or "")).strip() for name in ("Question", "Answer")
        )
        if not question or not answer:
            drops.add("medicationqa", "empty question or answer", where)
        elif cells in seen:
            drops.add("medicationqa", "exact duplicate", where)
        else:
            seen.add(cells)
            yield {"id": f"medicationqa:{number}", **COMMON, "prompt": join(question), "completion": answer}
