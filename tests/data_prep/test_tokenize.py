"""Token ids are those of the reference tokenizer: SentencePiece for LLaMA-2's kind, the tokenizer itself for
all others, whatever the text."""

import json
import random

import numpy as np
import pytest
import regex
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from data_prep.corpus import tokenize
from data_prep.corpus.tokenize import DocumentTokenizer, make_word_cache
from data_prep.schema import BadInput
from tests import tokenizer_families

SENTENCES = ["The patient was given 20 mg of aspirin daily for chest pain.", "No acute process; the heart "
                                                                             "size is normal (2.5 cm).",
             "def f(x):\n    return x + 1", "β-blockers, naïve T-cells and 5–10 % saline.", "Findings:   mild  oedema.\n\n\tImpression: none."]  # fmt: skip


def texts():
    rng = random.Random(0)
    alphabet = [
        "a",
        "b",
        "the ",
        " ",
        "  ",
        "\n",
        "\t",
        "\u00a0",
        "\u2581",
        "é",
        "β",
        "🙂",
        "<s>",
        "</s>",
        "0",
        "19",
        ".",
        ",",
        "—",
        "\u3000",
        "xyz",
        "Ω",
    ]
    fuzz = ["".join(rng.choices(alphabet, k=rng.randint(1, 60))) for _ in range(2000)]
    return [*SENTENCES, " ".join(SENTENCES) * 50, "x" * 3000, " leading and trailing \n", *fuzz]


def save(engine, folder):
    folder.mkdir(parents=True, exist_ok=True)
    engine.save(str(folder / "tokenizer.json"))
    tokens = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens))
    return folder


@pytest.fixture(scope="module")
def sentencepiece_model(tmp_path_factory):
    spm = pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("sp")
    (folder / "text.txt").write_text("\n".join(SENTENCES * 20))
    spm.SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / "m"), vocab_size=450, model_type="bpe", byte_fallback=True, split_digits=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, minloglevel=2,
    )  # fmt: skip  # LLaMA-2's settings
    return spm.SentencePieceProcessor(model_file=str(folder / "m.model")), folder


@pytest.fixture(scope="module")
def llama(sentencepiece_model):
    """The same model as the Hub's tokenizer.json of LLaMA-2 has it: merges, a mark put in front, spaces
    replaced, no pre-tokenizer."""
    sp, folder = sentencepiece_model
    pieces = [sp.id_to_piece(i) for i in range(len(sp))]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    merges = []
    for piece in pieces:
        found = [
            (piece[:i], piece[i:])
            for i in range(1, len(piece))
            if piece[:i] in vocabulary and piece[i:] in vocabulary
        ]
        merges += [
            (vocabulary[piece], *pair)
            for pair in sorted(found, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        ]
    merges = [(a, b) for _, a, b in sorted(merges, key=lambda merge: merge[0]) if not (a + b).startswith("<")]
    engine = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    engine.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    engine.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    engine.add_special_tokens(["<unk>", "<s>", "</s>"])
    engine.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return save(engine, folder / "llama")


def byte_level(folder, vocabulary=600):
    engine = Tokenizer(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.train_from_iterator(SENTENCES * 20, trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=["<s>", "</s>", "<unk>"], show_progress=False,
                                                                   initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))  # fmt: skip
    return save(engine, folder)


@pytest.mark.guarantee("Corpus", "Token ids are those of SentencePiece and of the tokenizer.")
def test_llama_2_ids_are_those_of_sentencepiece(sentencepiece_model, llama):
    sp, _ = sentencepiece_model
    tokenizer = DocumentTokenizer(str(llama))
    assert tokenizer.words, "the words of this vocabulary are independent"
    given = texts()
    for text, ids in zip(given, tokenizer.encode(given), strict=True):
        assert ids.dtype == np.uint16
        assert (
            ids.tolist() == [sp.bos_id(), *sp.encode(text.strip()), sp.eos_id()] == tokenizer.reference(text)
        ), text


def by_pattern(folder, pattern, normalizer=None, **changes):
    """A tokenizer of LLaMA-3's or Qwen's kind."""
    engine = Tokenizer.from_file(str(byte_level(folder) / "tokenizer.json"))
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    engine.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    if normalizer:
        engine.normalizer = normalizer
    engine.add_tokens(["[image]"])  # added, and not special: found in plain text
    return save(engine, folder)


LLAMA_3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = LLAMA_3.replace("{1,3}", "")
KINDS = {
    "gpt2": byte_level,
    "llama3": lambda folder: by_pattern(folder, LLAMA_3),
    "qwen": lambda folder: by_pattern(folder, QWEN, normalizers.NFC()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_ids_of_other_kinds_are_those_of_the_tokenizer(tmp_path, kind):
    tokenizer = DocumentTokenizer(str(KINDS[kind](tmp_path)))
    assert isinstance(tokenizer.words, tokenize.PatternWords)
    decomposed = [
        "cafe\u0301 au lait",
        "an [image] of it",
        "\u0378 is not assigned",
        "I'LL it's 12345 \r\n\r\n x",
        "\u2028 a \x1c b \u180e",
        "Ⅷ ½ ² ٣ 〇",
    ]
    given = texts() + decomposed
    for text, ids in zip(given, tokenizer.encode(given), strict=True):
        assert ids.tolist() == tokenizer.reference(text), text
    assert len(tokenizer.words.agreed) > 60 and sum(
        tokenizer.words.ids(t.strip()) is not None for t in given
    ) > 0.9 * len(given)


def test_a_character_on_which_the_splits_differ_goes_to_the_tokenizer(tmp_path):
    tokenizer = DocumentTokenizer(str(KINDS["llama3"](tmp_path)))
    tokenizer.words.pattern = regex.compile(
        LLAMA_3.replace(r"[^\r\n\p{L}\p{N}]?\p{L}+", r"[^\r\n\p{L}\p{N}β]?[\p{L}--β]+"), regex.V1
    )  # as if β were none
    assert tokenizer.words.ids("an αβ blocker") is None and tokenizer.words.ids("a blocker") is not None
    assert tokenizer.encode(["an αβ blocker"])[0].tolist() == tokenizer.reference("an αβ blocker")


@pytest.mark.parametrize("kind", ["llama2", "llama3"])
def test_the_cache_may_be_cleared_and_long_texts_taken_in_parts(llama, tmp_path, monkeypatch, kind):
    folder = str(llama if kind == "llama2" else KINDS[kind](tmp_path))
    given = texts()
    whole = [ids.tolist() for ids in DocumentTokenizer(folder).encode(given)]
    monkeypatch.setattr(tokenize, "CACHED_WORDS", 20)
    monkeypatch.setattr(tokenize, "LONG", 30)
    monkeypatch.setattr(tokenize, "WORDS_AT_ONCE", 5)
    assert [ids.tolist() for ids in DocumentTokenizer(folder).encode(given)] == whole


def test_a_vocabulary_whose_words_depend_on_each_other_is_not_cached(llama):
    parts = json.loads((llama / "tokenizer.json").read_text())
    assert isinstance(make_word_cache(parts, np.dtype(np.uint16)), tokenize.SentencePieceWords)
    across, no_bytes, dropout = (json.loads(json.dumps(parts)) for _ in range(3))
    across["model"]["vocab"]["t\u2581a"] = len(across["model"]["vocab"])
    no_bytes["model"]["byte_fallback"] = False
    dropout["model"]["dropout"] = 0.1
    for changed in (across, no_bytes, dropout):
        assert make_word_cache(changed, np.dtype(np.uint16)) is None


def test_what_a_tokenizer_file_says_of_truncation_is_not_obeyed(tmp_path):
    folder = byte_level(tmp_path / "cut")
    engine = Tokenizer.from_file(str(folder / "tokenizer.json"))
    engine.enable_truncation(5)
    engine.enable_padding(length=5)
    engine.save(str(folder / "tokenizer.json"))
    assert len(DocumentTokenizer(str(folder)).encode([SENTENCES[0] * 10])[0]) > 50


def test_ids_above_65535_get_four_bytes(tmp_path):
    folder = byte_level(tmp_path / "large")
    parts = json.loads((folder / "tokenizer.json").read_text())
    parts["model"]["vocab"] |= {f"filler{i}": len(parts["model"]["vocab"]) + i for i in range(2**16)}
    (folder / "tokenizer.json").write_text(json.dumps(parts))
    assert (
        DocumentTokenizer(str(folder)).dtype == np.uint32
        and DocumentTokenizer(str(byte_level(tmp_path / "small"))).dtype == np.uint16
    )


def test_no_tokenizer_and_no_eos_are_refused(tmp_path):
    with pytest.raises(BadInput, match="no tokenizer here"):
        DocumentTokenizer(str(tmp_path))
    folder = byte_level(tmp_path / "no_eos")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(BadInput, match="has no EOS token"):
        DocumentTokenizer(str(folder))


@pytest.mark.parametrize("family", tokenizer_families.FAMILIES)
def test_documents_begin_with_bos_only_where_the_tokenizer_adds_one(tmp_path, family):
    hf = tokenizer_families.FAMILIES[family]()
    hf.save_pretrained(tmp_path)
    tokenizer = DocumentTokenizer(str(tmp_path))
    adds = family in tokenizer_families.ADDS_BOS
    assert tokenize.adds_bos(tokenizer.hf) == adds and tokenizer.bos == [hf.bos_token_id] * adds
    for text in SENTENCES[:2]:
        [ids] = tokenizer.encode([text])
        assert ids.tolist() == [*hf(text)["input_ids"], hf.eos_token_id] == tokenizer.reference(text)
