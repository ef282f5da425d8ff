"""Python loads this at its start when the folder is on PYTHONPATH: no connection may leave this machine.

Every attempt is written to the file named by COURSE_OFFLINE_RECORD and refused, in the server and in its kernels.
"""

import os
import sys

HERE = ("127.", "::1", "localhost", "0.0.0.0", "::")


def _only_this_machine(event, args):
    if event not in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        return
    address = args[0] if event.startswith("socket.get") else args[1]
    if isinstance(address, tuple):
        address = address[0]
    elif event in ("socket.connect", "socket.sendto"):
        return  # a socket in the file system
    name = address.decode() if isinstance(address, bytes) else str(address or "localhost")
    if name.startswith(HERE):
        return
    with open(os.environ["COURSE_OFFLINE_RECORD"], "a") as record:
        record.write(f"{event} {name}\n")
    raise OSError(f"the tests keep this process off the network: {name}")


if os.environ.get("COURSE_OFFLINE_RECORD"):
    sys.addaudithook(_only_this_machine)
