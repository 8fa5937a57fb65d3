"""The papers of a release: provenance.json; README.md of card.md and LICENSE of licence.md, which are Jinja
templates; NOTICE.txt where a base asks for it; RECORDS of a bundle. Every number is one that a file has
told."""

import json
import math
import shutil
from pathlib import Path

import jinja2
import yaml
from transformers import AutoTokenizer

from .files import PROVENANCE, listing
from .licences import read_terms

TENSORS = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
ASKED = {
    "chat": [{"role": "user", "content": "What is hypertension?"}],
    "text": "The medical condition is characterized by",
}
SHOWN = (
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "optim",
    "num_train_epochs",
    "max_steps",
    "global_batch_tokens",
    "global_batch_size",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_length",
    "packing",
    "dtype",
    "bf16",
    "load_in_4bit",
    "use_peft",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_target_modules",
    "from_scratch",
    "seed",
)


def write_papers(folder, facts, copies):
    bundle, licence = facts["access"] == "credentialed", facts["licence"]
    (folder / PROVENANCE).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    wrapped = wrapped_prompt(folder / facts["name"] if bundle else folder) if facts["chat"] else None
    (folder / "README.md").write_text(
        render("card.md", facts | card(facts) | {"wrapped": wrapped}), encoding="utf-8"
    )
    (folder / ("LICENSE.txt" if bundle else "LICENSE.md")).write_text(
        render("licence.md", licence | {"bundle": bundle}), encoding="utf-8"
    )
    if licence["notices"]:
        (folder / "NOTICE.txt").write_text(
            "\n".join([*licence["notices"], *licence["shown"]]) + "\n", encoding="utf-8"
        )
    for path in copies:
        shutil.copyfile(path, folder / f"BASE_MODEL_{path.stem}.txt")
    if bundle:
        (folder / "RECORDS").write_text(
            "".join(f"{path}\n" for path in listing(folder) if path.endswith(".safetensors")),
            encoding="utf-8",
        )


def wrapped_prompt(model):
    """The card's question as the model's chat template writes it; None without a template, which verify
    refuses."""
    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    if tokenizer.chat_template:
        return tokenizer.apply_chat_template(ASKED["chat"], tokenize=False, add_generation_prompt=True)


def render(name, facts):
    """A template of this folder, filled. A name that it does not know is an error."""
    places = {
        "loader": jinja2.FileSystemLoader(Path(__file__).parent),
        "undefined": jinja2.StrictUndefined,
        "finalize": known,
    }
    pages = jinja2.Environment(**places, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    pages.filters |= {"cell": cell, "interval": interval}
    return pages.get_template(name).render(facts)


def known(value):
    return "not recorded" if value is None else f"{value:,}" if isinstance(value, int) else value


def cell(value):
    return str(known(value)).replace("|", "/")


def interval(entry):
    if entry.get("withheld"):
        return f"withheld: {entry['withheld']}"
    middle = next((entry[key] for key in ("value", "difference", "ratio") if key in entry), None)
    return (
        "not defined on these rows"
        if middle is None
        else f"{middle:.3f} ({entry['low']:.3f} to {entry['high']:.3f})"
    )


def card(facts):
    """What card.md shows beside the facts themselves; stages oldest first."""
    runs, manifests = facts["runs"][::-1], facts["manifests"][::-1]
    signed = [entry for record in (*manifests, *runs) for entry in record.get("declassified", ())]
    sent = [entry for record in runs for entry in record.get("allowed", ())]
    tensors = ", ".join(f"{key}={value!r}" for key, value in TENSORS.items())
    return {
        "runs": runs,
        "manifests": manifests,
        "front": front(facts),
        "trained": [training(record) for record in runs],
        **hardware(runs),
        "commits": sorted({record["commit"] for record in runs if record.get("commit")}),
        "texts": [
            (record["stage"], source)
            for record, part in zip(runs, facts["data"][::-1], strict=True)
            for source in part
        ],
        "signed": dict.fromkeys(
            f"{e['from']} to {e['to']} by {e['who']} on {e['date']}: {e['why']}" for e in signed
        ),
        "sent": dict.fromkeys(f"{e['endpoint']}: {e['agreement']}, {e['person']}, {e['date']}" for e in sent),
        "asks": [f"{entry['asks']} ({', '.join(entry['by'])})" for entry in facts["licence"]["terms"]],
        "tasks": sorted({record["task"] for record in manifests if isinstance(record.get("task"), str)}),
        "prompt": json.dumps(ASKED["chat" if facts["chat"] else "text"]),
        "inputs": f"tokenizer.apply_chat_template(prompt, {tensors})"
        if facts["chat"]
        else "tokenizer(prompt, return_tensors='pt')",
    }


def front(facts):
    """The card's YAML header: https://huggingface.co/docs/hub/model-cards."""
    name, datasets = facts["licence"]["card"], read_terms()["datasets"]
    header = {
        "license": name,
        "license_name": "terms-of-data-and-base" if name == "other" else None,
        "license_link": "LICENSE.md" if name == "other" else None,
        "base_model": facts["base"]["name"] if "/" in facts["base"]["name"] else None,
        "language": ["en"],
        "pipeline_tag": "text-generation",
        "library_name": "transformers",
        "tags": ["medical", *(["conversational"] if facts["chat"] else []), f"access-{facts['access']}"],
        "datasets": sorted(
            {
                datasets[source["source"]]
                for stage in facts["data"]
                for source in stage
                if source["source"] in datasets
            }
        ),
        "extra_gated_prompt": facts["terms"],
    }
    return yaml.safe_dump(
        {key: value for key, value in header.items() if value}, sort_keys=False, allow_unicode=True
    )


def training(record):
    """The line of a stage; LoRA's settings only where it was used."""
    given, measured = record["arguments"], record.get("metrics", {})
    keys = [
        key
        for key in SHOWN
        if given.get(key) not in (None, "", -1) and (given.get("use_peft") or not key.startswith("lora_"))
    ]
    done = (
        [f"{known(record.get('steps'))} steps, {known(record.get('tokens_seen'))} tokens seen"]
        if "learning_rate" in given
        else []
    )
    done += [f"{key} {measured[key]:.4g}" for key in ("train_loss", "eval_loss") if key in measured]
    if "parity" in record:
        done.append(
            f"largest difference of a logit to the adapter {record['parity']['max_logit_difference']:.2e}"
        )
    done.append(", ".join(f"{key} {given[key]}" for key in keys))
    return f"**{record['stage']}**: {'; '.join(part for part in done if part)}"


def hardware(runs):
    """Each session as (stage, machine, ranks, hours, GPU-hours, peak memory). A GPU-hour is one rank for one
    hour on a machine that is no CPU."""
    rows, total = [], 0.0
    for record, session in [(run, session) for run in runs for session in run["sessions"]]:
        hours, peak = session.get("seconds", math.nan) / 3600, record.get("peak_memory_bytes")
        gpu_hours = 0.0 if "CPU" in session["machine"] else hours * session["ranks"]
        total += gpu_hours
        times = (
            None if math.isnan(hours) else f"{hours:.3f}",
            None if math.isnan(gpu_hours) else f"{gpu_hours:.2f}",
        )
        rows.append(
            (record["stage"], session["machine"], session["ranks"], *times, peak and f"{peak / 1e9:.2f} GB")
        )
    return {"sessions": rows, "gpu_hours": None if math.isnan(total) else total}
