"""Credentialed text does not leave the machine that reads it.

A recipe that is copied takes this file along; data_prep/egress.py is a link to it. Two walls are raised
before the first credentialed row is read:

namespace   `isolate`, called first in a command, moves the process into a network namespace that holds a
            loopback and nothing else. The kernel enforces it for this process and all that it starts: native
            code, programs, fresh interpreters, the ranks of a run on one node.
hook        `block_egress` installs an audit hook that refuses each connection, listener and name look-up
            beyond this machine that Python is about to make, here and in forked processes. It is the only
            wall where the kernel forbids namespaces, a run spans nodes, a server outside has to be reached,
            or an allow list opens a host. It does not see native network code (NCCL, gloo, Arrow), other
            programs or fresh interpreters: for those, use a machine without a route out.

Neither stops what a local daemon passes on (a relay on the loopback, a Unix socket), RDMA or virtual-machine
sockets of native code, or a person who edits this file. `wall()` says which one is up: run.json, manifests
and reports do.

From then on files are created for their owner alone, and an unexpected error is printed without its message,
which may quote a record.

The one way out is an entry of an allow list, a YAML file; every output made under it records the entry:

    - endpoint: https://llm.hospital.example/v1      the host that may be reached
      agreement: Processor contract 2026-117         what permits it
      person: A. Example, data steward               who answers for it
      date: 2026-11-01                               since when
"""

import contextlib
import ctypes
import datetime
import fcntl
import gzip
import hashlib
import inspect
import ipaddress
import json
import logging
import os
import re
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
import traceback
import unicodedata
import warnings
import zlib
from pathlib import Path
from urllib.parse import urlsplit

import pydantic
import yaml

ACCESS = ("public", "gated", "credentialed")  # loosest first
LOOKUPS = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo")
EVENTS = ("socket.__new__", "socket.bind", "socket.connect", "socket.sendto", "socket.sendmsg", *LOOKUPS)
INTERNET = (socket.AF_INET, socket.AF_INET6)
LOCAL_FAMILIES = [getattr(socket, name, None) for name in ("AF_UNIX", "AF_NETLINK", "AF_ALG")]
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
HOSTNAME = socket.gethostname()

_blocked = None  # {"agreements", "error", "hosts", "addresses"} once this process may hold credentialed text
_hooked = False


# ---------------------------------------------------------------- the allow list
class AllowedEndpoint(pydantic.BaseModel, extra="forbid"):
    endpoint: str = pydantic.Field(pattern=r"\S")
    agreement: str = pydantic.Field(pattern=r"\S")
    person: str = pydantic.Field(pattern=r"\S")
    date: datetime.date

    @pydantic.field_validator("endpoint")
    @classmethod
    def _names_a_host(cls, endpoint):
        if not host_of(endpoint):
            raise ValueError(f"'{endpoint}' names no host")
        return endpoint

    @pydantic.field_validator("date")
    @classmethod
    def _not_in_the_future(cls, date):
        if date > datetime.date.today():
            raise ValueError("must not be in the future")
        return date


def load_allow_list(path, error):
    """[{"endpoint", "agreement", "person", "date"}] of a YAML file, [] without one. Raises `error`, a type,
    for an incomplete entry."""
    if not path:
        return []
    try:
        entries = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as problem:
        raise error(
            f"{path}: {problem.strerror}. Next: write an allow list; egress.py shows its form"
        ) from None
    except (
        yaml.YAMLError,
        ValueError,
    ) as problem:  # ValueError: bytes that are not UTF-8, a date such as 2026-99-01
        raise error(f"{path}: not YAML ({' '.join(str(problem).split())}). Next: correct it") from None
    if not isinstance(entries, list):
        raise error(f"{path}: must be a list of entries. Next: see the form in egress.py")
    allowed = []
    for number, entry in enumerate(entries, 1):
        try:
            allowed.append(AllowedEndpoint.model_validate(entry).model_dump(mode="json"))
        except pydantic.ValidationError as problem:
            found = problem.errors()[0]
            key = ".".join(map(str, found["loc"])) or "entry"
            reason = found["msg"].removeprefix("Value error, ")
            raise error(f"{path}: entry {number}: {key}: {reason}. Next: see the form in egress.py") from None
    return allowed


def require_allowed(endpoint, allow_list, agreements, error):
    """None if `endpoint` is on this machine, else the entry of the allow list that opens its host; raises
    `error` without one."""
    host = host_of(endpoint)
    if is_loopback(host):
        return None
    for entry in allow_list:
        if host_of(entry["endpoint"]) == host:
            return entry
    raise error(_refusal(host, agreements))


def host_of(endpoint):
    try:
        return (urlsplit(endpoint if "//" in endpoint else f"//{endpoint}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def is_loopback(host):
    """Whether a name or address is this machine's loopback, or the unspecified address, which connects
    there."""
    address = _address(host)
    return host in ("localhost", "ip6-localhost") or bool(
        address and (address.is_loopback or address.is_unspecified)
    )


def _address(host):
    """The address that a text spells (::ffff:127.0.0.1 is 127.0.0.1), None for a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


# ---------------------------------------------------------------- the hook
def block_egress(agreements, error, allow_list=()):
    """From now on Python code in this process reaches this machine and the hosts of `allow_list` only.

    agreements: what the credentialed text was given out under. Agreements and hosts of several calls add up.
    error: the type that is raised instead of connecting elsewhere.
    """
    global _blocked, _hooked
    if _blocked and not allow_list and set(agreements) <= _blocked["agreements"]:
        return
    before = _blocked or {"agreements": set(), "hosts": set(), "addresses": set()}
    hosts = before["hosts"] | {host_of(entry["endpoint"]) for entry in allow_list}
    _blocked = {
        **before,
        "agreements": before["agreements"] | set(agreements),
        "hosts": hosts,
        "error": error,
    }
    if not _hooked:
        sys.addaudithook(_audit)
        _hooked = True
    _redact_errors()
    os.umask(0o077)
    for name in [name for name in os.environ if name.lower() in PROXIES]:
        if host_of(os.environ[name]) not in hosts:
            del os.environ[name]
    offline = host_of(os.environ.get("HF_ENDPOINT", "huggingface.co")) not in hosts
    switches = {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": str(int(offline))}
    os.environ.update(switches)
    # huggingface_hub read the environment when it was imported
    if constants := sys.modules.get("huggingface_hub.constants"):
        constants.HF_HUB_DISABLE_TELEMETRY, constants.HF_HUB_OFFLINE = True, offline
    _shut_down_connections()


def agreements():
    """The agreements of the credentialed text in this process, [] without any. Where there are some, print no
    text."""
    return sorted(_blocked["agreements"]) if _blocked else []


def _audit(event, args):
    if _blocked is None or event not in EVENTS:
        return
    if event == "socket.__new__":  # raw packets, virtual-machine sockets, buses
        family = args[1]
        if family not in LOCAL_FAMILIES and family not in INTERNET and family != -1:
            raise _blocked["error"](_refusal(f"address family {int(family)}", _blocked["agreements"]))
        return
    lookup = event in LOOKUPS
    target = args[0] if lookup else args[1]
    if not lookup and (target is None or args[0].family not in INTERNET):
        return  # a connection that was checked when opened; a family that ends here
    host = target[0] if isinstance(target, tuple) and target else target
    host = bytes(host).decode(errors="replace") if isinstance(host, bytes | bytearray) else host
    if event == "socket.bind":  # 0.0.0.0 would accept other machines, unless there are none
        if wall() != "namespace" and not _accepts_this_machine_only(host):
            raise _blocked["error"](
                f"a process with credentialed text does not listen on {host or 'every address'}: other "
                "machines could connect. Next: bind to 127.0.0.1"
            )
        return
    if not host or is_loopback(host) or host in _blocked["hosts"] or (lookup and host == HOSTNAME):
        return
    if not lookup:  # an address of an allowed name? It may resolve to others each time
        _blocked["addresses"] |= _addresses(_blocked["hosts"])
        if host in _blocked["addresses"]:
            return
    raise _blocked["error"](_refusal(host, _blocked["agreements"]))


def _addresses(hosts):
    found = set()
    for host in hosts:
        with contextlib.suppress(OSError):  # a name that is not known here
            found |= {address[4][0] for address in socket.getaddrinfo(host, None)}
    return found


def _accepts_this_machine_only(host):
    address = _address(host)
    return host in ("localhost", "ip6-localhost") or bool(address and address.is_loopback)


def _shut_down_connections():
    """End connections to other machines that are open already, and listeners that others could reach."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 or not os.path.isdir("/proc/self/fd"):
        return  # the ranks' own connections look the same
    allowed = _addresses(_blocked["hosts"])
    for name in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as copy:
                if copy.family not in INTERNET:
                    continue
                near = copy.getsockname()[0]
                if copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    keep = _accepts_this_machine_only(near)
                else:
                    far = copy.getpeername()[0]
                    keep = is_loopback(far) or far == near or far in allowed
                if not keep:
                    copy.shutdown(socket.SHUT_RDWR)
        except OSError:  # closed meanwhile, or not connected
            continue


REMOTE = re.compile(r"(^|::)(?!file:|local:|https?:)[a-z][a-z0-9+.-]*://")  # a file system of fsspec
FOLDERS = re.compile(
    r"(_DIR|_HOME|_CACHE|_PATH|_ROOT|_URI|_LOCATION|DIRECTORY)$"
)  # variables that move files
LOGS = ("TENSORBOARD_LOGGING_DIR", "TRACKIO_DIR", "WANDB_DIR")


def require_local_files(access, arguments, folder, error):
    """Raise `error` where a setting or variable would write files of a run that is not public to another
    machine, or logs of a credentialed one outside `folder`. arguments: {key: value} of the run."""
    if access == "public":
        return
    for name, value in [*arguments.items(), *((name, os.environ[name]) for name in sorted(os.environ))]:
        values = value if isinstance(value, list | tuple) else [value]
        moves = name in arguments or FOLDERS.search(name)
        if moves and any(isinstance(text, str) and REMOTE.search(text) for text in values):
            raise error(
                f"{name} is a remote file system, and the run is {access}. Next: a local folder, or unset it"
            )
    inside = Path(folder).resolve()
    for name in LOGS if access == "credentialed" else ():
        if os.environ.get(name) and not Path(os.environ[name]).resolve().is_relative_to(inside):
            raise error(
                f"{name} is outside {folder}, where the logs of a credentialed run belong. Next: unset {name}"
            )


def _refusal(host, agreements):
    terms = ", ".join(sorted(agreements)) or "unknown"
    return (
        f"credentialed text is not sent to {host}: its terms ({terms}) do not let third parties have it. "
        "Next: do it on this machine (a local model, or its server at 127.0.0.1; report_to tensorboard), "
        f"or allow_list FILE with an entry for {host}"
    )


# ---------------------------------------------------------------- the namespace
NEW_USER, NEW_NET = 0x10000000, 0x40000000  # CLONE_NEWUSER, CLONE_NEWNET of <sched.h>
FORWARDED = [
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCHLD,
]
RECORDS = ("manifest.json", "run.json", "complete.json", "access.json", "config.json", "source.yaml")


def isolate(arguments, error, network=None, readers=None):
    """Raise both walls if a path in `arguments`, a command line or a list of paths, is credentialed. Returns
    `wall()`.

    Call it first in a command. It forks: the kernel asks for a single thread, and imports have started
    others. The child returns from here; the parent only passes on signals and the exit status. The YAML files
    among the arguments are searched for paths too.

    network: why the command has to reach beyond a namespace (a server); then the hook is the only wall.
    readers: {name: module with ACCESS and LICENSE} of raw files, which have no manifest; those named in the
    arguments count, or all of them where they say "all".
    """
    access, terms = access_of(arguments)
    words = {word for value in values_in(arguments) for word in re.findall(r"\w+", value)} if readers else ()
    for name, reader in (readers or {}).items():
        if getattr(reader, "ACCESS", None) == "credentialed" and ("all" in words or name in words):
            access, terms = "credentialed", [*terms, reader.LICENSE]
    if access != "credentialed":
        return "open"
    block_egress(terms, error)
    if wall() == "namespace":
        return "namespace"
    ranks, on_node = (int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if ranks != on_node:
        network = network or "the run spans several nodes"
    if any(value.startswith(("slurm:", "ray:")) for value in map(str, arguments)):
        network = network or "the executor starts work on other machines"
    if "allow_list" in _keys(arguments):
        network = network or "an allow list is given"
    if "judge_url" in _keys(arguments):
        network = network or "a judge is asked"
    if os.environ.get("EGRESS") == "hook":
        network = network or "EGRESS=hook is set"
    try:
        if network:
            raise OSError(network)
        _enter_namespace(on_node)
    except OSError as problem:
        reason = network or f"the kernel forbids it: {problem.strerror or problem}"
        if os.environ.get("RANK", "0") == "0":
            print(
                f"egress: no network namespace ({reason}); only Python's own connections are blocked",
                file=sys.stderr,
            )
    return wall()


def wall():
    """What keeps this process from the network: "namespace", "hook", or "open" where nothing does."""
    if _blocked is None:
        return "open"
    mine = os.environ.get("EGRESS_NAMESPACE")
    return "namespace" if mine and mine == _namespace_id() and _only_loopback() else "hook"


def manifest_sha256(path):
    """sha256 of a manifest without the line that names its wall: the same data rebuilt under another is the
    same."""
    content = Path(path).read_bytes()
    return hashlib.sha256(re.sub(rb'^ "egress": .*\n', b"", content, flags=re.MULTILINE)).hexdigest()


def access_of(arguments):
    """(strictest access class, agreements) that these arguments, their records and first rows state."""
    access, terms = _stated(record for path in _paths(arguments) for record in _records(path))
    if any(value in ("credentialed", "access=credentialed") for value in map(str, arguments)):
        access = "credentialed"  # said on the command line
    return access, terms


def access_beside(path):
    """The strictest access class that a file or folder, the records beside it and its first row state."""
    return _stated(_records(Path(path)))[0]


def stricter(record, access):
    """The class that a row or document states, or that of the model that wrote it, if stricter than
    `access`."""
    given = [record[key] for key in ("access", "model_access") if record.get(key) in ACCESS]
    strictest = max([access, *given], key=lambda name: ACCESS.index(name) if name in ACCESS else -1)
    return strictest if strictest != access else None


def _stated(records):
    access, terms = "public", set()
    for record in records:
        for entry in [record, *(entry for entry in record.get("inputs") or () if isinstance(entry, dict))]:
            access = stricter(entry, access) or access
            if entry.get("access") == "credentialed" and isinstance(entry.get("license"), str):
                terms.add(entry["license"])
        terms.update(map(str, record.get("agreements") or ()))
    return access, sorted(terms)


def _paths(arguments):
    parts = (part for value in values_in(arguments) for part in (value, value.partition("=")[2]))
    found = {Path(part) for part in parts if part}
    return sorted(path for path in found if len(str(path)) < 4096 and os.path.exists(path))


def values_in(arguments):
    """Each string of a command line, and of the YAML files that it names."""
    for value in map(str, arguments):
        value = value.partition("=")[2] if value.startswith("--") and "=" in value else value
        yield value
        if value.endswith((".yaml", ".yml")):
            yield from _strings(_load_yaml(value))


def _keys(arguments):
    names = {str(value).lstrip("-").partition("=")[0] for value in arguments if str(value).startswith("--")}
    for value in map(str, arguments):
        loaded = _load_yaml(value) if value.endswith((".yaml", ".yml")) else None
        names |= {str(key) for key, given in loaded.items() if given} if isinstance(loaded, dict) else set()
    return names


def _load_yaml(path):
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):  # its reader will say so
        return None


def _strings(value):
    waiting, seen = [value], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict | list) and id(value) not in seen:  # aliases of YAML may repeat or nest
            seen.add(id(value))
            waiting += [*value, *value.values()] if isinstance(value, dict) else value


def _records(path):
    """What states the class of a file or folder: manifests and the like, in it and one level below, and first
    rows."""
    if path.is_dir():
        files = [file for pattern in ("", "*/") for name in RECORDS for file in path.glob(pattern + name)]
        rows = ("*.jsonl", "*/*.jsonl", "*.jsonl.gz", "*/*.jsonl.gz")
        files += [file for pattern in rows for file in path.glob(pattern)]
    else:
        files = [path, *(file for name in RECORDS if (file := path.with_name(name)).is_file())]
    for file in files:
        try:
            if file.suffix in (".yaml", ".yml"):
                record = _load_yaml(file)
            elif file.suffix == ".json":
                record = json.loads(file.read_text(encoding="utf-8"))
            elif file.name.endswith((".jsonl", ".jsonl.gz")):
                with (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="utf-8") as lines:
                    record = json.loads(lines.readline())
            else:
                continue
        except (OSError, EOFError, zlib.error, ValueError, RecursionError):  # its reader will say so
            continue
        if isinstance(record, dict):
            yield record


def _enter_namespace(ranks):
    """Fork into a user and network namespace, which the ranks of a node share. Returns in the child, or
    OSError."""
    if not sys.platform.startswith("linux"):
        raise OSError("there are none on this system")
    meeting = None
    if ranks > 1:  # siblings under one launcher meet at a file
        launch = (
            os.getuid(),
            os.getppid(),
            *map(os.environ.get, ("MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")),
        )
        meeting = Path(tempfile.gettempdir(), f"egress-{'-'.join(map(str, launch))}")
    leads = int(os.environ.get("LOCAL_RANK", 0)) == 0
    ours, theirs = socket.socketpair()
    sys.stdout.flush()
    sys.stderr.flush()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # Python 3.12 warns of a fork beside threads: here it is the way out of them
        child = os.fork()

    if child == 0:
        ours.close()
        try:
            _create_namespace(theirs, meeting) if leads else _join_namespace(meeting)
            _libc("prctl", 1, signal.SIGKILL)  # PR_SET_PDEATHSIG: the child does not outlive its parent
        except OSError as problem:
            theirs.sendall(f"no: {problem.strerror or problem}".encode())
            os._exit(1)
        theirs.sendall(b"inside")
        theirs.close()
        os.environ |= {
            "EGRESS_NAMESPACE": _namespace_id(),
            "GLOO_SOCKET_IFNAME": "lo",
            "NCCL_SOCKET_IFNAME": "lo",
        }
        if ranks > 1:  # the launcher's store is outside: rank 0 opens one
            os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "False", "MASTER_ADDR": "127.0.0.1"}
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return

    theirs.close()
    try:
        answer = ours.recv(1000)
        if answer == b"map me":  # a child that maps itself could map one user only
            for name in ("uid_map", "gid_map"):
                _map_identity(child, name)
            ours.sendall(b"mapped")
            answer = ours.recv(1000)
    except OSError as problem:
        answer = f"no: {problem.strerror}".encode()
        os.kill(child, signal.SIGKILL)
    if answer == b"inside":
        remove = str(meeting) if leads and meeting else None
        program = f"{inspect.getsource(_supervise)}\n_supervise({child}, {remove!r})"
        os.execv(
            sys.executable, [sys.executable, "-I", "-S", "-c", program]
        )  # alone: its threads would take signals
    os.waitpid(child, 0)
    ours.close()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if leads and meeting:
        _announce(meeting, "no")
    raise OSError(answer.decode().removeprefix("no: ") or "the process that tried it was killed")


def _create_namespace(parent, meeting):
    _libc("unshare", NEW_USER | NEW_NET)
    parent.sendall(b"map me")
    if parent.recv(1000) != b"mapped":
        raise OSError("the user could not be mapped")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(
            any_socket, 0x8914, struct.pack("16sh22x", b"lo", 0x41)
        )  # SIOCSIFFLAGS: IFF_UP | IFF_RUNNING
    if meeting:
        _announce(meeting, str(os.getpid()))


def _announce(meeting, text):
    partial = Path(f"{meeting}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(text)
    partial.rename(meeting)


def _join_namespace(meeting, patience=300):
    """Enter the namespace that local rank 0 announces; it may still be importing."""
    until = time.monotonic() + patience
    while not (meeting.is_file() and meeting.stat().st_uid == os.getuid()):
        if time.monotonic() > until:
            raise OSError(f"local rank 0 has not announced one within {patience} s")
        time.sleep(0.05)
    leader = meeting.read_text(encoding="utf-8")
    if not leader.isdecimal():
        raise OSError("local rank 0 could not create one")
    for kind, flag in (("user", NEW_USER), ("net", NEW_NET)):
        with open(f"/proc/{leader}/ns/{kind}") as namespace:
            _libc("setns", namespace.fileno(), flag)


def _map_identity(child, name):
    """Give the child's namespace the users or groups of this one, unchanged: all if this process may, else
    its own."""
    ranges = Path(f"/proc/self/{name}").read_text(encoding="utf-8").split()
    whole = "".join(
        f"{start} {start} {count}\n" for start, count in zip(ranges[::3], ranges[2::3], strict=True)
    )
    own = os.geteuid() if name == "uid_map" else os.getegid()
    try:
        Path(f"/proc/{child}/{name}").write_text(whole, encoding="utf-8")
    except PermissionError:
        if name == "gid_map":
            Path(f"/proc/{child}/setgroups").write_text("deny", encoding="utf-8")
        Path(f"/proc/{child}/{name}").write_text(f"{own} {own} 1", encoding="utf-8")


def _libc(function, *arguments):
    if getattr(ctypes.CDLL(None, use_errno=True), function)(*arguments):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _supervise(child, remove):
    """Pass signals on to the child and end as it ends. It runs alone, from its source."""
    import os
    import signal

    signals = [
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGQUIT,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGCHLD,
    ]
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        got = signal.sigwaitinfo(signals)
        if (
            got.si_signo != signal.SIGCHLD and got.si_code <= 0
        ):  # positive: the terminal, which has signalled the child as well
            os.kill(child, got.si_signo)
    if remove and os.path.exists(remove):
        os.unlink(remove)
    if os.WIFSIGNALED(status):
        if os.WTERMSIG(status) != signal.SIGKILL:
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.waitstatus_to_exitcode(status))


def _namespace_id():
    return os.readlink("/proc/self/ns/net")


def _only_loopback():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            flags = fcntl.ioctl(any_socket, 0x8913, struct.pack("16s24x", name.encode()))  # SIOCGIFFLAGS
            if name != "lo" and struct.unpack_from("h", flags, 16)[0] & 1:  # IFF_UP
                return False
    return True


# ---------------------------------------------------------------- what errors say
LEFT_OUT = "(its message may quote a credentialed record, and is left out)"
# How messages of torch begin that speak of devices, memory and shapes
MACHINE = re.compile(
    r"(CUDA (error|out of memory)|NCCL|Gloo|DefaultCPUAllocator|\[enforce fail at |mat1 and mat2 |"
    r"The (expanded )?size of (the )?tensor|Expected all tensors|expected scalar type|shape '\[)"
)
ABOUT_CODE = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ImportWarning, ResourceWarning)


def safe_message(error):
    """What may be printed of an exception where credentialed text may be in its message: what speaks of
    program or machine."""
    if _blocked and isinstance(error, (_blocked["error"], MemoryError, KeyboardInterrupt)):
        return str(error)
    if isinstance(error, OSError) and error.errno:  # a name is printed if it is a file's
        known = isinstance(error.filename, str | os.PathLike) and len(str(error.filename)) < 4096
        name = f": '{error.filename}'" if known and os.path.lexists(error.filename) else ""
        return f"[Errno {error.errno}] {os.strerror(error.errno)}{name}"
    if isinstance(error, ImportError) and error.name and re.fullmatch(r"[\w.]+", error.name):
        return f"cannot import from {error.name}"
    if isinstance(error, AttributeError | NameError) and error.name in _names_in_code(error.__traceback__):
        return f"'{error.name}'"
    if isinstance(error, RuntimeError) and MACHINE.match(str(error)):
        return str(error)
    return LEFT_OUT


def shown(error):
    """The message of an exception, or what may be printed of it once this process may hold credentialed
    text."""
    return safe_message(error) if _blocked else str(error)


def _names_in_code(trace):
    frames = [frame for frame, _ in traceback.walk_tb(trace)]
    return (*frames[-1].f_code.co_names, *frames[-1].f_code.co_varnames) if frames else ()


def printable(text, longest=200):
    """Text of a server as one line without control characters, which could rewrite a terminal's title or
    screen."""
    kept = "".join(letter if unicodedata.category(letter)[0] != "C" else " " for letter in str(text))
    return " ".join(kept.split())[:longest]


class _WithoutText(traceback.TracebackException):
    """What each traceback is printed through: sys.excepthook, threads, forked processes, logging, asyncio."""

    def __init__(self, kind, error, *arguments, **options):
        super().__init__(kind, error, *arguments, **options)
        self.said = safe_message(error) if _blocked else None

    def format_exception_only(self, **options):
        if self.said is None:
            yield from super().format_exception_only(**options)
        else:
            yield f"{self.exc_type.__name__}: {self.said}\n"


def _redact_errors():
    """Make each way to print an exception leave its message out; again after a library has replaced one of
    them."""
    traceback.TracebackException = _WithoutText
    sys.excepthook = _print_error
    threading.excepthook = lambda raised: _print_error(*raised[:3])
    sys.unraisablehook = lambda raised: _print_error(*raised[:3])
    warnings.showwarning = _show_warning
    if logging.getLogRecordFactory() is not _log_record:
        logging.setLogRecordFactory(_log_record)
    if loguru := sys.modules.get("loguru"):  # datatrove logs with it
        loguru.logger.configure(patcher=_patch_loguru)


def _print_error(kind, error, trace):
    traceback.print_exception(kind, error, trace)


def _show_warning(message, category, filename, lineno, file=None, line=None):
    said = message if not _blocked or issubclass(category, ABOUT_CODE) else LEFT_OUT
    print(f"{filename}:{lineno}: {category.__name__}: {said}", file=file or sys.stderr)


def _log_record(*arguments, **options):
    record = logging.LogRecord(*arguments, **options)
    if _blocked:
        raised = [record.exc_info[1]] if record.exc_info else [sys.exc_info()[1]]
        given = record.args if isinstance(record.args, tuple) else ()
        raised += [value for value in given if isinstance(value, BaseException)]
        if any(raised):
            record.msg, record.args = _without_messages(record.getMessage(), raised), ()
    return record


def _patch_loguru(record):
    if _blocked and (record["exception"] or sys.exc_info()[1]):
        error = record["exception"].value if record["exception"] else sys.exc_info()[1]
        record["message"] = _without_messages(record["message"], [error])
        if record["exception"]:
            record["message"] += "\n" + "".join(traceback.format_exception(error))
            record["exception"] = None


def _without_messages(text, errors):
    """`text` without what these exceptions, and those behind them, say."""
    for error in errors:
        seen = set()
        while error is not None and id(error) not in seen:
            seen.add(id(error))
            for said in (repr(error), str(error), *(repr(part)[1:-1] for part in error.args)):
                if said and said != safe_message(error):
                    text = text.replace(said, f"{type(error).__name__} {LEFT_OUT}")
            error = error.__cause__ or error.__context__
    return text
