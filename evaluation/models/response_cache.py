"""Every response of a model as it comes, one line of JSON each, so that a killed run resumes where it
stopped.

The harness has a cache of its own: it is made of pickles, writes every response twice, and its key does not
name the model.
"""

import hashlib
import json
from pathlib import Path

MADE_WITH = ("backend", "dtype", "backend_args", "batch_size", "device")


class Responses:
    """Stands for a model of the harness, and asks it only what `folder` does not hold."""

    def __init__(self, lm, folder: Path, identity: str, settings: dict):
        """A key is the request alone, so each model has its own file, and so has each of its backends, types
        of weights, batch sizes and devices: in bfloat16 the batch changes some outputs."""
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)  # it holds text
        made_with = hashlib.sha256(json.dumps([settings.get(key) for key in MADE_WITH]).encode()).hexdigest()
        path = folder / f"{identity[:16]}-{made_with[:8]}.jsonl"
        self.lm, self.known = lm, {}
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        for line in text.splitlines():
            try:
                key, response = json.loads(line)
            except ValueError:  # cut when the run was killed
                continue
            self.known[key] = response
        self.file = path.open("a", encoding="utf-8")
        if text and not text.endswith("\n"):
            self.file.write("\n")
        lm.set_cache_hook(self)

    def __getattr__(self, name):
        return getattr(self.lm, name)

    def add_partial(self, kind: str, request, response) -> None:
        """Called by the harness with each response, in whatever order they come."""
        key = self._key(kind, request)
        if key not in self.known:
            self.known[key] = response
            self.file.write(json.dumps([key, response]) + "\n")
            self.file.flush()

    def generate_until(self, requests) -> list[str]:
        return self._responses("generate_until", requests)

    def loglikelihood(self, requests) -> list[tuple[float, bool]]:
        return self._responses("loglikelihood", requests)

    def close(self) -> None:
        from lm_eval.api.model import CacheHook

        self.lm.set_cache_hook(CacheHook(None))
        self.file.close()

    def _responses(self, kind, requests):
        asked = {self._key(kind, request.args): request for request in requests}
        missing = {key: request for key, request in asked.items() if key not in self.known}
        if missing:
            for request, response in zip(
                missing.values(), getattr(self.lm, kind)(list(missing.values())), strict=True
            ):
                self.add_partial(kind, request.args, response)
        return [self.known[self._key(kind, request.args)] for request in requests]

    @staticmethod
    def _key(kind, request):
        return hashlib.sha256(json.dumps([kind, *request]).encode()).hexdigest()
