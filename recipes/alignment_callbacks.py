"""What is watched while recipes/dpo.py and recipes/grpo.py train, beside callbacks.py: one concern each. They
observe, record and refuse; none of them changes what is trained.

StartsAtReference   DPO: before step 1 policy and reference agree, so that the loss is what it must be
ReferenceKL         DPO: KL to the reference on held-out pairs, at each evaluation
Completions         GRPO: every completion with what it earned, in a file; rewards of None, counted
GroupVariance       GRPO: groups whose completions all earn the same train nothing: warn, then stop
SamplerGap          GRPO: log-probabilities of the sampler against those that are trained
SecondMeasure       GRPO: a measure that no reward saw; a reward that rises while it falls ends the run

A recipe that does not want one deletes its line.
"""

import contextlib
import copy
import json
from math import log
from pathlib import Path

import torch
from checks import Refused
from transformers import TrainerCallback
from trl.models import unwrap_model_for_generation


class StartsAtReference(TrainerCallback):
    """Before step 1, Refused unless policy and reference give the first batch the same log-probabilities: the
    rewards of both answers within `tolerance` of 0, and the sigmoid loss of ln 2 (Rafailov et al. 2023).

    What breaks it: another dtype or attention of the reference, dropout, a reference of other weights."""

    def __init__(self, trainer, tolerance: float = 1e-3):
        self.trainer, self.tolerance = trainer, tolerance

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step:
            return
        trainer, metrics = self.trainer, self.trainer._metrics["eval"]
        batch = [trainer.train_dataset[i] for i in range(min(8, len(trainer.train_dataset)))]
        with eval_mode(model):
            loss, *_ = trainer.prediction_step(trainer.model_wrapped, trainer.data_collator(batch), True)
        rewards = [metrics[f"rewards/{answer}"][-1] for answer in ("chosen", "rejected")]
        metrics.clear()  # they are not those of an evaluation
        off = max(map(abs, rewards))
        stock = (args.loss_type, args.loss_weights, args.use_weighting) == (["sigmoid"], None, False)
        if stock and not args.label_smoothing:
            off = max(off, abs(loss.item() - log(2)))
        if not off <= self.tolerance:
            raise Refused(
                f"before step 1 policy and reference differ by {off:.2g} in the first batch (loss "
                f"{loss.item():.6f}, ln 2 is 0.693147). Next: one dtype and attn_implementation for both, "
                "and disable_dropout true"
            )


class ReferenceKL(TrainerCallback):
    """Adds `eval_kl` to the log of each evaluation: KL(policy || reference) in nats per token over the whole
    vocabulary, mean over the tokens of the chosen answers of up to `rows` held-out pairs. Absent where the
    reference is neither a model nor a switched-off adapter (precompute_ref_log_probs with full weights)."""

    def __init__(self, trainer, rows: int = 16):
        self.trainer, self.rows = trainer, rows

    def on_log(self, args, state, control, logs=None, model=None, **kwargs):
        trainer, held_out = self.trainer, self.trainer.eval_dataset
        adapter = hasattr(model, "disable_adapter")
        if "eval_loss" not in (logs or {}) or not (adapter or trainer.ref_model):
            return
        total, tokens = 0.0, 0
        with eval_mode(model), torch.no_grad(), trainer.accelerator.autocast():
            for i in range(min(self.rows, len(held_out))):
                pair = held_out[i]
                ids = torch.tensor([(pair["prompt_ids"] + pair["chosen_ids"])[: args.max_length]]).to(
                    args.device
                )
                start = len(pair["prompt_ids"]) - 1
                policy = trainer.model_wrapped(input_ids=ids).logits[0, start:-1].float().log_softmax(-1)
                with model.disable_adapter() if adapter else contextlib.nullcontext():
                    reference = trainer.model_wrapped if adapter else trainer.ref_model
                    logits = reference(input_ids=ids).logits[0, start:-1].float().log_softmax(-1)
                total += (policy.exp() * (policy - logits)).sum().item()
                tokens += len(policy)
        add_to_log(state, logs, {"eval_kl": total / max(1, tokens)})


class Completions(TrainerCallback):
    """OUTPUT_DIR/completions/rank*.jsonl: {"step", "split", "id", "completion", "tokens", "rewards": {name:
    value or null}} of every completion, as they were sampled. The file is its owner's alone.

    Adds rewards/NAME/missing to the log: rewards of a generation that could not be computed (None), on this
    rank. A reward that raises ends the run in one sentence that names the row."""

    def __init__(self, trainer):
        self.trainer, self.earned = trainer, {}
        self.names = [function.__name__ for function in trainer.reward_funcs]
        trainer.reward_funcs = [self.watched(function) for function in trainer.reward_funcs]

    def on_train_begin(self, args, state, control, **kwargs):
        self.file = Path(args.output_dir, "completions", f"rank{args.process_index}.jsonl")
        self.file.parent.mkdir(parents=True, exist_ok=True)
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.is_file() else []
        kept = [line for line in lines if json.loads(line)["step"] <= state.global_step]
        self.file.touch(mode=0o600)
        self.file.write_text("".join(f"{line}\n" for line in kept if state.global_step), encoding="utf-8")

    def watched(self, function):
        def reward(completions, completion_ids, log_metric, trainer_state, **columns):
            ids, name = columns["id"], function.__name__
            given = {"completions": completions, "completion_ids": completion_ids, "log_metric": log_metric}
            try:
                values = function(**given, trainer_state=trainer_state, **columns)
            except Exception as error:  # whatever a reward of the user does
                raise Refused(
                    f"the reward '{name}' raised {type(error).__name__} on one of the rows "
                    f"{', '.join(ids[:3])} ... Next: correct it, then the same command resumes"
                ) from error
            log_metric(f"rewards/{name}/missing", sum(value is None for value in values))
            self.earned[name] = values
            if name == self.names[-1] and hasattr(self, "file"):
                self.write(trainer_state.global_step + 1, ids, completions, completion_ids)
            return values

        reward.__name__ = function.__name__
        return reward

    def write(self, step, ids, completions, completion_ids):
        split = "train" if self.trainer.model.training else "validation"
        with self.file.open("a", encoding="utf-8") as file:
            for i, completion in enumerate(completions):
                text = completion if isinstance(completion, str) else completion[-1]["content"]
                line = {"step": step, "split": split, "id": ids[i], "completion": text}
                line |= {"tokens": len(completion_ids[i])}
                line |= {"rewards": {name: values[i] for name, values in self.earned.items()}}
                file.write(json.dumps(line) + "\n")


class GroupVariance(TrainerCallback):
    """Where all completions of a group earn the same, their advantages are 0 and nothing is trained. Warns
    above half of the groups, and at completions cut at max_completion_length above half; Refused after
    `steps` steps in which no group differed."""

    def __init__(self, steps: int):
        self.steps, self.warned = steps, set()

    def on_log(self, args, state, control, logs=None, **kwargs):
        share, cut = (logs or {}).get("frac_reward_zero_std"), (logs or {}).get("completions/clipped_ratio")
        if share is None:
            return
        if share > 0.5:
            self.warn(
                state, "groups", f"{100 * share:.0f} % of the groups have no variance and train nothing"
            )
        if (cut or 0) > 0.5:
            self.warn(state, "cut", f"{100 * cut:.0f} % of the completions are cut at max_completion_length")
        history = [
            (e["step"], e["frac_reward_zero_std"]) for e in state.log_history if "frac_reward_zero_std" in e
        ]
        last = max((step for step, share in history if share < 1), default=0)
        still = state.global_step - last
        if still >= self.steps:
            raise Refused(
                f"no group had any variance in the last {still} steps, so nothing was trained. "
                "Next: rows that the model sometimes answers, or a higher temperature; see completions/"
            )

    def warn(self, state, kind, what):
        if state.is_world_process_zero and kind not in self.warned:
            print(f"warning: step {state.global_step}: {what}", flush=True)
        self.warned.add(kind)


class SamplerGap(TrainerCallback):
    """Adds sampling/logp_gap to the log every `every` steps: mean |difference| in nats between the log-
    probability of a sampled token as generation gave it and as the training forward pass gives it, on
    completions of the first 2 rows. Warns above 1e-3 (float32) or 0.02 (16-bit); before step 1, Refused
    above five times that. TRL logs it with vLLM only, and then this is silent; of continuous batching it is
    not measured. The random state is put back, so that it changes no sample."""

    def __init__(self, trainer, every: int, rows: int = 2):
        self.trainer, self.every, self.rows, self.found = trainer, every, rows, {}

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        other = args.use_vllm or args.use_transformers_continuous_batching
        if other or not self.every or state.global_step % self.every:
            return
        gap = self.measure(args)
        limit = 1e-3 if next(model.parameters()).dtype == torch.float32 and not args.bf16 else 0.02
        if gap > 5 * limit and not state.global_step:
            raise Refused(
                f"before step 1 sampler and trainer differ by {gap:.2g} nats a token, not {limit:g}. "
                "Next: lora_dropout 0, another attn_implementation, or dtype float32"
            )
        if gap > limit and state.is_world_process_zero:
            print(f"warning: step {state.global_step}: sampler and trainer differ by {gap:.2g} nats a token")
        self.found = {"sampling/logp_gap": gap}

    def measure(self, args):
        trainer, tokenizer = self.trainer, self.trainer.processing_class
        prompts = [
            trainer.train_dataset[i]["prompt"] for i in range(min(self.rows, len(trainer.train_dataset)))
        ]
        if not isinstance(prompts[0], str):
            render = tokenizer.apply_chat_template
            prompts = [render(prompt, add_generation_prompt=True, tokenize=False) for prompt in prompts]
        special = isinstance(trainer.train_dataset[0]["prompt"], str)
        devices = [args.device] if args.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.no_grad(), trainer.accelerator.autocast():
            given = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=special)
            given = {key: given[key].to(args.device) for key in ("input_ids", "attention_mask")}
            with unwrap_model_for_generation(
                trainer.model_wrapped, trainer.accelerator, generation_kwargs=trainer.generation_kwargs
            ) as model:
                config = copy.copy(trainer.generation_config)
                config.return_dict_in_generate = config.output_logits = True
                made = model.generate(**given, generation_config=config)
            start = given["input_ids"].shape[1]
            sampled = made.sequences[:, start:]
            real = sampled != tokenizer.pad_token_id
            mask = torch.cat([given["attention_mask"], real.long()], 1)
            logits = trainer.model_wrapped(input_ids=made.sequences, attention_mask=mask).logits
            pairs = [torch.stack(made.logits, 1).float(), logits[:, start - 1 : -1].float()]
            one, other = (part.log_softmax(-1).gather(-1, sampled[..., None])[..., 0] for part in pairs)
        return (one - other).abs()[real].mean().item()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in (logs or {}) and self.found:
            add_to_log(state, logs, self.found)
            self.found = {}


class SecondMeasure(TrainerCallback):
    """Adds heldout/ll_accuracy to the log every `every` steps: on up to `rows` validation rows, how often the
    right answer is the likeliest (summed log-probability of an option's text after the question; of a
    label after the prompt where a row has no options). No reward reads it. Refused if the reward rises while
    it falls by more than two standard errors: the policy has learned the reward and not the answers."""

    KEY = "heldout/ll_accuracy"

    def __init__(self, trainer, every: int, rows: int = 200):
        self.trainer, self.every, self.found = trainer, every, {}
        choosable = (row for row in trainer.eval_dataset if row["scoring"] == "choice")
        self.rows = [row for row, _ in zip(choosable, range(rows), strict=False)]

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if self.every and self.rows and not state.global_step % self.every:
            with eval_mode(model), torch.no_grad(), self.trainer.accelerator.autocast():
                right = sum(self.is_right(row, args.device) for row in self.rows)
            self.found = {self.KEY: right / len(self.rows)}

    def is_right(self, row, device):
        answers = row["options"] or row["choices"]
        question = f"Question: {row['question'].strip()} Answer:\n" if row["options"] else row["asked"]
        scores = [self.log_likelihood(question, answer, row, device) for answer in answers]
        return row["choices"][scores.index(max(scores))] == row["answer"]

    def log_likelihood(self, question, answer, row, device):
        """Nats of `answer` and of its end after `question`."""
        tokenizer = self.trainer.processing_class
        if isinstance(row["prompt"], str):
            prompt, whole = (tokenizer(text)["input_ids"] for text in (question, question + answer))
        else:
            talk = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            render = tokenizer.apply_chat_template
            prompt, whole = (render(part, return_dict=True)["input_ids"] for part in (talk[:1], talk))
        start = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(prompt))
        ids = torch.tensor([whole], device=device)
        logits = self.trainer.model_wrapped(input_ids=ids).logits[0, start - 1 : -1].float()
        return logits.log_softmax(-1).gather(-1, ids[0, start:, None]).sum().item()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" not in (logs or {}) or not self.found:
            return
        add_to_log(state, logs, self.found)
        self.found = {}
        seen = [entry[self.KEY] for entry in state.log_history if self.KEY in entry]
        earned = [e["reward"] for e in state.log_history if "loss" in e and e.get("reward") is not None]
        few = max(1, min(5, len(earned) // 2))
        before, now = sum(earned[:few]) / few, sum(earned[-few:]) / few
        error = (2 * seen[0] * (1 - seen[0]) / len(self.rows)) ** 0.5
        if len(seen) > 1 and now > before and seen[-1] < seen[0] - 2 * error:
            raise Refused(
                f"the reward rose from {before:.3g} to {now:.3g}, {self.KEY} fell from {seen[0]:.3g} to "
                f"{seen[-1]:.3g}: the policy learns the reward and not the answers. "
                "Next: look at completions/, a higher beta, or an earlier checkpoint"
            )


# ---------------------------------------------------------------- what they share
@contextlib.contextmanager
def eval_mode(model):
    """`model` without dropout, and as it was afterwards."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def add_to_log(state, logs, added):
    """Into this log line, and into trainer_state.json."""
    logs.update(added)
    state.log_history[-1].update(added)
