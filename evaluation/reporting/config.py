"""What a YAML of evaluation/claims, gates and plans may hold: a model each, read by one loader."""

from pathlib import Path
from typing import Annotated, Literal

import pydantic

from data_prep.files import read_json, read_yaml
from data_prep.schema import BadInput
from evaluation.reporting.formats import printable
from evaluation.reporting.tables import PAPER, TABLES

Label = Annotated[str, pydantic.AfterValidator(printable)]


class Strict(pydantic.BaseModel, extra="forbid"):
    """A section of a YAML: unknown keys are refused."""


def load(path: Path, model: type[Strict], example: str = ""):
    """The YAML at `path` as `model`. BadInput: file: key: what is wrong."""
    data = read_yaml(path)
    try:
        return model.model_validate({} if data is None else data)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "top level"
        said = first["msg"].removeprefix("Value error, ")
        raise BadInput(f"{path}: {key}: {said}" + (f". Next: copy {example}" if example else "")) from error


def names(entries: list) -> list[str]:
    """The names of the entries. ValueError if two are the same."""
    found = [entry.name for entry in entries]
    if twice := {name for name in found if found.count(name) > 1}:
        raise ValueError(f"two are called '{min(twice)}'")
    return found


# ---------------------------------------------------------------- the report
class ReportedModel(Strict):
    """name: folder of --evaluation; run: folder of --runs; tables: of the paper, instead of what the runs
    say."""

    name: str
    label: Label
    preset: str | None
    what: str
    run: str | None = None
    tables: list[Literal[4, 5, 6]] | None = None


class AccuracyClaim(Strict):
    name: str
    statement: str
    kind: Literal["accuracy"]
    tasks: Annotated[list[str], pydantic.Field(min_length=1)]
    metric: str
    better: str
    worse: str

    @property
    def models(self):
        return self.better, self.worse


class PerplexityClaim(Strict):
    name: str
    statement: str
    kind: Literal["perplexity"]
    domain: str
    new: str
    old: str
    margin: float

    @property
    def models(self):
        return self.new, self.old


Claim = Annotated[AccuracyClaim | PerplexityClaim, pydantic.Field(discriminator="kind")]


class ReportConfig(Strict):
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
class PlanModel(Strict):
    """model: as evaluation.generate has it; paper: its column in the paper's table; changes: KEY=VALUE of the
    model's entry."""

    name: str
    label: Label
    model: str
    preset: str = "paper"
    paper: str | None = None
    changes: list[str] = []


class Difference(Strict):
    what: str
    of: str
    to: str


class Training(Strict):
    """How Table 4's models are fine-tuned: one run for each model and task, in OUT/<model>/<task>."""

    recipe: str = "recipes/sft.py"
    out: str
    config: str
    accelerate: str
    large: dict[str, str] = {}  # name of a model -> its own config, where `config` does not fit it


class Plan(Strict):
    title: str
    table: Literal[4, 5, 6] = 6
    rows: str
    evaluation: str
    tasks: Annotated[list[str], pydantic.Field(min_length=1)]
    models: Annotated[list[PlanModel], pydantic.Field(min_length=2)]
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
class Tuned(Strict):
    """published: the model in paper_tables.json, section forgetting."""

    model: str
    published: str | None = None


class Comparison(Strict):
    base: str
    tuned: Annotated[list[Tuned], pydantic.Field(min_length=1)]


class ForgettingPlan(Strict):
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
