"""Rows that teach a model of the demo to find a needle: the prompts of long_context.py, drawn from other
seeds than it asks.

    python -m evaluation.needle_rows --tokenizer outputs/demo/foundation --longest 128 --out data/needles

Reads   the tokenizer of a model
Writes  OUT/{train,validation}.jsonl   rows of prompt and completion, of SHORTEST to --longest tokens
        OUT/manifest.json

A model of about 1M parameters that was trained on text alone finds no needle at any length; it learns to from
some thousand rows.
"""

import argparse
import json
import random
from pathlib import Path

from data_prep.files import one_sentence, whole_folder
from data_prep.schema import BadInput
from evaluation.long_context import needle

SHORTEST = 48  # tokens: a note, the needle and the question
ROW = {"task": "needle", "scoring": "none", "source": "invented", "license": "CC0-1.0", "access": "public"}


def rows(tokenizer, split: str, count: int, longest: int):
    """Yield `count` rows of a split; each depth of the needle and each length is as likely as another."""
    draw = random.Random(split)
    for i in range(count):
        ids, answer = needle(tokenizer, draw.randint(SHORTEST, longest), draw.random(), f"{split} {i}")
        prompt, completion = ids[: -len(answer)], tokenizer.decode(answer)
        yield {"id": f"{split}{i}", "split": split, **ROW} | {
            "prompt": tokenizer.decode(prompt, skip_special_tokens=True),
            "completion": completion,
        }


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokenizer", required=True, help="folder of the model that is to learn it")
    parser.add_argument("--longest", type=int, required=True, help=f"tokens, from {SHORTEST}")
    parser.add_argument("--rows", type=int, default=10_000, help="of training; one in 50 more for validation")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    with one_sentence():
        if args.longest < SHORTEST or args.rows < 50:
            raise BadInput(f"--longest from {SHORTEST}, --rows from 50. Next: --help")
        write(args)


def write(args):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer, trust_remote_code=False)
    with whole_folder(args.out) as folder:
        for split, count in (("train", args.rows), ("validation", args.rows // 50)):
            with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows(tokenizer, split, count, args.longest))
        (folder / "manifest.json").write_text(json.dumps({"access": "public"}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
