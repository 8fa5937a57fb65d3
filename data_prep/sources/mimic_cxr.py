"""MIMIC-CXR: free-text chest radiograph reports, one file a study.

Origin      PhysioNet, https://physionet.org/content/mimic-cxr/2.0.0/ (mimic-cxr-reports.zip, read as it is,
            or unpacked)
License     PhysioNet Credentialed Health Data License 1.5.0: credentialed access, training and a signed
            agreement.
Raw schema  files/pNN/pNNNNNNNN/sNNNNNNNN.txt: the folder is the patient, the file the study. 227,835 reports
            by its page.
In the paper    part of the clinical share (1 of 15:1:4), not counted apart.

Oddities    Text is indented by one space and has no fixed sections; it is kept whole, with its
            de-identification marks (___). The summarization task of the evaluation is made of these reports:
            where mimic-cxr-2.0.0-split.csv[.gz] lies beside files/, (or beside the .zip) the studies of its
            test split are left out and counted.
"""

import re
import zipfile
from pathlib import Path, PurePosixPath

from data_prep.files import LONGEST, NOT_UTF8, READ_ERRORS, check_expansion, open_bytes, read_whole
from data_prep.schema import BadInput
from data_prep.sources.raw_files import csv_rows, files_below

DOMAIN = "clinical"
LICENSE = "PhysioNet Credentialed Health Data License 1.5.0"
ACCESS = "credentialed"
FILES_PER_OUTPUT = 10_000  # one report a file


def files(path: str | Path) -> list[Path]:
    return files_below(path, ("s" + "[0-9]" * 8 + ".txt", "mimic-cxr-reports.zip"), "mimic_cxr")


def first_pass(raw_files: list[Path], scans: None) -> list[list[str] | None]:
    """For each file, the studies of the official test split that it may hold, as "sNNNNNNNN"; nothing where
    the table is not there."""
    roots = {parent.parent for file in raw_files for parent in file.parents if parent.name == "files"}
    roots |= {file.parent for file in raw_files if file.suffix == ".zip"}
    tables = [
        root / name
        for root in sorted(roots)
        for name in ("mimic-cxr-2.0.0-split.csv", "mimic-cxr-2.0.0-split.csv.gz")
    ]
    rows = (row for table in tables if table.is_file() for _, row in csv_rows(table, ("study_id", "split")))
    test = {f"s{row['study_id']}" for row in rows if row["split"] == "test"}
    return [
        sorted(test) if file.suffix == ".zip" else [file.stem] if file.stem in test else None
        for file in raw_files
    ]


def read(file: Path, drops, test_studies=()):
    """Yield the report of one file, or those of the archive, unless their study is among `test_studies`."""
    test_studies = set(test_studies)
    for name, content in _reports(file, drops):
        study, where = (
            PurePosixPath(name).stem,
            f"{file}: {name}" if file.suffix == ".zip" else f"{file}: record 1",
        )
        if not re.fullmatch(r"s\d{8}\.txt", PurePosixPath(name).name):
            raise BadInput(f"{file}: not a report of MIMIC-CXR, whose files are named sNNNNNNNN.txt")
        if study in test_studies:
            drops.add("mimic_cxr", "study of the official test split", where)
            continue
        text = content.decode("utf-8-sig", errors="replace")
        if "\ufffd" in text:
            drops.repair("mimic_cxr", NOT_UTF8, where)
        if not text.strip():
            drops.add("mimic_cxr", "empty text", where, bad=True)
            continue
        yield {
            "id": f"mimic_cxr:{study}",
            "text": text,
            "source": "mimic_cxr",
            "domain": DOMAIN,
            "license": LICENSE,
            "access": ACCESS,
            "meta": {"subject_id": PurePosixPath(name).parent.name.removeprefix("p")},
        }


def _reports(file: Path, drops):
    """(path, bytes) of each report of a .zip in its order, or of the one file."""
    with open_bytes(file) as stream:
        if file.suffix != ".zip":
            yield file.as_posix(), read_whole(stream, file)
            return
        try:
            with zipfile.ZipFile(stream) as archive:
                check_expansion(
                    file, sum(member.file_size for member in archive.infolist()), file.stat().st_size
                )
                for member in archive.infolist():
                    if member.filename.endswith(".txt"):
                        with archive.open(member) as report:
                            content = report.read(
                                LONGEST + 1
                            )  # what the archive says of its size may be wrong
                        if len(content) > LONGEST:
                            drops.add(
                                "mimic_cxr",
                                f"larger than {LONGEST:,} bytes",
                                f"{file}: {member.filename}",
                                bad=True,
                            )
                        else:
                            yield member.filename, content
        except (
            zipfile.BadZipFile,
            RuntimeError,
            ValueError,
            *READ_ERRORS,
        ) as error:  # RuntimeError: encrypted, or compressed in another way
            raise BadInput(f"{file}: cannot be read to its end ({error}). Next: fetch it again") from error
