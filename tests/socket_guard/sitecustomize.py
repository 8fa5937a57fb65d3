"""Ends every Python process at its first connection, or look-up of a name, beyond this machine:

    make demo PYTHONPATH=.:tests/socket_guard

Python imports a module of this name when it starts. It knows nothing of data_prep/egress.py, which it checks.
"""

import os
import socket
import sys

HERE = {"localhost", "127.0.0.1", "::1", "0.0.0.0", "::", "", None, socket.gethostname()}


def watch(event, args):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"):
        host = args[0][0] if isinstance(args[0], tuple) else args[0]
    elif (
        event in ("socket.connect", "socket.sendto", "socket.sendmsg")
        and args[0].family in (socket.AF_INET, socket.AF_INET6)
        and args[1]
    ):
        host = args[1][0]
    else:
        return
    if (host.decode(errors="replace") if isinstance(host, bytes) else host) not in HERE:
        said = f"\nsocket guard: {event} to {host!r} by {sys.argv}\n"
        os.write(2, said.encode())
        if log := os.environ.get("SOCKET_GUARD_LOG"):  # a parent may pass over how its child ended
            with open(log, "a") as file:
                file.write(said)
        os._exit(97)


sys.addaudithook(watch)
