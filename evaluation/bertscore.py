"""BERTScore of generated summaries (Zhang et al. 2020), from an encoder in a folder or on the Hub.

    python -m evaluation.bertscore outputs/evaluation/chat --layer 9 \
        --model models/bert-base-multilingual-cased
    python -m evaluation.score outputs/evaluation/chat

Reads   RUN/<task>.jsonl of every task whose rows are summaries
Writes  RUN/<task>.bertscore.json   F1 of each row, the encoder with revision, fingerprint and layer, and how
                                    many texts were longer than it reads: their ends did not count.
                                    evaluation.score takes these up.

Each token is matched with the likest token of the other text (cosine of one layer's states); special tokens
may be matched to and are not themselves counted. No idf weights and no rescaling. An empty output scores 0.
The paper's setting: bert-base-multilingual-cased, layer 9.
"""

import argparse
import hashlib
import importlib.metadata
import json
import sys
from pathlib import Path

from data_prep import egress
from data_prep.files import one_sentence, replaced, sha256
from data_prep.schema import BadInput
from evaluation.scoring import parsing, run_outputs

LAYERS = {
    "bert-base-multilingual-cased": 9,
    "bert-base-uncased": 9,
    "roberta-large": 17,
    "deberta-xlarge-mnli": 40,
}  # bert_score's


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN")
    parser.add_argument(
        "--model", required=True, help="folder of an encoder with its tokenizer, or its name on the Hub"
    )
    parser.add_argument("--layer", type=int, help=f"whose states are compared; known for {', '.join(LAYERS)}")
    parser.add_argument("--revision", help="of the Hub")
    parser.add_argument("--device", default=None, help="default: cuda if there is one, else cpu")
    parser.add_argument("--batch_size", type=int, default=32)
    args = parser.parse_args(argv)
    with one_sentence():
        encoder = None
        for folder in args.folders:
            rows_of = {
                task: run_outputs.read_rows(path) for task, path in run_outputs.task_files(folder).items()
            }
            summaries = [task for task, rows in rows_of.items() if rows[0]["scoring"] == "summary"]
            if not summaries:
                raise BadInput(
                    f"{folder}: no task with summaries. Next: "
                    f"{run_outputs.generate_command(folder, 'pubmed_summ,mimic_cxr')}"
                )
            encoder = encoder or Encoder(args.model, args.layer, args.revision, args.device, args.batch_size)
            for task in summaries:
                print(f"{folder.name}: {score_task(folder, task, rows_of[task], encoder)}", flush=True)


def score_task(folder: Path, task: str, rows: list[dict], encoder: "Encoder") -> str:
    """Write RUN/<task>.bertscore.json; returns a line that says what came out."""
    predictions, references = (
        [parsing.answer_part(row["output"]) for row in rows],
        [row["completion"] for row in rows],
    )
    scores = encoder.score(predictions, references)
    mean = {
        name: sum(values) / len(rows)
        for name, values in zip(("precision", "recall", "f1"), zip(*scores, strict=True), strict=True)
    }
    truncated = {
        name: sum(encoder.is_truncated(texts))
        for name, texts in (("predictions", predictions), ("references", references))
    }
    made = {
        "value": mean,
        **encoder.facts,
        "truncated_predictions": truncated["predictions"],
        "truncated_references": truncated["references"],
        "empty_predictions": sum(not text for text in predictions),
        "outputs_sha256": sha256(run_outputs.task_files(folder)[task]),
        "f1": {row["id"]: f1 for row, (_, _, f1) in zip(rows, scores, strict=True)},
    }
    replaced(
        folder / f"{task}.bertscore.json",
        lambda path: path.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"),
    )
    cut = f"{truncated['predictions']} outputs and {truncated['references']} references longer than "
    cut += f"{encoder.facts['max_length']} tokens"
    score = f"{task}: BERTScore F1 {mean['f1']:.3f} of {len(rows)} rows, layer {encoder.facts['layer']}"
    return f"{score}; {cut}. Next: python -m evaluation.score {folder}"


class Encoder:
    """An encoder and the layer whose states are compared."""

    def __init__(
        self,
        model: str,
        layer: int | None = None,
        revision: str | None = None,
        device: str | None = None,
        batch_size: int = 32,
    ):
        import torch
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        layer = LAYERS.get(Path(model).name) if layer is None else layer
        if layer is None:
            raise BadInput(f"--model {model}: no layer is known for it. Next: --layer N")
        if Path(model).exists() and not (Path(model) / "config.json").is_file():
            raise BadInput(f"{model}: no model here (no config.json). Next: the folder of an encoder")
        try:
            config = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=False)
        except OSError as error:
            raise BadInput(
                f"--model {model}: no such folder, and the Hub did not give it. Next: hf download {model}"
            ) from error
        if not 0 <= layer <= config.num_hidden_layers:
            raise BadInput(
                f"--layer {layer}: {model} has {config.num_hidden_layers} layers. Next: --layer "
                f"{config.num_hidden_layers} or less"
            )
        self.tokenizer = AutoTokenizer.from_pretrained(model, revision=revision, trust_remote_code=False)
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.model = AutoModel.from_pretrained(
            model, revision=revision, trust_remote_code=False, use_safetensors=True
        )
        self.model = self.model.to(self.device).eval()
        # a tokenizer without a limit says 1e30; positions of the RoBERTa family begin after the padding
        # token's
        positions = config.max_position_embeddings - (
            config.pad_token_id + 1 if "roberta" in config.model_type else 0
        )
        self.layer, self.batch_size, self.max_length = (
            layer,
            batch_size,
            min(self.tokenizer.model_max_length, positions),
        )
        self.facts = {
            "model": model,
            "revision": revision or getattr(config, "_commit_hash", None),
            "fingerprint": _fingerprint(Path(model)),
            "layer": layer,
            "max_length": self.max_length,
            "versions": {
                name: importlib.metadata.version(name) for name in ("torch", "transformers", "tokenizers")
            },
        }

    def is_truncated(self, texts: list[str]) -> list[bool]:
        return [len(ids) > self.max_length for ids in self.tokenizer(texts, verbose=False)["input_ids"]]

    def score(self, predictions: list[str], references: list[str]) -> list[tuple[float, float, float]]:
        """(precision, recall, F1) of each pair; 0 where a text has no token."""
        pairs = list(zip(predictions, references, strict=True))
        scores = {}
        order = sorted(
            range(len(pairs)), key=lambda i: max(map(len, pairs[i])), reverse=True
        )  # like lengths pad little
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            states = self._states([text for i in batch for text in pairs[i]])
            for place, i in enumerate(batch):
                scores[i] = _match(states[2 * place], states[2 * place + 1])
        return [scores[i] for i in range(len(pairs))]

    def _states(self, texts):
        """[(unit states [tokens, width], whether each token counts [tokens])] of each text."""
        import torch

        batch = self.tokenizer(
            texts,
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=self.max_length,
            return_special_tokens_mask=True,
        )
        special, mask = batch.pop("special_tokens_mask").bool(), batch["attention_mask"].bool()
        with torch.inference_mode():
            states = (
                self.model(**batch.to(self.device), output_hidden_states=True)
                .hidden_states[self.layer]
                .float()
                .cpu()
            )
        states = torch.nn.functional.normalize(states, dim=-1)
        return [(states[i][mask[i]], ~special[i][mask[i]]) for i in range(len(texts))]


def _match(prediction, reference):
    (states, counts), (others, counts_others) = prediction, reference
    if not counts.any() or not counts_others.any():
        return 0.0, 0.0, 0.0
    likeness = states @ others.T
    precision, recall = (
        likeness.max(1).values[counts].mean().item(),
        likeness.max(0).values[counts_others].mean().item(),
    )
    return precision, recall, 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _fingerprint(model: Path) -> str | None:
    """sha256 over the files of a local encoder; None for a Hub name, which its revision identifies."""
    files = sorted(
        path
        for pattern in ("*.json", "*.safetensors", "*.bin", "*.model", "*.txt")
        for path in model.glob(pattern)
    )
    return (
        hashlib.sha256("".join(f"{path.name} {sha256(path)}\n" for path in files).encode()).hexdigest()
        if files
        else None
    )


if __name__ == "__main__":
    egress.isolate(sys.argv[1:], BadInput)
    main()
