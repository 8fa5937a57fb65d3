"""To the Hub, only when asked: never a credentialed release, a gated one only behind its terms, private
unless --public, verified first."""

import os
import re
from pathlib import Path

from huggingface_hub import HfApi

from .files import PROVENANCE, Refused, read_json, strictest
from .verify import failures


def push(args):
    """Send FOLDER to --repo. Its access class is the strictest that anything in it says."""
    folder = Path(args.folder)
    facts = read_json(folder / PROVENANCE)
    records = [
        facts,
        *facts["runs"],
        *facts["manifests"],
        *(source for stage in facts["data"] for source in stage),
    ]
    classes = [record.get("access", "missing") for record in records]
    classes += [read_json(path).get("access", "public") for path in folder.rglob("config.json")]
    access = strictest(
        [*classes, *(["credentialed"] if facts["licence"]["agreements"] else [])], folder / PROVENANCE
    )
    if access == "credentialed":
        raise Refused(
            f"{folder}: was made of credentialed data, and is never pushed. Next: submit the bundle at "
            f"PhysioNet, by its own way"
        )
    if access == "gated" and not facts["terms"]:
        raise Refused(
            f"{folder}: access is gated, and the terms for those who ask are not stated. Next: build it "
            f'again with --terms "..."'
        )
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", args.repo):
        raise Refused(
            f"--repo {args.repo}: must be organisation/name. Next: --repo organisation/{folder.name}"
        )
    if not (token := os.environ.get("HF_TOKEN")):
        raise Refused(
            "HF_TOKEN is not set: the token is taken from the environment and from nowhere else. Next: "
            "export HF_TOKEN=..."
        )
    if failed := failures(folder):
        raise Refused(f"{folder}: not pushed, {failed}. Next: build it again")
    api = HfApi(token=token)
    api.create_repo(args.repo, private=not args.public, exist_ok=True)
    if not args.public and not api.model_info(args.repo).private:
        raise Refused(f"{args.repo}: is there already, and is public. Next: another --repo, or --public")
    if access == "gated":
        api.update_repo_settings(args.repo, gated="manual")
    api.upload_folder(repo_id=args.repo, folder_path=folder, commit_message=f"{facts['name']}, verified")
    print(f"pushed {folder} to {args.repo}, {'public' if args.public else 'private'}")
