"""A child process for tests: does what single bytes on its channel ask for."""

from __future__ import annotations

import os
import signal
import sys
import time

from deepreduce.utils.child_process import connect_to_parent


def main() -> None:
    channel = connect_to_parent()
    while word := channel.recv(1):
        if word == b"e":
            channel.sendall(b"e")
        elif word == b"p":
            print("printed", os.environ.get("SAID"), flush=True)
            channel.sendall(b"p")
        elif word == b"x":
            sys.exit(3)
        elif word == b"a":
            signal.raise_signal(signal.SIGABRT)
        elif word == b"s":
            time.sleep(600)


if __name__ == "__main__":
    main()
