"""The loss of each token of held-out packed blocks (data_prep.build_blocks), document by document: what
evaluation.long_context and evaluation.forgetting --blocks measure. Each document begins at position 0 and
sees itself alone."""

from pathlib import Path

import numpy as np

from data_prep.schema import BadInput


def held_out(folder: Path, manifest: dict, limit: int):
    """Yield (domain, [token ids of each document or piece]) of up to `limit` validation blocks a domain."""
    import datasets

    left = dict.fromkeys(manifest["domains"], limit)
    for output in (o for o in manifest["outputs"] if o["split"] == "validation"):
        rows = datasets.Dataset.from_file(str(folder / output["path"])).with_format("numpy")
        for row in rows.select(range(min(left[output["domain"]], len(rows)))):
            ends = np.cumsum(row["seq_lengths"])
            yield output["domain"], np.split(row["input_ids"][: ends[-1]], ends[:-1])
            left[output["domain"]] -= 1
    if left == dict.fromkeys(manifest["domains"], limit):
        raise BadInput(f"{folder}: no validation blocks. Next: a mixture with a validation_share")


def losses(model, ids: np.ndarray) -> np.ndarray:
    """float64 [tokens - 1]: nats of each token after the first."""
    import torch

    ids = torch.from_numpy(ids.astype(np.int64))[None].to(model.device)
    with torch.no_grad():
        logits = model(ids, use_cache=False).logits[0, :-1]
    parts = zip(logits.split(1024), ids[0, 1:].split(1024), strict=True)  # float32 of a part at a time
    loss = torch.nn.functional.cross_entropy
    return torch.cat([loss(a.float(), b, reduction="none") for a, b in parts]).double().cpu().numpy()


def of_domains(model, folder: Path, manifest: dict, limit: int) -> dict:
    """{domain: {"nll": [nats of a block], "tokens": [predicted tokens of a block]}}, as recipes/pretrain.py
    writes validation.json."""
    found = {}
    for domain, documents in held_out(folder, manifest, limit):
        parts = [losses(model, document) for document in documents if len(document) > 1]
        one = found.setdefault(domain, {"nll": [], "tokens": []})
        one["nll"].append(float(sum(part.sum() for part in parts)))
        one["tokens"].append(sum(map(len, parts)))
    return found
