"""A finished run becomes a release: first everything that is known of it, then its folder, whole and
verified, or not at all."""

import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import save_torch_state_dict
from transformers import AutoTokenizer, GenerationConfig

from .card import write_papers
from .evidence import read_extraction, read_forgetting, read_scores
from .files import PROVENANCE, Refused, read_json, strictest
from .licences import base_files, base_licences, check_release, licences_in, read_terms, roll_up
from .private import scrub
from .runs import read_chain, read_data
from .verify import VOCABULARY, answer_end, describe, failures, model_folder, open_tensors, write_sums

SHARD = "5GB"
TOKENIZER = (*VOCABULARY, "tokenizer.model", "added_tokens.json", "chat_template.jinja")


def build(args):
    """Write FOLDER, whole and verified, or not at all."""
    run, folder = Path(args.run), Path(args.folder)
    facts = gather(run, args.name or folder.name, args)
    copies = base_files(facts["base"], facts["licence"], args.license_files)
    bundle, licence = facts["access"] == "credentialed", facts["licence"]["release"]
    if folder.exists() and any(folder.iterdir()) and not (folder / PROVENANCE).is_file():
        raise Refused(f"{folder}: holds files and is no release, so it is left alone. Next: another folder")
    with whole(folder, owner_only=bundle) as partial:
        place = model_folder(partial, facts)
        place.mkdir(parents=True)
        weights = write_model(run, place, facts)
        write_papers(partial, scrub(facts) | {"weights": weights}, copies)
        write_sums(partial)
        if failed := failures(partial):
            raise Refused(f"{run}: not released, {failed}. Next: mend that in the run")
    kind = "a local bundle, never pushed" if bundle else f"access {facts['access']}"
    print(
        f"wrote {folder}: {len(weights)} tensors, {kind}, licence {licence}. Next: python -m "
        f"recipes.release verify {folder}"
    )


def gather(run, name, args):
    """What the papers say, as JSON: the runs, their data, the licence that follows, and what was measured."""
    chain, base = read_chain(run)
    data = [read_data(record) for record in chain]
    manifests, sources, dealt = (
        [part for stage in data for part in stage[key]] for key in ("manifests", "sources", "contamination")
    )
    known = read_terms()
    used, closed = licences_in(sources, base, base_licences(base, args.base_license, known), chain, known)
    classes = [record["access"] for record in (*chain, *manifests, *sources)] + [
        read_json(run / "config.json").get("access", "public")
    ]
    access = strictest([*classes, *(["credentialed"] if closed else [])], run)
    licence = roll_up(used, closed, args.license, access, known)
    check_release(licence, access, name)
    return {
        "name": name,
        "access": access,
        "terms": args.terms,
        "licence": licence,
        "base": base,
        "chat": any(record["arguments"].get("assistant_only_loss") for record in chain),
        "scores": read_scores(args.scores, run) if args.scores else None,
        "forgetting": read_forgetting(args.forgetting, run) if args.forgetting else None,
        "extraction": read_extraction(args.extraction, run) if args.extraction else None,
        "data": [stage["sources"] for stage in data],
        "contamination": dealt,
        "runs": chain,
        "manifests": manifests,
    }


@contextmanager
def whole(folder, owner_only):
    """A folder beside `folder` that takes its place if all goes well, and is gone if not."""
    partial, old = (folder.with_name(f".{folder.name}.{what}") for what in ("partial", "old"))
    if old.is_dir() and not folder.exists():  # killed between the two renames, when the new one was whole
        os.replace(partial if partial.is_dir() else old, folder)
    shutil.rmtree(partial, ignore_errors=True)
    before = os.umask(0o077)
    if not owner_only:
        os.umask(before)
    try:
        yield partial
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(folder, old)
        os.replace(partial, folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        os.umask(before)
        shutil.rmtree(partial, ignore_errors=True)


def write_model(run, folder, facts):
    """Weights in shards, config, tokenizer and generation config; returns {tensor: {"dtype", "shape",
    "sha256"}} as the run has them."""
    config = read_json(run / "config.json") | (
        {} if facts["access"] == "public" else {"access": facts["access"]}
    )
    tensors = open_tensors(run)
    save_torch_state_dict(tensors, folder, max_shard_size=SHARD, metadata={"format": "pt"})
    settings = {
        key: value for key, value in read_json(run / "tokenizer_config.json").items() if key != "name_or_path"
    }
    for name, content in (("config.json", scrub(config)), ("tokenizer_config.json", settings)):
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for path in (run / name for name in TOKENIZER if (run / name).is_file()):
        shutil.copyfile(path, folder / path.name)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    write_generation_config(run, folder, tokenizer, config)
    return {name: describe(tensor) for name, tensor in tensors.items()}


def write_generation_config(run, folder, tokenizer, config):
    """The run's, with every token that ends an answer as EOS, and a pad token."""
    path = run / "generation_config.json"
    settings = read_json(path) if path.is_file() else {}
    given = settings.get("eos_token_id", config.get("eos_token_id"))
    answer = answer_end(tokenizer) if tokenizer.chat_template else None
    ends = sorted({tokenizer.eos_token_id, answer, *(given if isinstance(given, list) else [given])} - {None})
    if not ends:
        raise Refused(
            f"{run}: no EOS in tokenizer or config: nothing would end an answer. Next: eos_token in "
            f"tokenizer_config.json"
        )
    pads = (tokenizer.pad_token_id, settings.get("pad_token_id"), config.get("pad_token_id"), ends[0])
    starts = (tokenizer.bos_token_id, settings.get("bos_token_id"))
    pad, start = (next((token for token in tokens if token is not None), None) for tokens in (pads, starts))
    settings = {
        key: value
        for key, value in settings.items()
        if not key.startswith("_") and key != "transformers_version"
    }
    GenerationConfig(
        **(settings | {"bos_token_id": start, "eos_token_id": ends, "pad_token_id": pad})
    ).save_pretrained(folder)
