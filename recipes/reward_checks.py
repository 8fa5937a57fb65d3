"""What recipes/grpo.py is refused for before its first step, beside checks.py and alignment_checks.py."""

import contextlib
import importlib.metadata
import logging
from pathlib import Path

import rewards
from alignment_checks import check_chat_model, refuse_without_effect
from checks import Refused, uploads_of
from egress import shown

VLLM = "vLLM 0.22 to 0.31"  # what TRL 1.16 takes; they want transformers below 5.18
ROWS = 200  # rows whose rewards are tried before step 1


def check_grpo(run, training, named):
    """Settings and model of recipes/grpo.py."""
    refuse_without_effect(run, training, {})
    if training.use_vllm:
        refuse_vllm()
    if training.log_completions:
        raise Refused(
            "log_completions: True prints completions and sends them to trackers. "
            "Next: leave it out; OUTPUT_DIR/completions/ has every one"
        )
    if uploads_of(vars(run)) and not run.allow_upload:
        raise Refused(
            f"judge_url: {run.judge_url} is another machine, which would read every answer. "
            "Next: a judge on this machine, or allow_upload true"
        )
    known = rewards.NAMES + tuple(vars(load_rewards(run)) if run.reward_file else ())
    if unknown := [name for name in run.rewards if name not in known]:
        raise Refused(
            f"rewards: no {unknown[0]}. "
            f"Next: some of {', '.join(rewards.NAMES)}, or a function of reward_file"
        )
    if "judge" in run.rewards and not (run.judge_url and run.judge_model):
        raise Refused("rewards: judge needs judge_url and judge_model. Next: name a server of yours")
    size, group = training.generation_batch_size, training.num_generations
    if size % group:
        raise Refused(
            f"a step of {size} completions is not a multiple of num_generations {group}. "
            f"Next: global_batch_size {size // group * group}"
        )
    check_chat_model(named, training, None, run.conversation)
    # TRL would print the whole row, text and all
    logging.getLogger("trl.trainer.grpo_trainer").addFilter(
        lambda record: "All reward functions returned None" not in record.getMessage()
    )
    reused = training.steps_per_generation * training.num_iterations
    if reused > training.gradient_accumulation_steps and training.process_index == 0:
        steps = reused // training.gradient_accumulation_steps
        print(
            f"completions serve {steps} steps: only save_steps that {steps} divides resume to the same run",
            flush=True,
        )


def load_rewards(run):
    if not Path(run.reward_file).is_file():
        raise Refused(f"reward_file: {run.reward_file}: no such file. Next: check the path")
    try:
        return rewards.load(run.reward_file)
    except Exception as error:  # whatever the file does when it is read
        raise Refused(
            f"reward_file: {run.reward_file} cannot be loaded ({type(error).__name__}: {error}). "
            "Next: run it alone"
        ) from error


def refuse_vllm():
    """vLLM does not fit the pinned transformers: say the versions, before anything imports it."""
    found = {}
    for name in ("vllm", "trl", "transformers"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    fits = "vllm" in found and tuple(map(int, found["transformers"].split(".")[:2])) < (5, 18)
    if not fits:
        here = f"transformers {found['transformers']}, vllm {found.get('vllm', 'not installed')}"
        raise Refused(
            f"use_vllm: TRL {found['trl']} takes {VLLM}, which wants transformers below 5.18; here: {here}. "
            "Next: a second environment (pip install -r requirements-vllm.txt), or use_vllm false"
        )


def check_rewards(trainer):
    """Refused unless, on up to ROWS training rows, the right answer earns 1 from `answer`, every other choice
    0, and so do texts made to deceive: all labels in a line or on lines, two answers, a denied answer, the
    prompt, unclosed thinking, brackets."""
    by_name = {f.__name__: f.per_row for f in trainer.reward_funcs if hasattr(f, "per_row")}
    rows = [trainer.train_dataset[i] for i in range(min(ROWS, len(trainer.train_dataset)))]
    if not rows:
        raise Refused("no row to train on. Next: python -m data_prep.build_tasks --help")
    if "answer" in by_name:
        for row in rows:
            if row["scoring"] not in rewards.VERIFIABLE or not row["answer"].strip():
                raise Refused(
                    f"row {row['id']}: scoring '{row['scoring']}' has no answer that can be verified. "
                    f"Next: rows of scoring {', '.join(rewards.VERIFIABLE)}, or rewards: [judge]"
                )
        for number, row in enumerate(rows):
            for text, earned in trials(row, first=number == 0):
                found = by_name["answer"](text, row)
                if found != earned:
                    deceit = f"a text of {len(text)} characters made to deceive"
                    what = "the right answer" if earned else deceit
                    raise Refused(
                        f"row {row['id']}: {what} earns {found}, not {earned}. "
                        "Next: look at the choices and the answer of that row"
                    )
    for name, function in by_name.items():
        try:
            earned = function(rows[0]["answer"], rows[0])
        except Exception as error:  # a reward of the user
            raise Refused(
                f"the reward '{name}' raises {type(error).__name__} on row {rows[0]['id']}: {shown(error)}. "
                "Next: let it return None where it cannot be computed"
            ) from error
        if earned is None and getattr(function, "failure", None):
            raise Refused(
                f"the judge cannot be asked ({function.failure}). Next: start it, or check judge_url"
            )


def trials(row, first):
    """(text, what `answer` must give for it) of a row."""
    gold, choices = row["answer"], row["choices"] or []
    yield gold, 1.0
    deceits = ["", " ", f"<think>The answer is {gold}.", row["asked"]]
    deceits += ["[" * 100_000, "([{" * 33_000 + ")]}" * 33_000] if first else []
    if row["scoring"] == "choice":
        others = [choice for choice in choices if choice != gold]
        deceits += [*others, *(mark.join(choices) for mark in (" ", ", ", "\n", ".\n"))]
        said = [f"The answer is {choice}." for choice in (gold, *others[:1])]
        deceits += [mark.join(said) for mark in (" ", "\n") if others]
        deceits += [f"The answer is not {gold}."]
    elif row["scoring"] == "number":
        other = "987654.5" if row.get("limits") else "01/01/1801"
        deceits += [f"The answer is not {gold}.", f"{gold} or {other}", f"It is {other} or {gold}."]
    elif row["scoring"] == "labels":
        deceits += ["; ".join(choices)] if rewards.right(row) != frozenset(choices) else []
        deceits += [choice for choice in choices if frozenset([choice]) != rewards.right(row)]
    for text in deceits:
        yield text, 0.0
