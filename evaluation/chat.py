"""Talk to a model on this machine, in the terminal or on a page.

    python -m evaluation.chat --model outputs/demo/chat
    python -m evaluation.chat --model outputs/demo/chat --web
    python -m evaluation.chat --model me-llama-13b-chat path=DIR --system "Answer in one sentence."

Reads   MODEL (models/registry.py): a folder, or a name of evaluation/models; access=CLASS raises the class,
        for questions that hold text of patients
Writes  what /save names: {"messages", "model", "access", "notice"}

A question is sent to the model as evaluation's chat preset sends a row: the wrapper that it was trained with,
the same token ids, greedy decoding unless --temperature, an end at any of its EOS. In the terminal /reset
forgets the conversation, /save FILE writes it, /exit or Ctrl-D ends, and Ctrl-C stops an answer. The page is
on the loopback of this machine, holds nothing of any other host, and keeps nothing.
"""

import argparse
import os
import sys
import threading
import unicodedata
from pathlib import Path

from data_prep import egress
from data_prep.files import one_sentence, replaced, write_jsonl
from data_prep.schema import BadInput
from evaluation.generate import check_backend, keep_on_site
from evaluation.models.conversation import Chat
from evaluation.models.registry import read_entry
from evaluation.serve import check_port

NOTICE = "Research only: what the model writes is no medical advice, and may be wrong and sound right."


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="folder of a whole model, or a name of the registry")
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="path=DIR, access=credentialed, ...")
    parser.add_argument("--system", help="system prompt, where the model's wrapper has a place for one")
    parser.add_argument("--max_new_tokens", type=int, default=512, help="of one answer")
    parser.add_argument("--temperature", type=float, default=0.0, help="0: greedy, as evaluation decodes")
    parser.add_argument("--dtype", default="auto", help="type of the weights; auto: as stored")
    parser.add_argument("--device", help="default: cuda if there is one, else cpu")
    parser.add_argument("--web", action="store_true", help="a page on this machine's loopback")
    parser.add_argument("--port", type=int, default=7860, help="of the page")
    return parser


def talk(chat: Chat) -> None:
    """The terminal."""
    messages = []
    while True:
        try:
            asked = input("you: ").strip()
        except (EOFError, KeyboardInterrupt):
            return print()
        command, _, rest = asked.partition(" ")
        try:
            if command == "/exit":
                return
            if command == "/reset":
                messages = []
                print("The conversation is forgotten.")
            elif command == "/save":
                save(chat, messages, rest.strip())
            elif command.startswith("/"):
                print(f"{command} is unknown. Next: /reset, /save FILE, /exit")
            elif asked:
                messages = turn(chat, [*messages, {"role": "user", "content": asked}])
        except BadInput as error:
            print(f"error: {error}")


def turn(chat: Chat, messages: list[dict]) -> list[dict]:
    """The conversation with its answer, printed as it comes; an interrupted question is forgotten."""
    pieces = []
    try:
        print(f"{chat.entry.name}: ", end="", flush=True)
        for piece in chat.answer(chat.prompt(messages), threading.Event()):
            pieces.append(piece)
            print(visible(piece), end="", flush=True)
    except KeyboardInterrupt:
        print("\nStopped; this question and its answer are forgotten.")
        return messages[:-1]
    print()
    return [*messages, {"role": "assistant", "content": "".join(pieces)}]


def visible(text: str) -> str:
    """Without the control characters that could rewrite a terminal."""
    return "".join(c if c in "\n\t" or unicodedata.category(c)[0] != "C" else " " for c in text)


def save(chat: Chat, messages: list[dict], name: str) -> None:
    """Write the conversation, which has the class of its model."""
    if not name or not messages:
        raise BadInput("nothing to save, or no name for it. Next: ask something, then /save FILE")
    if (path := Path(name)).exists():
        raise BadInput(f"{path}: is there already. Next: /save under another name")
    entry = chat.entry
    record = {"messages": chat.system + messages, "model": str(entry.path), "access": entry.access}
    try:
        replaced(path, lambda partial: write_jsonl(partial, [record | {"notice": NOTICE}]))
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}. Next: /save under another name, or free space") from error
    print(f"wrote {path} (access: {entry.access})")


def main(argv=None):
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with one_sentence():
        args = make_parser().parse_intermixed_args(argv)
        args.batch_size, args.backend_args = "1", ""
        check_backend(args)
        if args.max_new_tokens < 1 or args.temperature < 0:
            raise BadInput(
                "--max_new_tokens must be 1 or more, --temperature 0 or more. Next: leave them out"
            )
        entry = read_entry(args.model, args.changes)
        if entry.on_server:
            raise BadInput(f"--model {args.model}: is on a server. Next: the folder of a model, or path=DIR")
        keep_on_site(None, entry, [])
        if args.web:
            check_port("127.0.0.1", args.port)
        chat = Chat(entry, args)
        print(f"{entry.path} (access: {entry.access}). {NOTICE}")
        if entry.turns == "one":
            print("Its wrapper has one turn: each question is asked alone.")
        if not args.web:
            return talk(chat)
        print(
            f"http://127.0.0.1:{args.port}  for every user of this machine, and for no other; Ctrl-C ends it"
        )
        import uvicorn

        from evaluation.chat_page import application

        uvicorn.run(application(chat, NOTICE), host="127.0.0.1", port=args.port, log_level="warning")


if __name__ == "__main__":
    web = "a browser connects to it" if "--web" in sys.argv else None
    egress.isolate(sys.argv[1:], BadInput, network=web)
    main()
