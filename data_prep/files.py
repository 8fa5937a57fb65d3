"""Opening what publishers ship and writing what the next stage reads: compressed or not, whole or not at
all."""

import concurrent.futures
import contextlib
import errno
import gzip
import hashlib
import io
import json
import math
import os
import re
import shlex
import shutil
import socket
import sys
import threading
import time
import uuid
import zlib
from pathlib import Path

import pyarrow
import pyarrow.parquet
import yaml
import zstandard

from data_prep import egress


class BadInput(Exception):
    """A file, record or key that cannot be used. The message names it, says what is wrong, and what to do
    next."""


LFS_MARK = b"version https://git-lfs.github.com/spec"
LINK = re.compile(r"\.{0,2}/\S{1,1000}")  # all that a file holds where a link arrived as text
LEVEL = 3  # of gzip: more than twice the speed of 6, for an eighth more bytes
WORK = ".work"  # inside an unfinished output: what is not part of it
IDENTITY = (
    ".identity"  # inside a finished output: a hash of all that it depends on, and the time when it was built
)
LOCK_BEAT, LOCK_STALE = 15, 120  # seconds
NOT_UTF8 = "bytes that are not UTF-8, replaced by U+FFFD"
READ_ERRORS = (EOFError, OSError, zlib.error, zstandard.ZstdError)  # of a cut or damaged archive

# What a raw file may ask of the memory. The limits are those of single records; a file may be of any size.
LONGEST = 1 << 26  # bytes or characters of a line, a row of a table, an XML record, or a member of an archive
LONGEST_XML = LONGEST // 2  # its tree takes up to 40 times the memory
LONGEST_OF_OURS = 8 * LONGEST  # of a line that we wrote: JSON spells some characters in six
LARGEST_JSON = 1 << 32  # bytes of a file that is one JSON value
LARGEST_YAML = 1 << 20
DEEPEST = 100  # levels of a raw JSON value
EXPANSION, ALWAYS = 200, 1 << 28  # times that compressed data may grow, and bytes that it may always grow to


@contextlib.contextmanager
def open_bytes(path: str | Path):
    """A readable binary stream of `path`, decompressed by its suffix (.gz, .zst). BadInput if it is missing,
    empty, a Git-LFS pointer, if decompression fails at any point while the caller reads, or if it gives far
    more than text would."""
    path = Path(path)
    if not path.is_file():
        raise BadInput(
            f"{path}: no such file" + (" (a pipe or a device cannot be read)" if path.exists() else "")
        )
    if path.stat().st_size == 0:
        raise BadInput(f"{path}: the file is empty")
    with path.open("rb") as raw:
        if raw.read(len(LFS_MARK)) == LFS_MARK:
            raise BadInput(f"{path}: this is a Git-LFS pointer, not the data. Next: git lfs pull")
        raw.seek(0)
        check_no_link(path)
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


def check_no_link(path: Path) -> None:
    """BadInput where all that a file holds is a path: a link, copied to a system that has none."""
    if path.stat().st_size > 1000:
        return
    content = path.read_bytes().decode(errors="replace")
    inside = re.fullmatch(r"\S+/\S+", content) and "\0" not in content and (path.parent / content).exists()
    if inside or LINK.fullmatch(content):
        raise BadInput(
            f"{path}: a link to {content} that was copied as text. Next: put what it links to in its place"
        )


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
            f"{path}: {expanded:,} bytes come out of {compressed:,}, more than any text expands to. Next: "
            "check the origin of this file"
        )


class _WholeZstd(io.RawIOBase):
    """zstandard's reader silently returns a short stream for a cut file; this one raises EOFError."""

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
def open_text(
    path: str | Path, newline: str | None = "", errors: str = "strict", encoding: str | None = None
):
    """As open_bytes, decoded as UTF-8 (a leading byte-order mark is dropped). `newline=""` keeps line ends as
    they are; with errors="replace" a byte that is not UTF-8 becomes U+FFFD. `encoding`: where it is known to
    be another one."""
    with (
        open_bytes(path) as stream,
        io.TextIOWrapper(stream, encoding=encoding or "utf-8-sig", newline=newline, errors=errors) as text,
    ):
        try:
            if not encoding and stream.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):
                raise BadInput(not_utf8(path))
            yield text
        except UnicodeError as error:
            wrong = f"{path}: is not {encoding} ({error}). Next: correct its encoding in source.yaml"
            raise BadInput(wrong if encoding else not_utf8(path)) from error


def not_utf8(path: str | Path) -> str:
    """Where a file stops being UTF-8, the encoding it is likely in, and the command that converts it."""
    with open_bytes(path) as stream:
        line = b""
        if stream.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return f"{path}: UTF-16, must be UTF-8. Next: {_converted(path, 'UTF-16')}"
        for number, line in enumerate(iter(lambda: stream.readline(LONGEST), b""), 1):  # noqa: B007
            try:
                line.decode()
            except UnicodeDecodeError:
                break
    try:
        line.decode("cp1252")
    except UnicodeDecodeError:
        return f"{path}: line {number} is not UTF-8. Next: {_converted(path, 'ENCODING')}"
    probably = "is not UTF-8 but probably Windows-1252"
    return f"{path}: line {number} {probably}. Next: {_converted(path, 'CP1252')}"


def _converted(path: str | Path, encoding: str) -> str:
    """The command after which `path` is UTF-8, and the file as it was lies beside it."""
    new, old = shlex.quote(str(path)), shlex.quote(f"{path}.old")
    return f"mv {new} {old} && iconv -f {encoding} -t UTF-8 {old} > {new}"


def read_whole(stream, path: str | Path, longest: int | None = None):
    """All that is left of a stream of `path`. BadInput if that is more than `longest` bytes or characters
    (default: LONGEST)."""
    longest = longest or LONGEST
    content = stream.read(longest + 1)
    if len(content) > longest:
        raise BadInput(f"{path}: larger than {longest:,} bytes, the most that a file of this kind may have")
    return content


def read_jsonl(path: str | Path, drops=None, source: str | None = None):
    """Yield (line number from 1, object) for each non-blank line of a JSON-lines file. BadInput names a line
    that is not JSON; with `drops` (manifest.Drops) such a line of `source` is counted as bad and left out,
    and one with bytes that are not UTF-8 is kept with U+FFFD in their place, and counted.

    With `drops` the file is a publisher's: longer lines than LONGEST, deeper values than DEEPEST, and NaN and
    Infinity, are not JSON there."""
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
                said = f"{path}: line {number} is not JSON ({wrong}). Next: correct or remove that line"
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
    """json.loads, with ValueError for whatever is wrong; where the text is `raw`, that is also what Python
    alone reads: NaN, Infinity, 1e999, and so many levels that it might not be able to write them again."""
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
    """YAML as its readers expect it: no aliases, of which a few can stand for any number of values; no key
    twice, of which the first would be lost silently; and, as in YAML 1.2, only true and false are booleans,
    so that `no` is the text "no"."""

    yaml_implicit_resolvers = {
        first: [rule for rule in rules if rule[0] != "tag:yaml.org,2002:bool"]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent, index):
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("an alias, which is not read here: write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        lines = {}
        for key, _ in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines:
                raise yaml.YAMLError(
                    f"key '{name}' is in line {lines[name]} and again in line {line}: remove one"
                )
            lines[name] = line
        return super().construct_mapping(node, deep)


_Plain.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("true|True|TRUE|false|False|FALSE"), list("tTfF")
)


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
    """Yield (row number from 1, {column: value}) of a Parquet file. BadInput if one of `columns` (None: all)
    is not in it, or if it is damaged."""
    with open_bytes(path) as stream:
        try:
            leaves = pyarrow.parquet.read_metadata(stream).schema
            # texts stay in the dictionary in which they are stored: a small file can hold a million times the
            # same long one
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
    """Write one JSON object a line (gzip if the name ends in .gz, with no time stamp inside: same records,
    same bytes)."""
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
    """`write` a file under a temporary name beside `path`, which then takes its name: `path` is always
    whole."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)  # of a killed run, perhaps open to all, or a link
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)  # where the disk is full, of no use


# ---------------------------------------------------------------- output folders
@contextlib.contextmanager
def whole_folder(out: str | Path, mark: str = "manifest.json"):
    """Yield a temporary folder beside `out` that takes its name only if the block ends well: an output exists
    whole or not at all. An older output is replaced.

    BadInput if `out` holds files but not `mark`, the file that identifies our outputs, or if another process
    writes it."""
    out = _followed(Path(out))
    partial = check_out(out, mark)
    with _locked(out, partial):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            yield partial
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        _take_name(partial, out)


@contextlib.contextmanager
def resumable_folder(out: str | Path, identity: str, mark: str = "manifest.json", intact=lambda out: True):
    """As whole_folder, for builds of hours: what a killed or failed build has finished stays in the temporary
    folder (.NAME.partial) for the next one, which decides what of it is still valid. Yields None where `out`
    is the complete output of this very build (`identity`: a hash of all it depends on) and is `intact`."""
    out = _followed(Path(out))
    partial = check_out(out, mark)
    with _locked(out, partial):
        known = out / IDENTITY
        complete = (
            (out / mark).is_file() and known.is_file() and known.read_text(encoding="utf-8") == identity
        )
        if complete and intact(out):
            os.utime(out / mark)  # for make: as new as what it was made of
            os.utime(known)
            yield None
            return
        partial.mkdir(parents=True, exist_ok=True)
        yield partial
        shutil.rmtree(partial / WORK, ignore_errors=True)
        (partial / IDENTITY).write_text(identity, encoding="utf-8")
        _take_name(partial, out)


def changed_since(out: Path, paths) -> list[Path]:
    """Which of `paths` were written to, or appeared, after the build of `out` ended, by the time of change
    that the file system keeps: nobody can set it back. A copied folder looks changed."""
    built = (out / IDENTITY).stat().st_ctime_ns
    return [path for path in paths if not path.is_file() or path.stat().st_ctime_ns > built]


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
    """The temporary folder for the output `out`. BadInput where either may belong to somebody else, or is no
    folder; call it before work that takes long, and before the older output is read: one whose build was
    killed between its two renames is restored."""
    out = check_folder(out)
    if out.is_dir() and any(out.iterdir()) and not (out / mark).is_file():
        raise BadInput(
            f"{out}: holds files and no {mark}, so it is not an earlier output. Next: another --out"
        )
    partial = out.with_name(f".{out.name}.partial")
    if partial.is_symlink():
        raise BadInput(
            f"{partial}: a link, which no build of ours left there. Next: remove it, or another --out"
        )
    if not out.exists() and out.with_name(f".{out.name}.old").is_dir():
        with _locked(out, partial):
            pass
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


def _finish_taking_name(partial: Path, out: Path) -> None:
    """Restore an output whose build was killed in `_take_name`: the new one was whole when the old one
    moved."""
    old = out.with_name(f".{out.name}.old")
    if old.is_dir() and not old.is_symlink():
        if not out.exists():
            os.replace(partial if partial.is_dir() else old, out)
        shutil.rmtree(old, ignore_errors=True)


# ---------------------------------------------------------------- one build of a folder at a time
@contextlib.contextmanager
def _locked(out: Path, partial: Path):
    """Hold .NAME.lock beside `out`, which names this process. BadInput at once if another live process holds
    it.

    A holder on this machine lives if its process does. One on another machine, or in another container, lives
    if it has touched the lock in the last LOCK_STALE seconds, as a thread of it does every LOCK_BEAT."""
    lock, own = out.with_name(f".{out.name}.lock"), json.dumps(_process(os.getpid()))
    lock.parent.mkdir(parents=True, exist_ok=True)
    while not _created(lock, own):
        _take_over(lock, out)
    ended = threading.Event()
    threading.Thread(target=_keep_fresh, args=(lock, ended), daemon=True).start()
    try:
        _finish_taking_name(partial, out)
        yield
    finally:
        ended.set()
        if _content(lock) == own:
            lock.unlink(missing_ok=True)


def _created(lock: Path, content: str) -> bool:
    """Create a lock, or return False where there is one. An empty one is being written."""
    with contextlib.suppress(FileExistsError), lock.open("x", encoding="utf-8") as file:
        file.write(content)
        return True
    return False


def _take_over(lock: Path, out: Path) -> None:
    """Remove the lock of a process that is gone; BadInput if it lives."""
    content = _content(lock)
    if content is None:
        return
    try:
        holder = json.loads(content)
        holder = {key: holder[key] for key in ("host", "container", "pid", "started")}
    except (ValueError, TypeError, KeyError):  # written in part, by a machine that lost power
        holder = {"host": "an unknown host", "container": "", "pid": 0, "started": ""}
    if _lives(holder, lock):
        raise BadInput(
            f"{out}: process {holder['pid']} on {holder['host']} is writing it. Next: wait until it ends; "
            f"if it was killed on another machine, the same command works {LOCK_STALE // 60} minutes later"
        )
    aside = lock.with_name(f"{lock.name}.{uuid.uuid4().hex}")
    with contextlib.suppress(FileNotFoundError):
        os.replace(lock, aside)
        if _content(aside) != content:  # another process took over first, and this is its lock
            with contextlib.suppress(OSError):
                os.link(aside, lock)
        aside.unlink()


def _lives(holder: dict, lock: Path) -> bool:
    here = _process(holder["pid"])
    if (holder["host"], holder["container"]) == (here["host"], here["container"]):
        return here["started"] is not None and here["started"] == holder["started"]
    with contextlib.suppress(FileNotFoundError):
        return time.time() - lock.stat().st_mtime < LOCK_STALE
    return False


def _process(pid: int) -> dict:
    """A process, as a lock names it; `started` (clock ticks after boot) is None if this machine has none
    such."""
    container = os.readlink("/proc/self/ns/pid") if Path("/proc/self/ns/pid").exists() else ""
    return {"host": socket.gethostname(), "container": container, "pid": pid, "started": _started(pid)}


def _started(pid: int) -> str | None:
    with contextlib.suppress(OSError):
        if Path("/proc/self").exists():
            return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
        os.kill(pid, 0)
        return ""
    return None


def _keep_fresh(lock: Path, ended: threading.Event) -> None:
    while not ended.wait(LOCK_BEAT):
        with contextlib.suppress(OSError):
            os.utime(lock)


def _content(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def keep_only(folder: Path, paths) -> None:
    """Remove from `folder` every file but those (relative paths) and WORK: what an earlier build with other
    inputs has left there."""
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


def sha256_of_all(paths: list[Path]) -> list[str]:
    """The hashes of many files, several at a time."""
    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(sha256, paths))


# ---------------------------------------------------------------- how a command ends
@contextlib.contextmanager
def one_sentence():
    """Around a command: bad input, a full disk and other errors of the system end it with exit code 1 and one
    sentence."""
    try:
        yield
    except BadInput as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {os_sentence(error)}")


def os_sentence(error: OSError | MemoryError) -> str:
    """An error of the system in a sentence. The file is named unless the process holds credentialed text: a
    library may have taken a text for a file name."""
    if isinstance(error, MemoryError):
        return "out of memory. Next: fewer workers, or a larger machine"
    file = f"{error.filename}: " if error.filename and not egress.agreements() else ""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return (
        f"{file}{error.strerror or type(error).__name__}"
        + ". Next: free space, then the same command again" * full
    )


def outline(value, depth: int = 0):
    """The lines of a nested JSON object as a reader would write them down: `Vital Signs:` and below it `
    Heart Rate: 72 bpm`."""
    for key, part in value.items():
        name, indent = key.replace("_", " "), "  " * depth
        if isinstance(part, dict):
            yield f"{indent}{name}:"
            yield from outline(part, depth + 1)
        else:
            said = (
                "; ".join(map(str, part))
                if isinstance(part, list)
                else {True: "yes", False: "no"}.get(part, part)
            )
            yield f"{indent}{name}: {said}"
