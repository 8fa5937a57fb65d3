"""WikiDoc patient information of Medical Meadow: questions and answers made from the pages for patients. (Han
et al. 2023)

Origin    github.com/kbressem/medAlpaca, which holds it as medical_meadow_small.json. CC BY-SA 4.0 by Table 2.
          Public.
Raw       *.json, an array of {instruction, input, output}; instruction is one constant. 5,942 records.
Paper     5,490 (Table 2)
Oddities  92 exact duplicates: dropped and counted, as are records without question or answer. The same
          question with another answer is kept: 112 questions repeat in the file, 47 once the exact duplicates
          are dropped.
"""

from pathlib import Path

from data_prep.instructions import common, join, read_answered
from data_prep.schema import BadInput

LICENSE = "CC-BY-SA-4.0"
ACCESS = "public"
COMMON = common("wikidoc_patient", LICENSE, ACCESS)


def files(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.json"))
    if not found:
        raise BadInput(
            f"{folder}: no *.json. Next: take medical_meadow_small.json from github.com/kbressem/medAlpaca"
        )
    return found


def read(folder: Path, drops):
    fields = ("instruction", "input", "output")
    for path, number, record, question, answer in read_answered(
        "wikidoc_patient", files(folder), fields, drops
    ):
        prompt = join(record["instruction"], question)
        yield {
            "id": f"wikidoc_patient:{path.stem}:{number}",
            **COMMON,
            "prompt": prompt,
            "completion": answer,
        }
