"""A judge behind an OpenAI-compatible chat endpoint: GPT-4o in the paper, or a server of one's own.

It is asked at temperature 0, and the version that the server says it served is kept with each verdict. A
request that fails is tried again with growing pauses; one that fails for good is missing. Nothing that is not
public goes beyond this machine without an entry of an allow list (data_prep/egress.py). What the judge was
trained on is known only where its server lists a folder of this machine; its words are kept in verdicts.jsonl
only, readable by its owner only.
"""

import concurrent.futures
import json
import os
import re
import time
import urllib.error
import urllib.request
from pathlib import Path

from data_prep import egress
from data_prep.schema import BadInput
from evaluation.diagnosis.judges import FIELDS, Judge
from evaluation.generate import keep_on_site
from evaluation.models import server
from evaluation.models.registry import opener, read_entry
from evaluation.scoring.parsing import answer_part

OPENAI = "https://api.openai.com/v1/chat/completions"
DATED = re.compile(r"\d{4}-\d{2}-\d{2}|-\d{4}$|\d{8}$")
ANSWER_TOKENS = 64


class _Stays(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None  # a question and a key go to the host that was named, or nowhere


class ServerJudge(Judge):
    kind, opened = "openai", None

    def __init__(self, rest: str, prompt: Path, allow_list: Path | None, fields: tuple[str, str] = FIELDS):
        self.allow_list = allow_list
        name, _, url = rest.partition("@")
        self.entry = read_entry(
            "server", ["backend=chat", f"served={name}", f"base_url={url or OPENAI}", "access=public"]
        )
        self.host = egress.host_of(self.entry.base_url)
        self.id = f"openai:{name}@{self.host}"
        self.opener = opener(self.entry.base_url, _Stays)
        self.read_prompt(prompt, fields)

    def require_allowed(self, cases: list[dict]) -> None:
        """BadInput before a byte of a case that is not public goes beyond this machine, unless the allow list
        has an entry for the host."""
        closed = [
            case for case in cases if case["access"] != "public" or case.get("model_access") == "credentialed"
        ]
        self.quiet = bool(closed)  # what a server complains of may repeat the question
        if not closed or egress.is_loopback(self.host):
            return
        allowed = egress.load_allow_list(self.allow_list, BadInput)
        self.opened = next(
            (entry for entry in allowed if egress.host_of(entry["endpoint"]) == self.host), None
        )
        if not self.opened:
            raise BadInput(
                f"case {closed[0]['id']} is not public, or was answered by a model trained on credentialed "
                f"text, and is not sent to {self.host}. "
                f"Next: a judge on this machine, or --allow_list FILE with an entry for {self.host} "
                f"(data_prep/egress.py)"
            )
        egress.block_egress({case["license"] for case in closed}, BadInput, [self.opened])

    def ask(self, items):
        self.require_allowed([case for _, case in items])
        if not items:
            return
        server.look(self.entry)
        self.opened = self.opened or next(iter(keep_on_site(self.allow_list, self.entry, [])), None)
        with concurrent.futures.ThreadPoolExecutor(server.CONCURRENT) as pool:
            waiting = {
                pool.submit(self._one, self.question(*item)): place for place, item in enumerate(items)
            }
            answered = in_a_row = 0
            try:
                for future in concurrent.futures.as_completed(waiting):
                    answer = future.result()
                    answered, in_a_row = (
                        (answered + 1, 0) if "verdict" in answer else (answered, in_a_row + 1)
                    )
                    yield waiting[future], answer
                    if answer.get("closed") or in_a_row >= server.ENOUGH:
                        raise BadInput(
                            f"{self.entry.base_url}: {answer['failed']}; {answered} verdicts were kept. "
                            f"Next: {server.advice(answer['failed'])}"
                        )
            finally:
                pool.shutdown(cancel_futures=True)

    def _one(self, question: str) -> dict:
        body = {
            "model": self.entry.served,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "seed": 0,
            "max_tokens": ANSWER_TOKENS,
        }
        request = urllib.request.Request(
            self.entry.base_url,
            json.dumps(body).encode(),
            {
                "Content-Type": "application/json",
                "Authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', '')}",
            },
        )
        for pause in (*server.PAUSES, None):
            try:
                with self.opener.open(request, timeout=server.TIMEOUT) as response:
                    outputs = json.load(response)
                text = outputs["choices"][0]["message"]["content"] or ""
                break
            except urllib.error.HTTPError as error:
                text = error.read(200).decode(errors="replace")
                said = "" if self.quiet else f": {egress.printable(text)}"
                status, problem = error.code, f"HTTP {error.code}{said}"
            except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
                status, problem = None, f"{type(error).__name__}: {error}".rstrip(": ")
            if pause is None or status in server.REFUSED + server.CLOSED:
                return {"failed": problem, "closed": status in server.CLOSED}
            time.sleep(pause)
        served = outputs.get("model")
        if not served and not DATED.search(self.entry.served):
            return {
                "failed": f"the server does not say which version of {self.entry.served} answered, and its "
                f"name has no date",
                "closed": True,
            }
        allowed = {"allowed": self.opened} if self.opened else {}
        return {
            "verdict": read_verdict(text),
            "raw": text,
            "model": served,
            "system_fingerprint": outputs.get("system_fingerprint"),
            "model_access": self.entry.access,
            **allowed,
        }


def read_verdict(text: str) -> bool | None:
    """The verdict that a judge wrote: its first word is yes or no (or true or false, by itself), only one of
    yes and no occurs in it, or it gives a value as `"correct": true`. None in doubt."""
    text = re.sub(
        r"\by/n\b|\btrue/false\b|\bno (?:idea|answer|information|way)\b|\byes (?:and|or) no\b",
        "",
        answer_part(text).lower(),
    )
    if first := re.match(r"\W*(yes|no|y|n)\b", text):
        return first[1].startswith("y")
    if first := re.match(r"\W*(true|false)\b(?=\W*(?:[.,;:!\n]|$))", text):
        return first[1] == "true"
    found = {word[0] == "y" for word in re.findall(r"\b(yes|no|y|n)\b", text)}
    found |= {word == "true" for word in re.findall(r"[:=]\s{0,4}[\"'`*_]{0,4}(true|false)\b", text)}
    return found.pop() if len(found) == 1 else None
