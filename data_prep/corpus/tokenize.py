"""Documents -> token ids of the target tokenizer, exactly as the tokenizer itself gives them, at a speed that
129 billion tokens need.

Two traps of tokenizer.json are closed for every tokenizer: truncation or padding saved in the file is obeyed
without a word, and special tokens are found in plain text ("<s>" in a web page is three characters, not the
beginning of a document).

A tokenizer of the byte-pair kind never merges across the words that its text is first split into, and most
words of a corpus were met before: `WordCache` looks each word up and asks the tokenizer's own model for the
new ones only. It does so where the split can be shown to be the tokenizer's own, and hands every other text,
and every other tokenizer, to the tokenizer as it is.
"""

import array
import hashlib
import itertools
import json
import re
import unicodedata

import numpy as np
import regex
from tokenizers import Tokenizer

from data_prep.schema import BadInput

SPACE = "\u2581"  # SentencePiece writes a space so
CACHED_WORDS = 2_000_000  # some 300 MB
# characters: the words of a longer text are looked up WORDS_AT_ONCE at a time, to bound the memory
LONG = 1_000_000
WORDS_AT_ONCE = 100_000


def adds_bos(tokenizer) -> bool:
    """Whether `tokenizer` (of transformers) itself begins a text with its BOS token: a model expects one only
    then.

    SmolLM2 has a BOS, <|im_start|>, that it adds to no text; of GPT-NeoX the EOS serves as BOS, and is not
    added either."""
    # not tokenizer.encode, which would reset the engine's encode_special_tokens
    ids = tokenizer.backend_tokenizer.encode("a").ids if tokenizer.is_fast else tokenizer.encode("a")
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]


class DocumentTokenizer:
    """The tokenizer of a model's folder (or Hub name). `dtype` is the smallest that holds its ids.

    BadInput without a tokenizer there, or without an EOS token: no model could learn where a document
    ends."""

    def __init__(self, path: str):
        from transformers import AutoTokenizer  # here, as it takes seconds to import

        try:
            from transformers import AutoTokenizer  # seconds; not for --help

            self.hf = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise BadInput(
                f"{path}: no tokenizer here ({str(error).splitlines()[0]}). Next: --tokenizer with a "
                "model's folder"
            ) from error
        if self.hf.eos_token_id is None:
            raise BadInput(
                f"{path}: the tokenizer has no EOS token, so no model could learn where a document ends. "
                "Next: another --tokenizer"
            )
        self.engine = self.hf.backend_tokenizer
        self.engine.no_truncation()
        self.engine.no_padding()
        content = self.engine.to_str()
        self.sha256 = hashlib.sha256(content.encode()).hexdigest()
        self.engine.encode_special_tokens = True
        self.dtype = np.dtype(np.uint16 if len(self.hf) <= 2**16 else np.uint32)
        self.bos = [self.hf.bos_token_id] if adds_bos(self.hf) else []
        self.eos = self.hf.eos_token_id
        self.words = make_word_cache(json.loads(content), self.dtype)

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """BOS (where the tokenizer adds one) + ids + EOS of each text. White space around a text is not a
        part of it."""
        ids = [self.words.ids(text.strip()) if self.words else None for text in texts]
        others = [number for number, found in enumerate(ids) if found is None]
        encoded = self.engine.encode_batch_fast(
            [texts[number].strip() for number in others], add_special_tokens=False
        )
        for number, encoding in zip(others, encoded, strict=True):
            ids[number] = np.array(encoding.ids, self.dtype).tobytes()
        bos, eos = np.array(self.bos, self.dtype).tobytes(), np.array([self.eos], self.dtype).tobytes()
        return [np.frombuffer(b"".join((bos, found, eos)), self.dtype) for found in ids]

    def reference(self, text: str) -> list[int]:
        """What `encode` must give, by the tokenizer alone."""
        return [*self.bos, *self.engine.encode(text.strip(), add_special_tokens=False).ids, self.eos]


# ---------------------------------------------------------------- word by word
class WordCache:
    """Ids of a text as the ids of its words, each computed by the tokenizer's own model when it is first met.
    `ids` is None for a text that must go to the tokenizer: one that names a token which was added without
    being special, or holds a character on which the two splits do not agree."""

    def __init__(self, parts: dict, dtype: np.dtype):
        named = [token["content"] for token in parts["added_tokens"] if not token["special"]]
        self.named = re.compile("|".join(map(re.escape, named))) if named else None
        bare = parts | {
            "normalizer": None,
            "post_processor": None,
            "added_tokens": [],
            "pre_tokenizer": self.letters(parts),
        }
        self.model, self.known = Tokenizer.from_str(json.dumps(bare)), {}
        self.code = {2: "H", 4: "I"}[dtype.itemsize]

    def ids(self, text: str) -> bytes | None:
        """The ids of `text`, which has no white space around it, as the bytes of an array."""
        if (self.named and self.named.search(text)) or not self.agrees(text):
            return None
        text = self.prepared(text)
        if len(text) < LONG:
            return self._join(self.pattern.findall(text))
        words, parts = (match.group() for match in self.pattern.finditer(text)), []
        while some := list(itertools.islice(words, WORDS_AT_ONCE)):
            parts.append(self._join(some))
        return b"".join(parts)

    def _join(self, words: list[str]) -> bytes:
        try:
            return b"".join(map(self.known.__getitem__, words))
        except KeyError:
            if len(self.known) > CACHED_WORDS:
                self.known.clear()
        missing = list(set(words).difference(self.known))
        encoded = self.model.encode_batch_fast(self.written(missing), add_special_tokens=False)
        self.known.update(
            (word, array.array(self.code, e.ids).tobytes()) for word, e in zip(missing, encoded, strict=True)
        )
        return b"".join(map(self.known.__getitem__, words))


class SentencePieceWords(WordCache):
    """LLaMA-2's kind. The tokenizer has no pre-tokenizer and runs its merges over the whole text, but where
    no token holds SPACE after another character no merge can cross the beginning of a word: it would make
    such a token. Characters without a token fall back to bytes, one by one."""

    pattern = re.compile(rf"[ {SPACE}]+[^ {SPACE}]*")
    PREPEND = {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": SPACE},
            {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        ],
    }
    METASPACE = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": False}

    @classmethod
    def fits(cls, parts: dict) -> bool:
        model, before = parts["model"], (parts["normalizer"], parts["pre_tokenizer"])
        return (
            before in ((cls.PREPEND, None), (None, cls.METASPACE))
            and bool(model.get("byte_fallback"))
            and not model.get("ignore_merges")
            and all(f"<0x{byte:02X}>" in model["vocab"] for byte in range(256))
            and not any(SPACE in token.lstrip(SPACE) for token in model["vocab"])
        )

    def letters(self, parts: dict) -> None:
        self.always_prepends = (
            parts["pre_tokenizer"] is None
        )  # Metaspace puts no mark before a text that begins with one

    def agrees(self, text: str) -> bool:
        return True

    def prepared(self, text: str) -> str:
        return " " + text if text and (self.always_prepends or not text.startswith(SPACE)) else text

    def written(self, words: list[str]) -> list[str]:
        return [word.replace(" ", SPACE) for word in words]


class PatternWords(WordCache):
    """GPT-2's kind, which LLaMA-3's and Qwen's are: the text is split by a regular expression. Python's
    `regex` reads the same pattern; what the two could disagree on is the class of a character (their Unicode
    tables may differ), so each character is tried in both when it is first met."""

    GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    PROBES = ("{}", "a{}a", "1{}1", " {} ", "{}{}", "\n{}", ".{}.", "a {}1", "'{}")

    @classmethod
    def fits(cls, parts: dict) -> bool:
        return (
            parts["normalizer"] in (None, {"type": "NFC"}) and cls.source(parts["pre_tokenizer"]) is not None
        )

    @classmethod
    def source(cls, pre_tokenizer: dict | None) -> str | None:
        """The pattern of a pre-tokenizer of this kind, or None."""
        steps = (pre_tokenizer or {}).get("pretokenizers") or [pre_tokenizer or {}]
        byte_level = steps[-1].get("type") == "ByteLevel" and not steps[-1]["add_prefix_space"]
        if byte_level and len(steps) == 1 and steps[0]["use_regex"]:
            return cls.GPT2
        isolated = {"type": "Split", "behavior": "Isolated", "invert": False}
        if (
            byte_level
            and len(steps) == 2
            and not steps[1]["use_regex"]
            and isolated.items() <= steps[0].items()
        ):
            return steps[0]["pattern"].get("Regex")
        return None

    def letters(self, parts: dict) -> dict:
        self.pattern = regex.compile(self.source(parts["pre_tokenizer"]))
        self.composes = parts["normalizer"] is not None
        self.original = Tokenizer.from_str(json.dumps(parts | {"added_tokens": [], "post_processor": None}))
        self.agreed, self.odd = set(), set()
        return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}

    def agrees(self, text: str) -> bool:
        for character in set(text) - self.agreed:
            same = character not in self.odd and all(
                self._same_split(probe.replace("{}", character)) for probe in self.PROBES
            )
            (self.agreed if same else self.odd).add(character)
            if not same:
                return False
        return not self.composes or unicodedata.is_normalized("NFC", text)

    def _same_split(self, text: str) -> bool:
        normal = self.original.normalizer.normalize_str(text) if self.composes else text
        pieces = [
            normal[start:end] for _, (start, end) in self.original.pre_tokenizer.pre_tokenize_str(normal)
        ]
        return normal == text and pieces == self.pattern.findall(text)

    def prepared(self, text: str) -> str:
        return text

    def written(self, words: list[str]) -> list[str]:
        return words


def make_word_cache(parts: dict, dtype: np.dtype) -> WordCache | None:
    """The cache for a tokenizer, by the parts of its tokenizer.json; None where its words cannot be looked up
    one by one."""
    model = parts["model"]
    if model["type"] == "BPE" and not any(
        model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
    ):
        for kind in (SentencePieceWords, PatternWords):
            if kind.fits(parts):
                return kind(parts, dtype)
    return None
