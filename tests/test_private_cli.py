"""The commands of `deepreduce private`, run as a user runs them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from deepreduce.cli import FAILED, MISTAKE, run_command
from deepreduce.cost.link import LINKS
from deepreduce.outputs import private_file
from deepreduce.private.processes import choose_ports
from deepreduce.private.result import price_of_run
from tests.private.small import all_end, needs_engine, parties_left, saved_network
from tests.runs_for_tests import command, plain_environment

pytestmark = needs_engine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_network(tmp_path_factory.mktemp("run"))


@pytest.mark.slow
def test_run_prints_the_whole_result_and_writes_the_layers(folder: Path, tmp_path: Path) -> None:
    done = command(
        "private", "run", folder, "--protocol", "semi2k", "--link", "lan", "--images", "2", "--repeats", "2",
        "--csv", "layers.csv", "--json", cwd=tmp_path, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["agreement"]["same_argmax"] == found["agreement"]["images"] == len(found["logits"]) == 2
    assert found["protocol"]["label"] == "semi2k (trusted dealer: a cost reference)"
    assert found["link"] == "lan" and found["links"]["lan"]["computed"] and not found["links"]["loopback"]["computed"]
    assert len((tmp_path / "layers.csv").read_text().splitlines()) == 1 + len(found["layers"])
    # and it is kept with the network, for the plots and tables of its run
    assert json.loads(private_file(folder, "semi2k").read_text())["layers"] == found["layers"]
    price = price_of_run(found, LINKS["lan"])
    assert price.latency == pytest.approx(found["links"]["lan"]["seconds"], rel=0.02)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--protocol", "semi3k"], "unknown protocol 'semi3k'; did you mean 'semi2k'"),
        (["--link", "van"], "unknown link 'van'; did you mean"),
        (["--ports", "x"], "--ports is 'x'; give whole numbers"),
        (["--images", "100000"], "100,000 images are asked for; digits has"),
        (["--ports", "9001"], "1 ports are given for 2 parties"),
    ],
)
def test_a_mistake_is_one_line(folder: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["private", "run", str(folder), *words]) == MISTAKE
    printed = capsys.readouterr()
    assert printed.out == "" and said in printed.err and len(printed.err.splitlines()) == 1


@contextmanager
def server(folder: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """A standing server that listens already."""
    with subprocess.Popen(
        [Path(sys.executable).with_name("deepreduce"), "private", "serve", folder, "--port", str(port),
         "--protocol", "semi2k", "--timeout", "60"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=plain_environment(),
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            assert f"127.0.0.1:{port}" in process.stdout.readline()
            yield process
        finally:
            process.kill()


def client(port: int, *words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return command("private", "query", "--connect", f"127.0.0.1:{port}", *words, cwd=cwd, timeout=300)


@pytest.mark.slow
def test_a_server_answers_one_client_after_another_until_ctrl_c(folder: Path, tmp_path: Path) -> None:
    from deepreduce import load_reduced
    from deepreduce.data import load_source
    from tests.private.small import DIGITS

    (port,) = choose_ports(1, None)
    digits = load_source("digits").test
    pixels = digits.images[3].numpy()  # (1, 8, 8)
    assert pixels.shape == DIGITS
    np.save(tmp_path / "image.npy", pixels)
    with server(folder, port) as process:
        first = client(port, "--image", "image.npy", "--image", "3", "--json", cwd=tmp_path)
        assert (first.returncode, first.stderr) == (0, "")
        by_file, by_number = json.loads(first.stdout)["replies"]
        np.testing.assert_allclose(by_file["logits"], by_number["logits"], atol=0.01)
        expected = load_reduced(folder, raw_pixels=True)(digits.images[3][None]).detach().numpy()[0]
        np.testing.assert_allclose(by_file["logits"], expected, atol=0.01)

        # one that is killed in the middle of it all does not hurt the next
        doomed = subprocess.Popen(
            [Path(sys.executable).with_name("deepreduce"), "private", "query", "--connect", f"127.0.0.1:{port}",
             *(word for _ in range(500) for word in ("--image", "3"))],
            cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=plain_environment(),
        )  # fmt: skip
        assert doomed.stdout is not None
        doomed.stdout.readline(), doomed.stdout.readline()
        left = [int(pid) for pid in parties_left(doomed.pid)]
        doomed.kill()
        doomed.communicate()
        assert left and all_end(left, seconds=10)
        again = client(port, "--image", "3", cwd=tmp_path)
        assert again.returncode == 0 and "class" in again.stdout
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130 and errors.splitlines()[-1] == "deepreduce: interrupted"
    assert not parties_left(process.pid)


def test_nobody_at_the_address_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    (port,) = choose_ports(1, None)
    assert run_command(["private", "query", "--connect", f"127.0.0.1:{port}", "--image", "3"]) == FAILED
    assert "no server answers at" in capsys.readouterr().err
    assert run_command(["private", "query", "--connect", "nowhere", "--image", "3"]) == MISTAKE
    assert "give HOST:PORT" in capsys.readouterr().err


def test_a_port_in_use_is_the_users_mistake(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert run_command(["private", "serve", str(folder), "--port", str(taken.getsockname()[1])]) == MISTAKE
    said = capsys.readouterr().err
    assert "can't be used" in said and "--port" in said


def test_a_protocol_of_three_parties_is_not_served(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (port,) = choose_ports(1, None)
    assert run_command(["private", "serve", str(folder), "--port", str(port), "--protocol", "aby3"]) == MISTAKE
    assert "serve and query are two" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_during_a_run_leaves_no_party(folder: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [Path(sys.executable).with_name("deepreduce"), "private", "run", folder, "--protocol", "semi2k",
         "--repeats", "100000"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=plain_environment(),
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while len(pids := parties_left(process.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(pids) == 2
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors.splitlines()[-1] == "deepreduce: interrupted"
    assert all_end([int(pid) for pid in pids], seconds=5)
