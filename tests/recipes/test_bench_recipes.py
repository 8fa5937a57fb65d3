"""The benchmarks on tiny models: what they time, what they compare and what they write; the speeds themselves
are nothing here."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import LlamaConfig

from tests.data_prep.test_blocks import write_documents

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def benches():
    before = list(sys.path)
    yield importlib.import_module("recipes.tools.bench"), importlib.import_module("recipes.tools.bench_gpu")
    sys.path[:] = before


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench") / "documents"
    write_documents(folder)
    return folder


def in_this_process(stage, **arguments):
    main = importlib.import_module(f"data_prep.{stage}").main
    main([str(part) for name, value in arguments.items() for part in (f"--{name}", value)])


# ---------------------------------------------------------------- on a CPU
def test_each_recipe_and_a_bare_loop_do_the_same_work(benches, documents, tmp_path, monkeypatch, capsys):
    bench, _ = benches
    monkeypatch.setitem(bench.SHAPE, "hidden_size", 32)
    monkeypatch.setitem(bench.SHAPE, "intermediate_size", 64)
    monkeypatch.setitem(bench.SHAPE, "num_hidden_layers", 1)
    monkeypatch.setattr(bench, "BLOCK", 32)
    monkeypatch.setattr(bench, "LONGEST", 256)
    monkeypatch.setattr(bench, "VOCABULARY", 400)
    monkeypatch.setattr(bench, "CONTEXTS", (256,))
    monkeypatch.setattr(bench, "data_prep", in_this_process)
    results = tmp_path / "RESULTS.md"
    results.write_text("| run |\n")
    bench.main(
        [
            "--documents",
            str(documents),
            "--out",
            str(tmp_path / "out"),
            "--steps",
            "2",
            "--repeats",
            "1",
            "--rows",
            "40",
            "--results",
            str(results),
        ]
    )
    found = json.loads((tmp_path / "out" / "bench.json").read_text())
    (cost,) = found["attention"]
    assert cost["flops"] / cost["full_flops"] == 15 / 64 and min(cost["seconds"], cost["full_seconds"]) > 0
    assert [row["recipe"].split(",")[0] for row in found["recipes"]] == ["pretrain", "sft", "sft"]
    for row in found["recipes"]:
        assert row["largest_loss_difference"] < 1e-4, "the twin took the same inputs, gradients and steps"
        assert row["tokens_per_second"] > 0 and row["ratio_seconds"] > 0 and row["ratio_cpu_seconds"] > 0
        assert row["stock_ratio_seconds"] > 0 and row["stock_ratio_cpu_seconds"] > 0
    packing = found["packing"]
    assert packing["ratio_tokens_per_second"] == pytest.approx(
        packing["packed"]["tokens_per_second"] / packing["padded"]["tokens_per_second"]
    )
    assert (tmp_path / "out" / "bench.md").read_text().count(
        "\n"
    ) == 10 and "| sft" in capsys.readouterr().out
    header, row = results.read_text().splitlines()
    assert header == "| run |" and row.startswith("| `make bench` | ") and row.count("|") == 7


def test_the_rows_have_the_instruction_sets_lengths(benches):
    bench, _ = benches

    class Tokens:
        decode = staticmethod(lambda ids: " ".join(map(str, ids)))

    rows = bench.invented_rows("train", 4000, 4096, np.arange(5000), Tokens)
    lengths = np.array([len((row["prompt"] + row["completion"]).split()) for row in rows])
    assert np.median(lengths) == pytest.approx(185, rel=0.1) and np.percentile(lengths, 95) == pytest.approx(
        930, rel=0.1
    )
    assert lengths.mean() == pytest.approx(295, rel=0.1), (
        "the estimate that the median and the 95th percentile stand for"
    )


def test_a_bare_loop_is_not_the_recipes_own_model(benches):
    """TRL wraps a model's forward; in a twin that kept the wrapper the recipe's model would be trained
    twice."""
    import torch
    from transformers import LlamaForCausalLM, TrainingArguments

    bench, _ = benches
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=16
        )
    )
    inner = model.forward
    model.forward = lambda *args, **kwargs: inner(*args, **kwargs)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    bare = bench.BareLoop()
    bare.begin(model, TrainingArguments(use_cpu=True))
    ids = torch.arange(8)[None]
    bare.step([{"input_ids": ids, "labels": ids, "fused_lm_head": False}], 1e-2, 0.0)
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    assert (
        any(not torch.equal(before[name], weight) for name, weight in bare.model.state_dict().items())
        and len(bare.windows) == 1
    )


def test_without_documents_there_is_one_sentence(benches, tmp_path):
    for bench in benches:
        arguments = ["--tiny"] if bench.__name__ == "bench_gpu" else []
        with pytest.raises(SystemExit) as stop:
            bench.main(["--documents", str(tmp_path), "--out", str(tmp_path / "out"), *arguments])
        assert (
            str(stop.value).startswith("error: ")
            and "Next: " in str(stop.value)
            and not (tmp_path / "out").exists()
        )


# ---------------------------------------------------------------- the GPU's, tiny and on a CPU
def test_flops_agree_with_the_published_shapes(benches):
    """GFLOP per token at 4,096 tokens: LLaMA-2 7B 42.9 causal and 46.1 PaLM, 13B 82.1 and 87.2."""
    _, gpu = benches
    for shape, weights, causal, palm in (("7b", 6.6071e9, 42.9, 46.1), ("13b", 12.8516e9, 82.1, 87.2)):
        layers, width, mlp, heads, vocabulary = gpu.SHAPES[shape]
        config = LlamaConfig(
            num_hidden_layers=layers,
            hidden_size=width,
            intermediate_size=mlp,
            num_attention_heads=heads,
            vocab_size=vocabulary,
        )
        assert gpu.matmul_weights(config) == pytest.approx(weights, rel=1e-4)
        assert gpu.flops_per_token(config, 4096, "causal", lora=False) / 1e9 == pytest.approx(
            causal, abs=0.05
        )
        assert gpu.flops_per_token(config, 4096, "palm", lora=False) / 1e9 == pytest.approx(palm, abs=0.05)
        # attention has no weights, so it costs the same under LoRA
        lora, full = (gpu.flops_per_token(config, 4096, "causal", lora=lora) for lora in (True, False))
        assert full - lora == 2 * gpu.matmul_weights(config)


WANTED = r"matmul|pretrain (recipe|bare|stock) whole blocks sdpa$|pretrain recipe masked (torch_varlen|flash_attention_2)|tiny lora stock masked sdpa|qlora recipe masked sdpa"


def test_the_same_code_runs_tiny_on_a_cpu(benches, documents, tmp_path, monkeypatch, capsys):
    _, gpu = benches
    on_disk = []

    def in_this_process(case, folder, size, minutes):
        on_disk.append(len(json.loads((tmp_path / "bench_gpu.json").read_text())["cases"]) if on_disk else 0)
        try:
            return {**case, **gpu.run_case(case, folder, size)}
        except Exception as error:  # in a process of its own it would be the last line of stderr
            return {**case, "error": str(error)}

    monkeypatch.setattr(gpu, "outcome", in_this_process)
    gpu.main(
        ["--documents", str(documents), "--out", str(tmp_path), "--tiny", "--steps", "2", "--only", WANTED]
    )
    found = json.loads((tmp_path / "bench_gpu.json").read_text())
    rows = {gpu.name(row): row for row in found["cases"]}
    assert on_disk == list(range(len(rows))), "written after each case"
    assert rows.pop("tiny weights") == {"shape": "tiny", "system": "weights"}
    assert len(rows) == 8 and rows.pop("tiny matmul")["tflops"] > 0
    refused = rows.pop("tiny pretrain recipe masked flash_attention_2")
    assert "FlashAttention2" in refused["error"]
    for name, row in rows.items():
        assert row.get("tokens_per_second", 0) > 0 and row["steps"] == 2 and row["peak_memory_gb"] > 0, (
            name,
            row,
        )
        assert "mfu_palm" not in row, "a CPU has no peak that we know"
    assert (
        rows["tiny pretrain recipe whole blocks sdpa"]["context"]
        == 128
        > rows["tiny pretrain recipe masked torch_varlen"]["context"]
    )
    table = (tmp_path / "bench_gpu.md").read_text()
    assert table in capsys.readouterr().out and table.count("\n| ") == 1 + 1 + len(rows) + 1
    assert not list(tmp_path.glob("tmp*")), "weights are not left behind"


def test_memory_and_time_that_run_out_are_rows(benches, tmp_path, monkeypatch):
    _, gpu = benches
    case = next(case for case in gpu.cases("7b") if case["system"] == "stock")

    def answer(returncode=0, stdout="", stderr=""):
        monkeypatch.setattr(
            subprocess,
            "run",
            lambda command, **kwargs: subprocess.CompletedProcess(command, returncode, stdout, stderr),
        )
        return gpu.outcome(case, tmp_path, {}, 1)

    assert answer(stdout='noise\n{"tokens_per_second": 5.0}\n') == {**case, "tokens_per_second": 5.0}
    assert (
        answer(1, stderr="Traceback ...\ntorch.OutOfMemoryError: CUDA out of memory. Tried ...\n")["error"]
        == "out of memory"
    )
    assert answer(1, stderr="Traceback ...\nValueError: no | such\n")["error"] == "ValueError: no | such"
    assert answer(-9)["error"] == "ended by signal 9"

    def too_slow(command, timeout, **kwargs):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", too_slow)
    assert "not done after 1 minutes" in gpu.outcome(case, tmp_path, {}, 1)["error"]


def test_a_row_of_results_compares_like_with_like(benches):
    _, gpu = benches
    common = {"shape": "13b", "stage": "pretrain", "packing": "whole blocks", "attention": "sdpa"}
    done = {"peak_memory_gb": 100.0, "mfu_causal": 0.5, "mfu_palm": 0.53, "seconds_per_step": 2.0}
    cases = [
        {**common, "system": "recipe", "checkpointing": False, "error": "out of memory"},
        {**common, "system": "bare", "checkpointing": False, "tokens_per_second": 9000.0, **done},
        {**common, "system": "recipe", "checkpointing": True, "tokens_per_second": 5000.0, **done},
        {**common, "system": "bare", "checkpointing": True, "tokens_per_second": 5000.0, **done},
        {**common, "system": "stock", "checkpointing": True, "tokens_per_second": 4000.0, **done},
    ]
    found = {"device": "D", "machine": {"commit": "c", "torch": "t"}, "seconds": 600, "cases": cases}
    (row,) = gpu.results_rows(found)
    assert (
        "activations recomputed" in row
        and "1.00 times bare; 1.25 times stock" in row
        and "53.0 % PaLM" in row
        and row.count("|") == 7
    )
    assert "| out of memory |" in gpu.markdown(found)


def test_without_a_gpu_it_refuses_in_one_sentence(benches, documents, tmp_path, monkeypatch):
    _, gpu = benches
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stop:
        gpu.main(["--documents", str(documents), "--out", str(tmp_path / "out")])
    assert (
        str(stop.value).startswith("error: no CUDA device here. Next: ") and not (tmp_path / "out").exists()
    )


def test_every_case_has_its_name(benches):
    _, gpu = benches
    names = [gpu.name(case) for shape in ("7b", "13b") for case in gpu.cases(shape)]
    assert len(names) == len(set(names))
