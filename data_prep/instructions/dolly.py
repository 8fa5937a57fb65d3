"""Dolly 15k: instructions and answers written by employees of Databricks. (Conover et al. 2023)

Origin    huggingface.co/datasets/databricks/databricks-dolly-15k. License CC BY-SA 3.0, public.
Raw       databricks-dolly-15k.jsonl, one {instruction, context, response, category} a line, 15,011 lines
Paper     20,000 of Alpaca, Dolly and ShareGPT together (Table 2)
Oddities  contexts are Wikipedia passages with citation marks like [42]: removed. The category goes into
          nothing. A clone without Git LFS holds a pointer of 133 bytes in place of the file: refused. Empty
          responses are dropped and counted.
"""

import re
from pathlib import Path

from data_prep.files import read_jsonl
from data_prep.instructions import check_text, common, join
from data_prep.schema import BadInput

LICENSE = "CC-BY-SA-3.0"
ACCESS = "public"
CITATION = re.compile(r"\[\d+\]")
COMMON = common("dolly", LICENSE, ACCESS)


def files(folder: Path) -> list[Path]:
    path = folder / "databricks-dolly-15k.jsonl"
    if not path.is_file():
        raise BadInput(
            f"{path}: no such file. Next: take it from "
            "huggingface.co/datasets/databricks/databricks-dolly-15k"
        )
    return [path]


def read(folder: Path, drops):
    [path] = files(folder)
    for number, record in read_jsonl(path):
        where = f"{path}: line {number}"
        check_text(record, where, "instruction", "context", "response")
        if not record["response"].strip():
            drops.add("dolly", "empty response", where)
        elif not record["instruction"].strip():
            drops.add("dolly", "empty instruction", where)
        else:
            prompt = join(record["instruction"], CITATION.sub("", record["context"]))
            yield {
                "id": f"dolly:{number}",
                **COMMON,
                "prompt": prompt,
                "completion": record["response"].strip(),
            }
