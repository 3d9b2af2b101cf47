"""Signals are requests: the first is noted, the second interrupts, and afterwards all is as before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from deepreduce.utils.stop import StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_the_second_interrupts(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
            signal.pause()
    assert signal.getsignal(number) == before


def test_handlers_come_back_after_an_error_too() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), StopRequest():
        _ = 1 / 0
    assert signal.getsignal(signal.SIGINT) == before


def test_outside_the_main_thread_nothing_is_noted_and_nothing_breaks() -> None:
    answers: list[bool] = []

    def use() -> None:
        with StopRequest() as stop:
            answers.append(stop())

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert answers == [False]


SCRIPT = """
import sys, time
from deepreduce.utils.stop import StopRequest
with StopRequest() as stop:
    print("ready", flush=True)
    while not stop():
        time.sleep(0.01)
    print("saved", flush=True)
"""


def test_ctrl_c_lets_a_process_save() -> None:
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "saved\n"
    assert process.returncode == 0
