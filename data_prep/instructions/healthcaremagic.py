"""HealthCareMagic-100k: questions that patients asked on healthcaremagic.com, and the answers of its doctors.
(Li et al. 2023)

Origin    ChatDoctor, github.com/Kent0n-Li/ChatDoctor, which links to the file on Google Drive. The texts are
          "Reserved by HealthCareMagic and Icliniq" (Table 2), the repository says research only. Public.
Raw       *.json, an array of {instruction (one constant), input, output}, the shape of ChatDoctor's other
          files
Paper     20,000 of HealthCareMagic and iCliniq together (Table 2)
Oddities  lines end in CR LF between the records, not in the texts. Some texts were decoded wrongly before
          they were published: repaired and counted. chatdoctor5k.json (GenMedGPT-5k), of the same shape, was
          written by ChatGPT: refused. Exact duplicates, and records without question or answer, are dropped
          and counted.
"""

import re
from pathlib import Path

from data_prep.instructions import common, join, read_answered, read_array
from data_prep.schema import BadInput

LICENSE = "reserved by HealthCareMagic and Icliniq"
ACCESS = "public"
COMMON = common("healthcaremagic", LICENSE, ACCESS)


def files(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.json"))
    if not found:
        raise BadInput(
            f"{folder}: no *.json. Next: follow the link to HealthCareMagic-100k on the ChatDoctor page"
        )
    return found


def _check_written_by_doctors(path: Path) -> None:
    """BadInput for GenMedGPT-5k (chatdoctor5k.json), which ChatGPT wrote: nearly all its questions address a
    doctor."""
    openings = [str(record.get("input"))[:30] for _, record in read_array(path) if isinstance(record, dict)]
    share = sum("doctor" in opening.lower() for opening in openings) / max(1, len(openings))
    by_name = re.search(r"chat_?doctor-?_?5k|genmedgpt", path.name, re.IGNORECASE)
    if by_name or (len(openings) >= 20 and share > 0.8):
        raise BadInput(
            f"{path}: this is ChatDoctor's GenMedGPT-5k, written by ChatGPT, not HealthCareMagic-100k. "
            "Next: move it out of this folder"
        )


def read(folder: Path, drops):
    for path in files(folder):
        _check_written_by_doctors(path)
    fields = ("instruction", "input", "output")
    for path, number, record, question, answer in read_answered(
        "healthcaremagic", files(folder), fields, drops
    ):
        prompt = join(record["instruction"], question)
        yield {
            "id": f"healthcaremagic:{path.stem}:{number}",
            **COMMON,
            "prompt": prompt,
            "completion": answer,
        }
