"""Words as numbers: what minhash.py and decontamination.py compare texts by.

A word is a run of letters and digits, blind to case, accents and punctuation: "Café," is "cafe", and "3.5" is
two words. Each word, and each run of n words, becomes 64 bits, in numpy over many characters at once, with no
Python object for a word. The hash is plain arithmetic: the same on every machine.
"""

import unicodedata

import numpy as np

PIECE = (
    1 << 18
    # characters hashed at once: few enough for a processor's cache, and a text of 50 MB takes no more memory
    # than this
)
BASE, MIX = 0x9E3779B97F4A7C15, np.uint64(0xD6E8FEB86659FD93)  # odd, without structure
NO_WORD, SKIP = (
    0,
    1,
)  # in LETTERS: what parts words; what is passed over inside them (accents standing alone, soft hyphens)
LOOKALIKES = dict(
    zip("асеорхуіј", "aceopxyij", strict=True)
)  # Cyrillic letters that stand for Latin ones in MedQA's questions


def _letters() -> np.ndarray:
    """[65536] The lower-case letter without accents, or digit, that a character of the basic plane is
    compared as, or NO_WORD or SKIP."""
    table = np.full(1 << 16, NO_WORD, np.uint64)
    for code in range(1 << 16):
        character = chr(code)
        if unicodedata.combining(character) or unicodedata.category(character) == "Cf":
            table[code] = SKIP
        elif character.isalnum():
            base = [
                c for c in unicodedata.normalize("NFKD", character.lower()) if not unicodedata.combining(c)
            ]
            table[code] = (
                ord(LOOKALIKES.get(base[0], base[0])) if len(base) == 1 else ord(character.lower()[0])
            )
    return table


def _powers(base: int) -> np.ndarray:
    return np.cumprod(np.full(PIECE, base, np.uint64), dtype=np.uint64)


LETTERS, POWERS, INVERSES = _letters(), _powers(BASE), _powers(pow(BASE, -1, 1 << 64))


def hash_words(text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(hash uint64, start, end) of each word, each [words]; start and end (excluded) count characters of
    `text`."""
    found = [_hash_piece(start, piece) for start, piece in _pieces(text)]
    if not found:
        return np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int64)
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def hash_runs(words: np.ndarray, n: int) -> np.ndarray:
    """[words - n + 1] uint64: one hash for each run of n words, in their order; of fewer than n words,
    none."""
    if len(words) < n:
        return np.empty(0, np.uint64)
    runs, length, part, width = (
        None,
        0,
        words,
        1,
    )  # runs of `length` words, made of parts of 1, 2, 4 ... words
    while True:
        if n & 1:
            runs = part if runs is None else _join(runs, length, part, width)
            length += width
        n >>= 1
        if not n:
            return mix(runs)
        part, width = _join(part, width, part, width), 2 * width


def _join(left: np.ndarray, length: int, right: np.ndarray, width: int) -> np.ndarray:
    """The polynomials of runs of length + width words, of those of `length` and of `width` words."""
    return (
        left[: len(right) - length] * np.uint64(pow(BASE, width, 1 << 64))
        + right[length:][: len(left) - width]
    )


def mix(values: np.ndarray) -> np.ndarray:
    """uint64 values, each replaced by one whose bits all depend on all of its bits; no two become the
    same."""
    values = (values ^ (values >> np.uint64(32))) * MIX
    values = (values ^ (values >> np.uint64(29))) * MIX
    return values ^ (values >> np.uint64(32))


def _pieces(text: str):
    """Yield (start, piece): the text in pieces of at most PIECE characters, cut after a blank or line end
    where there is one."""
    start = 0
    while start < len(text):
        end = start + PIECE
        if end < len(text):
            end = max(text.rfind(" ", start, end), text.rfind("\n", start, end)) + 1 or end
        yield start, text[start:end]
        start = end


def _hash_piece(offset: int, text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    letters = LETTERS[np.minimum(codes, 0xFFFF)]
    place = np.arange(offset, offset + len(letters))
    if (letters == SKIP).any():
        place, letters = place[letters != SKIP], letters[letters != SKIP]
    inside = np.zeros(len(letters) + 2, bool)
    inside[1:-1] = letters != NO_WORD
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    starts, ends = edges[::2], edges[1::2]
    # A word is the polynomial of its letters: the difference of two running sums, shifted back to the word's
    # own start.
    sums = np.zeros(len(letters) + 1, np.uint64)
    np.cumsum(letters * POWERS[: len(letters)], out=sums[1:])
    words = (sums[ends] - sums[starts]) * INVERSES[starts]
    return mix(words), place[starts], place[ends - 1] + 1
