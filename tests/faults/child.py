"""Forked processes that can be held, traced and killed. A fork has torch already, which a new process needs seconds to import.

The process that forks must be a script's own and must not have computed anything on several threads yet.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

CRASHED = 70
LET_ANYONE_TRACE = (0x59616D61, ctypes.c_ulong(-1))  # PR_SET_PTRACER, PR_SET_PTRACER_ANY: some systems forbid it to siblings
STRACE = shutil.which("strace")
NO_STRACE = "strace is not installed (Debian: apt-get install strace)"


class Child:
    """A fork that waits for `go` and then does some work, whose result is its exit code; what it prints goes into `said`, if given."""

    def __init__(self, work: Callable[[], int], said: Path | None = None) -> None:
        self.said = said
        self.gate, inner = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = CRASHED
            try:
                self.gate.close()
                ctypes.CDLL(None).prctl(*LET_ANYONE_TRACE)
                if said is not None:
                    output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
                    os.dup2(output, 1)
                    os.dup2(output, 2)
                inner.send(b"?")
                if inner.recv(1):
                    code = work()
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        inner.close()
        self.gate.recv(1)

    def go(self) -> None:
        """Open the gate."""
        self.gate.send(b"!")

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def over(self) -> bool:
        """Whether it has ended."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def wait(self) -> int:
        """Its exit code, or minus the signal that ended it."""
        _, status = os.waitpid(self.pid, 0)
        self.gate.close()
        return os.waitstatus_to_exitcode(status)


class Tracer:
    """strace, holding a running process and all its threads; what it sees goes into `log`."""

    def __init__(self, pid: int, *rules: str, log: Path | None = None) -> None:
        command = [STRACE or "strace", "-f", "-o", str(log or os.devnull), "-e", "signal=none", "-p", str(pid)]
        command += [word for rule in rules for word in ("-e", rule)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        first = self.process.stderr.readline()
        assert "attached" in first, f"strace could not take hold of a process: {first}"

    def end(self) -> None:
        """Wait until the process has gone."""
        self.process.communicate()

    def let_go(self) -> None:
        """Leave the process to itself."""
        self.process.send_signal(signal.SIGINT)
        self.process.communicate()


def traced(work: Callable[[], int], *rules: str, log: Path | None = None, said: Path | None = None) -> int:
    """Do some work in a process of its own under strace's rules; returns as Child.wait does."""
    child = Child(work, said)
    tracer = Tracer(child.pid, *rules, log=log)
    child.go()
    code = child.wait()
    tracer.end()
    return code


def calls_of(work: Callable[[], int], names: str, log: Path) -> Counter[str]:
    """How often some work, undisturbed, makes each of the named system calls."""
    code = traced(work, f"trace={names}", log=log)
    assert code == 0, f"the undisturbed work ended with {code}"
    return Counter(re.findall(r"^\d+ +(\w+)\(", log.read_text(), re.MULTILINE))
