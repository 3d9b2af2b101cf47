"""Begin a child process: python child_main.py MODULE DESCRIPTOR PATH, started by `deepreduce.utils.child_process`.

PATH is the parent's import path, as JSON. From its first moment, long before what MODULE imports has been loaded, the
process ends when its parent does. Everything is imported in functions, after this file's own folder has left the
import path: it holds an html.py that is not Python's.
"""


def main() -> None:
    """Take over the parent's import path, begin to watch the channel, and run MODULE."""
    import sys

    if not getattr(sys.flags, "safe_path", False):  # Python below 3.11, which has no -P
        del sys.path[0]
    import json
    import runpy

    module, descriptor, path = sys.argv[1:]
    die_with_parent(int(descriptor))
    sys.path[:] = json.loads(path)
    sys.argv[1:] = [descriptor]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def die_with_parent(descriptor: int) -> None:
    """Kill this process when the other end of the channel closes, even if unread data is left in it.

    A thread waits for that. It can't act while an import holds Python's lock, as loading a large library does for
    seconds; until `connect_to_parent`, Linux therefore kills this process when the parent ends.
    """
    import threading

    follow_thread(signal_number=9)
    if has_closed(descriptor, wait=False):  # the parent ended before Linux was asked
        kill_this_process()
    threading.Thread(target=_watch, args=(descriptor,), daemon=True).start()


def follow_thread(*, signal_number: int) -> None:
    """Have Linux send this process a signal when the thread that started it ends; 0: no signal any more."""
    import sys

    if sys.platform != "linux":
        return
    import ctypes

    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0)


def has_closed(descriptor: int, *, wait: bool) -> bool:
    """Return whether the other end of the channel is closed; `wait` until it is."""
    import select

    poll = select.poll()
    poll.register(descriptor, select.POLLHUP | getattr(select, "POLLRDHUP", 0))  # Linux has a separate event
    return bool(poll.poll(None if wait else 0))


def kill_this_process() -> None:
    """End this process at once, whatever its threads are doing."""
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def _watch(descriptor: int) -> None:
    has_closed(descriptor, wait=True)
    kill_this_process()


if __name__ == "__main__":
    main()
