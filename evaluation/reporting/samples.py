"""The rows behind a score, as the report shows them: prompt, gold, what each model wrote, what was read from
it, both scores."""

from evaluation.reporting.tables import LABELS
from evaluation.scoring.run_outputs import answers

LONGEST_TEXT = 6000  # characters of a text on the page


def question(row: dict, hide: bool) -> dict:
    """The part of a row that is the same for every model."""
    if hide:
        return {"id": row["id"], "hidden": True}
    cloze = isinstance(row["output"], list) and row.get("options")
    prompt = "\n".join([row.get("question", ""), *row["options"]]) if cloze else row["prompt"]
    gold = row["options"][row["choices"].index(row["completion"])] if cloze else row["completion"]
    return {"id": row["id"], "hidden": False, "prompt": cut(prompt), "gold": cut(gold)}


def reply(row: dict, hide: bool) -> dict:
    """What one model made of a row: verdict, both scores and, unless hidden, what it wrote and what was read
    from it."""
    paper = row.get("paper") or {}
    entry = {
        "verdict": verdict(row),
        "strict": in_numbers(row["score"]),
        "paper": in_numbers(paper.get("score", {})),
        "differ": any(
            paper["score"][name] != row["score"][name]
            for name in set(paper.get("score", {})) & set(row["score"])
        ),
    }
    if hide:
        return entry
    if isinstance(row["output"], list):
        entry["output"] = "\n".join(
            f"{nats:8.2f}  {text}" for text, (nats, _) in zip(answers(row), row["output"], strict=False)
        )
    else:
        entry["output"] = cut(row["output"])
    entry["parsed"] = None if row["parsed"] is None else cut(in_text(row["parsed"]))
    entry["rule"] = row.get("rule") or ""
    if row["scoring"] in ("choice", "labels") and paper:
        entry["paper_parsed"] = None if paper.get("parsed") is None else in_text(paper["parsed"])
    return entry


def verdict(row: dict) -> str:
    """right, wrong, unparsed, or scored where there is no one right answer."""
    numbers = row["score"]
    if row["parsed"] is None:
        return "unparsed"
    if row["scoring"] == "entities" and not isinstance(row["output"], list):
        return (
            "right" if all(right == given == wanted for right, given, wanted in numbers.values()) else "wrong"
        )
    name = next((name for name in ("accuracy", "exact_match") if name in numbers), None)
    return "scored" if name is None else "right" if numbers[name] == 1 else "wrong"


def in_numbers(numbers: dict) -> str:
    """accuracy 1.000; of entities, what was found of each type."""
    parts = []
    for name, value in numbers.items():
        if isinstance(value, list):
            right, given, wanted = value
            parts += [f"{name or 'other'}: {right} right of {given}, {wanted} wanted"] if any(value) else []
        else:
            parts.append(f"{LABELS.get(name, name)} {value:.3f}")
    return ", ".join(parts)


def in_text(parsed) -> str:
    """A parsed answer: a label, labels, or [type, words] of each entity."""
    if isinstance(parsed, str):
        return parsed
    return "; ".join(one if isinstance(one, str) else f"{one[0]}: {one[1]}" for one in parsed) or "(none)"


def cut(text: str) -> str:
    more = len(text) - LONGEST_TEXT
    return text if more <= 0 else f"{text[:LONGEST_TEXT]} … ({more:,} more characters)"


def slim(row: dict) -> dict:
    """What the metrics need of a graded row: a run of many thousand rows does not stay in memory with its
    texts."""
    keys = (
        "id",
        "access",
        "model_access",
        "task",
        "scoring",
        "completion",
        "choices",
        "options",
        "parsed",
        "score",
    )
    kept = {key: row[key] for key in keys if key in row} | {"margin": margin(row)}
    return kept | {"output": [] if isinstance(row["output"], list) else ""}


def margin(row: dict) -> float | None:
    """By how many nats the right answer is likelier than the likeliest wrong one; None of a row that has no
    log-likelihoods of its answers."""
    output, choices = row["output"], row.get("choices") or ()
    if not isinstance(output, list) or len(output) != len(choices) or row["completion"] not in choices:
        return None
    right = choices.index(row["completion"])
    return output[right][0] - max(nats for i, (nats, _) in enumerate(output) if i != right)
