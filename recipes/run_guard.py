"""What every recipe that trains carries beside its science. A laboratory that copies a recipe copies this file with it:

    cp recipes/sft.py recipes/run_guard.py recipes/egress.py elsewhere/

It gives, in this order:
    Watched         goes before Trainer in a class's bases: the ledger of rows, validation weighted by tokens, the stop before damage, speed in the log
    Answers         Watched for TRL's SFTTrainer: training on the answers of rows
    Collator        rows and packed rows -> batches in which documents do not see each other; torch_varlen, an attention backend for them
    check_*         what is refused before the first step, in one sentence that says what to do next
    open_run, ...   run.json: what a run is, so that the same command goes on with it and another one does not overwrite it
    start           runs a recipe's main and turns Refused into that sentence
"""

import collections
import copy
import hashlib
import importlib.metadata
import importlib.util
import itertools
import json
import math
import os
import pickle
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.compute
import pydantic
import torch
from egress import keep_inside, permit, read_allow_list
from huggingface_hub import try_to_load_from_cache
from peft import PeftError, PeftModel
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from transformers import AttentionInterface, AutoConfig, AutoTokenizer, Trainer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.trainer_utils import rotate_checkpoints
from yaml import YAMLError


class Refused(Exception):
    """An input or setting that this recipe will not work with; the message says what to do next."""


@dataclass(kw_only=True)
class LaunchArguments:
    """What each recipe's arguments have beside the stage's own."""

    overwrite: bool = field(
        default=False, metadata={"help": "Replace output_dir if it holds a different run."}
    )
    world_size: int | None = field(
        default=None, metadata={"help": "Ranks that must be running, else the launch is refused."}
    )
    peak_tflops: float | None = field(
        default=None, metadata={"help": "Dense peak of one device, for the MFU of devices not known here."}
    )
    max_loss_jump: float | None = field(
        default=5.0, metadata={"help": "Nats above the mean of 50 steps that stop the run; null: never."}
    )
    allow_upload: bool = field(
        default=False, metadata={"help": "Let trackers and push_to_hub send data away."}
    )
    allow_list: str | None = field(
        default=None, metadata={"help": "YAML of what may be sent credentialed data (egress.py)."}
    )


class Watched:
    """Goes before Trainer in a class's bases: what a long run needs and Trainer has not.

    ledger      OUTPUT_DIR/ledger.jsonl has a line per optimizer step, written when the step is done: the rows that were really collated for it, on
                all ranks, in order, as a sha256 (uint32, little-endian), and as a list where their order is nowhere else on disk
    evaluation  eval_<name>_loss and _perplexity are weighted by tokens: the same for any batch size and number of ranks
    guard       a loss or gradient that is not finite, or a loss that jumps, ends the run before the weights take that step; so does SIGTERM, as from
                Slurm, after the step: all ranks learn of it with the loss, stop at the same step and leave a whole checkpoint
    log         tokens_per_second, memory_gb, tokens_seen, and mfu = model FLOPs / (seconds x peak x ranks). Model FLOPs of a step (PaLM,
                arXiv:2204.02311, appendix B): tokens x (6 x trained + 4 x frozen weights, without the embedding table)
                + 12 x layers x width x the sum of squared document lengths. Recomputed activations count as nothing.
    """

    def __init__(self, *args, run, watch, **kwargs):
        super().__init__(*args, **kwargs)
        self.run, self.watch, self.validation = run, watch, {}
        if run["access"] != "public":
            self.model.config.access = run["access"]  # config.json goes wherever the weights go
        self.args.logging_nan_inf_filter = (
            False  # the guard looks once per optimizer step instead of once per micro-batch
        )
        self.args.remove_unused_columns = (
            False  # the collator reads seq_lengths and row, in validation as well
        )
        self._losses, self._usual = (
            [],
            collections.deque(maxlen=50),
        )  # of the step's micro-batches; of the last steps
        self._asked = self._terminated = 0.0  # SIGTERM: this rank got it; all ranks have agreed on it
        self._pending, self._since, self._clock = None, (0, 0), time.perf_counter()

    def train(self, resume_from_checkpoint=None, **kwargs):
        asked = [kind for kind in ("DEEPSPEED", "FSDP") if os.environ.get(f"ACCELERATE_USE_{kind}") == "true"]
        if asked and self.accelerator.distributed_type.value not in asked:
            raise Refused(
                f"the accelerate file asks for {asked[0]}, {self.accelerator.distributed_type.value} runs. Next: FSDP needs GPUs"
            )
        check_precision(self.model, self.args)
        check_disk(self)
        self.order = getattr(self.train_dataset, "order", None)
        done = int(resume_from_checkpoint.rsplit("-", 1)[1]) if resume_from_checkpoint else 0
        ledger = Path(self.args.output_dir, "ledger.jsonl")
        with self.args.main_process_first(local=False):
            lines = ledger.read_text().splitlines() if done and ledger.is_file() else []
            if len(lines) < done:
                said = f"{ledger} ends at step {len(lines)}, before {resume_from_checkpoint}"
                raise Refused(f"{said}. Next: bring it back, or another output_dir")
            del lines[done:]  # the steps after the checkpoint are undone
            if self.is_world_process_zero():
                replace(ledger, "".join(line + "\n" for line in lines))
        self._places = sum(json.loads(line)["count"] for line in lines)
        before = signal.signal(signal.SIGTERM, lambda *_: setattr(self, "_asked", 1.0))
        self._clock = time.perf_counter()
        try:
            result = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        finally:
            signal.signal(signal.SIGTERM, before)
        # Trainer divides what it summed since it was last started by all steps; the log has the whole run
        steps, losses = zip(
            *((entry["step"], entry["loss"]) for entry in self.state.log_history if "loss" in entry),
            strict=True,
        )
        loss = float(np.average(losses, weights=np.diff(steps, prepend=0)))
        return result._replace(training_loss=loss, metrics={"train_loss": loss, "epoch": self.state.epoch})

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The micro-batches of one optimizer step, less `taken`, which is gathered from all ranks for the ledger."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        rows, tokens, squares = (
            zip(*(batch.pop("taken") for batch in batches), strict=True) if batches else ((), (), ())
        )
        device = device if self.args.world_size > 1 else "cpu"  # alone, no need to wait for the GPU
        mine = torch.tensor([sum(tokens), sum(squares), *itertools.chain(*rows)], device=device)
        everyone = self.accelerator.gather(mine).view(self.args.world_size, -1).cpu()
        parts = [numbers[2:].split([len(part) for part in rows]) for numbers in everyone]
        in_order = (
            torch.cat([part for micro_step in zip(*parts, strict=True) for part in micro_step]).tolist()
            if rows
            else []
        )
        self._pending = (in_order, *everyone[:, :2].sum(0).tolist())
        return batches, items

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = self.stage_loss(model, inputs, return_outputs, num_items_in_batch)
        self._losses.append((loss[0] if return_outputs else loss).detach())
        # Before the last backward, which with DeepSpeed takes the step as well
        if len(self._losses) == self.current_gradient_accumulation_steps:
            mine = torch.stack(self._losses).sum()
            everyone = self.accelerator.gather(torch.stack([mine, mine.new_tensor(self._asked)])[None])
            (value, _), (_, self._terminated) = everyone.mean(0).tolist(), everyone.max(0).values.tolist()
            self._losses.clear()
            usual, limit = sum(self._usual) / max(1, len(self._usual)), self.watch.max_loss_jump
            if not math.isfinite(value) or (limit and len(self._usual) >= 10 and value > usual + limit):
                self._stop(f"loss {value:.4g} (lately {usual:.4g})")
            self._usual.append(value)
        return loss

    def stage_loss(self, *args):
        return super().compute_loss(*args)

    def _get_grad_norm(self, model, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm)
        if norm is not None and not math.isfinite(float(norm)):
            self._stop(f"gradient norm {float(norm)}")
        return norm

    def _stop(self, found):
        """End the run with a checkpoint of the weights as they are, before they take this step."""
        done, rows = self.state.global_step, self._pending[0]
        kept = f"the weights before it are in checkpoint-{done}" if done else "nothing was trained yet"
        again = "with that checkpoint as model_name_or_path, and " if done else "with "
        if done and not Path(self.args.output_dir, f"checkpoint-{done}", "complete.json").is_file():
            self._save_checkpoint(self.model_wrapped, trial=None)
        raise Refused(
            f"{found} at step {done + 1}, on rows {', '.join(map(str, rows[:8]))}...; {kept}. Next: look at those rows; then a new output_dir "
            f"{again}a lower learning_rate or max_loss_jump null"
        )

    def _maybe_log_save_evaluate(self, *args, **kwargs):
        """Called when a step is done: the ledger comes before anything that is logged or saved of it."""
        if self._pending and self._pending[0]:
            rows, tokens, squares = self._pending
            line = {
                "step": self.state.global_step,
                "first": self._places,
                "count": len(rows),
                "tokens": tokens,
                "sha256": digest(rows),
            }
            if self.is_world_process_zero():
                with Path(self.args.output_dir, "ledger.jsonl").open("a") as file:
                    file.write(json.dumps(line if self.order is not None else {**line, "rows": rows}) + "\n")
            self._places += len(rows)
            self.state.num_input_tokens_seen += tokens
            self._since = [a + b for a, b in zip(self._since, (tokens, squares), strict=True)]
            self._pending = None
            self.control.should_save |= bool(self._terminated)
        # a line of the log ends with each checkpoint, also at the end of an epoch, else the first one of a run that goes on would be of fewer steps
        self.control.should_log |= self.control.should_save or self.control.should_training_stop
        super()._maybe_log_save_evaluate(*args, **kwargs)
        if self._terminated:
            raise Refused(
                f"stopped by SIGTERM after step {self.state.global_step}. Next: the same command goes on from there"
            )

    def save_model(self, output_dir=None, _internal_call=False):
        if self.is_fsdp_enabled and not _internal_call:
            self.accelerator.state.fsdp_plugin.set_state_dict_type(
                "FULL_STATE_DICT"
            )  # one model, also where checkpoints are sharded
        super().save_model(output_dir, _internal_call)
        adapter = Path(output_dir or self.args.output_dir, "adapter_config.json")
        if self.run["access"] != "public" and adapter.is_file() and self.is_world_process_zero():
            replace(
                adapter,
                json.dumps(json.loads(adapter.read_text()) | {"access": self.run["access"]}, indent=2) + "\n",
            )

    def log(self, logs, start_time=None):
        if "loss" in logs:
            seconds = time.perf_counter() - self._clock
            logs |= {
                "tokens_per_second": round(self._since[0] / seconds, 1),
                "tokens_seen": self.state.num_input_tokens_seen,
            }
            if peak := self.watch.peak_tflops or known_peak_tflops():
                logs["mfu"] = round(
                    model_flops(self.model, *self._since) / (seconds * peak * 1e12 * self.args.world_size), 4
                )
            logs["memory_gb"] = round(peak_memory_bytes() / 1e9, 3)
            self._clock, self._since = time.perf_counter(), (0, 0)
        super().log(logs, start_time)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        labels = inputs.pop("labels")
        with torch.no_grad(), self.compute_loss_context_manager():
            logits = model(**inputs, use_cache=False).logits
        nll = [
            cross_entropy(row[:-1].float(), label[1:], reduction="sum")
            for row, label in zip(logits, labels, strict=True)
        ]
        rows = torch.stack([torch.stack(nll).double(), (labels[:, 1:] != -100).sum(1).double()], 1)
        self._rows.append(
            self.accelerator.gather_for_metrics(rows).cpu()
        )  # without the rows that accelerate repeats to even out the ranks
        return rows[:, 0].sum() / rows[:, 1].sum(), None, None

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ):
        self._rows, began = [], time.perf_counter()
        output = super().evaluation_loop(dataloader, description, True, ignore_keys, metric_key_prefix)
        rows = torch.cat(self._rows)
        nll, tokens = rows.sum(0).tolist()
        for name, value in (
            ("loss", nll / tokens),
            ("perplexity", math.exp(nll / tokens)),
            ("tokens", int(tokens)),
        ):
            output.metrics[f"{metric_key_prefix}_{name}"] = value
        self.validation[metric_key_prefix.removeprefix("eval_")] = {
            "nll": rows[:, 0].tolist(),
            "tokens": rows[:, 1].int().tolist(),
        }
        self._clock += time.perf_counter() - began  # tokens_per_second is the training's
        return output

    def _save_checkpoint(self, model, trial):
        """As Trainer's, but never of damaged weights, and older checkpoints go only when this one is whole: complete.json is written last of all."""
        step, trained = (
            self.state.global_step,
            (local_part(weight) for weight in self.model.parameters() if weight.requires_grad),
        )
        finite = torch.tensor([all(weight.isfinite().all() for weight in trained)], device=self.args.device)
        if not self.accelerator.gather(finite).all():
            raise Refused(
                f"weights are not finite at step {step}: not saved. Next: the same command goes on from the checkpoint before it"
            )
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        super()._save_checkpoint(model, trial)
        self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            whole = Path(self.args.output_dir, f"checkpoint-{step}", "complete.json")
            replace(
                whole,
                json.dumps({"step": step, "ranks": self.args.world_size, "access": self.run["access"]})
                + "\n",
            )
            write_run(self.run)
            rotate_checkpoints(self.args.output_dir, limit, self.state.best_model_checkpoint, use_mtime=True)

    def audit(self):
        """Facts of the whole ledger for run.json; Refused unless it has every step once and, where the order is on disk, each place in its turn."""
        lines = [
            json.loads(line) for line in Path(self.args.output_dir, "ledger.jsonl").read_text().splitlines()
        ]
        places = np.cumsum([0] + [line["count"] for line in lines])
        wrong = [
            step
            for step, line in enumerate(lines, 1)
            if (line["step"], line["first"]) != (step, places[step - 1])
        ]
        if self.order is not None:
            turns = (
                self.order[np.arange(line["first"], line["first"] + line["count"]) % len(self.order)]
                for line in lines
            )
            wrong += [
                line["step"]
                for line, turn in zip(lines, turns, strict=True)
                if line["sha256"] != digest(turn)
            ]
            least, most = places[-1] // len(self.order), -(-places[-1] // len(self.order))
        else:
            times = np.bincount(
                list(itertools.chain(*(line["rows"] for line in lines))), minlength=len(self.train_dataset)
            )
            least, most = times.min(), times.max()
        if wrong or len(lines) != self.state.global_step:
            said = f"{len(lines)} of {self.state.global_step} steps, wrong at steps {wrong[:8]}"
            raise Refused(
                f"{self.args.output_dir}/ledger.jsonl: {said}: rows were skipped or seen twice. Next: start the run again"
            )
        return {
            "steps": len(lines),
            "rows": int(places[-1]),
            "times_least_seen": int(least),
            "times_most_seen": int(most),
        }


def digest(rows):
    return hashlib.sha256(np.asarray(rows, dtype="<u4").tobytes()).hexdigest()


def local_part(weight):
    """What this rank holds of a weight, sharded by ZeRO-3 or FSDP2 or whole."""
    weight = getattr(weight, "ds_tensor", weight)
    return weight.to_local() if hasattr(weight, "to_local") else weight


def numel(weight):
    """Of the whole weight, also where it is sharded or holds two 4-bit numbers a byte."""
    return math.prod(
        getattr(getattr(weight, "quant_state", None), "shape", getattr(weight, "ds_shape", weight.shape))
    )


def model_flops(model, tokens, squares):
    """FLOPs that the model itself needs to train on `tokens` tokens in documents whose squared lengths sum to `squares` (see Watched)."""
    config = model.config.get_text_config()
    table = set() if config.tie_word_embeddings else set(model.get_input_embeddings().parameters())
    weights = sum(
        numel(weight) * (6 if weight.requires_grad else 4)
        for weight in model.parameters()
        if weight not in table
    )
    return tokens * weights + 12 * config.num_hidden_layers * config.hidden_size * squares


def known_peak_tflops():
    """Dense bf16 peak of this GPU from its maker's data sheet, TFLOP/s; None for those not listed."""
    peaks = {"A100": 312, "H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "H200": 989, "L40S": 362}
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((peak for part, peak in peaks.items() if part in name), None)


# ---------------------------------------------------------------- training on answers
class Answers(Watched):
    """Goes before SFTTrainer. TRL prepares model and rows: adapter, quantisation, chat template, labels, cutting at max_length, best-fit packing.
    What differs here: rows carry their number, for the ledger; packed rows stay [batch, max_length], where TRL joins them to one whose sdpa mask
    grows with the square of the batch; adapters are float32, since the article's learning rate is lost in the rounding of 16 bits; and the loss
    does without TRL's entropy and accuracy, which let the device wait at every micro-step."""

    def __init__(self, *args, train_dataset, **kwargs):
        super().__init__(*args, train_dataset=train_dataset, **kwargs)
        packed, longest = self.args.packing, self.args.max_length
        rows = self.train_dataset.select_columns(["input_ids", "labels"] + ["seq_lengths"] * packed)
        table = rows.with_format("arrow")[:]
        lengths = (
            table["seq_lengths"].combine_chunks().flatten()
            if packed
            else pyarrow.compute.list_value_length(table["input_ids"])
        )
        lengths = np.asarray(lengths)
        self.rows = {
            "given": len(train_dataset),
            "kept": len(lengths),
            "at_max_length": int((lengths >= (longest or np.inf)).sum()),
        }
        rows = rows.with_format("numpy")
        if not any(self._tokenizer.eos_token_id in row["labels"] for row in itertools.islice(rows, 1000)):
            raise Refused(
                "no answer ends in EOS: nothing would learn to stop. Next: end the template's answers in eos_token"
            )
        self.train_dataset = rows.add_column("row", np.arange(len(rows)))
        self.eval_dataset = self.eval_dataset.select_columns(["input_ids", "labels"]).with_format("numpy")
        if not any((row["labels"] != -100).any() for row in self.eval_dataset):
            raise Refused(
                "no validation row has a supervised token, after cutting at max_length. Next: a larger max_length"
            )
        self.data_collator = Collator(packed, self._tokenizer.pad_token_id)
        if (
            isinstance(self.model, PeftModel) and not self.is_deepspeed_enabled
        ):  # which keeps float32 copies itself
            for weight in self.model.parameters():
                weight.data = weight.data.float() if weight.requires_grad else weight.data

    def stage_loss(self, model, inputs, *args):
        chunked = {
            "fused_lm_head": self.args.device.type == "cuda"
        }  # the logits of a large vocabulary never exist as a whole
        return Trainer.compute_loss(self, model, {**inputs, **chunked, "use_cache": False}, *args)


def set_pad_token(tokenizer, given):
    """LLaMA-2 has none; its <unk> will do. Refused where only EOS is left: whoever reads the tokenizer could not tell padding from an end."""
    if given or tokenizer.pad_token in (None, tokenizer.eos_token):
        tokenizer.pad_token = given or tokenizer.unk_token
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        raise Refused(
            "the tokenizer has no token to pad with but EOS. Next: pad_token with a reserved one, as in recipes/configs"
        )


# ---------------------------------------------------------------- packing
class Collator:
    """Rows {"input_ids", "labels"?, "seq_lengths"?, "row"?} -> input_ids, labels [batch, longest row], padded on the right.

    isolated: the documents of a row (of `seq_lengths` tokens each) do not see each other: position_ids restart at each, cu_seq_lens bound them for
    variable-length kernels, and none predicts the next one's first token. No attention_mask is given in either mode: with one, transformers would
    let packed documents attend to each other, and without packing nothing ever looks to its right, where the padding is.
    `taken`, for the ledger and the log, is (rows, real tokens, sum of squared document lengths).
    """

    def __init__(self, isolated, pad_token_id):
        self.isolated, self.pad_token_id = isolated, pad_token_id

    def __call__(self, rows):
        length = max(len(row["input_ids"]) for row in rows)
        input_ids = torch.full((len(rows), length), self.pad_token_id)
        labels = torch.full_like(input_ids, -100)
        position_ids = torch.arange(length).repeat(len(rows), 1)
        starts, documents = [], []
        for place, row in enumerate(rows):
            tokens = torch.tensor(np.asarray(row["input_ids"], dtype=np.int64))
            lengths = [int(n) for n in row.get("seq_lengths", [len(tokens)])]
            used = sum(lengths)  # after it, a block may have an unused end
            input_ids[place, : len(tokens)] = tokens
            labels[place, :used] = torch.tensor(np.asarray(row.get("labels", tokens), dtype=np.int64))[:used]
            documents += lengths if self.isolated else [used]
            for start in itertools.accumulate(lengths, initial=0):
                if self.isolated and start < length:
                    starts.append(place * length + start)
                    labels[place, start] = -100
                    position_ids[place, start:] = torch.arange(length - start)
        batch = {"input_ids": input_ids, "labels": labels}
        if self.isolated:
            bounds = torch.tensor([*starts, len(rows) * length], dtype=torch.int32)
            batch |= {"position_ids": position_ids, "cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds}
            batch |= dict.fromkeys(("max_length_q", "max_length_k"), int(bounds.diff().max()))
        if "row" in rows[0]:
            batch["taken"] = (
                [int(row["row"]) for row in rows],
                sum(documents),
                sum(n * n for n in documents),
            )
        return batch


def torch_varlen(
    module,
    query,
    key,
    value,
    attention_mask,
    scaling=None,
    dropout=0.0,
    cu_seq_lens_q=None,
    max_length_q=None,
    **kwargs,
):
    """Attention backend: each document attends to itself by torch's own variable-length kernel (CUDA, 16 bit), elsewhere document by document.
    query [batch, heads, length, head_dim] -> [batch, length, heads, head_dim]. Without cu_seq_lens, as in generation, it is sdpa."""
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if dropout or kwargs.get("sliding_window") or kwargs.get("softcap"):
        raise ValueError("it has no attention dropout, sliding window or soft cap")
    shape, grouped, dtype = (query.shape[0], query.shape[2]), query.shape[1] != key.shape[1], value.dtype
    query, key, value = (
        x.transpose(1, 2).flatten(0, 1).to(dtype) for x in (query, key, value)
    )  # [batch * length, heads, head_dim]
    attend = varlen_attn if query.is_cuda else varlen_by_document
    bounds = (cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)
    return attend(
        query, key, value, *bounds, scale=scaling, window_size=(-1, 0), enable_gqa=grouped
    ).unflatten(0, shape), None


def varlen_by_document(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa
):
    """What torch.nn.attention.varlen.varlen_attn computes of these arguments (causal), where it has no kernel."""
    documents = zip(
        *(x.transpose(0, 1).split(cu_seq_q.diff().tolist(), dim=1) for x in (query, key, value)), strict=True
    )
    settings = {"is_causal": True, "scale": scale, "enable_gqa": enable_gqa}
    return torch.cat(
        [scaled_dot_product_attention(*each, **settings) for each in documents], dim=1
    ).transpose(0, 1)


def torch_varlen_mask(*args, attention_mask=None, **kwargs):
    """No mask for packed documents, sdpa's for padded texts."""
    return None if attention_mask is None else sdpa_mask(*args, attention_mask=attention_mask, **kwargs)


AttentionInterface.register("torch_varlen", torch_varlen)
AttentionMaskInterface.register("torch_varlen", torch_varlen_mask)


def check_isolation(config, attn_implementation, training_args):
    """Refused unless, on this device, the second of two packed documents has no gradient with respect to the first: seen on one layer of this
    model's heads with random weights, so that a backend is judged by what it does and not by its name."""
    small = copy.deepcopy(config)
    small.update(
        {
            "num_hidden_layers": 1,
            "intermediate_size": 64,
            "vocab_size": 64,
            "pad_token_id": None,
            "attention_dropout": 0.0,
        }
    )
    small.layer_types = (getattr(config, "layer_types", None) or [])[:1] or None
    small._attn_implementation = attn_implementation
    device, dtype = (
        training_args.device,
        torch.float32 if training_args.device.type == "cpu" else torch.bfloat16,
    )
    batch = Collator(True, 0)([{"input_ids": range(24), "seq_lengths": [12, 12]}] * 2)
    batch = {
        k: v.to(device) if torch.is_tensor(v) else v
        for k, v in batch.items()
        if k not in ("input_ids", "labels")
    }
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), device:
            model = MODEL_FOR_CAUSAL_LM_MAPPING[type(small)](small).to(dtype)
            for weight in model.parameters():
                torch.nn.init.normal_(weight, std=0.1)
            seen = torch.randn(2, 24, small.hidden_size, dtype=dtype, requires_grad=True)
            model(inputs_embeds=seen, use_cache=False, **batch).logits[
                :, 12:
            ].float().square().sum().backward()
    except (ImportError, ValueError, RuntimeError) as error:
        raise Refused(
            f"attn_implementation {attn_implementation} does not run here: {error}. Next: torch_varlen or sdpa"
        ) from error
    across, within = (seen.grad[:, part].abs().max().item() for part in (slice(0, 12), slice(12, 24)))
    if not (within > 0 and across < 1e-3 * within):
        raise Refused(
            f"attn_implementation {attn_implementation} lets packed documents see each other (gradient {across:.1e} across, {within:.1e} within). "
            f"Next: torch_varlen or sdpa"
        )


# ---------------------------------------------------------------- before the first step
def text(record, key):
    """record[key]; TypeError if it is no text."""
    if not isinstance(record[key], str):
        raise TypeError(f"'{key}' is {type(record[key]).__name__}, not text")
    return record[key]


def reason(error):
    """What is wrong with a line of data, in words that quote nothing of it: more people read a log than may read the data."""
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start + 1} is not UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return (
        f"{type(error).__name__}: {error}"
        if isinstance(error, KeyError | TypeError)
        else type(error).__name__
    )


def check_launch(watch, training_args):
    """Refused: other ranks than asked for, a DeepSpeed key that nobody reads, a tracker that sends data away. Trackio's files go to OUTPUT_DIR."""
    ranks = training_args.world_size
    if not ranks == (watch.world_size or ranks) == int(os.environ.get("WORLD_SIZE", ranks)):
        asked = watch.world_size or os.environ["WORLD_SIZE"]
        raise Refused(
            f"{ranks} ranks run, {asked} were asked for. Next: check num_processes and distributed_type of the accelerate file"
        )
    if training_args.deepspeed:
        raise Refused(
            "deepspeed stands in the YAML, which is not looked at. Next: deepspeed_config_file in the accelerate file"
        )
    check_deepspeed(os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none"))
    away = sent_by(vars(training_args))
    if away and not watch.allow_upload:
        raise Refused(
            f"{', '.join(away)} would send data away. Next: report_to tensorboard or trackio (local files), or allow_upload true"
        )
    # Else FSDP2 sums the gradients of the micro-steps whole, on every GPU and in 16 bits
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        training_args.accelerator_config.gradient_accumulation_kwargs = {"sync_each_batch": True}
    os.environ["TRACKIO_DIR"] = str(Path(training_args.output_dir, "trackio").resolve())


def check_choice(key, value, *allowed):
    if value not in allowed:
        raise Refused(f"{key} is '{value}', must be {' or '.join(allowed)}. Next: see --help of the recipe")


def sent_by(arguments):
    """The trackers, settings and environment variables with which a run of these arguments would send something away."""
    local = {"tensorboard", "trackio"} | (
        {"wandb"} if os.environ.get("WANDB_MODE") in ("offline", "disabled") else set()
    )
    trackers = [name for name in arguments.get("report_to", ()) if name not in local]
    return (
        trackers
        + [key for key in UPLOAD_KEYS if arguments.get(key)]
        + [key for key in UPLOAD_VARIABLES if os.environ.get(key)]
    )


def keep_on_site(terms, arguments):
    """Of a run that reads credentialed data: nothing it is asked to do, and nothing that Python does in it, leaves this machine, but for what an entry of
    its allow list opens. Returns the entries that were needed."""
    if terms["access"] != "credentialed":
        return []
    allowed = read_allow_list(arguments.get("allow_list"), Refused)
    hub, wandb = (
        os.environ.get("HF_ENDPOINT", "huggingface.co"),
        os.environ.get("WANDB_BASE_URL", "api.wandb.ai"),
    )
    offline = (
        ["wandb"] if "wandb" in arguments.get("report_to", ()) and "wandb" not in sent_by(arguments) else []
    )  # its files wait to be sent
    needed = [
        permit(
            {"wandb": wandb, **dict.fromkeys(UPLOAD_KEYS, hub)}.get(name, name),
            allowed,
            terms["agreements"],
            Refused,
        )
        for name in sent_by(arguments) + offline
    ]
    keep_inside(terms["agreements"], Refused, [entry for entry in needed if entry])
    return [entry for entry in needed if entry]


UPLOAD_KEYS = ("push_to_hub", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id")
UPLOAD_VARIABLES = (
    "TRACKIO_SPACE_ID",
    "TRACKIO_SERVER_URL",
    "TRACKIO_BUCKET_ID",
    "TRACKIO_REGISTRY_BUCKET_ID",
)
DEEPSPEED_KEYS = {  # at the top of its JSON, where DeepSpeed passes over what it does not know; inside, its own classes know
    "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping", "zero_optimization", "bf16",
    "fp16", "optimizer", "scheduler", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer", "steps_per_print",
    "wall_clock_breakdown", "activation_checkpointing", "communication_data_type", "data_types", "prescale_gradients",
    "gradient_predivide_factor", "checkpoint", "flops_profiler", "comms_logger", "tensorboard", "csv_monitor", "aio", "torch_autocast",
    "compile",
}  # fmt: skip


def check_deepspeed(file):
    if file == "none":
        return
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    try:
        config = json.loads(Path(file).read_text())
        unknown = [key for key in config if key not in DEEPSPEED_KEYS]
        for part, known in (
            ("zero_optimization", DeepSpeedZeroConfig),
            ("bf16", DeepSpeedBF16Config),
            ("fp16", DeepSpeedFP16Config),
        ):
            try:
                known(**config.get(part, {}))
            except pydantic.ValidationError as error:
                unknown += [
                    f"{'.'.join([part, *map(str, found['loc'])])} ({found['msg']})"
                    for found in error.errors()
                ]
    except (OSError, ValueError, TypeError) as error:
        raise Refused(f"{file}: not a DeepSpeed file: {error}") from error
    if unknown:
        raise Refused(
            f"{file}: DeepSpeed does not know {', '.join(unknown)}. Next: see https://www.deepspeed.ai/docs/config-json"
        )


def check_weights(folder):
    """Refused if the weights of a model or adapter are pickles."""
    endings = {path.suffix for path in Path(folder).glob("*") if path.name != "training_args.bin"}
    if ".safetensors" not in endings and endings & {".bin", ".pt", ".pth", ".pkl", ".ckpt"}:
        load = f"from transformers import AutoModelForCausalLM as A; A.from_pretrained('{folder}').save_pretrained('NEW')"
        raise Refused(
            f'{folder}: its weights are pickles, which can run code; only safetensors are read. Next: python -c "{load}", '
            f"which reads tensors and nothing else of them"
        )


def check_model(model, length, revision="main"):
    """(config, tokenizer) of a model's folder or Hub name; Refused if there is none, or it cannot learn texts of `length` tokens that end in EOS."""
    folder = Path(model)
    elsewhere = (
        re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model)
        and not folder.exists()
        and not (folder.parent.name and folder.parent.exists())
    )
    if not Path(folder, "config.json").is_file() and not elsewhere:  # a name as the Hub has them
        raise Refused(
            f"{model}: no model here (no config.json). Next: check model_name_or_path; a path starts at the current folder"
        )
    check_weights(model)
    try:
        config, tokenizer = (
            auto.from_pretrained(model, revision=revision, trust_remote_code=False)
            for auto in (AutoConfig, AutoTokenizer)
        )
    except (
        ValueError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:  # also: code of its own, which is not run
        raise Refused(
            f"{model}: config.json or the tokenizer cannot be read: {error}. Next: a model that transformers knows"
        ) from error
    except OSError as error:
        said = str(error).splitlines()[0].rstrip(".")
        raise Refused(
            f"{model}: {said}. Next: check model_name_or_path; train that model first, or hf download it"
        ) from error
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if length and positions and length > positions:
        said = f"texts of {length} tokens, but {model} knows {positions} positions"
        raise Refused(f"{said}. Next: shorter texts, or rope_parameters in its config.json")
    if tokenizer.eos_token_id is None:
        raise Refused(
            f"the tokenizer of {model} has no EOS: nothing would learn to stop. Next: eos_token in its tokenizer_config.json"
        )
    return config, tokenizer


def split_step(key, given, unit, training_args):
    """Set micro-batch and accumulation so that all ranks together take `given` (rows x unit) a step: the largest micro-batch that divides a rank's
    share and is not above per_device_train_batch_size, which says what fits into memory. None: as they stand. Returns what a step takes."""
    whole = training_args.world_size * unit
    if given is None:
        given = whole * training_args.per_device_train_batch_size * training_args.gradient_accumulation_steps
    if given % whole or given < whole:
        nearest = " or ".join(str(times * whole) for times in (given // whole, given // whole + 1) if times)
        ranks = training_args.world_size
        raise Refused(
            f"{key} {given} is no multiple of {whole} = {ranks} ranks x {unit}. Next: {key} {nearest}, or other ranks"
        )
    share = given // whole
    micro = max(size for size in range(1, training_args.per_device_train_batch_size + 1) if share % size == 0)
    training_args.per_device_train_batch_size, training_args.gradient_accumulation_steps = (
        micro,
        share // micro,
    )
    return given


def check_precision(model, training_args):
    """Refused if an AdamW step, about learning_rate in size, is lost in the rounding of most 16-bit weights and nothing holds it back for later:
    no float32 copy (DeepSpeed keeps one), no stochastic rounding, no Kahan sum. Looks at up to a million weights of each tensor."""
    held_back = ("bf16_stochastic_round=true", "use_kahan_summation=true", "kahan_sum=true")
    kept = any(setting in (training_args.optim_args or "").lower() for setting in held_back)
    coarse = [
        weight.detach()
        for weight in model.parameters()
        if weight.requires_grad and weight.element_size() == 2
    ]
    if (
        kept
        or not coarse
        or not training_args.learning_rate
        or os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    ):
        return
    pieces = [weight.flatten()[:1_000_000] for weight in coarse]
    share = sum((piece - training_args.learning_rate != piece).sum().item() for piece in pieces) / sum(
        piece.numel() for piece in pieces
    )
    if share < 0.5:
        raise Refused(
            f"at learning_rate {training_args.learning_rate} only {100 * share:.0f} % of the {coarse[0].dtype} weights would move. "
            f"Next: dtype float32 with bf16 true, or optim adamw_torch_8bit with optim_args bf16_stochastic_round=True"
        )


def check_disk(trainer):
    """Refused unless the checkpoints to come fit on the disk: weights, and 8 bytes of AdamW for each trained one (12 with DeepSpeed's float32 copy);
    one more than save_total_limit (3 where it is not set), because an old one goes only when the new one is whole; and the model at the end."""
    args, weights = trainer.args, list(trainer.model.parameters())
    trained = [weight for weight in weights if weight.requires_grad]
    saved = trained if len(trained) < len(weights) else weights  # an adapter goes alone
    model = sum(numel(weight) * weight.element_size() for weight in saved)
    moments = (
        0 if args.save_only_model else sum(map(numel, trained)) * (12 if trainer.is_deepspeed_enabled else 8)
    )
    checkpoint = model + moments
    there = len(list(Path(args.output_dir).glob("checkpoint-*/complete.json")))
    copies = 0 if args.save_strategy == "no" else max(0, (args.save_total_limit or 3) + 1 - there)
    needed, free = copies * checkpoint + model, shutil.disk_usage(args.output_dir).free
    if needed > free:
        said = f"{copies} checkpoints and the model need {needed / 1e9:.3g} GB, {free / 1e9:.3g} GB are free"
        raise Refused(
            f"{args.output_dir}: {said}. Next: save_total_limit 1, save_only_model true, or another disk"
        )


# ---------------------------------------------------------------- run record
MACHINE = {  # keys that say where and how a run runs, not what it is: they may change between stopping and going on
    "overwrite", "local_rank", "world_size", "peak_tflops", "allow_upload", "allow_list", "per_device_train_batch_size", "per_device_eval_batch_size",
    "gradient_accumulation_steps", "gradient_checkpointing", "activation_checkpointing", "dataloader_num_workers", "dataloader_prefetch_factor",
    "dataloader_pin_memory", "accelerator_config", "save_total_limit", "report_to", "disable_tqdm",
}  # fmt: skip


def open_run(script, reads, model, overwrite, *parts):
    """Begin OUTPUT_DIR/run.json, or return the record of this same run found there: "running", to be resumed, or "complete". The run is known by its
    arguments (`parts`, dataclasses; without MACHINE), the files in `reads`, the run.json or config.json of a local `model`, `script` and this file.
    Its access class is the strictest of what it reads; if that is credentialed, keep_on_site."""
    parent = [
        path
        for path in (Path(model, name) for name in ("run.json", "complete.json", "config.json"))
        if path.is_file()
    ][:1]
    reads = [*reads, *parent]
    if missing := [path for path in reads if not path.is_file()]:
        raise Refused(
            f"{missing[0]}: no such file. Next: check the paths of the YAML; they start at the current folder"
        )
    given = {
        key: value
        for part in parts
        for key, value in (part.to_dict() if hasattr(part, "to_dict") else vars(part)).items()
    }
    arguments = json.loads(json.dumps(given, default=str))
    inputs = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in reads}
    inputs |= {
        Path(file).name: hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in (script, __file__)
    }
    folder, old, changed = Path(arguments["output_dir"]), {}, []
    if (folder / "run.json").is_file():
        old = json.loads((folder / "run.json").read_text())
        changed = [k for k in arguments if k not in MACHINE and arguments[k] != old["arguments"].get(k)]
        changed += [k for k in inputs if inputs[k] != old["inputs"].get(k)]
        if changed and not overwrite:
            raise Refused(
                f"{folder} holds another run (differs in {', '.join(changed)}). Next: another output_dir, or --overwrite true"
            )
        if not changed and old["status"] == "complete":
            return old
        if changed:
            old = {}
    elif folder.is_dir() and any(folder.iterdir()):
        raise Refused(
            f"{folder} holds files and no run.json: not a run of these recipes. Next: another output_dir"
        )
    cached = (
        None
        if Path(model).exists()
        else try_to_load_from_cache(model, "config.json", revision=arguments.get("model_revision"))
    )
    config = Path(cached) if isinstance(cached, str) else Path(model, "config.json")
    terms = terms_of([*reads, *([config] if config.is_file() else [])])
    allowed = keep_on_site(terms, arguments)
    if changed:
        shutil.rmtree(folder)  # now that nothing refuses the new run
    git = ["git", "-C", str(Path(script).resolve().parent), "rev-parse", "HEAD"]
    packages = (
        "torch",
        "transformers",
        "trl",
        "peft",
        "accelerate",
        "datasets",
        "deepspeed",
        "bitsandbytes",
        "torchao",
    )
    machine = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"{platform.machine()} CPU, {os.cpu_count()} cores"
    )
    session = {"machine": machine, "ranks": int(os.environ.get("WORLD_SIZE", 1)), "started": time.time()}
    record = {
        "status": "running", "stage": Path(script).stem, **terms, "allowed": allowed,
        "parent": str(parent[0]) if parent else model, "machine": machine, "ranks": session["ranks"],
        "commit": subprocess.run(git, capture_output=True, text=True).stdout.strip() if shutil.which("git") else "",
        "versions": {name: importlib.metadata.version(name) for name in packages if importlib.util.find_spec(name)},
        "arguments": arguments, "inputs": inputs, "sessions": [*old.get("sessions", []), session],
    }  # fmt: skip
    return write_run(record)


def terms_of(reads):
    """The strictest access class, the agreements behind credentialed data, and who declassified what, of all that a run reads: a manifest or run.json says
    it of what it describes, a row of itself, a model's other files if a training left it there. Refused where one of the first two says nothing, or a class
    is unknown."""
    known, classes, agreements, signed = ("public", "gated", "credentialed"), {"public": None}, set(), []
    for path in (path for path in reads if path.suffix in (".json", ".jsonl")):
        silent = "missing" if path.name in ("manifest.json", "run.json") else "public"
        with path.open(encoding="utf-8") as file:
            for record in map(json.loads, file) if path.suffix == ".jsonl" else [json.load(file)]:
                given = [record, *(record["inputs"] if isinstance(record.get("inputs"), list) else ())]
                classes |= {entry.get("access", silent): path for entry in given}
                agreements.update(
                    entry["license"]
                    for entry in given
                    if entry.get("access") == "credentialed" and "license" in entry
                )
                agreements.update(record.get("agreements", ()))
                signed += [entry for entry in record.get("declassified", ()) if entry not in signed]
    if wrong := [name for name in classes if name not in known]:
        raise Refused(
            f"{classes[wrong[0]]}: access is {wrong[0]}, must be one of {', '.join(known)}. Next: make it again with data_prep"
        )
    return {"access": max(classes, key=known.index), "agreements": sorted(agreements), "declassified": signed}


def close_run(record, **facts):
    """Add what the run took and what it gave; only now is it complete."""
    return write_run({**record, "status": "complete", "peak_memory_bytes": peak_memory_bytes(), **facts})


def write_run(record):
    """Write OUTPUT_DIR/run.json, whole or not at all. `seconds` is the time that its sessions ran; of a killed one, up to its last checkpoint."""
    session = record["sessions"][-1]
    session["seconds"] = round(time.time() - session["started"], 1)
    record["seconds"] = round(sum(session["seconds"] for session in record["sessions"]), 1)
    folder = Path(record["arguments"]["output_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    if int(os.environ.get("RANK", 0)) == 0:
        if record["access"] == "credentialed":
            folder.chmod(0o700)
        replace(folder / "run.json", json.dumps(record, indent=1) + "\n")
    return record


def replace(path, text):
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)


def peak_memory_bytes():
    """Of this rank: what was allocated on its GPU, or held in memory."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB elsewhere
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else resident


def last_checkpoint(training_args):
    """The newest whole checkpoint, or None; what was cut short is passed over. Refused if DeepSpeed saved it on another number of ranks."""
    folders = sorted(
        Path(training_args.output_dir).glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1])
    )
    whole = [path for path in folders if (path / "complete.json").is_file()]
    if folders and folders[-1] not in whole:
        print(f"{folders[-1]}: not whole, going on from {whole[-1] if whole else 'the start'}")
    if not whole:
        return None
    ranks = json.loads((whole[-1] / "complete.json").read_text())["ranks"]
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true" and ranks != training_args.world_size:
        raise Refused(
            f"{whole[-1]} was saved by DeepSpeed on {ranks} ranks, {training_args.world_size} run. Next: launch {ranks} ranks, or take it as "
            f"model_name_or_path of a new run (weights, no optimizer), or python -m deepspeed.checkpoint.ds_to_universal --help"
        )
    return str(whole[-1])


def parse(parser, arguments):
    """The dataclasses of a YAML and a command line. Refused says what is wrong with which of them, in place of argparse's pages of usage."""
    given = " ".join(arguments)

    def refuse(said):
        raise Refused(f"{given}: {said}. Next: correct it; --help lists the keys of this recipe")

    parser.error = refuse
    try:
        return parser.parse_args_and_config(arguments)
    except (ValueError, TypeError, YAMLError) as error:
        raise Refused(f"{given}: {error}") from error


def start(main, parser):
    """Parse the YAML and the command line and run `main`; what is wrong with them is one sentence, once for all ranks, and no traceback."""
    try:
        main(*parse(parser, sys.argv[1:]))
    except Refused as error:
        said = str(error)
    # What cannot be found or opened; code in a checkpoint; modules to adapt that the model has not
    except (OSError, pickle.UnpicklingError, PeftError) as error:
        said = f"{' '.join(sys.argv[1:])}: {error}"
    else:
        return
    sys.exit(f"error: {' '.join(said.split())}" if int(os.environ.get("LOCAL_RANK", 0)) == 0 else 1)
