"""Peaks of devices and the FLOPs of a model, once, for the log, the plan and the benchmarks.

Dense bf16 peaks (no sparsity) and memory from the makers' data sheets: nvidia.com/en-us/data-center for A100,
H100, H200, B200, L40S; the GA102, AD102 and GB202 architecture white papers for RTX cards and the A6000 (FP16
with FP32 accumulation, which is what training uses)."""

DEVICES = {  # part of torch.cuda.get_device_name(): (TFLOP/s in bf16, GB); the first that fits
    "A100-SXM4-40GB": (312, 40),
    "A100-PCIE-40GB": (312, 40),
    "A100": (312, 80),
    "H100 PCIe": (756, 80),
    "H100 NVL": (835, 94),
    "H100": (989, 80),
    "H200": (989, 141),
    "B200": (2250, 180),
    "L40S": (362, 48),
    "RTX A6000": (155, 48),
    "RTX 3090": (71, 24),
    "RTX 4090": (165, 24),
    "RTX 5090": (210, 32),
}


def peak_tflops(name):
    """Dense bf16 TFLOP/s of a device by its name; None for those not listed."""
    return next((peak for part, (peak, _) in DEVICES.items() if part in name), None)


def model_flops(model, tokens, squares):
    """FLOPs that the model itself needs to train on `tokens` tokens, in documents whose squared lengths sum
    to `squares` (PaLM, arXiv:2204.02311, appendix B): tokens x (6 x trained + 4 x frozen weights, without the
    embedding table) + 12 x layers x width x squares. Recomputed activations do not count."""
    from checks import numel

    config = model.config.get_text_config()
    table = set() if config.tie_word_embeddings else set(model.get_input_embeddings().parameters())
    weights = sum(numel(w) * (6 if w.requires_grad else 4) for w in model.parameters() if w not in table)
    return tokens * weights + 12 * config.num_hidden_layers * config.hidden_size * squares
