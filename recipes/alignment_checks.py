"""What recipes/dpo.py and recipes/grpo.py are refused for before their first step, beside checks.py.

Each raises Refused: one sentence that says what is wrong, and after "Next:" what to change.
"""

import statistics

from checks import Refused, check_model, stop_tokens

SAMPLE = 1000  # pairs whose texts are checked


# ---------------------------------------------------------------- both stages
def check_chat_model(named, training, length, conversation):
    """check_model, and a chat template where conversations are trained on."""
    changes = training.model_init_kwargs
    _, tokenizer = check_model(named.model_name_or_path, length, named.model_revision, changes)
    if conversation and not tokenizer.chat_template:
        raise Refused(
            f"the tokenizer of {named.model_name_or_path} has no chat template. Next: start from a chat "
            "model (recipes/sft.py makes one), or conversation false"
        )
    return tokenizer


def refuse_without_effect(run, training, reasons):
    """Refuse settings that the parsers take and this stage does not honor. reasons: {key: why}"""
    reasons = reasons | {
        "max_loss_jump": "has no effect here: TRL computes this loss outside the model, so that no guard can "
        "read it before its step. A gradient that is not finite still ends the run. Next: leave it out"
    }
    for part in (run, training):
        default = {field.name: field.default for field in part.__dataclass_fields__.values()}
        for key, why in reasons.items():
            if key in default and getattr(part, key) not in (default[key], None, False):
                raise Refused(f"{key}: {getattr(part, key)} {why}")


# ---------------------------------------------------------------- DPO
def check_dpo(run, training, named):
    """Settings and model of recipes/dpo.py."""
    why = "has no effect: TRL 1.16 pads all the same. Next: leave it out"
    refuse_without_effect(run, training, {"padding_free": why})
    check_chat_model(named, training, training.max_length, run.conversation)


def check_pair(pair, path, number):
    """Refuse a pair of which a text is missing, or whose answers are the same."""
    if not all(isinstance(text, str) for text in pair.values()):
        raise TypeError
    again = "Next: build the pairs with python -m data_prep.build_preferences, which drops and counts them"
    if empty := [key for key, text in pair.items() if not text.strip()]:
        raise Refused(f"{path}: line {number} has an empty text in '{empty[0]}'. {again}")
    if pair["chosen"].strip() == pair["rejected"].strip():
        raise Refused(f"{path}: line {number} has the same answer as chosen and as rejected. {again}")


def check_pairs(trainer, given):
    """Look at pairs as the trainer tokenized them. Refused if an answer that was not cut does not end in EOS,
    or if the end of a prompt merges with its answers, so that it would be trained without it.

    Returns {"given", "kept", "cut" (an answer passes max_length), "chosen_tokens", "rejected_tokens"
    (medians), "chosen_longer" (share)} for run.json."""
    pairs, tokenizer = trainer.train_dataset, trainer.processing_class
    if not len(pairs):
        raise Refused("no pair is left: every prompt alone fills max_length. Next: a larger max_length")
    stops = stop_tokens(tokenizer, trainer.model.generation_config)
    longest = trainer.args.max_length or float("inf")
    for number, pair in enumerate(pairs.select(range(min(SAMPLE, len(pairs)))), 1):
        for key in ("chosen", "rejected"):
            cut = len(pair["prompt_ids"]) + len(pair[f"{key}_ids"]) > longest
            if not cut and not stops & set(pair[f"{key}_ids"][-3:]):  # a template may end in a newline
                raise Refused(
                    f"pair {number}: its {key} answer does not end in EOS, so nothing would teach the model "
                    "to stop. Next: eos_token at the end of the answers in the chat template"
                )
        if len(prompt_tokens(tokenizer, pair["prompt"])) > len(pair["prompt_ids"]):
            raise Refused(
                f"pair {number}: the end of its prompt is tokenized otherwise once an answer follows, and "
                "would be left out. Next: prompts that end in a newline, or a clear end of turn"
            )
    sizes = [tuple(len(pair[f"{k}_ids"]) for k in ("prompt", "chosen", "rejected")) for pair in pairs]
    _, chosen, rejected = zip(*sizes, strict=True)
    facts = {
        "given": given,
        "kept": len(pairs),
        "cut": sum(prompt + max(a, b) > longest for prompt, a, b in sizes),
        "chosen_tokens": statistics.median(chosen),
        "rejected_tokens": statistics.median(rejected),
        "chosen_longer": round(sum(a > b for a, b in zip(chosen, rejected, strict=True)) / len(pairs), 3),
    }
    if trainer.is_world_process_zero():
        print(f"pairs: {', '.join(f'{key} {value}' for key, value in facts.items())}", flush=True)
    return facts


def prompt_tokens(tokenizer, prompt):
    """Ids of a prompt as it is at inference, a text or a conversation."""
    if isinstance(prompt, str):
        return tokenizer(prompt)["input_ids"]
    return tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
