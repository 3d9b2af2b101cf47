"""A child process has a channel to its parent, is left alone by the terminal, and never outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepreduce.utils.child_process import ChildProcess
from tests.helpers import REPOSITORY
from tests.helpers.processes import all_end, children_running

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

CHILD = "tests.helpers.child"


@pytest.fixture
def child() -> Iterator[ChildProcess]:
    started = ChildProcess(CHILD)
    yield started
    started.end()
    assert not children_running(CHILD)


def ask(child: ChildProcess, word: bytes) -> bytes:
    child.channel.sendall(word)
    return child.channel.recv(1)


def test_a_child_answers_and_the_terminals_signals_do_not_reach_it(child: ChildProcess) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # before it has done anything
        os.kill(child.pid, number)
    assert ask(child, b"e") == b"e"
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()  # they still reach this process
    assert not child.was_killed


@pytest.mark.parametrize(("word", "end"), [(b"x", "exited with code 3"), (b"a", "was ended by SIGABRT")])
def test_the_end_of_a_child_is_described(child: ChildProcess, word: bytes, end: str) -> None:
    assert ask(child, word) == b""
    assert child.describe_end() == end and not child.was_killed


def test_a_child_that_is_killed_or_hangs_is_described(child: ChildProcess) -> None:
    assert child.describe_end(within_s=0.01) == "hangs"
    os.kill(child.pid, signal.SIGKILL)
    assert child.describe_end() == "was killed by SIGKILL" and child.was_killed


def test_a_child_imports_what_its_parent_can_and_nothing_of_its_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules, here = tmp_path / "modules", tmp_path / "here"
    for folder in (modules, here):
        folder.mkdir()
    program = "import fractions\nfrom deepreduce.utils.child_process import connect_to_parent\n"
    (modules / "only_there.py").write_text(program + "connect_to_parent().sendall(b'!')")
    (here / "fractions.py").write_text("raise SystemExit('of the working directory')")
    monkeypatch.syspath_prepend(modules)
    monkeypatch.chdir(here)
    child = ChildProcess("only_there")
    try:
        assert child.channel.recv(1) == b"!"
    finally:
        child.end()


@pytest.mark.parametrize("safe", [True, False])
def test_the_folder_of_the_starting_script_is_not_imported_from(
    safe: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not safe:  # as in Python 3.10, which has no -P
        monkeypatch.setattr(sys, "version_info", (3, 10))
    program = "import html\nfrom deepreduce.utils.child_process import connect_to_parent\n"
    (tmp_path / "reads_html.py").write_text(program + "connect_to_parent().sendall(html.escape('<')[1:2].encode())")
    monkeypatch.syspath_prepend(tmp_path)
    child = ChildProcess("reads_html")  # deepreduce/utils has an html.py too
    try:
        assert child.channel.recv(1) == b"l"
    finally:
        child.end()


def test_the_environment_of_a_child_keeps_the_users_import_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "import os\nfrom deepreduce.utils.child_process import connect_to_parent\n"
    (tmp_path / "reads_path.py").write_text(program + "connect_to_parent().sendall(os.environb[b'PYTHONPATH'])")
    monkeypatch.setenv("PYTHONPATH", "/of/the/user")
    monkeypatch.syspath_prepend(tmp_path)  # which a program that the child starts must not inherit
    child = ChildProcess("reads_path")
    try:
        assert child.channel.recv(99) == b"/of/the/user"
    finally:
        child.end()


def test_a_child_outlives_the_thread_that_started_it() -> None:
    children: list[ChildProcess] = []

    def start() -> None:
        children.append(ChildProcess(CHILD))
        assert ask(children[0], b"e") == b"e"

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    time.sleep(0.05)
    assert ask(children[0], b"e") == b"e"
    children[0].end()


def test_output_and_environment_are_the_childs_own(tmp_path: Path) -> None:
    with open(tmp_path / "output.txt", "wb") as output:
        child = ChildProcess(CHILD, environment={"SAID": "aloud"}, output=output)
    try:
        assert ask(child, b"p") == b"p"
    finally:
        child.end()
    assert (tmp_path / "output.txt").read_text() == "printed aloud\n"
    assert "SAID" not in os.environ


def test_a_launcher_turns_into_the_child() -> None:
    child = ChildProcess(CHILD, launcher=["nice", "-n", "1"])
    try:
        assert ask(child, b"e") == b"e" and os.getpriority(os.PRIO_PROCESS, child.pid) > 0
    finally:
        child.end()


def test_a_launcher_that_is_not_there_leaves_nothing_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError, match="no-such-launcher"):
        ChildProcess(CHILD, launcher=["no-such-launcher"])
    assert len(os.listdir("/proc/self/fd")) == before
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


PARENT = """
import sys, time
from deepreduce.utils.child_process import ChildProcess
children = [ChildProcess("tests.helpers.child") for _ in range(3)]
for child in children:
    child.channel.sendall(b"e")
    child.channel.recv(1)
children[1].channel.sendall(b"s")     # one at work,
children[2].channel.sendall(b"see")   # and one with words that it has not read
print(*(child.pid for child in children), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_no_child_outlives_its_parent_however_that_ends(end: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    ) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 3
        begin = time.monotonic()
        parent.send_signal(end)
    assert all_end(pids, seconds=10) and time.monotonic() - begin < 10


def test_a_child_that_is_still_importing_dies_with_its_parent() -> None:
    start = (
        "from deepreduce.utils.child_process import ChildProcess as C; c = C('tests.helpers.slow_import'); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", start], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
        assert all_end([pid], seconds=2)
