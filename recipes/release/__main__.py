"""Make a trained model into a folder that can be published, prove it, and publish it: privately, and only
when asked.

Reads   --run: a finished run with whole weights, the runs it came from, and the manifests of the data they
        read, each as run.json knows it; --scores and --forgetting: what evaluation/ wrote of this model;
        licences.yaml, card.md and licence.md beside this file.
Writes  FOLDER: safetensors shards, tokenizer, chat template, generation_config.json, README.md (the model
        card), LICENSE.md, provenance.json (runs, manifests in short, the hash of each tensor) and
        SHA256SUMS.txt. Of a run that read credentialed data: a bundle in PhysioNet's layout, which stays
        here, readable by its owner alone.

    python -m recipes.release build outputs/release/chat --run outputs/demo/chat \\
        --scores outputs/demo/evaluation/chat/scores.json
    python -m recipes.release verify outputs/release/chat --run outputs/demo/chat
    python -m recipes.release push outputs/release/chat --repo organisation/name

Every number of the card is read from a file; what no file says is "not recorded" or "not measured". Nothing
is sent by build and verify.

    build.py asks runs.py (the runs behind it, and their data), licences.py (what these ask together) and
    evidence.py (what was measured), writes the model's files, and has card.py write the papers; private.py
    keeps paths out; verify.py is the proof, push.py the way out.
"""

import argparse
import sys

import jinja2
import yaml

from recipes.egress import isolate

from .build import build
from .files import Refused
from .push import push
from .verify import verify


def make_parser():
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m recipes.release", description=__doc__, formatter_class=raw, allow_abbrev=False
    )
    actions = parser.add_subparsers(required=True, metavar="build | verify | push")
    making, proving, sending = (
        actions.add_parser(each.__name__, help=each.__doc__, allow_abbrev=False)
        for each in (build, verify, push)
    )
    for each, its in ((build, making), (verify, proving), (push, sending)):
        its.set_defaults(action=each)
        its.add_argument("folder", help="the release")
    making.add_argument("--run", metavar="DIR", required=True, help="the finished run")
    making.add_argument("--scores", metavar="JSON", help="scores.json of evaluation.score for this model")
    making.add_argument(
        "--forgetting", metavar="JSON", help="the report of evaluation.forgetting for this model"
    )
    making.add_argument("--extraction", metavar="JSON", help="of evaluation.extraction for this model")
    making.add_argument(
        "--license", help="the license of the release; left out, what its data and base ask together"
    )
    making.add_argument(
        "--base_license", metavar="LICENCE", help="of a base model that licences.yaml does not know"
    )
    making.add_argument(
        "--license_files",
        metavar="DIR",
        help="holds LICENSE.txt of the base model, where it is not beside the base",
    )
    making.add_argument("--name", help="of the model; left out, of the folder")
    making.add_argument(
        "--terms", metavar="TEXT", help="what somebody must agree to before getting a gated model"
    )
    proving.add_argument("--run", metavar="DIR", help="the finished run, to compare its weights")
    sending.add_argument("--repo", metavar="ORGANISATION/NAME", required=True, help="where to")
    sending.add_argument("--public", action="store_true", help="for everybody to see, in place of privately")
    return parser


def main(args):
    try:
        args.action(args)
    except (KeyError, TypeError, AttributeError, ValueError, yaml.YAMLError, jinja2.UndefinedError) as error:
        files = ", ".join(
            str(vars(args)[key])
            for key in ("run", "scores", "forgetting", "extraction", "folder")
            if vars(args).get(key)
        )
        raise Refused(
            f"{files}: not as the recipes write it ({type(error).__name__}: {error}). Next: make it again"
        ) from error


if __name__ == "__main__":
    isolate(sys.argv[1:], Refused)
    try:
        main(make_parser().parse_args())
    except (Refused, OSError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
