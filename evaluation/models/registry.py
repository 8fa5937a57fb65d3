"""Which model `--model` means: a folder, or an entry of evaluation/models/*.yaml.

    --model outputs/demo/chat                                   a folder: config, weights, tokenizer
    --model pmc-llama-13b-chat [path=DIR]                       a name of evaluation/models; the folder, if
                                                                it is not in the Hub's local cache
    --model my_models.yaml:my-model backend=completions base_url=http://127.0.0.1:8000/v1/completions \\
        path=TOKENIZER_DIR

A file describes a family: `models` has an entry for each name, what they share is above it, and `sources`
says where each fact is from (a URL, or "recalled": written from memory). The facts:

    backend        hf (default) and vllm load a folder here; completions and chat ask an OpenAI-compatible
                   server
    hub, page      where the weights are published: an id of the Hub, else a page that tells
    path           folder of the weights; for a server, of its tokenizer (to count tokens, and for
                   likelihoods)
    revision       of the Hub, or whatever tells two versions behind one address apart
    base_url, served    of a server: the address of its endpoint, and the name by which it knows the model
    size, license, architecture, context (tokens)
    access         class of what it was trained on, as data_prep/schema.py has them. KEY=VALUE and the files
                   of the weights can only raise it
    chat_template  the prompt wrapper, as a Jinja chat template; an entry with `chat: true` has it, one
                   without is a base model
    turns          one: the wrapper knows no second turn, so few-shot examples are part of the one question

Weights behind a server cannot be looked at: --model server, and whatever else says nothing of its own, needs
access=CLASS, or path=DIR with the config.json of the weights (a tokenizer alone says nothing of them). Where
the server lists a folder of this machine as the model's root, that folder's class counts too (server.py). An
entry whose own base_url is another machine and that is asked at this one is asked through a relay: what is
credentialed then needs the allow list for the entry's own host.

Nothing is fetched: weights that are not on this machine are named with the command that fetches them.
"""

import dataclasses
import hashlib
import json
import urllib.request
from pathlib import Path

from data_prep import egress
from data_prep.files import read_json, read_yaml, sha256
from data_prep.schema import ACCESS, BadInput, strictest

FOLDER = Path(__file__).resolve().parent
BACKENDS = ("hf", "vllm", "completions", "chat")
SHARED = {
    "architecture",
    "license",
    "access",
    "context",
    "chat_template",
    "turns",
    "page",
    "backend",
    "base_url",
}
OWN = {"size", "hub", "revision", "path", "served", "chat"}
CHANGEABLE = ("path", "backend", "revision", "base_url", "served", "context", "access", "chat_template")


@dataclasses.dataclass
class Entry:
    name: str
    backend: str = "hf"
    path: Path | None = None
    hub: str | None = None
    page: str | None = None
    revision: str | None = None
    base_url: str | None = None
    behind: str | None = (
        None  # the entry's own address on another machine, where base_url is now a relay on this one
    )
    served: str | None = None
    context: int | None = None
    access: str = "public"
    chat_template: str | None = None  # None: the tokenizer's own
    turns: str = "many"

    @property
    def on_server(self) -> bool:
        return self.backend in ("completions", "chat")


def read_entry(model: str, changes: list[str] = ()) -> Entry:
    """The entry that `model` names, with KEY=VALUE `changes`. BadInput says what is unknown, and what is
    known."""
    own, given = _facts(model), _changes(model, changes)
    stated = [facts["access"] for facts in (own, given) if "access" in facts]
    if unknown := [access for access in stated if access not in ACCESS]:
        raise BadInput(f"--model {model}: access '{unknown[0]}' is unknown (known: {', '.join(ACCESS)})")
    facts = own | given | {"access": strictest(stated)}
    entry = Entry(
        **{field.name: facts[field.name] for field in dataclasses.fields(Entry) if field.name in facts}
    )
    if entry.backend not in BACKENDS:
        raise BadInput(
            f"--model {model}: backend '{entry.backend}' is unknown (known: {', '.join(BACKENDS)})"
        )
    if entry.on_server and not (entry.base_url and entry.served):
        raise BadInput(
            f"--model {model}: a {entry.backend} server needs base_url and served. Next: "
            f"base_url=http://127.0.0.1:8000/v1/... served=NAME"
        )
    elsewhere = {
        "base_url",
        "served",
    } <= own.keys() & given.keys()  # another model at another address: the entry's class is not its own
    if entry.on_server and entry.path and not entry.path.is_dir():
        raise BadInput(
            f"{entry.path}: no such folder. Next: path=DIR, the folder of the weights or of the tokenizer "
            f"that the server uses"
        )
    looked_at = (
        entry.path and (entry.path / "config.json").is_file()
    )  # a tokenizer alone says nothing of what was trained
    if entry.on_server and not looked_at and not (given if elsewhere else own | given).get("access"):
        raise BadInput(
            f"--model {model}: what was the model at {entry.base_url} trained on? Next: access=public, "
            f"access=gated or access=credentialed, or "
            "path=DIR, the folder of its weights or at least of their config.json"
        )
    if entry.on_server and egress.is_loopback(egress.host_of(entry.base_url)):
        away = own.get("base_url", entry.base_url)
        entry.behind = None if egress.is_loopback(egress.host_of(away)) else away
    if entry.name == "server":
        entry.name = entry.served
    if not entry.on_server:
        entry.path = entry.path or _cached(entry)
        check_folder(entry.path)
    if entry.path:
        entry.access = strictest([entry.access, access_of(entry.path)])
    return entry


def _facts(model: str) -> dict:
    file, _, name = model.partition(":") if ".yaml" in model or ".yml" in model else ("", "", model)
    if not file and Path(model).is_dir():
        return {"name": Path(model).resolve().name, "path": Path(model)}
    known = families([Path(file)] if file else sorted(FOLDER.glob("*.yaml")))
    if file and not name and len(known) == 1:
        return next(iter(known.values()))
    if name in known:
        return known[name]
    if name == "server":  # any server at all: everything comes from KEY=VALUE
        return {"name": "server", "backend": "completions"}
    if file and not name:
        raise BadInput(f"{file}: has {len(known)} models. Next: --model {file}:NAME, of {', '.join(known)}")
    where = (
        f"{file}: has no model '{name}'"
        if file
        else f"{model}: no model here, and no name of evaluation/models"
    )
    raise BadInput(
        f"{where} (known: {', '.join(known)}, or server). Next: train one with recipes/, or give the "
        f"folder of one"
    )


def asks_server(arguments: list[str]) -> str | None:
    """Why a command line needs a server, which a network namespace would not reach; None if it does not."""
    for value in egress.values_in(arguments):
        if value.startswith(("base_url=", "openai:")):
            return f"{value} is a server"
        try:
            backend = _facts(value).get("backend")
        except (BadInput, OSError, TypeError, AttributeError):
            continue  # no model
        if backend in ("completions", "chat"):
            return f"{value} is on a server"
    return None


def families(paths: list[Path]) -> dict[str, dict]:
    """{name: facts} of the entries of some family files."""
    known = {}
    for path in paths:
        if not path.is_file():
            raise BadInput(f"{path}: no such file. Next: copy one of evaluation/models")
        family = read_yaml(path)
        if not isinstance(family, dict) or not isinstance(family.get("models"), dict):
            raise BadInput(f"{path}: 'models' is missing. Next: copy one of evaluation/models")
        if wrong := [
            name
            for name, own in family["models"].items()
            if not isinstance(own, dict | None) or not isinstance(name, str)
        ]:
            raise BadInput(
                f"{path}: the model '{wrong[0]}' must be a name with keys and values. Next: copy one of "
                f"evaluation/models"
            )
        shared = {key: value for key, value in family.items() if key not in ("models", "sources")}
        for name, own in family["models"].items():
            unknown = sorted((set(shared) - SHARED) | (set(own or {}) - SHARED - OWN))
            if unknown:
                raise BadInput(
                    f"{path}: {name}: unknown key '{unknown[0]}' (known: {', '.join(sorted(SHARED | OWN))})"
                )
            if name in known:
                raise BadInput(f"{path}: the name '{name}' is used twice. Next: another name")
            facts = {**shared, **(own or {}), "name": name}
            if not facts.get("chat"):
                facts.pop("chat_template", None)
            known[name] = facts
    return known


def _changes(model: str, changes) -> dict:
    facts = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or key not in CHANGEABLE:
            raise BadInput(
                f"--model {model}: '{change}' is not KEY=VALUE with a KEY of {', '.join(CHANGEABLE)}"
            )
        if key == "context":
            if not value.isdigit():
                raise BadInput(f"--model {model}: context must be a number of tokens, found '{value}'")
            facts[key] = int(value)
        elif key == "chat_template":
            if not Path(value).is_file():
                raise BadInput(f"{value}: no such file. Next: chat_template=FILE with a Jinja chat template")
            facts[key] = Path(value).read_text(encoding="utf-8")
        else:
            facts[key] = Path(value) if key == "path" else value
    return facts


def access_of(folder: Path) -> str:
    """What the files that our training leaves with a model or adapter say of it; a folder without a word is
    public as far as can be known."""
    said = ["public"]
    names = ("run.json", "complete.json", "config.json", "adapter_config.json", "access.json")
    for path in (folder / name for name in names):
        if path.is_file():
            known = read_json(path)
            said.append(known.get("access", "public") if isinstance(known, dict) else type(known).__name__)
            if said[-1] not in ACCESS:
                raise BadInput(f"{path}: access '{said[-1]}' is not one of {', '.join(ACCESS)}")
    return strictest(said)


def _cached(entry: Entry) -> Path:
    """The folder of the entry's weights in the Hub's local cache."""
    if not entry.hub:
        raise BadInput(
            f"--model {entry.name}: its weights are not on the Hub. Next: fetch them ({entry.page}), then "
            f"path=DIR"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(entry.hub, revision=entry.revision, local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise BadInput(
            f"--model {entry.name}: {entry.hub} is not on this machine. Next: hf download {entry.hub}, or "
            f"path=DIR"
        ) from error


# ---------------------------------------------------------------- the fingerprint
PATTERNS = ("*.json", "*.safetensors", "*.bin", "*.model", "*.jinja", "*.txt")
PICKLES = {".bin", ".pt", ".pth", ".pkl", ".ckpt"}
NOT_THE_MODEL = {"run.json", "trainer_state.json", "validation.json", "manifest.json", "training_args.bin"}


def check_folder(folder: Path) -> None:
    """BadInput if `folder` holds no whole model."""
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise BadInput(
                f"{folder}: an adapter, not a whole model. Next: python recipes/merge_adapter.py --adapter "
                f"{folder} --output_dir MERGED"
            )
        if gguf := next(folder.glob("*.gguf"), None):
            raise BadInput(
                f"{gguf}: weights of llama.cpp; only safetensors are read. Next: the folder that it was made "
                f"of, or from_pretrained(..., gguf_file='{gguf.name}', quantization_config=GgufConfig("
                f"dequantize=True)) and save_pretrained, of model and tokenizer"
            )
        raise BadInput(
            f"{folder}: no model here (no config.json). Next: train one with recipes/, or give the folder "
            f"of one"
        )
    endings = {path.suffix for path in folder.iterdir() if path.name not in NOT_THE_MODEL}
    if ".safetensors" not in endings and endings & PICKLES:
        raise BadInput(
            f"{folder}: its weights are pickles, which can run code; only safetensors are read. Next: "
            f'python -c "from transformers import '
            f"AutoModelForCausalLM as A; A.from_pretrained('{folder}', "
            f"trust_remote_code=False).save_pretrained('NEW')\", which reads tensors and nothing else of them"
        )
    if ".safetensors" not in endings:
        raise BadInput(
            f"{folder}: no weights here (*.safetensors). Next: wait for its training to end, or train it "
            f"again"
        )
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy"):
                pass
        except SafetensorError as error:
            wrong = f"cut or damaged ({path.stat().st_size:,} bytes)"
            raise BadInput(f"{path}: {wrong}. Next: copy, download or train it again") from error


def _files(folder: Path) -> list[Path]:
    return sorted(
        {path for pattern in PATTERNS for path in folder.glob(pattern) if path.name not in NOT_THE_MODEL}
    )


def fingerprint(entry: Entry, listed: dict | None = None) -> str:
    """What the model's answers depend on, wherever it lies: sha256 over config, weights and tokenizer of its
    folder. The weights behind a server cannot be read: there it is over address, name, revision, tokenizer
    and what the server itself says of the model (`listed`)."""
    lines = "".join(f"{path.name} {sha256(path)}\n" for path in _files(entry.path)) if entry.path else ""
    if entry.on_server:
        said = {key: (listed or {}).get(key) for key in ("id", "root", "parent", "owned_by")}
        lines += json.dumps([entry.backend, entry.base_url, entry.served, entry.revision, said])
    return hashlib.sha256(lines.encode()).hexdigest()


def positions(folder: Path) -> int | None:
    """Tokens that a model can read, by its config: with dynamic scaling a multiple of
    max_position_embeddings, which such scaling leaves as it was. None if the config does not say."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False).get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    tokens = getattr(config, "max_position_embeddings", None)
    return tokens and int(tokens * (rope["factor"] if rope.get("rope_type") == "dynamic" else 1))


def opener(url, *handlers):
    """urllib's way to the server; a proxy is not used for a server on this machine."""
    near = [urllib.request.ProxyHandler({})] if egress.is_loopback(egress.host_of(url)) else []
    return urllib.request.build_opener(*near, *handlers)
