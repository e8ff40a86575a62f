"""A Python that has torch, transformers and our programs imported already, for scripts in tests.

Six seconds of imports a command are most of what a short script of our programs takes. A server
imports them once; `python -m MODULE ...` through the client runs the module in a fork of it, with
the arguments, folder, environment and streams of the caller, and ends with its status. A program
that starts `sys.executable -m ...` gets the client too.

    python warm_python.py SOCKET MODULE...      # the server
    WARM_PYTHON=SOCKET client -m MODULE ...     # the client, as `write_client` writes it
"""

from __future__ import annotations

import array
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import warnings
from pathlib import Path

_CLIENT = """#!{python} -IS
import array, json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
call = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
streams = array.array("i", [0, 1, 2])
server.sendmsg([len(call).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
server.sendall(call)
sys.exit(int(server.recv(8) or 70))
"""


def write_client(path: Path, address: Path) -> None:
    """Write the executable that stands in for Python."""
    path.write_text(_CLIENT.format(python=sys.executable, address=str(address)))
    path.chmod(0o755)


def serve(address: str, client: str, modules: list[str]) -> None:
    """Import, then answer calls until the process is ended."""
    for name in modules:
        importlib.import_module(name)
    # A worker of a cache would be an interpreter of its own.
    from tests.in_this_process import InThisProcess

    importlib.import_module("hyperasr.cohorts.cache").WorkerPool = InThisProcess
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children tell the caller themselves
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    print("ready", flush=True)
    while True:
        caller, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _answer(caller, client)
        caller.close()


def _answer(caller: socket.socket, client: str) -> None:
    """Run one call in this process, which is the fork, tell the caller its status, and end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    streams = array.array("i")
    size, ancillary, *_ = caller.recvmsg(8, socket.CMSG_SPACE(3 * streams.itemsize))
    streams.frombytes(ancillary[0][2])
    call = b""
    while len(call) < int.from_bytes(size, "big"):
        call += caller.recv(1 << 16)
    (flag, module, *arguments), folder, environment = json.loads(call)
    assert flag == "-m", "only python -m MODULE is served"
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.executable, sys.argv = client, [module, *arguments]
    warnings.filterwarnings("ignore", message=".*found in sys.modules.*", category=RuntimeWarning)
    status = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    caller.sendall(str(status).encode())
    os._exit(0)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], sys.argv[3:])
