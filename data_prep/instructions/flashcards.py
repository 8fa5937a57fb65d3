"""Medical Flashcards of Medical Meadow: questions and answers rephrased from the cards of medical students.
(Han et al. 2023)

Origin    github.com/kbressem/medAlpaca,
          huggingface.co/datasets/medalpaca/medical_meadow_wikidoc_medical_flashcards. License GPL-3.0 of the
          repository (the paper's Table 2: "No commercialized use"), public.
Raw       medical_meadow_wikidoc_medical_flashcards.json, an array of {instruction, input, output};
          instruction is one constant
Paper     34,000 (Table 2); the public file has 33,955
Oddities  exact duplicates, and records without question or answer, are dropped and counted.
"""

from pathlib import Path

from data_prep.instructions import common, join, read_answered
from data_prep.schema import BadInput

LICENSE = "GPL-3.0"
ACCESS = "public"
COMMON = common("flashcards", LICENSE, ACCESS)


def files(folder: Path) -> list[Path]:
    path = folder / "medical_meadow_wikidoc_medical_flashcards.json"
    if not path.is_file():
        raise BadInput(
            f"{path}: no such file. Next: take it from the Medical Meadow collection, "
            "github.com/kbressem/medAlpaca"
        )
    return [path]


def read(folder: Path, drops):
    fields = ("instruction", "input", "output")
    for _, number, record, question, answer in read_answered("flashcards", files(folder), fields, drops):
        yield {
            "id": f"flashcards:{number}",
            **COMMON,
            "prompt": join(record["instruction"], question),
            "completion": answer,
        }
