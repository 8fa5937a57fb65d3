"""The record of a run: OUTPUT_DIR/run.json, checkpoints that are whole, what may be resumed, the lock on the
folder.

A run is its data, its model and the arguments that change training. The same command resumes it; changed code
is a warning, a changed cadence of logs, checkpoints or evaluation is nothing, and anything else needs another
output_dir. Checkpoints are removed by save_total_limit alone.

    run.json                        status, access class, arguments, sha256 of inputs, base model, sessions,
                                    results
    checkpoint-N/complete.json      sha256 of each file of the checkpoint, written last
    access.json                     access class of an adapter (a full model has it in config.json)
"""

import concurrent.futures
import contextlib
import datetime
import errno
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from accelerate.utils import gather_object
from callbacks import Throughput, peak_memory_bytes
from checks import UPLOAD_KEYS, Refused, check_weights, is_hub_name, one_sentence_errors, uploads_of
from egress import (
    ACCESS,
    block_egress,
    load_allow_list,
    manifest_sha256,
    require_allowed,
    require_local_files,
    wall,
)
from huggingface_hub import try_to_load_from_cache
from transformers import TrainerCallback
from transformers.hf_argparser import HfArg


@dataclass(kw_only=True)
class RunArguments:
    """What every recipe takes beside the arguments of its stage."""

    access: Literal["public", "gated", "credentialed"] | None = HfArg(
        default=None, help="Access class of data that have no manifest.json."
    )
    overwrite: bool = HfArg(default=False, help="Move another run out of output_dir, and begin anew.")
    world_size: int | None = HfArg(default=None, help="Ranks that must be running.")
    verify: Literal["sizes", "full"] = HfArg(
        default="sizes", help="Packed blocks at launch: sizes, or sha256."
    )
    max_loss_jump: float | None = HfArg(
        default=5.0, help="Nats above the recent mean that stop a run; null: no limit."
    )
    peak_tflops: float | None = HfArg(
        default=None, help="Dense peak of a device that hardware.py does not know."
    )
    allow_upload: bool = HfArg(default=False, help="Let trackers and push_to_hub send data away.")
    allow_list: str | None = HfArg(
        default=None, help="YAML of what may receive credentialed data (egress.py)."
    )


# Arguments that say where a run runs, or what it reports. Files are known by their content, and the batch as
# a whole.
NOT_IDENTITY = re.compile(
    r"(logging|save|eval|hub|push|trackio|ddp|fsdp|dataloader_(?!drop_last))\w*|log_\w*|"
    r"batch_eval_metrics|include_\w*|report_to|project|run_name|disable_tqdm|do_\w+|access|overwrite|"
    r"world_size|verify|peak_tflops|allow_\w*|max_loss_jump|output_dir|rows|blocks|model_name_or_path|"
    r"model_revision|chat_template_path|resume_from_checkpoint|restore_callback_states_from_checkpoint|"
    r"local_rank|use_cpu|per_device_\w*|gradient_accumulation_steps|gradient_checkpointing\w*|"
    r"activation_\w*|accelerator_config|deepspeed|parallelism_config|torch_empty_cache_steps|"
    r"skip_memory_metrics|metric_for_best_model|greater_is_better"
)


def open_run(script, args, model, data, base=None):
    """RunRecord of output_dir: a new run, or the same run, to be resumed or already complete. Refused if the
    folder holds another run or is in use. If what it reads is credentialed, the process closes before rows
    are read.

    args: dataclasses of the recipe's parser; model: folder or Hub name; data: folder with manifest.json, or
    any file or folder; base: another model that is read."""
    training = next(part for part in args if hasattr(part, "output_dir"))
    first = (
        training.main_process_first(local=False)
        if hasattr(training, "main_process_first")
        else contextlib.nullcontext()
    )
    folder, models = Path(training.output_dir), [model, *([base] if base else [])]
    with first:
        new = not folder.exists()
        try:
            return RunRecord(*_open(script, args, training, models, Path(data)))
        except Refused:  # leaves no folder behind
            if (
                new
                and rank() == 0
                and folder.is_dir()
                and {path.name for path in folder.iterdir()} <= {".lock"}
            ):
                shutil.rmtree(folder)
            raise


def _open(script, args, training, models, data):
    arguments = {}
    for part in args:
        arguments |= part.to_dict() if hasattr(part, "to_dict") else vars(part)
    arguments = json.loads(json.dumps(arguments, default=str))
    folder = Path(training.output_dir)
    lock = take_lock(folder) if rank() == 0 else None

    model, trains = models[0], hasattr(training, "per_device_train_batch_size")
    terms = access_of(data, models, arguments)
    allowed = close_process(terms, arguments)
    if data.suffix == ".jsonl" or data.is_dir():  # rows may be stricter than their manifest
        terms = access_of(data, models, arguments, rows=True)
        allowed = close_process(terms, arguments) or allowed
    os.environ["TRACKIO_DIR"] = str((folder / "trackio").resolve())
    require_local_files(terms["access"], arguments, folder, Refused)
    check_outputs(data, arguments.get("verify"))

    parent = next(
        (p for p in (Path(model, n) for n in ("run.json", "complete.json", "config.json")) if p.is_file()),
        None,
    )
    template = Path(arguments.get("chat_template_path") or "")
    files, manifest = {str(path): sha256(path) for path in data_files(data)}, data / "manifest.json"
    content = files  # what identifies the data: of a manifest what was made, and not how or from which path
    if manifest.is_file():
        made = json.dumps(read_json(manifest).get("outputs", []), sort_keys=True)
        files = files | {str(manifest): manifest_sha256(manifest)}
        content = files | {str(manifest): hashlib.sha256(made.encode()).hexdigest()}
    inputs = files | {str(path): sha256(path) for path in (parent, template) if path and path.is_file()}
    base = base_of(model, arguments.get("model_revision"))
    per_rank = training.per_device_train_batch_size * training.gradient_accumulation_steps if trains else 0
    ranks = training.world_size if trains else 1
    identity = {
        "data": sorted(content.values()),
        "base": base["weights"] or base["revision"] or inputs.get(str(parent)),
        "batch (rows per step)": per_rank * ranks,
    }
    identity |= {"chat template": inputs.get(str(template))} if template.is_file() else {}
    identity |= {key: value for key, value in arguments.items() if not NOT_IDENTITY.fullmatch(key)}

    old = (
        json.loads((folder / "run.json").read_text(encoding="utf-8"))
        if (folder / "run.json").is_file()
        else {}
    )
    loaded = loaded_beside(script)
    siblings = sorted(Path(__file__).parent.glob("*.py"))
    code = {path.name: sha256(path) for path in (Path(script), *siblings) if path.name in loaded}
    if old:
        before = old.get("identity", {})
        if before.get("data") == sorted(files.values()):  # an older version hashed whole manifests
            before["data"] = identity["data"]
        changed = [key for key in identity if key in before and identity[key] != before[key]]
        made = {path.name for path in folder.iterdir() if not path.name.startswith(".")} - {"run.json"}
        if changed and old.get("status") != "complete" and not made:
            print(f"{folder}: an attempt that had saved nothing; begun anew", flush=True)
            old = {}
        elif not before or changed:
            if not arguments.get("overwrite"):
                what = f"differs in {', '.join(changed)}" if changed else "written by an older version"
                raise Refused(f"{folder} holds another run ({what}). Next: another output_dir")
            if rank() == 0:
                print(f"{folder}: the run that was there is now {move_aside(folder)}", flush=True)
                lock = take_lock(folder)
            old = {}
        elif edited := sorted(name for name in code if code[name] != old.get("code", {}).get(name)):
            print(f"warning: {', '.join(edited)} changed since {folder} began", flush=True)
    elif folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise Refused(
            f"{folder} holds files and no run.json: not a run of these recipes. Next: another output_dir"
        )
    if old.get("status") == "complete":
        return old, lock
    if trains and training.save_only_model and str(training.save_strategy.value) != "no" and rank() == 0:
        print(
            "save_only_model: an interrupted run starts again from step 0 (no optimizer in its checkpoints)",
            flush=True,
        )

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
    session = {"machine": machine, "ranks": ranks, "started": time.time()}
    record = {
        "status": "running",
        "stage": Path(script).stem,
        **terms,
        "allowed": allowed,
        "egress": wall(),
        "parent": str(parent or model),
        "base": {"name": model, **base},
        "machine": machine,
        "ranks": session["ranks"],
        "commit": commit_of(script),
        "versions": {n: importlib.metadata.version(n) for n in packages if importlib.util.find_spec(n)},
        "arguments": arguments,
        "identity": identity,
        "inputs": inputs,
        "code": code,
        "sessions": [*old.get("sessions", []), session],
    }
    write_run(record)
    return record, lock


def loaded_beside(script):
    """Names of the script and of the modules beside it that it imports."""
    files = [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]
    here = os.path.dirname(__file__)
    return {Path(script).name} | {os.path.basename(file) for file in files if os.path.dirname(file) == here}


# ---------------------------------------------------------------- what a run reads
def data_files(data):
    """Files that a run knows its data by: manifest and row files of a folder of data_prep, else every
    file."""
    if not data.exists():
        raise Refused(
            f"{data}: no such file or folder. Next: check the paths of the YAML, relative to the current "
            f"folder"
        )
    if data.is_file():
        return [data]
    if (data / "manifest.json").is_file():
        names = ("manifest.json", "train.jsonl", "validation.jsonl", "order.npy")
        return [data / name for name in names if (data / name).is_file()]
    return sorted(path for path in data.rglob("*") if path.is_file())


def check_outputs(data, verify):
    """Refuse files of a manifest that are missing or changed: rows and training order by sha256; packed
    blocks by size, where the manifest has it, and by sha256 with verify: full."""
    manifest = data / "manifest.json"
    if not manifest.is_file():
        return
    content = read_json(manifest)
    outputs = [
        *content.get("outputs", ()),
        *([content["order"]] if isinstance(content.get("order"), dict) else ()),
    ]
    again = f"Next: python -m data_prep.{content.get('stage', 'build_...')} --out {data} --help"
    for output in outputs:
        path, name = data / output["path"], output["path"]
        if Path(name).name not in ("train.jsonl", "validation.jsonl", "order.npy") and not name.endswith(
            ".arrow"
        ):
            continue
        if not path.is_file():
            raise Refused(f"{path}: missing, though {manifest} lists it. {again}")
        if "bytes" in output and path.stat().st_size != output["bytes"]:
            raise Refused(
                f"{path}: {path.stat().st_size:,} bytes, {manifest} says {output['bytes']:,}. {again}"
            )
        if (verify == "full" or not name.endswith(".arrow")) and sha256(path) != output["sha256"]:
            raise Refused(f"{path}: its content is not what {manifest} lists. {again}")


def access_of(data, models, arguments, rows=False):
    """{"access", "agreements", "declassified"}: the strictest class of the YAML, the manifest, the rows
    (`rows`: they are read) and the models, the agreements behind credentialed data, and who declassified
    what."""
    manifest, given = data / "manifest.json", arguments.get("access")
    revision = arguments.get("model_revision")
    records = [(manifest, read_json(manifest), "missing")] if manifest.is_file() else []
    if rows:
        silent = "missing" if records else given  # each row of data_prep states its class
        files = [path for path in data_files(data) if path.suffix == ".jsonl"]
        for path in files:
            records += [(f"{path}: line {n}", row, silent) for n, row in enumerate(read_rows(path), 1)]
    for model in models:
        folder = Path(cached_config(model, revision) or Path(model, "config.json")).parent
        names = {
            "run.json": "missing",
            "config.json": "public",
            "access.json": "public",
            "complete.json": "public",
        }
        files = [(folder / name, silent) for name, silent in names.items() if (folder / name).is_file()]
        records += [(path, read_json(path), silent) for path, silent in files]
    if not manifest.is_file() and not given and data.name != "adapter_config.json":
        raise Refused(
            f"{data}: no manifest.json has its access class. Next: access: public, gated or credentialed "
            f"in the YAML"
        )

    classes, agreements, signed = {given: "access"} if given else {}, set(), []
    for path, record, silent in records:
        for entry in [record, *(record["inputs"] if isinstance(record.get("inputs"), list) else ())]:
            found = {entry.get("access", silent), entry.get("model_access", "public")}
            classes |= dict.fromkeys(found, path)
            if "credentialed" in found and "license" in entry:
                agreements.add(entry["license"])
        agreements.update(record.get("agreements", ()))
        signed += [entry for entry in record.get("declassified", ()) if entry not in signed]
    if wrong := [name for name in classes if name not in ACCESS]:
        allowed = ", ".join(ACCESS)
        raise Refused(
            f"{classes[wrong[0]]}: access is {wrong[0]}, must be one of {allowed}. Next: build it again"
        )
    strictest = max(classes or ["public"], key=ACCESS.index)
    return {"access": strictest, "agreements": sorted(agreements), "declassified": signed}


def cached_config(model, revision):
    """Path of config.json of a Hub model in the local cache, or None."""
    found = None if Path(model).exists() else try_to_load_from_cache(model, "config.json", revision=revision)
    return found if isinstance(found, str) else None


def close_process(terms, arguments):
    """If the data are credentialed: nothing leaves this machine from here on, but for what an entry of the
    allow list opens. Returns the entries that were needed."""
    if terms["access"] != "credentialed":
        return []
    allowed = load_allow_list(arguments.get("allow_list"), Refused)
    hub, wandb = (
        os.environ.get("HF_ENDPOINT", "huggingface.co"),
        os.environ.get("WANDB_BASE_URL", "api.wandb.ai"),
    )
    uploads = uploads_of(arguments)
    uploads += (
        ["wandb"] if "wandb" in (arguments.get("report_to") or ()) and "wandb" not in uploads else []
    )  # its files wait to be sent
    hosts = {"wandb": wandb, **dict.fromkeys(UPLOAD_KEYS, hub), "judge_url": arguments.get("judge_url")}
    needed = [
        require_allowed(hosts.get(name, name), allowed, terms["agreements"], Refused) for name in uploads
    ]
    block_egress(terms["agreements"], Refused, [entry for entry in needed if entry])
    one_sentence_errors()
    return [entry for entry in needed if entry]


def base_of(model, revision):
    """{"revision": commit of a Hub model, "weights": fingerprint of a local folder's safetensors}."""
    cached = cached_config(model, revision)
    commit = Path(cached).parent.name if cached else None
    return {"revision": commit, "weights": fingerprint(model) if Path(model).is_dir() else None}


def check_base(adapter, base, revision):
    """(base, revision) to merge an adapter onto: the weights that it was trained on, by the run.json beside
    it."""
    record = Path(adapter, "run.json")
    trained = read_json(record).get("base", {}) if record.is_file() else {}
    commit, weights = trained.get("revision") or revision or "main", trained.get("weights")
    again = "Next: bring that base back, or train the adapter again"
    if (weights or not is_hub_name(base)) and not Path(base, "config.json").is_file():
        raise Refused(f"{base}: the base of {adapter} is not here, relative to {Path.cwd()}. {again}")
    check_weights(adapter)
    check_weights(base)
    if weights and fingerprint(base) != weights:
        raise Refused(f"{base} has other weights than {adapter} was trained on. {again}")
    if not trained:
        print(f"{adapter} has no run.json: whether {base} is its base cannot be checked", flush=True)
    return base, commit


def positions_of(adapter):
    """{rope_parameters, max_position_embeddings} that an adapter was trained with, by the run.json beside it:
    its own config names neither."""
    record = Path(adapter, "run.json")
    arguments = read_json(record).get("arguments", {}) if record.is_file() else {}
    changes = arguments.get("model_init_kwargs") or {}
    return {key: changes[key] for key in ("rope_parameters", "max_position_embeddings") if key in changes}


def fingerprint(folder):
    """sha256 of what identifies the weights of a folder without reading them all: of each safetensors file
    its name, size, header and 64 pieces of 64 KiB, spread evenly. None without weights."""
    digest, files = hashlib.sha256(), sorted(Path(folder).glob("*.safetensors"))
    for path in files:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(8 + min(int.from_bytes(file.read(8), "little"), size))
            digest.update(f"{path.name} {size} ".encode() + header)
            for start in np.linspace(0, max(0, size - 65536), 64).astype(np.int64):
                file.seek(int(start))
                digest.update(file.read(65536))
    return digest.hexdigest() if files else None


# ---------------------------------------------------------------- checkpoints
class RunRecord(TrainerCallback):
    """Seals each checkpoint with the sha256 of its files, removes old ones by their step (clocks are not
    trusted) and keeps run.json. `resume()` gives the newest whole checkpoint."""

    def __init__(self, record, lock=None):
        self.record, self.complete = record, record["status"] == "complete"
        self.lock = None if self.complete else lock  # the folder is free again when the file is closed

    def attach(self, trainer):
        """Add this record to the trainer, and let Throughput add to a log line before the trackers write
        it."""
        self.dtypes = {name: weight.dtype for name, weight in trainer.model.named_parameters()}
        trainer.add_callback(self)
        trainer.callback_handler.callbacks.sort(key=lambda callback: not isinstance(callback, Throughput))

    def mark(self, config):
        """Write the access class into a model's config.json, which goes wherever its weights go."""
        if self.record["access"] != "public":
            config.access = self.record["access"]

    def on_train_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
        self.limit, args.save_total_limit = args.save_total_limit, None
        self.mark(model.config)
        for name, weight in model.named_parameters() if state.global_step else ():
            dtype = self.dtypes.get(name, weight.dtype)
            if weight.requires_grad and weight.dtype != dtype:  # PEFT loads a 16-bit adapter in float32
                weight.data = weight.data.to(dtype)
                moments = optimizer.state.get(weight, {})
                moments |= {
                    key: value.to(dtype) for key, value in moments.items() if getattr(value, "ndim", 0)
                }

    def on_step_end(self, args, state, control, **kwargs):
        control.should_log |= (
            control.should_save
        )  # so that the losses of a resumed run are those of a whole one

    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_log |= control.should_save

    def on_save(self, args, state, control, **kwargs):
        folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
        facts = {"step": state.global_step, "ranks": args.world_size, "access": self.record["access"]}
        facts |= {"save_only_model": args.save_only_model, "sha256": hashes(folder)}
        if rank() == 0:
            write_access(folder, self.record["access"])
            write_text(folder / "complete.json", json.dumps(facts, indent=1) + "\n")
            write_run(self.record)
            kept = steps_of(args.output_dir)[-self.limit :] if self.limit else steps_of(args.output_dir)
            best = Path(state.best_model_checkpoint or "").name
            for step in steps_of(args.output_dir):
                if step < state.global_step and step not in kept and f"checkpoint-{step}" != best:
                    shutil.rmtree(Path(args.output_dir, f"checkpoint-{step}"))

    def resume(self, training):
        """The newest whole checkpoint, or the one that resume_from_checkpoint names; None to start from the
        beginning. What is damaged is passed over in one sentence."""
        asked = training.resume_from_checkpoint
        if asked and str(asked).lower() != "true":
            if damage := damage_of(Path(asked)):
                raise Refused(
                    f"resume_from_checkpoint {asked}: {damage}. Next: leave the key out to resume from the "
                    f"newest whole one"
                )
            return str(asked)
        for step in reversed(steps_of(training.output_dir)):
            folder = Path(training.output_dir, f"checkpoint-{step}")
            if damage := damage_of(folder):
                if rank() == 0:
                    print(f"{folder}: {damage}; passed over", flush=True)
                continue
            ranks = read_json(folder / "complete.json")["ranks"]
            if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true" and ranks != training.world_size:
                raise Refused(
                    f"{folder} was saved by DeepSpeed on {ranks} ranks, {training.world_size} are running. "
                    f"Next: launch {ranks} ranks, or "
                    "name it as model_name_or_path of a new run (weights, no optimizer), or python -m "
                    "deepspeed.checkpoint.ds_to_universal --help"
                )
            return str(folder)
        return None

    def close(self, trainer, metrics, **facts):
        """Add the results; only now is the run complete."""
        history = [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
        steps, losses = zip(*history, strict=True) if history else ((), ())
        # Trainer's own train_loss is the sum since the last start divided by all steps; the log has the whole
        # run
        metrics |= (
            {"train_loss": float(np.average(losses, weights=np.diff(steps, prepend=0)))} if history else {}
        )
        seen = [entry["tokens_seen"] for entry in trainer.state.log_history if "tokens_seen" in entry]
        facts |= {
            "steps": trainer.state.global_step,
            "tokens_seen": seen[-1] if seen else None,
            "metrics": metrics,
        }
        best = {
            "best_checkpoint": trainer.state.best_model_checkpoint,
            "best_metric": trainer.state.best_metric,
        }
        self.finish(**facts, **best)

    def finish(self, **facts):
        """Only now is the run complete."""
        self.record |= {"status": "complete", "peak_memory_bytes": peak_memory_bytes(), **facts}
        if rank() == 0:
            write_access(Path(self.record["arguments"]["output_dir"]), self.record["access"])
            write_run(self.record)
        self.lock = None


def steps_of(folder):
    """Steps of the checkpoints in a folder, ascending. checkpoint-best and the like are somebody else's."""
    names = (re.fullmatch(r"checkpoint-(\d+)", path.name) for path in Path(folder).glob("checkpoint-*"))
    return sorted(int(match[1]) for match in names if match)


def hashes(folder):
    """{file: sha256} of a checkpoint; each rank reads its share. Every rank must call it."""
    gather_object([None])  # all ranks have written
    names = sorted(
        p.relative_to(folder).as_posix()
        for p in folder.rglob("*")
        if p.is_file() and p.name not in ("complete.json", "access.json")
    )
    share = names[rank() :: int(os.environ.get("WORLD_SIZE", 1))]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = dict(zip(share, pool.map(lambda name: sha256(folder / name), share), strict=True))
    return {name: digest for part in gather_object([found]) for name, digest in part.items()}


def damage_of(folder):
    """What is wrong with a checkpoint, or None. Every rank must call it."""
    if not (folder / "complete.json").is_file():
        return "not whole (no complete.json)"
    facts = read_json(folder / "complete.json")
    if facts.get("save_only_model"):
        return "has no optimizer (save_only_model)"
    found, expected = hashes(folder), facts["sha256"]
    missing = sorted(set(expected) - set(found))
    changed = sorted(name for name in expected if name in found and found[name] != expected[name])
    parts = [
        f"{', '.join(names)} {what}"
        for names, what in ((missing, "missing"), (changed, "changed or cut short"))
        if names
    ]
    return "; ".join(parts) or None


# ---------------------------------------------------------------- files
def take_lock(folder):
    """Hold FOLDER/.lock until this process and its workers end (flock: a dead holder's lock is free)."""
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / ".lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            return file  # a file system without locks
        file.seek(0)
        raise Refused(
            f"{folder} is in use by {file.read().strip() or 'another process'}. Next: wait for it, or "
            f"another output_dir"
        ) from None
    file.truncate(0)
    file.write(
        f"host {socket.gethostname()}, pid {os.getpid()}, since {datetime.datetime.now():%Y-%m-%d %H:%M}\n"
    )
    file.flush()
    return file


def move_aside(folder):
    """Rename the content's folder to the first free FOLDER.N, and return that path."""
    folder = folder.resolve()
    target = next(p for n in range(1, 10_000) if not (p := folder.with_name(f"{folder.name}.{n}")).exists())
    folder.rename(target)
    folder.mkdir()
    return target


def write_run(record):
    """Write OUTPUT_DIR/run.json, whole or not at all. `seconds`: of all sessions, of a killed one up to its
    last checkpoint."""
    session = record["sessions"][-1]
    session["seconds"] = round(time.time() - session["started"], 1)
    record["seconds"] = round(sum(session["seconds"] for session in record["sessions"]), 1)
    folder = Path(record["arguments"]["output_dir"])
    if rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        if record["access"] == "credentialed":
            folder.chmod(0o700)
        write_text(folder / "run.json", json.dumps(record, indent=1) + "\n")
    return record


def write_access(folder, access):
    """The class of an adapter beside it: PEFT reads no other key in adapter_config.json than its own."""
    if access != "public" and (folder / "adapter_config.json").is_file():
        write_text(folder / "access.json", json.dumps({"access": access}) + "\n")


def write_text(path, text):
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def read_json(path):
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise Refused(f"{path}: not JSON ({reason(error)}). Next: build it again") from error
    if not isinstance(content, dict):
        raise Refused(f"{path}: not a JSON object. Next: build it again")
    return content


def read_rows(path):
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                yield {key: row[key] for key in ("access", "model_access", "license") if key in row}
            except (ValueError, TypeError, RecursionError) as error:
                raise Refused(f"{path}: line {number} is not a row ({reason(error)})") from error


def reason(error):
    """What is wrong with a line of data, quoting nothing of it: more people read a log than may read the
    data."""
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start + 1} is not UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else type(error).__name__


def sha256(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def commit_of(script):
    git = ["git", "-C", str(Path(script).resolve().parent), "rev-parse", "HEAD"]
    return subprocess.run(git, capture_output=True, text=True).stdout.strip() if shutil.which("git") else ""


def rank():
    return int(os.environ.get("RANK", 0))
