"""A benchmark of your own: a table in RAW/NAME with a source.yaml of kind `choice` or `labels`
(data_prep/sources/tables.py).

Rows        prompt: the instruction, the question and its options. `choice` with options: the answer is a
            letter, and the log-likelihood twin can read the row; a question may have fewer options than
            others. `choice` and `labels` with `choices`: the answer is a label, or some.
Splits      by the `split` column (train, validation or dev, test); without one, all rows are test rows
Left out    and counted: rows without question, with an empty option before a full one, or whose answer is
            not among the choices, or is the number of one option and the text of another. An answer 0 where
            numbers begin with 1 is refused: the others would be one too low.
"""

import json
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
            records = tables.rows(file, settings, drops, self.name)
            for name, where, row in tables.names(records, settings):
                question = tables.text(row[settings.question]).strip()
                options = self._options(row)
                choices = list(string.ascii_uppercase[: len(options)]) if settings.options else self.choices
                answer = self._answer(tables.text(row[settings.answer]).strip(), options, choices, where)
                split = tables.text(row[settings.split]).strip().lower() if settings.split else "test"
                if split not in SPLIT_NAMES:
                    raise BadInput(f"{where}: split '{split}' must be one of {', '.join(SPLIT_NAMES)}")
                if not question or not all(options) or len(options) == 1 or len(options) > 26:
                    drops.add(self.name, "no question, or an empty option", where)
                elif answer is None:
                    drops.add(self.name, "answer is the number of one option and the text of another", where)
                elif not answerable(self.SCORING, answer, choices):
                    drops.add(self.name, "answer is not among the choices", where)
                else:
                    yield {
                        "id": f"{self.name}:{file.name.partition('.')[0]}:{name}",
                        "split": SPLIT_NAMES[split],
                        **self.COMMON,
                        "choices": choices,
                        "prompt": self._prompt(question, options, choices),
                        "completion": answer,
                        **({"question": question, "options": options} if options else {}),
                    }

    def _options(self, row: dict) -> list[str]:
        """The texts of the options; those at the end that are empty are none."""
        options = [row[column] for column in self.settings.options]
        if len(options) == 1:
            options = listed(options[0])
        options = [tables.text(option).strip() for option in options]
        while options and not options[-1]:
            options.pop()
        return options

    def _prompt(self, question: str, options: list[str], choices: list[str]) -> str:
        if not options:
            return f"{self.instruction}\nINPUT: {question}\nOUTPUT:\n"
        listed = "\n".join(f"{letter}. {text}" for letter, text in zip(choices, options, strict=True))
        return f"{self.instruction}\nQuestion: {question}\nOptions:\n{listed}\nAnswer:\n"

    def _answer(self, answer: str, options: list[str], choices: list[str], where: str) -> str | None:
        """The letter or label that a cell names, as `choices` has it; None for two; else the cell."""
        settings = self.settings
        if self.SCORING == "labels":
            found = {part.strip().casefold() for part in answer.split(settings.separator) if part.strip()}
            known = [choice for choice in self.choices if choice.casefold() in found]
            return "; ".join(known) if len(known) == len(found) else answer
        by_name, name = {choice.casefold(): choice for choice in choices}, answer.strip("().").casefold()
        if options:
            numbers = {str(number): letter for number, letter in enumerate(choices, settings.numbered_from)}
            texts = {text.casefold(): letter for letter, text in zip(choices, options, strict=True)}
            if name == "0" and name not in texts | numbers:
                raise BadInput(
                    f"{where}: answer 0, where the first option is 1. Next: numbered_from: 0 in {tables.NAME}"
                )
            if name in numbers and texts.get(name, numbers[name]) != numbers[name]:
                return None
            by_name = texts | numbers | by_name
        return by_name.get(name, texts.get(answer.casefold(), answer) if options else answer)


def listed(cell) -> list:
    """The options of a cell that holds them all: a list, or an object of letters, perhaps written as JSON."""
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except ValueError:
            return []
    if isinstance(cell, dict):  # the columns of a list, as datasets writes them, or {letter: text}
        cell = cell["text"] if isinstance(cell.get("text"), list) else [cell[key] for key in sorted(cell)]
    if not isinstance(cell, list):
        return []
    return [one.get("value") if isinstance(one, dict) else one for one in cell]
