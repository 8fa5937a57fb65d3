"""Ends every Python process at its first connection, or look-up of a name, beyond this machine:

    make demo PYTHONPATH=.:tests/socket_guard

Python imports a module of this name when it starts. It knows nothing of data_prep/site_guard.py, which it checks.
"""

import os
import socket
import sys

HERE = {"localhost", "127.0.0.1", "::1", "0.0.0.0", "::", "", None, socket.gethostname()}


def watch(event, args):
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = args[0]
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg") and args[0].family in (socket.AF_INET, socket.AF_INET6) and args[1]:
        host = args[1][0]
    else:
        return
    if (host.decode(errors="replace") if isinstance(host, bytes) else host) not in HERE:
        os.write(2, f"\nsocket guard: {event} to {host!r} by {sys.argv}\n".encode())
        os._exit(97)


sys.addaudithook(watch)
