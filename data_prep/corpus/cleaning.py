"""Cleaning of corpus documents: a list of small steps, each text -> text or the reason why the document is
dropped, switched and set by a YAML.

    cleaning:                          # a step that is not named does not run; they run in the order of STEPS
      encoding: {}                     # {}: with its defaults, the parameters of the function of that name
      deidentification: {marks: token, token: ___}
      short:                           # several settings: the first that is for a document is used
        - {domains: [clinical], characters: 30, words: 5}
        - {characters: 100, words: 15}
      quality: {gopher_repetition: {}, gopher_quality: {min_doc_words: 50}, c4: null, fineweb: {}}

Any step takes `domains`, `sources` and `slices` (RedPajama's; a document without meta.slice is in all), and
then runs on no others.
"""

import collections
import dataclasses
import functools
import inspect
import itertools
import json
import os
import re
from collections.abc import Callable
from typing import Literal

# Before datatrove is imported: its logs would print the values of variables, and so the text of notes
os.environ["LOGURU_DIAGNOSE"] = "NO"

import pydantic
from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.formatters import FTFYFormatter
from datatrove.utils.word_tokenizers import WordTokenizer

from data_prep.schema import BadInput, Domain, Settings, parse


class Drop(str):
    """What a step returns in place of a text: why the document goes."""


# ---------------------------------------------------------------- the steps
def encoding(text: str, *, unescape_html: bool | Literal["auto"] = "auto") -> str | Drop:
    """Repair text that was decoded wrongly ("cafÃ©"), take control characters out, compose accents (NFC), no
    blanks at line ends.

    ftfy with datatrove's settings; `unescape_html`: whether &lt; is written <; "auto": unless the text holds
    a < already."""
    text = _ftfy(unescape_html).format(text.replace("\r\n", "\n").replace("\r", "\n"))
    return "\n".join(line.rstrip() for line in text.split("\n")).strip("\n")


@functools.lru_cache
def _ftfy(unescape_html) -> FTFYFormatter:
    return FTFYFormatter(unescape_html=unescape_html, normalization="NFC")


# MIMIC-III writes [**Known lastname 123**], which may run over a line end; MIMIC-IV-Note and MIMIC-CXR ___ (a
# longer line of _ is a ruler).
MARK = re.compile(r"\[\*\*(?:(?!\[\*\*|\*\*\]).){0,120}\*\*\]|(?<!_)___(?!_)", re.DOTALL)
HERE = "\x00"


def deidentification(
    text: str, *, marks: Literal["token", "delete", "keep"] = "token", token: str = "___"
) -> str | Drop:
    """Write each de-identification mark as `token`, the same for all sources, or delete it, or keep it.

    Lines that hold nothing but marks go; a header before a mark ("Name: [**Name**]") stays. MIMIC-IV and
    MIMIC-CXR have the default."""
    if marks == "keep" or not MARK.search(text):
        return text
    lines = MARK.sub(HERE, text.replace(HERE, "")).split("\n")
    lines = [line for line in lines if HERE not in line or re.search(r"[^\W_]", line)]
    if marks == "token":
        return "\n".join(lines).replace(HERE, token)
    return "\n".join(re.sub(rf"[ \t]*{HERE}", "", line) for line in lines)


def short(text: str, *, characters: int = 100, words: int = 15) -> str | Drop:
    """Drop a text of fewer characters or words (separated by white space) than these."""
    if len(text) < characters:
        return Drop(f"fewer than {characters} characters")
    if len(text.split(maxsplit=words)) < words:
        return Drop(f"fewer than {words} words")
    return text


FILTERS = {
    "gopher_repetition": GopherRepetitionFilter,
    "gopher_quality": GopherQualityFilter,
    "c4": functools.partial(C4QualityFilter, filter_no_terminal_punct=False),
    "fineweb": FineWebQualityFilter,
}
DEFAULTS = {}  # of datatrove


def quality(
    text: str,
    *,
    gopher_repetition: dict | None = DEFAULTS,
    gopher_quality: dict | None = DEFAULTS,
    c4: dict | None = DEFAULTS,
    fineweb: dict | None = DEFAULTS,
) -> str | Drop:
    """datatrove's filters for web pages, in the order and with the settings of FineWeb: each a mapping of its
    parameters, or null for none.

    The reason of a drop is datatrove's. C4 also takes single lines out (cookies, javascript). These rules
    drop program code, formulas, and abstracts and notes full of numbers: by default they see the general
    domain only, and of RedPajama its web pages."""
    given = zip(FILTERS, (gopher_repetition, gopher_quality, c4, fineweb), strict=True)
    for rules in [
        _filter(name, json.dumps(dict(parameters))) for name, parameters in given if parameters is not None
    ]:
        document = Document(text=text, id="")
        result = rules.filter(document)
        if result is not True:
            return Drop(result[1])
        text = document.text
    return text


@functools.lru_cache
def _filter(name: str, parameters: str):
    return FILTERS[name](language=RegexWordTokenizer(), **json.loads(parameters))


class RegexWordTokenizer(WordTokenizer):
    """English words and sentences by two patterns, for datatrove's filters in place of spaCy, which costs
    them most of their time. The words matter: punctuation counted as words of its own, or "3.5" as three,
    would drop texts that spaCy's words keep."""

    WORD = re.compile(r"\d+(?:[.,:/-]\d+)*|\w+(?:[-'’./]\w+)*|[^\w\s]+")
    END = re.compile(r"[.!?]+[\"'”’)\]]*\s+")

    def word_tokenize(self, text: str) -> list[str]:
        return self.WORD.findall(text)

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        cuts = [0, *(match.end() for match in self.END.finditer(text)), len(text)]
        return [(start, end) for start, end in itertools.pairwise(cuts) if start < end]

    def sent_tokenize(self, text: str) -> list[str]:
        return [text[start:end].strip() for start, end in self.span_tokenize(text)]

    def __eq__(self, other):  # datatrove keeps the words of the last texts by (text, tokenizer)
        return type(self) is type(other)

    def __hash__(self):
        return hash(type(self))


# ---------------------------------------------------------------- the list, and what runs it
@dataclasses.dataclass(frozen=True)
class Step:
    """A step and the documents that it is for where the YAML does not say: None stands for all."""

    function: Callable
    domains: tuple | list | None = None
    sources: tuple | list | None = None
    slices: tuple | list | None = None


STEPS = {
    "encoding": Step(encoding),
    "deidentification": Step(deidentification, domains=("clinical",)),
    "short": Step(short),
    "quality": Step(quality, domains=("general",), slices=("common_crawl", "c4", "unknown")),
}


class Scope(Settings):
    """The documents that a step is for; None stands for all."""

    domains: list[Domain] | None = None
    sources: list[str] | None = None
    slices: list[str] | None = None


def _schema(function: Callable) -> type[Scope]:
    """The settings of a step: the keyword parameters of its function, and its scope."""
    parameters = [*inspect.signature(function).parameters.values()][1:]
    fields = {parameter.name: (parameter.annotation, parameter.default) for parameter in parameters}
    return pydantic.create_model(function.__name__, __base__=Scope, **fields)


SCHEMAS = {name: _schema(step.function) for name, step in STEPS.items()}


def make_cleaner(config: dict | None) -> "Cleaner":
    """The cleaner of a plan's `cleaning`. BadInput names an unknown step, setting or domain."""
    for name in config or {}:
        if name not in STEPS:
            raise BadInput(f"cleaning: unknown step '{name}' (known: {', '.join(STEPS)})")
    steps = []
    for name, step in STEPS.items():
        given = (config or {}).get(name)
        if given is not None and given is not False:
            settings = given if isinstance(given, list) else [{} if given is True else given]
            steps.append((name, [_with(name, step, setting) for setting in settings]))
    return Cleaner(steps)


def _with(name: str, step: Step, setting: dict) -> Step:
    settings = parse(setting, SCHEMAS[name], f"cleaning: {name}").model_dump(exclude_unset=True)
    scope = {key: settings.pop(key) for key in Scope.model_fields if key in settings}
    function = functools.partial(step.function, **settings)
    try:
        function("A text to try it on. " * 20)  # datatrove's filters take any settings until they are made
    except TypeError as error:
        raise BadInput(f"cleaning: {name}: {error}") from error
    return dataclasses.replace(step, function=function, **{k: v for k, v in scope.items() if v is not None})


class Cleaner:
    """cleaner(document) -> (document, None), or (None, "step: reason") for one that goes. The document given
    is not changed.

    `changed` counts, for (source, step), the documents whose text the step changed."""

    def __init__(self, steps: list[tuple[str, list[Step]]]):
        self.steps, self.changed = steps, collections.Counter()

    def __call__(self, document: dict) -> tuple[dict | None, str | None]:
        text = document["text"]
        for name, settings in self.steps:
            step = next((step for step in settings if _is_for(step, document)), None)
            if step is None:
                continue
            result = step.function(text)
            if isinstance(result, Drop):
                return None, f"{name}: {result}"
            if not result.strip():
                return None, f"{name}: no text left"
            if result != text:
                self.changed[document["source"], name] += 1
                text = result
        if text == document["text"]:
            return document, None
        meta = document["meta"]
        if "blocks" in meta and text.count("\n\n") != document["text"].count("\n\n"):
            meta = {
                key: value for key, value in meta.items() if key != "blocks"
            }  # what they count (see pmc.py) is no longer there
        return {**document, "text": text, "meta": meta}, None


def _is_for(step: Step, document: dict) -> bool:
    part = document["meta"].get("slice")
    return (
        (step.domains is None or document["domain"] in step.domains)
        and (step.sources is None or document["source"] in step.sources)
        and (step.slices is None or part is None or part in step.slices)
    )
