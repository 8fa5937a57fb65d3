"""UltraMedical-Preference: medical prompts with two answers of language models, compared by GPT-4. (Zhang et
al. 2024)

Origin    huggingface.co/datasets/TsinghuaC3I/UltraMedical-Preference. License MIT, public.
Raw       *.parquet or *.jsonl, also below data/: {prompt_id, label_type, prompt, chosen, rejected, ...}, the
          answers as lists of {role, content} whose last turn is the answer. 109,353 records (documented, not
          measured)
Oddities  a third has label_type "length": the longer answer is called the better one. Dropped and counted, as
          it would teach length. A prompt_id has several pairs: they go to the same split. Prompts begin from
          the training questions of MedQA, MedMCQA and PubMedQA: build_preferences compares them with every
          evaluation set.
"""

from pathlib import Path

from data_prep.schema import BadInput
from data_prep.sources.tables import raw_rows

LICENSE = "MIT"
ACCESS = "public"


def files(folder: Path) -> list[Path]:
    found = sorted([*folder.rglob("*.parquet"), *folder.rglob("*.jsonl")])
    if not found:
        raise BadInput(
            f"{folder}: no *.parquet or *.jsonl. Next: "
            "hf download TsinghuaC3I/UltraMedical-Preference --repo-type dataset"
        )
    return found


def read(folder: Path, drops):
    for path in files(folder):
        for number, (where, record) in enumerate(raw_rows(path, drops=drops, source="ultramedical"), 1):
            if not isinstance(record, dict) or not isinstance(record.get("prompt"), str):
                raise BadInput(f"{where}: field 'prompt' must be text")
            if record.get("label_type") == "length":
                drops.add("ultramedical", "label_type is length", where)
                continue
            chosen, rejected = (_answer(record.get(field)) for field in ("chosen", "rejected"))
            if not record["prompt"].strip() or not chosen or not rejected:
                drops.add("ultramedical", "no prompt, or no answer in the last turn", where)
                continue
            yield {
                "id": f"ultramedical:{path.stem}:{number}",
                "prompt": f"{record['prompt'].strip()}\n",
                "chosen": chosen,
                "rejected": rejected,
                "source": "ultramedical",
                "license": LICENSE,
                "access": ACCESS,
                "group": f"ultramedical:{record.get('prompt_id', number)}",
            }


def _answer(turns) -> str:
    """The text of the last turn if the assistant has it, else nothing."""
    last = turns[-1] if isinstance(turns, list) and turns else {}
    said = last.get("content") if isinstance(last, dict) and last.get("role") == "assistant" else ""
    return said.strip() if isinstance(said, str) else ""
