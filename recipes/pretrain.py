"""Continual pretraining on packed blocks (article: Methods, "Me-LLaMA base models - continual pretraining LLaMA2").

Reads   the folder of `model_name_or_path` (weights and tokenizer), and `blocks`, made by data_prep/build_blocks.py with the same tokenizer.
Writes  output_dir: the model in safetensors with its tokenizer, checkpoint-*/ to resume from, run.json, trainer_state.json, ledger.jsonl, and
        validation.json: {domain: {"nll": [nats of each held-out block], "tokens": [predicted tokens of each]}}.

One core, one GPU and the article's machine differ by the accelerate file and the YAML alone:
    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/pretrain.py --config recipes/configs/demo_foundation.yaml

The batch is `tokens_per_step`; micro-batch and accumulation follow from the machine, so one YAML is one experiment on 1, 8 or 160 ranks.
Killed? The same command goes on from the last checkpoint: the order is the manifest's, so the place is one integer.
What is not of this stage, such as the ledger, the guard and run.json, is in run_guard.py, which is copied along.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import numpy as np
import torch
from run_guard import (
    Collator,
    LaunchArguments,
    Refused,
    Watched,
    check_choice,
    check_isolation,
    check_launch,
    check_model,
    close_run,
    last_checkpoint,
    open_run,
    reason,
    split_step,
    start,
)
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments, set_seed
from trl import TrlParser


@dataclass(kw_only=True)
class PretrainArguments(LaunchArguments):
    model_name_or_path: str = field(
        metadata={"help": "Folder or Hub name of the model to go on training, with its tokenizer."}
    )
    blocks: str = field(metadata={"help": "Folder made by data_prep/build_blocks.py."})
    packing: str = field(
        metadata={
            "help": "isolated: a document sees itself only; concat: a block is one text, as LLaMA-2 was trained."
        }
    )
    tokens_per_step: int = field(
        metadata={
            "help": "Tokens of one optimizer step over all ranks. per_device_train_batch_size is a limit."
        }
    )
    from_scratch: bool = field(
        default=False, metadata={"help": "Random weights in the shape of the folder's config.json."}
    )
    attn_implementation: str = field(
        default="sdpa", metadata={"help": "sdpa, eager, torch_varlen, flash_attention_2 or _3."}
    )
    dtype: str = field(
        default="float32", metadata={"help": "Type of the weights as loaded: float32 or bfloat16."}
    )
    max_loss_jump: float | None = field(
        default=3.0, metadata={"help": "Nats above the mean of 50 steps that stop the run; null: never."}
    )


def main(script_args, training_args):
    # Data: blocks in the order of the manifest, one validation set per domain, and the tokenizer that made them
    check_launch(script_args, training_args)
    manifest, train_dataset, eval_dataset = read_blocks(Path(script_args.blocks))
    length = manifest["block_length"]
    config, tokenizer = check_model(script_args.model_name_or_path, length)
    check_tokenizer(tokenizer, manifest, script_args)
    split_step("tokens_per_step", script_args.tokens_per_step, length, training_args)
    train_dataset.keep_whole_steps(script_args.tokens_per_step // length)
    check_choice("dtype", script_args.dtype, "float32", "bfloat16")
    check_choice("packing", script_args.packing, "isolated", "concat")
    if script_args.packing == "isolated":
        check_isolation(config, script_args.attn_implementation, training_args)
    with training_args.main_process_first(local=False):
        reads = [Path(script_args.blocks, "manifest.json")]
        run = open_run(
            __file__, reads, script_args.model_name_or_path, script_args.overwrite, script_args, training_args
        )
    if run["status"] == "complete":
        return print(f"{training_args.output_dir}: already complete, nothing to do")
    checkpoint = last_checkpoint(training_args)

    # Model
    set_seed(training_args.seed)
    settings = {
        "attn_implementation": script_args.attn_implementation,
        "dtype": getattr(torch, script_args.dtype),
    }
    if script_args.from_scratch:
        model = AutoModelForCausalLM.from_config(config, **settings)
    else:
        model = AutoModelForCausalLM.from_pretrained(script_args.model_name_or_path, **settings)

    # Train
    trainer = PretrainTrainer(
        model=model, args=training_args, train_dataset=train_dataset, eval_dataset=eval_dataset, processing_class=tokenizer,
        data_collator=Collator(script_args.packing == "isolated", pad_token_id=0), run=run, watch=script_args,
    )  # fmt: skip
    result = trainer.train(resume_from_checkpoint=checkpoint)
    metrics = {**result.metrics, **trainer.evaluate()}

    # Save
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        Path(training_args.output_dir, "validation.json").write_text(json.dumps(trainer.validation) + "\n")
        seen = {"steps": trainer.state.global_step, "tokens_seen": trainer.state.num_input_tokens_seen}
        close_run(
            run, **seen, left_over_blocks=train_dataset.left_over, ledger=trainer.audit(), metrics=metrics
        )


# ---------------------------------------------------------------- blocks
def read_blocks(folder):
    """(manifest, training blocks in their order, {domain: held-out blocks}) of a folder of data_prep/build_blocks.py."""
    if not (folder / "order.npy").is_file():
        raise Refused(
            f"{folder} holds no packed blocks. Next: python -m data_prep.build_blocks --out {folder} --help"
        )
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        held_out = {
            domain: PackedBlocks(folder, manifest, "validation", domain) for domain in manifest["domains"]
        }
        train = PackedBlocks(folder, manifest, "train", order=np.load(folder / "order.npy", mmap_mode="r"))
    except (
        ValueError,
        KeyError,
        TypeError,
        EOFError,
        RecursionError,
    ) as error:  # cut short, or no numbers: a pickle is not opened
        raise Refused(
            f"{folder}: not whole packed blocks ({reason(error)}). Next: python -m data_prep.build_blocks --out {folder} --help"
        ) from error
    return manifest, train, {domain: blocks for domain, blocks in held_out.items() if len(blocks)}


class PackedBlocks(torch.utils.data.Dataset):
    """Blocks of one split, memory-mapped: item i is {"input_ids": [length] int, "seq_lengths": tokens of each document in it}.

    `order` maps the i-th place of training to a row, which the item then carries; without it the rows of `domain` come as they lie.
    """

    def __init__(self, folder, manifest, split, domain=None, order=None):
        files = [
            o["path"] for o in manifest["outputs"] if o["split"] == split and domain in (None, o["domain"])
        ]
        parts = [datasets.Dataset.from_file(str(folder / file)) for file in files]
        self.rows = datasets.concatenate_datasets(parts).with_format("numpy") if parts else []
        self.order, self.left_over = order, 0

    def keep_whole_steps(self, blocks_per_step):
        """Leave out what would not fill a last step: the article's 129B tokens are 12,302 steps of 10.5M and a rest."""
        self.left_over = len(self.order) % blocks_per_step
        self.order = self.order[: len(self.order) - self.left_over]
        if not len(self.order):
            raise Refused(
                f"one step needs {blocks_per_step} blocks, there are {self.left_over}. Next: a smaller tokens_per_step, or more blocks"
            )

    def __len__(self):
        return len(self.rows if self.order is None else self.order)

    def __getitem__(self, i):
        return (
            self.rows[i]
            if self.order is None
            else {**self.rows[int(self.order[i])], "row": int(self.order[i])}
        )


class Places(torch.utils.data.Sampler):
    """Batch sampler of one rank: of each `ranks` micro-batches in the order, the `rank`-th. Going on at any place reads no block: it is arithmetic."""

    def __init__(self, blocks, size, rank, ranks):
        self.starts, self.size = range(rank * size, blocks, size * ranks), size

    def __len__(self):
        return len(self.starts)

    def __iter__(self):
        return (range(start, start + self.size) for start in self.starts)


def check_tokenizer(tokenizer, manifest, named):
    """Refused unless the tokenizer is the one that made the blocks, by its hash as in data_prep/corpus/tokenize.py."""
    engine = tokenizer.backend_tokenizer
    engine.no_truncation()
    engine.no_padding()
    if hashlib.sha256(engine.to_str().encode()).hexdigest() != manifest["tokenizer"]["sha256"]:
        raise Refused(
            f"the tokenizer of {named.model_name_or_path} is not the one that made {named.blocks}. "
            f"Next: python -m data_prep.build_blocks --tokenizer {named.model_name_or_path} ..."
        )


class PretrainTrainer(Watched, Trainer):
    """Trains in the order of the blocks, which is the mixture and was shuffled when it was made."""

    def get_train_dataloader(self):
        args = self.args
        places = Places(
            len(self.train_dataset), args.per_device_train_batch_size, args.process_index, args.world_size
        )
        settings = {
            "num_workers": args.dataloader_num_workers,
            "prefetch_factor": args.dataloader_prefetch_factor,
        }
        settings["pin_memory"] = args.dataloader_pin_memory and args.device.type == "cuda"
        return torch.utils.data.DataLoader(
            self.train_dataset, batch_sampler=places, collate_fn=self.data_collator, **settings
        )


def make_parser():
    return TrlParser((PretrainArguments, TrainingArguments), allow_abbrev=False)


if __name__ == "__main__":
    start(main, make_parser())
