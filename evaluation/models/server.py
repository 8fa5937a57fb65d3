"""An OpenAI-compatible server as a model of lm-evaluation-harness: the harness's own clients, with what a
long run needs beside them.

A request that fails is tried again with growing pauses; one that fails for good is set aside, the rest is
asked, and `Failed` names it at the end. If the server is gone, or answers nothing at all, `Gone` stops the
run. Every answer that came is in the response cache by then, so the same command resumes there.

With a tokenizer, the completions endpoint is sent token ids: the prompt that was counted is the prompt that
is read.
"""

import asyncio
import copy
import json
import os
import urllib.error
import urllib.request
from pathlib import Path

import aiohttp
from lm_eval.models.api_models import JsonChatStr
from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI
from transformers import AutoTokenizer

from data_prep import egress
from data_prep.schema import BadInput, strictest
from evaluation.models.registry import access_of

PAUSES = (1, 2, 4, 8, 16, 32)  # seconds before a request is tried again
REFUSED = (400, 413, 422)  # this request will never be answered
CLOSED = (401, 403, 404)  # no request will
ENOUGH = 20  # failed requests and not one answer: the run stops
CONCURRENT = 8  # requests under way at once
TIMEOUT = 600  # seconds for one answer
ARGUMENTS = (
    "num_concurrent",
    "timeout",
    "eos_string",
    "verify_certificate",
    "ca_cert_path",
)  # of the harness's clients, with --backend_args


class Gone(Exception):
    """The server answers nothing any more."""


class Failed(Exception):
    """Some requests got no answer; `requests` is {context: reason}."""

    def __init__(self, requests: dict):
        super().__init__(f"{len(requests)} requests failed")
        self.requests = requests


class _Patient:
    """Mixed into a client of the harness. A request holds one prompt, and `num_concurrent` of them (at least
    2) are under way at once."""

    def __init__(self, entry, num_concurrent=CONCURRENT, timeout=TIMEOUT, **arguments):
        super().__init__(
            model=entry.served,
            base_url=entry.base_url,
            max_length=entry.context + 1,
            num_concurrent=max(2, num_concurrent),
            batch_size=1,
            max_retries=1,
            timeout=timeout,
            **arguments,
        )
        self.answered, self.failed, self.gone = 0, {}, None

    async def amodel_call(
        self, session, sem, messages, *, generate=True, cache_keys=None, ctxlens=None, gen_kwargs=None, **_
    ):
        payload = self._create_payload(
            self.create_message(messages),
            generate=generate,
            gen_kwargs=copy.deepcopy(gen_kwargs),
            seed=self._seed,
        )
        if not payload.get("stop", True):
            del payload["stop"]  # some servers answer HTTP 500 to an empty list
        answered_before, unreachable = None, False
        for pause in (*PAUSES, None):
            async with sem:
                if self.gone:
                    break
                answers, problem, status = await self._ask(session, payload, messages, ctxlens, generate)
            if answers is not None:
                self.answered += 1
                self.cache_hook.add_partial(
                    "generate_until" if generate else "loglikelihood", cache_keys[0], answers[0]
                )
                return answers
            unreachable = (
                status is None and self.answered == answered_before
            )  # no other was answered during the last pause
            answered_before = self.answered
            if pause is None or status in REFUSED + CLOSED:
                break
            await asyncio.sleep(pause)
        if not self.gone:
            self.failed[cache_keys[0][0]] = problem
            if unreachable or status in CLOSED or (not self.answered and len(self.failed) >= ENOUGH):
                self.gone = problem
        return [
            "" if generate else (0.0, False)
        ]  # never used: _complain raises when no request is under way any more

    async def _ask(self, session, payload, messages, ctxlens, generate):
        """(answers or None, the problem, the HTTP status or None if there was none)."""
        try:
            async with session.post(self.base_url, json=payload, headers=self.header) as response:
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            return None, f"{type(error).__name__}: {error}".rstrip(": "), None
        if response.status != 200:
            said = (
                "" if egress.agreements() else f": {egress.printable(text)}"
            )  # a server may repeat the prompt that it complains of
            return None, f"HTTP {response.status}{said}", response.status
        try:
            outputs = json.loads(text)
            if (
                generate
            ):  # read here: the harness's own reader turns an answer that it cannot read into an empty output
                [choice] = outputs["choices"]
                return (
                    [(choice["message"]["content"] if "message" in choice else choice["text"]) or ""],
                    None,
                    200,
                )
            return self.parse_logprobs(outputs=outputs, tokens=messages, ctxlens=ctxlens), None, 200
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            return None, f"an answer of another form ({type(error).__name__}: {error})", 200

    def generate_until(self, requests, **arguments):
        answers = super().generate_until(requests, **arguments)
        self._complain()
        return answers

    def _loglikelihood_tokens(self, requests, **arguments):
        answers = super()._loglikelihood_tokens(requests, **arguments)
        self._complain()
        return answers

    def _complain(self):
        gone, failed, self.gone, self.failed = self.gone, self.failed, None, {}
        if gone:
            raise Gone(gone)
        if failed:
            raise Failed(failed)


class Chat(_Patient, LocalChatCompletion):
    """The chat endpoint: messages go out, the server's own template wraps them. It gives no likelihoods."""

    def __init__(self, entry, **arguments):
        super().__init__(entry, **arguments)
        self.counter = (
            AutoTokenizer.from_pretrained(entry.path, trust_remote_code=False) if entry.path else None
        )
        if entry.chat_template and self.counter:
            self.counter.chat_template = entry.chat_template

    def count(self, context: str | JsonChatStr, continuation: str = "") -> int | None:
        messages = json.loads(context.prompt)
        if self.counter is None:
            return None
        if not self.counter.chat_template:
            return sum(len(self.counter(message["content"]).input_ids) for message in messages)
        text = self.counter.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return len(self.counter(text, add_special_tokens=False).input_ids)


class Completions(_Patient, LocalCompletionsAPI):
    """The completions endpoint: the prompt goes out whole, as token ids if there is a tokenizer, else as
    text."""

    def __init__(self, entry, **arguments):
        tokenizer = (
            {"tokenizer_backend": "huggingface", "tokenizer": str(entry.path.resolve())}
            if entry.path
            else {"tokenizer_backend": None}
        )
        super().__init__(entry, tokenized_requests=entry.path is not None, **tokenizer, **arguments)
        if entry.chat_template and self.tokenizer:
            self.tokenizer.chat_template = entry.chat_template

    def tok_encode(self, string, **_):
        """As the harness's local backend has it: BOS once, whether the wrapper writes it or the tokenizer
        adds it."""
        if self.tokenizer is None:
            return [string]
        if not isinstance(string, str):
            return [self.tok_encode(one) for one in string]
        bos = self.tokenizer.bos_token
        return self.tokenizer(string, add_special_tokens=not (bos and string.startswith(bos))).input_ids

    def count(self, context: str, continuation: str = "") -> int | None:
        return None if self.tokenizer is None else len(self.tok_encode(context + continuation))


def opener(entry, *handlers):
    """urllib's way to the server; a proxy is not used for a server on this machine."""
    near = [urllib.request.ProxyHandler({})] if egress.is_loopback(egress.host_of(entry.base_url)) else []
    return urllib.request.build_opener(*near, *handlers)


def look(entry) -> dict:
    """What the server says of the model in its list of models ({} if it has no such list); `entry` takes the
    class of the folders of this machine that the list names as its root and its parent's, as vLLM does.
    BadInput if it is not there, wants a key, or serves other models."""
    url = entry.base_url.removesuffix("/").removesuffix("/completions").removesuffix("/chat") + "/models"
    request = urllib.request.Request(
        url, headers={"Authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', '')}"}
    )
    try:
        with opener(entry).open(request, timeout=30) as response:
            listed = json.load(response).get("data", [])
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise BadInput(
                f"{entry.base_url}: the server wants a key (HTTP {error.code}). Next: export "
                f"OPENAI_API_KEY=..."
            ) from error
        return {}
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError):
            return {}
        reason = getattr(error, "reason", error)
        raise BadInput(
            f"{entry.base_url}: no server answers there ({reason}). Next: start it, or base_url=URL of its "
            f"endpoint"
        ) from error
    models = {
        model["id"]: model for model in listed if isinstance(model, dict) and isinstance(model.get("id"), str)
    }
    if models and entry.served not in models:
        raise BadInput(
            f"{entry.base_url}: serves {egress.printable(', '.join(models))}, not {entry.served}. Next: "
            f"served=NAME"
        )
    listed = models.get(entry.served, {})
    roots = [
        model.get("root") for model in models.values() if model["id"] in (entry.served, listed.get("parent"))
    ]
    entry.access = strictest(
        [
            entry.access,
            *(access_of(Path(root)) for root in roots if isinstance(root, str) and os.path.isdir(root)),
        ]
    )
    return listed
