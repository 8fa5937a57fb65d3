"""What a YAML of evaluation/claims, gates and plans may hold: a model each, for data_prep.schema.load."""

from pathlib import Path
from typing import Annotated, Literal

import pydantic

from data_prep.files import read_json
from data_prep.schema import Settings
from evaluation.reporting.formats import printable
from evaluation.reporting.tables import PAPER, TABLES

Label = Annotated[str, pydantic.AfterValidator(printable)]


class Section(Settings):
    """A section of a YAML. Unlike `Settings` it converts (a path, a label) and may fill in defaults."""

    model_config = pydantic.ConfigDict(strict=False, frozen=False)


def names(entries: list) -> list[str]:
    """The names of the entries. ValueError if two are the same."""
    found = [entry.name for entry in entries]
    if twice := {name for name in found if found.count(name) > 1}:
        raise ValueError(f"two are called '{min(twice)}'")
    return found


# ---------------------------------------------------------------- the report
class ReportedModel(Section):
    """name: folder of --evaluation; run: folder of --runs; tables: of the paper, instead of what the runs
    say; tasks: those that the model was made for, instead of all that it was asked: a claim may be about
    others, no table is."""

    name: str
    label: Label
    preset: str | None
    what: str
    run: str | None = None
    tables: list[Literal[4, 5, 6]] | None = None
    tasks: list[str] | None = None


CLAIM_KEYS = {
    "accuracy": {"tasks", "metric", "better", "worse"},
    "kept": {"tasks", "metric", "new", "old", "margin"},
    "margin": {"tasks", "better", "worse"},
    "perplexity": {"domain", "new", "old", "margin"},
}


class Claim(Section):
    """A claim of either kind, with the keys of its kind; what is judged how: reporting/claims.py."""

    name: str
    statement: str
    kind: Literal["accuracy", "kept", "margin", "perplexity"]
    tasks: Annotated[list[str], pydantic.Field(min_length=1)] | None = None
    metric: str | None = None
    better: str | None = None
    worse: str | None = None
    domain: str | None = None
    new: str | None = None
    old: str | None = None
    margin: float | None = None

    @pydantic.model_validator(mode="after")
    def check_keys(self):
        given = {key for key, value in self if value is not None} - {"name", "statement", "kind"}
        if wrong := sorted(given ^ CLAIM_KEYS[self.kind]):
            keys = ", ".join(sorted(CLAIM_KEYS[self.kind]))
            raise ValueError(f"missing or unknown: {', '.join(wrong)} (kind {self.kind} has {keys})")
        return self

    @property
    def models(self) -> list[str]:
        return [name for name in (self.better, self.worse, self.new, self.old) if name]


class ReportConfig(Section):
    title: str
    about: str
    models: Annotated[list[ReportedModel], pydantic.Field(min_length=1)]
    baseline: str | None = None
    claims: list[Claim] = []

    @pydantic.model_validator(mode="after")
    def check_names(self):
        known = names(self.models)
        used = [(claim.name, name) for claim in self.claims for name in claim.models]
        for where, name in [*used, *([("baseline", self.baseline)] if self.baseline else [])]:
            if name not in known:
                raise ValueError(f"{where}: '{name}' is not one of the models ({', '.join(known)})")
        return self


# ---------------------------------------------------------------- the paper's tables for any checkpoints
class PlanModel(Section):
    """model: as evaluation.generate has it; paper: its column in the paper's table; changes: KEY=VALUE of the
    model's entry; tasks: those of the plan that the model was made for, if not all."""

    name: str
    label: Label
    model: str
    preset: str = "paper"
    paper: str | None = None
    changes: list[str] = []
    tasks: list[str] | None = None

    def asked(self, tasks: list[str]) -> list[str]:
        return [task for task in tasks if self.tasks is None or task in self.tasks]


class Difference(Section):
    what: str
    of: str
    to: str


class Training(Section):
    """How Table 4's models are fine-tuned: one run for each model and task, in OUT/<model>/<task>."""

    recipe: str = "recipes/sft.py"
    out: str
    config: str
    accelerate: str
    large: dict[str, str] = {}  # name of a model -> its own config, where `config` does not fit it


class Plan(Section):
    title: str
    table: Literal[4, 5, 6] = 6
    rows: str
    evaluation: str
    tasks: list[str] = pydantic.Field(min_length=1, description="a list of at least one task")
    models: list[PlanModel] = pydantic.Field(min_length=2, description="a list of at least two models")
    settings: dict[str, str | int | float | bool] = {}
    differences: Annotated[list[Difference], pydantic.Field(min_length=1)] | None = None
    training: Training | None = None

    @pydantic.model_validator(mode="after")
    def check_names(self):
        known = names(self.models)
        columns = read_json(PAPER)[TABLES[self.table]]["models"]
        for model in self.models:
            if model.paper not in (None, *columns):
                raise ValueError(
                    f"Table {self.table} of the paper has no column '{model.paper}' (it has "
                    f"{', '.join(columns)})"
                )
        if (self.table == 4) != (self.training is not None):
            raise ValueError("training: is for table 4, the supervised one, and needed there")
        if self.differences is None:
            first = known[0]
            self.differences = [Difference(what=f"{n} minus {first}", of=n, to=first) for n in known[1:]]
        for pair in self.differences:
            for name in (pair.of, pair.to):
                if name not in known:
                    raise ValueError(
                        f"difference '{pair.what}': '{name}' is not one of the models ({', '.join(known)})"
                    )
        return self


# ---------------------------------------------------------------- forgetting
class Tuned(Section):
    """published: the model in paper_tables.json, section forgetting."""

    model: str
    published: str | None = None


class Comparison(Section):
    base: str
    tuned: Annotated[list[Tuned], pydantic.Field(min_length=1)]


class ForgettingPlan(Section):
    tasks: str = "general"
    gate: Path | None = None
    comparisons: Annotated[list[Comparison], pydantic.Field(min_length=1)]

    @pydantic.model_validator(mode="after")
    def check_published(self):
        known = [record["model"] for record in read_json(PAPER)["forgetting"]["records"]]
        for name in (tuned.published for one in self.comparisons for tuned in one.tuned):
            if name not in (None, *known):
                raise ValueError(f"the paper says nothing about '{name}' (it has {', '.join(known)})")
        return self
