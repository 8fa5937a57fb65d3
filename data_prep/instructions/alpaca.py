"""Alpaca: 52,002 instructions (recalled) that text-davinci-003 wrote and answered. (Taori et al. 2023)

Origin    github.com/tatsu-lab/stanford_alpaca. License CC BY-NC 4.0, public.
Raw       alpaca_data.json, an array of {instruction, input, output}
Paper     20,000 of Alpaca, Dolly and ShareGPT together (Table 2)
Oddities  besides "" some inputs say that there is none ("<noinput>", "No input required.", "N/A"): read as
          empty. Empty outputs are dropped and counted, as are empty instructions.
"""

from pathlib import Path

from data_prep.instructions import check_text, common, join, no_input, read_array
from data_prep.schema import BadInput

LICENSE = "CC-BY-NC-4.0"
ACCESS = "public"
COMMON = common("alpaca", LICENSE, ACCESS)


def files(folder: Path) -> list[Path]:
    path = folder / "alpaca_data.json"
    if not path.is_file():
        raise BadInput(f"{path}: no such file. Next: take it from github.com/tatsu-lab/stanford_alpaca")
    return [path]


def read(folder: Path, drops):
    [path] = files(folder)
    for number, (where, record) in enumerate(read_array(path), 1):
        check_text(record, where, "instruction", "input", "output")
        text = "" if no_input(record["input"]) else record["input"]
        if not record["output"].strip():
            drops.add("alpaca", "empty output", where)
        elif not record["instruction"].strip():
            drops.add("alpaca", "empty instruction", where)
        else:
            prompt = join(record["instruction"], text)
            yield {
                "id": f"alpaca:{number}",
                **COMMON,
                "prompt": prompt,
                "completion": record["output"].strip(),
            }
