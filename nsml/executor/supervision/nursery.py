"""A small process that forks a supervisor for each session, in a millisecond and without starting Python."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import traceback

from nsml.executor.supervision import cgroups, mounts, session
from nsml.executor.supervision.processes import identity


def serve(fd: int) -> None:
    """Answer requests `{"n": number, "folder": path}` on the socket *fd* until its other end is closed.

    The answer `{"n", "pid", "start"}` comes from the supervisor itself, once it holds its folder's pid file;
    without a `pid` somebody holds it already.
    """
    server = socket.socket(fileno=fd)
    tools = session.Tools(cgroups.find(), mounts.can_bind())
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended supervisors need nobody to wait for them
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # a stop before a supervisor listens must wait
    gc.collect()
    gc.freeze()  # what is loaded stays shared between all supervisors
    while True:
        request = server.recv(1 << 16)
        if not request:
            return
        if os.fork() == 0:
            _supervise(json.loads(request), server, tools)


def _supervise(request: dict[str, object], server: socket.socket, tools: session.Tools) -> None:
    """A supervisor's whole life; never returns."""
    folder = str(request["folder"])
    try:
        os.setsid()
        mine = _hold(folder)
        answer = dict(n=request["n"], **(identity(os.getpid()) if mine else {}))
        with contextlib.suppress(OSError):  # whoever asked is gone; the session is started all the same
            server.send(json.dumps(answer).encode())
        server.close()
        if mine:
            session.supervise(folder, tools)
    except BaseException:
        with open(os.path.join(folder, "supervisor.err"), "a") as file:
            traceback.print_exc(file=file)
        os._exit(1)
    os._exit(0)


def _hold(folder: str) -> bool:
    """Become the one supervisor of *folder*: its pid file is made once and never changed."""
    mine = os.path.join(folder, f".pid.{os.getpid()}")
    with open(mine, "w") as file:
        json.dump(identity(os.getpid()), file)
    try:
        os.link(mine, os.path.join(folder, "pid"))
    except FileExistsError:
        return False
    finally:
        os.unlink(mine)
    return True
