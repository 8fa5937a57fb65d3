"""An OpenAI-compatible server as a model of lm-evaluation-harness: the harness's own clients, with what a
long run needs beside them.

A request that fails is tried again with growing pauses; one that fails for good is set aside, the rest is
asked, and `Failed` names it at the end. If the server is gone, or answers nothing at all, `Gone` stops the
run. Every answer that came is in the response cache by then, so the same command resumes there.

With a tokenizer, the completions endpoint is sent token ids: the prompt that was counted is the prompt that
is read. A server that refuses ids, as `transformers serve` does, is sent the text that its tokenizer turns
into the same ids.
"""

import asyncio
import copy
import json
import os
import re
import urllib.error
import urllib.request
from pathlib import Path

import aiohttp
from lm_eval.models.api_models import JsonChatStr
from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI
from transformers import AutoTokenizer

from data_prep import egress
from data_prep.schema import BadInput, strictest
from evaluation.models import wrapper
from evaluation.models.registry import access_of, opener

PAUSES = (1, 2, 4, 8, 16, 32)  # seconds before a request is tried again
REFUSED = (400, 413, 422)  # this request will never be answered
CLOSED = (401, 403, 404, 501)  # no request will
NO_LIKELIHOODS = "its answers hold no logprobs of the prompt"
ADVICE = {  # HTTP status: what to do next
    400: "correct what it complains of (name, address, length of the prompts)",
    401: "export OPENAI_API_KEY=..., then the same command again",
    404: "correct the name of the model or the address of the endpoint",
    429: "wait, then the same command again",
}
ADVICE |= dict.fromkeys(REFUSED, ADVICE[400]) | {403: ADVICE[401]}
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


def advice(problem: str) -> str:
    """What to do about `problem`, which begins with its HTTP status if it has one."""
    if problem == NO_LIKELIHOODS:
        return "--tasks without those that end in _ll, or a server that gives them, as vLLM does"
    status = re.match(r"HTTP (\d+)", problem)
    return ADVICE.get(int(status[1]) if status else None, "see to the server, then the same command again")


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
        self.answered, self.failed, self.gone, self.takes_text = 0, {}, None, False

    def text_of(self, messages, request) -> str | None:
        """The text to send where token ids are refused."""
        return None

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
        answered_before, unreachable, text = None, False, None
        for pause in (*PAUSES, None):
            async with sem:
                if self.gone:
                    break
                if self.takes_text and (text := self.text_of(messages, cache_keys[0])):
                    payload["prompt"] = text
                answers, problem, status = await self._ask(session, payload, messages, ctxlens, generate)
                if status in REFUSED and not text and (text := self.text_of(messages, cache_keys[0])):
                    payload["prompt"] = text
                    answers, problem, status = await self._ask(session, payload, messages, ctxlens, generate)
                    self.takes_text = self.takes_text or answers is not None
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
            if not outputs["choices"][0].get("logprobs"):
                return None, NO_LIKELIHOODS, 501
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
        if self.tokenizer is None:
            return [string]
        if not isinstance(string, str):
            return [self.tok_encode(one) for one in string]
        return wrapper.encode(self.tokenizer, string)

    def text_of(self, messages, request) -> str | None:
        """The text that a server turns into these token ids: it adds the BOS that the tokenizer adds."""
        if self.tokenizer is None:
            return None
        text = "".join(part for part in request if isinstance(part, str))
        for sent in (text, text.removeprefix(self.tokenizer.bos_token or "")):
            if self.tokenizer(sent).input_ids == list(messages[0]):
                return sent
        return None

    def count(self, context: str, continuation: str = "") -> int | None:
        return None if self.tokenizer is None else len(self.tok_encode(context + continuation))


def look(entry) -> dict:
    """What the server says of the model in its list of models ({} if it has no such list, which is printed);
    `entry` takes the class of the folders of this machine that the list names as its root and its parent's,
    as vLLM does, or whose path is its name, as evaluation.serve has it. BadInput if it is not there, wants a
    key, or serves other models."""
    if egress.is_loopback(egress.host_of(entry.base_url)) and os.path.isdir(entry.served):
        entry.access = strictest([entry.access, access_of(Path(entry.served))])
    url = entry.base_url.removesuffix("/").removesuffix("/completions").removesuffix("/chat") + "/models"
    request = urllib.request.Request(
        url, headers={"Authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', '')}"}
    )
    try:
        with opener(entry.base_url).open(request, timeout=30) as response:
            listed = json.load(response)["data"]
        models = {
            model["id"]: model
            for model in listed
            if isinstance(model, dict) and isinstance(model.get("id"), str)
        }
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise BadInput(
                f"{entry.base_url}: the server wants a key (HTTP {error.code}). Next: export "
                f"OPENAI_API_KEY=..."
            ) from error
        print(f"{url}: HTTP {error.code}; what it serves was not checked", flush=True)
        return {}
    except (ValueError, KeyError, TypeError) as error:
        print(f"{url}: no list ({type(error).__name__}); what it serves was not checked", flush=True)
        return {}
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise BadInput(
            f"{entry.base_url}: no server answers there ({reason}). Next: start it, or base_url=URL of its "
            f"endpoint"
        ) from error
    if models and entry.served not in models:
        raise BadInput(
            f"{entry.base_url}: serves {egress.printable(', '.join(models))}, not {entry.served}. "
            f"Next: served=NAME"
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
