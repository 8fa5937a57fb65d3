"""Fetch public files from their publishers into the folders that the readers expect.

    python -m data_prep.fetch pubmedqa medqa medmcqa pubmed:2 pmc_oa:1 --raw data/raw
    python -m data_prep.fetch all --dry_run

Reads   data_prep/catalogue.yaml: address, size, license, access class and checksum of each set
Writes  RAW/<set>/...: a file takes its name only when it is whole and right; a cut download resumes where it
        stopped

NAME:n fetches the first n files of a set that has many (pmc_oa: n thousand papers), NAME all of them; `all`
takes one file of each. Gated and credentialed sets, and those whose publisher has no direct address, are not
fetched: the page, what it asks for and the folder are printed.
"""

import argparse
import fnmatch
import gzip
import hashlib
import io
import json
import shutil
import urllib.parse
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Annotated

import httpx2
import pydantic
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import http_get
from lxml import etree

from data_prep.files import LONGEST_XML, one_sentence, read_yaml, sha256
from data_prep.schema import Access, BadInput
from data_prep.sources.xml_text import SAFE

CATALOGUE = Path(__file__).with_name("catalogue.yaml")
PLAIN = {"Accept-Encoding": "identity"}  # a range of a file, not of its compressed form
BROKEN = (EOFError, OSError, ValueError, zlib.error, zipfile.BadZipFile)


# ---------------------------------------------------------------- the catalogue
class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")


class Member(Strict):
    """What is unpacked of an archive: members that match a pattern, into a folder, or one member as a
    file."""

    member: str
    path: str
    lines: int | None = None
    flat: bool = False


class File(Strict):
    path: str
    url: str
    seen: str
    size: int | None = None
    sha256: Annotated[str, pydantic.Field(pattern="^[0-9a-f]{64}$")] | None = None
    md5_url: str | None = None
    lines: int | None = None
    unpack: list[Member] = []


class Entry(Strict):
    license: str
    access: Access
    page: str
    count: int = 1
    listing: str | None = None
    files: list[File] = []
    get: str | None = None

    @pydantic.model_validator(mode="after")
    def _complete(self):
        if bool(self.files) == bool(self.get):
            raise ValueError("needs 'files', or 'get', which says how to come by the data")
        if self.files and self.access != "public":
            raise ValueError("only public files are fetched")
        return self


def read_catalogue(path: Path = CATALOGUE) -> dict[str, Entry]:
    """{name: entry}. BadInput names the entry and the key that is wrong."""
    try:
        return pydantic.TypeAdapter(dict[str, Entry]).validate_python(read_yaml(path))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def choose(wanted: list[str], catalogue: dict[str, Entry]) -> list[tuple[str, int]]:
    """(name, number of files) of the arguments NAME[:n]; "all" is every set that can be fetched, one file of
    those of many."""
    if wanted == ["all"]:
        return [(name, 1) for name, entry in catalogue.items() if entry.files]
    chosen = []
    for text in wanted:
        name, colon, number = text.partition(":")
        if name not in catalogue:
            raise BadInput(f"'{name}' is not in the catalogue. Known: {', '.join(catalogue)}")
        most = catalogue[name].count
        if colon and not (number.isdecimal() and 1 <= int(number) <= most):
            raise BadInput(f"'{text}': {name} has {most:,} files. Next: {name}:1 to {name}:{most}")
        chosen.append((name, int(number) if colon else most))
    return chosen


# ---------------------------------------------------------------- one file
def get(url: str, path: Path, size: int | None = None) -> Path:
    """Download `url` to a temporary file beside `path`, from where an earlier attempt stopped, and return
    it."""
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with partial.open("ab") as stream:
            done = stream.tell()
            if done:
                print(f"{path}: resumes at {done:,} bytes", flush=True)
            http_get(
                url, stream, resume_size=done, headers=PLAIN, expected_size=size, displayed_filename=path.name
            )
    except HfHubHTTPError as error:
        code = error.response.status_code
        if code == 416:  # nothing is left to send
            return partial
        raise BadInput(
            f"{url}: the server answers {code}. Next: the page of the set, its address may be new"
        ) from error
    except (OSError, httpx2.HTTPError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BadInput(f"{url}: cut off ({reason}). Next: the same command, it resumes") from error
    return partial


def small(url: str) -> bytes:
    """The content of an address, of at most LONGEST_XML bytes."""
    content = io.BytesIO()
    try:
        http_get(url, content, headers=PLAIN, displayed_filename=url.rpartition("/")[2])
    except (HfHubHTTPError, OSError, httpx2.HTTPError) as error:
        raise BadInput(
            f"{url}: cannot be read ({str(error).splitlines()[0]}). Next: the same command later"
        ) from error
    return content.getvalue()[:LONGEST_XML]


def check(path: Path, name: str, file: File) -> str | None:
    """What is wrong with a downloaded file, or None. `name` is its final name, which says its format."""
    if file.size is not None and path.stat().st_size != file.size:
        return f"has {path.stat().st_size:,} bytes, must have {file.size:,}"
    if file.sha256 and sha256(path) != file.sha256:
        return f"has the sha256 {sha256(path)}, must have {file.sha256}"
    if file.md5_url:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "md5").hexdigest()
        if digest not in small(file.md5_url).decode(errors="replace").lower():
            return f"has the md5 {digest}, which {file.md5_url} does not name"
    try:
        return _format_error(path, name, file.lines)
    except BROKEN as error:
        return (
            "is not a whole file of its kind "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        )


def _format_error(path: Path, name: str, lines: int | None) -> str | None:
    with path.open("rb") as stream:
        start = stream.read(64).lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "is a web page, not the data"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git-LFS pointer, not the data"
    if name.endswith(".gz"):
        with gzip.open(path) as stream:
            while stream.read(1 << 20):
                pass
    elif name.endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            if (bad := archive.testzip()) is not None:
                return f"is damaged at {bad}"
    elif name.endswith(".json"):
        json.loads(path.read_bytes())
    elif name.endswith(".parquet") and path.read_bytes()[-4:] != b"PAR1":
        return "is not whole Parquet"
    if lines is not None:
        with path.open("rb") as stream:
            found = sum(1 for line in stream if line.strip())
        if found != lines:
            return f"has {found:,} lines, must have {lines:,}"
    return None


def unpack(archive: Path, raw: Path, members: list[Member]) -> None:
    """Write the members of a .zip; a file that is there already is left as it is."""
    with zipfile.ZipFile(archive) as stream:
        for wanted in members:
            many = "*" in wanted.member
            found = [
                name
                for name in stream.namelist()
                if fnmatch.fnmatchcase(name, wanted.member) and name[-1] != "/"
            ]
            if not found:
                raise BadInput(
                    f"{archive}: no member {wanted.member}. Next: look into it, and unpack it by hand"
                )
            for name in found:
                inside = PurePosixPath(name)
                if inside.is_absolute() or ".." in inside.parts:
                    raise BadInput(f"{archive}: member '{name}' leads out of the folder")
                target = raw / wanted.path
                if many:
                    target = target / (inside.name if wanted.flat else inside)
                if target.exists():
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                partial = target.with_name(f".{target.name}.partial")
                with stream.open(name) as source, partial.open("wb") as out:
                    shutil.copyfileobj(source, out)
                if wrong := _format_error(partial, target.name, wanted.lines):
                    raise BadInput(f"{archive}: {name} {wrong}. Next: the page of the set")
                partial.replace(target)


def fetch_file(file: File, raw: Path) -> None:
    path = raw / file.path
    if not path.exists():
        partial = get(file.url, path, file.size)
        if wrong := check(partial, path.name, file):
            aside = path.with_name(f"{path.name}.wrong")
            partial.replace(aside)
            raise BadInput(
                f"{file.url}: {wrong}. It is kept as {aside}. Next: the page of the set, the file may be new"
            )
        partial.replace(path)
        print(f"{path}: {path.stat().st_size:,} bytes", flush=True)
    elif wrong := check(path, path.name, file):
        raise BadInput(f"{path}: is there already, and {wrong}. Next: move it elsewhere, and fetch again")
    else:
        print(f"{path}: is there already", flush=True)
    if file.unpack:
        unpack(path, raw, file.unpack)


# ---------------------------------------------------------------- a set
def expand(entry: Entry, n: int):
    """The files of the first `n` of a set, each with its own path and address."""
    if entry.listing:
        for key in _listed(entry.listing, n):
            yield from (_filled(file, key=key) for file in entry.files)
    elif entry.count > 1:
        for number in range(1, n + 1):
            yield from (_filled(file, n=number) for file in entry.files)
    else:
        yield from entry.files


def _filled(file: File, **values) -> File:
    changed = {name: getattr(file, name) for name in ("path", "url", "md5_url")}
    return file.model_copy(update={name: text.format(**values) for name, text in changed.items() if text})


def _listed(url: str, pages: int):
    """The folders of an S3 listing, page after page."""
    after = ""
    for _ in range(pages):
        root = etree.fromstring(small(url + after), etree.XMLParser(**SAFE))
        yield from (element.text.rstrip("/") for element in root.iterfind("{*}CommonPrefixes/{*}Prefix"))
        token = root.findtext("{*}NextContinuationToken")
        if not token:
            return
        after = f"&continuation-token={urllib.parse.quote(token, safe='')}"


def fetch(wanted: list[str], raw: Path, catalogue: Path = CATALOGUE, dry_run: bool = False) -> None:
    """Fetch the sets; BadInput at the end names those that failed."""
    entries, failed = read_catalogue(catalogue), []
    chosen = choose(wanted, entries)
    for name, n in chosen:
        entry = entries[name]
        print(f"{name}: {entry.license}, {entry.access}, {entry.page}", flush=True)
        if entry.get:
            print(f"{name}: not fetched: {entry.get} (below {raw})", flush=True)
            continue
        if dry_run:
            for file in entry.files if entry.listing else expand(entry, n):
                size = f"{file.size:,} bytes" if file.size else "size not known"
                print(f"    {file.url} -> {raw / file.path} ({size}; {file.seen})", flush=True)
            continue
        try:
            for file in expand(entry, n):
                fetch_file(file, raw)
        except BadInput as error:
            print(f"{name}: {error}", flush=True)
            failed.append(f"{name}: {error}")
    if failed:
        raise BadInput(f"{len(failed)} of {len(chosen)} sets not fetched: {'; '.join(failed)}")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="+", metavar="NAME[:n]", help="sets of data_prep/catalogue.yaml, or all"
    )
    parser.add_argument(
        "--raw", type=Path, default=Path("data/raw"), help="folder to write; default data/raw"
    )
    parser.add_argument("--catalogue", type=Path, default=CATALOGUE)
    parser.add_argument("--dry_run", action="store_true", help="print what would be fetched, and from where")
    return parser


def main(argv=None) -> None:
    args = make_parser().parse_args(argv)
    with one_sentence():
        fetch(args.names, args.raw, args.catalogue, args.dry_run)


if __name__ == "__main__":
    main()
