"""Verifiable problems of HuatuoGPT-o1: medical questions with a short answer that can be checked. (Chen et
al. 2024)

Origin    huggingface.co/datasets/FreedomIntelligence/medical-o1-verifiable-problem. License Apache-2.0,
          public. Made by a language model from multiple-choice questions of MedQA and MedMCQA
Raw       medical_o1_verifiable_problem.json, an array of {"Open-ended Verifiable Question", "Ground-True
          Answer"}; some 40,000 records. Field names and file name as in public code that reads it
Paper     not in it
Rows      scoring span: recipes/grpo.py rewards the same words, and its judge other words for the same
Oddities  records without question or answer, answers of several lines or of more than 12 words, and exact
          duplicates are dropped and counted. As it was made from exam questions, build it with --task_rows.
"""

from pathlib import Path

from data_prep.instructions import common, join, read_answered
from data_prep.schema import BadInput

LICENSE = "Apache-2.0"
ACCESS = "public"
COMMON = common("medical_o1", LICENSE, ACCESS) | {"scoring": "span"}
ASKED = "Answer the question. Reply with the answer alone, in a few words."
FIELDS = ("Open-ended Verifiable Question", "Ground-True Answer")
WORDS = 12  # of an answer that can be compared word by word


def files(folder: Path) -> list[Path]:
    path = folder / "medical_o1_verifiable_problem.json"
    if not path.is_file():
        raise BadInput(
            f"{path}: no such file. "
            "Next: hf download FreedomIntelligence/medical-o1-verifiable-problem --repo-type dataset"
        )
    return [path]


def read(folder: Path, drops):
    for path, number, _, question, answer in read_answered("medical_o1", files(folder), FIELDS, drops):
        if "\n" in answer or len(answer.split()) > WORDS:
            drops.add("medical_o1", f"answer of more than {WORDS} words or one line", f"{path}: {number}")
            continue
        yield {"id": f"medical_o1:{number}", **COMMON, "prompt": join(ASKED, question), "completion": answer}
