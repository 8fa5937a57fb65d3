"""Continual pretraining on packed blocks with the stock Trainer (paper: "continual pretraining LLaMA2").

Reads   blocks: a folder of data_prep.build_blocks, made with the tokenizer of model_name_or_path
Writes  output_dir: model or adapter (safetensors), tokenizer, checkpoint-*/, trainer_state.json, run.json,
        ledger.jsonl, validation.json: {domain: {"nll": [nats of each block], "tokens": [predicted tokens]}}

    accelerate launch --config_file accelerate_configs/cpu.yaml \
        recipes/pretrain.py --config recipes/configs/demo_foundation.yaml
    sbatch accelerate_configs/multinode.slurm accelerate_configs/zero3_160gpu.yaml \
        recipes/pretrain.py --config recipes/configs/pretrain_70b.yaml

The mixture and its shuffle are the order of the blocks, read in sequence on any number of ranks. The same
command resumes. The modules beside it are safeguards: copy them, or take their uses out.
"""

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import attention  # noqa: F401  registers torch_varlen, shifted_sparse
import checks
import datasets
import numpy as np
import torch
from callbacks import GracefulStop, Ledger, LossGuard, Throughput
from peft import LoraConfig, get_peft_model
from run_record import RunArguments, open_run
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, set_seed
from transformers.hf_argparser import HfArg
from trl import TrlParser


@dataclass(kw_only=True)
class PretrainArguments(RunArguments):
    model_name_or_path: str = HfArg(help="Model and tokenizer to continue from: folder or Hub name.")
    model_revision: str = HfArg(default="main", help="Branch, tag or commit of a Hub model.")
    blocks: str = HfArg(help="Folder of data_prep.build_blocks.")
    global_batch_tokens: int = HfArg(help="Tokens per step over all ranks; sets accumulation.")
    document_masking: bool = HfArg(help="Mask attention across the documents of a block.")
    from_scratch: bool = HfArg(default=False, help="Random weights in the shape of its config.json.")
    attn_implementation: str = HfArg(default="sdpa", help="sdpa, eager, torch_varlen, flash_attention_2 ...")
    dtype: Literal["float32", "bfloat16"] = HfArg(default="float32", help="Type of the weights.")
    model_init_kwargs: dict | None = HfArg(default=None, help="Changes to config.json, e.g. rope_parameters.")
    lora: dict | None = HfArg(default=None, help="Keys of peft.LoraConfig: an adapter, not all weights.")


@dataclass
class PretrainConfig(TrainingArguments):
    """The order of the blocks is the mixture, and their seq_lengths go to the collator."""

    train_sampling_strategy: Literal["sequential"] = HfArg(default="sequential")
    remove_unused_columns: Literal[False] = HfArg(default=False)


def load_data(args):
    """{"train": PackedBlocks in training order, in whole steps; "validation": {domain: PackedBlocks}}"""
    run, _ = args
    manifest, folder = read_manifest(run.blocks), Path(run.blocks)
    with checks.reading_blocks(folder):
        order = np.load(folder / "order.npy", mmap_mode="r")
        train = PackedBlocks(folder, manifest, "train", order=order)
        held_out = {name: PackedBlocks(folder, manifest, "validation", name) for name in manifest["domains"]}
        per_step = run.global_batch_tokens // manifest["block_length"]
    if len(train) < per_step:
        raise checks.Refused(
            f"a step takes {per_step} blocks, {folder} has {len(train)}. Next: more blocks, or fewer tokens"
        )
    train.order = order[: len(train) // per_step * per_step]
    return {"train": train, "validation": {name: blocks for name, blocks in held_out.items() if len(blocks)}}


def make_trainer(args, data, model=None):
    """`model`: in place of the weights of model_name_or_path."""
    run, training = args
    source = {"revision": run.model_revision, "trust_remote_code": False}
    kind = {"attn_implementation": run.attn_implementation, "dtype": getattr(torch, run.dtype)}
    name, changes = run.model_name_or_path, run.model_init_kwargs or {}
    set_seed(training.seed)
    if model is None and run.from_scratch:
        config = AutoConfig.from_pretrained(name, **source, **changes)
        model = AutoModelForCausalLM.from_config(config, **kind)
    elif model is None:
        model = AutoModelForCausalLM.from_pretrained(name, **source, **kind, **changes)
    if run.lora:
        model = get_peft_model(model, LoraConfig(**run.lora))
    return Trainer(
        model=model,
        args=training,
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        processing_class=AutoTokenizer.from_pretrained(name, **source),
        data_collator=Collator(run.document_masking),
        preprocess_logits_for_metrics=nll_of_blocks,
        compute_metrics=token_weighted,
        callbacks=[Throughput(run.peak_tflops), LossGuard(run.max_loss_jump), GracefulStop()],
    )


def main(args):
    run, training = args
    manifest = read_manifest(run.blocks)
    per_pass = training.per_device_train_batch_size * training.world_size * manifest["block_length"]
    per_pass //= checks.sequence_ranks()
    training.gradient_accumulation_steps = run.global_batch_tokens // per_pass
    checks.check_batch("global_batch_tokens", run.global_batch_tokens, per_pass)
    checks.check_launch(run, training)
    checks.check_pretraining(run, training, manifest)
    record = open_run(__file__, args, run.model_name_or_path, run.blocks)
    if record.complete:
        return print(f"{training.output_dir}: already complete, nothing to do")
    data = load_data(args)
    trainer = make_trainer(args, data)
    checks.check_trainer(trainer)
    ledger = Ledger()
    trainer.add_callback(ledger)
    record.attach(trainer)
    trainer.train(resume_from_checkpoint=record.resume(training))
    metrics, validation = {}, {}
    for domain, blocks in data["validation"].items():
        output = trainer.predict(blocks, metric_key_prefix=f"eval_{domain}")
        metrics |= output.metrics
        nll, tokens = output.predictions.T
        validation[domain] = {"nll": nll.tolist(), "tokens": tokens.astype(int).tolist()}

    if trainer.is_fsdp_enabled:  # one model, where checkpoints are shards
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        Path(training.output_dir, "validation.json").write_text(json.dumps(validation))
    left_over = manifest["order"]["blocks"] - len(data["train"])
    record.close(trainer, metrics, ledger=ledger.audit(data["train"]), left_over_blocks=left_over)


# ---------------------------------------------------------------- blocks
class PackedBlocks(torch.utils.data.Dataset):
    """Memory-mapped blocks, in `order` if given: {"input_ids": [length], "seq_lengths": [documents]}."""

    def __init__(self, folder, manifest, split, domain=None, order=None):
        files = [o for o in manifest["outputs"] if o["split"] == split and domain in (None, o["domain"])]
        parts = [datasets.Dataset.from_file(str(folder / file["path"])) for file in files]
        self.rows = datasets.concatenate_datasets(parts).with_format("numpy") if parts else []
        self.order = order

    def __len__(self):
        return len(self.rows if self.order is None else self.order)

    def __getitem__(self, i):
        return self.rows[int(i if self.order is None else self.order[i])]


class Collator:
    """Blocks -> input_ids, labels, position_ids [batch, length]. With document masking, positions restart at
    each document, cu_seq_lens bound them for varlen kernels, and none predicts the next one's first token.
    There is no attention_mask: with one, transformers lets packed documents attend to each other."""

    def __init__(self, document_masking):
        self.document_masking = document_masking

    def __call__(self, blocks):
        input_ids = torch.from_numpy(np.stack([block["input_ids"] for block in blocks]).astype(np.int64))
        labels, length = input_ids.clone(), input_ids.shape[1]
        position_ids, starts = torch.arange(length).repeat(len(blocks), 1), []
        for i, block in enumerate(blocks):
            for start in itertools.accumulate(map(int, block["seq_lengths"]), initial=0):
                if self.document_masking and start < length:
                    starts.append(i * length + start)
                    labels[i, start] = -100
                    position_ids[i, start:] = torch.arange(length - start)
            labels[i, sum(map(int, block["seq_lengths"])) :] = -100  # an unused end
        batch = {"input_ids": input_ids, "labels": labels, "position_ids": position_ids}
        if self.document_masking:
            bounds = torch.tensor([*starts, labels.numel()], dtype=torch.int32)
            batch |= {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds}
            batch |= dict.fromkeys(("max_length_q", "max_length_k"), int(bounds.diff().max()))
        return batch


def nll_of_blocks(logits, labels):
    """[batch, 2] float64: summed nats and number of predicted tokens of each block."""
    pairs = zip(logits[:, :-1], labels[:, 1:], strict=True)
    nll = [cross_entropy(row.float(), label, reduction="sum") for row, label in pairs]
    return torch.stack([torch.stack(nll).double(), (labels[:, 1:] != -100).sum(1).double()], 1)


def token_weighted(prediction):
    """Loss and perplexity weighted by tokens: equal for any batch size and number of ranks."""
    nll, tokens = prediction.predictions.sum(0)
    return {"loss": nll / tokens, "perplexity": float(np.exp(nll / tokens)), "tokens": int(tokens)}


def read_manifest(folder):
    if not Path(folder, "order.npy").is_file() or not Path(folder, "manifest.json").is_file():
        raise checks.Refused(f"{folder} has no packed blocks. Next: python -m data_prep.build_blocks --help")
    with checks.reading_blocks(folder):
        manifest = json.loads(Path(folder, "manifest.json").read_text(encoding="utf-8"))
        return {key: manifest[key] for key in ("block_length", "domains", "order", "outputs", "tokenizer")}


def make_parser():
    return TrlParser((PretrainArguments, PretrainConfig), allow_abbrev=False)


if __name__ == "__main__":
    parser = make_parser()
    checks.begin(parser)
    main(parser.parse_args_and_config())
