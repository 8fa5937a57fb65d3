"""What flows between the stages, and what a user may write into a YAML file: every schema, the loader, and
the rule for access classes.

Each stage checks what it writes here, so that a bad record is named by file and field where it is made, not
three stages later. Packed blocks are described in `build_blocks.py`.

    mixture = load("mixture.yaml", Mixture)      # BadInput: "mixture.yaml: tokens: must be a whole number, or
                                                 one_pass, found 'many'"

Records are plain dicts, checked by `check_document` and `check_row` in Python against the TypedDicts here.
pydantic is slower on this path, on which every record of a corpus goes: in one run on one core,
521,000 documents and 447,000 rows a second here, against 409,000 and 347,000 with pydantic validating the
same TypedDicts.
"""

import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from data_prep import egress
from data_prep.files import BadInput, read_yaml

Access = Literal["public", "gated", "credentialed"]
Domain = Literal["biomedical", "clinical", "general"]
Split = Literal["train", "validation", "test"]
Scoring = Literal["choice", "labels", "span", "entities", "summary", "number", "diagnosis", "rubric", "none"]
# ACCESS: loosest first
ACCESS, DOMAINS, SPLITS, SCORINGS = map(typing.get_args, (Access, Domain, Split, Scoring))


def strictest(access_classes) -> str:
    """The access class of something made from inputs of these classes; public if there is no input."""
    return max(access_classes, key=ACCESS.index, default="public")


# ---------------------------------------------------------------- records
class Document(TypedDict):
    """One line of DOCUMENTS/<source>/*.jsonl.gz."""

    id: str  # unique inside its source, and traceable to the raw record
    text: str
    source: str  # name of the reader, e.g. "pubmed"
    domain: Domain
    license: str
    access: Access
    meta: dict  # whatever else the publisher says of the record


class Row(TypedDict):
    """One line of INSTRUCTIONS/*.jsonl and TASKS/<task>/{train,validation,test}.jsonl. A row has `prompt` and
    `completion`, or `messages`. It only gains fields: generation adds `output` and `model_access`, scoring
    adds `parsed` and `score`."""

    id: str
    task: str
    split: Split
    scoring: Scoring  # how an output is scored; evaluation knows a row by this field alone
    source: str
    license: str
    access: Access
    prompt: NotRequired[str]  # ends in a newline, so that prompt + completion tokenizes without a seam
    completion: NotRequired[str]
    messages: NotRequired[list]  # [{"role": "system" | "user" | "assistant", "content"}]
    # The labels that may be answered (choice, labels), or the entity types (entities)
    choices: NotRequired[list]
    # The bare question, which the log-likelihood twin of a task reads; of a diagnosis case or a
    # conversation, its text
    question: NotRequired[str]
    options: NotRequired[list]  # multiple choice: the text of each of `choices`, in their order
    limits: NotRequired[
        list
    ]  # number: the smallest and largest that is right; without, a date or weeks and days
    # rubric: what a judge looks for, [{"criterion", "points", "tags"}]; the turns before the prompt, as in
    # `messages`; and the tags of the whole row
    rubric: NotRequired[list]
    history: NotRequired[list]
    tags: NotRequired[list]
    synonyms: NotRequired[list]  # diagnosis: other names of the diagnosis, which is the completion
    output: NotRequired[Any]
    model_access: NotRequired[str]  # class of the model that wrote `output`
    parsed: NotRequired[Any]
    score: NotRequired[Any]


class Pair(TypedDict):
    """One line of PREFERENCES/{train,validation}.jsonl: two answers to one prompt, of which `chosen` is the
    better."""

    id: str
    split: Split
    prompt: str  # ends in a newline, as a row's
    chosen: str
    rejected: str
    source: str
    license: str
    access: Access


def _fields(kind) -> tuple[dict, dict, dict]:
    """({field: type}, required fields, {field: allowed values}) of a TypedDict."""
    hints = typing.get_type_hints(kind)
    allowed = {
        field: typing.get_args(hint) for field, hint in hints.items() if typing.get_origin(hint) is Literal
    }
    kinds = {
        field: str if field in allowed else object if hint is Any else hint for field, hint in hints.items()
    }
    return kinds, dict.fromkeys(field for field in kinds if field in kind.__required_keys__), allowed


_DOCUMENT, _ROW, _PAIR = _fields(Document), _fields(Row), _fields(Pair)


def class_of(record: dict) -> str:
    """The access class of a row: its own, or that of the model that wrote it if that is stricter."""
    return egress.stricter(record, record["access"]) or record["access"]


def mark_credentialed(record: dict) -> dict:
    """Return `record`; if it, or the model that wrote it, is credentialed, this process reaches nothing
    beyond this machine from now on (egress.py)."""
    if class_of(record) == "credentialed":
        egress.block_egress([record["license"]], BadInput)
    return record


hold = mark_credentialed  # the name that evaluation/ still imports


def shown(row: dict, text: str) -> str:
    """`text` as an error message may quote it: not at all if the row is credentialed, as the message may end
    in a log."""
    return "(credentialed, not shown)" if row.get("access") == "credentialed" else f"'{text}'"


def check_document(document: dict, where: str) -> dict:
    """Return `document` unchanged, or raise BadInput naming `where` (file and record) and the field."""
    _check_fields(document, _DOCUMENT, where)
    for field in ("id", "text", "source", "license"):
        if not document[field].strip():
            raise BadInput(f"{where}: field '{field}' is empty")
    if document["id"].splitlines() != [document["id"]]:  # ids are written line by line
        where = " ".join(where.splitlines())
        raise BadInput(
            f"{where}: field 'id' holds a line end. Next: correct the raw file, or name another column as id"
        )
    return mark_credentialed(document)


def check_row(row: dict, where: str) -> dict:
    """Return `row` unchanged, or raise BadInput naming `where` (file and record) and the field."""
    _check_fields(row, _ROW, where)
    mark_credentialed(row)
    if problem := _row_problem(row):
        raise BadInput(f"{where}: {problem} (row {row['id']})")
    return row


def check_pair(pair: dict, where: str) -> dict:
    """Return `pair` unchanged, or raise BadInput naming `where` (file and record) and the field."""
    _check_fields(pair, _PAIR, where)
    mark_credentialed(pair)
    if empty := [field for field in ("prompt", "chosen", "rejected") if not pair[field].strip()]:
        raise BadInput(f"{where}: field '{empty[0]}' is empty")
    if not pair["prompt"].endswith("\n"):
        raise BadInput(f"{where}: field 'prompt' must be text that ends in a newline")
    if pair["chosen"].strip() == pair["rejected"].strip():
        raise BadInput(f"{where}: 'chosen' and 'rejected' are the same answer")
    return pair


def _row_problem(row: dict) -> str | None:
    """What is wrong across the fields of a row."""
    if ("messages" in row) == ("prompt" in row):
        return "a row has either 'prompt' and 'completion' or 'messages'"
    if "messages" in row:
        if not _alternate(row["messages"]):
            return "'messages' must alternate user and assistant, and end with assistant"
    elif not row.get("completion"):
        return "field 'completion' is missing or empty"
    elif not row["prompt"].endswith("\n") or not row["prompt"].strip():
        return "field 'prompt' must be text that ends in a newline"
    if row["scoring"] in ("choice", "labels", "entities") and not row.get("choices"):
        return f"scoring '{row['scoring']}' needs 'choices'"
    if "choices" in row and len(set(map(str, row["choices"]))) < len(row["choices"]):
        return "'choices' has a label twice"
    if row["scoring"] == "rubric" and not ("rubric" in row and "question" in row):
        return "scoring 'rubric' needs 'rubric' and 'question'"
    if row["scoring"] == "choice" and row["completion"] not in row["choices"]:
        return f"completion {shown(row, row['completion'])} is not among the choices {row['choices']}"
    if "options" in row and (len(row["options"]) != len(row.get("choices", ())) or "question" not in row):
        return "'options' needs 'question' and as many entries as 'choices'"
    if "options" in row and (unread := [c for c in row["choices"] if not str(c).isascii()]):
        return f"choice {shown(row, unread[0])} is no letter or number that the parser reads"
    return None


def _alternate(messages: list) -> bool:
    roles = [m.get("role") for m in messages if isinstance(m, dict) and isinstance(m.get("content"), str)]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    return len(roles) == len(messages) and bool(turns) and turns == ["user", "assistant"] * (len(turns) // 2)


def _check_fields(record: dict, fields: tuple[dict, dict, dict], where: str) -> None:
    """BadInput names the first field that is missing, unknown, or of a type or value that is not allowed."""
    kinds, required, allowed = fields
    if not isinstance(record, dict):
        raise BadInput(f"{where}: expected a JSON object, found {type(record).__name__}")
    if not required.keys() <= record.keys():
        field, found = next(field for field in required if field not in record), ", ".join(sorted(record))
        raise BadInput(f"{where}: field '{field}' is missing (found: {found or 'none'})")
    for field, value in record.items():
        kind = kinds.get(field)
        if kind is None:
            raise BadInput(f"{where}: unknown field '{field}' (known: {', '.join(kinds)})")
        if not isinstance(value, kind):
            raise BadInput(f"{where}: field '{field}' must be {kind.__name__}, found {type(value).__name__}")
    for field, values in allowed.items():
        if record[field] not in values:  # a long value is a text in the wrong column, which no log may show
            found = f"'{record[field]}'" if len(record[field]) <= 20 else "a longer text"
            raise BadInput(f"{where}: field '{field}' is {found}, must be one of {', '.join(values)}")


# ---------------------------------------------------------------- what users write
class Settings(BaseModel):
    """A schema of ours: unknown keys and values of another type are refused. `description` says what a value
    may be."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Card(Settings):
    """What must be known of any source."""

    domain: Domain = Field(description=f"one of {', '.join(DOMAINS)}")
    license: str = Field(min_length=1, description="the license or agreement, as text")
    access: Access = Field(description=f"one of {', '.join(ACCESS)}")


class Sidecar(Card):
    """source.yaml beside data that comes with no card of ours (sources/sidecar.py)."""

    text: str = Field("text", description="the column that holds the text")
    id: str | None = Field(
        None, description="a column that is unique; without it the id is a hash of the text"
    )
    meta: list[str] = Field([], description="a list of further columns to keep")


class HubSidecar(Sidecar):
    """source.yaml of a dataset on the Hugging Face Hub (sources/hub.py)."""

    dataset: str = Field(min_length=1, description="the name of the dataset on the Hub, or a folder")
    revision: str = Field(min_length=1, description="the commit, 40 hexadecimal digits in quotes")
    split: str = Field(min_length=1, description="the split to read, as text")
    config: str | None = None


Weight = Annotated[int | float, Field(gt=0)]


class Mixture(Settings):
    """The training run as a mixture of domains (build_blocks.py)."""

    block_length: int = Field(ge=2, description="a whole number of at least 2: tokens per block")
    tokens: Annotated[int, Field(ge=1)] | Literal["one_pass"] = Field(
        description="a whole number, or one_pass"
    )
    ratio: Annotated[dict[Domain, Weight], Field(min_length=1)] | Literal["as_found"] = Field(
        description=f"as_found, or weights above 0 for some of {', '.join(DOMAINS)}"
    )
    fill: Literal["best_fit", "long_first", "concat"] = Field(description="best_fit, long_first or concat")
    validation_share: float = Field(ge=0, lt=1, description="a share from 0 to below 1")
    seed: int = Field(ge=0, description="a whole number")


class InstructionPlan(Settings):
    """Sources of the instruction set and rows wanted of each (build_instructions.py)."""

    sources: dict[str, Annotated[int, Field(ge=0)]] = Field(
        min_length=1, description="a mapping of source to number of rows"
    )
    validation: float = Field(0.05, ge=0, lt=1, description="a share from 0 to below 1")
    seed: int = Field(0, ge=0, description="a whole number")


Share = Annotated[float, Field(gt=0, le=1)]


class Decontamination(Settings):
    """Which evaluation rows are looked for in the corpus, and how (corpus/decontamination.py)."""

    splits: list[Split] = Field(["validation", "test"], description=f"a list of {', '.join(SPLITS)}")
    cases: list[str] = Field([], description="a list of files of further items")
    ids: bool = True
    pmc_ids: str | None = None
    ngrams: bool = True
    n: int = Field(13, ge=1)
    n_short: int = Field(8, ge=1)
    max_df: int = Field(10, ge=1)
    min_hits: int = Field(3, ge=1)
    coverage: dict[str, Share] = Field(
        {"default": 0.2}, description="a share above 0, up to 1, or shares by task"
    )
    cut: list[str] = Field(
        ["pmc", "pile_pubmed", "guidelines", "redpajama"],
        description="a list of sources whose documents are cut",
    )
    margin: int = Field(200, ge=0)
    report_only: bool = False

    @model_validator(mode="before")
    @classmethod
    def _one_share(cls, given):
        if isinstance(given, dict) and isinstance(given.get("coverage"), int | float):
            return given | {"coverage": {"default": given["coverage"]}}
        return given


class NearDuplicates(Settings):
    """How duplicates are found, and which copy stays (corpus/minhash.py)."""

    runs: list[list[str]] = Field(
        [
            ["pmc", "guidelines", "pubmed", "pile_pubmed"],
            ["mimic_iv_note", "mimic_iii", "mimic_cxr"],
            ["redpajama"],
        ],
        description="a list of lists of sources",
    )
    n_grams: int = Field(5, ge=1)
    buckets: int = Field(14, ge=1)
    hashes_per_bucket: int = Field(8, ge=1)
    seed: int = 1
    jaccard: float | None = Field(0.7, gt=0, le=1, description="a share above 0, up to 1, or null")
    abstracts_of_full_texts: bool = True

    @model_validator(mode="after")
    def _each_source_once(self):
        sources = [source for run in self.runs for source in run]
        for source in sources:
            if sources.count(source) > 1:
                raise ValueError(f"source '{source}' is in runs twice, so which copy stays is undecided")
        return self


class CleaningPlan(Settings):
    """The sections of a plan of clean_documents. `cleaning` holds one entry per step: its settings, a list of
    settings, true or false; the steps and their settings are the functions in corpus/cleaning.py."""

    cleaning: dict[str, dict | list[dict] | bool | None] | None = Field(
        None, description="a mapping of steps to mappings, lists of mappings, true or false"
    )
    decontamination: Decontamination | None = None
    near_duplicates: NearDuplicates | None = None


class Slurm(Settings):
    """A site's settings of a Slurm cluster: arguments of datatrove's SlurmPipelineExecutor
    (corpus/executors.py)."""

    partition: str
    time: str = Field(description='text in quotes, as "12:00:00": the limit of one array task')
    cpus_per_task: int = Field(1, ge=1)
    mem_per_cpu_gb: int = Field(2, ge=1)
    workers: int = Field(-1, description="a whole number: array tasks at a time, or -1 for all")
    tasks_per_job: int = Field(1, ge=1)
    qos: str | None = None
    env_command: str = ""
    condaenv: str | None = None
    venv_path: str | None = None
    sbatch_args: dict = {}
    srun_args: dict = {}
    with_srun: bool = True
    requeue: bool = True
    mail_user: str | None = None
    mail_type: str = "ALL"
    randomize_start_duration: int = 0


# ---------------------------------------------------------------- what the stages write
class Input(Settings):
    """An input of a manifest."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    license: str
    access: Access


class Output(Settings):
    """An output file of a manifest: `path` is relative to the manifest."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    path: str
    sha256: str
    records: int


class Manifest(Settings):
    """manifest.json beside every output (manifest.py). Stages add facts of their own."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    stage: str
    access: Access
    arguments: dict
    inputs: list[Input]
    dropped: dict
    outputs: list[Output]


# ---------------------------------------------------------------- the loader
Kind = typing.TypeVar("Kind", bound=Settings)


def load(path: str | Path, kind: type[Kind], *, example: str | None = None) -> Kind:
    """The settings of a YAML file. BadInput is one sentence: file, key, what is wrong, what is allowed; or
    which `example` to copy."""
    path = Path(path)
    if not path.is_file():
        raise BadInput(
            f"{path}: no such file" + (f". Next: copy {example} and fill it in" if example else "")
        )
    return parse(read_yaml(path), kind, path)


def parse(given, kind: type[Kind], where) -> Kind:
    """`given` as settings of this kind, or BadInput: "{where}: {key}: what is wrong"."""
    if not isinstance(given, dict):
        raise BadInput(f"{where}: must be keys and values, found {type(given).__name__}")
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise BadInput(f"{where}: {_sentence(error.errors(include_url=False)[0], given, kind)}") from None


def _sentence(error: dict, given: dict, kind: type[Settings]) -> str:
    """One pydantic error as "key: what is wrong"."""
    path, field, value, owner, wanted = [], None, given, kind, None
    for part in error["loc"]:  # keys, list indices, and names of the branches of a union, which end the walk
        if owner is not None and part in owner.model_fields:
            field = owner.model_fields[part]
            owner, wanted = _model_in(field.annotation), field.description
        elif isinstance(value, dict | list) and (isinstance(part, int) or part in value):
            wanted = None  # the description is that of the whole field
        else:
            break
        path.append(str(part))
        value = value.get(part) if isinstance(value, dict) else value[part]
    where = "".join(f"{part}: " for part in path)
    if error["type"] == "extra_forbidden":
        known = ", ".join((owner or kind).model_fields)
        return f"{''.join(f'{part}: ' for part in path[:-1])}unknown key '{path[-1]}' (known: {known})"
    if error["type"] == "value_error":
        return where + str(error["ctx"]["error"])
    if error["type"] == "missing":
        return f"{where}missing" + (f", must be {wanted}" if wanted else "")
    wanted = wanted or error["msg"].removeprefix("Input should be ")
    written = repr(value)
    hint = not error["type"].startswith(("literal", "string", "int", "float")) and value in (
        "yes",
        "no",
        "on",
        "off",
    )
    hint = " (only true and false are booleans here)" if hint else ""
    return f"{where}must be {wanted}, found {written if len(written) <= 80 else written[:80] + '...'}{hint}"


def _model_in(annotation) -> type[Settings] | None:
    """The schema that an annotation holds, as `Decontamination | None` does."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, Settings) else None
    return next(filter(None, map(_model_in, typing.get_args(annotation))), None)
