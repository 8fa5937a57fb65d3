"""Nothing private: paths are shortened on the way out, and what is left of a machine or a person is seen by
verify."""

import os
import re
import socket
from pathlib import Path

START = r"(?:file://|(?<![\w./<\[~]))"  # where no address and no tag goes on
ABSOLUTE = re.compile(START + r"(?:~|\.\.)?/[\w.@+~-][\w./@+~-]*")  # from the root, the home or above
DEEP = re.compile(START + r"~?/[\w.@+-]+/[\w./@+-]*\w")
PRIVATE = re.compile(
    r"(hub_.*|push_to_hub|trackio_.*|run_name|logging_dir|allow_upload|allow_list|local_rank)$"
)


def scrub(value):
    """The same JSON value with paths that start at the current folder, or only the name of what lies outside
    it, and without where it ran."""
    if isinstance(value, dict):
        return {scrub(key): scrub(part) for key, part in value.items() if not PRIVATE.match(key)}
    if isinstance(value, list):
        return [scrub(part) for part in value]
    return ABSOLUTE.sub(lambda match: inside(match[0]), value) if isinstance(value, str) else value


def inside(path):
    relative = os.path.relpath(os.path.expanduser(path.removeprefix("file://")))
    return Path(relative).name if relative.startswith("..") else relative


def leaks(text):
    """What of this machine or person a text gives away, or None."""
    if found := DEEP.search(text):
        return f"the path {found[0]}"
    host, user = socket.gethostname(), Path(os.path.expanduser("~")).name
    if re.search(r"[\d.-]", host) and re.search(rf"(?<![\w.-]){re.escape(host)}(?![\w-])", text):
        return "the name of this machine"
    return "a person's account" if re.search(rf"(?<!\w){re.escape(user)}@", text) else None
