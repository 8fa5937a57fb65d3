"""MedQA (USMLE): questions in the style of the US Medical Licensing Examination, five options. (Jin et al.
2021)

Origin    github.com/jind11/MedQA, folder questions/US. License MIT, public.
Raw       US/{train,dev,test}.jsonl, one {question, answer (text), options {"A".."E": text}, answer_idx,
          meta_info} a line
Splits    as published; dev is validation. A file that is not there gives no rows.
Table 3   10,178 / 1,272 / 1,273
Oddities  the folder 4_options holds the same questions with other letters: not these rows, and refused.
          206 test questions contain newlines, 4 end in a blank. Records carry no id: ours is the file and the
          line.
"""

from pathlib import Path

from data_prep.benchmarks import pick, read_prompt, texts
from data_prep.files import read_jsonl
from data_prep.schema import BadInput

LICENSE = "MIT"
ACCESS = "public"
PAGE = "https://github.com/jind11/MedQA"
SCORING = "choice"
EXPECTED = {"train": 10178, "validation": 1272, "test": 1273}
DIFFERENCE = (
    "The published split is the paper's: a difference is a missing file, or a train question "
    "that is also in the test."
)
LETTERS = ["A", "B", "C", "D", "E"]
SPLITS = {"train": "train", "dev": "validation", "test": "test"}
COMMON = {
    "task": "medqa",
    "source": "medqa",
    "scoring": SCORING,
    "license": LICENSE,
    "access": ACCESS,
    "choices": LETTERS,
}


def files(folder: Path) -> list[Path]:
    found = [path for path in (folder / "US" / f"{name}.jsonl" for name in SPLITS) if path.is_file()]
    if not found:
        raise BadInput(
            f"{folder / 'US'}: none of train.jsonl, dev.jsonl, test.jsonl. Next: take them from "
            "github.com/jind11/MedQA"
        )
    return found


def read(folder: Path, drops):
    template = read_prompt("medqa", "question", "options")
    for path in files(folder):
        for number, record in read_jsonl(path):
            where = f"{path}: line {number}"
            question, options, answer, letter = pick(
                record, where, question=str, options=dict, answer=str, answer_idx=str
            )
            if sorted(options) != LETTERS:
                raise BadInput(
                    f"{where}: the options are {sorted(options)}, must be A to E. Next: use US/, not "
                    "US/4_options"
                )
            if letter not in options:
                drops.add("medqa", "answer letter is not an option", where)
                continue
            option_texts = texts([options[choice] for choice in LETTERS], where, "options")
            if option_texts[LETTERS.index(letter)] != answer.strip():
                drops.add("medqa", "answer letter and answer text disagree", where)
                continue
            question = question.strip()
            listed = "\n".join(
                f"{choice}. {text}" for choice, text in zip(LETTERS, option_texts, strict=True)
            )
            yield {
                "id": f"medqa:{path.stem}:{number}",
                "split": SPLITS[path.stem],
                **COMMON,
                "prompt": template.format(question=question, options=listed),
                "completion": letter,
                "question": question,
                "options": option_texts,
            }
