"""Look at a run before it is paid for: real rows as the trainer will see them, and what is most often wrong with them. Nothing is trained or written.

    python recipes/preflight.py --config recipes/configs/demo_chat.yaml
    accelerate launch --config_file accelerate_configs/zero3_8gpu.yaml recipes/preflight.py --config recipes/configs/sft_13b_full.yaml --world_size 8
    python recipes/preflight.py --config recipes/configs/pretrain_70b.yaml --accelerate accelerate_configs/zero3_160gpu.yaml

The second looks from every rank of the machine that will train; the third judges that machine from another one, such as a login node. Any --key value more
goes to the recipe, as when it is launched. Exit code 1, and what, where, why and what to change for each failure, unless all of these hold:

  ranks       every rank has the same Python, packages, recipe, YAML, data, tokenizer and sizes of weights
  launch      as many ranks as asked for, a DeepSpeed file that is understood, no tracker or upload that the access class of the data forbids
  inputs      data, model and settings can be read, and the step divides among the ranks
  vocabulary  the tokenizer is the one of the blocks, and every id has a row in the embedding
  eos         each answer of each row ends in a supervised EOS; each document of the blocks in EOS
  bos         one BOS begins each conversation or document, if the tokenizer has one. A conversation may have as many as turns of the user, the others right
              after an answer, as LLaMA-2's format has it. What `generate`, evaluation and a server are given begins with exactly one
  labels      each row has a supervised token, and the batch has the labels of the row
  truncation  rows longer than max_length are at most --max_truncated of all
  padding     no label where a batch is padded, and the pad token is not EOS
  prompt      the trained row begins with the ids that are asked by `generate`, in evaluation (the calls of lm-evaluation-harness) and of a server (text of
              the template, tokenised without more special tokens), all with the tokenizer as it will be saved, and the answer follows. A blank between them
              passes (LLaMA-2's format has one, which tokenizers join to most answers) and is counted
  packing     packed documents do not see each other on this backend, and the bounds in real batches are those of the documents
  precision   a step of the learning rate changes most of the weights in the type they are kept in: seen on parts of the stored weights
  disk        checkpoints and model fit

How: the recipe's own main runs up to its trainer, with the recipe's reading, tokenising, cutting, packing and collating, on --sample rows spread evenly over
the data, the first and the last among them. In place of the weights stands a model of one layer, 8 wide; sizes are counted on the meta device.
It imports the recipe and run_guard.py that lie beside it: cp recipes/{sft,run_guard,egress,preflight}.py elsewhere/
"""

import argparse
import contextlib
import copy
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import datasets
import jinja2
import numpy as np
import run_guard
import torch
import transformers
import yaml
from accelerate import PartialState
from accelerate.utils import gather_object
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from peft import PeftError, PeftModel, get_peft_model
from run_guard import Answers, Refused, Watched
from safetensors import safe_open
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

WHY = {  # the checks, in the order of the table
    "ranks": "gradients are summed over ranks: one that differs spoils all of them without an error",
    "launch": "the run would not be the one that was asked for, or data would leave the site",
    "inputs": "the recipe would stop at this by itself, on the machine that was waited for",
    "vocabulary": "ids would mean other words, or have no row in the embedding",
    "eos": "the model does not learn to stop: its answers go on to the limit",
    "bos": "the model is asked in another way than it was trained, which costs accuracy without an error",
    "labels": "nothing, or other tokens than meant, would be learned from these rows",
    "truncation": "what is cut off is the end: the answer and its EOS",
    "padding": "the model would learn to write padding; where padding is EOS, whoever masks it masks the end of answers too",
    "prompt": "the model would answer prompts that it was not trained on",
    "packing": "texts would be learned as the continuation of unrelated ones",
    "precision": "the step is lost in rounding: the loss is logged, and the weights stay as they are",
    "disk": "the run would stop at a checkpoint, hours from now",
}
ACCESS = ("public", "gated", "credentialed")  # data_prep/schema.py
PROMPTS = 200  # rows whose prompts are rendered on every path
NAMED = 3  # failures of one kind that are named; the others are counted


class Report:
    """What failed, what was looked at and how long it took, by check."""

    def __init__(self):
        self.failures, self.looked, self.seconds = {}, {}, Counter()

    def fail(self, check, what, change, *where):
        self.failures.setdefault((check, what, change), []).extend(where)

    def failed(self):
        return [name for name in WHY if any(check == name for check, _, _ in self.failures)]

    @contextlib.contextmanager
    def check(self, name):
        """Times a check; a Refused is its failure."""
        began = time.perf_counter()
        self.looked.setdefault(name, "")
        try:
            yield
        except Refused as error:
            what, _, change = str(error).partition(" Next: ")
            self.fail(name, what.rstrip("."), change or "see --help of the recipe")
        self.seconds[name] += time.perf_counter() - began


# ---------------------------------------------------------------- the recipe, up to its trainer
COLLECTED = {
    "check_launch": "launch",
    "open_run": "launch",
    "check_choice": "inputs",
    "split_step": "inputs",
    "check_tokenizer": "vocabulary",
    "set_pad_token": "padding",
    "check_isolation": "packing",
}


class Built(Exception):
    """The recipe has come to its trainer."""


def build(recipe, parsed, sample, ranks, report):
    """Run the recipe's main until it makes its trainer. What it refuses on the way is noted, and passed over where it can go on without.

    Returns what was found: config, tokenizer, peft (LoraConfig or None), rows (number of training rows or blocks), places (those looked at), whole (their
    rows before they are cut and packed, each with its `place`; None for blocks), silent (places left out: nobody answers), trainer (None: not reached),
    stopped (the Refused of the trainer itself), run (what open_run gave; None: it refused, and nobody knows what may be shown)."""
    nothing = dict.fromkeys(("config", "tokenizer", "peft", "whole", "trainer", "stopped", "run"))
    found = SimpleNamespace(**nothing, rows=0, places=(), silent=[])
    own = vars(recipe)
    [(name, kind)] = [
        (n, v)
        for n, v in own.items()
        if isinstance(v, type) and issubclass(v, Watched) and v.__module__ == recipe.__name__
    ]

    def noted(function, check):
        def call(*args, **kwargs):
            with (
                report.check(check),
                mock.patch.object(type(parsed[1]), "world_size", ranks)
                if ranks
                else contextlib.nullcontext(),
            ):
                return function(*args, **kwargs)
            return None

        return call

    def check_model(*args, function=own["check_model"], **kwargs):
        found.config, found.tokenizer = function(*args, **kwargs)
        return found.config, found.tokenizer

    def make_trainer(**settings):
        args, data = settings["args"], settings["train_dataset"]
        found.peft, found.rows = settings.get("peft_config"), len(data)
        args.report_to, args.push_to_hub, args.dataloader_num_workers, args.dataloader_prefetch_factor = (
            [],
            False,
            0,
            None,
        )
        shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        settings["model"] = LlamaForCausalLM(
            LlamaConfig(vocab_size=found.config.get_text_config().vocab_size, **shape)
        )
        if "messages" in getattr(data, "column_names", ()) and not (
            args.chat_template_path or found.tokenizer.chat_template
        ):
            raise Refused(
                "the tokenizer has no chat template. Next: chat_template_path recipes/chat_template.jinja"
            )
        if issubclass(kind, Answers):
            found.places, args.model_init_kwargs = spread(found.rows, sample), None
            settings["train_dataset"] = answered(
                data.select(found.places).add_column("place", found.places), args, found
            )
            settings["eval_dataset"] = settings["eval_dataset"].select(
                range(min(8, len(settings["eval_dataset"])))
            )
            settings |= {"quantization_config": None, "peft_config": None}
        else:
            unit = args.per_device_train_batch_size * args.world_size
            if found.rows < unit:
                raise Built  # split_step has said why
            found.places = spread(found.rows, max(unit, min(sample, found.rows) // unit * unit))
            data.order = data.order[found.places]
        try:
            found.trainer = keeping_whole(kind, found)(**settings)
        except Refused as error:
            found.stopped = error
        raise Built

    stand_ins = {key: noted(own[key], check) for key, check in COLLECTED.items() if key in own}

    def open_run(*args, function=stand_ins["open_run"]):
        found.run = function(*args)
        return found.run or {"status": "running", "access": "credentialed"}

    stand_ins |= {"open_run": open_run, "check_model": check_model, name: make_trainer}
    if "AutoModelForCausalLM" in own:
        stand_ins["AutoModelForCausalLM"] = mock.MagicMock()
    with contextlib.ExitStack() as stack:
        stack.enter_context(report.check("inputs"))
        stack.enter_context(mock.patch.multiple(recipe, **stand_ins))
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="preflight_"))
        new_run = str(Path(folder, "run"))  # whatever lies in the real folder
        stack.enter_context(mock.patch.object(parsed[1], "output_dir", new_run))
        try:
            recipe.main(*parsed)
        except Built:
            pass
        except (ValueError, TypeError, RuntimeError, OSError, jinja2.TemplateError) as error:
            closed = not found.run or found.run["access"] == "credentialed"
            said = "its message may quote a credentialed row, and is left out" if closed else error
            raise Refused(f"{type(error).__name__}: {said}") from error
    return found


def spread(rows, sample):
    """Places of `sample` of `rows` rows, evenly, the first and the last among them."""
    return np.linspace(0, rows - 1, min(rows, sample)).round().astype(np.int64)


def answered(rows, args, found):
    """The rows without those on which TRL would stop: conversations that nobody answers, where only answers are supervised."""
    if getattr(args, "assistant_only_loss", False):
        talks = zip(rows["place"], rows["messages"], strict=True)
        found.silent = [
            place for place, talk in talks if all(message["role"] != "assistant" for message in talk)
        ]
    return (
        rows.filter(lambda place: place not in set(found.silent), input_columns="place")
        if found.silent
        else rows
    )


def keeping_whole(kind, found):
    """The recipe's trainer with TRL's preparation of the training rows in two parts, so that they are seen before they are cut and packed."""

    class Looking(kind):
        def _prepare_dataset(self, dataset, processing_class, args, packing, formatting_func, dataset_name):
            if dataset_name == "train":
                uncut = copy.copy(args)
                uncut.max_length = None
                dataset = found.whole = super()._prepare_dataset(
                    dataset, processing_class, uncut, False, formatting_func, dataset_name
                )
            return super()._prepare_dataset(
                dataset, processing_class, args, packing, formatting_func, dataset_name
            )

    return Looking if issubclass(kind, Answers) else kind


# ---------------------------------------------------------------- rows and blocks, and what may be shown of them
class Rows:
    """Training rows as TRL tokenised them, before they are cut: `texts` holds (place, ids, labels, row), `place` counting all rows from 0."""

    def __init__(self, folder, found, show_texts):
        self.tokenizer, self.show_texts, self.facts, self.texts = found.tokenizer, show_texts, {}, []
        path, wanted = Path(folder, "train.jsonl"), set(found.places.tolist())
        files = [[Path(folder, "manifest.json")], [path, Path(folder, "validation.jsonl")]]
        least, own = (run_guard.terms_of(each)["access"] if found.run else "credentialed" for each in files)
        floor = (
            "public" if found.run and own == least else least
        )  # rows that account for the manifest's class are taken at their word
        with path.open(encoding="utf-8") as lines:
            for place, line in enumerate(lines):
                if place in wanted:
                    row = json.loads(line)
                    access = (
                        floor
                        if floor == "credentialed"
                        else max(row.get("access", least), floor, key=ACCESS.index)
                    )
                    self.facts[place] = (f"row {row.get('id')} ({path} line {place + 1})", access)
        if found.whole is not None:
            numbers = found.whole.select_columns(["input_ids", "labels"]).with_format("numpy")
            rows = found.whole.remove_columns(["input_ids", "labels"])
            self.texts = [
                (row["place"], each["input_ids"], each["labels"], row)
                for each, row in zip(numbers, rows, strict=True)
            ]

    def name(self, place):
        return self.facts[place][0]

    def closed(self, place):
        """Whether the text must not be shown."""
        return self.facts[place][1] == "credentialed" and not self.show_texts

    def around(self, place, ids, at):
        """Where in a row: the token, and what stands before and after."""
        before, after = ids[max(0, at - 8) : at].tolist(), ids[at : at + 4].tolist()
        said = (
            "(credentialed, not shown)"
            if self.closed(place)
            else f"{self.tokenizer.decode(before)!r} | {self.tokenizer.decode(after)!r}"
        )
        return f"{self.name(place)}, token {at}: {said}"


class Blocks(Rows):
    """The same of blocks, by their row number in the training files; `texts` are whole blocks, `pieces` what they hold of which document."""

    def __init__(self, folder, found, show_texts):
        self.tokenizer, self.show_texts, self.data = found.tokenizer, show_texts, found.trainer.train_dataset
        self.manifest = json.loads(Path(folder, "manifest.json").read_text())
        self.files = [output for output in self.manifest["outputs"] if output["split"] == "train"]
        self.ends = np.cumsum([output["records"] for output in self.files])
        self.access = {}
        for source in self.manifest["inputs"] if found.run else ():
            name = source.get("source")
            self.access[name] = max(source["access"], self.access.get(name, "public"), key=ACCESS.index)
        least = run_guard.terms_of([Path(folder, "manifest.json")])["access"] if found.run else "credentialed"
        self.floor = "public" if least in self.access.values() else least
        rows = ((number, self.data.rows[number]) for number in map(int, self.data.order))
        self.texts = [
            (number, np.asarray(row["input_ids"], dtype=np.int64), None, row) for number, row in rows
        ]

    def file_of(self, number):
        """(file of a block, number of the file's first block)"""
        at = int(np.searchsorted(self.ends, number, "right"))
        return self.files[at], int(self.ends[at]) - self.files[at]["records"]

    def name(self, number):
        file, first = self.file_of(number)
        return f"block {number - first} of {file['path']}"

    def closed(self, number):
        source = self.file_of(number)[0]["source"]
        return "credentialed" in (self.access.get(source, "credentialed"), self.floor) and not self.show_texts

    def pieces(self):
        """(block, its ids, start, stop, document) of each piece"""
        for number, ids, _, row in self.texts:
            starts = np.cumsum([0, *row["seq_lengths"]]).tolist()
            for start, stop, document in zip(starts[:-1], starts[1:], row["documents"].tolist(), strict=True):
                yield number, ids, start, stop, document


def runs(labels):
    """[[start, stop]] of what is supervised."""
    return np.flatnonzero(np.diff(labels != -100, prepend=False, append=False)).reshape(-1, 2)


def messages_of(row, role):
    """Places in a row's conversation; an example without messages is one question and its answer."""
    return (
        [i for i, message in enumerate(row["messages"]) if message["role"] == role]
        if "messages" in row
        else [0]
    )


# ---------------------------------------------------------------- eos, bos
def check_row_ends(look):
    eos, answers = look.tokenizer.eos_token_id, 0
    change = f"each answer of the chat template ends in eos_token, inside its generation marks; or eos_token in the YAML (now {look.tokenizer.eos_token})"
    for place, ids, labels, row in look.rows.texts:
        for start, stop in runs(labels):
            last = stop - 1
            while last > start and ids[last] != eos and not look.tokenizer.decode(ids[last]).strip():
                last -= 1  # the line break that ChatML puts after an EOS
            if ids[last] != eos:
                look.report.fail(
                    "eos",
                    "an answer does not end in a supervised EOS",
                    change,
                    look.rows.around(place, ids, stop),
                )
        wanted, found = len(messages_of(row, "assistant")), int((labels == eos).sum())
        if found < wanted:
            look.report.fail(
                "eos",
                "a row has fewer supervised EOS than answers",
                change,
                f"{look.rows.name(place)}: {found} of {wanted}",
            )
        answers += wanted
    look.report.looked["eos"] = f"{answers:,} answers in {len(look.rows.texts):,} rows"


def check_row_begins(look):
    bos, eos, fail = look.tokenizer.bos_token_id, look.tokenizer.eos_token_id, look.report.fail
    change = (
        "bos_token at the start of the chat template, once; or, without a template, a tokenizer that adds it"
    )
    for place, ids, labels, row in look.rows.texts if look.has_bos else ():
        at = np.flatnonzero(ids == bos).tolist()
        if not at or at[0]:
            fail("bos", "a row does not begin with BOS", change, look.rows.around(place, ids, 0))
        for position in at if len(at) > 1 else ():
            where = look.rows.around(place, ids, position)
            if position and ids[position - 1] == bos:
                fail("bos", "BOS stands twice", change, where)
            elif position and ids[position - 1] != eos and labels[position - 1] == -100:
                fail(
                    "bos",
                    "BOS stands inside a text",
                    "take it out of the row, or out of the middle of the chat template",
                    where,
                )
            elif position and len(at) > len(messages_of(row, "user")):
                fail("bos", "BOS stands more often than turns of the user", change, where)
    look.report.looked["bos"] = (
        f"{len(look.rows.texts):,} rows" if look.has_bos else "the tokenizer has none of its own"
    )


def check_piece_ends(look):
    """A piece without EOS was cut at the end of its block."""
    eos, pieces, again = (
        look.tokenizer.eos_token_id,
        0,
        "python -m data_prep.build_blocks with this tokenizer",
    )
    for number, ids, start, stop, _ in look.rows.pieces():
        pieces += 1
        if ids[stop - 1] != eos and stop < len(ids):
            look.report.fail(
                "eos", "a document does not end in EOS", again, look.rows.around(number, ids, stop)
            )
        if look.has_bos and (inside := np.flatnonzero(ids[start : stop - 1] == eos)).size:
            look.report.fail(
                "eos",
                "EOS stands inside a document",
                again,
                look.rows.around(number, ids, start + int(inside[0])),
            )
    look.report.looked["eos"] = f"{pieces:,} pieces of documents in {len(look.rows.texts):,} blocks"


def check_piece_begins(look):
    """A piece without BOS has its beginning in another block of its file."""
    bos, again, headless = (
        look.tokenizer.bos_token_id,
        "python -m data_prep.build_blocks with this tokenizer",
        {},
    )
    for number, ids, start, stop, document in look.rows.pieces() if look.has_bos else ():
        if ids[start] != bos:
            file, first = look.rows.file_of(number)
            headless.setdefault((first, file["records"]), []).append((number, ids, start, document))
        for at in start + 1 + np.flatnonzero(ids[start + 1 : stop] == bos):
            what = "BOS stands twice" if ids[at - 1] == bos else "BOS stands inside a document"
            look.report.fail("bos", what, again, look.rows.around(number, ids, int(at)))
    for (first, records), parts in list(headless.items())[:20]:  # files, of some 15,000 blocks each
        documents = look.rows.data.rows.select(range(first, first + records)).with_format("arrow")[
            "documents"
        ]
        count = np.bincount(np.concatenate([chunk.flatten().to_numpy() for chunk in documents.chunks]))
        for number, ids, start, document in parts:
            if count[document] == 1:
                look.report.fail(
                    "bos", "a document does not begin with BOS", again, look.rows.around(number, ids, start)
                )
    look.report.looked["bos"] = (
        look.report.looked["eos"] if look.has_bos else "the tokenizer has none of its own"
    )


# ---------------------------------------------------------------- labels, truncation
def check_supervised(look):
    texts, silent = look.rows.texts, look.found.silent
    change = "an answer in the row, and generation marks around answers in the chat template"
    for place in [*silent, *(place for place, _, labels, _ in texts if not (labels != -100).any())]:
        look.report.fail("labels", "a row has no supervised token", change, look.rows.name(place))
    share = sum((labels != -100).sum() for _, _, labels, _ in texts) / max(
        1, sum(len(ids) for _, ids, _, _ in texts)
    )
    look.report.looked["labels"] = (
        f"{len(texts) + len(silent):,} rows, {100 * share:.0f} % of their tokens supervised"
    )


def check_truncation(look):
    texts, longest, limit = look.rows.texts, look.given.max_length or sys.maxsize, look.args.max_truncated
    over = [place for place, ids, _, _ in texts if len(ids) > longest]
    lost = sum(not (labels[:longest] != -100).any() for _, _, labels, _ in texts)
    lengths = [len(ids) for _, ids, _, _ in texts]
    look.report.looked["truncation"] = (
        f"{len(over):,} of {len(texts):,} rows longer than {look.given.max_length}, longest {max(lengths):,}"
    )
    if len(over) > limit * len(texts):
        share = 100 * len(over) / len(texts)
        said = f"{share:.3g} % of the rows are longer than max_length {longest}, {lost:,} of them have no answer left"
        enough = int(np.quantile(lengths, 1 - limit, method="higher"))
        look.report.fail(
            "truncation",
            said,
            f"max_length {enough}, shorter rows, or a higher --max_truncated",
            *map(look.rows.name, over),
        )


# ---------------------------------------------------------------- batches: padding, labels, packing
def check_batches(look):
    """The recipe's own batches of these rows, against the rows."""
    trainer, fail, blocks = look.found.trainer, look.report.fail, isinstance(look.rows, Blocks)
    isolated, counts = trainer.data_collator.isolated, Counter()
    if (
        not blocks
        and trainer.data_collator.pad_token_id == look.tokenizer.eos_token_id
        and "padding" not in look.report.failed()
    ):
        fail("padding", "the pad token is EOS", "pad_token in the YAML: a token that ends no answer")
    longest = getattr(look.given, "max_length", None)
    known = (
        {}
        if blocks
        else {ids[:longest].astype(np.int64).tobytes(): place for place, ids, _, _ in look.rows.texts}
    )
    for batch in trainer.get_train_dataloader():
        ids, labels = batch["input_ids"].cpu().numpy(), batch["labels"].cpu().numpy()
        counts["batches"] += 1
        for line, number in enumerate(batch["taken"][0]):
            row = trainer.train_dataset.rows[number] if blocks else trainer.train_dataset[number]
            lengths = np.asarray(row.get("seq_lengths", [len(row["input_ids"])]), dtype=np.int64)
            starts, used = np.cumsum([0, *lengths]), int(lengths.sum())
            place = known.get(ids[line, :used].tobytes())
            name = (
                look.rows.name(number)
                if blocks
                else f"packed row {number}"
                if place is None
                else look.rows.name(place)
            )
            counts.update(padded=ids.shape[1] - used, documents=len(lengths))

            if (padded := np.flatnonzero(labels[line, used:] != -100)).size:
                where = f"{name}, position {used + int(padded[0])} of its batch"
                fail(
                    "padding",
                    "a pad position has a label",
                    "the collator: labels are -100 after the end of a row",
                    where,
                )
            right = np.array(row.get("labels", row["input_ids"]), dtype=np.int64)[:used]
            if isolated:
                right[starts[:-1]] = -100  # no document predicts the next one's first token
            if (labels[line, :used] != right).any() or (
                ids[line, :used] != np.asarray(row["input_ids"])[:used]
            ).any():
                fail("labels", "a batch has other ids or labels than its row", "the collator", name)
            elif blocks and not (right[1:] != -100).any():
                fail(
                    "labels",
                    "a block has no supervised token",
                    "longer documents, in data_prep.build_blocks",
                    name,
                )
            if isolated:
                whole = (
                    known if getattr(look.given, "packing_strategy", "") == "bfd" else None
                )  # others split rows
                wrong = wrong_bounds(batch, line, starts, ids, whole)
                if wrong:
                    fail(
                        "packing",
                        wrong[0],
                        "the collator, or the seq_lengths of the rows",
                        f"{name}, {wrong[1]}",
                    )
    look.report.looked["padding"] = f"{counts['padded']:,} padded positions in {counts['batches']:,} batches"
    said = f"attention on {trainer.args.device.type}, bounds of {counts['documents']:,} documents in {counts['batches']:,} batches"
    look.report.looked["packing"] = said if isolated else "not asked for"
    if blocks:
        look.report.looked["labels"] = f"{len(look.rows.texts):,} blocks"


def wrong_bounds(batch, line, starts, ids, known):
    """(what, where) if the kernels are told other documents of a line than begin at `starts`, or one that is none of the `known` rows, if these are given."""
    width = ids.shape[1]
    told = [
        bound - line * width
        for bound in batch["cu_seq_lens_q"].tolist()
        if line * width <= bound < (line + 1) * width
    ]
    right = [start for start in starts.tolist() if start < width]
    if told != right:
        return (
            "a bound is not where a document begins",
            f"position {min(set(told) ^ set(right))}: told {told[:8]}, documents {right[:8]}",
        )
    positions = np.concatenate(
        [np.arange(stop - start) for start, stop in zip(right, [*right[1:], width], strict=True)]
    )
    if (batch["position_ids"][line].cpu().numpy() != positions).any():
        return "positions do not begin anew with each document", f"documents {right[:8]}"
    for start, stop in zip(starts[:-1], starts[1:], strict=True):
        if known is not None and ids[line, start:stop].tobytes() not in known:
            return "what stands between two bounds is no row", f"positions {start} to {stop}"


# ---------------------------------------------------------------- prompts
def evaluation_ids(tokenizer, text):
    """As lm-evaluation-harness 0.4.13 tokenises a prompt (HFLM.tok_batch_encode): special tokens are added unless it begins with BOS."""
    begun = tokenizer.bos_token and text.startswith(tokenizer.bos_token)
    return tokenizer(text, **({"add_special_tokens": False} if begun else {})).input_ids


def asked(tokenizer, row, turn):
    """{who asks: ids of the prompt} for the answer that stands at `turn` of a conversation, or for the one of an example."""
    if "messages" not in row:
        text = row["prompt"]
        served = tokenizer(
            text, add_special_tokens=not (tokenizer.bos_token and text.startswith(tokenizer.bos_token))
        ).input_ids
        return {
            "generate": tokenizer(text).input_ids,
            "evaluation": evaluation_ids(tokenizer, text),
            "a server": served,
        }
    talk = row["messages"][:turn]
    text = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    generate = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_dict=True)["input_ids"]
    return {
        "generate": generate,
        "evaluation": evaluation_ids(tokenizer, text),
        "a server": tokenizer(text, add_special_tokens=False).input_ids,
    }


def check_prompts(look):
    """What was trained before each answer, against what will be asked. How many BOS begin a prompt is judged apart, as bos."""
    prompts, blanks, name = 0, 0, look.rows.name
    change = "one chat template for both, where add_generation_prompt writes what stands before an answer; prompts that end where a token ends"
    with tempfile.TemporaryDirectory(prefix="preflight_") as folder:
        look.tokenizer.save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    for place, ids, labels, row in [look.rows.texts[i] for i in spread(len(look.rows.texts), PROMPTS)]:
        answers, spans = messages_of(row, "assistant"), runs(labels)
        if not answers:
            continue
        marked = len(spans) == len(answers) and spans[0][0] > 0  # else all of the row is supervised
        for turn, (start, stop) in (
            zip(answers, spans.tolist(), strict=True) if marked else [(answers[-1], (0, len(ids)))]
        ):
            prompts += 1
            trained, before = without_bos(look, ids[:stop])
            try:
                paths = asked(tokenizer, row, turn)
            except jinja2.TemplateError as error:
                look.report.fail(
                    "prompt", f"the chat template does not take a prompt: {error}", change, name(place)
                )
                continue
            for who, given in paths.items():
                prompt, begun = without_bos(look, np.array(given, dtype=np.int64))
                if look.has_bos and begun != 1:
                    what = f"the prompt for {who} begins with {'more than one' if begun else 'no'} BOS"
                    look.report.fail(
                        "bos",
                        what,
                        "bos_token in the chat template, or a tokenizer that adds it, not both",
                        name(place),
                    )
                same = len(os.path.commonprefix([prompt.tolist(), trained.tolist()]))
                gap = [
                    token
                    for token in trained[same : max(same, start - before)]
                    if not look.has_bos or token != tokenizer.bos_token_id
                ]
                if same < len(prompt) or (gap and tokenizer.decode(gap).strip(" ")):
                    where = (
                        look.rows.around(place, trained, same),
                        look.rows.around(place, prompt, same).split(": ", 1)[1],
                    )
                    what = f"the prompt for {who} is not what stands before the answer in training"
                    look.report.fail("prompt", what, change, "{} trained, {} asked".format(*where))
                elif gap and who == "generate":
                    blanks += 1
    note = f"; before {blanks:,} answers a blank that is not trained" if blanks else ""
    look.report.looked["prompt"] = f"{prompts:,} prompts, each for generate, evaluation and a server{note}"


def without_bos(look, ids):
    """(ids after the BOS that they begin with, how many these are)"""
    begun = int(np.argmin(np.append(ids, -1) == look.tokenizer.bos_token_id)) if look.has_bos else 0
    return ids[begun:], begun


# ---------------------------------------------------------------- sizes: vocabulary, precision, disk
def make_sizes(found, given, deepspeed):
    """The model on the meta device: shapes and types of all its weights and which of them are trained, without a byte of them."""
    with torch.device("meta"):
        model = MODEL_FOR_CAUSAL_LM_MAPPING[type(found.config)](found.config).to(getattr(torch, given.dtype))
        if found.peft:
            try:
                model = get_peft_model(model, copy.deepcopy(found.peft))
            except PeftError as error:
                raise Refused(f"lora_target_modules: {error}. Next: modules that this model has") from error
            for weight in model.parameters():
                weight.data = (
                    weight.data.float() if weight.requires_grad and not deepspeed else weight.data
                )  # as Answers does
    return model


def stored_weights(given):
    """Safetensors files of a local folder or of the Hub's local cache; none where the weights are not on this machine, or are to be random."""
    folder = Path(given.model_name_or_path)
    with contextlib.suppress(LocalEntryNotFoundError):
        if not folder.is_dir():
            folder = Path(
                snapshot_download(
                    str(folder), revision=getattr(given, "model_revision", None), local_files_only=True
                )
            )
    return [] if getattr(given, "from_scratch", False) else sorted(folder.glob("*.safetensors"))


def stored(files, wanted):
    """(file, name, slice of the tensor, of which nothing is read yet) of the `wanted` names that the files have."""
    for file in files:
        with safe_open(file, "pt") as tensors:
            for name in sorted(wanted & set(tensors.keys())):
                yield file, name, tensors.get_slice(name)


def check_vocabulary(look):
    tokenizer, fail, size = look.tokenizer, look.report.fail, look.config.get_text_config().vocab_size
    table = (
        look.found.trainer.model.get_input_embeddings().num_embeddings if look.found.trainer else size
    )  # TRL may have resized it
    change = "the tokenizer of this model, or a model whose embedding was resized for it"
    for place, ids, _, _ in look.rows.texts:
        if ids.max() >= table:
            fail(
                "vocabulary",
                f"an id has no row in the embedding of {table:,}",
                change,
                look.rows.around(place, ids, int(ids.argmax())),
            )
    if len(tokenizer) > table:
        what = f"the tokenizer has {len(tokenizer):,} tokens, the embedding {table:,} rows"
        fail("vocabulary", what, change, look.given.model_name_or_path)
    if isinstance(look.rows, Blocks):
        made_with, now = (
            look.rows.manifest["tokenizer"],
            {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id},
        )
        for name in (name for name in now if made_with[name] != now[name]):
            what = f"{name} is {made_with[name]} in the blocks, {now[name]} in the tokenizer"
            fail("vocabulary", what, "tokenizer_config.json, or the blocks made again", look.given.blocks)
    base = look.sizes.get_base_model() if isinstance(look.sizes, PeftModel) else look.sizes
    names = {
        name
        for name, weight in base.named_parameters()
        if weight.shape == base.get_input_embeddings().weight.shape
    }
    for file, name, tensor in stored(look.files, {name for name in names if "embed" in name}):
        if tensor.get_shape()[0] != size:
            what = f"{name} has {tensor.get_shape()[0]:,} rows, config.json says {size:,}"
            fail("vocabulary", what, "the model saved again after its embedding was resized", str(file))
    look.report.looked["vocabulary"] = (
        f"{len(tokenizer):,} tokens, {table:,} rows in the embedding; ids of {look.report.looked['inputs']}"
    )


def check_precision(look):
    trained = {name: weight for name, weight in look.sizes.named_parameters() if weight.requires_grad}
    coarse = [name for name, weight in trained.items() if weight.element_size() == 2]
    kinds = " and ".join(sorted({str(weight.dtype).removeprefix("torch.") for weight in trained.values()}))
    look.report.looked["precision"] = f"{kinds}, learning_rate {look.training_args.learning_rate:g}"
    if look.deepspeed:
        look.report.looked["precision"] += ", DeepSpeed keeps float32 copies"
    elif coarse:
        wanted = {coarse[i] for i in spread(len(coarse), 24)}
        most = {
            name: max(1, 200_000 * len(trained[name]) // trained[name].numel()) for name in wanted
        }  # rows of a tensor
        parts = [tensor[: most[name]] for _, name, tensor in stored(look.files, wanted)]
        origin = (
            f"{len(parts)} stored tensors"
            if parts
            else f"no weights here, random ones (initializer_range {look.config.initializer_range})"
        )
        parts = parts or [torch.randn(200_000) * look.config.initializer_range]
        look.report.looked["precision"] += f", on {sum(part.numel() for part in parts):,} weights: {origin}"
        weights = torch.nn.ParameterList(
            torch.nn.Parameter(part.to(getattr(torch, look.given.dtype))) for part in parts
        )
        run_guard.check_precision(weights, look.training_args)


def check_disk(look):
    folder = Path(look.given.output_dir).resolve()
    folder = next(path for path in (folder, *folder.parents) if path.is_dir())
    settings = {
        key: getattr(look.given, key) for key in ("save_strategy", "save_total_limit", "save_only_model")
    }
    weights = [(weight.numel(), weight.requires_grad) for weight in look.sizes.parameters()]
    counts = [sum(numbers for numbers, trained in weights if trained or not only) for only in (False, True)]
    look.report.looked["disk"] = "{:,} weights, {:,} of them trained; {}".format(*counts, folder)
    args = SimpleNamespace(output_dir=str(folder), **settings)
    run_guard.check_disk(SimpleNamespace(args=args, model=look.sizes, is_deepspeed_enabled=look.deepspeed))


# ---------------------------------------------------------------- ranks
def fingerprint(recipe, config, given):
    """{item: version, sha256 or size} of what every rank must have alike."""
    packages = [
        "torch",
        "transformers",
        "trl",
        "peft",
        "accelerate",
        "datasets",
        "tokenizers",
        "safetensors",
        "numpy",
    ]
    packages += ["deepspeed", "bitsandbytes", "torchao"]
    facts = {name: importlib.metadata.version(name) for name in packages if importlib.util.find_spec(name)}
    data, model = Path(getattr(given, "blocks", None) or given.rows), Path(given.model_name_or_path)
    files = [
        config,
        recipe.__file__,
        run_guard.__file__,
        __file__,
        getattr(given, "chat_template_path", None) or config,
    ]
    files += [data / name for name in ("manifest.json", "order.npy", "train.jsonl", "validation.jsonl")]
    files += [path for ending in ("json", "jinja", "model") for path in model.glob(f"*.{ending}")]
    for file in filter(Path.is_file, map(Path, files)):
        with file.open("rb") as stream:
            facts[str(file)] = hashlib.file_digest(stream, "sha256").hexdigest()[:12]
    facts |= {
        str(file): f"{file.stat().st_size:,} bytes"
        for file in (*model.glob("*.safetensors"), *data.rglob("*.arrow"))
    }
    return facts | {"Python": platform.python_version()}


def compare_ranks(everyone, report):
    """Of the fingerprints of all ranks, each item that is not rank 0's is a failure."""
    for rank, facts in enumerate(everyone):
        for item in sorted(set(facts) | set(everyone[0])):
            here, first = (each.get(item, "missing") for each in (facts, everyone[0]))
            if here != first:
                change = "the same environment and files on every node"
                report.fail("ranks", f"{item} differs", change, f"rank {rank}: {here}, rank 0: {first}")
    report.looked["ranks"] = (
        f"{len(everyone[0])} versions and files of {len(everyone)} ranks" if len(everyone) > 1 else "one rank"
    )


# ---------------------------------------------------------------- what a person sees
def decoded(look, ids, labels):
    """The text, its supervised parts in green or between brackets; long ones are cut in the middle."""
    text, (begin, end) = "", ("\033[32m", "\033[0m") if look.colour else ("⟦", "⟧")
    cuts = sorted({0, len(ids), *runs(labels).ravel().tolist()})
    for start, stop in zip(cuts[:-1], cuts[1:], strict=True):
        part = look.tokenizer.decode(ids[start:stop])
        part = part if len(part) <= 700 else f"{part[:340]} ... {part[-340:]}"
        text += f"{begin}{part}{end}" if labels[start] != -100 else part
    return "    " + text.replace("\n", "\n    ")


def examples(look):
    """Lines of three examples, of those that may be shown if any may."""
    texts = [each for each in look.rows.texts if not look.rows.closed(each[0])] or look.rows.texts
    for place, ids, labels, row in [texts[i] for i in spread(len(texts), 3)]:
        if labels is None:
            batch = look.found.trainer.data_collator([row])
            used = int(row["seq_lengths"].sum())
            ids, labels = batch["input_ids"][0, :used].numpy(), batch["labels"][0, :used].numpy()
        yield f"{look.rows.name(place)}: {len(ids):,} tokens, {(labels != -100).sum():,} supervised"
        if look.rows.closed(place):
            spans = ", ".join(f"{start} to {stop - 1}" for start, stop in runs(labels)[:12])
            yield f"    credentialed: its text is not shown without --show_texts. Supervised are tokens {spans}"
        else:
            yield decoded(look, ids, labels)


def failures(report):
    for (check, what, change), where in sorted(
        report.failures.items(), key=lambda item: list(WHY).index(item[0][0])
    ):
        more = f"\n            and {len(where) - NAMED:,} more" if len(where) > NAMED else ""
        yield f"{check} FAILED: {what}"
        if where:
            yield "    where   " + "\n            ".join(where[:NAMED]) + more
        yield f"    why     {WHY[check]}\n    change  {change}"


def table(report):
    yield f"{'check':<12}{'verdict':<9}{'seconds':>7}   looked at"
    for name in WHY:
        verdict = "FAILED" if name in report.failed() else "ok" if name in report.looked else "-"
        yield f"{name:<12}{verdict:<9}{report.seconds[name]:>7.1f}   {report.looked.get(name, 'not run')}"


# ---------------------------------------------------------------- run
def infer_stage(config):
    """The recipe that a YAML is for, by its keys."""
    try:
        keys = set(yaml.safe_load(Path(config).read_text()))
    except (OSError, yaml.YAMLError, TypeError) as error:
        raise Refused(
            f"{config}: no YAML of a run ({type(error).__name__}). Next: one of recipes/configs"
        ) from error
    if not keys & {"blocks", "rows"}:
        raise Refused(
            f"{config}: neither blocks nor rows, so no run that trains. Next: --stage with the name of its recipe"
        )
    return (
        "pretrain"
        if "blocks" in keys
        else "sft"
        if keys & {"chat_template_path", "assistant_only_loss"}
        else "finetune_task"
    )


def read_machine(path):
    """(ranks, DeepSpeed's file, whether DeepSpeed trains) of an accelerate file."""
    try:
        machine = yaml.safe_load(Path(path).read_text())
        file = machine.get("deepspeed_config", {}).get("deepspeed_config_file", "none")
        return int(machine["num_processes"]), file, machine["distributed_type"] == "DEEPSPEED"
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise Refused(
            f"{path}: no accelerate file ({type(error).__name__}: {error}). Next: one of accelerate_configs"
        ) from error


def inspect(args, more):
    """Report and lines of examples for the run of a YAML."""
    report, environment = Report(), {}
    more = [*more, "--world_size", args.world_size] if args.world_size else more
    stage = args.stage or infer_stage(args.config)
    if not Path(__file__).with_name(f"{stage}.py").is_file():
        raise Refused(
            f"{stage}.py does not lie beside {__file__}. Next: copy it there, or --stage with the name of one that does"
        )
    recipe = importlib.import_module(stage)
    ranks, deepspeed = None, os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    if args.accelerate:
        ranks, environment["ACCELERATE_DEEPSPEED_CONFIG_FILE"], deepspeed = read_machine(args.accelerate)
        more = more if torch.cuda.is_available() or "--use_cpu" in more else [*more, "--use_cpu", "true"]
    parsed = run_guard.parse(recipe.make_parser(), ["--config", args.config, *more])
    given = SimpleNamespace(**{key: value for part in parsed for key, value in vars(part).items()})
    with report.check("ranks"):
        compare_ranks(gather_object([fingerprint(recipe, args.config, given)]), report)
    if report.failed():
        return report, []  # ranks that are not alike could wait for each other for ever

    with mock.patch.dict(os.environ, environment):
        found = build(recipe, parsed, args.sample or sys.maxsize, ranks, report)
    machine = f"{args.accelerate}, judged on this {parsed[1].device.type}" if ranks else parsed[1].device.type
    report.looked["launch"] = (
        f"ranks: {ranks or parsed[1].world_size} ({machine}), report_to: {', '.join(given.report_to) or 'none'}"
    )
    report.looked["inputs"] = (
        f"{len(found.places):,} of {found.rows:,} {'blocks' if hasattr(given, 'blocks') else 'rows'}"
    )
    blocks = hasattr(given, "blocks")
    if not len(found.places) or (blocks and not found.trainer):
        return report, []

    colour = args.color == "always" or (args.color == "auto" and sys.stdout.isatty())
    look = SimpleNamespace(
        args=args,
        given=given,
        training_args=parsed[1],
        found=found,
        report=report,
        deepspeed=deepspeed,
        colour=colour,
    )
    look.config, look.tokenizer, look.files = found.config, found.tokenizer, stored_weights(given)
    look.has_bos = look.tokenizer.bos_token_id not in (None, look.tokenizer.eos_token_id)
    look.rows = (Blocks if blocks else Rows)(given.blocks if blocks else given.rows, found, args.show_texts)
    look.sizes = make_sizes(found, given, deepspeed)
    checks = {"vocabulary": check_vocabulary, "eos": check_row_ends, "bos": check_row_begins, "labels": check_supervised, "truncation": check_truncation,
              "padding": check_batches, "prompt": check_prompts, "precision": check_precision, "disk": check_disk}  # fmt: skip
    if blocks:
        checks |= {"eos": check_piece_ends, "bos": check_piece_begins}
        del checks["labels"], checks["truncation"], checks["prompt"]
        report.looked |= {"truncation": "documents go on in another block", "prompt": "blocks have none"}
    if not look.rows.texts:
        checks = {name: checks[name] for name in ("vocabulary", "precision", "disk")}
    if not found.trainer:
        checks.pop("padding", None)
    with mock.patch.dict(os.environ, {"ACCELERATE_USE_DEEPSPEED": "true"} if deepspeed else {}):
        for name, check in checks.items():
            with report.check(name):
                check(look)
    if found.stopped and not report.failed():
        raise found.stopped
    return report, list(examples(look))


def main(args, more):
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    report, shown = inspect(args, more)
    everyone, report.failures = gather_object([report.failures]), {}
    for key, where in ((key, where) for each in everyone for key, where in each.items()):
        report.fail(*key, *(each for each in where if each not in report.failures.get(key, ())))
    if int(os.environ.get("RANK", 0)) == 0:
        print(
            "\n".join([f"preflight of {args.config}", "", *shown, "", *failures(report), "", *table(report)]),
            flush=True,
        )
    PartialState().wait_for_everyone()  # the launcher ends all ranks with the first that leaves
    if report.failed():
        raise Refused(
            f"{args.config}: {', '.join(report.failed())} failed. Next: what stands at change, above the table"
        )


def make_parser():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", required=True, metavar="YAML", help="of recipes/configs or yours")
    parser.add_argument(
        "--stage",
        metavar="RECIPE",
        help="a recipe that lies beside this file, such as my_sft; else by the YAML's keys",
    )
    parser.add_argument("--accelerate", metavar="YAML", help="judge the machine of this file, from here")
    parser.add_argument("--world_size", metavar="N", help="ranks that must be running, as the recipe has it")
    parser.add_argument(
        "--sample",
        type=int,
        default=2000,
        metavar="N",
        help="rows or blocks to look at; 0: all (default 2000)",
    )
    parser.add_argument(
        "--max_truncated",
        type=float,
        default=0.01,
        help="share of rows that may be longer than max_length (default 0.01)",
    )
    parser.add_argument("--show_texts", action="store_true", help="show texts of credentialed rows too")
    parser.add_argument("--color", choices=("auto", "always", "never"), default="auto")
    return parser


if __name__ == "__main__":
    try:
        main(*make_parser().parse_known_args())
    except (Refused, OSError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}" if int(os.environ.get("LOCAL_RANK", 0)) == 0 else 1)
