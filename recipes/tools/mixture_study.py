"""How much general text does continual pretraining need? A mixture study with small proxies: the question
that the paper leaves open.

    python -m recipes.tools.mixture_study --config recipes/configs/mixture_study_demo.yaml --accelerate
    accelerate_configs/cpu.yaml

The article mixed medical and general text 4:1, blames what PMC-LLaMA (19:1) and Meditron (99:1) forgot on
theirs, and closes: "Future studies should examine methods to better determine the optimal ratio." This is
such a method, in six steps:
    plan      the ratios of the YAML, all with the same number of tokens, before anything runs (--plan_only
              true stops there)
    train     for each ratio data_prep/build_blocks.py lays down the blocks and recipes/pretrain.py trains a
              proxy from the same base. Held-out documents are chosen by a hash of their id, so all proxies
              are asked the same blocks; the base itself is asked by one step at learning rate 0
    fit       a mixing law per domain, of the token-weighted loss L on its held-out blocks (nats) against the
              shares r of the three domains:
                  exponential   L = c + k exp(t1 r_clinical + t2 r_general)    Ye et al. 2024,
                                arXiv:2403.16952; the shares sum to 1, so two exponents do
                  power         L = c + k (r_own + e)^-g                       the term of the ratio in the
                                D-CPT law, Que et al. 2024, arXiv:2406.01375
              c and k by least squares, the two exponents on a grid. Each domain takes the law that misses
              less when proxies are left out in turn
    predict   the shares with the least target loss (`target`, a weighted sum of the domains) among those
              whose general perplexity stays within max_general_perplexity_ratio of the base, with its
              interval: less general text is nearly always better for the target, so the best point stands on
              the limit, and would be beyond it half of the time. Searched only between the ratios tried
    check     one more proxy at the predicted shares, which no fit has seen: predicted against measured loss
    report    OUT/study.md, study.json, study.png

Reads   the YAML of recipes/pretrain.py that is `pretrain_config`, whose base model and settings every proxy
        shares, and `documents`, as build_blocks does.
Writes  output_dir/{mixtures, blocks, runs, logs} and the report. What is complete is not made again: the same
        command goes on after a stop.

Intervals are 95 % percentile intervals of a paired bootstrap: held-out blocks are drawn with replacement, the
same for all proxies, and all but the choice of the law is computed again for each draw, fit and optimum too.
They hold what the choice of held-out text could change, not what another seed of the training would: for that
give more than one of `seeds`. Where a ratio needs more text of a domain than there is, the text is repeated;
passes are reported."""

import itertools
import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml
from trl import TrlParser

from data_prep.schema import BadInput as Refused
from evaluation.reporting.intervals import can_show

DOMAINS = ("biomedical", "clinical", "general")
RECIPES = Path(__file__).resolve().parents[1]
DRAWS = 1000  # of the bootstrap
STEP = 0.005  # of the shares that are searched
FEWEST = 6  # ratios, and 4 shares of general text among them: a law has four parameters
AS_IT_IS = [
    "--learning_rate",
    "0",
    "--max_steps",
    "1",
]  # a step that changes no weight: the evaluation of the base


@dataclass(kw_only=True)
class StudyArguments:
    pretrain_config: str = field(
        metadata={"help": "YAML of recipes/pretrain.py: the base model and how each proxy is trained."}
    )
    documents: str = field(metadata={"help": "Folder of data_prep/clean_documents.py or build_documents.py."})
    output_dir: str = field(metadata={"help": "Folder of the study."})
    ratios: list[str] = field(
        metadata={"help": 'biomedical:clinical:general in tokens, in quotes: "15:1:4".'}
    )
    tokens: int = field(metadata={"help": "Tokens that each proxy is trained on."})
    block_length: int = field(metadata={"help": "Tokens of a block."})
    validation_share: float = field(
        metadata={
            "help": "Share of the documents that is held out; not above that of the base model's own blocks."
        }
    )
    target: str = field(
        metadata={
            "help": 'Weights biomedical:clinical:general of the losses in what is to be small: "15:1:0".'
        }
    )
    max_general_perplexity_ratio: float = field(
        metadata={"help": "Forgetting limit: perplexity on general text over the base model's."}
    )
    max_prediction_error: float = field(
        metadata={
            "help": "Nats by which the check may miss its prediction in each domain, written down beforehand."
        }
    )
    fill: str = field(default="best_fit", metadata={"help": "How documents are packed: best_fit or concat."})
    seeds: list[int] = field(
        default_factory=lambda: [0],
        metadata={"help": "One proxy of each ratio for each; losses are averaged."},
    )
    accelerate: str = field(
        default="accelerate_configs/cpu.yaml", metadata={"help": "accelerate file of one machine."}
    )
    plan_only: bool = field(default=False, metadata={"help": "Print the plan, run nothing."})


def main(args):
    # Plan
    out, study = Path(args.output_dir), read_study(args)
    print(plan_table(args, study))
    if args.plan_only:
        return
    out.mkdir(parents=True, exist_ok=True)

    # Train: a proxy for each ratio, and the base as it is
    ratios, proxies, base = dict(zip(args.ratios, study["shares"], strict=True)), {}, None
    for ratio, shares in ratios.items():
        proxies[ratio] = train_proxies(args, study, ratio, shares)
        base = base or train(
            args, study, "base", blocks_folder(args, ratio, args.seeds[0]), args.seeds[0], AS_IT_IS
        )
        minutes = sum(run["record"]["seconds"] for run in proxies[ratio]) / 60
        print(
            f"{len(ratios) - len(proxies)} ratios and the check are left, at {minutes:.1f} min of training "
            f"each",
            flush=True,
        )

    # Fit: losses are [1 + DRAWS, proxies]
    held_out = Bootstrap(base)
    losses = {
        domain: np.stack([held_out.losses(proxies[ratio], domain) for ratio in ratios], 1)
        for domain in DOMAINS
    }
    base_losses = {domain: held_out.losses([base], domain) for domain in DOMAINS}
    laws = {
        domain: choose_law(study["shares"], losses[domain], number) for number, domain in enumerate(DOMAINS)
    }

    # Predict
    best = predict_best(study, laws, base_losses["general"] + math.log(args.max_general_perplexity_ratio))
    name = "check_" + "_".join(f"{share:.3f}" for share in best["shares"])

    # Check: a proxy that no fit has seen
    runs = train_proxies(args, study, name, best["shares"])
    measured = {domain: held_out.losses(runs, domain) for domain in DOMAINS}

    # Report
    found = report(args, study, proxies, runs, losses, base_losses, laws, best, measured)
    if found["access"] == "credentialed":
        out.chmod(0o700)  # as each of its runs
    replace(out / "study.json", json.dumps(found, indent=1) + "\n")
    replace(out / "study.md", markdown(args, found))
    draw(args, study, laws, losses, base_losses, best, measured).savefig(out / ".study.partial.png", dpi=150)
    os.replace(out / ".study.partial.png", out / "study.png")
    print(markdown(args, found))


# ---------------------------------------------------------------- plan
def replace(path, text):
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def read_study(args):
    """{"shares": [ratios, 3], "weights": [3] of the target, "base", "ranks"}; Refused where the YAML asks for
    what cannot be fitted or compared."""
    base = read_yaml("pretrain_config", args.pretrain_config).get("model_name_or_path")
    machine = read_yaml("accelerate", args.accelerate)
    if not base:
        raise Refused(
            f"{args.pretrain_config}: key model_name_or_path is missing. Next: a YAML of recipes/pretrain.py"
        )
    if machine.get("num_machines", 1) > 1:
        raise Refused(
            f"{args.accelerate}: num_machines {machine['num_machines']}, a study runs on one. Next: a "
            f"smaller proxy, or an accelerate file of one machine"
        )
    if not args.seeds:
        raise Refused("seeds: none is given. Next: seeds: [0]")
    shares = np.array([read_ratio("ratios", ratio) for ratio in args.ratios])
    for ratio, share in zip(args.ratios, shares, strict=True):
        if share.min() <= 0:
            raise Refused(
                f"ratios: '{ratio}' leaves a domain out, whose loss is to be fitted. Next: a small weight, "
                f"as 0.01"
            )
        if np.isclose(shares, share).all(1).sum() > 1:
            raise Refused(
                f"ratios: '{ratio}' is given twice. Next: each mixture once, and seeds for more runs of it"
            )
    if len(shares) < FEWEST or len(np.unique(shares[:, 2].round(6))) < 4:
        raise Refused(
            f"ratios: {len(shares)} are too few or too alike for a law. Next: at least {FEWEST}, with 4 "
            f"different shares of general text"
        )
    if np.ptp(shares[:, 1] / shares[:, :2].sum(1)) < 0.01:
        raise Refused(
            "ratios: biomedical and clinical text stand in one proportion in all of them, so their effects "
            "cannot be told apart. Next: vary it in two"
        )
    if args.max_general_perplexity_ratio < 1 or args.max_prediction_error <= 0:
        raise Refused(
            "max_general_perplexity_ratio must be at least 1 and max_prediction_error above 0. Next: see "
            "recipes/configs/mixture_study_demo.yaml"
        )
    check_held_out(base, args.validation_share)
    return {
        "shares": shares,
        "weights": read_ratio("target", args.target),
        "base": base,
        "ranks": machine.get("num_processes", 1),
    }


def read_yaml(key, path):
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no keys and values")
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise Refused(
            f"{key} {path}: cannot be read ({error}). Next: a file of recipes/configs or "
            f"accelerate_configs, from the current folder"
        ) from error
    return content


def read_ratio(key, text):
    """[3] shares of DOMAINS, whose sum is 1, of "15:1:4". YAML reads 15:1:4 without quotes as a number of
    seconds."""
    try:
        weights = np.array([float(part) for part in text.split(":")])
        if len(weights) != len(DOMAINS) or (weights < 0).any() or not 0 < weights.sum() < math.inf:
            raise ValueError
    except (ValueError, AttributeError):
        raise Refused(
            f'{key}: {text!r} is not biomedical:clinical:general. Next: three weights in quotes, as "15:1:4"'
        ) from None
    return weights / weights.sum()


def check_held_out(base, share):
    """Refused if the base was trained on documents that this study would hold out: a larger share of the same
    hash holds out more."""
    record = Path(base, "run.json")
    blocks = (
        Path(json.loads(record.read_text(encoding="utf-8"))["arguments"].get("blocks", ""), "manifest.json")
        if record.is_file()
        else Path()
    )
    trained = (
        json.loads(blocks.read_text(encoding="utf-8"))["arguments"]["mixture"]["validation_share"]
        if blocks.is_file()
        else share
    )
    if trained < share:
        raise Refused(
            f"validation_share {share}: the base was trained with {trained} ({blocks}), so it has read "
            f"what would be held out. Next: validation_share {trained}"
        )


def plan_table(args, study):
    runs = len(args.seeds) * (len(args.ratios) + 1)
    lines = [f"{'ratio':>20} {'biomedical':>11} {'clinical':>9} {'general':>9}   medical:general"]
    for ratio, (biomedical, clinical, general) in zip(args.ratios, study["shares"], strict=True):
        lines.append(
            f"{ratio:>20} {biomedical:11.2%} {clinical:9.2%} {general:9.2%}   "
            f"{(biomedical + clinical) / general:.3g}:1"
        )
    lines.append(
        f"{len(args.ratios)} ratios and one check x {len(args.seeds)} seeds x {args.tokens:,} tokens = "
        f"{runs * args.tokens:,} tokens, from {study['base']}"
    )
    lines.append(
        f"hours on GPUs: python -m recipes.tools.plan --config {args.pretrain_config} --accelerate "
        f"{args.accelerate} --gpu NAME, for these tokens"
    )
    return "\n".join(lines)


# ---------------------------------------------------------------- train
def train_proxies(args, study, ratio, shares):
    """The runs of one ratio, one for each seed."""
    runs = []
    for seed in args.seeds:
        name, blocks = f"{ratio.replace(':', '-')}_seed{seed}", blocks_folder(args, ratio, seed)
        mixture = Path(args.output_dir, "mixtures", f"{name}.yaml")
        mixture.parent.mkdir(exist_ok=True)
        given = {
            "block_length": args.block_length,
            "tokens": args.tokens,
            "ratio": dict(zip(DOMAINS, shares.tolist(), strict=True)),
            "fill": args.fill,
            "validation_share": args.validation_share,
            "seed": seed,
        }
        replace(mixture, yaml.safe_dump(given, sort_keys=False))
        arguments = {
            "documents": args.documents,
            "tokenizer": study["base"],
            "mixture": mixture,
            "out": blocks,
        }
        execute(
            args,
            f"{name}.blocks",
            [
                "-m",
                "data_prep.build_blocks",
                *itertools.chain(*((f"--{key}", value) for key, value in arguments.items())),
            ],
        )
        for domain, facts in json.loads((blocks / "manifest.json").read_text(encoding="utf-8"))[
            "domains"
        ].items():
            if not facts["validation_tokens"]:
                raise Refused(
                    f"{blocks}: no {domain} document is held out. Next: a larger validation_share, or more "
                    f"documents"
                )
        runs.append(train(args, study, name, blocks, seed))
    return runs


def blocks_folder(args, ratio, seed):
    return Path(args.output_dir, "blocks", f"{ratio.replace(':', '-')}_seed{seed}")


def train(args, study, name, blocks, seed, more=()):
    """{"name", "seed", "blocks" (their manifest), "record" (run.json), "validation"} of a proxy, which is
    trained unless it is complete. It is evaluated at the end only."""
    folder = Path(args.output_dir, "runs", name)
    given = {
        "config": args.pretrain_config,
        "blocks": blocks,
        "output_dir": folder,
        "seed": seed,
        "world_size": study["ranks"],
        "eval_strategy": "no",
    }
    launch = ["-m", "accelerate.commands.launch", "-q", "--config_file", args.accelerate]
    given = [*itertools.chain(*((f"--{key}", value) for key, value in given.items())), *more]
    if not any(
        Path(args.output_dir, "runs").glob("*/run.json")
    ):  # the first: the others differ in their blocks alone
        execute(args, "preflight", [*launch, "--module", "recipes.tools.preflight", *given])
    execute(args, name, [*launch, RECIPES / "pretrain.py", *given])
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)  # a complete proxy does not go on, and ten of them fill a disk
    record, validation = (
        json.loads((folder / file).read_text(encoding="utf-8")) for file in ("run.json", "validation.json")
    )
    said = ", ".join(f"{domain} {sum(v['nll']) / sum(v['tokens']):.4f}" for domain, v in validation.items())
    print(
        f"{name}: {record['tokens_seen']:,} tokens in {record['seconds']:.0f} s; held-out loss (nats): "
        f"{said}",
        flush=True,
    )
    return {
        "name": name,
        "seed": seed,
        "blocks": json.loads((blocks / "manifest.json").read_text(encoding="utf-8")),
        "record": record,
        "validation": validation,
    }


def execute(args, name, words):
    """Run python with `words`; what it says goes to OUT/logs/NAME.log. Refused with its last line if it
    fails."""
    log = Path(args.output_dir, "logs", f"{name}.log")
    log.parent.mkdir(exist_ok=True)
    with log.open("ab") as file:
        before = file.tell()  # an earlier run's lines
        done = subprocess.run([sys.executable, *map(str, words)], stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        lines = [
            line for line in log.read_bytes()[before:].decode(errors="replace").splitlines() if line.strip()
        ]
        last = next(
            (line for line in reversed(lines) if line.startswith("error: ")),
            lines[-1] if lines else "no output",
        )
        raise Refused(
            f"{log}: {last.removeprefix('error: ')}"
            + ("" if "Next: " in last else ". Next: mend that; the same command goes on from there")
        )


class Bootstrap:
    """Losses on held-out blocks and on draws of them, [1 + DRAWS]: row 0 is the estimate, with every block
    once. All runs are given the same draws."""

    def __init__(self, run):
        rng = np.random.default_rng(0)
        self.tokens = {domain: np.array(run["validation"][domain]["tokens"]) for domain in DOMAINS}
        self.times = {}
        for domain, tokens in self.tokens.items():
            drawn = rng.multinomial(len(tokens), np.full(len(tokens), 1 / len(tokens)), size=DRAWS)
            self.times[domain] = np.vstack([np.ones(len(tokens)), drawn])
        self.held_out = held_out_files(run)

    def losses(self, runs, domain):
        """[1 + DRAWS] nats per token, the mean over `runs`, which are seeds of one ratio."""
        for run in runs:
            if held_out_files(run) != self.held_out:
                raise Refused(
                    f"{run['name']}: its held-out blocks are not those of the other proxies. Next: another "
                    f"output_dir, and leave the documents as they are"
                )
        nll = np.mean([run["validation"][domain]["nll"] for run in runs], 0)
        return self.times[domain] @ nll / (self.times[domain] @ self.tokens[domain])


def held_out_files(run):
    return {
        output["path"]: output["sha256"]
        for output in run["blocks"]["outputs"]
        if output["split"] == "validation"
    }


# ---------------------------------------------------------------- fit
def exponential(shares, own, exponents):
    """[exponents, points] of exp(t1 r_clinical + t2 r_general)."""
    return np.exp(exponents @ shares[:, 1:].T)


def power(shares, own, exponents):
    """[exponents, points] of (r_own + e)^-g."""
    return (shares[:, own] + exponents[:, :1]) ** -exponents[:, 1:]


SIZES = np.geomspace(0.1, 40, 40)
SIGNED = np.concatenate([-SIZES, [0], SIZES])
LAWS = {  # the law without c and k, and the grid of its two exponents
    "exponential": (exponential, np.array([pair for pair in itertools.product(SIGNED, SIGNED) if any(pair)])),
    "power": (power, np.array(list(itertools.product(np.geomspace(1e-4, 1, 60), np.geomspace(0.05, 8, 80))))),
}


def fit(law, own, shares, losses):
    """The law of domain number `own` for each row of `losses` [rows, proxies]: at each point of the grid c
    and k are a straight line through the proxies."""
    shape, grid = LAWS[law]
    x = shape(shares, own, grid)  # [grid, proxies]
    x_centred, y_centred = x - x.mean(1, keepdims=True), losses - losses.mean(1, keepdims=True)
    size = np.maximum(
        np.linalg.norm(x_centred, axis=1), 1e-6 * x.max(1)
    )  # what is the same in all proxies explains nothing, not 0 / 0
    best = np.square(y_centred @ (x_centred / size[:, None]).T).argmax(1)  # [rows]: explains most
    k = (y_centred * x_centred[best]).sum(1) / size[best] ** 2
    return {
        "law": law,
        "own": own,
        "exponents": grid[best],
        "k": k,
        "c": losses.mean(1) - k * x[best].mean(1),
    }


def predict(fitted, shares):
    """[rows, points] losses that a fitted law gives at `shares` [points, 3]."""
    shape, _ = LAWS[fitted["law"]]
    return fitted["c"][:, None] + fitted["k"][:, None] * shape(shares, fitted["own"], fitted["exponents"])


def choose_law(shares, losses, own):
    """The law that misses less when proxies are left out in turn, fitted to all of them. "missed": {law:
    predicted less measured, nats, of each left out}. Those with the least and the most general text stay in:
    without them a law would be asked beyond what it was fitted to, which no prediction does."""
    general, missed = shares[:, 2], {}
    inner = np.flatnonzero((general > general.min() + 1e-9) & (general < general.max() - 1e-9))
    for law in LAWS:
        fits = [fit(law, own, np.delete(shares, left, 0), np.delete(losses[:1], left, 1)) for left in inner]
        missed[law] = np.array(
            [
                predict(fitted, shares[[left]])[0, 0] - losses[0, left]
                for fitted, left in zip(fits, inner, strict=True)
            ]
        )
    best = min(LAWS, key=lambda law: np.square(missed[law]).mean())
    return {**fit(best, own, shares, losses), "missed": missed}


# ---------------------------------------------------------------- predict
SEARCHED = {
    "share of general text": lambda shares: shares[:, 2],
    "clinical part of the medical text": lambda shares: shares[:, 1] / shares[:, :2].sum(1),
    "share of clinical text": lambda shares: shares[:, 1],
}


def search_grid(shares):
    """[points, 3] shares in steps of STEP that lie between the ratios tried in what is SEARCHED, to half a
    step; without those ratios, whose proxy would not be held out."""
    steps = round(1 / STEP)
    points = np.array([(steps - c - g, c, g) for g in range(1, steps) for c in range(1, steps - g)]) / steps
    inside = np.abs(points[:, None] - shares).max(2).min(1) >= STEP / 2
    for of in SEARCHED.values():
        inside &= (of(points) >= of(shares).min() - STEP / 2) & (of(points) <= of(shares).max() + STEP / 2)
    return points[inside]


def predict_best(study, laws, limit):
    """The point of the search grid with the least target loss among those whose general loss is within
    `limit` [1 + DRAWS] for sure; where none is, the one with the least general loss. "drawn" [draws with such
    a point, 3]: the best point of each draw; "edges": of what is SEARCHED, where it could lie beyond."""
    points = search_grid(study["shares"])
    predicted = {domain: predict(laws[domain], points) for domain in DOMAINS}  # [1 + DRAWS, points]
    target = sum(weight * predicted[domain] for domain, weight in zip(DOMAINS, study["weights"], strict=True))
    over = predicted["general"] - limit[:, None]
    # For sure: by as much as the upper end of the interval lies above the estimate. The same of each draw, or
    # their points would not be this one's interval
    allowed = over + np.quantile(over, 0.975, axis=0) - over[0] <= 0
    best = np.where(
        allowed.any(1), np.where(allowed, target, np.inf).argmin(1), predicted["general"].argmin(1)
    )
    drawn = points[best[1:][allowed[1:].any(1)]]
    at, tried = points[best[:1]], study["shares"]
    edges = [
        name
        for name, of in SEARCHED.items()
        if not of(tried).min() + 2 * STEP < of(at)[0] < of(tried).max() - 2 * STEP
    ]
    losses = {domain: predicted[domain][:, best[0]] for domain in DOMAINS}
    return {
        "shares": at[0],
        "losses": losses,
        "within_limit": bool(allowed[0].any()),
        "drawn": drawn,
        "edges": edges,
    }


# ---------------------------------------------------------------- report
def interval(values):
    """[estimate, low, high] of [1 + DRAWS] values."""
    return [float(values[0]), *map(float, np.quantile(values[1:], [0.025, 0.975]))]


def report(args, study, proxies, check_runs, losses, base_losses, laws, best, measured):
    """What study.json holds: every number of study.md, and the verdicts."""

    def entry(name, runs, own):
        over_base = interval(np.exp(own["general"] - base_losses["general"]))
        return {
            **described(name, runs),
            "loss": {d: interval(own[d]) for d in DOMAINS},
            "general_perplexity_ratio": over_base,
        }

    record = proxies[args.ratios[0]][0]["record"]
    return {
        "arguments": vars(args),
        **{
            key: record[key]
            for key in ("access", "agreements", "declassified", "machine", "commit", "versions")
            if key in record
        },
        "base": study["base"],
        "base_loss": {d: interval(base_losses[d]) for d in DOMAINS},
        "proxies": [
            entry(ratio, runs, {d: losses[d][:, place] for d in DOMAINS})
            for place, (ratio, runs) in enumerate(proxies.items())
        ],
        "check": entry("check", check_runs, measured),
        "laws": {
            d: {
                "law": laws[d]["law"],
                "c": laws[d]["c"][0],
                "k": laws[d]["k"][0],
                "exponents": laws[d]["exponents"][0].tolist(),
                "missed_left_out": {law: missed.tolist() for law, missed in laws[d]["missed"].items()},
            }
            for d in DOMAINS
        },
        "prediction": {
            "shares": best["shares"].tolist(),
            "within_limit": best["within_limit"],
            "draws_within_limit": len(best["drawn"]) / DRAWS,
            "interval": np.quantile(best["drawn"], [0.025, 0.975], axis=0).T.tolist()
            if len(best["drawn"])
            else None,
            "edges": best["edges"],
            "loss": {d: interval(best["losses"][d]) for d in DOMAINS},
            "general_perplexity_ratio": interval(np.exp(best["losses"]["general"] - base_losses["general"])),
        },
        "verdicts": verdicts(
            args, study["shares"][:, 2], losses["general"], base_losses["general"], best["losses"], measured
        ),
    }


def verdicts(args, general, losses, base, predicted, measured):
    """The three questions and what the intervals say. general [proxies]: shares of general text; losses [1 +
    DRAWS, proxies] and base on general text; predicted and measured: {domain: [1 + DRAWS]} of the check."""
    least, most = (losses[:, np.isclose(general, end)].mean(1) for end in (general.min(), general.max()))
    more = interval(least - most)
    pairs = [
        (a, b) for a, b in itertools.permutations(range(len(general)), 2) if general[b] - general[a] > 1e-9
    ]
    missed = {domain: interval(measured[domain] - predicted[domain]) for domain in DOMAINS}
    allowed = args.max_prediction_error
    held = all(-allowed <= low and high <= allowed for _, low, high in missed.values())
    failed = any(low > allowed or high < -allowed for _, low, high in missed.values())
    kept = interval(np.exp(measured["general"] - base))
    limit = args.max_general_perplexity_ratio
    return {
        "forgetting": {
            "verdict": "shown" if more[1] > 0 else "reversed" if more[2] < 0 else "not shown",
            "nats": more,
            "pairs": len(pairs),
            "pairs_in_order": int(sum(losses[0, a] > losses[0, b] for a, b in pairs)),
        },
        "prediction": {"verdict": "held" if held else "missed" if failed else "not settled", "nats": missed},
        "limit": {
            "verdict": "kept" if kept[2] <= limit else "not kept" if kept[1] > limit else "too close to call",
            "general_perplexity_ratio": kept,
        },
    }


def described(ratio, runs):
    """What the runs of a ratio were: shares as trained, passes, steps, tokens, time, and how far its seeds
    lie apart."""
    domains = runs[0]["blocks"]["domains"]
    means = {
        d: [sum(run["validation"][d]["nll"]) / sum(run["validation"][d]["tokens"]) for run in runs]
        for d in DOMAINS
    }
    return {
        "ratio": ratio,
        "shares": [domains[d]["share"] for d in DOMAINS],
        "passes": [domains[d]["passes"] for d in DOMAINS],
        "steps": runs[0]["record"]["steps"],
        "tokens_seen": runs[0]["record"]["tokens_seen"],
        "seconds": sum(run["record"]["seconds"] for run in runs),
        "apart_over_seeds": {d: max(values) - min(values) for d, values in means.items()},
    }


def markdown(args, found):
    """study.md."""

    def plus(values):
        return f"{values[0]:.3f} ({values[1]:.3f} to {values[2]:.3f})"

    def row(name, entry):
        shares, passes = (
            " : ".join(f"{100 * x:.1f}" for x in entry["shares"]),
            " : ".join(f"{x:.2f}" for x in entry["passes"]),
        )
        losses = " | ".join(plus(entry["loss"][d]) for d in DOMAINS)
        ratio = plus(entry["general_perplexity_ratio"])
        return f"| {name} | {shares} | {passes} | {entry['steps']} | {losses} | {ratio} |"

    forgetting, prediction, limit = found["verdicts"].values()
    best, general = found["prediction"], [entry["shares"][2] for entry in found["proxies"]]
    within = f"general perplexity within {args.max_general_perplexity_ratio:g} times the base's"
    lines = [
        "# Mixture study",
        "",
        f"{len(found['proxies'])} ratios from `{found['base']}`, {args.tokens:,} tokens each, seed "
        f"{', '.join(map(str, args.seeds))}, on {found['machine']}. Access of the data: "
        f"{found['access']}. Losses are nats per token of held-out blocks, the same blocks for all. In "
        f"brackets 95 % intervals of a paired bootstrap over blocks; "
        f"they do not hold what another seed of the training would change. "
        f"{can_show([forgetting['nats'][1:]], 'difference of two losses')}",
        "",
        f"- **Less general text forgets more: {forgetting['verdict']}.** General loss with "
        f"{min(general):.1%} of general text less that with {max(general):.1%}: "
        f"{plus(forgetting['nats'])} nats. {forgetting['pairs_in_order']} of {forgetting['pairs']} pairs "
        f"of proxies stand in that order.",
        f"- **Predicted best: {' : '.join(f'{100 * share:.1f}' for share in best['shares'])} %.** "
        + (
            f"The least loss weighted {args.target} with {within}."
            if best["within_limit"]
            else f"Nothing tried keeps {within}; this comes nearest."
        )
        + (
            ""
            if best["interval"] is None
            else " Over the draws {:.1%} to {:.1%} of general and {:.1%} to {:.1%} of clinical text.".format(
                *best["interval"][2], *best["interval"][1]
            )
        )
        + "".join(
            f" It lies at the edge of the {name} that was tried: what is beyond is not known."
            for name in best["edges"]
        ),
        f"- **The prediction at these shares, of a proxy that no fit has seen: {prediction['verdict']}** "
        f"(allowed beforehand: {args.max_prediction_error:g} nats). "
        f"Measured less predicted: "
        f"{', '.join(f'{domain} {plus(values)}' for domain, values in prediction['nats'].items())}.",
        f"- **The forgetting limit in that proxy: {limit['verdict']}.** General perplexity "
        f"{plus(limit['general_perplexity_ratio'])} times the base's, "
        f"{best['general_perplexity_ratio'][0]:.3f} predicted, limit {args.max_general_perplexity_ratio:g}.",
        "",
        "| biomedical:clinical:general | shares, % | passes over the text | steps | biomedical loss | "
        "clinical loss | general loss | general perplexity over the base's |",
        "|---|---|---|---|---|---|---|---|",
        f"| the base | | | | {' | '.join(plus(found['base_loss'][d]) for d in DOMAINS)} | 1 |",
        *(row(entry["ratio"], entry) for entry in found["proxies"]),
        row("the check", found["check"]),
        "",
        "| domain | law in use | missed when proxies are left out in turn (root mean square, nats) |",
        "|---|---|---|",
        *(
            f"| {domain} | {law['law']} | "
            + ", ".join(
                f"{name} {math.sqrt(np.square(missed).mean()):.3f}"
                for name, missed in law["missed_left_out"].items()
            )
            + " |"
            for domain, law in found["laws"].items()
        ),
        "",
        confounders(args, found),
        "",
        "![losses against the share of general text, and the trade-off](study.png)",
        "",
    ]
    return "\n".join(lines)


def confounders(args, found):
    """What else than the ratio differs between the proxies."""
    everyone = [*found["proxies"], found["check"]]
    passes = {
        domain: [entry["passes"][number] for entry in everyone] for number, domain in enumerate(DOMAINS)
    }
    repeated = [
        f"{domain} text is passed {min(p):.2f} to {max(p):.2f} times"
        for domain, p in passes.items()
        if max(p) > 1
    ]
    steps = [entry["steps"] for entry in everyone]
    text = "no text is repeated in any proxy"
    if repeated:
        text = f"{', '.join(repeated)}, so the effect of a share is mixed with that of repeated text"
    chance = "One seed: how much another would move a loss is not known."
    if len(args.seeds) > 1:
        apart = max(max(entry["apart_over_seeds"].values()) for entry in everyone)
        chance = f"Seeds of one ratio lie up to {apart:.3f} nats apart."
    counts = f"{min(steps)} to {max(steps)}"
    blocks = f"the same tokens make {counts} steps, because blocks of short documents are less full"
    return f"What differs beside the ratio: {text}; {blocks}. {chance}"


# ---------------------------------------------------------------- draw
COLOURS = {"biomedical": "#3b82c4", "clinical": "#d9822b", "general": "#3fa372"}
INK, LIMIT = "#1c1e21", "#c0504d"


def draw(args, study, laws, losses, base_losses, best, measured):
    """Against the share of general text: what is forgotten, and what is learned of medicine; then the one
    against the other."""
    from matplotlib.figure import Figure

    shares, check, base = study["shares"], best["shares"], base_losses["general"]
    part, check_part = (
        shares[:, 1] / shares[:, :2].sum(1),
        check[1] / check[:2].sum(),
    )  # clinical part of the medical text
    usual = max(part, key=lambda value: np.isclose(part, value).sum())
    kinds = ((np.isclose(part, usual), True), (~np.isclose(part, usual), False))  # filled and hollow circles
    general = np.geomspace(shares[:, 2].min(), shares[:, 2].max(), 200)
    lines = {
        value: np.stack([(1 - general) * (1 - value), (1 - general) * value, general], 1)
        for value in (usual, check_part)
    }
    curves = {
        value: {d: predict(laws[d], line) for d in DOMAINS} for value, line in lines.items()
    }  # [1 + DRAWS, 200]

    def forgotten(loss):
        return np.exp(loss - base.reshape(-1, *[1] * (loss.ndim - 1)))

    def learned(loss):
        return sum(weight * loss[domain] for domain, weight in zip(DOMAINS, study["weights"], strict=True))

    def curve(axes, x, values, colour, label):
        axes.plot(x, values[0], color=colour, linewidth=1.5, label=label)
        axes.fill_between(
            x, *np.quantile(values[1:], [0.025, 0.975], axis=0), color=colour, alpha=0.15, linewidth=0
        )

    def points(axes, x, y, colour):
        for which, filled in kinds:
            axes.plot(
                x[which],
                y[which],
                "o",
                color=colour,
                markerfacecolor=colour if filled else "white",
                markersize=6,
            )

    def check_marks(axes, x, predicted, found, labels=(None, None)):
        axes.plot(
            x[0], predicted, "D", color=INK, markerfacecolor="none", markersize=10, label=labels[0], zorder=4
        )
        axes.plot(x[1], found, "*", color=INK, markersize=9, label=labels[1], zorder=5)

    figure = Figure(figsize=(14, 4.9), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    percent = 100 * general
    curve(
        left,
        percent,
        forgotten(curves[usual]["general"]),
        COLOURS["general"],
        f"general: {laws['general']['law']} law",
    )
    points(left, 100 * shares[:, 2], forgotten(losses["general"])[0], COLOURS["general"])
    check_marks(
        left, [100 * check[2]] * 2, forgotten(best["losses"]["general"])[0], forgotten(measured["general"])[0]
    )
    for domain in ("biomedical", "clinical"):
        curve(middle, percent, curves[usual][domain], COLOURS[domain], f"{domain}: {laws[domain]['law']} law")
        middle.plot(percent, curves[check_part][domain][0], color=COLOURS[domain], linewidth=1, linestyle=":")
        points(middle, 100 * shares[:, 2], losses[domain][0], COLOURS[domain])
        check_marks(middle, [100 * check[2]] * 2, best["losses"][domain][0], measured[domain][0])
    medical, over_base = learned(losses)[0], forgotten(losses["general"])[0]
    right.plot(
        learned(curves[usual])[0],
        forgotten(curves[usual]["general"])[0],
        color="#7a7f87",
        linewidth=1.2,
        label="laws, at filled circles' proportion",
    )
    points(right, medical, over_base, COLOURS["general"])
    for which, filled in kinds:
        for number in np.flatnonzero(which):
            place = {"xytext": (6, 5)} if filled else {"xytext": (-6, -12), "ha": "right"}
            right.annotate(
                args.ratios[number],
                (medical[number], over_base[number]),
                textcoords="offset points",
                fontsize=7.5,
                **place,
            )
    check_marks(
        right,
        [learned(best["losses"])[0], learned(measured)[0]],
        forgotten(best["losses"]["general"])[0],
        forgotten(measured["general"])[0],
        ("predicted best", "check, trained at it"),
    )

    ticks = [
        tick
        for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
        if 0.9 * percent[0] <= tick <= 1.1 * percent[-1]
    ]
    for axes in (left, middle):
        axes.set(xscale="log", xlabel="general text in the mixture (%)")
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
    for axes in (left, right):
        axes.axhline(
            args.max_general_perplexity_ratio,
            color=LIMIT,
            linewidth=1,
            linestyle="--",
            label=f"forgetting limit, {args.max_general_perplexity_ratio:g}",
        )
        axes.axhline(1, color="#7a7f87", linewidth=0.8)
        axes.set(yscale="log", ylabel="general perplexity over the base's")
        axes.yaxis.set_major_formatter("{x:.3g}")
        axes.yaxis.set_minor_formatter("{x:.3g}")
        axes.tick_params(axis="y", which="minor", labelsize=8)
    left.set_title("What is forgotten")
    middle.set(title="What is learned", ylabel="held-out loss (nats per token)")
    right.set(title="The trade-off", xlabel=f"loss weighted {args.target} (nats per token)")
    right.margins(x=0.12)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.15)
        axes.legend(frameon=False, fontsize=8)
    figure.supxlabel(
        f"Filled circles: clinical text is {usual:.1%} of the medical; hollow: another part; "
        f"dotted: the check's, {check_part:.1%}. "
        "Bands: 95 %, held-out blocks drawn anew. Labels: biomedical:clinical:general.",
        fontsize=8.5,
    )
    return figure


def make_parser():
    return TrlParser(StudyArguments, allow_abbrev=False)


if __name__ == "__main__":
    try:
        main(*make_parser().parse_args_and_config())
    except (Refused, ValueError, OSError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
