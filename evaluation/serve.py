"""Serve a model of this machine to OpenAI's clients, through `transformers serve`.

    pip install -r requirements-serve.txt
    python -m evaluation.serve --model outputs/demo/chat
    python -m evaluation.serve --model outputs/demo/chat --backend vllm
    python -m evaluation.serve --model outputs/demo/chat --check http://127.0.0.1:8000

Reads   MODEL (models/registry.py): a folder, or a name of evaluation/models
Writes  nothing; for vLLM and llama.cpp outputs/serve/<name>.jinja where the folder's own will not do

The server wraps messages as evaluation does (models/wrapper.py), decodes by the model's
generation_config.json unless a request says otherwise, and knows the model by its folder, from which
evaluation reads the access class. Nothing is fetched, and no other model can be loaded. It asks for no key:
without --host only this machine reaches it, and a credentialed model is served no further.

vLLM, llama.cpp and Ollama are not among the pinned packages: --backend prints their commands, for an
environment of their own, and --check compares the token ids of a running vLLM or llama.cpp with those of
evaluation. Tried on a CPU in float32 (RESULTS.md): vLLM 0.31, and llama.cpp b11549 through a package that
holds its server; not tried: Ollama, and the command line of llama-server. The converter to GGUF knows the
tokenizers of published families, not the demo's, and writes 16 bits. A GGUF file goes into the model's
folder, so that its class stays beside it; it holds nothing of what generation_config.json says of sampling.
"""

import argparse
import http.client
import importlib.util
import json
import os
import re
import shlex
import socket
import sys
import tempfile
import urllib.error
import urllib.request
from itertools import zip_longest
from pathlib import Path

from data_prep import egress
from data_prep.files import os_sentence
from data_prep.schema import BadInput
from evaluation.generate import keep_on_site
from evaluation.models import wrapper
from evaluation.models.registry import Entry, access_of, opener, positions, read_entry

NEEDS = ("fastapi", "openai", "uvicorn")
LOOPBACK = ("127.0.0.1", "::1", "localhost")
GGUF = "python convert_hf_to_gguf.py {folder} --outfile {folder}/model.gguf --outtype auto"
COMMANDS = {  # pages of other sites cannot read answers; {template}: where the wrapper is not the tokenizer's
    "vllm": [
        "HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 vllm serve {folder} "
        "--host {host} --port {port} --allowed-origins '[]'{template}"
    ],
    "llama.cpp": [
        GGUF,
        "llama-server -m {folder}/model.gguf --alias {folder} --host {host} --port {port} "
        "--cors-origins localhost --jinja{template}{prefix}",
    ],
    "ollama": [
        GGUF,
        "printf 'FROM %s\\n' {folder}/model.gguf > {folder}/Modelfile",
        "OLLAMA_HOST={address} ollama serve  # and in another terminal:",
        "OLLAMA_HOST={address} ollama create {name} -f {folder}/Modelfile",
        "OLLAMA_HOST={address} ollama show --template {name}  # {{{{ .Prompt }}}}: no wrapper found",
        "OLLAMA_HOST={address} ollama run {name}",
    ],
}
TEMPLATE = {"vllm": " --chat-template {}", "llama.cpp": " --chat-template-file {}"}
NO_PREFIX_SPACE = " --override-kv tokenizer.ggml.add_space_prefix=bool:false"
CONVERSATIONS = [
    [{"role": "user", "content": "Give 12345 mg, or 0.5?\n\nA. yes\nB. no\n"}],
    [{"role": "user", "content": " \u00c4rzte \u2014 \u03bcg\t\u2265 5 \U0001f600"}],
    [
        {"role": "user", "content": "What is a fever?"},
        {"role": "assistant", "content": "A high temperature."},
        {"role": "user", "content": "How high?"},
    ],
]


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="folder of a whole model, or a name of the registry")
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="path=DIR, access=credentialed, ...")
    parser.add_argument("--backend", choices=("transformers", *COMMANDS), default="transformers")
    parser.add_argument(
        "--check", metavar="URL", help="a running vLLM or llama.cpp: does it make the same ids?"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda:0, ...")
    parser.add_argument("--dtype", default="auto", help="type of the weights; auto: as stored")
    return parser


def check_port(host: str, port: int) -> None:
    """BadInput unless a server can listen on `port` of `host`."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, OverflowError) as error:
        said = getattr(error, "strerror", None) or error
        raise BadInput(f"port {port} of {host}: {said}. Next: another --port, e.g. --port 8001") from error


def check_host(entry: Entry, host: str) -> None:
    """BadInput where a credentialed model would listen to other machines."""
    if entry.access == "credentialed" and host not in LOOPBACK:
        raise BadInput(
            f"{entry.path}: is credentialed, and {host} would let other machines ask it. Next: leave --host "
            f"out, and reach 127.0.0.1 through ssh -L"
        )


def address(args) -> str:
    return f"{f'[{args.host}]' if ':' in args.host else args.host}:{args.port}"


def describe(entry: Entry, args) -> str:
    """What is served where, to whom, and the commands that ask it."""
    folder, url = entry.path.resolve(), f"http://{address(args)}/v1"
    context = entry.context or positions(folder)
    who = "this machine only" if args.host in LOOPBACK else "every machine that reaches it"
    facts = f"backend=chat base_url={url}/chat/completions served={folder} path={folder}"
    judge = f"JUDGE=openai:{folder}@{url}/chat/completions"
    if (said := access_of(entry.path)) != entry.access:
        judge = (
            f'unavailable until {folder}/run.json says {{"access": "{entry.access}"}}: its files say {said}'
        )
    return (
        f"{url} serves {folder} (access: {entry.access}) to {who}; it asks for no key, and Ctrl-C ends it.\n"
        f'evaluate: make evaluate MODEL=server TASKS=medqa ARGS="{facts} access={entry.access} '
        f'context={context}"\nas judge: {judge}'
    )


def other_server(entry: Entry, args, template: str | None, no_space: bool) -> str:
    """The commands of another server. `no_space`: of wrapper.drops_prefix_space."""
    extra = ""
    if template and args.backend in TEMPLATE:
        file = Path("outputs/serve", f"{entry.name}.jinja")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(template, encoding="utf-8")
        extra = TEMPLATE[args.backend].format(shlex.quote(str(file)))
    names = {"folder": shlex.quote(str(entry.path.resolve())), "name": shlex.quote(entry.name.lower())}
    names |= {"host": shlex.quote(args.host), "port": args.port, "address": shlex.quote(address(args))}
    names |= {"template": extra, "prefix": NO_PREFIX_SPACE if no_space else ""}
    lines = [line.format_map(names) for line in COMMANDS[args.backend]]
    if args.backend == "ollama":
        return "\n".join(["# ollama: untried; in an environment of its own", *lines])
    check = ["--model", args.model, *args.changes, "--check", f"http://{address(args)}"]
    after = [f"check: python -m evaluation.serve {shlex.join(check)}", *describe(entry, args).splitlines()]
    where = "requirements-vllm.txt" if args.backend == "vllm" else "its own"
    return "\n".join([f"# {args.backend}, in an environment of {where}", *lines, *(f"# {a}" for a in after)])


def post(url: str, body: dict, key: str):
    """What a server returns under `key`; None if it has no such path or key. BadInput if it does not
    answer."""
    headers = {"Content-Type": "application/json"}
    headers |= {"Authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', '')}"}
    try:
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        with opener(url).open(request, timeout=60) as answer:
            found = json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code in (404, 405):
            return None
        said = "" if egress.agreements() else egress.printable(error.read(300).decode(errors="replace"))
        way = "export OPENAI_API_KEY" if error.code in (401, 403) else "read the server's log"
        raise BadInput(f"{url}: {error.code} {said}. Next: {way}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        said = getattr(error, "reason", error)  # of URLError
        said = "no JSON" if isinstance(error, json.JSONDecodeError) else egress.printable(said)
        raise BadInput(f"{url}: {said}. Next: start the server, then --check http://HOST:PORT") from error
    return found.get(key) if isinstance(found, dict) else None


def check_ids(entry: Entry, tokenizer, url: str) -> str:
    """A sentence: the server at `url` gives a conversation the token ids of evaluation. BadInput if it does
    not, with the first that differs."""
    url = re.sub(r"/(v1(/.*)?)?$", "", url)
    asked = CONVERSATIONS[: 2 if entry.turns == "one" else None]
    for messages in asked:
        wanted = wrapper.prompt_ids(tokenizer, messages, entry.turns)
        text = post(f"{url}/apply-template", {"messages": messages}, "prompt")  # llama.cpp
        body = {"messages": messages}  # vLLM
        if text is not None:
            body = {"content": text, "add_special": True, "parse_special": True}
        found = post(f"{url}/tokenize", body, "tokens")
        if not isinstance(found, list) or not all(isinstance(token, int) and token >= 0 for token in found):
            raise BadInput(f"{url}: returns no token ids. Next: only vLLM and llama.cpp can be asked")
        if found != wanted:
            here = next(i for i, pair in enumerate(zip_longest(found, wanted)) if len(set(pair)) > 1)
            ours, theirs = (tokenizer.convert_ids_to_tokens(ids[here : here + 4]) for ids in (wanted, found))
            raise BadInput(
                f"{url}: reads {theirs} at token {here} where evaluation reads {ours}, of "
                f"{messages[-1]['content']!r}: another model, chat template or conversion. Next: restart it "
                f"with the commands that --backend prints"
            )
    return f"{url} gives the token ids of evaluation: {len(asked)} of {len(asked)} conversations"


def serve(entry: Entry, args, template: str | None) -> None:
    """Run the server until it is interrupted."""
    from transformers.cli.serve import Serve

    given = {"chat_template_kwargs": json.dumps({"chat_template": template})} if template else {}
    print(describe(entry, args), flush=True)
    where = {"host": args.host, "port": args.port, "device": args.device, "dtype": args.dtype}
    Serve(force_model=str(entry.path.resolve()), **where, **given)


def main(argv=None):
    args = make_parser().parse_intermixed_args(argv)
    try:
        entry = read_entry(args.model, args.changes)
        if entry.on_server:
            raise BadInput(f"--model {args.model}: is on a server already. Next: path=DIR, a folder")
        check_host(entry, args.host)
        if odd := re.search("[@,\\s]", str(entry.path.resolve())):
            raise BadInput(f"{entry.path}: servers split a name at {odd[0]!r}. Next: rename the folder")
        keep_on_site(None, entry, [])
        lacking = [name for name in NEEDS if not importlib.util.find_spec(name)]
        if args.backend == "transformers" and args.check is None:
            if lacking:
                raise BadInput(f"{lacking[0]} is not installed. Next: pip install -r requirements-serve.txt")
            check_port(args.host, args.port)
        with tempfile.TemporaryDirectory() as nothing:  # the server lists and loads no model of a Hub's cache
            os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": nothing, "DO_NOT_TRACK": "1"}
            tokenizer = wrapper.open_tokenizer(entry)
            template = wrapper.served_template(tokenizer, entry)
            if tokenizer.eos_token_id not in wrapper.stops(entry.path):
                print(f"note: its generation_config.json does not stop at {tokenizer.eos_token}", flush=True)
            if args.check is not None:
                print(check_ids(entry, tokenizer, args.check))
            elif args.backend == "transformers":
                serve(entry, args, template)
            else:
                print(other_server(entry, args, template, wrapper.drops_prefix_space(tokenizer)))
    except (BadInput, OSError) as error:
        sys.exit(f"error: {error if isinstance(error, BadInput) else os_sentence(error)}")
    except KeyboardInterrupt:
        print("stopped")


if __name__ == "__main__":
    egress.isolate(sys.argv[1:], BadInput, network="clients connect to it")
    main()
