"""Every judge behind one call: judge.ask([(prediction, case), ...]), where `case` is a diagnosis row
(contracts.py); verdicts.py keeps what it says.

    string[:TABLE.tsv]     words and synonyms, offline (matching.py); TABLE adds synonyms, the names of one
                           disease in a line
    openai:MODEL[@URL]     a chat endpoint, asked at temperature 0. The paper: GPT-4o, of which it gives no
                           date
    hf:DIR                 a model of this machine: P(yes) against P(no) right after the question,
                           deterministic
    human:FILE             what clinicians rated: a CSV, or a folder of several (ratings.py)
    vote:JUDGE+JUDGE+...   what more than half of the judges say, else None

An LLM is asked a prompt file with {prediction} and {diagnosis} (evaluation.rubrics: {criterion} and
{conversation}); the default is published by McDuff et al.
(arXiv:2312.00164), which the paper cites for its procedure. The paper's own wording is in its Appendix A.3,
which is not available here.
"""

import abc
import argparse
import json
import math
import string
from pathlib import Path

from data_prep.files import sha256
from data_prep.schema import BadInput
from evaluation.diagnosis import ratings
from evaluation.diagnosis.matching import MATCHER_VERSION, Matcher

PROMPT = Path(__file__).resolve().parent / "prompts" / "mcduff2023.txt"
FIELDS = ("prediction", "diagnosis")  # placeholders of the prompt: what is judged, and by what
WORDS = {True: ("y", "Y", "yes", "Yes"), False: ("n", "N", "no", "No")}
BATCH = 64  # questions to a local model between two writes of the log


class Judge(abc.ABC):
    """`id` names the judge and all its verdicts depend on but the question; `question` is what it is asked,
    word for word."""

    kind, id, prompt_sha256, logged, prompt, fields = "", "", None, True, None, FIELDS

    def question(self, prediction: str, case: dict) -> str:
        return self.template.format(**dict(zip(self.fields, (prediction, case["completion"]), strict=True)))

    @abc.abstractmethod
    def ask(self, items: list[tuple[str, dict]]):
        """Yield (place in `items`, {"verdict", "raw", ...} or {"failed": reason}) as the answers come."""

    def read_prompt(self, path: Path, fields: tuple[str, str]) -> None:
        if not path.is_file():
            raise BadInput(f"{path}: no such prompt. Next: --prompt {PROMPT}")
        self.template = path.read_text(encoding="utf-8")
        try:
            found = sorted(field for _, field, _, _ in string.Formatter().parse(self.template) if field)
        except ValueError as error:
            raise BadInput(f"{path}: {error}. Next: write a literal brace twice") from error
        if found != sorted(fields):
            wanted = " and ".join(sorted(fields))
            raise BadInput(f"{path}: the placeholders are {found}, must be {wanted}. Next: correct it")
        self.prompt, self.prompt_sha256, self.fields = str(path.name), sha256(path), fields


def make_judge(
    spec: str,
    prompt: Path = PROMPT,
    allow_list: Path | None = None,
    runs: dict | None = None,
    fields: tuple[str, str] = FIELDS,
) -> "Judge | Vote":
    """The judge of a flag `--judge`. `runs`: {model: {case id: differential}}, by which ratings of ranks are
    understood. `fields`: the placeholders of the prompt."""
    kind, _, rest = spec.partition(":")
    if kind == "string":
        return StringJudge(Path(rest) if rest else None)
    if kind == "openai" and rest:
        from evaluation.diagnosis.server_judge import ServerJudge  # its imports take seconds

        return ServerJudge(rest, prompt, allow_list, fields)
    if kind == "hf" and rest:
        return LocalJudge(rest, prompt, fields)
    if kind == "human" and rest:
        return HumanJudge(Path(rest), runs or {})
    if kind == "vote" and len(rest.split("+")) > 1:
        return Vote([make_judge(member, prompt, allow_list, runs, fields) for member in rest.split("+")])
    raise BadInput(
        f"--judge {spec}: must be string[:TABLE], openai:MODEL[@URL], hf:DIR, human:FILE or "
        f"vote:JUDGE+JUDGE. Next: one of these"
    )


class StringJudge(Judge):
    kind = "string"

    def __init__(self, table: Path | None):
        self.matcher = Matcher(table)
        self.id = f"string-{MATCHER_VERSION}" + (f"-{self.matcher.sha256[:12]}" if table else "")

    def question(self, prediction, case):
        return json.dumps([prediction, case["completion"], case.get("synonyms", [])])

    def ask(self, items):
        for place, (prediction, case) in enumerate(items):
            verdict, rule = self.matcher.same(prediction, case["completion"], case.get("synonyms", []))
            yield place, {"verdict": verdict, "raw": rule}


class Vote:
    """What more than half of its members say, each of which is asked by itself (verdicts.judge_all)."""

    kind, prompt, prompt_sha256 = "vote", None, None

    def __init__(self, members: list[Judge]):
        self.members, self.id = members, "vote(" + " + ".join(member.id for member in members) + ")"

    @staticmethod
    def majority(verdicts: list[bool | None]) -> bool | None:
        return next(
            (verdict for verdict in (True, False) if 2 * verdicts.count(verdict) > len(verdicts)), None
        )


class HumanJudge(Judge):
    kind, logged = "human", False

    def __init__(self, path: Path, runs: dict):
        self.ratings, self.id = ratings.read_ratings(path, runs), f"human:{path.name}"

    def question(self, prediction, case):
        return prediction

    def ask(self, items):
        for place, (prediction, case) in enumerate(items):
            said = list(
                self.ratings.get((case["id"], ratings.prediction_id(case["id"], prediction)), {}).values()
            )
            yield place, {"verdict": Vote.majority([verdict for verdict in said if verdict is not None])}


class LocalJudge(Judge):
    """P(yes) against P(no): the likelihoods of the eight ways to begin the answer, in the harness's batches,
    without drawing any."""

    kind, lm = "hf", None

    def __init__(self, folder: str, prompt: Path, fields: tuple[str, str] = FIELDS):
        from evaluation.generate import keep_on_site
        from evaluation.models.registry import fingerprint, read_entry

        self.entry = read_entry(folder)
        if self.entry.on_server:
            raise BadInput(
                f"--judge hf:{folder}: is a server. Next: --judge "
                f"openai:{self.entry.served}@{self.entry.base_url}"
            )
        keep_on_site(None, self.entry, [])
        self.id = f"hf:{self.entry.name}-{fingerprint(self.entry)[:12]}"
        self.read_prompt(prompt, fields)

    def ask(self, items):
        from lm_eval.api.instance import Instance

        from evaluation import generate

        if items and self.lm is None:
            self.lm = generate.load_model(
                argparse.Namespace(dtype="auto", batch_size="16", device=None, backend_args=""), self.entry
            )
            chat = bool(self.lm.tokenizer.chat_template)
            self.wrap = (
                (lambda text: self.lm.apply_chat_template([{"role": "user", "content": text}]))
                if chat
                else lambda text: text.rstrip()
            )
            self.blank = generate.option_prefix(self.lm.tokenizer) if chat else " "
        answers = [(verdict, word) for verdict, words in WORDS.items() for word in words]
        for start in range(0, len(items), BATCH):
            contexts = {}  # place: question; one that is too long would be cut from the left
            for place, item in enumerate(items[start : start + BATCH], start):
                context = self.wrap(self.question(*item))
                if (length := len(self.lm.tok_encode(context + self.blank)) + 4) > self.lm.max_length:
                    said = f"a question of {length} tokens does not fit into {self.lm.max_length}"
                    yield place, {"failed": said}
                else:
                    contexts[place] = context
            requests = [
                Instance("loglikelihood", {}, (context, self.blank + word), i)
                for context in contexts.values()
                for i, (_, word) in enumerate(answers)
            ]
            nats = iter(self.lm.loglikelihood(requests, disable_tqdm=True))
            for place in contexts:
                chance = {True: 0.0, False: 0.0}
                for verdict, _ in answers:
                    chance[verdict] += math.exp(next(nats)[0])
                verdict = None if chance[True] == chance[False] else chance[True] > chance[False]
                raw = {"p_yes": chance[True], "p_no": chance[False]}
                yield place, {"verdict": verdict, "raw": raw, "model_access": self.entry.access}
