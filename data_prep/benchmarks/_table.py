"""A benchmark of your own: a table in RAW/NAME with a source.yaml of kind `choice` or `labels`
(data_prep/sources/tables.py).

Rows        prompt: the instruction, the question and its options. `choice` with options: the answer is a
            letter, and the log-likelihood twin can read the row. `choice` and `labels` with `choices`: the
            answer is a label, or some.
Splits      by the `split` column (train, validation or dev, test); without one, all rows are test rows
Left out    and counted: rows without question, with an empty option, or whose answer is not among the choices
"""

import string
from pathlib import Path

from data_prep.benchmarks import SPLIT_NAMES, answerable
from data_prep.schema import BadInput
from data_prep.sources import tables


class Table:
    """What a benchmark module has, of one folder."""

    PAGE = "your own table"
    DIFFERENCE = "a benchmark of your own: the paper has no numbers for it"
    EXPECTED: dict = {}

    def __init__(self, name: str, folder: Path):
        settings = self.settings = tables.read_settings(folder, "choice", "labels")
        self.name, self.SCORING, self.LICENSE, self.ACCESS = (
            name,
            settings.kind,
            settings.license,
            settings.access,
        )
        self.choices = list(string.ascii_uppercase[: len(settings.options)]) or settings.choices
        reply = "Reply with one of" if settings.kind == "choice" else "Reply with one or more of"
        self.instruction = settings.instruction or (
            "Answer the multiple-choice question. Reply with the letter of one option."
            if settings.options
            else f"Which label fits the text? {reply}: {'; '.join(self.choices)}."
        )
        self.COMMON = {
            "task": name,
            "source": name,
            "scoring": self.SCORING,
            "license": self.LICENSE,
            "access": self.ACCESS,
            "choices": self.choices,
        }

    def files(self, folder: Path) -> list[Path]:
        return tables.files(folder, self.name)

    def read(self, folder: Path, drops):
        settings = self.settings
        for file in self.files(folder):
            for number, (where, row) in enumerate(tables.rows(file, settings, drops, self.name), 1):
                question = tables.text(row[settings.question]).strip()
                options = [tables.text(row[column]).strip() for column in settings.options]
                answer = self._answer(tables.text(row[settings.answer]).strip(), options)
                split = tables.text(row[settings.split]).strip().lower() if settings.split else "test"
                if split not in SPLIT_NAMES:
                    raise BadInput(f"{where}: split '{split}' must be one of {', '.join(SPLIT_NAMES)}")
                if not question or not all(options):
                    drops.add(self.name, "no question, or an empty option", where)
                elif not answerable(self.SCORING, answer, self.choices):
                    drops.add(self.name, "answer is not among the choices", where)
                else:
                    name = tables.text(row[settings.id]) if settings.id else number
                    yield {
                        "id": f"{self.name}:{file.name.partition('.')[0]}:{name}",
                        "split": SPLIT_NAMES[split],
                        **self.COMMON,
                        "prompt": self._prompt(question, options),
                        "completion": answer,
                        **({"question": question, "options": options} if options else {}),
                    }

    def _prompt(self, question: str, options: list[str]) -> str:
        if not options:
            return f"{self.instruction}\nINPUT: {question}\nOUTPUT:\n"
        listed = "\n".join(f"{letter}. {text}" for letter, text in zip(self.choices, options, strict=True))
        return f"{self.instruction}\nQuestion: {question}\nOptions:\n{listed}\nAnswer:\n"

    def _answer(self, answer: str, options: list[str]) -> str:
        """The letter or label that a cell names, as `choices` has it; else the cell."""
        if self.SCORING == "labels":
            found = {part.strip().casefold() for part in answer.split(";") if part.strip()}
            known = [choice for choice in self.choices if choice.casefold() in found]
            return "; ".join(known) if len(known) == len(found) else answer
        by_name = {choice.casefold(): choice for choice in self.choices}
        if options:
            numbers = {str(number): letter for number, letter in enumerate(self.choices, 1)}
            texts = {text.casefold(): letter for letter, text in zip(self.choices, options, strict=True)}
            by_name = texts | numbers | by_name
        return by_name.get(answer.strip("().").casefold(), answer)
