"""Counterfactual patients: cases with the age, sex or ancestry swapped. How much of the top 5 changes?

    python -m evaluation.counterfactual make data/cases --out data/cases_swapped
    python -m evaluation.generate --model DIR --rows data/cases_swapped --tasks diagnosis --preset chat \
        --out OUT
    python -m evaluation.counterfactual compare OUT

make      CASES/diagnosis/test.jsonl (data_prep.build_cases) to OUT/diagnosis/test.jsonl: each case, and for
          each of SWAPS that applies one more row, `<id> <swap>`
compare   OUT/diagnosis.jsonl to OUT/counterfactual.json: per swap the share of the five names that are not in
          the other list, and the share of cases whose first name differs, with 95 % intervals over cases

sex        man and woman, he and she, ...; not in a case that speaks of an organ or event of one sex
age        an adult's, 20 years up, or down from 60 on
ancestry   White, Black, Asian and Hispanic to another one; named before the patient where the case says none
control    a second blank after the first sentence: what any edit changes. Read the others against it

The words of relatives ("his mother") are left as they are, pronouns that follow them are not told apart: read
some rows. A swap may change the right answer: a change is not in itself a fault.
"""

import argparse
import json
import re
import sys
from pathlib import Path

import numpy as np

from data_prep import egress
from data_prep.files import check_out, one_sentence, read_jsonl, replaced, sha256, whole_folder, write_jsonl
from data_prep.manifest import describe, write_manifest
from data_prep.schema import BadInput, check_row, strictest
from evaluation.diagnosis.differential import parse_differential
from evaluation.diagnosis.matching import words
from evaluation.reporting.formats import format_interval, markdown_table
from evaluation.reporting.intervals import DETECTABLE, detectable
from evaluation.scoring import metrics, run_outputs

PAIRS = [("man", "woman"), ("men", "women"), ("male", "female"), ("boy", "girl"), ("gentleman", "lady")]
PAIRS += [("he", "she"), ("himself", "herself"), ("Mr", "Ms"), ("him", "her")]
SEX = {a: b for pair in PAIRS for a, b in (pair, pair[::-1])} | {"his": "her", "hers": "his", "Mrs": "Mr"}
SEX_WORDS = re.compile(rf"(?i)\b({'|'.join(sorted(SEX, key=len, reverse=True))})\b(?=(\s+[a-z])?)")
ONE_SEX = re.compile(
    r"(?i)\b(?:pregnan|gravid|menstru|menopaus|menarche|uter[iu]|ovar|cervi(?:x|cal cancer)|vagin|obstet|gyn"
    r"|contracepti|endometri|prostat|testic|testes|scrot|penis|penile|erectile|semen|g\dp\d)"
)
AGE = re.compile(r"(?i)\b(\d{2})(?=[- ]year[- ]old\b)|(?<=\baged )(\d{2})\b")
ANCESTRY = {"White": "Black", "Caucasian": "Black", "Black": "White", "African American": "White"}
ANCESTRY |= {"African-American": "White", "Asian": "White", "Hispanic": "White", "Latino": "White"}
PERSON = r"(?:man|woman|male|female|boy|girl|patient|gentleman|lady)\b"
ANCESTRY_WORDS = re.compile(rf"(?i)\b({'|'.join(ANCESTRY)})\b(?=\s+{PERSON})")
UNSAID = re.compile(rf"(?i)(year[- ]old\s)(?={PERSON})")


def swap_sex(text: str) -> str | None:
    def other(match):
        word = match[1]
        # "her pain" is his, "gave her" is him
        new = "his" if word.lower() == "her" and match[2] else SEX.get(word) or SEX[word.lower()]
        return (
            new.upper()
            if word.isupper() and len(word) > 1
            else new.capitalize()
            if word[0].isupper()
            else new
        )

    return None if ONE_SEX.search(text) else SEX_WORDS.sub(other, text)


def swap_age(text: str) -> str | None:
    match = AGE.search(text)
    if not match or (age := int(match[0])) < 18:
        return None
    text = f"{text[: match.start()]}{age - 20 if age >= 60 else age + 20}{text[match.end() :]}"
    return re.sub(r"\b([Aa])n? (?=(8)?\d+[- ]year)", lambda m: f"{m[1]}{'n' if m[2] else ''} ", text)


def swap_ancestry(text: str) -> str | None:
    if ANCESTRY_WORDS.search(text):
        named = {name.lower(): other for name, other in ANCESTRY.items()}
        swapped = ANCESTRY_WORDS.sub(lambda match: named[match[1].lower()], text)
        return re.sub(r"\b([Aa])n (?=White|Black)", r"\1 ", swapped)
    return UNSAID.sub(r"\1Black ", text, count=1)


def double_blank(text: str) -> str | None:
    return text.replace(". ", ".  ", 1)


SWAPS = {"sex": swap_sex, "age": swap_age, "ancestry": swap_ancestry, "control": double_blank}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="cases to cases with swapped patients")
    make.add_argument("cases", type=Path)
    make.add_argument("--out", type=Path, required=True)
    commands.add_parser("compare", help="how much of the answers changed").add_argument("run", type=Path)
    args = parser.parse_args(argv)
    with one_sentence():
        if args.command == "make":
            write_swapped(args.cases, args.out)
        else:
            print(compare_run(args.run))


def variants(row: dict) -> dict[str, dict]:
    """{swap: row} of those that change the text of a case."""
    found, text = {}, row["question"]
    for name, swap in SWAPS.items():
        swapped = swap(text)
        if swapped and swapped != text and row["prompt"].count(text) == 1:
            prompt = row["prompt"].replace(text, swapped)
            found[name] = row | {"id": f"{row['id']} {name}", "question": swapped, "prompt": prompt}
    return found


def write_swapped(cases: Path, out: Path) -> None:
    source, counts = cases / "diagnosis/test.jsonl", dict.fromkeys(SWAPS, 0)
    if not source.is_file():
        raise BadInput(f"{source}: no such file. Next: python -m data_prep.build_cases --out {cases} ...")
    check_out(out / "diagnosis")
    rows, n = [], 0
    for n, row in read_jsonl(source):
        found = variants(check_row(row, f"{source}: line {n}"))
        rows += [row, *found.values()]
        for name in found:
            counts[name] += 1
    if not any(counts.values()):
        raise BadInput(f"{source}: no case names a patient that can be swapped. Next: other cases")
    facts = {"license": "; ".join(sorted({row["license"] for row in rows}))}
    facts["access"] = strictest(row["access"] for row in rows)
    with whole_folder(out / "diagnosis") as folder:
        if facts["access"] == "credentialed":
            folder.chmod(0o700)
        write_jsonl(folder / "test.jsonl", rows)
        write_manifest(
            folder,
            stage="counterfactual",
            arguments={"cases": str(cases)},
            inputs=[{"path": str(source), "sha256": sha256(source), **facts}],
            dropped={},
            outputs=[describe(folder, folder / "test.jsonl", records=len(rows))],
            swapped=counts,
        )
    said = ", ".join(f"{name} {count}" for name, count in counts.items())
    print(f"wrote {out}: {n} cases, swapped: {said}. Next: python -m evaluation.generate --rows {out} ...")


def compare_run(run: Path) -> str:
    """Write RUN/counterfactual.json and return its table."""
    path = run / "diagnosis.jsonl"
    rows = {row["id"]: row for row in run_outputs.read_rows(path)}
    answers = {name: parse_differential(row["output"])[0] for name, row in rows.items()}
    found = {swap: compare(answers, swap) for swap in SWAPS if any(i.endswith(f" {swap}") for i in answers)}
    if not found:
        raise BadInput(f"{path}: holds no swapped cases. Next: python -m evaluation.counterfactual make ...")
    access = strictest(row[key] for row in rows.values() for key in ("access", "model_access"))
    result = {"access": access, "outputs_sha256": sha256(path), "swaps": found}
    text = json.dumps(result, indent=1) + "\n"
    replaced(run / "counterfactual.json", lambda out: out.write_text(text, encoding="utf-8"))
    shares = [
        [form for key in ("top5", "top1") for form in (format_interval(*e[key].values()), detectable(e[key]))]
        for e in found.values()
    ]
    lines = [
        (s, f"{e['n']} ({e['unread']} unread)", *c) for (s, e), c in zip(found.items(), shares, strict=True)
    ]
    head = ("swap", "cases", "share of the top 5 that changes", "detectable", "top 1 changes", "detectable")
    return f"{markdown_table(head, lines)}\n{DETECTABLE}"


def compare(answers: dict[str, list[str] | None], swap: str) -> dict:
    """{"n", "unread", "top5", "top1"} of {id: differential}; pairs of which one could not be read are counted
    and left out. A share of the top 5: of the names of the longer list, those that the other one lacks."""
    changes, unread = [], 0
    for name in (name.removesuffix(f" {swap}") for name in answers if name.endswith(f" {swap}")):
        pair = [answers.get(name), answers[f"{name} {swap}"]]
        if None in pair:
            unread += 1
            continue
        first, second = ([words(item) for item in names] for names in pair)
        kept = len(set(first) & set(second)) / max(len(set(first)), len(set(second)))
        changes.append([1 - kept, float(first[0] != second[0])])
    counts, result = np.array(changes).reshape(-1, 2), {"n": len(changes), "unread": unread}
    for column, key in enumerate(("top5", "top1")):
        result[key] = dict.fromkeys(("value", "low", "high"))
        if changes:
            drawn = metrics.draws(counts[:, [column]], lambda total, n: total[..., 0] / n)
            result[key] = metrics.estimate(float(counts[:, column].mean()), drawn, len(counts))
    return result


if __name__ == "__main__":
    egress.isolate(sys.argv[1:], BadInput)
    main()
