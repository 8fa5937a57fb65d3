r"""Continual pretraining on packed blocks, on the stock Trainer (paper: Methods, "continual pretraining LLaMA2").

Reads   blocks: a folder of data_prep.build_blocks, made with the tokenizer of model_name_or_path
Writes  output_dir: model (safetensors), tokenizer, checkpoint-*/, trainer_state.json, run.json, ledger.jsonl, and
        validation.json: {domain: {"nll": [nats of each held-out block], "tokens": [predicted tokens of each]}}

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/pretrain.py --config recipes/configs/demo_foundation.yaml
    sbatch accelerate_configs/multinode.slurm accelerate_configs/zero3_160gpu.yaml \
        recipes/pretrain.py --config recipes/configs/pretrain_70b.yaml

The mixture and its shuffle are the order of the blocks, so blocks are read in sequence, and one YAML is one experiment
on 1, 8 or 160 ranks. The same command resumes an interrupted run. The modules beside it are safeguards: copy them along,
or delete every line that uses one.
"""

import hashlib
import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path

import attention  # noqa: F401  registers torch_varlen
import datasets
import numpy as np
import torch
from callbacks import GracefulStop, Ledger, LossGuard, Throughput
from checks import Refused, check_isolation, check_launch, check_model, check_trainer, one_sentence_errors
from run_record import RunArguments, open_run
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, set_seed
from trl import TrlParser


@dataclass(kw_only=True)
class PretrainArguments(RunArguments):
    model_name_or_path: str = field(
        metadata={"help": "Model and tokenizer to continue from: folder or Hub name."}
    )
    blocks: str = field(metadata={"help": "Folder of data_prep.build_blocks."})
    global_batch_tokens: int = field(metadata={"help": "Tokens per step over all ranks; sets accumulation."})
    document_masking: bool = field(
        metadata={"help": "true: documents of a block do not see each other; false: as one text."}
    )
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of a Hub model."})
    from_scratch: bool = field(
        default=False, metadata={"help": "Random weights in the shape of its config.json."}
    )
    attn_implementation: str = field(
        default="sdpa", metadata={"help": "sdpa, eager, torch_varlen, flash_attention_2 ..."}
    )
    dtype: str = field(
        default="float32", metadata={"help": "Type of the weights.", "choices": ["float32", "bfloat16"]}
    )
    model_init_kwargs: dict | None = field(
        default=None, metadata={"help": "More for from_pretrained, as rope_parameters."}
    )


@dataclass
class PretrainConfig(TrainingArguments):
    """TrainingArguments for blocks: read in sequence, with the columns that the collator needs."""

    train_sampling_strategy: str = field(
        default="sequential", metadata={"help": "The order is the mixture.", "choices": ["sequential"]}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "seq_lengths are used.", "choices": [False]}
    )


def load_data(args):
    """{"train": PackedBlocks in training order, "validation": {domain: PackedBlocks}}, whole steps only."""
    run, training = args
    folder = Path(run.blocks)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    train = PackedBlocks(folder, manifest, "train", order=np.load(folder / "order.npy", mmap_mode="r"))
    blocks_per_step = run.global_batch_tokens // manifest["block_length"]
    train.order = train.order[: len(train.order) // blocks_per_step * blocks_per_step]
    held_out = {
        domain: PackedBlocks(folder, manifest, "validation", domain) for domain in manifest["domains"]
    }
    return {
        "train": train,
        "validation": {domain: blocks for domain, blocks in held_out.items() if len(blocks)},
    }


def make_trainer(args, data, model=None):
    """`model`: in place of the weights of model_name_or_path."""
    run, training = args
    set_seed(training.seed)
    loading = {
        "attn_implementation": run.attn_implementation,
        "dtype": getattr(torch, run.dtype),
        "trust_remote_code": False,
    }
    loading |= run.model_init_kwargs or {}
    if model is None and run.from_scratch:
        config = AutoConfig.from_pretrained(
            run.model_name_or_path, revision=run.model_revision, trust_remote_code=False
        )
        model = AutoModelForCausalLM.from_config(config, **loading)
    elif model is None:
        model = AutoModelForCausalLM.from_pretrained(
            run.model_name_or_path, revision=run.model_revision, **loading
        )
    return Trainer(
        model=model,
        args=training,
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        processing_class=AutoTokenizer.from_pretrained(
            run.model_name_or_path, revision=run.model_revision, trust_remote_code=False
        ),
        data_collator=Collator(run.document_masking),
        preprocess_logits_for_metrics=nll_of_blocks,
        compute_metrics=token_weighted,
        callbacks=[Throughput(run.peak_tflops), LossGuard(run.max_loss_jump), GracefulStop()],
    )


def main(args):
    run, training = args
    manifest = read_manifest(Path(run.blocks))
    set_accumulation(training, run.global_batch_tokens, manifest["block_length"])
    check_launch(run, training)
    rescaled = "rope_parameters" in (run.model_init_kwargs or {})
    config, tokenizer = check_model(
        run.model_name_or_path, manifest["block_length"], run.model_revision, rescaled
    )
    check_tokenizer(tokenizer, manifest, run)
    if run.document_masking:
        check_isolation(config, run.attn_implementation, training.device, flat=False)
    record = open_run(__file__, args, run.model_name_or_path, run.blocks)
    if record.complete:
        return print(f"{training.output_dir}: already complete, nothing to do")

    data = load_data(args)
    trainer = make_trainer(args, data)
    check_trainer(trainer)
    record.attach(trainer)
    ledger = Ledger()
    trainer.add_callback(ledger)

    trainer.train(resume_from_checkpoint=record.resume(training))
    metrics, validation = {}, {}
    for domain, blocks in data["validation"].items():
        output = trainer.predict(blocks, metric_key_prefix=f"eval_{domain}")
        metrics |= output.metrics
        validation[domain] = {
            "nll": output.predictions[:, 0].tolist(),
            "tokens": output.predictions[:, 1].astype(int).tolist(),
        }

    if trainer.is_fsdp_enabled:  # one model, where checkpoints are shards
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        Path(training.output_dir, "validation.json").write_text(
            json.dumps(validation) + "\n", encoding="utf-8"
        )
    left_over = len(data["train"].rows) - len(data["train"].order)
    record.close(trainer, metrics, ledger=ledger.audit(data["train"]), left_over_blocks=left_over)


# ---------------------------------------------------------------- blocks
class PackedBlocks(torch.utils.data.Dataset):
    """Blocks of one split, memory-mapped. Item i: {"input_ids": [block_length], "seq_lengths": [documents]}, in
    training order where `order` is given, else as `domain` has them."""

    def __init__(self, folder, manifest, split, domain=None, order=None):
        files = [
            o["path"] for o in manifest["outputs"] if o["split"] == split and domain in (None, o["domain"])
        ]
        parts = [datasets.Dataset.from_file(str(folder / file)) for file in files]
        self.rows = datasets.concatenate_datasets(parts).with_format("numpy") if parts else []
        self.order = order

    def __len__(self):
        return len(self.rows if self.order is None else self.order)

    def __getitem__(self, i):
        return self.rows[int(i if self.order is None else self.order[i])]


class Collator:
    """Blocks -> input_ids, labels [batch, block_length]. With document masking, position_ids restart at each document,
    cu_seq_lens bound them for variable-length kernels, and no document predicts the first token of the next.

    No attention_mask: with one, transformers would let packed documents attend to each other."""

    def __init__(self, document_masking):
        self.document_masking = document_masking

    def __call__(self, blocks):
        input_ids = torch.from_numpy(np.stack([block["input_ids"] for block in blocks]).astype(np.int64))
        labels, length = input_ids.clone(), input_ids.shape[1]
        position_ids = torch.arange(length).repeat(len(blocks), 1)
        starts = []
        for i, block in enumerate(blocks):
            for start in itertools.accumulate(map(int, block["seq_lengths"]), initial=0):
                if self.document_masking and start < length:
                    starts.append(i * length + start)
                    labels[i, start] = -100
                    position_ids[i, start:] = torch.arange(length - start)
            labels[i, sum(map(int, block["seq_lengths"])) :] = -100  # an unused end
        batch = {"input_ids": input_ids, "labels": labels}
        if self.document_masking:
            bounds = torch.tensor([*starts, labels.numel()], dtype=torch.int32)
            batch |= {"position_ids": position_ids, "cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds}
            batch |= dict.fromkeys(("max_length_q", "max_length_k"), int(bounds.diff().max()))
        return batch


def nll_of_blocks(logits, labels):
    """[batch, 2] float64: summed nats and number of predicted tokens of each block."""
    nll = [
        cross_entropy(row[:-1].float(), label[1:], reduction="sum")
        for row, label in zip(logits, labels, strict=True)
    ]
    return torch.stack([torch.stack(nll).double(), (labels[:, 1:] != -100).sum(1).double()], 1)


def token_weighted(prediction):
    """Loss and perplexity weighted by tokens: equal for any batch size and number of ranks (Trainer's mean is not)."""
    nll, tokens = prediction.predictions.sum(0)
    return {"loss": nll / tokens, "perplexity": float(np.exp(nll / tokens)), "tokens": int(tokens)}


def read_manifest(folder):
    if not (folder / "order.npy").is_file() or not (folder / "manifest.json").is_file():
        raise Refused(
            f"{folder} holds no packed blocks. Next: python -m data_prep.build_blocks --out {folder} --help"
        )
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def set_accumulation(training, tokens, block_length):
    """Split a step of `tokens` among the ranks, in the largest micro-batch up to per_device_train_batch_size (memory)."""
    unit = training.world_size * block_length
    share, rest = divmod(tokens, unit)
    if rest or not share:
        raise Refused(
            f"global_batch_tokens {tokens} is not a multiple of {unit} ({training.world_size} ranks x {block_length})"
        )
    sizes = range(1, training.per_device_train_batch_size + 1)
    training.per_device_train_batch_size = max(size for size in sizes if share % size == 0)
    training.gradient_accumulation_steps = share // training.per_device_train_batch_size


def check_tokenizer(tokenizer, manifest, run):
    """Refused unless the tokenizer is the one that made the blocks, by its hash as in data_prep/corpus/tokenize.py."""
    engine = tokenizer.backend_tokenizer
    engine.no_truncation()
    engine.no_padding()
    if hashlib.sha256(engine.to_str().encode()).hexdigest() != manifest["tokenizer"]["sha256"]:
        raise Refused(
            f"the tokenizer of {run.model_name_or_path} is not the one that made {run.blocks}. "
            f"Next: python -m data_prep.build_blocks --tokenizer {run.model_name_or_path} ..."
        )


def make_parser():
    return TrlParser((PretrainArguments, PretrainConfig), allow_abbrev=False)


if __name__ == "__main__":
    parser = make_parser()
    one_sentence_errors(parser)
    main(parser.parse_args_and_config())
