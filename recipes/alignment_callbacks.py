"""What is watched while recipes/dpo.py and recipes/grpo.py train, beside callbacks.py: one concern each. They
observe, record and refuse; none of them changes what is trained.

StartsAtReference   DPO: before step 1 policy and reference agree, so that the loss is what it must be
ReferenceKL         DPO: KL to the reference on held-out pairs, at each evaluation

A recipe that does not want one deletes its line.
"""

import contextlib
from math import log

import torch
from checks import Refused
from transformers import TrainerCallback


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
