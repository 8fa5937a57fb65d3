"""The append-only log of what judges said: nothing is asked twice, and what could not be judged is missing,
never wrong.

A line of verdicts.jsonl: {"key", "case", "prediction_sha256", "judge", "prompt_sha256", "verdict": true |
false | null, "raw", ...what the judge says of itself}. The key is a hash of the judge's id, the case, the
prediction and the whole question, so another wording, diagnosis or synonym is asked anew. null is an answer
that cannot be read; a question without an answer has no line, and the next run asks it again.
"""

import hashlib
import json
from pathlib import Path

from data_prep.schema import strictest


def hashed(*parts) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def prediction_id(case_id: str, prediction: str) -> str:
    """What a prediction is called where its model must not be seen: the same for all models that wrote it, in
    whatever case."""
    return hashed(case_id, " ".join(prediction.casefold().split()))[:16]


class Log:
    def __init__(self, path: Path):
        self.known, text = {}, path.read_text(encoding="utf-8") if path.is_file() else ""
        for line in text.split("\n"):
            try:
                record = json.loads(line)
            except ValueError:  # cut when the run was killed
                continue
            self.known[record["key"]] = record
        self.file = path.open("a", encoding="utf-8")
        path.chmod(0o600)  # a judge's words may repeat those of a case
        if text and not text.endswith("\n"):
            self.file.write("\n")

    def add(self, record: dict) -> None:
        self.known[record["key"]] = record
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()


def judge_all(judge, items: list[tuple[str, dict]], log: Log) -> tuple[dict, dict]:
    """({(case id, prediction): True, False or None}, facts) of (prediction, case) `items`, each asked once,
    of the log if it is there."""
    if hasattr(judge, "members"):
        heard = [judge_all(member, items, log) for member in judge.members]
        verdicts = {
            pair: judge.majority([found[pair] for found, _ in heard])
            for pair in ((case["id"], p) for p, case in items)
        }
        facts = {member.id: said for member, (_, said) in zip(judge.members, heard, strict=True)}
        return verdicts, _facts(verdicts) | {
            "members": facts,
            "access": strictest(said["access"] for said in facts.values()),
            "allowed": distinct(e for said in facts.values() for e in said.get("allowed", ())),
        }
    asked, failed, records = [], {}, {}
    for prediction, case in items:
        key = hashed(judge.id, judge.prompt_sha256, case["id"], judge.question(prediction, case))
        if key in log.known:
            records[case["id"], prediction] = log.known[key]
        else:
            asked.append((key, prediction, case))
    for place, answer in judge.ask([(prediction, case) for _, prediction, case in asked]):
        key, prediction, case = asked[place]
        if "failed" in answer:
            failed[case["id"], prediction] = answer["failed"]
            continue
        record = {
            "key": key,
            "case": case["id"],
            "prediction_sha256": hashlib.sha256(prediction.encode()).hexdigest(),
            "judge": judge.id,
            "prompt_sha256": judge.prompt_sha256,
            **answer,
        }
        if judge.logged:
            log.add(record)
        records[case["id"], prediction] = record
    verdicts = {(case["id"], p): records.get((case["id"], p), {}).get("verdict") for p, case in items}
    said = {
        name: sorted({str(r[name]) for r in records.values() if r.get(name)})
        for name in ("model", "system_fingerprint")
    }
    return verdicts, _facts(verdicts) | {
        "asked_now": len(asked) - len(failed),
        "failed": len(failed),
        "first_failure": next(iter(failed.values()), None),
        "served": said["model"],
        "system_fingerprints": said["system_fingerprint"],
        "access": strictest(
            r.get("model_access", "public") for r in records.values()
        ),  # of the judge, where it is known
        "allowed": distinct(r["allowed"] for r in records.values() if r.get("allowed")),
    }


def judge_again(judge, items: list[tuple[str, dict]], log: Log, swapped: bool = False) -> dict:
    """{(case id, prediction): verdict} of the same questions once more, last first and kept apart in the log;
    `swapped`: with the two names in each other's place, as two names of one disease are in either order."""
    mark, again = " swapped" if swapped else " again", []
    for number, (prediction, case) in reversed(list(enumerate(items))):
        change = {"id": f"{case['id']}#{number}{mark}"}
        asked = case["completion"] if swapped else prediction
        again.append((asked, case | change | ({"completion": prediction} if swapped else {})))
    said, _ = judge_all(judge, again, log)
    found = [said[case["id"], asked] for asked, case in reversed(again)]
    pairs = [(case["id"], prediction) for prediction, case in items]
    return dict(zip(pairs, found, strict=True))


def distinct(entries) -> list[dict]:
    """Entries of an allow list, each once."""
    return [json.loads(line) for line in sorted({json.dumps(entry, sort_keys=True) for entry in entries})]


def _facts(verdicts: dict) -> dict:
    return {"pairs": len(verdicts), "missing": sum(verdict is None for verdict in verdicts.values())}
