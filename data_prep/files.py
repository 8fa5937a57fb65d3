"""Opening what publishers ship and writing what the next stage reads: compressed or not, whole or not at all."""

import contextlib
import gzip
import hashlib
import io
import json
import math
import os
import shutil
import zlib
from pathlib import Path

import pyarrow
import pyarrow.parquet
import yaml
import zstandard

from data_prep.schema import BadInput

LFS_MARK = b"version https://git-lfs.github.com/spec"
LEVEL = 3  # of gzip: more than twice the speed of 6, for an eighth more bytes
WORK = ".work"  # inside an unfinished output: what is not part of it
NOT_UTF8 = "bytes that are not UTF-8, replaced by U+FFFD"
READ_ERRORS = (
    EOFError,
    OSError,
    zlib.error,
    zstandard.ZstdError,
)  # what a cut or damaged archive raises while being read

# What a raw file may ask of the memory. The limits are of single records: a file as a whole may be of any size.
LONGEST = (
    1 << 26
)  # bytes or characters of a record: a line, a row of a table, an XML record, a member of an archive
LONGEST_XML = LONGEST // 2  # of which a tree takes up to 40 times the memory
LONGEST_OF_OURS = 8 * LONGEST  # of a line that we wrote: JSON spells some characters in six
LARGEST_JSON = 1 << 32  # bytes of a file that is one JSON value
LARGEST_YAML = 1 << 20
DEEPEST = 100  # levels of a raw JSON value
EXPANSION, ALWAYS = (
    200,
    1 << 28,
)  # what is compressed may become so many times larger, and always 256 MiB; text becomes 3 to 20 times larger


@contextlib.contextmanager
def open_bytes(path: str | Path):
    """A readable binary stream of `path`, decompressed by its suffix (.gz, .zst). BadInput if it is missing, empty,
    a Git-LFS pointer, if decompression fails at any point while the caller reads, or if it gives far more than text would."""
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"{path}: no such file" + (" (a pipe or a device is none)" if path.exists() else ""))
    if path.stat().st_size == 0:
        raise BadInput(f"{path}: the file is empty")
    with path.open("rb") as raw:
        if raw.read(len(LFS_MARK)) == LFS_MARK:
            raise BadInput(f"{path}: this is a Git-LFS pointer, not the data. Next: git lfs pull")
        raw.seek(0)
        try:
            if path.suffix == ".gz":
                yield io.BufferedReader(_Expanding(path, raw, gzip.GzipFile(fileobj=raw)), 1 << 16)
            elif path.suffix == ".zst":
                yield io.BufferedReader(_Expanding(path, raw, _WholeZstd(raw)), 1 << 16)
            else:
                yield raw
        except READ_ERRORS as error:
            raise BadInput(
                f"{path}: cannot be read to its end ({error or type(error).__name__}). Next: fetch it again"
            ) from error


class _Expanding(io.RawIOBase):
    """What `stream` decompresses of `raw`, as long as it is not far more than text would be."""

    def __init__(self, path, raw, stream):
        self._path, self._raw, self._stream, self._given = path, raw, stream, 0

    def readable(self):
        return True

    def readinto(self, out):
        n = self._stream.readinto(out)
        self._given += n
        check_expansion(self._path, self._given, self._raw.tell())
        return n


def check_expansion(path: str | Path, expanded: int, compressed: int) -> None:
    """BadInput where `expanded` bytes out of `compressed` are more than any text gives: a bomb."""
    if expanded > max(ALWAYS, EXPANSION * compressed):
        raise BadInput(
            f"{path}: {expanded:,} bytes come out of {compressed:,}, which no text gives. Next: look at where this file is from"
        )


class _WholeZstd(io.RawIOBase):
    """zstandard's reader returns a short stream for a cut file without a word; this one says so."""

    def __init__(self, raw):
        self._raw, self._frame, self._buffer, self._fed = raw, None, b"", b""

    def readable(self):
        return True

    def readinto(self, out):
        while not self._buffer:
            chunk = self._fed or self._raw.read(1 << 13)  # which can become 256 MiB, all at once
            if not chunk:
                if self._frame is not None:
                    raise EOFError("the zstd frame ends early")
                return 0
            self._frame = self._frame or zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
            self._buffer = memoryview(self._frame.decompress(chunk))
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
    with (
        open_bytes(path) as stream,
        io.TextIOWrapper(stream, encoding="utf-8-sig", newline=newline, errors=errors) as text,
    ):
        try:
            if stream.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):
                raise BadInput(not_utf8(path))
            yield text
        except UnicodeDecodeError as error:
            raise BadInput(not_utf8(path)) from error


def not_utf8(path: str | Path) -> str:
    """Where a file stops being UTF-8, the encoding it is likely in, and the command that converts it."""
    with open_bytes(path) as stream:
        line = b""
        if stream.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return f"{path}: UTF-16, must be UTF-8. Next: iconv -f UTF-16 -t UTF-8 {path} > {path}.utf8"
        for number, line in enumerate(iter(lambda: stream.readline(LONGEST), b""), 1):  # noqa: B007
            try:
                line.decode()
            except UnicodeDecodeError:
                break
    try:
        line.decode("cp1252")
    except UnicodeDecodeError:
        return f"{path}: line {number} is not UTF-8. Next: iconv -f ENCODING -t UTF-8 {path} > {path}.utf8"
    return (
        f"{path}: line {number} is not UTF-8 but probably Windows-1252. "
        f"Next: iconv -f CP1252 -t UTF-8 {path} > {path}.utf8"
    )


def read_whole(stream, path: str | Path, longest: int | None = None):
    """All that is left of a stream of `path`. BadInput if that is more than `longest` bytes or characters (default: LONGEST)."""
    longest = longest or LONGEST
    content = stream.read(longest + 1)
    if len(content) > longest:
        raise BadInput(f"{path}: larger than {longest:,} bytes, which no file of this kind is")
    return content


def read_jsonl(path: str | Path, drops=None, source: str | None = None):
    """Yield (line number from 1, object) for each non-blank line of a JSON-lines file. BadInput names a line that is not JSON; with `drops` (manifest.Drops)
    such a line of `source` is counted as bad and left out, and one with bytes that are not UTF-8 is kept with U+FFFD in their place, and counted.

    With `drops` the file is a publisher's: longer lines than LONGEST, deeper values than DEEPEST, and NaN and Infinity, are no JSON there."""
    raw, number = drops is not None, 0
    longest = LONGEST if raw else LONGEST_OF_OURS
    with open_bytes(path) as stream:
        while line := stream.readline(longest + 1):
            number += 1
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if len(line) <= longest and not line.strip():
                continue
            try:
                if len(line) > longest:
                    while line and not line.endswith(b"\n"):
                        line = stream.readline(longest)
                    raise ValueError(f"longer than {longest:,} bytes")
                yield number, from_json(line, raw)
                continue
            except UnicodeDecodeError as error:
                wrong, line = error, line.decode(errors="replace")
            except ValueError as error:
                wrong, line = error, ""
            if drops is None:
                said = f"{path}: line {number} is not JSON ({wrong})"
                raise BadInput(not_utf8(path) if isinstance(wrong, UnicodeDecodeError) else said) from wrong
            try:
                record = from_json(line, raw)
                drops.repair(source, NOT_UTF8, f"{path}: line {number}")
                yield number, record
            except ValueError:
                drops.add(source, "not JSON", f"{path}: line {number}", bad=True)


def read_json(path: str | Path):
    """The one JSON value of a file. BadInput names the file and the position."""
    with open_bytes(path) as stream:
        try:
            return from_json(read_whole(stream, path, LARGEST_JSON).removeprefix(b"\xef\xbb\xbf"))
        except ValueError as error:
            raise BadInput(f"{path}: not JSON ({error})") from error


def from_json(text: str | bytes, raw: bool = False):
    """json.loads, with ValueError for whatever is wrong; where the text is `raw`, that is also what Python alone reads: NaN, Infinity, 1e999, and so many levels
    that it might not be able to write them again."""
    try:
        value = json.loads(text, parse_constant=_finite, parse_float=_finite) if raw else json.loads(text)
    except RecursionError as error:
        raise ValueError("too many levels") from error
    if raw and sum(map(text.count, "[{" if isinstance(text, str) else (b"[", b"{"))) > DEEPEST:
        level = [value]
        for _ in range(DEEPEST):
            level = [
                part
                for whole in level
                if isinstance(whole, dict | list)
                for part in (whole.values() if isinstance(whole, dict) else whole)
            ]
        if level:
            raise ValueError(f"more than {DEEPEST} levels")
    return value


def _finite(written):
    if not math.isfinite(value := float(written)):
        raise ValueError(f"{written} is no number of JSON")
    return value


class _Plain(yaml.SafeLoader):
    """YAML without references to other places in it, of which a few can stand for any number of values."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("an alias, which is not read here: write the value out")
        return super().compose_node(parent, index)


def read_yaml(path: str | Path):
    """The one value of a YAML file. BadInput says where it is not YAML."""
    if Path(path).is_file() and Path(path).stat().st_size == 0:
        return None
    with open_text(path, newline=None) as text:
        try:
            return yaml.load(
                read_whole(text, path, LARGEST_YAML), Loader=_Plain
            )  # a SafeLoader: tags of Python are refused
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise BadInput(f"{path}: not YAML ({' '.join(str(error).split())})") from error


def read_parquet(path: str | Path, columns: list[str] | None = None):
    """Yield (row number from 1, {column: value}) of a Parquet file. BadInput if one of `columns` (None: all) is not in it, or if it is damaged."""
    with open_bytes(path) as stream:
        try:
            leaves = pyarrow.parquet.read_metadata(stream).schema
            # texts stay in the dictionary in which they are stored: a small file can hold a million times the same long one
            table = pyarrow.parquet.ParquetFile(
                stream, read_dictionary=[leaves.column(i).path for i in range(len(leaves))]
            )
            names = table.schema_arrow.names
            if missing := [name for name in columns or () if name not in names]:
                raise BadInput(f"{path}: no column '{missing[0]}' (found: {', '.join(names)})")
            groups = map(table.metadata.row_group, range(table.metadata.num_row_groups))
            check_expansion(path, sum(group.total_byte_size for group in groups), Path(path).stat().st_size)
            number = 0
            for batch in table.iter_batches(batch_size=1000, columns=columns):
                for row in zip(*batch.columns, strict=True):
                    number += 1
                    yield (
                        number,
                        {name: value.as_py() for name, value in zip(batch.schema.names, row, strict=True)},
                    )
        except (pyarrow.ArrowException, ValueError, OverflowError) as error:
            raise BadInput(
                f"{path}: not whole Parquet ({' '.join(str(error).split())}). Next: fetch it again"
            ) from error


def write_jsonl(path: Path, records) -> int:
    """Write one JSON object a line (gzip if the name ends in .gz, with no time stamp inside: same records, same bytes)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # a link that was put there is replaced, not followed
    count = 0
    with contextlib.ExitStack() as stack:
        raw = stack.enter_context(path.open("wb"))
        out = (
            stack.enter_context(
                gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0, compresslevel=LEVEL)
            )
            if path.suffix == ".gz"
            else raw
        )
        for record in records:
            try:
                out.write((json.dumps(record, ensure_ascii=False) + "\n").encode())
            except UnicodeEncodeError as error:
                raise BadInput(
                    f"record {record.get('id', count + 1)}: holds half a Unicode character ({error.reason})"
                ) from error
            count += 1
    return count


def replaced(path: Path, write) -> None:
    """`write` a file under a temporary name beside `path`, which then takes its name: it is there whole, as it was, or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)  # of a killed run, perhaps open to all, or a link
    write(partial)
    os.replace(partial, path)


@contextlib.contextmanager
def whole_folder(out: str | Path, mark: str = "manifest.json"):
    """Yield a temporary folder beside `out` that takes its name only if the block ends well: an output exists whole or not at all.
    An older output is replaced; BadInput if `out` holds files but not `mark`, the file that tells an output of ours."""
    out = _followed(Path(out))
    partial = check_out(out, mark)
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
    out = _followed(Path(out))
    known = out / ".identity"
    if (out / mark).is_file() and known.is_file() and known.read_text() == identity:
        os.utime(out / mark)  # for make: as new as what it was made of
        yield None
        return
    partial = check_out(out, mark)
    partial.mkdir(parents=True, exist_ok=True)
    yield partial
    shutil.rmtree(partial / WORK, ignore_errors=True)
    (partial / ".identity").write_text(identity)
    _take_name(partial, out)


def _followed(out: Path) -> Path:
    """Where an output goes: a link to another disk stays a link, and what is there is replaced there."""
    return out.resolve() if out.is_symlink() else out


def check_folder(out: str | Path) -> Path:
    """Where `out`, followed to its end, is or can become a folder; BadInput else."""
    out = _followed(Path(out))
    if file := next((path for path in (out, *out.parents) if path.exists() and not path.is_dir()), None):
        raise BadInput(f"{file}: is a file, and the output is a folder. Next: another --out")
    return out


def check_out(out: str | Path, mark: str = "manifest.json") -> Path:
    """The temporary folder for the output `out`. BadInput where either may be another's, or is no folder; to be asked before work that takes long."""
    out = check_folder(out)
    if out.is_dir() and any(out.iterdir()) and not (out / mark).is_file():
        raise BadInput(
            f"{out}: holds files and no {mark}, so it is no earlier output and is left alone. Next: another --out"
        )
    partial = out.with_name(f".{out.name}.partial")
    if partial.is_symlink():
        raise BadInput(
            f"{partial}: a link, so what it leads to is none of ours and is left alone. Next: remove it, or another --out"
        )
    return partial


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
