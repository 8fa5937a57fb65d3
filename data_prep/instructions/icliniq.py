"""iCliniq: questions that patients asked on icliniq.com, and answers to them. (Li et al. 2023)

Origin    ChatDoctor, github.com/Kent0n-Li/ChatDoctor. "Reserved by HealthCareMagic and Icliniq" (Table 2).
          Public.
Raw       *.json, an array of {input, answer_icliniq, answer_chatgpt, answer_chatdoctor}, 7,321 records
          (documented, not measured)
Paper     20,000 of HealthCareMagic and iCliniq together (Table 2)
Choice    answer_icliniq, the answer of the site's doctor: the other two were written by models. The paper
          does not say which it took; its released code reads answer_chatdoctor. Change ANSWER to follow it.
Oddities  other copies hold {instruction, input, output} with the answer of GPT-4: refused, as it is not one
          of the three. Exact duplicates, and records without question or answer, are dropped and counted.
"""

from pathlib import Path

from data_prep.instructions import common, join, read_answered
from data_prep.schema import BadInput

LICENSE = "reserved by HealthCareMagic and Icliniq"
ACCESS = "public"
ANSWER = "answer_icliniq"
INSTRUCTION = (
    "If you are a doctor, please answer the medical question of the patient."  # ours: the records have none
)
COMMON = common("icliniq", LICENSE, ACCESS)


def files(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.json"))
    if not found:
        raise BadInput(f"{folder}: no *.json. Next: follow the link to iCliniq on the ChatDoctor page")
    return found


def read(folder: Path, drops):
    for path, number, _, question, answer in read_answered(
        "icliniq", files(folder), ("input", ANSWER), drops
    ):
        yield {
            "id": f"icliniq:{path.stem}:{number}",
            **COMMON,
            "prompt": join(INSTRUCTION, question),
            "completion": answer,
        }
