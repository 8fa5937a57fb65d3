"""Text of access class credentialed stays on the machine that reads it.

This file lies in data_prep/ and in recipes/, byte for byte the same: a recipe that is copied takes it along.

`keep_inside` makes a process that holds such text one that opens no connection beyond this machine. An audit hook of Python sees every connection before
it is opened, whichever library asks for it, so that a redirect, a proxy, a tracker or the Hub's client is stopped as well. It sees what Python opens in this
process and in those forked from it: not the ranks of one run talking to each other (NCCL, gloo), nor native network code, nor a program or a fresh process
that a library starts (wandb's service, vLLM's engine), nor a relay on this machine that passes on what it is given. Trackers are refused by name; for the
rest, a machine without a route out is the second wall. What the process writes from then on is readable by its owner alone, and an error that nobody foresaw
is printed without its message, which may quote a record.

The one way out is an entry of an allow list, a YAML file, which every output made under it records:

    - endpoint: https://llm.hospital.example/v1      what may be reached: its host
      agreement: Processor contract 2026-117          what permits it
      person: A. Example, data steward                who answers for it
      date: 2026-11-01                                since when
"""

import datetime
import ipaddress
import os
import socket
import sys
import threading
import traceback
from pathlib import Path
from urllib.parse import urlsplit

import yaml

ENTRY = ("endpoint", "agreement", "person", "date")
NAMES = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo")
EVENTS = ("socket.connect", "socket.sendto", "socket.sendmsg", *NAMES)
OWN = {socket.gethostname()}
LOCAL = [
    getattr(socket, name, None) for name in ("AF_UNIX", "AF_NETLINK")
]  # families that end on this machine
# Errors that speak of program and machine, not of data
MESSAGES = (OSError, MemoryError, RuntimeError, ImportError, AttributeError, NameError, KeyboardInterrupt)
PROXIES = ("http_proxy", "https_proxy", "all_proxy")

_inside = None  # {"terms": set, "refuse": exception, "hosts": set, "addresses": set} once this process holds credentialed text
_hooked = False


def read_allow_list(path, refuse):
    """[{"endpoint", "agreement", "person", "date"}] of the file, [] without one. Raises `refuse` for an entry that lacks one of them."""
    if not path:
        return []
    if not Path(path).is_file():
        raise refuse(f"{path}: no such file. Next: write an allow list, egress.py shows its form")
    try:
        entries = yaml.safe_load(Path(path).read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise refuse(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise refuse(f"{path}: must be a list of entries. Next: see the form in egress.py")
    for number, entry in enumerate(entries, 1):
        texts = [entry.get(key) for key in ENTRY[:3]]
        if sorted(map(str, entry)) != sorted(ENTRY) or not all(
            isinstance(text, str) and text.strip() for text in texts
        ):
            raise refuse(
                f"{path}: entry {number} must have {', '.join(ENTRY)}, the first three as text, and nothing else"
            )
        if not isinstance(entry["date"], datetime.date) or str(entry["date"]) > str(datetime.date.today()):
            raise refuse(f"{path}: entry {number}: date must be a day that has come, as 2026-11-01")
        if not host_of(entry["endpoint"]):
            raise refuse(f"{path}: entry {number}: endpoint '{entry['endpoint']}' names no host")
    return [{key: str(entry[key]) for key in ENTRY} for entry in entries]


def permit(endpoint, allowed, terms, refuse):
    """None if `endpoint` is on this machine, else the entry of the allow list that opens it. Raises `refuse` where there is none, before a byte is sent.
    terms: the agreements under which the text was given out."""
    host = host_of(endpoint)
    if is_here(host):
        return None
    for entry in allowed:
        if host_of(entry["endpoint"]) == host:
            return entry
    raise refuse(_sentence(host, terms))


def keep_inside(terms, refuse, allowed=()):
    """From now on this process reaches this machine and the hosts of `allowed` only, and what it writes is its owner's. May be called again: agreements
    and hosts add up."""
    global _inside, _hooked
    if _inside and not allowed and set(terms) <= _inside["terms"]:
        return
    hosts = (_inside["hosts"] if _inside else set()) | {host_of(entry["endpoint"]) for entry in allowed}
    before = _inside or {"terms": set(), "addresses": set()}
    _inside = {
        "terms": set(terms) | before["terms"],
        "refuse": refuse,
        "hosts": hosts,
        "addresses": before["addresses"],
    }
    if not _hooked:
        sys.addaudithook(_watch)
        _hooked = True
    sys.excepthook, threading.excepthook = _without_text, lambda raised: _without_text(*raised[:3])
    os.umask(0o077)
    for name in [
        name for name in os.environ if name.lower() in PROXIES and host_of(os.environ[name]) not in hosts
    ]:
        del os.environ[name]
    offline = host_of(os.environ.get("HF_ENDPOINT", "huggingface.co")) not in hosts
    os.environ |= {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1" if offline else "0",
    }
    if constants := sys.modules.get(
        "huggingface_hub.constants"
    ):  # it read the environment when it was imported
        constants.HF_HUB_DISABLE_TELEMETRY, constants.HF_HUB_OFFLINE = True, offline


def held():
    """The agreements of the credentialed text that this process holds, [] if it holds none. What it prints then names ids, and no text."""
    return sorted(_inside["terms"]) if _inside else []


def host_of(endpoint):
    try:
        return (urlsplit(endpoint if "//" in endpoint else f"//{endpoint}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def is_here(host):
    """Whether a name or address is this machine's own loopback."""
    if host in ("localhost", "ip6-localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


def _watch(event, args):
    if _inside is None or event not in EVENTS:
        return
    asked = args[0] if event in NAMES else args[1]
    if event not in NAMES and (
        asked is None or args[0].family in LOCAL
    ):  # sent over a connection that was seen before; a socket file
        return
    internet = event in NAMES or args[0].family in (socket.AF_INET, socket.AF_INET6)
    host = asked[0] if isinstance(asked, tuple) and asked else asked
    host = bytes(host).decode(errors="replace") if isinstance(host, bytes | bytearray) else host
    if internet and (
        not host or is_here(host) or host in _inside["hosts"] or (event in NAMES and host in OWN)
    ):
        return
    if (
        internet and event not in NAMES
    ):  # an address: of an allowed name? A name may have others each time it is asked
        _inside["addresses"] |= {
            found[4][0] for name in _inside["hosts"] for found in socket.getaddrinfo(name, None)
        }
        if host in _inside["addresses"]:
            return
    raise _inside["refuse"](_sentence(host, _inside["terms"]))


def _sentence(host, terms):
    return (
        f"credentialed text is not sent to {host}: its terms ({', '.join(sorted(terms)) or 'unknown'}) do not let third parties have it. "
        f"Next: do it on this machine (a local model, or its server at 127.0.0.1; report_to tensorboard), or allow_list FILE with an entry for {host}"
    )


def _without_text(kind, error, trace):
    """In place of sys.excepthook: where an error that nobody foresaw was raised, and of what kind; its message only where it speaks of no data."""
    chain, told = [], (*MESSAGES, _inside["refuse"])
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    for error in reversed(chain):
        said = (
            str(error)
            if isinstance(error, told)
            else "(its message may quote a credentialed record, and is left out)"
        )
        print(
            *traceback.format_tb(error.__traceback__),
            f"{type(error).__name__}: {said}",
            sep="",
            file=sys.stderr,
        )
