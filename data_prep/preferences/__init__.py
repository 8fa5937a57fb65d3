"""Preference sources, one module per source: from the publisher's file to pairs (schema.Pair), for
recipes/dpo.py. The paper has none; it names feedback from people as a next step.

To add a source: one file here, found by its name, and one fixture in the tests. A module's docstring is the
card of the source, and the module has
    LICENSE, ACCESS      of the raw files; None if each pair states its own
    files(folder)        the raw files that are read; BadInput if they are not in `folder`
    read(folder, drops)  yield pairs without `split`. What is left out is counted in `drops` by reason. A pair
                         may say its `group`, as a prompt's id or a patient: all pairs of a group go to the
                         same split; else those of one prompt do.
Your own pairs need no code: a table with a source.yaml of kind `preferences` (_table.py). Pairs from
multiple-choice questions are made of task rows (_options.py).
"""

import importlib
import pkgutil
from pathlib import Path

from data_prep.sources import tables

NAMES = tuple(
    sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
)


def names(raw: Path | None) -> tuple[str, ...]:
    """NAMES, and the folders of `raw` that a source.yaml makes pairs of your own."""
    own = tables.described(raw, "preferences") if raw else []
    return (*NAMES, *(name for name in own if name not in NAMES))


def load(name: str, folder: Path | None = None):
    """The module of one of NAMES, or its equivalent for your own table in RAW/name, `folder`."""
    if name in NAMES:
        return importlib.import_module(f"data_prep.preferences.{name}")
    from data_prep.preferences import _table

    return _table.Table(name, folder)
