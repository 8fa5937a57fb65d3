"""Opening what publishers ship and writing what the next stage reads: compressed or not, whole or not at all."""

import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
import zlib
from pathlib import Path

import zstandard

from data_prep.contracts import BadInput

LFS_MARK = b"version https://git-lfs.github.com/spec"
LEVEL = 3  # of gzip: more than twice the speed of 6, for an eighth more bytes
WORK = ".work"  # inside an unfinished output: what is not part of it
NOT_UTF8 = "bytes that are not UTF-8, replaced by U+FFFD"
READ_ERRORS = (EOFError, OSError, zlib.error, zstandard.ZstdError)  # what a cut or damaged archive raises while being read


@contextlib.contextmanager
def open_bytes(path: str | Path):
    """A readable binary stream of `path`, decompressed by its suffix (.gz, .zst). BadInput if it is missing, empty,
    a Git-LFS pointer, or if decompression fails at any point while the caller reads."""
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise BadInput(f"{path}: the file is empty")
    with path.open("rb") as raw:
        if raw.read(len(LFS_MARK)) == LFS_MARK:
            raise BadInput(f"{path}: this is a Git-LFS pointer, not the data. Next: git lfs pull")
        raw.seek(0)
        try:
            if path.suffix == ".gz":
                stream = gzip.GzipFile(fileobj=raw)
            elif path.suffix == ".zst":
                stream = io.BufferedReader(_WholeZstd(raw))
            else:
                stream = raw
            yield stream
        except READ_ERRORS as error:
            raise BadInput(f"{path}: cannot be read to its end ({error or type(error).__name__}). Next: fetch it again") from error


class _WholeZstd(io.RawIOBase):
    """zstandard's reader returns a short stream for a cut file without a word; this one says so."""

    def __init__(self, raw):
        self._raw, self._frame, self._buffer, self._fed = raw, None, b"", b""

    def readable(self):
        return True

    def readinto(self, out):
        while not self._buffer:
            chunk = self._fed or self._raw.read(1 << 20)
            if not chunk:
                if self._frame is not None:
                    raise EOFError("the zstd frame ends early")
                return 0
            self._frame = self._frame or zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
            self._buffer = self._frame.decompress(chunk)
            self._fed = b""
            if self._frame.eof:
                self._fed, self._frame = self._frame.unused_data, None
        n = min(len(out), len(self._buffer))
        out[:n], self._buffer = self._buffer[:n], self._buffer[n:]
        return n


@contextlib.contextmanager
def open_text(path: str | Path, newline: str | None = "", errors: str = "strict"):
    """As open_bytes, decoded as UTF-8 (a leading byte-order mark is dropped). `newline=""` keeps line ends as they are; with errors="replace"
    a byte that is not UTF-8 becomes U+FFFD."""
    with open_bytes(path) as stream, io.TextIOWrapper(stream, encoding="utf-8-sig", newline=newline, errors=errors) as text:
        try:
            yield text
        except UnicodeDecodeError as error:
            raise BadInput(f"{path}: not UTF-8 ({error.reason} near byte {error.start} of a block)") from error


def read_jsonl(path: str | Path, drops=None, source: str | None = None):
    """Yield (line number from 1, object) for each non-blank line of a JSON-lines file. BadInput names a line that is not JSON; with `drops` (manifest.Drops)
    such a line of `source` is counted as bad and left out, and one with bytes that are not UTF-8 is kept with U+FFFD in their place, and counted."""
    with open_bytes(path) as stream:
        for number, line in enumerate(stream, 1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
                continue
            except UnicodeDecodeError as error:
                wrong, line = error, line.decode(errors="replace")
            except (ValueError, RecursionError) as error:
                wrong, line = error, ""
            if drops is None:
                raise BadInput(f"{path}: line {number} is not JSON ({wrong})") from wrong
            try:
                record = json.loads(line)
                drops.repair(source, NOT_UTF8, f"{path}: line {number}")
                yield number, record
            except (ValueError, RecursionError):
                drops.add(source, "not JSON", f"{path}: line {number}", bad=True)


def read_json(path: str | Path):
    """The one JSON value of a file. BadInput names the file and the position."""
    with open_bytes(path) as stream:
        try:
            return json.loads(stream.read().removeprefix(b"\xef\xbb\xbf"))
        except ValueError as error:
            raise BadInput(f"{path}: not JSON ({error})") from error


def write_jsonl(path: Path, records) -> int:
    """Write one JSON object a line (gzip if the name ends in .gz, with no time stamp inside: same records, same bytes)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with contextlib.ExitStack() as stack:
        raw = stack.enter_context(path.open("wb"))
        out = (
            stack.enter_context(gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0, compresslevel=LEVEL))
            if path.suffix == ".gz"
            else raw
        )
        for record in records:
            try:
                out.write((json.dumps(record, ensure_ascii=False) + "\n").encode())
            except UnicodeEncodeError as error:
                raise BadInput(f"record {record.get('id', count + 1)}: holds half a Unicode character ({error.reason})") from error
            count += 1
    return count


@contextlib.contextmanager
def whole_folder(out: str | Path, mark: str = "manifest.json"):
    """Yield a temporary folder beside `out` that takes its name only if the block ends well: an output exists whole or not at all.
    An older output is replaced; BadInput if `out` holds files but not `mark`, the file that tells an output of ours."""
    out = Path(out)
    _check_ours(out, mark)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _take_name(partial, out)


@contextlib.contextmanager
def resumable_folder(out: str | Path, identity: str, mark: str = "manifest.json"):
    """As whole_folder, for builds of hours: what a killed or failed build has finished stays in the temporary folder (.NAME.partial) for the next one, which
    decides what of it is still true. Yields None where `out` is the complete output of this very build (`identity`: a hash of all it depends on)."""
    out = Path(out)
    known = out / ".identity"
    if (out / mark).is_file() and known.is_file() and known.read_text() == identity:
        os.utime(out / mark)  # for make: as new as what it was made of
        yield None
        return
    _check_ours(out, mark)
    partial = out.with_name(f".{out.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    yield partial
    shutil.rmtree(partial / WORK, ignore_errors=True)
    (partial / ".identity").write_text(identity)
    _take_name(partial, out)


def _check_ours(out: Path, mark: str) -> None:
    if out.is_dir() and any(out.iterdir()) and not (out / mark).is_file():
        raise BadInput(f"{out}: holds files and no {mark}, so it is no earlier output and is left alone. Next: another --out")


def _take_name(partial: Path, out: Path) -> None:
    if out.exists():
        old = out.with_name(f".{out.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        os.replace(out, old)
        os.replace(partial, out)
        shutil.rmtree(old)
    else:
        os.replace(partial, out)


def keep_only(folder: Path, paths) -> None:
    """Remove from `folder` every file but those (relative paths) and WORK: what an earlier build with other inputs has left there."""
    wanted = {str(path) for path in paths}
    for path in sorted(folder.rglob("*"), reverse=True):
        relative = path.relative_to(folder)
        if relative.parts[0] == WORK:
            continue
        if path.is_dir():
            with contextlib.suppress(OSError):
                path.rmdir()
        elif relative.as_posix() not in wanted:
            path.unlink()


def sha256(path: str | Path) -> str:
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
