"""The proof of a release: its files are the listed ones and harmless, its weights the run's and finite,
nothing private is in it, and it generates."""

import hashlib
import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from .card import ASKED, TENSORS
from .files import PROVENANCE, SUMS, Refused, listing, read_json, sha256
from .private import leaks

FILES = (".safetensors", ".json", ".jinja", ".md", ".txt", ".model")  # no code and no pickle
NAME = r"[A-Za-z0-9][\w.-]*"
VOCABULARY = ("tokenizer.json", "vocab.json", "merges.txt", "special_tokens_map.json")


def verify(args):
    """Print each check of FOLDER. Refused with those that failed."""
    found = checks(Path(args.folder), Path(args.run) if args.run else None)
    for what, wrong in found:
        print(f"{'FAILED' if wrong else 'ok':7}{what}{f': {wrong}' if wrong else ''}")
    if failed := [what for what, wrong in found if wrong]:
        raise Refused(
            f"{args.folder}: {len(failed)} of {len(found)} checks failed ({', '.join(failed)}). Next: "
            f"build it again"
        )


def failures(folder):
    return "; ".join(f"{what}: {wrong}" for what, wrong in checks(folder) if wrong)


def checks(folder, run=None):
    """[(check, what is wrong or None)]. Nothing of the folder is loaded as a model unless its files are the
    listed ones, of harmless kinds."""
    facts = read_json(folder / PROVENANCE)
    model, private = (
        model_folder(folder, facts),
        ("no path, machine or person of this site", check_private(folder)),
    )
    found = [
        ("files are those of " + SUMS, check_sums(folder)),
        ("safetensors only, no code, no pickle", check_kinds(folder)),
        ("config.json needs no code and says the access class", check_config(model, facts["access"])),
        *(
            [("readable by the owner alone", check_owner(folder))]
            if facts["access"] == "credentialed"
            else []
        ),
        *check_weights(model, facts["weights"], run),
    ]
    if any(wrong for _, wrong in found):
        return [
            *found,
            private,
            ("template and first generation", "not tried, as the files are not what they should be"),
        ]
    template = ("chat template ends at the trained EOS", check_template(model, facts["chat"]))
    return [
        *found,
        private,
        template,
        ("pipeline and AutoModelForCausalLM generate the same", check_generation(model, facts["chat"])),
    ]


def write_sums(folder):
    (folder / SUMS).write_text(
        "".join(f"{sha256(folder / path)}  {path}\n" for path in listing(folder) if path != SUMS),
        encoding="utf-8",
    )


def check_sums(folder):
    if not (folder / SUMS).is_file():
        return f"no {SUMS}"
    listed = dict(
        reversed(line.split("  ", 1))
        for line in (folder / SUMS).read_text(encoding="utf-8").splitlines()
        if "  " in line
    )
    there = [path for path in listing(folder) if path != SUMS]
    if links := [path for path in there if (folder / path).is_symlink()]:
        return f"{links[0]} is a link"
    if other := sorted(set(there) ^ set(listed)):
        return f"{other[0]} is {'missing' if other[0] in listed else 'not listed'}"
    return next((f"{path} has changed" for path in there if sha256(folder / path) != listed[path]), None)


def check_kinds(folder):
    other = [path for path in listing(folder) if Path(path).suffix not in FILES and path != "RECORDS"]
    return f"{other[0]} is of no kind that belongs here ({', '.join(FILES)})" if other else None


def check_config(model, access):
    names = ("config.json", "generation_config.json", "tokenizer_config.json")
    if missing := [name for name in names if not (model / name).is_file()]:
        return f"{missing[0]} is missing"
    config = read_json(model / "config.json")
    if "auto_map" in config:
        return "needs code of its own (auto_map)"
    said = config.get("access", "public")
    return None if said == access else f"says {said}, {PROVENANCE} says {access}"


def check_private(folder):
    for path in listing(folder):
        text = (
            path not in (SUMS, "RECORDS")
            and Path(path).suffix in (".json", ".md", ".txt")
            and not path.startswith("BASE_MODEL_")
        )
        if (
            text
            and Path(path).name not in VOCABULARY
            and (found := leaks((folder / path).read_text(encoding="utf-8", errors="replace")))
        ):
            return f"{path} holds {found}"
    return None


def check_owner(folder):
    return next(
        (f"{path} is open to others" for path in (folder, *folder.rglob("*")) if path.stat().st_mode & 0o077),
        None,
    )


def check_weights(model, recorded, run):
    """Finite; the recorded ones, tensor by tensor; and the run's, where it is given."""
    try:
        tensors = open_tensors(model)
    except Refused as error:
        return [("weights", str(error))]
    broken = [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all()
    ]
    mine = {name: describe(tensor) for name, tensor in tensors.items()}
    found = [("weights are finite", f"{broken[0]} holds NaN or infinity" if broken else None)]
    found.append(("weights are the recorded ones", differ(mine, recorded)))
    if run:
        found.append(
            (
                f"weights are those of {run}",
                differ(mine, {name: describe(tensor) for name, tensor in open_tensors(run).items()}),
            )
        )
    return found


def differ(mine, theirs):
    return next(
        (
            f"{name} differs"
            for name in sorted(mine.keys() | theirs.keys())
            if mine.get(name) != theirs.get(name)
        ),
        None,
    )


def check_template(model, chat):
    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    if not tokenizer.chat_template:
        return "there is no chat template, and the model was trained to chat" if chat else None
    end, ends = answer_end(tokenizer), read_json(model / "generation_config.json")["eos_token_id"]
    return None if end in ends else f"an answer ends with {end}, generation ends at {ends}"


def check_generation(model, chat):
    """The two ways of the card give the same tokens for the same prompt, greedily."""
    greedy, prompt = {"do_sample": False, "max_new_tokens": 8}, ASKED["chat" if chat else "text"]
    place = {"device_map": "auto"} if torch.cuda.is_available() else {}
    try:
        tokenizer, loaded = (
            AutoTokenizer.from_pretrained(model, trust_remote_code=False),
            AutoModelForCausalLM.from_pretrained(model, trust_remote_code=False, **place),
        )
        inputs = (
            tokenizer.apply_chat_template(prompt, **TENSORS)
            if chat
            else tokenizer(prompt, return_tensors="pt")
        )
        direct = loaded.generate(**inputs.to(loaded.device), **greedy)[0].tolist()
        del loaded
        piped = pipeline("text-generation", model=str(model), **place)(prompt, return_tensors=True, **greedy)[
            0
        ]["generated_token_ids"]
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if len(direct) <= inputs.input_ids.shape[1]:
        return "nothing is generated"
    return None if direct == list(piped) else "the two differ"


def model_folder(folder, facts):
    """Where the model's own files are: of a bundle, in a folder of its name, as PhysioNet's projects have
    several."""
    if not re.fullmatch(NAME, facts["name"]):
        raise Refused(
            f"--name {facts['name']}: letters, digits, dots, hyphens and underscores only. Next: --name "
            f"my-model"
        )
    return folder / facts["name"] if facts["access"] == "credentialed" else folder


def open_tensors(folder):
    """{name: tensor} of all safetensors of a folder, mapped and not read."""
    tensors, files = {}, sorted(folder.glob("*.safetensors"))
    if not files:
        raise Refused(
            f"{folder}: no *.safetensors here. Next: wait for its training to end; pickled weights are not "
            f"released"
        )
    for file in files:
        try:
            with safe_open(file, "pt") as opened:
                found = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise Refused(f"{file}: no safetensors file ({error}). Next: fetch or save it again") from error
        if twice := sorted(tensors.keys() & found.keys()):
            raise Refused(
                f"{file}: {twice[0]} is in another file as well, left by an earlier save. Next: remove the "
                f"older files"
            )
        tensors |= found
    return tensors


def describe(tensor):
    digest = hashlib.sha256(memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())).hexdigest()
    return {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape), "sha256": digest}


def answer_end(tokenizer):
    """The special token after which the chat template has no more of an answer; None if it writes none."""
    answer = "Raised blood pressure."
    text = tokenizer.apply_chat_template(
        [*ASKED["chat"], {"role": "assistant", "content": answer}], tokenize=False
    )
    _, after = text.rsplit(answer, 1)
    tokens = tokenizer(after, add_special_tokens=False).input_ids
    special = set(tokenizer.all_special_ids) | {
        i for i, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    return next((token for token in tokens if token in special), None)
