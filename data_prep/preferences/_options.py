"""Pairs from multiple-choice training rows, which need no annotator: chosen is the text of the right option,
rejected the text of a wrong one.

The prompt is the question without its options and without a request for a letter, in the words of the
log-likelihood twin of the task (evaluation/tasks/_likelihood.yaml): so the twin measures what these pairs
teach. A question with n options gives up to n - 1 pairs.
"""

from data_prep.schema import class_of

PROMPT = "Question: {question} Answer:\n"
REPEATED = "an option that is the right one once more"


def pairs(row: dict, per_question: int, drops, where: str):
    """Up to `per_question` pairs of a row with `question` and `options`; none of other rows."""
    if row["scoring"] != "choice" or not row.get("options"):
        drops.add(row["task"], "no options in the row", where)
        return
    right = row["options"][row["choices"].index(row["completion"])]
    wrong = [
        (choice, text) for choice, text in zip(row["choices"], row["options"], strict=True)
        if choice != row["completion"]
    ]  # fmt: skip
    usable = [(choice, text) for choice, text in wrong if text.casefold() != right.casefold()]
    for _ in range(len(wrong) - len(usable)):
        drops.add(row["task"], REPEATED, where)
    start = int.from_bytes(row["id"].encode()[-4:]) % max(1, len(usable))  # else A would be wrong too often
    for choice, text in (usable[start:] + usable[:start])[:per_question]:
        yield {
            "id": f"{row['id']}:{choice}",
            "prompt": PROMPT.format(question=row["question"].strip()),
            "chosen": right,
            "rejected": text,
            "source": row["source"],
            "license": row["license"],
            "access": class_of(row),
            "group": row["id"],
        }
