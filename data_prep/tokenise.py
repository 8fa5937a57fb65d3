"""Documents -> token ids of the target tokenizer, exactly as the tokenizer itself gives them, at a speed that 129 billion tokens need.

Two traps of tokenizer.json are closed for every tokenizer: truncation or padding saved in the file is obeyed without a word, and special tokens are found in
plain text ("<s>" in a web page is three characters, not the beginning of a document).

LLaMA-2's tokenizer has no pre-tokenizer: it runs byte-pair merges over the whole text. But none of its tokens holds a space mark after another character, so
no merge crosses the beginning of a word; each word can be looked up alone, and most words of a corpus were met before. `WordCache` does that where
`words_are_independent` proves it of the vocabulary at hand; every other tokenizer is called as it is.
"""

import hashlib
import json
import re

import numpy as np
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from data_prep.contracts import BadInput

SPACE = "\u2581"  # SentencePiece writes a space so
LONG = 1_000_000  # characters: a longer document is encoded in pieces, to bound the memory
WINDOW = 200  # characters on both sides of a cut that must give the same ids with and without it
TRIES = 50  # places for such a cut
CACHED_WORDS = 1_000_000


class DocumentTokenizer:
    """The tokenizer of a model's folder (or Hub name). `dtype` is the smallest that holds its ids.

    BadInput without a tokenizer there, or without an EOS token: no model could learn where a document ends."""

    def __init__(self, path: str):
        try:
            self.hf = AutoTokenizer.from_pretrained(path)
        except (OSError, ValueError) as error:
            raise BadInput(f"{path}: no tokenizer here ({str(error).splitlines()[0]}). Next: --tokenizer with a model's folder") from error
        if self.hf.eos_token_id is None:
            raise BadInput(
                f"{path}: the tokenizer has no EOS token, so no model could learn where a document ends. Next: another --tokenizer"
            )
        self.engine = self.hf.backend_tokenizer
        self.engine.no_truncation()
        self.engine.no_padding()
        self.sha256 = hashlib.sha256(self.engine.to_str().encode()).hexdigest()
        self.engine.encode_special_tokens = True
        self.dtype = np.dtype(np.uint16 if len(self.hf) <= 2**16 else np.uint32)
        self.bos = [] if self.hf.bos_token_id is None else [self.hf.bos_token_id]
        self.eos = self.hf.eos_token_id
        self.words = WordCache(self.engine, self.dtype) if words_are_independent(self.engine) else None

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """BOS (where the tokenizer has one) + ids + EOS of each text. White space around a text is not a part of it."""
        texts = [text.strip() for text in texts]
        if self.words:
            ids = [self.words.ids(text) for text in texts]
        else:
            encoded = self.engine.encode_batch_fast([t if len(t) <= LONG else "" for t in texts], add_special_tokens=False)
            ids = [self._in_pieces(t) if len(t) > LONG else e.ids for t, e in zip(texts, encoded, strict=True)]
            ids = [np.array(i, self.dtype).tobytes() for i in ids]
        bos, eos = np.array(self.bos, self.dtype).tobytes(), np.array([self.eos], self.dtype).tobytes()
        return [np.frombuffer(b"".join((bos, i, eos)), self.dtype) for i in ids]

    def reference(self, text: str) -> list[int]:
        """What `encode` must give, by the tokenizer itself and in one piece."""
        return [*self.bos, *self.engine.encode(text.strip(), add_special_tokens=False).ids, self.eos]

    def _ids(self, text: str) -> list[int]:
        return self.engine.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def _in_pieces(self, text: str) -> list[int]:
        ids, start = [], 0
        while len(text) - start > LONG:
            cut, skip = self._seam(text, start + LONG // 2, start + LONG)
            if not cut:
                break  # no safe place: the rest goes in one piece
            ids += self._ids(text[start:cut])
            start = cut + skip
        return ids + self._ids(text[start:])

    def _seam(self, text: str, low: int, high: int) -> tuple[int, int]:
        """(where to cut, characters to skip there) so that the pieces on both sides give the ids of the whole; (0, 0) if there is no such place.

        What happens at a cut depends on the words beside it only, so it is tried on WINDOW characters to each side."""
        for match in list(re.finditer(r"\n+(?=\w)| (?=\w)", text[low:high]))[-TRIES:]:
            for cut, skip in ((low + match.end(), 0), (low + match.start(), match.end() - match.start())):
                left, right = text[cut - WINDOW : cut], text[cut + skip : cut + skip + WINDOW]
                if self._ids(left) + self._ids(right) == self._ids(text[cut - WINDOW : cut + skip + WINDOW]):
                    return cut, skip
        return 0, 0


# ---------------------------------------------------------------- tokenizers of LLaMA-2's kind
def words_are_independent(engine: Tokenizer) -> bool:
    """Whether each word (space marks and what follows up to the next one) is encoded by itself, whatever stands around it.

    True for byte-pair encoding over text whose spaces became SPACE, with one put in front, if no token holds SPACE after another character: a merge across the
    beginning of a word would make such a token. Characters without a token fall back to bytes, one by one."""
    parts = json.loads(engine.to_str())
    model, before = parts["model"], (parts["normalizer"], parts["pre_tokenizer"])
    prepend_replace = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE},
                       {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]}  # fmt: skip
    metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": False}
    return (
        model["type"] == "BPE"
        and before in ((prepend_replace, None), (None, metaspace))
        and bool(model.get("byte_fallback"))
        and not any(model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"))
        and all(f"<0x{byte:02X}>" in model["vocab"] for byte in range(256))
        and not any(SPACE in token.lstrip(SPACE) for token in model["vocab"])
        and all(token["special"] for token in parts["added_tokens"])
    )


class WordCache:
    """Ids of a text as the ids of its words, each computed by the tokenizer's own model when it is first met."""

    def __init__(self, engine: Tokenizer, dtype: np.dtype):
        parts = json.loads(engine.to_str())
        self.always_prepends = parts["pre_tokenizer"] is None  # Metaspace puts no mark before a text that begins with one
        parts |= {"normalizer": None, "pre_tokenizer": None, "post_processor": None, "added_tokens": []}
        self.model, self.dtype, self.known = Tokenizer.from_str(json.dumps(parts)), dtype, {}

    def ids(self, text: str) -> bytes:
        """The ids of `text`, which does not begin with a space, as the bytes of an array of `dtype`."""
        if not text:
            return b""
        if self.always_prepends or not text.startswith(SPACE):
            text = " " + text
        parts, start = [], 0
        while len(text) - start > LONG:  # a part after the other, so that the list of words stays short
            cut = WORD_START.search(text, start + LONG)
            if cut is None:
                break
            parts.append(self._join(WORD.findall(text, start, cut.start())))
            start = cut.start()
        return b"".join([*parts, self._join(WORD.findall(text, start))])

    def _join(self, words: list[str]) -> bytes:
        try:
            return b"".join(map(self.known.__getitem__, words))
        except KeyError:
            if len(self.known) > CACHED_WORDS:
                self.known.clear()
        missing = list({word for word in words if word not in self.known})
        encoded = self.model.encode_batch_fast([word.replace(" ", SPACE) for word in missing], add_special_tokens=False)
        self.known.update((word, np.array(e.ids, self.dtype).tobytes()) for word, e in zip(missing, encoded, strict=True))
        return b"".join(map(self.known.__getitem__, words))


WORD = re.compile(rf"[ {SPACE}]+[^ {SPACE}]*")
WORD_START = re.compile(rf"(?<![ {SPACE}])[ {SPACE}]")
