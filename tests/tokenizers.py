"""Small tokenizers in the style of published families: who adds a BOS, and what BOS, EOS and PAD are called.

Only what the families differ in is imitated (special tokens, post-processor, kind of model);
the vocabulary is invented.
"""

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SENTENCES = (
    "The patient was given 20 mg of aspirin for chest pain.",
    "No acute process; the heart is normal.",
)


def _byte_level(special: list[str]) -> Tokenizer:
    """GPT-2's kind: BPE over bytes, words split by a regular expression."""
    engine = Tokenizer(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    engine.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return engine


def _metaspace(special: list[str]) -> Tokenizer:
    """SentencePiece's kind: BPE with byte fallback, spaces written as U+2581."""
    engine = Tokenizer(models.BPE(unk_token=special[0], byte_fallback=True, fuse_unk=True))
    engine.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    engine.decoder = decoders.ByteFallback()
    bytes_of = [f"<0x{byte:02X}>" for byte in range(256)]
    engine.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(vocab_size=500, special_tokens=[*special, *bytes_of], show_progress=False),
    )
    return engine


def _wrap(engine: Tokenizer, begins_with: str | None, **names) -> PreTrainedTokenizerFast:
    if begins_with:
        engine.post_processor = processors.TemplateProcessing(
            single=f"{begins_with} $A",
            pair=f"{begins_with} $A {begins_with} $B",
            special_tokens=[(begins_with, engine.token_to_id(begins_with))],
        )
    return PreTrainedTokenizerFast(tokenizer_object=engine, clean_up_tokenization_spaces=False, **names)


def llama2() -> PreTrainedTokenizerFast:
    """<s> before every text."""
    engine = _metaspace(["<unk>", "<s>", "</s>"])
    return _wrap(engine, "<s>", bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def llama3() -> PreTrainedTokenizerFast:
    """<|begin_of_text|> before every text, by a post-processor after the byte-level one."""
    engine = _byte_level(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])
    names = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
    tokenizer = _wrap(engine, "<|begin_of_text|>", **names)
    backend = tokenizer.backend_tokenizer
    steps = [processors.ByteLevel(trim_offsets=False), backend.post_processor]
    backend.post_processor = processors.Sequence(steps)
    return tokenizer


def qwen3() -> PreTrainedTokenizerFast:
    """No BOS at all."""
    engine = _byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return _wrap(engine, None, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def smollm2() -> PreTrainedTokenizerFast:
    """The BOS is <|im_start|>, which begins a turn of a chat and which the tokenizer never adds to a text."""
    engine = _byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    return _wrap(engine, None, unk_token="<|endoftext|>", **names)


def gemma() -> PreTrainedTokenizerFast:
    """<bos> before every text, and a PAD of its own."""
    engine = _metaspace(["<unk>", "<pad>", "<eos>", "<bos>"])
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    return _wrap(engine, "<bos>", unk_token="<unk>", **names)


def gpt_neox() -> PreTrainedTokenizerFast:
    """BOS and EOS are one token, which is not added to a text."""
    engine = _byte_level(["<|endoftext|>", "<|padding|>"])
    names = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    return _wrap(engine, None, **names)


FAMILIES = {
    "llama2": llama2,
    "llama3": llama3,
    "qwen3": qwen3,
    "smollm2": smollm2,
    "gemma": gemma,
    "gpt_neox": gpt_neox,
}
ADDS_BOS = {"llama2", "llama3", "gemma"}
