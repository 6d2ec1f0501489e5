"""A supervisor's work: start the program, take its output, hold it to its limits, leave nothing behind."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shlex
import signal
import time
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from nsml.executor.supervision import mounts
from nsml.executor.supervision.capture import ERR, FULL, OUT, ROOM_EVERY, Capture
from nsml.executor.supervision.cgroups import Group
from nsml.executor.supervision.ending import kill_all
from nsml.executor.supervision.limits import Watch, confine

READ = 1 << 20
TIME_GRACE = 5.0  # seconds between SIGTERM and SIGKILL for a session over its time
PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG = 36, 1
libc = ctypes.CDLL(None, use_errno=True)


class Tools(NamedTuple):
    """What this machine allows: where control groups can be made, and whether mounts can."""

    controllers: Dict[str, str]
    binds: bool


def supervise(folder: str, tools: Tools) -> None:
    """Run what `folder/run.json` asks for; at the end `folder/exit.json` says how it went."""
    with open(os.path.join(folder, "run.json")) as file:
        spec = json.load(file)
    Supervisor(folder, spec, tools).run()


class Supervisor:
    """One session from its start to the last of its processes."""

    def __init__(self, folder: str, spec: Dict[str, Any], tools: Tools) -> None:
        self.folder = folder
        self.spec = spec
        self.limits = spec["limits"]
        self.binds = tools.binds
        self.group = Group(tools.controllers, spec["group"])
        self.capture = Capture(folder, int(self.limits["log"]))
        self.watch = Watch(folder, self.limits, self.group)
        self.pid = os.getpid()
        self.main = 0
        self.status: Optional[int] = None
        self.cause, self.reason = "", ""
        self.kill_at: Optional[float] = None
        self.began = self.ended = 0.0

    def run(self) -> None:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.signals = _listen()
        self._read_stop()
        if not self.cause:
            self.group.make(
                int(self.limits["memory"]), int(self.limits["processes"]), float(self.limits["cpus"])
            )
            self._start()
            self._attend()
            self._end()
        self._report()
        self.group.remove()

    # -- start ---------------------------------------------------------------------------------------
    def _start(self) -> None:
        for mount in self.spec["mounts"]:
            if self.binds:
                mounts.prepare(mount["source"], mount["target"])
            else:
                mounts.stand_in(mount["source"], mount["target"], os.geteuid() == 0)
        out, out_w = os.pipe()
        err, err_w = os.pipe()
        trouble, trouble_w = os.pipe()
        self.began = time.monotonic()
        self.main = os.fork()
        if self.main == 0:
            self._become(out_w, err_w, trouble_w)
        for fd in (out_w, err_w, trouble_w):
            os.close(fd)
        self.pipes = {out: OUT, err: ERR}
        self.poller = select.poll()
        for fd in (*self.pipes, self.signals):
            os.set_blocking(fd, False)
            self.poller.register(fd, select.POLLIN)
        self._read_trouble(trouble)

    def _read_trouble(self, fd: int) -> None:
        """Why the program could not be started; nothing once it was."""
        with open(fd, "rb") as file:
            words = file.read().decode(errors="replace")
        if words:
            self.reason = words
            self.capture.say(f"[nsml: {words}]")

    def _become(self, out: int, err: int, trouble: int) -> None:
        """In the child: turn into the session's program; never returns."""
        argv: List[str] = self.spec["argv"]
        try:
            os.setsid()
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != self.pid:
                os._exit(1)  # the supervisor was killed before that held
            self.group.enter()
            if self.binds and self.spec["mounts"]:
                mounts.private_namespace()
                for mount in self.spec["mounts"]:
                    mounts.bind(mount["source"], mount["target"])
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(out, 1)
            os.dup2(err, 2)
            with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
                file.write("500")  # should the machine itself run out of memory: sessions before the platform
            os.chdir(self.spec["cwd"])
            confine(self.limits, count=not self.group.pids)
            _forget_signals()
            os.execvpe(argv[0], argv, dict(self.spec["env"]))
        except BaseException as error:
            os.write(trouble, f"{argv[0]} cannot be started: {error}".encode())
        os._exit(127)

    # -- while it runs ---------------------------------------------------------------------------------
    def _attend(self) -> None:
        """Until the program itself has ended."""
        look_at = self.began + self.watch.every
        flush_at: Optional[float] = None
        seconds = float(self.limits["seconds"])
        while self.status is None:
            deadlines = [at for at in (look_at, flush_at, self.kill_at) if at is not None]
            if seconds and not self.cause:
                deadlines.append(self.began + seconds)
            events = self.poller.poll(max(0.0, min(deadlines) - time.monotonic()) * 1000 + 1)
            heard = self._take(events)
            now = time.monotonic()
            if heard:
                flush_at = flush_at or now + 0.05
            if flush_at and now >= flush_at:
                self.capture.flush()
                flush_at = None
            if seconds and not self.cause and now >= self.began + seconds:
                self._ask_to_end("time", f"over its time limit of {seconds:g} s", TIME_GRACE)
            if now >= look_at:
                self._look()
                look_at = time.monotonic() + self.watch.every
            if self.kill_at is not None and now >= self.kill_at:
                return

    def _take(self, events: List[Tuple[int, int]]) -> bool:
        """Read what *events* announce; whether there was output."""
        heard = False
        for fd, _ in sorted(events, key=lambda event: self.pipes.get(event[0], -1)):
            if fd == self.signals:
                self._on_signal(os.read(fd, 4096))
            elif self._pump(fd):
                heard = True
        return heard

    def _pump(self, fd: int) -> bool:
        try:
            data = os.read(fd, READ)
        except BlockingIOError:
            return False
        if data:
            self.capture.feed(self.pipes[fd], data)
            return True
        self.poller.unregister(fd)
        del self.pipes[fd]
        os.close(fd)
        return False

    def _on_signal(self, numbers: bytes) -> None:
        if signal.SIGCHLD in numbers:
            self._reap()
        if signal.SIGTERM in numbers and self.status is None:
            self._read_stop()

    def _read_stop(self) -> None:
        """Somebody wants the session stopped: the file `stop` says with how much grace."""
        try:
            with open(os.path.join(self.folder, "stop")) as file:
                grace = float(file.read())
        except (OSError, ValueError):
            return
        self._ask_to_end("stopped", "stopped", grace)

    def _ask_to_end(self, cause: str, reason: str, grace: float) -> None:
        if not self.cause:
            self.cause, self.reason = cause, reason
        if self.main and grace > 0 and self.kill_at is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.main, signal.SIGTERM)
        at = time.monotonic() + grace
        self.kill_at = at if self.kill_at is None else min(at, self.kill_at)

    def _look(self) -> None:
        self._tell_of_children()
        found = self.watch.look()
        if found and not self.cause:
            self.cause, self.reason = found
        if found:
            self.kill_at = time.monotonic()

    def _tell_of_children(self) -> None:
        """Name what the kernel killed for its memory: the program may have gone on without it."""
        if self.watch.child_killed():
            self.capture.say(f"[nsml: a process was killed: {self.watch.out_of_memory()}]")

    def _reap(self) -> bool:
        """Collect ended children; whether any child is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.main:
                self.status, self.ended = status, time.monotonic()

    # -- end -------------------------------------------------------------------------------------------
    def _end(self) -> None:
        """Kill whatever is left, daemons too, until nothing is; then read the last of the output."""
        kill_all(self.group, self._reap)
        for fd in list(self.pipes):
            while self._pump(fd):
                pass

    def _report(self) -> None:
        """Say how it ended: last lines of the log, then `exit.json`."""
        code = None if self.status is None else _exit_code(self.status)
        self._find_cause(code)
        if self.cause != "oom":
            self._tell_of_children()
        line = f"Killed {shlex.join(self.spec['argv'])}" if code == 137 else ""
        if line and self.reason:
            line += f": {self.reason}"
        elif self.cause:
            line = f"[nsml: {self.reason}]"
        self.capture.finish([*([line] if line else []), "User session exited"])
        seconds = max(0.0, (self.ended or time.monotonic()) - self.began) if self.began else 0.0
        ended = {"code": code, "cause": self.cause, "reason": self.reason, "seconds": round(seconds, 6)}
        while not self._write(ended):
            time.sleep(ROOM_EVERY)

    def _write(self, ended: Dict[str, Any]) -> bool:
        """Write `exit.json`; not, when the disk is full."""
        temporary = os.path.join(self.folder, ".exit.json")
        try:
            with open(temporary, "w") as file:
                json.dump(ended, file)
        except OSError as error:
            if error.errno not in FULL:
                raise
            return False
        os.rename(temporary, os.path.join(self.folder, "exit.json"))
        return True

    def _find_cause(self, code: Optional[int]) -> None:
        """Name the cause where the exit code alone would not tell."""
        if self.cause or not code:
            return
        if code == 137:
            if self.group.killed_for_memory():
                self.cause, self.reason = "oom", self.watch.out_of_memory()
            else:
                self.cause, self.reason = "killed", "killed by signal 9"
        elif self.group.refused_forks():
            self.cause, self.reason = "processes", self.watch.too_many()
        elif code == 128 + signal.SIGXFSZ or self.watch.look_at_disk(share=0.98):
            self.cause, self.reason = "disk", self.watch.too_much()


def _exit_code(status: int) -> int:
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _listen() -> int:
    """From now on signals are bytes in a pipe; returns its reading end."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    return reading


def _forget_signals() -> None:
    """The session's program starts with every signal as usual."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
