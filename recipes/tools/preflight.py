"""Pre-launch checks on real samples: decodes rows as the trainer will see them, finds what often goes wrong.

    python -m recipes.tools.preflight --config recipes/configs/demo_chat.yaml
    accelerate launch --config_file accelerate_configs/zero3_8gpu.yaml --module recipes.tools.preflight \
        --config recipes/configs/sft_13b_full.yaml --world_size 8
    python -m recipes.tools.preflight --config recipes/configs/pretrain_70b.yaml \
        --accelerate accelerate_configs/zero3_160gpu.yaml
    python -m recipes.tools.preflight --config my.yaml --recipe elsewhere/my_sft.py

The second checks on every rank of the machine that will train; the third judges that machine from another
one, as a login node; the fourth checks a changed copy of a recipe. Any other --key value goes to the recipe.
Trains and writes nothing. Exit code 1, with what, where, why and what to change, unless all of this is so:

  ranks       every rank has the same Python, packages, recipe, YAML, data, tokenizer and sizes of weights
  launch      the ranks asked for run, settings have an effect, nothing uploads what the access class forbids
  inputs      data, model and settings can be read, the chat template takes every row, steps divide evenly
  vocabulary  the tokenizer is the one of the blocks, and every id has a row in the embedding
  eos         each answer ends in a supervised stop token (EOS of tokenizer or generation_config.json) and has
              none inside; each document of the blocks ends in EOS
  bos         rows and blocks begin as the tokenizer begins a text: with one BOS if it adds one. Others only
              before turns of the user, or as turn marker if the tokenizer adds none (SmolLM2's ChatML)
  labels      each row has a supervised token, only the assistant's turns do, batches keep the labels of rows
  truncation  at most --max_truncated of the rows are longer than max_length
  padding     padded positions have no label, and the pad token is not EOS
  prompt      the trained row begins with the ids that `generate`, evaluation (calls of lm-evaluation-harness)
              and a server are given, then the answer follows; a blank between them passes, as LLaMA-2 has one
  packing     packed documents do not see each other on this backend; bounds in batches are those of documents
  precision   a step of the learning rate changes most weights in the type that they are stored in
  disk        checkpoints and model fit

Of dpo.py both answers of a pair are such rows. Of grpo.py the rewards are tried: `labels` says so.

It calls make_parser(), load_data(args) and make_trainer(args, data, model) of the recipe file on --sample
rows, spread over the data, once uncut and unpacked and once as the YAML says, with a model of one tiny layer.
"""

import argparse
import contextlib
import copy
import importlib
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import torch
import transformers
import yaml
from accelerate import PartialState
from accelerate.utils import gather_object
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from peft import PeftModel, get_peft_model
from safetensors import safe_open
from torch.utils.data import Subset
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, Trainer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING as MODELS
from trl import get_training_chat_template
from trl.chat_template_utils import has_generation_markers

from data_prep.corpus.tokenize import adds_bos
from recipes.egress import ACCESS, isolate, safe_message, shown
from recipes.tools.plan import stage_of

RECIPES = Path(__file__).resolve().parent.parent
WHY = {  # the checks, in the order of the table
    "ranks": "gradients are summed over ranks: one that differs spoils all of them without an error",
    "launch": "the run would not be the one that was asked for, or data would leave the site",
    "inputs": "the recipe would stop here by itself, on the machine that you waited for",
    "vocabulary": "ids would mean other words, or have no row in the embedding",
    "eos": "the model would not learn where to stop: its answers run on to the limit, or end early",
    "bos": "the model would be prompted otherwise than it was trained, which costs accuracy without an error",
    "labels": "nothing, or other tokens than meant, would be learned from these rows",
    "truncation": "the end is cut off: the answer and its EOS",
    "padding": "the model would learn to write padding, or, where EOS pads and is masked, no end of answers",
    "prompt": "the model would be given prompts that it was not trained on",
    "packing": "texts would be learned as the continuation of unrelated ones",
    "precision": "the step is lost in rounding: the loss is logged, and the weights do not change",
    "disk": "the run would stop at a checkpoint, hours from now",
}
STAGES = {  # module of its checks, of settings and model, of the data; what these say
    "dpo": ("alignment_checks", "check_dpo", "check_pairs", "answers end in EOS, prompts tokenize alike"),
    "grpo": ("reward_checks", "check_grpo", "check_rewards", "right answers earn 1, deceits 0"),
}
PROMPTS = 200  # rows whose prompts are rendered on every path
NAMED = 3  # failures of one kind that are named; the others are counted
REBUILD = "python -m data_prep.build_blocks with this tokenizer"
ANSWERS = "an answer in the row, and generation marks around answers in the chat template"
PACKAGES = (
    "torch transformers trl peft accelerate datasets tokenizers safetensors numpy deepspeed bitsandbytes"
)
DEFAULTS = (
    "allow_upload from_scratch packing padding_free document_masking assistant_only_loss"  # False, without
)
OPTIONAL = (
    "blocks rows model_name_or_path model_init_kwargs attn_implementation chat_template_path max_length"
)
OPTIONAL += (
    " use_peft eos_token global_batch_size world_size packing_strategy truncation_mode"  # None, without
)


class Failed(Exception):
    """What is wrong. Next: what to change."""


class Report:
    """Failures, notes on what was checked, and seconds, by check."""

    def __init__(self, refused=Failed):
        self.failures, self.notes, self.seconds, self.refused = {}, {}, Counter(), refused

    def fail(self, check, what, change, *where):
        self.failures.setdefault((check, what, change), []).extend(where)

    def failed(self):
        return [name for name in WHY if any(check == name for check, _, _ in self.failures)]

    @contextlib.contextmanager
    def check(self, name):
        """Time a check; what it refuses is a failure."""
        began = time.perf_counter()
        self.notes.setdefault(name, "")
        try:
            yield
        except (Failed, self.refused) as error:
            what, _, change = str(error).partition(" Next: ")
            self.fail(name, what.rstrip("."), change or "see --help of the recipe")
        self.seconds[name] += time.perf_counter() - began


# ---------------------------------------------------------------- the recipe
def load_recipe(path):
    """The module of a recipe file, its folder first on sys.path, as `python FILE` has it."""
    if not path.is_file() or path.suffix != ".py":
        raise Failed(f"{path}: no recipe here. Next: --recipe with the path of a .py file")
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise Failed(f"{path} cannot be imported ({located(error, path)}). Next: fix it") from error
    names = ("make_parser", "load_data", "make_trainer")
    if missing := [f"{name}()" for name in names if not hasattr(module, name)]:
        what = f"{path} has no {', '.join(missing)}, so its rows cannot be checked"
        raise Failed(
            f"{what}. Next: add make_trainer(args, data, model=None) and the like, as in recipes/sft.py"
        )
    return module


def located(error, path, hide=False, named=()):
    """An error with the last line of the recipe that led to it. `named`: the settings; a file that is one of
    them, or in one of them, is named."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path.resolve()]
    text = safe_message(error) if hide else " ".join(str(error).split())
    if isinstance(error, OSError) and isinstance(error.filename, str):
        places = {Path(error.filename), *Path(error.filename).parents} - {Path()}
        if places & {Path(value) for value in named if isinstance(value, str)}:
            text = f"{error.filename}: {error.strerror}"
    return f"{type(error).__name__}: {text}" + (f", {path.name} line {lines[-1]}" if lines else "")


class Run:
    """What is known of a run: the recipe and its modules, arguments, model, data and trainers."""

    def __init__(self, options, more):
        self.path = Path(options.recipe or RECIPES / f"{infer_recipe(options.config)}.py")
        self.recipe, self.options, self.more = load_recipe(self.path), options, more
        sys.path.append(str(RECIPES))  # for a copy without safeguards
        self.checks, self.record = importlib.import_module("checks"), importlib.import_module("run_record")
        self.report, self.access, self.trainer, self.whole = Report(self.checks.Refused), None, None, None
        self.fail, self.notes, self.strays = self.report.fail, self.report.notes, set()
        self.colour = options.color == "always" or (options.color == "auto" and sys.stdout.isatty())
        self.ranks, self.deepspeed = None, os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
        if options.accelerate:
            self.ranks, file, self.deepspeed = read_machine(options.accelerate)
            os.environ["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = file
            if not torch.cuda.is_available() and "--use_cpu" not in more:
                self.more = [*more, "--use_cpu", "true"]
        self.scratch = tempfile.TemporaryDirectory(prefix="preflight_")

        given = dict.fromkeys(OPTIONAL.split()) | dict.fromkeys(DEFAULTS.split(), False)
        given |= {"model_revision": "main", "dtype": "float32"}
        self.args, self.training, self.output_dir = self.parse()
        for part in self.args:
            given |= vars(part)
        self.given = SimpleNamespace(**given)
        self.model, self.blocks = self.given.model_name_or_path, bool(self.given.blocks)
        self.data_path = Path(self.given.blocks or self.given.rows or "")
        if not self.model or self.data_path == Path():
            what = f"{self.path.name} has no argument {'rows' if self.model else 'model_name_or_path'}"
            raise Failed(f"{what}, which tells data and access class. Next: add it to its dataclass")
        manifest = self.data_path / "manifest.json"
        there = manifest.is_file() and self.blocks
        self.manifest = json.loads(manifest.read_text(encoding="utf-8")) if there else {}
        self.strategy = self.given.packing and self.given.packing_strategy
        own = {"precompute_ref_log_probs": "dpo", "num_generations": "grpo"}
        self.stage = next((stage for key, stage in own.items() if hasattr(self.training, key)), "sft")

    def parse(self):
        """(arguments, their TrainingArguments, output_dir), for which a temporary folder stands in."""
        parser = self.recipe.make_parser()
        self.checks.one_sentence_errors(parser)
        self.checks.check_keys(self.options.config, parser)
        world = ["--world_size", self.options.world_size] if self.options.world_size else []
        try:
            args = parser.parse_args_and_config(["--config", self.options.config, *world, *self.more])
            training = next(part for part in args if hasattr(part, "output_dir"))
        except (ValueError, TypeError, OSError, StopIteration, yaml.YAMLError) as error:
            what = f"{self.options.config} with {self.path.name}: {located(error, self.path)}"
            raise Failed(f"{what}. Next: --help of the recipe lists its keys") from error
        output_dir, training.output_dir = training.output_dir, str(Path(self.scratch.name, "run"))
        return args, training, output_dir

    def hide(self):
        """Whether a text of unknown class must not be shown."""
        return self.access in (None, "credentialed") and not self.options.show_texts

    def check_launch(self):
        with self.report.check("launch"):
            self.checks.check_launch(self.given, on_ranks(self.training, self.ranks))
        where = f"{self.options.accelerate}, judged from here" if self.ranks else self.training.device.type
        ranks, trackers = self.ranks or self.training.world_size, ", ".join(self.given.report_to) or "none"
        self.notes["launch"] = f"ranks: {ranks} ({where}), report_to: {trackers}"

    def open(self):
        """Open the run, in a temporary folder; credentialed data close the process to the network."""
        with self.report.check("launch"):
            if self.data_path.exists():  # else load_data says so
                opened = self.record.open_run(self.path, self.args, self.model, self.data_path)
                self.access = opened.record["access"]

    def check_model(self):
        """Config, tokenizer, pad token, isolation of packed documents, and batch, as in the recipe's main."""
        given, check = self.given, self.report.check
        length, revision = self.manifest.get("block_length"), given.model_revision
        longest, changes = length or given.max_length, given.model_init_kwargs
        if self.stage != "sft":
            module, check_stage = STAGES[self.stage][:2]
            getattr(importlib.import_module(module), check_stage)(*self.args)
        self.config, self.tokenizer = self.checks.check_model(self.model, longest, revision, changes)
        with check("vocabulary"):
            if self.blocks:
                self.checks.check_tokenizer(given, self.tokenizer, self.manifest)
        with check("padding"):
            if hasattr(given, "pad_token"):
                self.checks.check_pad_token(self.tokenizer, given.pad_token)
        flat = given.padding_free or (given.packing and self.strategy != "wrapped")
        with check("packing"):
            packing = next(
                (key for key in ("packing", "padding_free", "document_masking") if getattr(given, key)), None
            )
            attention = given.attn_implementation or "sdpa"
            self.checks.check_sequence_ranks(self.config.get_text_config(), attention, longest, packing)
            if flat or given.document_masking:
                device = self.training.device
                self.checks.check_isolation(self.config, given.attn_implementation, device, flat=flat)
        with check("inputs"):
            key = "global_batch_tokens" if self.blocks else "global_batch_size"
            if value := getattr(given, key, None):
                ranks = on_ranks(self.training, self.ranks).world_size
                ranks //= self.checks.sequence_ranks()
                per_pass = self.training.per_device_train_batch_size * ranks * (length or 1)
                self.checks.check_batch(key, value, per_pass)

        self.tokenizer.eos_token = given.eos_token or self.tokenizer.eos_token
        self.generation = None
        with contextlib.suppress(OSError):
            self.generation = GenerationConfig.from_pretrained(self.model, revision=revision)
        self.stops = list(self.checks.stop_tokens(self.tokenizer, self.generation))
        bos = self.tokenizer.bos_token_id
        self.has_bos = bos not in (None, *self.stops)
        self.adds_bos = self.has_bos and adds_bos(self.tokenizer)
        self.files = stored_weights(given)

    def build(self):
        """The recipe's trainers on the sample: `whole`, rows before cutting and packing (None for blocks),
        and `trainer`, as the YAML says."""
        data = self.recipe.load_data(self.args)
        if not isinstance(data, dict) or not hasattr(data.get("train"), "__len__"):
            what = f"load_data of {self.path.name} does not return {{'train': rows, 'validation': rows}}"
            raise Failed(f"{what}. Next: return datasets with a length")
        train, held_out, self.count = data["train"], data.get("validation"), len(data["train"])
        if not self.count:
            raise Failed(f"{self.data_path}: less than one step. Next: more data, or a smaller global batch")
        self.rows = (Blocks if self.blocks else Rows)(self, train)
        self.sample = self.renderable(train, spread(self.count, self.options.sample or sys.maxsize), "train")
        self.notes["inputs"] = f"{len(self.sample):,} of {self.count:,} {'blocks' if self.blocks else 'rows'}"
        if isinstance(held_out, dict):
            held_out = {name: subset(rows, spread(len(rows), 8)) for name, rows in held_out.items()}
        elif held_out is not None:
            kept = self.renderable(held_out, spread(len(held_out), 8), "validation")
            held_out = subset(held_out, kept) if len(kept) or not len(held_out) else None
        if not len(self.sample):
            return
        self.data = {"train": subset(train, self.sample), "validation": held_out}
        self.trainer = self.make_trainer()
        if hasattr(self.training, "packing"):
            uncut = {"packing": False, "eval_packing": False, "max_length": None, "shuffle_dataset": False}
            self.whole = self.make_trainer(**uncut).train_dataset
        elif self.stage == "dpo":
            self.whole = self.make_trainer(max_length=None).train_dataset
        elif not self.blocks:
            self.whole = self.trainer.train_dataset
        self.rows.read()

    def make_trainer(self, **changes):
        args, training, _ = self.parse()
        os.environ["TQDM_DISABLE"] = "1"
        # no reference beside the tiny model: it would be the whole one
        changes |= {"dpo": {"precompute_ref_log_probs": not self.given.use_peft}}.get(self.stage, {})
        changes |= {"grpo": {"beta": 0.0}}.get(self.stage, {})
        changes |= {"report_to": [], "push_to_hub": False, "dataloader_num_workers": 0}
        for key, value in (changes | {"dataloader_prefetch_factor": None}).items():
            setattr(training, key, value)
        trainer = self.recipe.make_trainer(args, dict(self.data), model=tiny_model(self))
        if not isinstance(trainer, Trainer):
            what = f"make_trainer of {self.path.name} returns a {type(trainer).__name__}, not one Trainer"
            raise Failed(f"{what}. Next: return the one whose rows are to be checked, or one recipe for each")
        return trainer

    # ---------------- rows before they are tokenised
    def renderable(self, rows, indices, split):
        """Indices of rows that the chat template renders with a supervised token; others fail by name."""
        columns = set(getattr(rows, "column_names", ()))
        if not columns & {"messages", "prompt", "text"}:
            return indices
        template, marked = self.training_template("messages" in columns), self.given.assistant_only_loss
        special = {token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        special |= set(self.tokenizer.all_special_tokens)
        found, good = [], []
        for index in map(int, indices):
            row, name = rows[index], self.rows.name(index, split)
            found += [(index, *stray) for stray in special_in(row, special, self.tokenizer.eos_token)]
            if template is None or conversation(row) is None or self.renders(row, template, marked, name):
                good.append(index)
        count = Counter((token, part) for _, token, part in found)
        for index, token, part in found:
            if part == "prompt" and count[token, part] == len(indices) > 1:
                continue  # in every prompt: a format
            stops, bos = self.tokenizer.convert_ids_to_tokens(self.stops), self.tokenizer.bos_token
            what = f"{token} in the text of a row would be read as a control token"
            change = "take it out of the row, or write it in another way"
            check = "eos" if token in stops else "bos" if token == bos else "inputs"
            self.fail(check, what, change, f"{self.rows.name(index, split)}, {part}")
            self.strays |= {index} if split == "train" else set()
        return np.array(good, dtype=np.int64)

    def training_template(self, needed):
        """The chat template that the trainer will use, or None."""
        path, tokenizer = self.given.chat_template_path, self.tokenizer
        if path and Path(path).is_file():
            tokenizer.chat_template = Path(path).read_text(encoding="utf-8")
        elif path:
            tokenizer.chat_template = AutoTokenizer.from_pretrained(
                path, trust_remote_code=False
            ).chat_template
        self.template = tokenizer.chat_template
        if needed and not self.template:
            change = "chat_template_path recipes/chat_template.jinja"
            raise Failed(f"the tokenizer has no chat template. Next: {change}")
        if self.template and self.given.assistant_only_loss and not has_generation_markers(self.template):
            beside = (Path(self.model, name) for name in ("chat_template.jinja", "tokenizer_config.json"))
            source = path or next(filter(Path.is_file, beside), self.model)
            try:
                self.template = get_training_chat_template(tokenizer)
            except ValueError as error:
                what = f"the chat template in {source} has no {{% generation %}} marks that tell the answers"
                change = "{% generation %} and {% endgeneration %} enclose each answer and its last token"
                raise Failed(f"{what}. Next: chat_template_path with a copy in which {change}") from error
        return self.template

    def renders(self, row, template, marked, name):
        """Whether the template takes a row and, if `marked`, has a supervised token in it."""
        messages = conversation(row)
        where = f"{name}: {', '.join(message['role'] for message in messages)}"
        try:
            encoded = render(self.tokenizer, messages, row, template, marked)
        except Exception as error:
            text = " ".join(str(error).split())
            if self.hide() and not any(quote + text + quote in template for quote in "'\""):
                text = type(error).__name__
            change = "chat_template_path with a template that takes them, or rows without these turns"
            if "system" in where:
                change += " (a system text can begin the first question)"
            self.fail("inputs", f"the chat template refuses a row: {text}", change, where)
            return False
        if marked and not any(encoded["assistant_masks"]):
            self.fail("labels", "a row has no supervised token", ANSWERS, where)
            return False
        return True


def on_ranks(training, ranks):
    """The training arguments as they read on `ranks` ranks (None: those that run here)."""
    elsewhere = copy.copy(training)
    if ranks:
        elsewhere.__class__ = type("Elsewhere", (type(training),), {"world_size": ranks})
    return elsewhere


def spread(rows, sample):
    """Indices of `sample` of `rows` rows, evenly, the first and the last among them."""
    return np.linspace(0, rows - 1, min(rows, sample)).round().astype(np.int64)


def subset(rows, indices):
    return rows.select(indices) if hasattr(rows, "select") else Subset(rows, indices.tolist())


def tiny_model(run):
    """One layer in the real architecture and vocabulary, else of a LLaMA, that names the real tokenizer."""
    config, revision = run.config.get_text_config(), run.given.model_revision
    small = copy.deepcopy(config)
    sizes = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    small.update(sizes | {"num_key_value_heads": 2, "head_dim": 8, "pad_token_id": None})
    small.layer_types = (getattr(config, "layer_types", None) or [])[:1] or None
    try:
        model = MODELS[type(small)](small)  # not by from_config, which shards under ZeRO-3
    except Exception:  # sizes that depend on each other, as in MLA or state-space layers
        model = MODELS[LlamaConfig](LlamaConfig(vocab_size=config.vocab_size, **sizes))
    source, files = run.model, ["*.json", "*.jinja", "*.model", "*.txt"]
    if not Path(source).is_dir() and revision not in (None, "main"):
        source = snapshot_download(source, revision=revision, allow_patterns=files)
    model.config.name_or_path = source
    model.generation_config = run.generation or model.generation_config
    return model


# ---------------------------------------------------------------- rows and blocks
class Rows:
    """Training rows, tokenised and not yet cut: `texts` holds (index, ids, labels, row)."""

    def __init__(self, run, train):
        self.run, self.facts, self.texts = run, {}, []
        own = [] if (run.data_path / "manifest.json").is_file() else [None]
        for split in ("train", "validation"):
            path = run.data_path / f"{split}.jsonl"
            rows = list(lines_of(path))
            own += [row.get("access", run.access) for row in rows]
            names = (f"row {row.get('id')} ({path} line {n})" for n, row in enumerate(rows, 1))
            self.facts[split] = list(zip(names, own[-len(rows) :] if rows else (), strict=True))
        # rows that account for the class of the whole are taken at their word
        self.trusted = set(own) <= set(ACCESS) and max(own, key=ACCESS.index, default=None) == run.access
        if len(self.facts["train"]) != len(train):
            self.facts = {}  # the recipe's rows come from elsewhere

    def read(self):
        run = self.run
        columns = set(getattr(run.whole, "column_names", None) or ())
        if {"chosen_ids", "rejected_ids"} <= columns and len(run.whole) == len(run.sample):
            for index, pair, row in zip(run.sample.tolist(), run.whole, run.data["train"], strict=True):
                for key in ("chosen", "rejected"):
                    prompt, answer = (np.array(pair[f"{k}_ids"], dtype=np.int64) for k in ("prompt", key))
                    labels = np.concatenate([np.full(len(prompt), -100), answer])
                    said = {"prompt": row["prompt"], "completion": row[key]}
                    self.texts.append((index, np.concatenate([prompt, answer]), labels, said))
        if {"input_ids", "labels"} <= columns and len(run.whole) == len(run.sample):
            numbers = run.whole.select_columns(["input_ids", "labels"]).with_format("numpy")
            for index, each, row in zip(run.sample.tolist(), numbers, run.data["train"], strict=True):
                self.texts.append((index, each["input_ids"], each["labels"], row))

    def name(self, index, split="train"):
        facts = self.facts.get(split)
        return facts[index][0] if facts else f"{split} row {index + 1} of {self.run.data_path}"

    def hidden(self, index):
        """Whether the text must not be shown."""
        access = self.facts["train"][index][1] if self.facts and self.trusted else self.run.access
        return access in (None, "credentialed") and not self.run.options.show_texts

    def around(self, index, ids, at):
        """Where in a row: the token, and what comes before and after."""
        parts = ids[max(0, at - 8) : at], ids[at : at + 4]
        before, after = (self.run.tokenizer.decode(part.tolist()) for part in parts)
        text = "(credentialed, not shown)" if self.hidden(index) else f"{before!r} | {after!r}"
        return f"{self.name(index)}, token {at}: {text}"


class Blocks(Rows):
    """The same of packed blocks, by their position in the training files; `texts` are whole blocks."""

    def __init__(self, run, train):
        self.run, self.texts, self.order = run, [], getattr(train, "order", np.arange(len(train)))
        self.files = [output for output in run.manifest["outputs"] if output["split"] == "train"]
        self.ends, self.access = np.cumsum([output["records"] for output in self.files]), {}
        for source in run.manifest.get("inputs", ()) if run.access else ():
            name, access = source.get("source"), source.get("access", run.access)
            self.access[name] = max(access, self.access.get(name, "public"), key=ACCESS.index)
        self.floor = "public" if run.access in self.access.values() else run.access

    def read(self):
        for i, index in enumerate(self.run.sample):
            row = self.run.trainer.train_dataset[i]
            ids = np.asarray(row["input_ids"], dtype=np.int64)
            self.texts.append((int(self.order[index]), ids, None, row))

    def file_of(self, number):
        """(output of the manifest that holds a block, number of its first block)"""
        at = int(np.searchsorted(self.ends, number, "right"))
        return self.files[at], int(self.ends[at]) - self.files[at]["records"]

    def name(self, number, split="train"):
        output, first = self.file_of(number)
        return f"block {number - first} of {output['path']}"

    def hidden(self, number):
        access = {self.access.get(self.file_of(number)[0].get("source"), self.run.access), self.floor}
        return bool(access & {None, "credentialed"}) and not self.run.options.show_texts

    def pieces(self):
        """(block, its ids, start, stop, document) of each piece of a document."""
        for number, ids, _, row in self.texts:
            starts = np.cumsum([0, *row["seq_lengths"]]).tolist()
            for start, stop, document in zip(starts[:-1], starts[1:], row["documents"].tolist(), strict=True):
                yield number, ids, start, stop, document


def lines_of(path):
    """The rows of a JSON Lines file, if there is one."""
    with contextlib.suppress(ValueError, OSError), path.open(encoding="utf-8") as lines:
        yield from (row for row in map(json.loads, lines) if isinstance(row, dict))


def spans_of(labels):
    """[[start, stop]] of what is supervised."""
    return np.flatnonzero(np.diff(labels != -100, prepend=False, append=False)).reshape(-1, 2)


def conversation(row):
    """The messages of a row, with the chosen answer of a pair; None for plain text."""
    if isinstance(row.get("prompt"), list):
        return row["prompt"] + (row.get("completion") or row.get("chosen") or [])
    return row.get("messages")


def answers_of(row):
    """Indices of the assistant's messages; a row of plain text is one question and its answer."""
    messages = conversation(row)
    return [0] if messages is None else [i for i, m in enumerate(messages) if m["role"] == "assistant"]


def options_of(row):
    """What apply_chat_template is given beside the messages, as TRL reads it from a row."""
    tools = row.get("tools")
    tools = json.loads(tools) if isinstance(tools, str) else tools
    return {"tools": tools} | (row.get("chat_template_kwargs") or {})


def render(tokenizer, messages, row, template, marked):
    """{"input_ids", and "assistant_masks" if `marked`} of a conversation."""
    how = {"chat_template": template, "return_dict": True, "return_assistant_tokens_mask": marked}
    return tokenizer.apply_chat_template(messages, **how | options_of(row))


def special_in(row, special, eos):
    """{(special token, the part of a row whose text has it)}. A completion may end in EOS."""
    texts = [(message["role"], message.get("content")) for message in conversation(row) or ()]
    texts = texts or [(key, row.get(key)) for key in ("prompt", "completion", "text", "chosen")]
    texts += [(key, row[key][-1]["content"]) for key in ("rejected",) if isinstance(row.get(key), list)]
    texts += [(key, row.get(key)) for key in ("rejected",)]
    texts = [(key, text) for key, text in texts if isinstance(text, str)]
    texts = [(key, text.removesuffix(eos) if key != "prompt" else text) for key, text in texts]
    return {(token, key) for key, text in texts for token in special if token in text}


def plain(run, ids):
    """The text of ids, with SentencePiece's sign for a blank as a blank, however the tokenizer decodes it."""
    return run.tokenizer.decode(ids).replace("\u2581", " ")


# ---------------------------------------------------------------- eos, bos
def check_row_ends(run):
    stops, names, count = run.stops, " or ".join(run.tokenizer.convert_ids_to_tokens(sorted(run.stops))), 0
    change = "each answer of the chat template ends in its stop token, inside generation marks; or eos_token"
    change += f" in the YAML with the token that ends it (now {names})"
    for index, ids, labels, row in run.rows.texts:
        spans, answers = spans_of(labels), answers_of(row)
        for start, stop in spans:
            last = stop - 1
            while last > start and ids[last] not in stops and not plain(run, ids[last]).strip():
                last -= 1  # the line break that ChatML puts after an EOS
            if ids[last] not in stops:
                where = run.rows.around(index, ids, stop)
                run.fail("eos", "an answer does not end in a supervised EOS", change, where)
            inside = start + np.flatnonzero(np.isin(ids[start:last], stops))
            if len(inside) and len(spans) == len(answers) and start and index not in run.strays:
                where = run.rows.around(index, ids, int(inside[0]))
                run.fail("eos", "EOS stands inside an answer", "EOS at the end of an answer only", where)
        found, count = int(np.isin(labels, stops).sum()), count + len(answers)
        if found < len(answers):
            where = f"{run.rows.name(index)}: {found} of {len(answers)}"
            run.fail("eos", "a row has fewer supervised EOS than answers", change, where)
    run.notes["eos"] = f"{count:,} answers in {len(run.rows.texts):,} rows, which end in {names}"


def check_row_begins(run):
    bos, change = run.tokenizer.bos_token_id, "bos_token at the start of the chat template, once"
    for index, ids, labels, row in run.rows.texts if run.has_bos else ():
        at = np.flatnonzero(ids == bos).tolist()
        if run.adds_bos and at[:1] != [0]:
            run.fail("bos", "a row does not begin with BOS", change, run.rows.around(index, ids, 0))
        users = sum(message["role"] == "user" for message in conversation(row) or [{"role": "user"}])
        for position in filter(None, at):
            if ids[position - 1] == bos:
                what = "BOS stands twice"
            elif not run.adds_bos or index in run.strays:
                continue  # the turn marker of this format
            elif ids[position - 1] not in run.stops and labels[position - 1] == -100:
                what = "BOS stands inside a text"
            elif len(at) > users:
                what = "BOS stands more often than turns of the user"
            else:
                continue
            run.fail("bos", what, change, run.rows.around(index, ids, position))
    habit = "adds its BOS to no text" if run.has_bos else "has no BOS of its own"
    habit = "begins a text with BOS" if run.adds_bos else habit
    run.notes["bos"] = f"{len(run.rows.texts):,} rows; the tokenizer {habit}"


def check_piece_ends(run):
    """A piece without EOS was cut at the end of its block."""
    eos, count = run.tokenizer.eos_token_id, 0
    for number, ids, start, stop, _ in run.rows.pieces():
        inside, count = start + np.flatnonzero(ids[start : stop - 1] == eos), count + 1
        if ids[stop - 1] != eos and stop < len(ids):
            run.fail("eos", "a document does not end in EOS", REBUILD, run.rows.around(number, ids, stop))
        if eos != run.tokenizer.bos_token_id and inside.size:
            where = run.rows.around(number, ids, int(inside[0]))
            run.fail("eos", "EOS stands inside a document", REBUILD, where)
    run.notes["eos"] = f"{count:,} pieces of documents in {len(run.rows.texts):,} blocks"


def check_piece_begins(run):
    """A document begins as the tokenizer begins a text. Without BOS it began in another block."""
    bos, headless = run.tokenizer.bos_token_id, {}
    for number, ids, start, stop, document in run.rows.pieces() if run.has_bos else ():
        if not run.adds_bos and ids[start] == bos:
            what = "a document begins with a BOS that this tokenizer adds to no text"
            run.fail("bos", what, REBUILD, run.rows.around(number, ids, start))
        elif run.adds_bos and ids[start] != bos:
            piece = (number, ids, start, document)
            headless.setdefault(run.rows.file_of(number)[0]["path"], []).append(piece)
        for at in start + 1 + np.flatnonzero(ids[start + 1 : stop] == bos):
            what = "BOS stands twice" if ids[at - 1] == bos else "BOS stands inside a document"
            run.fail("bos", what, REBUILD, run.rows.around(number, ids, int(at)))
    for path, parts in list(headless.items())[:20]:  # files, of some 15,000 blocks each
        rows = datasets.Dataset.from_file(str(run.data_path / path)).with_format("arrow")["documents"]
        pieces = np.bincount(np.concatenate([chunk.flatten().to_numpy() for chunk in rows.chunks]))
        for number, ids, start, document in parts:
            if pieces[document] == 1:
                where = run.rows.around(number, ids, start)
                run.fail("bos", "a document does not begin with BOS", REBUILD, where)
    run.notes["bos"] = run.notes["eos"] if run.has_bos else "the tokenizer has no BOS of its own"


# ---------------------------------------------------------------- labels, truncation
def check_supervised(run):
    texts, tokens = run.rows.texts, sum(len(ids) for _, ids, _, _ in run.rows.texts)
    for index, _, labels, _ in texts:
        if not (labels != -100).any():
            run.fail("labels", "a row has no supervised token", ANSWERS, run.rows.name(index))
    share = sum((labels != -100).sum() for _, _, labels, _ in texts) / tokens
    run.notes["labels"] = f"{len(texts):,} rows, {100 * share:.0f} % of their tokens supervised"

    # whose words are supervised: what stands in for each turn of another role is looked for among them
    some = [texts[i] for i in spread(len(texts), PROMPTS)] if run.given.assistant_only_loss else ()
    for index, _, _, row in some:
        messages = copy.deepcopy(conversation(row))
        others = [m for m in messages if m["role"] != "assistant" and isinstance(m.get("content"), str)]
        for number, message in enumerate(others):
            message["content"] = f"zq{number}qz"
        with contextlib.suppress(Exception):  # a template that reads the text of a turn
            encoded = render(run.tokenizer, messages, row, run.template, True)
            pairs = zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)
            trained = run.tokenizer.decode([token for token, supervised in pairs if supervised])
            for number, message in enumerate(others):
                if f"zq{number}qz" in trained:
                    what = f"a turn of {message['role']} is trained as the assistant's words"
                    change = "a chat template that marks only turns of the assistant as generation"
                    run.fail("labels", what, change, run.rows.name(index))


def check_truncation(run):
    texts, longest, limit = run.rows.texts, run.given.max_length or sys.maxsize, run.options.max_truncated
    kept = slice(-longest, None) if run.given.truncation_mode == "keep_end" else slice(longest)
    over = [index for index, ids, _, _ in texts if len(ids) > longest]
    lost = sum(not (labels[kept] != -100).any() for _, _, labels, _ in texts)
    lengths, splits = [len(ids) for _, ids, _, _ in texts], run.strategy in ("bfd_split", "wrapped")
    note = f"{len(over):,} of {len(texts):,} rows longer than {run.given.max_length}, longest {max(lengths)}"
    run.notes["truncation"] = note + ("; packing splits them" if splits else "")
    if len(over) > limit * len(texts) and not splits:
        what = f"{100 * len(over) / len(texts):.3g} % of the rows are longer than max_length {longest}"
        enough = int(np.quantile(lengths, 1 - limit, method="higher"))
        change = f"max_length {enough}, shorter rows, or a higher --max_truncated"
        names = map(run.rows.name, over)
        run.fail("truncation", f"{what}, {lost:,} of them have no answer left", change, *names)


# ---------------------------------------------------------------- batches: padding, labels, packing
def check_batches(run):
    """The collator's batches against the rows that it is given: [batch, length], or flat [1, tokens]."""
    collator, rows, counts = run.trainer.data_collator, run.trainer.train_dataset, Counter()
    size, longest, isolated = run.training.per_device_train_batch_size, run.given.max_length, False
    if hasattr(rows, "select_columns"):
        columns = set(rows.column_names) & {"input_ids", "labels", "seq_lengths"}
        rows = rows.select_columns(sorted(columns))
    known = {ids[:longest].astype(np.int64).tobytes() for _, ids, _, _ in run.rows.texts}
    for first in range(0, len(rows), size):
        members = [rows[i] for i in range(first, min(first + size, len(rows)))]
        batch, offset = collator(members), 0
        ids, labels = (batch[key].cpu().numpy().ravel() for key in ("input_ids", "labels"))
        isolated, width = "cu_seq_lens_q" in batch, batch["input_ids"].shape[-1]
        flat = isolated and not run.blocks
        for i, row in enumerate(members):
            right_ids = np.asarray(row["input_ids"], dtype=np.int64)
            lengths = np.asarray(row.get("seq_lengths", [len(right_ids)]), dtype=np.int64)
            starts, used = np.cumsum([0, *lengths]), int(lengths.sum())
            end = offset + (used if flat else width) if i < len(members) - 1 else len(ids)
            counts.update(padded=end - offset - used, documents=len(lengths))
            right = np.array(row.get("labels", right_ids), dtype=np.int64)[:used]
            right[starts[:-1] if isolated else []] = -100  # no document predicts the first token of the next
            name = f"row {first + i} of the {'packed data' if run.given.packing else 'sample'}"
            name = run.rows.name(run.rows.texts[first + i][0]) if run.blocks else name

            if (padded := np.flatnonzero(labels[offset + used : end] != -100)).size:
                where = f"{name}, position {used + int(padded[0])} of its batch"
                change = "the collator: labels are -100 after the end of a row"
                run.fail("padding", "a pad position has a label", change, where)
            pairs = ((ids, right_ids[:used]), (labels, right))
            if not all(np.array_equal(batched[offset : offset + used], own) for batched, own in pairs):
                run.fail("labels", "a batch has other ids or labels than its row", "the collator", name)
            elif run.blocks and not (right[1:] != -100).any():
                change = "longer documents, in data_prep.build_blocks"
                run.fail("labels", "a block has no supervised token", change, name)
            if isolated:
                rows_known = known if run.strategy == "bfd" else None  # others split rows
                if wrong := wrong_bounds(batch, offset, starts, ids, rows_known):
                    change = "the collator, or the seq_lengths of the rows"
                    run.fail("packing", wrong[0], change, f"{name}, {wrong[1]}")
            offset = end
        counts["batches"] += 1
    run.notes["padding"] = f"{counts['padded']:,} padded positions in {counts['batches']:,} batches"
    bounds = f"bounds of {counts['documents']:,} documents in {counts['batches']:,} batches"
    device = run.training.device.type
    run.notes["packing"] = f"attention on {device}, {bounds}" if isolated else "not asked for"
    if run.blocks:
        run.notes["labels"] = f"{len(run.rows.texts):,} blocks"


def wrong_bounds(batch, offset, starts, ids, known):
    """(what, where) if the kernels are given other documents than begin at `offset` + `starts`, or one
    that is none of the `known` rows, if these are given."""
    used, right = int(starts[-1]), starts[:-1].tolist()
    given = [bound - offset for bound in batch["cu_seq_lens_q"].tolist() if offset <= bound < offset + used]
    if given != right:
        at = min(set(given) ^ set(right))
        return "a bound is not where a document begins", f"position {at}: {given[:8]}, documents {right[:8]}"
    pieces = list(zip(starts[:-1], starts[1:], strict=True))
    positions = np.concatenate([np.arange(stop - start) for start, stop in pieces])
    if not np.array_equal(batch["position_ids"].cpu().numpy().ravel()[offset : offset + used], positions):
        return "positions do not begin anew with each document", f"documents {right[:8]}"
    for start, stop in pieces:
        if known is not None and ids[offset + start : offset + stop].tobytes() not in known:
            return "what stands between two bounds is no row", f"positions {start} to {stop}"


# ---------------------------------------------------------------- prompts
def evaluation_ids(tokenizer, text):
    """As HFLM.tok_batch_encode of lm-evaluation-harness 0.4.13: special tokens unless it begins with BOS."""
    begun = tokenizer.bos_token and text.startswith(tokenizer.bos_token)
    return tokenizer(text, **({"add_special_tokens": False} if begun else {})).input_ids


def prompt_paths(tokenizer, row, answer):
    """{path: ids of the prompt} for the answer at index `answer` of a conversation, or after plain text."""
    messages = conversation(row)
    if messages is None:
        text, generate = row["prompt"], tokenizer(row["prompt"]).input_ids
        begun = bool(tokenizer.bos_token and text.startswith(tokenizer.bos_token))
        served = tokenizer(text, add_special_tokens=not begun).input_ids
    else:
        given = {"conversation": messages[:answer], "add_generation_prompt": True} | options_of(row)
        text = tokenizer.apply_chat_template(**given, tokenize=False)
        generate = tokenizer.apply_chat_template(**given, return_dict=True)["input_ids"]
        served = tokenizer(text, add_special_tokens=False).input_ids
    return {"generate": generate, "evaluation": evaluation_ids(tokenizer, text), "a server": served}


def check_prompts(run):
    """What was trained before each answer against the prompt on each path; their first BOS are for bos."""
    count, blanks, rows = 0, 0, run.rows
    change = (
        "one chat template to train and to prompt, whose add_generation_prompt writes what precedes answers"
    )
    if variant := getattr(run.trainer, "chat_template", None):  # TRL trains on its own
        folder = Path(importlib.util.find_spec("trl").origin).parent / "chat_templates"
        file = next((f for f in folder.glob("*.jinja") if f.read_text(encoding="utf-8") == variant), folder)
        change = f"chat_template_path {file}, on which TRL trains: it is then saved with the model"
    tokenizer = saved_tokenizer(run.trainer.processing_class)
    for index, ids, labels, row in [rows.texts[i] for i in spread(len(rows.texts), PROMPTS)]:
        answers, spans = answers_of(row), spans_of(labels)
        marked = len(spans) == len(answers) and spans[0][0] > 0  # else all of the row is supervised
        whole = [(answer, (0, len(ids))) for answer in answers[-1:]]
        pairs = zip(answers, spans.tolist(), strict=True) if marked else whole
        for answer, (start, stop) in pairs if {"messages", "prompt"} & set(row) else ():
            count += 1
            trained, before = without_bos(run, ids[:stop])
            try:
                paths = prompt_paths(tokenizer, row, answer)
            except Exception as error:
                text = type(error).__name__ if run.hide() else " ".join(str(error).split())
                run.fail("prompt", f"the chat template renders no prompt: {text}", change, rows.name(index))
                continue
            for path, given in paths.items():
                prompt, begun = without_bos(run, np.array(given, dtype=np.int64))
                if begun != before:
                    what = f"the prompt for {path} begins with {begun} BOS, the trained row with {before}"
                    fix = "bos_token in the chat template, or a tokenizer that adds it, not both"
                    run.fail("bos", what, fix, rows.name(index))
                same = len(os.path.commonprefix([prompt.tolist(), trained.tolist()]))
                gap = trained[same : max(same, start - before)]
                gap = gap[gap != tokenizer.bos_token_id] if run.adds_bos and run.has_bos else gap
                if same < len(prompt) or (len(gap) and plain(run, gap).strip(" ")):
                    what = f"the prompt for {path} is not what comes before the answer in training"
                    there, here = rows.around(index, trained, same), rows.around(index, prompt, same)
                    run.fail("prompt", what, change, f"{there} trained, {here.split(': ', 1)[1]} prompted")
                elif len(gap) and path == "generate":
                    blanks += 1
    note = f"; before {blanks:,} answers a blank that is not trained" if blanks else ""
    run.notes["prompt"] = f"{count:,} prompts, each for generate, evaluation and a server{note}"


def saved_tokenizer(tokenizer):
    with tempfile.TemporaryDirectory(prefix="preflight_") as folder:
        tokenizer.save_pretrained(folder)
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def without_bos(run, ids):
    """(ids after the BOS that they begin with, how many these are)"""
    begun = int(np.argmin(np.append(ids, -1) == run.tokenizer.bos_token_id)) if run.has_bos else 0
    return ids[begun:], begun


# ---------------------------------------------------------------- sizes: vocabulary, precision, disk
def full_size(run):
    """The model on the meta device: shapes, types and which weights train, without their bytes."""
    given, config = run.given, run.config.get_text_config()
    with torch.device("meta"):
        model = MODELS[type(config)](config).to(getattr(torch, str(given.dtype), torch.float32))
        if isinstance(run.trainer.model, PeftModel):
            adapter = copy.deepcopy(next(iter(run.trainer.model.peft_config.values())))
            model = get_peft_model(model, adapter, autocast_adapter_dtype=not run.deepspeed)
            if getattr(given, "load_in_4bit", False) or getattr(given, "load_in_8bit", False):
                for weight in filter(lambda weight: weight.requires_grad, model.parameters()):
                    weight.data = weight.data.bfloat16()  # as TRL does
    return model


def stored_weights(given):
    """Safetensors files of a local folder or the Hub's cache; [] if not here, or to be random."""
    folder = Path(given.model_name_or_path)
    with contextlib.suppress(LocalEntryNotFoundError):
        if not folder.is_dir():
            where = {"revision": given.model_revision, "local_files_only": True}
            folder = Path(snapshot_download(str(folder), **where))
    return [] if given.from_scratch else sorted(folder.glob("*.safetensors"))


def stored(files, wanted):
    """(file, name, lazy slice of the tensor) of the `wanted` names that the files have."""
    for file in files:
        with safe_open(file, "pt") as tensors:
            for name in sorted(wanted & set(tensors.keys())):
                yield file, name, tensors.get_slice(name)


def check_vocabulary(run):
    tokenizer, size = run.tokenizer, run.config.get_text_config().vocab_size
    table = run.trainer.model.get_input_embeddings().weight.shape[0]  # TRL may have resized it
    change = "the tokenizer of this model, or a model whose embedding was resized for it"
    for index, ids, _, _ in run.rows.texts:
        if ids.max() >= table:
            where = run.rows.around(index, ids, int(ids.argmax()))
            run.fail("vocabulary", f"an id has no row in the embedding of {table:,}", change, where)
    if len(tokenizer) > table:
        what = f"the tokenizer has {len(tokenizer):,} tokens, the embedding {table:,} rows"
        run.fail("vocabulary", what, change, run.model)
    for name in ("bos", "eos") if run.blocks else ():
        made_with, now = run.manifest["tokenizer"][name], getattr(tokenizer, f"{name}_token_id")
        if made_with != now:
            what = f"{name} is {made_with} in the blocks, {now} in the tokenizer"
            run.fail("vocabulary", what, f"tokenizer_config.json, or {REBUILD}", str(run.data_path))
    base = run.sizes.get_base_model() if isinstance(run.sizes, PeftModel) else run.sizes
    shape = base.get_input_embeddings().weight.shape
    names = {name for name, weight in base.named_parameters() if weight.shape == shape and "embed" in name}
    for file, name, tensor in stored(run.files, names):
        if tensor.get_shape()[0] != size:
            what = f"{name} has {tensor.get_shape()[0]:,} rows, config.json says {size:,}"
            run.fail("vocabulary", what, "the model saved again after its embedding was resized", str(file))
    note = f"{len(tokenizer):,} tokens, {table:,} rows in the embedding; ids of {run.notes['inputs']}"
    run.notes["vocabulary"] = note


def check_precision(run):
    trained = {name: weight for name, weight in run.sizes.named_parameters() if weight.requires_grad}
    coarse = [name for name, weight in trained.items() if weight.element_size() == 2]
    kinds = " and ".join(sorted({str(weight.dtype).removeprefix("torch.") for weight in trained.values()}))
    copies = ", DeepSpeed keeps float32 copies" if run.deepspeed else ""
    run.notes["precision"] = f"{kinds}, learning_rate {run.training.learning_rate:g}{copies}"
    if coarse and not run.deepspeed:
        chosen = {coarse[i] for i in spread(len(coarse), 24)}
        rows = {name: max(1, 200_000 * len(trained[name]) // trained[name].numel()) for name in chosen}
        parts = [tensor[: rows[name]] for _, name, tensor in stored(run.files, chosen)]
        origin = f"{len(parts)} stored tensors" if parts else "none stored here, random as at initialisation"
        parts = parts or [fresh(name, trained[name].shape, rows[name], run.config) for name in sorted(chosen)]
        run.notes["precision"] += f", on {sum(part.numel() for part in parts):,} weights: {origin}"
        weights = (torch.nn.Parameter(part.to(trained[coarse[0]].dtype)) for part in parts)
        run.checks.check_precision(torch.nn.ParameterList(weights), run.training, deepspeed=False)


def fresh(name, shape, rows, config):
    """The first `rows` of a weight as it is initialised: adapters as in PEFT (B at zero), others normal."""
    if "lora_" in name:
        bound = 0 if "lora_B" in name else 1 / math.sqrt(shape[-1])
        return torch.empty(shape).uniform_(-bound, bound)
    return torch.randn(rows, *shape[1:]) * getattr(config, "initializer_range", 0.02)


def check_disk(run):
    weights = [(weight.numel(), weight.requires_grad) for weight in run.sizes.parameters()]
    counts = [sum(numbers for numbers, trained in weights if trained or not only) for only in (False, True)]
    run.notes["disk"] = "{:,} weights, {:,} of them trained; {}".format(*counts, run.output_dir)
    training = copy.copy(run.training)
    training.output_dir = run.output_dir
    run.checks.check_disk(run.sizes, training, run.deepspeed)


# ---------------------------------------------------------------- ranks
def fingerprint(run):
    """{item: version, sha256 or size} of what must be alike on every rank."""
    installed = filter(importlib.util.find_spec, PACKAGES.split())
    facts = {name: importlib.metadata.version(name) for name in installed}
    data, model, config = run.data_path, Path(run.model), Path(run.options.config)
    files = [config, data, Path(__file__), *run.path.parent.glob("*.py")]
    files += [Path(run.given.chat_template_path)] if run.given.chat_template_path else []
    files += [data / name for name in ("manifest.json", "order.npy", "train.jsonl", "validation.jsonl")]
    files += [path for ending in ("json", "jinja", "model") for path in model.glob(f"*.{ending}")]
    facts |= {str(file): run.record.sha256(file)[:12] for file in files if file.is_file()}
    sizes = (*model.glob("*.safetensors"), *data.rglob("*.arrow"))
    facts |= {str(file): f"{file.stat().st_size:,} bytes" for file in sizes}
    return facts | {"Python": platform.python_version()}


def compare_ranks(facts, report):
    """Of the fingerprints of all ranks, each item that is not rank 0's is a failure."""
    for rank, found in enumerate(facts):
        for item in sorted(set(found) | set(facts[0])):
            here, first = (each.get(item, "missing") for each in (found, facts[0]))
            if here != first:
                where = f"rank {rank}: {here}, rank 0: {first}"
                report.fail("ranks", f"{item} differs", "the same environment and files on every node", where)
    many = f"{len(facts[0])} versions and files of {len(facts)} ranks"
    report.notes["ranks"] = many if len(facts) > 1 else "one rank"


# ---------------------------------------------------------------- what a person sees
def decoded(run, ids, labels):
    """The text, supervised parts in green or between brackets; long parts are cut in the middle."""
    text, (begin, end) = "", ("\033[32m", "\033[0m") if run.colour else ("⟦", "⟧")
    cuts = sorted({0, len(ids), *spans_of(labels).ravel().tolist()})
    for start, stop in zip(cuts[:-1], cuts[1:], strict=True):
        part = run.tokenizer.decode(ids[start:stop])
        part = part if len(part) <= 700 else f"{part[:340]} ... {part[-340:]}"
        text += f"{begin}{part}{end}" if labels[start] != -100 else part
    return "    " + text.replace("\n", "\n    ")


def examples(run):
    """Lines of three examples, of those that may be shown if any may."""
    texts = [each for each in run.rows.texts if not run.rows.hidden(each[0])] or run.rows.texts
    for index, ids, labels, row in [texts[i] for i in spread(len(texts), 3)]:
        if labels is None:
            batch, used = run.trainer.data_collator([row]), int(row["seq_lengths"].sum())
            ids, labels = batch["input_ids"][0, :used].numpy(), batch["labels"][0, :used].numpy()
        yield f"{run.rows.name(index)}: {len(ids):,} tokens, {(labels != -100).sum():,} supervised"
        spans = ", ".join(f"{start} to {stop - 1}" for start, stop in spans_of(labels)[:12])
        hidden = f"    credentialed, shown with --show_texts only. Supervised are tokens {spans}"
        yield hidden if run.rows.hidden(index) else decoded(run, ids, labels)


def failures(report):
    found = sorted(report.failures.items(), key=lambda item: list(WHY).index(item[0][0]))
    for (check, what, change), where in found:
        more = f"\n            and {len(where) - NAMED:,} more" if len(where) > NAMED else ""
        yield f"{check} FAILED: {what}"
        if where:
            yield "    where   " + "\n            ".join(where[:NAMED]) + more
        yield f"    why     {WHY[check]}\n    change  {change}"


def table(report):
    yield f"{'check':<12}{'verdict':<9}{'seconds':>7}   checked"
    for name in WHY:
        verdict = "FAILED" if name in report.failed() else "ok" if report.notes.get(name) else "-"
        yield f"{name:<12}{verdict:<9}{report.seconds[name]:>7.1f}   {report.notes.get(name) or 'not run'}"


# ---------------------------------------------------------------- run
def infer_recipe(config):
    """The recipe that a YAML is for, by its keys."""
    try:
        keys = set(yaml.safe_load(Path(config).read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, TypeError, UnicodeDecodeError) as error:
        reason = type(error).__name__
        raise Failed(f"{config}: no YAML of a run ({reason}). Next: one of recipes/configs") from error
    if not keys & {"blocks", "rows"}:
        raise Failed(f"{config}: neither blocks nor rows, so no training run. Next: --recipe with its recipe")
    return stage_of(keys)


def read_machine(path):
    """(ranks, DeepSpeed's file, whether DeepSpeed trains) of an accelerate file."""
    try:
        machine = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        file = machine.get("deepspeed_config", {}).get("deepspeed_config_file", "none")
        return int(machine["num_processes"]), file, machine["distributed_type"] == "DEEPSPEED"
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise Failed(f"{path}: no accelerate file ({reason}). Next: one of accelerate_configs") from error


def inspect(options, more):
    """(Report, lines of examples) for the run of a YAML."""
    run = Run(options, more)
    report = run.report
    with report.check("ranks"):
        compare_ranks(gather_object([fingerprint(run)]), report)
    if report.failed():
        return report, []  # ranks that differ could wait for each other for ever
    run.check_launch()
    with report.check("inputs"):
        try:
            run.check_model()
            run.open()
            run.build()
            run.sizes = full_size(run) if run.trainer else None
        except (Failed, run.checks.Refused):
            raise
        except Exception as error:  # of a copy, or of a library with its settings
            what = located(error, run.path, run.hide(), vars(run.given).values())
            raise Failed(f"{what}. Next: the recipe with --max_steps 1 shows the traceback") from error
    if not getattr(run, "sizes", None):
        return report, []

    checks = {"vocabulary": check_vocabulary, "precision": check_precision, "disk": check_disk}
    if run.blocks:
        checks |= {"eos": check_piece_ends, "bos": check_piece_begins, "padding": check_batches}
        run.notes |= {"truncation": "documents continue in another block", "prompt": "blocks have none"}
    elif run.rows.texts:
        checks |= {"eos": check_row_ends, "bos": check_row_begins, "truncation": check_truncation}
        checks |= {"labels": check_supervised, "prompt": check_prompts}
        checks |= {} if run.stage == "dpo" else {"padding": check_batches}
    else:
        columns = ", ".join(getattr(run.trainer.train_dataset, "column_names", ()))
        kind = type(run.trainer).__name__
        run.notes["labels"] = f"not checked: {kind} prepares {columns}, not input_ids and labels"
    for name in filter(checks.get, WHY):
        with report.check(name):
            checks[name](run)
    with report.check("labels"):
        if run.stage != "sft" and not {"eos", "labels"} & set(report.failed()):
            module, _, check_data, note = STAGES[run.stage]
            given = {"given": len(run.sample)} if run.stage == "dpo" else {}
            getattr(importlib.import_module(module), check_data)(run.trainer, **given)
            run.notes["labels"] = f"{run.notes['inputs']}: {note}"
        elif run.rows.texts and not run.blocks and not {"eos", "labels", "truncation"} & set(report.failed()):
            run.checks.check_answers(run.trainer)
    return report, list(examples(run))


def main(options, more):
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    report, shown = inspect(options, more)
    gathered, report.failures = gather_object([report.failures]), {}
    for key, where in ((key, where) for each in gathered for key, where in each.items()):
        report.fail(*key, *(each for each in where if each not in report.failures.get(key, ())))
    if int(os.environ.get("RANK", 0)) == 0:
        lines = [f"preflight of {options.config}", "", *shown, "", *failures(report), "", *table(report)]
        print("\n".join(lines), flush=True)
    PartialState().wait_for_everyone()  # the launcher ends all ranks with the first that leaves
    if report.failed():
        failed = ", ".join(report.failed())
        raise Failed(f"{options.config}: {failed} failed. Next: what is listed at change, above the table")


def make_parser():
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form, allow_abbrev=False)
    add = parser.add_argument
    add("--config", required=True, metavar="YAML", help="a file of recipes/configs, or yours")
    add("--recipe", metavar="FILE", help="a recipe of yours, as my_sft.py; else by the keys of the YAML")
    add("--accelerate", metavar="YAML", help="judge the machine of this file, from here")
    add("--world_size", metavar="N", help="ranks that must be running, as the recipe has it")
    add("--sample", type=int, default=2000, metavar="N", help="rows or blocks; 0: all (default 2000)")
    share = "share of rows that may be longer than max_length (default 0.01)"
    add("--max_truncated", type=float, default=0.01, metavar="SHARE", help=share)
    add("--show_texts", action="store_true", help="show texts of credentialed rows too")
    add("--color", choices=("auto", "always", "never"), default="auto")
    return parser


if __name__ == "__main__":
    isolate(sys.argv[1:], Failed)
    try:
        main(*make_parser().parse_known_args())
    except (Failed, OSError) as error:
        text = " ".join(shown(error).split())
        sys.exit(f"error: {text}" if int(os.environ.get("LOCAL_RANK", 0)) == 0 else 1)
