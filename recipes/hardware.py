"""Peaks of devices and the FLOPs of a model, once for the log, the plan and the benchmarks."""

PEAK = {"A100": 312}


def peak_tflops(name):
    return next((peak for part, peak in PEAK.items() if part in name), None)


def model_flops(model, tokens, squares):
    from checks import numel

    config = model.config.get_text_config()
    table = set() if config.tie_word_embeddings else set(model.get_input_embeddings().parameters())
    weights = sum(numel(w) * (6 if w.requires_grad else 4) for w in model.parameters() if w not in table)
    return tokens * weights + 12 * config.num_hidden_layers * config.hidden_size * squares
