"""Stand between a parent and one server, so that the server never outlives the parent. Run as a script, by path.

`python -I -S _guard.py DIRECTORY COMMAND...` runs COMMAND with its output in DIRECTORY/log, prints its process id, and
then obeys lines on its standard input: a signal's name is sent to the server, `quit` ends it. When the input closes
without `quit`, or this process gets another parent, the parent is gone: the server is ended and DIRECTORY removed.

A process of its own, since the alternatives are unsound: `preexec_fn` may deadlock in a program with threads, and
Linux's PR_SET_PDEATHSIG fires when the *thread* that started the child ends, not the process (prctl(2)). Being the
server's parent, this process also sends signals without the risk of hitting a process id that was given away again.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

GRACE = 3.0
"""Seconds from SIGTERM to SIGKILL."""


def end(server: subprocess.Popen[bytes]) -> None:
    """End the server: politely, then not. A stopped process is continued first, since it could not hear SIGTERM."""
    server.send_signal(signal.SIGCONT)
    server.terminate()
    try:
        server.wait(GRACE)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def obey(server: subprocess.Popen[bytes]) -> bool:
    """Forward signals until `quit` (True) or until the parent is gone (False).

    Standard output is closed when the server ends, which tells the parent.
    """
    parent = os.getppid()
    ended, at_end = os.pipe()
    threading.Thread(target=lambda: (server.wait(), os.write(at_end, b"x")), daemon=True).start()
    watched = [0, ended]
    pending = b""
    while os.getppid() == parent:  # a fork of the parent may hold the pipe open after its death
        ready, _, _ = select.select(watched, [], [], 1.0)
        if ended in ready:
            watched.remove(ended)
            os.close(1)
        if 0 in ready:
            read = os.read(0, 4096)
            *lines, pending = (pending + read).split(b"\n")
            if b"quit" in lines:
                return True
            if not read:
                return False
            for line in lines:
                server.send_signal(signal.Signals[line.decode()])
    return False


def main() -> None:
    directory, *command = sys.argv[1:]
    with Path(directory, "log").open("wb") as log:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    os.write(1, b"%d\n" % server.pid)
    asked = obey(server)
    end(server)
    if not asked:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends us
    main()
    os._exit(0)  # standard output may be closed, which the interpreter's own way out would complain of
