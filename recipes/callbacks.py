"""Trainer callbacks, one concern each. They observe, record and refuse; none of them changes what is trained.

LossGuard      ends the run on a loss or gradient that is not finite, or on a loss spike, before the optimizer
               step
GracefulStop   SIGTERM (Slurm, Kubernetes): all ranks finish the step, save a checkpoint and exit
Throughput     tokens/s, MFU and peak memory in the log
Ledger         pretraining: a checksum of the blocks that each optimizer step consumed, audited at the end

A recipe that does not want one deletes its line in `callbacks=[...]`. run.json and checkpoints:
run_record.py."""

import collections
import hashlib
import json
import math
import resource
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from accelerate.state import GradientState
from checks import Refused, local_part, sequence_ranks
from hardware import model_flops, peak_tflops
from transformers import TrainerCallback


def all_ranks(values, device, op="sum"):
    """List of numbers reduced over all ranks (`op`: sum or max), as a list."""
    if not (dist.is_available() and dist.is_initialized()):
        return list(values)
    kind = torch.int64 if all(isinstance(value, int) for value in values) else torch.float64
    total = torch.tensor(values, dtype=kind, device=device)
    dist.all_reduce(total, op=dist.ReduceOp.SUM if op == "sum" else dist.ReduceOp.MAX)
    return total.tolist()


class LossGuard(TrainerCallback):
    """Raises Refused before the optimizer takes a step from a non-finite loss or gradient, or from a loss
    more than `max_loss_jump` nats above the mean of the last 50 steps (None: no limit).
    DeepSpeed does not show its gradients: with it the weights are checked before they are saved.

    The loss is read by a forward hook, in time for DeepSpeed, which steps inside the last backward pass.
    """

    def __init__(self, max_loss_jump: float | None = 5.0):
        self.max_loss_jump, self.recent = max_loss_jump, collections.deque(maxlen=50)

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.args, self.state, self.losses, self.is_sum = args, state, [], False
        self.hook = model.register_forward_hook(self.read_loss, with_kwargs=True)

    def on_train_end(self, args, state, control, **kwargs):
        self.hook.remove()

    def read_loss(self, module, args, kwargs, output):
        if not (module.training and torch.is_grad_enabled()) or getattr(output, "loss", None) is None:
            return
        if sequence_ranks() == 1 or (kwargs["labels"] != -100).any():  # else a part of a row without labels
            self.losses.append(output.loss.detach().double())
        self.is_sum = (
            kwargs.get("num_items_in_batch") is not None
        )  # then the micro-batches add up to the mean
        if not GradientState().sync_gradients:
            return
        total, count = all_ranks([float(sum(self.losses)), float(len(self.losses))], self.args.device)
        self.losses.clear()
        loss, usual = total if self.is_sum else total / count, sum(self.recent) / max(1, len(self.recent))
        spike = self.max_loss_jump and len(self.recent) >= 10 and loss > usual + self.max_loss_jump
        if not math.isfinite(loss) or spike:
            self.refuse(f"loss {loss:.4g} (mean of recent steps {usual:.4g})")
        self.recent.append(loss)

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        if gradients and not self.all_finite(gradients):
            self.refuse("a gradient is not finite")

    def on_step_end(self, args, state, control, model=None, **kwargs):
        trained = (weight for weight in model.parameters() if weight.requires_grad)
        if control.should_save and not self.all_finite(trained):
            raise Refused(
                f"the weights are not finite at step {state.global_step} and were not saved. {self.advice()}"
            )

    def all_finite(self, tensors):
        tensors = [local_part(tensor.detach()) for tensor in tensors]
        finite = torch.nn.utils.get_total_norm(tensors).isfinite()  # one pass, NaN and infinity stay
        if not finite:  # or the squares overflowed
            finite = all(tensor.isfinite().all() for tensor in tensors)
        return not all_ranks([float(not finite)], self.args.device, "max")[0]

    def refuse(self, what):
        step = self.state.global_step + 1
        raise Refused(f"{what} at step {step}; the weights did not take that step. {self.advice()}")

    def advice(self):
        return (
            "Next: look at the rows of that step, then a new output_dir that starts from the last "
            "checkpoint, with a "
            "lower learning_rate or max_loss_jump null"
        )


class GracefulStop(TrainerCallback):
    """On SIGTERM all ranks agree at the end of a step, save a checkpoint and leave. (`enable_jit_checkpoint`
    of transformers 5.23 decides on each rank alone, so ranks can save at different steps, and it skips
    on_save.)"""

    def on_train_begin(self, args, state, control, **kwargs):
        self.requested = self.stopped = False
        self.previous = signal.signal(signal.SIGTERM, lambda *_: setattr(self, "requested", True))

    def on_step_end(self, args, state, control, **kwargs):
        if all_ranks([float(self.requested)], args.device, "max")[0]:
            self.stopped = control.should_training_stop = True
            # within an epoch of length groups a checkpoint would resume on other rows: keep the last epoch's
            grouped = args.train_sampling_strategy in ("group_by_length", "batch_rebalance")
            control.should_save = control.should_log = not grouped

    def on_train_end(self, args, state, control, **kwargs):
        signal.signal(signal.SIGTERM, self.previous)
        if self.stopped and state.global_step < state.max_steps:
            raise Refused(
                f"stopped by SIGTERM after step {state.global_step}. Next: the same command resumes"
            )


class Throughput(TrainerCallback):
    """Adds to each log line: tokens_per_second, tokens_seen (all ranks, padding excluded), memory_gb (peak)
    and mfu = model FLOPs / (seconds x peak x ranks). Time spent in evaluation is not counted."""

    def __init__(self, peak_tflops: float | None = None):
        self.peak = peak_tflops

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        logged = [entry["tokens_seen"] for entry in state.log_history if "tokens_seen" in entry]
        self.seen, self.model, self.lengths = logged[-1] if logged else 0, model, []
        self.peak = self.peak or (torch.cuda.is_available() and peak_tflops(torch.cuda.get_device_name()))
        self.hook = model.register_forward_pre_hook(self.read_lengths, with_kwargs=True)
        self.clock = time.perf_counter()

    def on_train_end(self, args, state, control, **kwargs):
        self.hook.remove()

    def read_lengths(self, module, args, inputs):
        """Keep [documents] of the batch: their lengths, on the device, without waiting for it."""
        if not (module.training and torch.is_grad_enabled()):  # a reference, or an evaluation
            return
        if inputs.get("cu_seq_lens_q") is not None:
            self.lengths.append(inputs["cu_seq_lens_q"].diff())
        elif inputs.get("attention_mask") is not None:
            self.lengths.append(inputs["attention_mask"].sum(-1).flatten())
        else:
            rows, length = inputs["input_ids"].shape
            self.lengths.append(torch.full((rows,), length, device=inputs["input_ids"].device))

    def on_step_end(self, args, state, control, **kwargs):
        control.should_log |= control.should_save  # tokens_seen of a resumed run starts from the log
        self.paused = time.perf_counter()

    def on_evaluate(self, args, state, control, **kwargs):
        if hasattr(self, "paused"):
            now = time.perf_counter()
            self.clock, self.paused = self.clock + now - self.paused, now

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" not in (logs or {}):
            return
        lengths = (
            torch.cat([lengths.long() for lengths in self.lengths]) if self.lengths else torch.zeros(1).long()
        )
        tokens, squares = all_ranks([int(lengths.sum()), int((lengths * lengths).sum())], args.device)
        squares *= sequence_ranks()  # each rank has seen its share of a row
        seconds, self.lengths, self.seen = time.perf_counter() - self.clock, [], self.seen + tokens
        added = {"tokens_per_second": round(tokens / seconds, 1), "tokens_seen": self.seen}
        if self.peak:
            flops = model_flops(self.model, tokens, squares)
            added["mfu"] = round(flops / (seconds * self.peak * 1e12 * args.world_size), 4)
        added["memory_gb"] = round(peak_memory_bytes() / 1e9, 3)
        logs.update(added)
        state.log_history[-1].update(added)
        self.clock = time.perf_counter()


def peak_memory_bytes():
    """Of this rank: allocated on its GPU, or resident."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB elsewhere
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else resident


class Ledger(TrainerCallback):
    """OUTPUT_DIR/ledger.jsonl: {"step", "blocks", "checksum"} of the token ids that the model was given for
    each optimizer step, over all ranks. The checksum does not depend on how the blocks were spread over
    ranks."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.file, self.batches = Path(args.output_dir, "ledger.jsonl"), []
        lines = self.file.read_text().splitlines() if state.global_step and self.file.is_file() else []
        if len(lines) < state.global_step:
            raise Refused(
                f"{self.file} ends at step {len(lines)}, before checkpoint-{state.global_step}. "
                "Next: restore the file, or another output_dir"
            )
        if state.is_world_process_zero:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.write_text("".join(f"{line}\n" for line in lines[: state.global_step]))
        self.hook = model.register_forward_pre_hook(self.read_blocks, with_kwargs=True)

    def on_train_end(self, args, state, control, **kwargs):
        self.hook.remove()

    def read_blocks(self, module, args, inputs):
        if module.training:
            self.batches.append(position_sums(inputs["input_ids"], inputs.get("position_ids")))

    def on_step_end(self, args, state, control, **kwargs):
        seen, shared = torch.cat(self.batches), sequence_ranks()
        if shared > 1:  # neighbouring ranks have parts of the same rows
            parts = [torch.empty_like(seen) for _ in range(args.world_size)]
            dist.all_gather(parts, seen.contiguous())
            first = args.process_index // shared * shared
            seen = sum(parts[first : first + shared]) if args.process_index == first else seen[:0]
        seen = seen * (2 * seen + 1)
        blocks, checksum = all_ranks([len(seen), int(seen.sum())], args.device)
        self.batches = []
        if state.is_world_process_zero:
            with self.file.open("a") as file:
                line = {"step": state.global_step, "blocks": blocks, "checksum": f"{checksum % 2**64:016x}"}
                file.write(json.dumps(line) + "\n")

    def audit(self, dataset):
        """Compare the ledger with `dataset` (item i: the i-th block of an epoch, {"input_ids"}); Refused if a
        step consumed other blocks than its own. Returns {"steps", "blocks", "sha256"} for run.json."""
        text, place = self.file.read_text(), 0
        for number, line in enumerate(map(json.loads, text.splitlines()), 1):
            rows = [dataset[i % len(dataset)]["input_ids"] for i in range(place, place + line["blocks"])]
            expected = int(checksums(torch.from_numpy(np.stack(rows).astype(np.int64))).sum()) % 2**64
            if line["step"] != number or line["checksum"] != f"{expected:016x}":
                raise Refused(
                    f"{self.file}: step {number} consumed other blocks than the training order has there. "
                    "Next: train again in another output_dir"
                )
            place += line["blocks"]
        return {"steps": number, "blocks": place, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def checksums(input_ids):
    """int64 [rows] of int64 token ids [rows, length]: a polynomial of the ids and their positions, modulo
    2**64."""
    row = position_sums(input_ids)
    return row * (2 * row + 1)


def position_sums(input_ids, positions=None):
    """int64 [rows]: ids weighted by their places in the row; those of the parts of a row add up."""
    if positions is None or sequence_ranks() == 1:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
    weights = ((positions + 1) * -7046029254386353131) | 1  # odd: every id counts
    return (input_ids.long() * weights).sum(1)
