"""Peaks of devices and the FLOPs of a model, once for the log, the plan and the benchmarks."""

import math
import re
from typing import NamedTuple


class Device(NamedTuple):
    """One card. `link` is one way inside a node: NVLink, or PCIe where there is none (4.0: 31, 5.0: 63)."""

    name: str  # regular expression for the name that the driver reports
    memory_gib: float  # as PyTorch reports it, which is less than the maker's label
    tflops: float  # dense bf16 with float32 accumulation
    bandwidth: int  # of its memory, GB/s
    link: int  # GB/s
    network: int  # of a usual node with it, all network cards together, Gb/s
    calibrated_on: str  # cards whose published runs say which share of the peak is reached


# Data sheets: nvidia.com/en-us/data-center for L40S, A100, H100, H200 and B200; the GA102, AD102 and GB202
# architecture white papers for RTX cards and the A6000. Peaks given with sparsity are halved. Recalled, not
# fetched for this file.
DEVICES = {
    "rtx3090": Device(r"RTX 3090(?! Ti)", 23.6, 71, 936, 31, 10, "a100"),
    "rtx4090": Device(r"RTX 4090(?! (D|Laptop))", 23.6, 165, 1008, 31, 10, "a100"),
    "rtx5090": Device(r"RTX 5090(?! (D|Laptop))", 31.4, 209.5, 1792, 63, 10, "a100"),
    "l40s": Device(r"L40S", 44.4, 362, 864, 31, 200, "a100"),
    "a6000": Device(r"RTX A6000", 47.5, 155, 768, 31, 100, "a100"),
    "a100-40": Device(r"A100.*40GB", 39.4, 312, 1555, 300, 1600, "a100"),
    "a100-80": Device(r"A100.*80GB", 79.1, 312, 2039, 300, 1600, "a100"),
    "h100-pcie": Device(r"H100 PCIe", 79.1, 756, 2000, 63, 400, "h100"),
    "h100-nvl": Device(r"H100 NVL", 93.1, 835, 3900, 300, 400, "h100"),
    "h100": Device(r"H100(?! (PCIe|NVL))", 79.1, 989, 3350, 450, 3200, "h100"),
    "h200": Device(r"H200(?! NVL)", 139.8, 989, 4800, 450, 3200, "h100"),
    "b200": Device(r"(?<!G)B200", 178.4, 2250, 7700, 900, 3200, "h100"),
}


def peak_tflops(device_name: str) -> float | None:
    """Dense bf16 TFLOP/s of the card that torch.cuda.get_device_name() names; None if it is not listed."""
    found = (d for d in DEVICES.values() if re.search(rf"\b{d.name}(?!\w)", device_name))
    return next((device.tflops for device in found), None)


def matmul_flops(tokens, squares, *, trained, frozen=0, layers, queries, causal=False):
    """FLOPs of training on `tokens`, of documents whose squared lengths sum to `squares`.

    trained, frozen: weights in matrix products (6 and 4 FLOPs a token: a frozen weight has no gradient of its
    own); queries: heads x head_dim. PaLM, appendix B (arXiv:2204.02311), with `causal` half of its attention.
    Attention has no weights, so it costs the same under LoRA. Recomputed activations are not counted.
    """
    return tokens * (6 * trained + 4 * frozen) + (6 if causal else 12) * layers * queries * squares


def model_flops(model, tokens, squares, causal=False):
    """matmul_flops of a torch model: sharded by ZeRO-3, quantised to 4 bits and with an adapter too."""
    config = model.config.get_text_config()
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    table = () if config.tie_word_embeddings else model.get_input_embeddings().parameters()
    table, weights = {id(weight) for weight in table}, {True: 0, False: 0}
    for weight in model.parameters():
        shape = getattr(
            getattr(weight, "quant_state", None), "shape", getattr(weight, "ds_shape", weight.shape)
        )
        if len(shape) > 1 and id(weight) not in table:  # norms and biases are not in matrix products
            weights[weight.requires_grad] += math.prod(shape)
    shape = {"layers": config.num_hidden_layers, "queries": config.num_attention_heads * head_dim}
    return matmul_flops(tokens, squares, trained=weights[True], frozen=weights[False], causal=causal, **shape)
