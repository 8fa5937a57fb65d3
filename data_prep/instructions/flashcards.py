"""Medical Flashcards of Medical Meadow: questions and answers rephrased from the cards of medical students. (Han et al. 2023)

Origin    github.com/kbressem/medAlpaca, huggingface.co/datasets/medalpaca/medical_meadow_wikidoc_medical_flashcards.
          Licence GPL-3.0 of the repository (the article's Table 2: "No commercialized use"), public.
Raw       medical_meadow_wikidoc_medical_flashcards.json, an array of {instruction, input, output}; instruction is one constant
Article   34,000 (Table 2); the public file has 33,955
Oddities  exact duplicates, and records without question or answer, are dropped and counted.
"""

from pathlib import Path

from data_prep.contracts import BadInput
from data_prep.instructions import check_text, common, join, read_array

LICENSE = "GPL-3.0"
ACCESS = "public"
COMMON = common("flashcards", LICENSE, ACCESS)


def files(folder: Path) -> list[Path]:
    path = folder / "medical_meadow_wikidoc_medical_flashcards.json"
    if not path.is_file():
        raise BadInput(f"{path}: no such file. Next: take it from the Medical Meadow collection, github.com/kbressem/medAlpaca")
    return [path]


def read(folder: Path, drops):
    [path] = files(folder)
    seen = set()
    for number, (where, record) in enumerate(read_array(path), 1):
        check_text(record, where, "instruction", "input", "output")
        question, answer = record["input"].strip(), record["output"].strip()
        if not question or not answer:
            drops.add("flashcards", "empty question or answer", where)
        elif (question, answer) in seen:
            drops.add("flashcards", "exact duplicate", where)
        else:
            seen.add((question, answer))
            yield {"id": f"flashcards:{number}", **COMMON, "prompt": join(record["instruction"], question), "completion": answer}
