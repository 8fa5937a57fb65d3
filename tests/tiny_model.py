"""Invented task rows and tiny models with random weights, for the tests of the evaluation."""

import json
from pathlib import Path

from data_prep.schema import check_row

REPO = Path(__file__).resolve().parent.parent
SPECIAL = [
    "<s>",
    "</s>",
    "<|begin_of_text|>",
    "<|eot_id|>",
    "<|im_start|>",
    "<|im_end|>",
    "<bos>",
    "<end_of_turn>",
]


def rows_of(task, scoring, pairs, split="test", **extra):
    base = {
        "task": task,
        "split": split,
        "scoring": scoring,
        "source": task,
        "license": "invented",
        "access": "public",
    }
    return [
        {"id": f"{task}:{split}:{i}", **base, "prompt": prompt + "\n", "completion": completion, **extra}
        for i, (prompt, completion) in enumerate(pairs)
    ]


def write_rows(folder, task, rows, split="test"):
    path = folder / task / f"{split}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(check_row(row, "here")) + "\n" for row in rows))


def make_tokenizer(bos="<s>", eos="</s>", adds_bos=True):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    engine = Tokenizer(models.BPE())
    engine.pre_tokenizer, engine.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    engine.train_from_iterator(["Question: which drug? Answer: zorimel"], trainer)
    if adds_bos:
        engine.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, SPECIAL.index(bos))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=engine, bos_token=bos, eos_token=eos, pad_token=eos)


def make_model(folder, seed=0, positions=256, template=True, architecture="LlamaForCausalLM", tokenizer=None):
    import torch
    import transformers

    tokenizer = tokenizer or make_tokenizer()
    if template:
        tokenizer.chat_template = (REPO / "recipes" / "chat_template.jinja").read_text()
    torch.manual_seed(seed)
    model = getattr(transformers, architecture)
    sizes = {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
             "pad_token_id": tokenizer.eos_token_id}  # fmt: skip
    if architecture == "GPT2LMHeadModel":
        sizes |= {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": positions}
    else:
        sizes |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
                  "head_dim": 16, "max_position_embeddings": positions}  # fmt: skip
    model(model.config_class(**sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "run.json").write_text(json.dumps({"access": "gated"}))
    return folder


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]
