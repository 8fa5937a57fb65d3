"""Verbatim extraction: a model that has memorized its canaries, one that has not, and the release's evidence."""

import json

import pytest

from evaluation import extraction
from recipes.release import evidence
from recipes.release.files import Refused
from tests.tiny_model import make_model, read_jsonl


class Memory:
    """Continues the texts that it knows, and anything else with zeros."""

    device = "cpu"

    def __init__(self, known):
        self.known = known

    def generate(self, prompts, max_new_tokens, **_):
        import torch

        lines = []
        for prompt in prompts.tolist():
            whole = next((k for k in self.known if k[: len(prompt)] == prompt), prompt)
            lines.append((whole + [0] * max_new_tokens)[: len(prompt) + max_new_tokens])
        return torch.tensor(lines)


def test_a_text_is_extracted_if_every_token_comes_back():
    texts = [[i, *range(10, 20)] for i in range(1, 5)]
    almost = [2, *range(10, 19), 99]
    found = extraction.rate(Memory([texts[0], almost, texts[2]]), [*texts, [1, 2]], 3, 8, 2)
    assert (found["n"], found["short"], found["extracted"], found["value"]) == (4, 1, 2, 0.5)
    assert found["low"] == pytest.approx(0.150, abs=1e-3) and found["high"] == pytest.approx(0.850, abs=1e-3)
    assert extraction.rate(Memory([]), [[1]], 3, 8, 2)["value"] is None


def test_canaries_to_rates_to_evidence(tmp_path, capsys):
    extraction.main(["make", "5", "--out", str(tmp_path / "canaries")])
    planted, control = (read_jsonl(tmp_path / f"canaries/{name}.jsonl") for name in ("planted", "control"))
    assert len({document["text"] for document in planted + control}) == 10
    make_model(tmp_path / "model")
    out = tmp_path / "extraction.json"
    command = ["measure", "--model", str(tmp_path / "model"), "--out", str(out)]
    command += ["--texts", str(tmp_path / "canaries/planted.jsonl"), "--prefixes", "8", "16"]
    extraction.main([*command, "--control", str(tmp_path / "canaries/control.jsonl"), "--limit", "4"])
    result = json.loads(out.read_text())
    assert result["rates"]["control"]["16"]["n"] == 4 and result["access"] == "gated"  # the model's
    assert result["rates"]["planted"]["8"]["extracted"] == 0 < result["rates"]["planted"]["8"]["high"]
    assert planted[0]["text"][:40] not in out.read_text() and "0 of 4" in capsys.readouterr().out
    assert evidence.read_extraction(out, tmp_path / "model")["rates"] == result["rates"]
    out.write_text(json.dumps(result | {"fingerprint": "other"}))
    with pytest.raises(Refused, match="is of another model"):
        evidence.read_extraction(out, tmp_path / "model")
    with pytest.raises(SystemExit, match="must be 1 or more"):
        extraction.main([*command, "--tokens", "0"])
