"""HealthCareMagic-100k: questions that patients asked on healthcaremagic.com, and the answers of its doctors. (Li et al. 2023)

Origin    ChatDoctor, github.com/Kent0n-Li/ChatDoctor, which links to the file on Google Drive. The texts are
          "Reserved by HealthCareMagic and Icliniq" (Table 2), the repository says research only. Public.
Raw       *.json, an array of {instruction (one constant), input, output}, the shape of ChatDoctor's other files
Article   20,000 of HealthCareMagic and iCliniq together (Table 2)
Oddities  lines end in CR LF between the records, not in the texts. Some texts were decoded wrongly before they were published: left as
          they are. Exact duplicates, and records without question or answer, are dropped and counted.
"""

from pathlib import Path

from data_prep.instructions import common, join, read_answered
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


def read(folder: Path, drops):
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
