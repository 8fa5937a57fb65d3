"""Pre-launch checks on real samples: decodes rows as the trainer will see them and finds what most often goes wrong.

    python -m recipes.tools.preflight --config recipes/configs/demo_chat.yaml
    accelerate launch --config_file accelerate_configs/zero3_8gpu.yaml --module recipes.tools.preflight \
        --config recipes/configs/sft_13b_full.yaml --world_size 8
    python -m recipes.tools.preflight --config recipes/configs/pretrain_70b.yaml \
        --accelerate accelerate_configs/zero3_160gpu.yaml
    python -m recipes.tools.preflight --config my.yaml --recipe elsewhere/my_sft.py

The second checks on every rank of the machine that will train; the third judges that machine from another one, such as
a login node; the fourth checks a copy of a recipe that you changed. Any other --key value goes to the recipe, as at
launch. Trains nothing and writes nothing. Exit code 1, with what, where, why and what to change, unless all of these hold:

  ranks       every rank has the same Python, packages, recipe, YAML, data, tokenizer and sizes of weights
  launch      the ranks asked for are running, settings have an effect, and nothing uploads what the access class forbids
  inputs      data, model and settings can be read, the chat template takes every row, and the step divides among the ranks
  vocabulary  the tokenizer is the one of the blocks, and every id has a row in the embedding
  eos         each answer ends in one supervised stop token (EOS of the tokenizer or of generation_config.json) and has
              none in its middle; each document of the blocks ends in EOS
  bos         rows and blocks begin as the tokenizer begins a text: with one BOS where it adds one. Later BOS only before
              turns of the user, or as the turn marker of a format whose tokenizer adds none (ChatML in SmolLM2)
  labels      each row has a supervised token, only turns of the assistant are supervised, and batches have the row's labels
  truncation  at most --max_truncated of the rows are longer than max_length
  padding     padded positions have no label, and the pad token is not EOS
  prompt      the trained row begins with the ids that `generate`, the evaluation (the calls of lm-evaluation-harness) and
              a server are given, and the answer follows. A blank between them passes (LLaMA-2's format has one)
  packing     packed documents do not see each other on this backend, and bounds in real batches are those of documents
  precision   a step of the learning rate changes most weights in the type they are stored in
  disk        checkpoints and model fit

It calls make_parser(), load_data(args) and make_trainer(args, data, model) of the recipe file on --sample rows spread
evenly over the data, once without cutting and packing and once as the YAML says, with a model of one tiny layer.
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
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, Trainer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from trl import get_training_chat_template
from trl.chat_template_utils import has_generation_markers

RECIPES = Path(__file__).resolve().parent.parent
WHY = {  # the checks, in the order of the table
    "ranks": "gradients are summed over ranks: one that differs spoils all of them without an error",
    "launch": "the run would not be the one that was asked for, or data would leave the site",
    "inputs": "the recipe would stop here by itself, on the machine that you waited for",
    "vocabulary": "ids would mean other words, or have no row in the embedding",
    "eos": "the model would not learn where to stop: its answers run on to the limit, or end early",
    "bos": "the model would be prompted in another way than it was trained, which costs accuracy without an error",
    "labels": "nothing, or other tokens than meant, would be learned from these rows",
    "truncation": "the end is cut off: the answer and its EOS",
    "padding": "the model would learn to write padding; where padding is EOS, whoever masks it masks ends of answers too",
    "prompt": "the model would be given prompts that it was not trained on",
    "packing": "texts would be learned as the continuation of unrelated ones",
    "precision": "the step is lost in rounding: the loss is logged, and the weights do not change",
    "disk": "the run would stop at a checkpoint, hours from now",
}
ACCESS = ("public", "gated", "credentialed")
PROMPTS = 200  # rows whose prompts are rendered on every path
NAMED = 3  # failures of one kind that are named; the others are counted
REBUILD = "python -m data_prep.build_blocks with this tokenizer"


class Failed(Exception):
    """A failure of preflight itself: "what is wrong. Next: what to change"."""


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
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None:
        raise Failed(f"{path}: no recipe here. Next: --recipe with the path of a .py file")
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise Failed(
            f"{path} cannot be imported ({located(error, path)}). Next: python {path} --help"
        ) from error
    missing = [name for name in ("make_parser", "load_data", "make_trainer") if not hasattr(module, name)]
    if missing:
        raise Failed(
            f"{path} has no {', '.join(missing)}, which preflight calls. Next: the three functions of recipes/sft.py "
            "in your copy: make_parser(), load_data(args), make_trainer(args, data, model=None)"
        )
    return module


def located(error, path, hide=False):
    """An error with the last line of the recipe that led to it."""
    lines = [
        f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path.resolve()
    ]
    message = (
        "its message may quote a credentialed row and is left out" if hide else " ".join(str(error).split())
    )
    return f"{type(error).__name__}: {message}" + (f", {path.name} line {lines[-1]}" if lines else "")


class Run:
    """What is known of the run: the recipe and its modules, its arguments, model, data and trainers."""

    def __init__(self, options, more):
        self.path = Path(options.recipe or RECIPES / f"{infer_recipe(options.config)}.py")
        self.options, self.more, self.recipe = options, more, load_recipe(self.path)
        sys.path.append(str(RECIPES))  # for a copy without its safeguards
        self.checks, self.record = importlib.import_module("checks"), importlib.import_module("run_record")
        self.report, self.access, self.trainer, self.whole = (
            Report(self.checks.Refused),
            "credentialed",
            None,
            None,
        )
        self.colour = options.color == "always" or (options.color == "auto" and sys.stdout.isatty())
        self.ranks, self.deepspeed = None, os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
        self.environment = {}
        if options.accelerate:
            self.ranks, file, self.deepspeed = read_machine(options.accelerate)
            self.environment = {"ACCELERATE_DEEPSPEED_CONFIG_FILE": file}
            if not torch.cuda.is_available() and "--use_cpu" not in more:
                self.more = [*more, "--use_cpu", "true"]
        self.read_arguments(self.parse())

    def parse(self):
        """The recipe's arguments, as its parser reads them."""
        parser = self.recipe.make_parser()
        self.checks.one_sentence_errors(parser)
        world = ["--world_size", self.options.world_size] if self.options.world_size else []
        try:
            return parser.parse_args_and_config(["--config", self.options.config, *world, *self.more])
        except (ValueError, TypeError, OSError) as error:
            raise Failed(
                f"{self.options.config}: {error}. Next: --help of {self.path.name} lists its keys"
            ) from error

    def read_arguments(self, args):
        defaults = {"world_size": None, "allow_upload": False, "from_scratch": False, "dtype": "float32"}
        defaults |= {
            "model_revision": "main",
            "max_length": None,
            "chat_template_path": None,
            "eos_token": None,
        }
        defaults |= {"assistant_only_loss": False, "model_init_kwargs": None, "attn_implementation": None}
        self.args, self.training = args, training_of(args)
        self.given = SimpleNamespace(**defaults | {k: v for part in args for k, v in vars(part).items()})
        self.blocks = hasattr(self.given, "blocks")
        self.data_path = getattr(self.given, "blocks", None) or getattr(self.given, "rows", None)
        self.model = getattr(self.given, "model_name_or_path", None)
        if not self.data_path or not self.model:
            raise Failed(
                f"{self.path.name}: its arguments name no {'model_name_or_path' if self.data_path else 'rows'}, so "
                f"the access class of what it reads is unknown. Next: model_name_or_path, and rows (a folder or a file)"
            )
        self.length = None
        if self.blocks:
            file = Path(self.data_path, "manifest.json")
            self.manifest = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
            self.length = self.manifest.get("block_length")

    def hide(self):
        """Whether texts of this run must not be shown unless their row says otherwise."""
        return self.access == "credentialed" and not self.options.show_texts

    # ---------------- launch, model, data
    def check_launch(self):
        """Check ranks, settings and uploads; open the run in a scratch folder, which closes the process to the network
        if the data are credentialed."""
        with self.report.check("launch"), changed_environment(self.environment):
            self.checks.check_launch(self.given, on_ranks(self.training, self.ranks))
        with self.report.check("launch"), scratch(self.args):
            self.access = self.record.open_run(str(self.path), self.args, self.model, self.data_path).record[
                "access"
            ]
        machine = (
            f"{self.options.accelerate}, judged on this machine" if self.ranks else self.training.device.type
        )
        trackers = ", ".join(self.given.report_to) or "none"
        self.report.notes["launch"] = (
            f"ranks: {self.ranks or self.training.world_size} ({machine}), report_to: {trackers}"
        )

    def check_model(self):
        """Whether config and tokenizer can be read and fit the data; isolation of packed documents and the pad token."""
        given, checks, recipe = self.given, self.checks, self.recipe
        rescaled = "rope_parameters" in (given.model_init_kwargs or {})
        length = self.length or given.max_length
        self.config, self.tokenizer = checks.check_model(self.model, length, given.model_revision, rescaled)
        if self.blocks and hasattr(recipe, "check_tokenizer"):
            with self.report.check("vocabulary"):
                recipe.check_tokenizer(copy.deepcopy(self.tokenizer), self.manifest, given)
        if hasattr(given, "pad_token"):
            with self.report.check("padding"):
                checks.check_pad_token(self.tokenizer, given.pad_token)
        packed = getattr(given, "packing", False) and given.packing_strategy != "wrapped"
        flat = packed or getattr(given, "padding_free", False)
        if flat or getattr(given, "document_masking", False):
            with self.report.check("packing"):
                checks.check_isolation(
                    self.config, given.attn_implementation, self.training.device, flat=bool(flat)
                )
        if hasattr(recipe, "set_accumulation") and (self.blocks or getattr(given, "global_batch_size", None)):
            step = (given.global_batch_tokens, self.length) if self.blocks else (given.global_batch_size,)
            with self.report.check("inputs"):
                recipe.set_accumulation(on_ranks(self.training, self.ranks), *step)

        self.generation = generation_config(self.model, given.model_revision)
        if given.eos_token:
            self.tokenizer.eos_token = given.eos_token
        self.stops = checks.stop_tokens(self.tokenizer, self.generation)
        self.adds_bos = self.tokenizer("a").input_ids[:1] == [self.tokenizer.bos_token_id]
        self.has_bos = self.tokenizer.bos_token_id not in (None, self.tokenizer.eos_token_id)
        self.files = stored_weights(given)

    def build(self):
        """Rows or blocks of the sample, and the recipe's trainers on them: `whole` without cutting and packing (None for
        blocks), `trainer` as the YAML says."""
        data = self.recipe.load_data(self.args)
        if not isinstance(data, dict) or not hasattr(data.get("train"), "__len__"):
            raise Failed(
                f"load_data of {self.path.name} gives no {{'train': rows, 'validation': rows}}. Next: return that"
            )
        train, held_out = data["train"], data.get("validation")
        self.count = len(train)
        if not self.count:
            raise Failed(
                f"{self.data_path}: not one step of training data. Next: more data, or a smaller global batch"
            )
        self.rows = (Blocks if self.blocks else Rows)(self, train)
        self.sample = spread(self.count, self.options.sample or sys.maxsize)
        self.report.notes["inputs"] = (
            f"{len(self.sample):,} of {self.count:,} {'blocks' if self.blocks else 'rows'}"
        )
        some = held_out
        if isinstance(held_out, dict):
            some = {name: subset(rows, spread(len(rows), 8)) for name, rows in held_out.items()}
        elif held_out is not None:
            some = subset(held_out, self.takes_template(held_out, spread(len(held_out), 8), "validation"))
        self.sample = self.takes_template(train, self.sample, "train")
        if not len(self.sample):
            return
        self.data = {
            "train": subset(train, self.sample),
            "validation": some if some is not None and len(some) else None,
        }
        self.trainer = self.make_trainer()
        if hasattr(self.training, "packing"):
            uncut = {"packing": False, "eval_packing": False, "max_length": None, "shuffle_dataset": False}
            self.whole = self.make_trainer(**uncut).train_dataset
        elif {"input_ids", "labels"} <= set(getattr(self.trainer.train_dataset, "column_names", ())):
            self.whole = self.trainer.train_dataset
        self.rows.read(self)

    def make_trainer(self, **changes):
        args = self.parse()
        changes |= {
            "report_to": [],
            "push_to_hub": False,
            "dataloader_num_workers": 0,
            "dataloader_prefetch_factor": None,
        }
        for key, value in changes.items():
            setattr(training_of(args), key, value)
        with scratch(args):
            trainer = self.recipe.make_trainer(args, dict(self.data), model=tiny_model(self))
        if not isinstance(trainer, Trainer):
            raise Failed(
                f"make_trainer of {self.path.name} gives a {type(trainer).__name__}, not one Trainer. Next: one recipe "
                "for each trainer, or return the one whose rows are to be checked"
            )
        return trainer

    def takes_template(self, rows, indices, split):
        """The indices of rows that the chat template renders with an answer; the others fail here, by name."""
        columns = set(getattr(rows, "column_names", ()))
        if not columns & {"messages", "prompt"}:
            return indices
        template, marked = self.read_template("messages" in columns)
        special = {token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        special |= set(self.tokenizer.all_special_tokens)
        strays, good = {}, []
        for index in map(int, indices):
            row, failed = rows[index], False
            strays |= {(index, *stray): None for stray in special_in(row, special, self.tokenizer.eos_token)}
            messages = conversation(row)
            if messages:
                failed = self.refuses(messages, row, template, marked, self.rows.name(index, split))
            good += [] if failed else [index]
        formats = Counter((token, part) for _, token, part in strays)
        for index, token, part in strays:
            if part == "prompt" and formats[token, part] == len(indices) > 1:
                continue  # written into every prompt: a format
            stop, begin = (
                token in self.tokenizer.convert_ids_to_tokens(list(self.stops)),
                token == self.tokenizer.bos_token,
            )
            what = f"the special token {token} in the text of a row would be read as a control token"
            change = "take it out of the row, or write it in another way"
            check = "eos" if stop else "bos" if begin else "inputs"
            self.report.fail(check, what, change, f"{self.rows.name(index, split)}, {part}")
        self.strays = {index for index, _, _ in strays} | getattr(self, "strays", set())
        return np.array(good, dtype=np.int64)

    def read_template(self, conversations):
        """(chat template that trains, whether only answers are supervised)"""
        given, path = self.given, self.given.chat_template_path
        source = path or next(
            (str(f) for f in (Path(self.model, "chat_template.jinja"), Path(self.model, "tokenizer_config.json")) if f.is_file()),
            self.model,
        )  # fmt: skip
        if path and Path(path).is_file():
            self.tokenizer.chat_template = Path(path).read_text(encoding="utf-8")
        elif path:
            self.tokenizer.chat_template = AutoTokenizer.from_pretrained(
                path, trust_remote_code=False
            ).chat_template
        template, marked = self.tokenizer.chat_template, bool(given.assistant_only_loss)
        if conversations and not template:
            raise Failed(
                "the tokenizer has no chat template. Next: chat_template_path recipes/chat_template.jinja"
            )
        if marked and template and not has_generation_markers(template):
            try:
                template = get_training_chat_template(self.tokenizer)
            except ValueError as error:
                raise Failed(
                    f"the chat template of {source} has no {{% generation %}} marks, so nothing says which tokens are the "
                    "assistant's. Next: chat_template_path with a copy of it in which {% generation %} and "
                    "{% endgeneration %} enclose the assistant's text and its end-of-turn token"
                ) from error
        self.template = template
        return template, marked

    def refuses(self, messages, row, template, marked, name):
        """Whether the template does not take this row, or leaves it without a supervised token."""
        roles = ", ".join(message["role"] for message in messages)
        try:
            encoded = render(self.tokenizer, messages, row, template, marked)
        except Exception as error:
            said = " ".join(str(error).split())
            said = said if said in " ".join(template.split()) or not self.hide() else "(message not shown)"
            what = f"the chat template refuses a row: {said}"
            change = "rows without these turns (a system text can begin the first question), or a chat_template_path that takes them"
            self.report.fail("inputs", what, change, f"{name}: {roles}")
            return True
        if marked and not any(encoded["assistant_masks"]):
            change = "an answer in the row, and generation marks around answers in the chat template"
            self.report.fail("labels", "a row has no supervised token", change, f"{name}: {roles}")
            return True
        return False


def training_of(args):
    """The TrainingArguments among the parsed dataclasses."""
    found = [part for part in args if hasattr(part, "output_dir")]
    if not found:
        raise Failed(
            "the recipe's parser has no TrainingArguments. Next: SFTConfig, or another TrainingArguments"
        )
    return found[0]


@contextlib.contextmanager
def scratch(args):
    """output_dir is a temporary folder: whatever lies in the real one stays as it is."""
    training = training_of(args)
    real = training.output_dir
    with tempfile.TemporaryDirectory(prefix="preflight_") as folder:
        training.output_dir = str(Path(folder, "run"))
        try:
            yield
        finally:
            training.output_dir = real


@contextlib.contextmanager
def changed_environment(variables):
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def on_ranks(training, ranks):
    """The training arguments as they read on `ranks` ranks (None: those that run here)."""
    if ranks is None:
        return training
    elsewhere = copy.copy(training)
    elsewhere.__class__ = type("Elsewhere", (type(training),), {"world_size": ranks})
    return elsewhere


def spread(rows, sample):
    """Indices of `sample` of `rows` rows, evenly, the first and the last among them."""
    return np.linspace(0, rows - 1, min(rows, sample)).round().astype(np.int64)


def subset(rows, indices):
    return (
        rows.select(indices) if hasattr(rows, "select") else torch.utils.data.Subset(rows, indices.tolist())
    )


def generation_config(model, revision):
    with contextlib.suppress(OSError):
        return GenerationConfig.from_pretrained(model, revision=revision)


def tiny_model(run):
    """One layer in the real architecture and vocabulary, else of a LLaMA; it names the real tokenizer."""
    config = run.config.get_text_config()
    small = copy.deepcopy(config)
    sizes = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    small.update(sizes | {"num_key_value_heads": 2, "head_dim": 8, "pad_token_id": None})
    small.layer_types = (getattr(config, "layer_types", None) or [])[:1] or None
    try:
        model = MODEL_FOR_CAUSAL_LM_MAPPING[type(small)](small)
    except Exception:  # sizes that depend on each other, as in MLA or state-space layers
        small = LlamaConfig(vocab_size=config.vocab_size, **sizes)
        model = MODEL_FOR_CAUSAL_LM_MAPPING[LlamaConfig](small)
    model.config._name_or_path = tokenizer_folder(run.model, run.given.model_revision)
    model.generation_config = run.generation or model.generation_config
    return model


def tokenizer_folder(model, revision):
    """A folder or Hub name whose tokenizer is the one of that revision."""
    if Path(model).is_dir() or revision in (None, "main"):
        return model
    return snapshot_download(
        model, revision=revision, allow_patterns=["*.json", "*.jinja", "*.model", "*.txt"]
    )


# ---------------------------------------------------------------- rows and blocks, and what may be shown of them
class Rows:
    """Training rows as they are tokenised before they are cut: `texts` holds (index, ids, labels, row)."""

    def __init__(self, run, train):
        self.run, self.facts, self.texts, folder = run, {}, [], Path(run.data_path)
        own = [] if (folder / "manifest.json").is_file() else ["none"]
        for split in ("train", "validation"):
            rows = enumerate(lines_of(folder / f"{split}.jsonl"))
            facts = [
                (f"row {row.get('id')} ({folder / split}.jsonl line {n + 1})", row.get("access"))
                for n, row in rows
            ]
            self.facts[split] = facts
            own += [access or run.access for _, access in facts]
        # rows that account for the class of the whole are taken at their word
        self.trusted = set(own) <= set(ACCESS) and max(own, key=ACCESS.index, default=None) == run.access
        if len(self.facts["train"]) != len(train):
            self.facts = {}  # the recipe's rows come from elsewhere

    def read(self, run):
        if run.whole is None or not {"input_ids", "labels"} <= set(run.whole.column_names):
            return
        numbers = run.whole.select_columns(["input_ids", "labels"]).with_format("numpy")
        rows = subset(run.data["train"], np.arange(len(run.sample)))
        if len(numbers) == len(rows):
            self.texts = [
                (int(index), each["input_ids"], each["labels"], row)
                for index, each, row in zip(run.sample, numbers, rows, strict=True)
            ]

    def name(self, index, split="train"):
        facts = self.facts.get(split)
        return facts[index][0] if facts else f"{split} row {index + 1} of {self.run.data_path}"

    def hidden(self, index):
        """Whether the text must not be shown."""
        access = self.facts["train"][index][1] if self.facts and self.trusted else self.run.access
        return (access or self.run.access) == "credentialed" and not self.run.options.show_texts

    def around(self, index, ids, at):
        """Where in a row: the token, and what comes before and after."""
        before, after = ids[max(0, at - 8) : at].tolist(), ids[at : at + 4].tolist()
        decode = self.run.tokenizer.decode
        text = (
            "(credentialed, not shown)" if self.hidden(index) else f"{decode(before)!r} | {decode(after)!r}"
        )
        return f"{self.name(index)}, token {at}: {text}"


class Blocks(Rows):
    """The same of packed blocks, by their position in the training files; `texts` are whole blocks."""

    def __init__(self, run, train):
        self.run, self.texts, self.order, self.folder = (
            run,
            [],
            getattr(train, "order", None),
            Path(run.data_path),
        )
        self.files = [output for output in run.manifest["outputs"] if output["split"] == "train"]
        self.ends = np.cumsum([output["records"] for output in self.files])
        self.access = {}
        for source in run.manifest.get("inputs", ()):
            name, access = source.get("source"), source.get("access", run.access)
            self.access[name] = max(access, self.access.get(name, "public"), key=ACCESS.index)
        self.floor = "public" if run.access in self.access.values() else run.access

    def read(self, run):
        rows, order = run.trainer.train_dataset, np.arange(run.count) if self.order is None else self.order
        for i, index in enumerate(run.sample):
            row = rows[i]
            self.texts.append((int(order[index]), np.asarray(row["input_ids"], dtype=np.int64), None, row))

    def file_of(self, number):
        """(output of the manifest that holds a block, number of its first block)"""
        at = int(np.searchsorted(self.ends, number, "right"))
        return self.files[at], int(self.ends[at]) - self.files[at]["records"]

    def name(self, number, split="train"):
        output, first = self.file_of(number)
        return f"block {number - first} of {output['path']}"

    def hidden(self, number):
        access = self.access.get(self.file_of(number)[0].get("source"), self.run.access)
        return "credentialed" in (access, self.floor) and not self.run.options.show_texts

    def pieces(self):
        """(block, its ids, start, stop, document) of each piece of a document."""
        for number, ids, _, row in self.texts:
            starts = np.cumsum([0, *row["seq_lengths"]]).tolist()
            for start, stop, document in zip(starts[:-1], starts[1:], row["documents"].tolist(), strict=True):
                yield number, ids, start, stop, document


def lines_of(path):
    """The rows of a JSON Lines file, if there is one."""
    with contextlib.suppress(ValueError), contextlib.ExitStack() as stack:
        for line in stack.enter_context(path.open(encoding="utf-8")) if path.is_file() else ():
            row = json.loads(line)
            yield row if isinstance(row, dict) else {}


def spans_of(labels):
    """[[start, stop]] of what is supervised."""
    return np.flatnonzero(np.diff(labels != -100, prepend=False, append=False)).reshape(-1, 2)


def conversation(row):
    """The messages of a row, None for plain text."""
    if "messages" in row:
        return row["messages"]
    return row["prompt"] + row["completion"] if isinstance(row.get("prompt"), list) else None


def answers_of(row):
    """Indices of the assistant's messages; a row of plain text is one question and its answer."""
    messages = conversation(row)
    return [0] if messages is None else [i for i, m in enumerate(messages) if m["role"] == "assistant"]


def options_of(row):
    """What apply_chat_template takes beside the messages, as TRL reads it from a row."""
    tools = row.get("tools")
    return {
        "tools": json.loads(tools) if isinstance(tools, str) else tools,
        **(row.get("chat_template_kwargs") or {}),
    }


def render(tokenizer, messages, row, template, marked):
    """{"input_ids", "assistant_masks" if `marked`} of a conversation."""
    return tokenizer.apply_chat_template(
        messages,
        chat_template=template,
        return_dict=True,
        return_assistant_tokens_mask=marked,
        **options_of(row),
    )


def special_in(row, special, eos):
    """{(special token, the part of a row that has it in its text)}. A completion may end in EOS: TRL adds no second one."""
    messages = conversation(row)
    if messages:
        texts = [(m["role"], m["content"]) for m in messages if isinstance(m.get("content"), str)]
    else:
        texts = [(key, row[key]) for key in ("prompt", "completion", "text") if isinstance(row.get(key), str)]
        texts = [(key, text.removesuffix(eos) if key == "completion" else text) for key, text in texts]
    return {(token, key) for key, text in texts for token in special if token in text}


# ---------------------------------------------------------------- eos, bos
def check_row_ends(run):
    stops, fail, count = run.stops, run.report.fail, 0
    names = " or ".join(run.tokenizer.convert_ids_to_tokens(sorted(stops)))
    change = (
        f"each answer of the chat template ends in its stop token, inside its generation marks; or eos_token in the YAML "
        f"with the token that ends it (now {names})"
    )
    is_stop = lambda ids: np.isin(ids, list(stops))  # noqa: E731
    for index, ids, labels, row in run.rows.texts:
        spans, answers = spans_of(labels), answers_of(row)
        for start, stop in spans:
            last = stop - 1
            while last > start and ids[last] not in stops and not run.tokenizer.decode(ids[last]).strip():
                last -= 1  # the line break that ChatML puts after an EOS
            if ids[last] not in stops:
                fail(
                    "eos",
                    "an answer does not end in a supervised EOS",
                    change,
                    run.rows.around(index, ids, stop),
                )
            inside = start + np.flatnonzero(is_stop(ids[start:last]))
            if len(inside) and len(spans) == len(answers) and start and index not in run.strays:
                what = "EOS stands inside an answer"
                fail(
                    "eos",
                    what,
                    "EOS only at the end of an answer",
                    run.rows.around(index, ids, int(inside[0])),
                )
        found = int(is_stop(labels).sum())
        if found < len(answers):
            what = f"{run.rows.name(index)}: {found} of {len(answers)}"
            fail("eos", "a row has fewer supervised EOS than answers", change, what)
        count += len(answers)
    run.report.notes["eos"] = f"{count:,} answers in {len(run.rows.texts):,} rows, which end in {names}"


def check_row_begins(run):
    bos, fail, rows = run.tokenizer.bos_token_id, run.report.fail, run.rows
    change = "bos_token at the start of the chat template, once"
    for index, ids, labels, row in rows.texts if run.has_bos else ():
        at = np.flatnonzero(ids == bos).tolist()
        if run.adds_bos and (not at or at[0]):
            fail("bos", "a row does not begin with BOS", change, rows.around(index, ids, 0))
        users = sum(message["role"] == "user" for message in conversation(row) or [{"role": "user"}])
        for position in at[at[:1] == [0] :]:
            where = rows.around(index, ids, position)
            if position and ids[position - 1] == bos:
                fail("bos", "BOS stands twice", change, where)
            elif not run.adds_bos or index in run.strays:
                continue  # the turn marker of this format
            elif ids[position - 1] not in run.stops and labels[position - 1] == -100:
                fail(
                    "bos", "BOS stands inside a text", "take it out of the middle of the chat template", where
                )
            elif len(at) > users:
                fail("bos", "BOS stands more often than turns of the user", change, where)
    adds = (
        "begins a text with BOS"
        if run.adds_bos
        else "has a BOS and adds it to no text"
        if run.has_bos
        else "has no BOS"
    )
    run.report.notes["bos"] = f"{len(rows.texts):,} rows; the tokenizer {adds}"


def check_piece_ends(run):
    """A piece without EOS was cut at the end of its block."""
    eos, count = run.tokenizer.eos_token_id, 0
    for number, ids, start, stop, _ in run.rows.pieces():
        count += 1
        inside = np.flatnonzero(ids[start : stop - 1] == eos)
        if ids[stop - 1] != eos and stop < len(ids):
            run.report.fail(
                "eos", "a document does not end in EOS", REBUILD, run.rows.around(number, ids, stop)
            )
        if eos != run.tokenizer.bos_token_id and inside.size:
            where = run.rows.around(number, ids, start + int(inside[0]))
            run.report.fail("eos", "EOS stands inside a document", REBUILD, where)
    run.report.notes["eos"] = f"{count:,} pieces of documents in {len(run.rows.texts):,} blocks"


def check_piece_begins(run):
    """Documents begin as the tokenizer begins a text. A piece without BOS has its beginning in another block of its file."""
    bos, fail, headless = run.tokenizer.bos_token_id, run.report.fail, {}
    for number, ids, start, stop, document in run.rows.pieces() if run.has_bos else ():
        if not run.adds_bos and ids[start] == bos:
            what = "a document begins with BOS, which this tokenizer adds to no text"
            fail("bos", what, REBUILD, run.rows.around(number, ids, start))
        elif run.adds_bos and ids[start] != bos:
            output, first = run.rows.file_of(number)
            headless.setdefault(output["path"], []).append((number, ids, start, document))
        for at in start + 1 + np.flatnonzero(ids[start + 1 : stop] == bos):
            what = "BOS stands twice" if ids[at - 1] == bos else "BOS stands inside a document"
            fail("bos", what, REBUILD, run.rows.around(number, ids, int(at)))
    for path, parts in list(headless.items())[:20]:  # files, of some 15,000 blocks each
        table = datasets.Dataset.from_file(str(run.rows.folder / path)).with_format("arrow")["documents"]
        count = np.bincount(np.concatenate([chunk.flatten().to_numpy() for chunk in table.chunks]))
        for number, ids, start, document in parts:
            if count[document] == 1:
                fail(
                    "bos", "a document does not begin with BOS", REBUILD, run.rows.around(number, ids, start)
                )
    run.report.notes["bos"] = run.report.notes["eos"] if run.has_bos else "the tokenizer has none of its own"


# ---------------------------------------------------------------- labels, truncation
def check_supervised(run):
    texts, fail, name = run.rows.texts, run.report.fail, run.rows.name
    change = "an answer in the row, and generation marks around answers in the chat template"
    for index, _, labels, _ in texts:
        if not (labels != -100).any():
            fail("labels", "a row has no supervised token", change, name(index))
    share = sum((labels != -100).sum() for *_, labels, _ in texts) / max(
        1, sum(len(ids) for _, ids, _, _ in texts)
    )
    run.report.notes["labels"] = f"{len(texts):,} rows, {100 * share:.0f} % of their tokens supervised"

    # whose words are supervised: text that stands for each turn of another role is looked for among what is trained
    for index, _, _, row in (
        (texts[i] for i in spread(len(texts), PROMPTS)) if run.given.assistant_only_loss else ()
    ):
        messages = copy.deepcopy(conversation(row)) or []
        others = [m for m in messages if m["role"] != "assistant" and isinstance(m.get("content"), str)]
        for number, message in enumerate(others):
            message["content"] = f"zq{number}qz"
        with contextlib.suppress(Exception):  # a template that reads the text of a turn
            encoded = render(run.tokenizer, messages, row, run.template, True)
            trained = [t for t, m in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if m]
            trained = run.tokenizer.decode(trained)
            for number, message in enumerate(others):
                if f"zq{number}qz" in trained:
                    what = f"a turn of {message['role']} is trained as the assistant's words"
                    fail(
                        "labels",
                        what,
                        "a chat template that marks only turns of the assistant as generation",
                        name(index),
                    )


def check_truncation(run):
    texts, longest, limit = run.rows.texts, run.given.max_length or sys.maxsize, run.options.max_truncated
    kept = (
        slice(-longest, None) if getattr(run.given, "truncation_mode", "") == "keep_end" else slice(longest)
    )
    over = [index for index, ids, _, _ in texts if len(ids) > longest]
    lost = sum(not (labels[kept] != -100).any() for _, _, labels, _ in texts)
    lengths = [len(ids) for _, ids, _, _ in texts]
    note = (
        f"{len(over):,} of {len(texts):,} rows longer than {run.given.max_length}, longest {max(lengths):,}"
    )
    splits = getattr(run.given, "packing", False) and run.given.packing_strategy in ("bfd_split", "wrapped")
    run.report.notes["truncation"] = note + ("; packing splits them" if splits else "")
    if len(over) > limit * len(texts) and not splits:
        share, enough = 100 * len(over) / len(texts), int(np.quantile(lengths, 1 - limit, method="higher"))
        what = f"{share:.3g} % of the rows are longer than max_length {longest}, {lost:,} of them have no answer left"
        change = f"max_length {enough}, shorter rows, or a higher --max_truncated"
        run.report.fail("truncation", what, change, *map(run.rows.name, over))


# ---------------------------------------------------------------- batches: padding, labels, packing
def check_batches(run):
    """The collator's batches against the rows that it is given."""
    trainer, fail, counts, longest = run.trainer, run.report.fail, Counter(), run.given.max_length
    rows, size = trainer.train_dataset, trainer.args.per_device_train_batch_size
    if hasattr(rows, "select_columns"):
        rows = rows.select_columns(
            [c for c in ("input_ids", "labels", "seq_lengths") if c in rows.column_names]
        )
    whole = not run.blocks and getattr(run.given, "packing", False) and run.given.packing_strategy == "bfd"
    known = {ids[:longest].astype(np.int64).tobytes() for _, ids, _, _ in run.rows.texts} if whole else None
    for first in range(0, len(rows), size):
        members = [rows[i] for i in range(first, min(first + size, len(rows)))]
        batch = trainer.data_collator(members)
        ids, labels = (batch[key].cpu().numpy().ravel() for key in ("input_ids", "labels"))
        isolated, width, offset = "cu_seq_lens_q" in batch, batch["input_ids"].shape[-1], 0
        flat = len(batch["input_ids"]) < len(members) or (isolated and not run.blocks)
        counts["batches"] += 1
        for i, row in enumerate(members):
            right_ids = np.asarray(row["input_ids"], dtype=np.int64)
            lengths = np.asarray(row.get("seq_lengths", [len(right_ids)]), dtype=np.int64)
            starts, used = np.cumsum([0, *lengths]), int(lengths.sum())
            end = offset + used if flat and i < len(members) - 1 else len(ids) if flat else offset + width
            counts.update(padded=end - offset - used, documents=len(lengths))
            name = (
                run.rows.name(run.rows.texts[first + i][0])
                if run.blocks
                else f"row {first + i} of the batches"
            )

            right = np.array(row.get("labels", right_ids), dtype=np.int64)[:used]
            right[
                starts[:-1][: len(right)] if isolated else []
            ] = -100  # no document predicts the next one's first token
            if (padded := np.flatnonzero(labels[offset + used : end] != -100)).size:
                change = "the collator: labels are -100 after the end of a row"
                where = f"{name}, position {used + int(padded[0])} of its batch"
                fail("padding", "a pad position has a label", change, where)
            same = np.array_equal(labels[offset : offset + used], right)
            if not same or not np.array_equal(ids[offset : offset + used], right_ids[:used]):
                fail("labels", "a batch has other ids or labels than its row", "the collator", name)
            elif run.blocks and not (right[1:] != -100).any():
                change = "longer documents, in data_prep.build_blocks"
                fail("labels", "a block has no supervised token", change, name)
            if isolated and (wrong := wrong_bounds(batch, offset, starts, ids, known)):
                fail(
                    "packing", wrong[0], "the collator, or the seq_lengths of the rows", f"{name}, {wrong[1]}"
                )
            offset = end
    run.report.notes["padding"] = f"{counts['padded']:,} padded positions in {counts['batches']:,} batches"
    documents = f"bounds of {counts['documents']:,} documents in {counts['batches']:,} batches"
    run.report.notes["packing"] = (
        f"attention on {trainer.args.device.type}, {documents}" if isolated else "not asked for"
    )
    if run.blocks:
        run.report.notes["labels"] = f"{len(run.rows.texts):,} blocks"


def wrong_bounds(batch, offset, starts, ids, known):
    """(what, where) if the kernels are given other documents than begin at `offset` + `starts`, or, if `known` rows are
    given, one that is none of them."""
    used, right = int(starts[-1]), starts[:-1].tolist()
    given = [b - offset for b in batch["cu_seq_lens_q"].tolist() if offset <= b < offset + used]
    if given != right:
        at = min(set(given) ^ set(right))
        return (
            "a bound is not where a document begins",
            f"position {at}: given {given[:8]}, documents {right[:8]}",
        )
    positions = np.concatenate(
        [np.arange(stop - start) for start, stop in zip(starts[:-1], starts[1:], strict=True)]
    )
    if (batch["position_ids"].cpu().numpy().ravel()[offset : offset + used] != positions).any():
        return "positions do not begin anew with each document", f"documents {right[:8]}"
    for start, stop in zip(starts[:-1], starts[1:], strict=True):
        if known is not None and ids[offset + start : offset + stop].tobytes() not in known:
            return "what stands between two bounds is no row", f"positions {start} to {stop}"


# ---------------------------------------------------------------- prompts
def evaluation_ids(tokenizer, text):
    """As lm-evaluation-harness 0.4.13 tokenises a prompt (HFLM.tok_batch_encode): special tokens unless it begins with BOS."""
    begun = tokenizer.bos_token and text.startswith(tokenizer.bos_token)
    return tokenizer(text, **({"add_special_tokens": False} if begun else {})).input_ids


def prompt_paths(tokenizer, row, answer):
    """{path: ids of the prompt} for the answer at index `answer` of a conversation, or for the one of plain text."""
    messages = conversation(row)
    if messages is None:
        text = row["prompt"]
        begun = bool(tokenizer.bos_token and text.startswith(tokenizer.bos_token))
        served = tokenizer(text, add_special_tokens=not begun).input_ids
        return {
            "generate": tokenizer(text).input_ids,
            "evaluation": evaluation_ids(tokenizer, text),
            "a server": served,
        }
    asked = {"conversation": messages[:answer], "add_generation_prompt": True, **options_of(row)}
    text = tokenizer.apply_chat_template(**asked, tokenize=False)
    generate = tokenizer.apply_chat_template(**asked, return_dict=True)["input_ids"]
    served = tokenizer(text, add_special_tokens=False).input_ids
    return {"generate": generate, "evaluation": evaluation_ids(tokenizer, text), "a server": served}


def check_prompts(run):
    """What was trained before each answer, against the prompt on each path; how many BOS begin them is judged as bos."""
    count, blanks, rows, fail = 0, 0, run.rows, run.report.fail
    change = (
        "one chat template for training and prompting, where add_generation_prompt writes what precedes an answer; "
        "prompts that end where a token ends"
    )
    if variant := getattr(run.trainer, "chat_template", None):  # TRL trains on its own
        folder = Path(importlib.util.find_spec("trl").origin).parent / "chat_templates"
        file = next((f for f in folder.glob("*.jinja") if f.read_text(encoding="utf-8") == variant), folder)
        change = f"chat_template_path {file}, which TRL trains on: it is then saved with the model; or rows of one answer"
    with tempfile.TemporaryDirectory(prefix="preflight_") as folder:
        run.trainer.processing_class.save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    for index, ids, labels, row in [rows.texts[i] for i in spread(len(rows.texts), PROMPTS)]:
        answers, spans = answers_of(row), spans_of(labels)
        if not answers:
            continue
        marked = len(spans) == len(answers) and spans[0][0] > 0  # else all of the row is supervised
        pairs = zip(answers, spans.tolist(), strict=True) if marked else [(answers[-1], (0, len(ids)))]
        for answer, (start, stop) in pairs:
            count += 1
            trained, before = without_bos(run, ids[:stop])
            try:
                paths = prompt_paths(tokenizer, row, answer)
            except Exception as error:
                what = type(error).__name__ if run.hide() else " ".join(str(error).split())
                fail(
                    "prompt", f"the chat template does not render a prompt: {what}", change, rows.name(index)
                )
                continue
            for path, given in paths.items():
                prompt, begun = without_bos(run, np.array(given, dtype=np.int64))
                if begun != before:
                    what = f"the prompt for {path} begins with {begun} BOS, the trained row with {before}"
                    where_bos = "bos_token in the chat template, or a tokenizer that adds it, not both"
                    fail("bos", what, where_bos, rows.name(index))
                same = len(os.path.commonprefix([prompt.tolist(), trained.tolist()]))
                gap = trained[same : max(same, start - before)].tolist()
                gap = [token for token in gap if not run.adds_bos or token != tokenizer.bos_token_id]
                if same < len(prompt) or (gap and tokenizer.decode(gap).strip(" ")):
                    what = f"the prompt for {path} is not what comes before the answer in training"
                    there, here = rows.around(index, trained, same), rows.around(index, prompt, same)
                    fail("prompt", what, change, f"{there} trained, {here.split(': ', 1)[1]} prompted")
                elif gap and path == "generate":
                    blanks += 1
    note = f"; before {blanks:,} answers a blank that is not trained" if blanks else ""
    run.report.notes["prompt"] = f"{count:,} prompts, each for generate, evaluation and a server{note}"


def without_bos(run, ids):
    """(ids after the BOS that they begin with, how many these are)"""
    begun = int(np.argmin(np.append(ids, -1) == run.tokenizer.bos_token_id)) if run.has_bos else 0
    return ids[begun:], begun


# ---------------------------------------------------------------- sizes: vocabulary, precision, disk
def full_size(run):
    """The model on the meta device: shapes and types of all its weights and which of them train, without their bytes."""
    given = run.given
    with torch.device("meta"):
        kind = getattr(torch, str(given.dtype), torch.float32)
        model = MODEL_FOR_CAUSAL_LM_MAPPING[type(run.config.get_text_config())](
            run.config.get_text_config()
        ).to(kind)
        if run.trainer and isinstance(run.trainer.model, PeftModel):
            adapter = copy.deepcopy(next(iter(run.trainer.model.peft_config.values())))
            model = get_peft_model(model, adapter, autocast_adapter_dtype=not run.deepspeed)
            if getattr(given, "load_in_4bit", False) or getattr(given, "load_in_8bit", False):
                for weight in model.parameters():  # as TRL does
                    weight.data = weight.data.bfloat16() if weight.requires_grad else weight.data
    return model


def stored_weights(given):
    """Safetensors files of a local folder or the Hub's cache; [] if the weights are not here, or are to be random."""
    folder = Path(given.model_name_or_path)
    with contextlib.suppress(LocalEntryNotFoundError):
        if not folder.is_dir():
            folder = Path(
                snapshot_download(str(folder), revision=given.model_revision, local_files_only=True)
            )
    return [] if given.from_scratch else sorted(folder.glob("*.safetensors"))


def stored(files, wanted):
    """(file, name, lazy slice of the tensor) of the `wanted` names that the files have."""
    for file in files:
        with safe_open(file, "pt") as tensors:
            for name in sorted(wanted & set(tensors.keys())):
                yield file, name, tensors.get_slice(name)


def check_vocabulary(run):
    tokenizer, fail, size = run.tokenizer, run.report.fail, run.config.get_text_config().vocab_size
    table = (
        run.trainer.model.get_input_embeddings().weight.shape[0] if run.trainer else size
    )  # TRL may have resized it
    change = "the tokenizer of this model, or a model whose embedding was resized for it"
    for index, ids, _, _ in run.rows.texts:
        if ids.max() >= table:
            where = run.rows.around(index, ids, int(ids.argmax()))
            fail("vocabulary", f"an id has no row in the embedding of {table:,}", change, where)
    if len(tokenizer) > table:
        what = f"the tokenizer has {len(tokenizer):,} tokens, the embedding {table:,} rows"
        fail("vocabulary", what, change, run.model)
    for name in ("bos", "eos") if run.blocks else ():
        made_with, now = run.manifest["tokenizer"][name], getattr(tokenizer, f"{name}_token_id")
        if made_with != now:
            what = f"{name} is {made_with} in the blocks, {now} in the tokenizer"
            fail("vocabulary", what, f"tokenizer_config.json, or {REBUILD}", run.data_path)
    base = run.sizes.get_base_model() if isinstance(run.sizes, PeftModel) else run.sizes
    shape = base.get_input_embeddings().weight.shape
    names = {name for name, weight in base.named_parameters() if weight.shape == shape and "embed" in name}
    for file, name, tensor in stored(run.files, names):
        if tensor.get_shape()[0] != size:
            what = f"{name} has {tensor.get_shape()[0]:,} rows, config.json says {size:,}"
            fail("vocabulary", what, "the model saved again after its embedding was resized", str(file))
    note = f"{len(tokenizer):,} tokens, {table:,} rows in the embedding; ids of {run.report.notes['inputs']}"
    run.report.notes["vocabulary"] = note


def check_precision(run):
    trained = {name: weight for name, weight in run.sizes.named_parameters() if weight.requires_grad}
    coarse = [name for name, weight in trained.items() if weight.element_size() == 2]
    kinds = " and ".join(sorted({str(weight.dtype).removeprefix("torch.") for weight in trained.values()}))
    note = f"{kinds}, learning_rate {run.training.learning_rate:g}"
    if run.deepspeed:
        note += ", DeepSpeed keeps float32 copies"
    elif coarse:
        chosen = {coarse[i] for i in spread(len(coarse), 24)}
        rows = {name: max(1, 200_000 * len(trained[name]) // trained[name].numel()) for name in chosen}
        parts = [tensor[: rows[name]] for _, name, tensor in stored(run.files, chosen)]
        origin = f"{len(parts)} stored tensors"
        if not parts:
            parts = [fresh(name, trained[name].shape, run.config) for name in sorted(chosen)]
            origin = "no stored ones here, random as at initialisation"
        note += f", on {sum(part.numel() for part in parts):,} weights: {origin}"
        kind = trained[coarse[0]].dtype
        weights = torch.nn.ParameterList(torch.nn.Parameter(part.to(kind)) for part in parts)
        run.checks.check_precision(weights, run.training, deepspeed=False)
    run.report.notes["precision"] = note


def fresh(name, shape, config):
    """Up to 200,000 weights as they are initialised: adapters (B at zero), or all others."""
    rows = max(1, min(shape[0], 200_000 * shape[0] // math.prod(shape)))
    if "lora_" in name:
        return (
            torch.zeros(shape)[:rows]
            if "lora_B" in name
            else torch.empty(shape).uniform_(-1, 1)[:rows] / shape[-1] ** 0.5
        )
    return torch.randn(rows, *shape[1:]) * getattr(config, "initializer_range", 0.02)


def check_disk(run):
    weights = [(weight.numel(), weight.requires_grad) for weight in run.sizes.parameters()]
    counts = [sum(numbers for numbers, trained in weights if trained or not only) for only in (False, True)]
    run.report.notes["disk"] = "{:,} weights, {:,} of them trained; {}".format(
        *counts, run.training.output_dir
    )
    run.checks.check_disk(run.sizes, run.training, run.deepspeed)


def check_answers(run):
    """What the recipe itself refuses about its answers."""
    if not {"eos", "labels", "truncation"} & set(run.report.failed()):
        run.checks.check_answers(run.trainer)


# ---------------------------------------------------------------- ranks
def fingerprint(run):
    """{item: version, sha256 or size} of what must be alike on every rank."""
    packages = "torch transformers trl peft accelerate datasets tokenizers safetensors numpy deepspeed bitsandbytes torchao"
    facts = {
        name: importlib.metadata.version(name) for name in packages.split() if importlib.util.find_spec(name)
    }
    data, model = Path(run.data_path), Path(run.model)
    files = [run.options.config, run.path, __file__, run.given.chat_template_path or run.options.config]
    files += [*run.path.parent.glob("*.py"), *([data] if data.is_file() else [])]
    files += [data / name for name in ("manifest.json", "order.npy", "train.jsonl", "validation.jsonl")]
    files += [path for ending in ("json", "jinja", "model") for path in model.glob(f"*.{ending}")]
    facts |= {str(file): run.record.sha256(Path(file))[:12] for file in files if Path(file).is_file()}
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
        if run.rows.hidden(index):
            spans = ", ".join(f"{start} to {stop - 1}" for start, stop in spans_of(labels)[:12])
            yield f"    credentialed: not shown without --show_texts. Tokens {spans} are supervised"
        else:
            yield decoded(run, ids, labels)


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
    yield f"{'check':<12}{'verdict':<9}{'seconds':>7}   checked"
    for name in WHY:
        verdict = "FAILED" if name in report.failed() else "ok" if name in report.notes else "-"
        yield f"{name:<12}{verdict:<9}{report.seconds[name]:>7.1f}   {report.notes.get(name, 'not run')}"


# ---------------------------------------------------------------- run
def infer_recipe(config):
    """The recipe that a YAML is for, by its keys."""
    try:
        keys = set(yaml.safe_load(Path(config).read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, TypeError, UnicodeDecodeError) as error:
        raise Failed(
            f"{config}: not the YAML of a run ({type(error).__name__}). Next: one of recipes/configs"
        ) from error
    if not keys & {"blocks", "rows"}:
        raise Failed(
            f"{config}: neither blocks nor rows, so nothing is trained. Next: --recipe with the path of its recipe"
        )
    return "pretrain" if "blocks" in keys else "sft"


def read_machine(path):
    """(ranks, DeepSpeed's file, whether DeepSpeed trains) of an accelerate file."""
    try:
        machine = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        file = machine.get("deepspeed_config", {}).get("deepspeed_config_file", "none")
        return int(machine["num_processes"]), file, machine["distributed_type"] == "DEEPSPEED"
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise Failed(f"{path}: not an accelerate file ({reason}). Next: one of accelerate_configs") from error


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
            run.build()
        except (Failed, run.checks.Refused):
            raise
        except Exception as error:
            change = f"Next: python {run.path} with the same arguments shows the traceback"
            raise Failed(f"{located(error, run.path, run.hide())}. {change}") from error
        finally:
            run.training = training_of(run.args)
    if not run.trainer:
        return report, []

    with report.check("inputs"):
        run.sizes = full_size(run)
    checks = {
        "vocabulary": check_vocabulary,
        "eos": check_row_ends,
        "bos": check_row_begins,
        "truncation": check_truncation,
    }
    checks |= {"labels": check_supervised, "padding": check_batches, "prompt": check_prompts}
    if run.blocks:
        checks |= {"eos": check_piece_ends, "bos": check_piece_begins}
        del checks["labels"], checks["truncation"], checks["prompt"]
        report.notes |= {"truncation": "documents continue in another block", "prompt": "blocks have none"}
    if not run.rows.texts:
        columns = ", ".join(getattr(run.trainer.train_dataset, "column_names", ())) or "items of another kind"
        print(
            f"{run.path.name}: {type(run.trainer).__name__} prepares {columns}; only input_ids and labels are checked"
        )
        checks = {"vocabulary": check_vocabulary}
    if not hasattr(run, "sizes"):
        return report, list(examples(run))
    for name, check in (checks | {"precision": check_precision, "disk": check_disk}).items():
        with report.check(name):
            check(run)
    if run.rows.texts and not run.blocks:
        with report.check("labels"):
            check_answers(run)
    return report, list(examples(run))


def main(options, more):
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    report, shown = inspect(options, more)
    gathered, report.failures = gather_object([report.failures]), {}
    for key, where in ((key, where) for each in gathered for key, where in each.items()):
        report.fail(*key, *(each for each in where if each not in report.failures.get(key, ())))
    if int(os.environ.get("RANK", 0)) == 0:
        print(
            f"preflight of {options.config}",
            "",
            *shown,
            "",
            *failures(report),
            "",
            *table(report),
            sep="\n",
            flush=True,
        )
    PartialState().wait_for_everyone()  # the launcher ends all ranks with the first that leaves
    if report.failed():
        names = ", ".join(report.failed())
        raise Failed(f"{options.config}: {names} failed. Next: what is listed at change, above the table")


def make_parser():
    parser = argparse.ArgumentParser(
        prog="python -m recipes.tools.preflight", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--config", required=True, metavar="YAML", help="a file of recipes/configs, or yours")
    add(
        "--recipe",
        metavar="FILE",
        help="a recipe of yours, such as elsewhere/my_sft.py; else by the keys of the YAML",
    )
    add("--accelerate", metavar="YAML", help="judge the machine of this file, from here")
    add("--world_size", metavar="N", help="ranks that must be running, as the recipe has it")
    add(
        "--sample", type=int, default=2000, metavar="N", help="rows or blocks to check; 0: all (default 2000)"
    )
    help = "share of rows that may be longer than max_length (default 0.01)"
    add("--max_truncated", type=float, default=0.01, help=help)
    add("--show_texts", action="store_true", help="show texts of credentialed rows too")
    add("--color", choices=("auto", "always", "never"), default="auto")
    return parser


if __name__ == "__main__":
    try:
        main(*make_parser().parse_known_args())
    except (Failed, OSError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}" if int(os.environ.get("LOCAL_RANK", 0)) == 0 else 1)
