"""Instruction rows of your own: a table in RAW/NAME with a source.yaml of kind `instructions`
(data_prep/sources/tables.py).

Rows        prompt and completion; `messages` where there is a system text or a column of conversations, whose
            turns are {role, content} or {from, value}. Rows of one patient go to the same split.
Left out    and counted: rows without prompt or answer, conversations that do not alternate, exact duplicates
"""

import json
from pathlib import Path

from data_prep.instructions import common, join, no_input
from data_prep.instructions.sharegpt import to_messages
from data_prep.sources import tables

SPEAKERS = {
    "user": "human",
    "human": "human",
    "assistant": "gpt",
    "gpt": "gpt",
    "agent": "gpt",
    "system": "system",
}


class Table:
    """What an instruction module has, of one folder."""

    def __init__(self, name: str, folder: Path):
        self.name, self.settings = name, tables.read_settings(folder, "instructions")
        self.LICENSE, self.ACCESS = self.settings.license, self.settings.access

    def files(self, folder: Path) -> list[Path]:
        return tables.files(folder, self.name)

    def read(self, folder: Path, drops):
        settings, seen = self.settings, set()
        shared = common(self.name, self.LICENSE, self.ACCESS)
        for file in self.files(folder):
            records = tables.rows(file, settings, drops, self.name)
            for name, where, row in tables.names(records, settings):
                content, reason = self._content(row)
                key = json.dumps(content, sort_keys=True)
                if reason or key in seen:
                    drops.add(self.name, reason or "exact duplicate", where)
                    continue
                seen.add(key)
                group = tables.text(row.get(settings.patient)) if settings.patient else ""
                made = {"id": f"{self.name}:{file.name.partition('.')[0]}:{name}", **shared, **content}
                yield made | ({"group": f"{self.name}:{group}"} if group else {})

    def _content(self, row: dict) -> tuple[dict | None, str]:
        settings = self.settings
        system = tables.text(row.get(settings.system)).strip() if settings.system else ""
        begin = [{"from": "system", "value": system}] if system else []
        if settings.conversations:
            turns = _turns(row.get(settings.conversations))
            if turns is None:
                return None, "conversation is not a list of turns"
            messages, reason = to_messages(begin + turns)
            return {"messages": messages}, reason
        prompt, answer, extra = (
            tables.text(row.get(column)).strip() if column else ""
            for column in (settings.prompt, settings.answer, settings.input)
        )
        if not prompt or not answer:
            return None, "empty prompt or answer"
        prompt = join(prompt, "" if no_input(extra) else extra)
        if system:
            said = [("system", system), ("user", prompt.strip()), ("assistant", answer)]
            return {"messages": [{"role": role, "content": text} for role, text in said]}, ""
        return {"prompt": prompt, "completion": answer}, ""


def _turns(value) -> list[dict] | None:
    """The turns of a cell as [{from, value}], or None."""
    try:
        turns = json.loads(value) if isinstance(value, str) else value
        pairs = [
            (turn.get("from") or turn["role"], turn.get("value") or turn.get("content") or "")
            for turn in turns
        ]
        return [{"from": SPEAKERS.get(speaker, speaker), "value": text} for speaker, text in pairs]
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
