"""What a completion earns in recipes/grpo.py. Answers are read by the strict parser that scores evaluation
(parsing.py, a link to evaluation/scoring/parsing.py), so that training and scoring cannot disagree.

    answer       1 for the right answer, by the row's `scoring`: the choice, all the labels, the words of the
                 span, a number within the limits; 0 for a wrong one, for several, for none
    format       1 if an answer can be read at all, right or wrong: give it a small weight, 0.1 or less
    overlong     0, and down to -1 in the last fifth before max_completion_length (TRL's, from DAPO)
    repetition   0, and down to -1 the more 3-grams repeat (TRL's)
    judge        1 or 0 as a model on your own server says, None if it cannot be asked or read

A reward is a function (text, row) -> float or None; None is "could not be computed" and is left out, never 0.
row: {"id", "scoring", "answer" (the right one), "choices", "options", "limits", "question"}, and "asked".
Your own: a Python file with such functions as reward_file, their names in `rewards`.
"""

import importlib.util
import json
import urllib.request

from parsing import (
    NEXT_QUESTION,
    PARSER_VERSION,
    answer_part,
    parse_choice,
    parse_labels,
    parse_number,
    span_tokens,
)
from trl.rewards import get_repetition_penalty_reward, get_soft_overlong_punishment

VERIFIABLE = ("choice", "labels", "span", "number")  # scorings that `answer` can verify
NAMES = ("answer", "format", "overlong", "repetition", "judge")
VERSIONS = {"parser": PARSER_VERSION}  # for run.json
JUDGE_PROMPT = (
    "Question:\n{asked}\nReference answer:\n{reference}\nGiven answer:\n{given}\n\n"
    "Does the given answer say the same as the reference answer? Reply with yes or no.\n"
)


def read(text, row):
    """What `text` gives as its answer: a label, a set of labels, the words of a span, a number, a date; None
    if unreadable."""
    if row["scoring"] == "choice":
        return parse_choice(text, row["choices"], row.get("options") or ())[0]
    if row["scoring"] == "labels":
        labels = parse_labels(text, row["choices"])
        return None if labels is None else frozenset(labels)
    if row["scoring"] == "number":
        return parse_number(text, dated=not row.get("limits"))
    part = answer_part(text, NEXT_QUESTION)
    return tuple(span_tokens(part)) if part else None


def right(row):
    """What `read` gives for the right answer."""
    if row["scoring"] == "labels":
        return frozenset(label.strip() for label in row["answer"].split(";") if label.strip())
    if row["scoring"] == "number":
        return parse_number(row["answer"], dated=True)
    return row["answer"] if row["scoring"] == "choice" else tuple(span_tokens(row["answer"]))


def answer(text, row):
    found = read(text, row)
    if row["scoring"] == "number" and row.get("limits"):
        return float(found is not None and row["limits"][0] <= found <= row["limits"][1])
    return float(found is not None and found == right(row))


def format(text, row):
    return float(read(text, row) is not None)


class Judge:
    """Yes or no of a model on an OpenAI-compatible server of yours. `failure`: why there was last none."""

    def __init__(self, url, model, timeout=60):
        self.url, self.model, self.timeout, self.failure = url, model, timeout, None

    def __call__(self, text, row):
        asked = JUDGE_PROMPT.format(asked=row["asked"], reference=row["answer"], given=answer_part(text))
        body = {"model": self.model, "temperature": 0, "max_tokens": 16}
        body |= {"messages": [{"role": "user", "content": asked}]}
        try:
            request = urllib.request.Request(
                f"{self.url.rstrip('/')}/chat/completions",
                json.dumps(body).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=self.timeout) as reply:
                said = json.load(reply)["choices"][0]["message"]["content"]
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            self.failure = f"{type(error).__name__}: {error}"
            return None
        found = parse_choice(said, ["yes", "no"])[0]
        return None if found is None else float(found == "yes")


# ---------------------------------------------------------------- as TRL calls them
def reward_functions(run, training):
    """The functions named in run.rewards as GRPOTrainer calls them: lists in, a list out."""
    longest = training.max_completion_length
    known = {"answer": answer, "format": format, "judge": Judge(run.judge_url, run.judge_model)}
    stock = {"overlong": get_soft_overlong_punishment(longest, max(1, longest // 5))}
    stock |= {"repetition": get_repetition_penalty_reward()}
    mine = load(run.reward_file) if run.reward_file else None
    made = []
    for name in run.rewards:
        if name in stock:
            made.append(named(name, lambda completion_ids, f=stock[name], **_: f(completion_ids)))
        else:
            made.append(over_rows(name, known[name] if name in known else getattr(mine, name)))
    return made


def over_rows(name, function):
    def reward(prompts, completions, completion_ids, **columns):
        keys = [key for key in columns if isinstance(columns[key], list)]
        rows = [{key: columns[key][i] for key in keys} for i in range(len(completions))]
        return [function(text_of(said), row) for said, row in zip(completions, rows, strict=True)]

    reward.per_row = function
    return named(name, reward)


def named(name, function):
    function.__name__ = name
    return function


def text_of(completion):
    """The text of a completion, which TRL gives as a text or as a conversation."""
    return completion if isinstance(completion, str) else completion[-1]["content"]


def load(path):
    """A Python file of yours, as a module."""
    spec = importlib.util.spec_from_file_location("reward_file", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
