"""What evaluation/ has measured of this very model, and of no other: its scores, and what it forgot."""

from evaluation.models import registry

from .files import Refused, read_json


def read_scores(path, run):
    """The numbers of evaluation/score.py for this model, without texts. Refused if they are another
    model's."""
    mine, kept = fingerprint(run), {}
    for task, entry in read_json(path).items():
        said = entry["provenance"]
        if said.get("fingerprint") != mine:
            raise Refused(
                f"{path}: {task} was answered by another model than {run}. Next: python -m "
                f"evaluation.generate --model {run} ..."
            )
        if said.get("outputs_changed"):
            raise Refused(
                f"{path}: the outputs of {task} were changed after they were made. Next: generate them again"
            )
        kept[task] = {key: entry[key] for key in ("n", "headline", "unparsed_rate")} | {
            "metrics": None if entry["headline"]["withheld"] else entry["metrics"],
            "level": entry["scorer"]["level"],
            "scorer_version": entry["scorer"]["scorer_version"],
            "preset": said.get("preset"),
            "shots": (said.get("shots") or {}).get("number"),
            "rows_sha256": said.get("rows_sha256"),
            "outputs_sha256": said.get("outputs_sha256"),
        }
    return kept


def read_forgetting(path, run):
    """What evaluation.forgetting says of this model. Refused if it does not know it, or if its gate says that
    the model forgot too much."""
    report, own = read_json(path), fingerprint(run)
    mine = next((one for one in report.get("tuned", []) if one.get("fingerprint") == own), None)
    if mine is None:
        raise Refused(
            f"{path}: says nothing of {run}. Next: python -m evaluation.forgetting --tuned {run} ..."
        )
    said, gate = [finding["sentence"] for finding in mine["gate"]], report["gate"]
    if any(finding["level"] == "failed" for finding in mine["gate"]):
        raise Refused(
            f"{path}: the gate on forgetting has failed: {', '.join(said)}. Next: more general data, and "
            f"train again"
        )
    kept = {key: mine[key] for key in ("differences", "mean", "perplexity")}
    return kept | {
        "base": report["base"]["name"],
        "limits": gate.get("limits"),
        "verdict": gate.get("verdict"),
        "said": said,
    }


def read_extraction(path, run):
    """What evaluation.extraction measured of this model: rates, no text. Refused if it is another model's."""
    report = read_json(path)
    if report.get("fingerprint") != fingerprint(run):
        raise Refused(
            f"{path}: is of another model than {run}. Next: python -m evaluation.extraction measure --model "
            f"{run} ..."
        )
    return {key: report[key] for key in ("tokens", "files", "rates")}


def fingerprint(run):
    return registry.fingerprint(registry.Entry(run.name, path=run))
