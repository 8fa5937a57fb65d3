"""Pairs of your own: a table in RAW/NAME with a source.yaml of kind `preferences` (sources/tables.py).

Pairs       prompt, chosen and rejected, each a text
Left out    and counted: pairs without a prompt or without one of the answers
"""

from pathlib import Path

from data_prep.sources import tables


class Table:
    """What a preference module has, of one folder."""

    def __init__(self, name: str, folder: Path):
        self.name, self.settings = name, tables.read_settings(folder, "preferences")
        self.LICENSE, self.ACCESS = self.settings.license, self.settings.access

    def files(self, folder: Path) -> list[Path]:
        return tables.files(folder, self.name)

    def read(self, folder: Path, drops):
        settings = self.settings
        for file in self.files(folder):
            records = tables.rows(file, settings, drops, self.name)
            for name, where, row in tables.names(records, settings):
                prompt, chosen, rejected = (
                    tables.text(row.get(column)).strip()
                    for column in (settings.prompt, settings.chosen, settings.rejected)
                )
                if missing := [
                    name
                    for name, text in (("prompt", prompt), ("chosen", chosen), ("rejected", rejected))
                    if not text
                ]:
                    drops.add(self.name, f"no {missing[0]} text", where)
                    continue
                group = tables.text(row.get(settings.patient)) if settings.patient else ""
                yield {
                    "id": f"{self.name}:{file.name.partition('.')[0]}:{name}",
                    "prompt": f"{prompt}\n",
                    "chosen": chosen,
                    "rejected": rejected,
                    "source": self.name,
                    "license": self.LICENSE,
                    "access": self.ACCESS,
                    **({"group": f"{self.name}:{group}"} if group else {}),
                }
