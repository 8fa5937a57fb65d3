"""Judge the differentials of one or more models: how often is the right diagnosis among the first five?

    python -m evaluation.judge outputs/demo/diagnosis/chat --judge string --out outputs/demo/diagnosis/judged
    python -m evaluation.judge RUN OTHER --judge openai:gpt-4o-2024-08-06 --judge human:ratings \
        --out outputs/judged
    python -m evaluation.judge RUN --out outputs/judged --again 200 \
        --judge vote:string+hf:models/judge+openai:NAME@http://127.0.0.1:8000/v1/chat/completions

Reads   RUN/diagnosis.jsonl and run.json, as `python -m evaluation.generate --tasks diagnosis` writes them;
        the judges are in diagnosis/judges.py
Writes  OUT/verdicts.jsonl   every verdict as it comes, append-only: the same command again asks nothing twice
                             and resumes where it stopped
        OUT/summary.json     for each judge and model top-1 to top-5 accuracy with a bootstrap and a Wilson
                             interval; differences between models with McNemar's exact test; where clinicians
                             rated, kappa, sensitivity, specificity and corrected accuracies of each judge
        OUT/summary.md       the same as tables
        OUT/judged.jsonl     of each case and model what was read from the answer, and the verdict on each
                             name
        OUT/figure3.*, figure4.*   the paper's Figures 3 (automatic judge, k = 1 to 5) and 4 (clinicians, k =
                                   1 and 5) of these models, SVG and PDF

An answer without a readable list is wrong, and counted; where more than 5 % are such, the accuracies are
withheld, as by evaluation.score. A verdict that could not be had is missing and counted, never a no; the
bounds beside an accuracy say what it would be if all missing verdicts were no, or yes. --again asks a model
that judges once more, in another order, and with the two names in each other's place: how many verdicts
change. The summary holds ids and numbers; judged.jsonl holds no name of a credentialed case, or of a model
that was trained on such text. Figures 3 and 4 have no published values beside them: the paper prints them as
pictures only.
"""

import argparse
import collections
import itertools
import sys
from pathlib import Path

from data_prep import egress
from data_prep.files import check_folder, one_sentence, sha256
from data_prep.schema import BadInput, strictest
from evaluation.diagnosis import judges, ratings, section, statistics
from evaluation.diagnosis.differential import PARSER_VERSION, parse_differential
from evaluation.diagnosis.verdicts import Log, hashed, judge_again, judge_all, prediction_id
from evaluation.models.registry import asks_server
from evaluation.score import UNPARSED_LIMIT
from evaluation.scoring import metrics, run_outputs

TASK = "diagnosis"


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="folders written by evaluation.generate; a model is named by its folder",
    )
    parser.add_argument(
        "--judge",
        action="append",
        required=True,
        help="string, openai:MODEL[@URL], hf:DIR, human:FILE or vote:JUDGE+JUDGE; repeatable",
    )
    parser.add_argument(
        "--prompt",
        type=Path,
        default=judges.PROMPT,
        help="what an LLM is asked, with {prediction} and {diagnosis}",
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--again",
        type=int,
        default=0,
        metavar="N",
        help="ask N predictions again, and with the names swapped",
    )
    parser.add_argument(
        "--allow_list",
        type=Path,
        help="YAML of servers that may be sent cases that are not public (data_prep/egress.py)",
    )
    return parser


def main(argv=None):
    args = make_parser().parse_args(argv)
    with one_sentence():
        summary = judge_runs(args)
    print(section.markdown(summary), flush=True)
    print(f"wrote {args.out}: summary.json, summary.md, judged.jsonl, verdicts.jsonl", flush=True)


def judge_runs(args) -> dict:
    """Write OUT and return the summary."""
    if args.out.resolve() in [folder.resolve() for folder in args.folders]:
        raise BadInput(
            f"--out {args.out}: is a run, which holds outputs and nothing else. Next: another --out"
        )
    check_folder(args.out)
    runs = read_runs(args.folders)
    differentials = {
        name: {row["id"]: row["differential"] for row in run["rows"]} for name, run in runs.items()
    }
    asked = [judges.make_judge(spec, args.prompt, args.allow_list, differentials) for spec in args.judge]
    if len({judge.id for judge in asked}) < len(asked):
        raise BadInput(
            f"--judge: the same judge is given twice ({', '.join(judge.id for judge in asked)}). Next: "
            f"give each once"
        )
    items = {}  # each prediction once, whichever models made it
    for run in runs.values():
        for row in run["rows"]:
            for name in row["differential"] or ():
                case = items.setdefault((row["id"], name), (name, row))[1]
                if strictest([row["model_access"], case["model_access"]]) != case["model_access"]:
                    items[row["id"], name] = (name, row)

    known = {(case, prediction_id(case, name)) for case, name in items}
    for judge in asked:
        if judge.kind == "human" and not known & judge.ratings.keys():
            raise BadInput(
                f"{judge.id}: none of its {len(judge.ratings)} ratings is of these answers. Next: the runs "
                f"that the page was made of, or a new page"
            )
    access = strictest(
        row[field] for run in runs.values() for row in run["rows"] for field in ("access", "model_access")
    )
    args.out.mkdir(parents=True, exist_ok=True)
    if access == "credentialed":
        args.out.chmod(0o700)
    heard, again, log = {}, {}, Log(args.out / "verdicts.jsonl")
    some = sorted(items.values(), key=lambda item: hashed(item[1]["id"], item[0]))[: args.again]
    try:
        for judge in asked:
            heard[judge.id] = judge_all(judge, list(items.values()), log)
            if some and judge.kind in ("openai", "hf"):
                again[judge.id] = {
                    name: second_verdicts(judge, some, heard[judge.id][0], log, name == "swapped")
                    for name in ("again", "swapped")
                }
    finally:
        log.close()

    found = {
        judge.id: {name: outcomes_of(run, heard[judge.id][0]) for name, run in runs.items()}
        for judge in asked
    }
    access = strictest([access, *(facts["access"] for _, facts in heard.values())])
    if access == "credentialed":
        args.out.chmod(0o700)
    summary = {
        "access": access,
        "cases": len(next(iter(runs.values()))["rows"]),
        "parser_version": PARSER_VERSION,
        "draws": metrics.DRAWS,
        "level": metrics.LEVEL,
        "models": [run["facts"] for run in runs.values()],
        "judges": [
            judge_entry(judge, heard[judge.id][1], found[judge.id]) | {"again": again.get(judge.id)}
            for judge in asked
        ],
        "agreement": [
            agreement(judge, human, heard, found)
            for human in asked
            if human.kind == "human"
            for judge in asked
            if judge.kind != "human"
        ],
        "raters": [
            entry for human in asked if human.kind == "human" for entry in between_raters(human.ratings)
        ],
    }
    verdicts = {judge_id: pairs for judge_id, (pairs, _) in heard.items()}
    section.write(
        args.out,
        summary,
        [judged_row(name, row, verdicts) for name, run in runs.items() for row in run["rows"]],
    )
    return summary


# ---------------------------------------------------------------- runs
def read_runs(folders: list[Path]) -> dict:
    """{model: {"rows", "facts"}}, each row with its `differential`. BadInput unless all answered the same
    cases."""
    runs = {}
    for folder in dict.fromkeys(folders):
        path = run_outputs.task_files(folder).get(TASK)
        if path is None:
            raise BadInput(
                f"{folder}: no outputs of {TASK}. Next: {run_outputs.generate_command(folder, TASK)}"
            )
        if folder.resolve().name in runs:
            raise BadInput(
                f"{folder}: two runs are named {folder.resolve().name}. Next: rename a folder, a model is "
                f"named by it"
            )
        rows = run_outputs.read_rows(path)
        if rows[0]["scoring"] != "diagnosis":
            raise BadInput(
                f"{path}: its rows have scoring {rows[0]['scoring']}. Next: python -m "
                f"data_prep.build_cases, then evaluation.generate"
            )
        facts = run_outputs.read_facts(folder, TASK, path, rows)
        for row in rows:
            row["differential"], row["rule"] = parse_differential(row["output"])
        runs[folder.resolve().name] = {"rows": rows, "facts": run_entry(folder, path, facts, rows)}
    (first, run), *others = runs.items()
    asked = {row["id"]: (row["completion"], row.get("synonyms", [])) for row in run["rows"]}
    for name, other in others:
        theirs = {row["id"]: (row["completion"], row.get("synonyms", [])) for row in other["rows"]}
        if theirs != asked:
            different = next(i for i in [*asked, *theirs] if asked.get(i) != theirs.get(i))
            raise BadInput(
                f"{first} and {name} did not answer the same cases ({different} for one). Next: run both "
                f"on the same rows, without --limit"
            )
        by_id = {row["id"]: row for row in other["rows"]}
        other["rows"] = [by_id[i] for i in asked]
    return runs


def run_entry(folder: Path, path: Path, facts: dict, rows: list[dict]) -> dict:
    unparsed = sum(row["differential"] is None for row in rows)
    rate, withheld = unparsed / len(rows), None
    if rate > UNPARSED_LIMIT:
        withheld = f"{unparsed} of {len(rows)} answers ({rate:.1%}) hold no readable list, "
        withheld += f"more than {UNPARSED_LIMIT:.0%}"
    return {
        "name": folder.resolve().name,
        "run": str(folder),
        "n": len(rows),
        "unparsed": unparsed,
        "unparsed_rate": rate,
        "withheld": withheld,
        "names_given": sum(len(row["differential"] or ()) for row in rows) / len(rows),
        "rules": dict(collections.Counter(row["rule"] for row in rows).most_common()),
        "outputs_sha256": sha256(path),
        **{name: facts.get(name) for name in ("model", "fingerprint", "preset", "n_overlong", "rows_sha256")},
    }


def outcomes_of(run: dict, verdicts: dict) -> list[dict]:
    return [
        statistics.outcomes(
            None
            if row["differential"] is None
            else [verdicts[row["id"], name] for name in row["differential"]]
        )
        for row in run["rows"]
    ]


# ---------------------------------------------------------------- entries of the summary
def judge_entry(judge, facts: dict, found: dict) -> dict:
    pairs = [
        {
            "first": a,
            "second": b,
            "top": {str(k): statistics.compare(found[a], found[b], k) for k in statistics.K},
        }
        for a, b in itertools.combinations(found, 2)
    ]
    return {
        "id": judge.id,
        "kind": judge.kind,
        "prompt": judge.prompt,
        "prompt_sha256": judge.prompt_sha256,
        **facts,
        "models": {
            name: {"top": {str(k): statistics.top_k(cases, k) for k in statistics.K}}
            for name, cases in found.items()
        },
        "pairs_of_models": pairs,
    }


def second_verdicts(judge, items: list, first: dict, log: Log, swapped: bool) -> dict:
    """How many verdicts on `items` are another when asked a second time; those that are missing in one of
    the two are counted."""
    second, by_case, missing = judge_again(judge, items, log, swapped), collections.defaultdict(list), 0
    for pair, verdict in second.items():
        if None in (verdict, first[pair]):
            missing += 1
        else:
            by_case[pair[0]].append((first[pair], verdict))
    return statistics.changed(by_case) | {"missing": missing}


def agreement(judge, human, heard: dict, found: dict) -> dict:
    """How far a judge agrees with the clinicians: on predictions, and on whole cases for each k with the
    corrected accuracies."""
    said, rated = heard[judge.id][0], heard[human.id][0]
    by_case = collections.defaultdict(list)
    for (case, name), verdict in rated.items():
        if verdict is not None and said[case, name] is not None:
            by_case[case].append((said[case, name], verdict))
    entry = {"judge": judge.id, "human": human.id, **statistics.agreement(by_case), "top": {}}
    for k in statistics.K:
        judged = {
            model: {i: case[k] for i, case in enumerate(cases) if case[k] is not None}
            for model, cases in found[judge.id].items()
        }
        rated = {
            model: {i: case[k] for i, case in enumerate(cases) if case[k] is not None}
            for model, cases in found[human.id].items()
        }
        both = {
            model: {i: [(judged[model][i], rated[model][i])] for i in judged[model] if i in rated[model]}
            for model in judged
        }
        pooled = collections.defaultdict(list)
        for pairs in both.values():
            for i, pair in pairs.items():
                pooled[i] += pair
        measured = statistics.agreement(pooled)
        entry["top"][str(k)] = {
            name: measured[name] for name in ("cases", "pairs", "confusion", "sensitivity", "specificity")
        } | {"corrected": {model: statistics.corrected(judged[model], both[model]) for model in judged}}
    return entry


def between_raters(said: dict) -> list[dict]:
    found = []
    raters = ratings.by_rater(said)
    for first, second in itertools.combinations(sorted(raters), 2):
        by_case = collections.defaultdict(list)
        for pair in raters[first].keys() & raters[second].keys():
            by_case[pair[0]].append((raters[first][pair], raters[second][pair]))
        measured = statistics.agreement(dict(sorted(by_case.items())))
        found.append(
            {
                "first": first,
                "second": second,
                **{name: measured[name] for name in ("cases", "pairs", "kappa")},
            }
        )
    return found


def judged_row(model: str, row: dict, verdicts: dict) -> dict:
    """One case of one model, without names where they are credentialed."""
    names = row["differential"]
    return {
        "id": row["id"],
        "model": model,
        "access": row["access"],
        "rule": row["rule"],
        "answered": names is not None,
        "differential": None if run_outputs.closed(row) else names,
        "verdicts": {
            judge: None if names is None else [said[row["id"], name] for name in names]
            for judge, said in verdicts.items()
        },
    }


if __name__ == "__main__":
    egress.isolate(sys.argv[1:], BadInput, network=asks_server(sys.argv[1:]))
    main()
