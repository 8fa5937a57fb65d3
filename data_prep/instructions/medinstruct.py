"""MedInstruct-52k: medical instructions that GPT-4 wrote after seeds of a clinician, and ChatGPT answered.
(Zhang et al. 2023)

Origin    github.com/XZhang97666/AlpaCare. License CC BY-NC 4.0, public.
Raw       MedInstruct-52k.json (name recalled), an array of {instruction, input, output} (documented, not
          measured)
Paper     52,000 (Table 2)
Oddities  "<noinput>" in place of no input, as in 55 of its 167 seeds. Some generated records run on into the
          next task of the generator ("<noinput> 2. Type: ..."): dropped and counted, as the end of the record
          is unclear. So are records without instruction or output. MedInstruct-test.jsonl holds questions for
          evaluation, without output: not read.
"""

import re
from pathlib import Path

from data_prep.instructions import check_text, common, join, no_input, read_array
from data_prep.schema import BadInput

LICENSE = "CC-BY-NC-4.0"
ACCESS = "public"
NEXT_TASK = re.compile(r"\b\d+\.\s*Type:")
COMMON = common("medinstruct", LICENSE, ACCESS)


def files(folder: Path) -> list[Path]:
    path = folder / "MedInstruct-52k.json"
    if not path.is_file():
        raise BadInput(f"{path}: no such file. Next: take it from github.com/XZhang97666/AlpaCare")
    return [path]


def read(folder: Path, drops):
    [path] = files(folder)
    for number, (where, record) in enumerate(read_array(path), 1):
        check_text(record, where, "instruction", "input", "output")
        instruction, text, answer = (record[field].strip() for field in ("instruction", "input", "output"))
        if not instruction or not answer:
            drops.add("medinstruct", "empty instruction or output", where)
        elif any(NEXT_TASK.search(part) for part in (instruction, text, answer)):
            drops.add("medinstruct", "runs on into the generator's next task", where)
        else:
            prompt = join(instruction, "" if no_input(text) else text)
            yield {"id": f"medinstruct:{number}", **COMMON, "prompt": prompt, "completion": answer}
