"""The commands of `deepreduce private`, run as a user runs them."""

from __future__ import annotations

import dataclasses
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

from deepreduce.cli.main import run_command
from deepreduce.cli.outcome import FAILED, MISTAKE
from deepreduce.cost.link import LINKS
from deepreduce.private import querying
from deepreduce.private.handshake import port_message, wait_message
from deepreduce.private.parties import processes
from deepreduce.private.parties.link_tls import LinkTls
from deepreduce.private.parties.processes import choose_ports
from deepreduce.private.result import cost_of_run
from deepreduce.store.names import private_run
from tests.helpers.certificates import Authority
from tests.helpers.fake_parties import FakeParty
from tests.helpers.private_networks import needs_engine, parties_left, saved_network
from tests.helpers.private_servers import HELLO, scripted_server, server_info
from tests.helpers.processes import all_end
from tests.helpers.runs import command, plain_environment

pytestmark = needs_engine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_network(tmp_path_factory.mktemp("run"))


@pytest.mark.slow
def test_run_prints_the_whole_result_and_writes_the_layers(folder: Path, tmp_path: Path) -> None:
    done = command(
        "private", "run", folder, "--protocol", "semi2k", "--link", "lan", "--images", "2", "--repeats", "2",
        "--batch", "2", "--csv", "layers.csv", "--json", cwd=tmp_path, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["agreement"]["same_argmax"] == found["agreement"]["images"] == len(found["logits"]) == 2
    assert found["protocol"]["label"] == "semi2k (trusted dealer: a cost reference)"
    assert found["link"] == "lan" and found["links"]["lan"]["computed"] and not found["links"]["loopback"]["computed"]
    assert len((tmp_path / "layers.csv").read_text().splitlines()) == 1 + len(found["layers"])
    # and it is kept with the network, for the plots and tables of its run
    assert json.loads((folder / private_run("semi2k", 2)).read_text())["layers"] == found["layers"]
    assert not (folder / private_run("semi2k")).exists()  # a query of one image is another measurement
    cost = cost_of_run(found, LINKS["lan"])
    assert cost.latency == pytest.approx(found["links"]["lan"]["seconds"] / 2, rel=0.02)
    assert cost.bytes == pytest.approx(found["per_image"]["bytes"]) == found["bytes"] / 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--protocol", "semi3k"], "unknown protocol 'semi3k'; did you mean 'semi2k'"),
        (["--link", "van"], "unknown link 'van'; did you mean"),
        (["--ports", "x"], "--ports is 'x'; give whole numbers"),
        (["--images", "100000"], "100,000 images are asked for; digits has"),
        (["--ports", "9001"], "1 ports are given for 2 parties"),
        (["--ports", "9001,9001"], "port 9001 is given twice"),
        (["--ports", "9001,70000"], "port 70000 can't be used"),
        (["--ports", "9001,9002", "--protocol", "aby3"], "2 ports are given for 3 parties"),
        (["--images", "0"], "--images is 0; give 1 to 1,000,000"),
        (["--batch", "0"], "the batch is 0; give a whole number of images for each query, 1 to 256"),
        (["--batch", "257", "--images", "300"], "the batch is 257; give a whole number of images"),
        (["--batch", "2.5"], "--batch"),
        (["--batch", "4", "--images", "3"], "the batch is 4, and 3 images are given"),
        (["--repeats", "0"], "--repeats is 0; give 1 to 1,000,000"),
        (["--timeout", "-1"], "--timeout is -1; give seconds above 0, at most 86,400"),
        (["--timeout", "0"], "--timeout is 0; give seconds"),
        (["--timeout", "nan"], "--timeout is nan; give seconds"),
        (["--timeout", "inf"], "--timeout is inf; give seconds"),
        (["--csv", "nowhere/layers.csv"], "nowhere/layers.csv can't be written: No such file or directory"),
        (["--csv", "."], ". can't be written: Is a directory"),
    ],
)
def test_a_mistake_is_one_line(
    folder: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "PartyProcess", None)  # nothing starts
    is_one_line(["private", "run", str(folder), *words], said, capsys)


def is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(words) == MISTAKE
    printed = capsys.readouterr()
    assert printed.out == "" and said in printed.err and len(printed.err.splitlines()) == 1


def test_a_file_that_can_not_be_written_is_told_before_the_measurement(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import deepreduce.api
    import deepreduce.private.calibrate

    for module, name in ((deepreduce.api, "private_run"), (deepreduce.private.calibrate, "calibrate")):
        monkeypatch.setattr(module, name, None)
    (tmp_path / "file").touch()
    for path in (tmp_path / "no" / "layers.csv", tmp_path / "file" / "layers.csv", tmp_path):
        is_one_line(["private", "run", str(folder), "--csv", str(path)], f"{path} can't be written", capsys)
        is_one_line(["private", "calibrate", "--out", str(path)], f"{path} can't be written", capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--repeats", "0"], "--repeats is 0; give 1 to 1,000,000"),
        (["--timeout", "-1"], "--timeout is -1; give seconds"),
        (["--protocol", "cheeta"], "did you mean 'cheetah'"),
    ],
)
def test_a_mistake_in_calibrating_is_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    is_one_line(["private", "calibrate", *words], said, capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--protocol", "aby3"], "aby3 needs 3 parties, but serve and query are two"),
        (["--protocol", "semi3k"], "did you mean 'semi2k'"),
        (["--timeout", "nan"], "--timeout is nan; give seconds"),
        (["--idle", "0"], "--idle is 0; give seconds"),
        (["--batch", "0"], "the batch is 0; give a whole number of images"),
        (["--link", "van"], "unknown link 'van'"),
        (["--port", "-1"], "127.0.0.1:-1 can't be used"),
        (["--port", "65536"], "127.0.0.1:65536 can't be used"),
        (["--silent", "0"], "--silent is 0; give seconds"),
        (["--host", ""], "--host is empty; leave it out, or give a value"),
        (["--host", "0"], "--host '0' would listen on every address; give 0.0.0.0 if you want that"),
        (["--host", "\udcff"], "'\\udcff' holds '\\udcff', which is no character of a text"),
        (["--tls-cert", "x.pem"], "give both --tls-cert and --tls-key"),
        (["--tls-ca", "x.pem"], "give both --tls-cert and --tls-key"),
        (["--tls-cert", "no.pem", "--tls-key", "no.key"], "no.pem is no file; give a PEM file"),
    ],
)
def test_a_mistake_in_serving_is_one_line(
    folder: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    is_one_line(["private", "serve", str(folder), "--port", "0", *words], said, capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--protocol", "aby3"], "aby3 needs 3 parties, but serve and query are two"),
        (["--timeout", "-inf"], "--timeout is -inf; give seconds"),
        (["--batch", "2"], "the batch is 2, and 1 image is given"),
        (["--batch", "-3"], "the batch is -3; give a whole number of images"),
        (["--connect", "127.0.0.1:65536"], "give HOST:PORT"),
        (["--connect", "127.0.0.1:0"], "give HOST:PORT"),
        (["--connect", "127.0.0.1:²"], "give HOST:PORT"),
        (["--connect", ":9000"], "give HOST:PORT"),
        (["--connect", "nowhere"], "give HOST:PORT"),
        (["--image", "nowhere.png"], "--image is 'nowhere.png'; give a file that exists"),
        (["--image", ""], "--image is empty; leave it out, or give a value"),
        (["--image", "x" * 5000], "give a file that exists"),
        (["--image", "/dev/zero"], "/dev/zero can't be read as a picture: it is no regular file"),
        (["--image", "9" * 5000], "is asked for; digits has 359 test images: give numbers from 0 to 358"),
        (["--tls-cert", "x.pem", "--tls-key", "x.key"], "give --tls-ca"),
        (["--tls-ca", "no.pem"], "no.pem is no file; give a PEM file"),
    ],
)
def test_a_mistake_in_asking_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    is_one_line(["private", "query", "--connect", "127.0.0.1:9", "--image", "3", *words], said, capsys)


@pytest.mark.parametrize("host", ["\udcff", "a\0b"])
def test_a_host_that_is_no_text_is_refused(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    is_one_line(["private", "query", "--connect", f"{host}:1", "--image", "3"], "no character of a text", capsys)


@pytest.mark.parametrize("host", ["a..b", "no such host"])
def test_a_host_that_is_none_has_no_server(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["private", "query", "--connect", f"{host}:1", "--image", "3"]) == FAILED
    said = capsys.readouterr().err
    assert "no server answers at" in said and len(said.splitlines()) == 1


def test_images_are_read_before_the_server_waits_for_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(querying, "PartyProcess", None)  # none may start
    (tmp_path / "empty.npy").touch()
    np.save(tmp_path / "large.npy", np.zeros((1, 9, 9)))
    info = server_info("semi2k")
    with scripted_server(info.to_message()) as (port, received):
        query = ["private", "query", "--connect", f"127.0.0.1:{port}", "--protocol", "semi2k", "--image"]
        is_one_line([*query, str(tmp_path / "empty.npy")], "empty.npy can't be read as an array", capsys)
        assert received == []  # it did not even connect
        is_one_line([*query, str(tmp_path / "large.npy")], "the server's network takes (1, 8, 8) (C, H, W)", capsys)


def test_what_a_server_says_is_shown_without_its_escapes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Party(FakeParty):
        links: list[LinkTls | None] = []  # noqa: RUF012

    monkeypatch.setattr(querying, "PartyProcess", Party)
    program = dataclasses.replace(server_info("semi2k").program, network="net\x1b[2J\nfake line")
    info = dataclasses.replace(server_info("semi2k"), program=program)
    with scripted_server(info.to_message(), wait_message(2), port_message(9)) as (port, _):
        query = ["private", "query", "--connect", f"127.0.0.1:{port}", "--protocol", "semi2k", "--image", "3"]
        assert run_command(query) == 0
    printed = capsys.readouterr()
    shown, answer = printed.out.splitlines()
    assert shown == r"net\x1b[2J\nfake line under semi2k (trusted dealer: a cost reference)"
    assert answer.startswith("3: class 0") and printed.err == "waiting for the server's turn: 2 first\n"


def test_images_are_asked_for_in_batches_and_the_cost_is_that_of_a_query_and_of_an_image(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Party(FakeParty):
        links: list[LinkTls | None] = []  # noqa: RUF012

    monkeypatch.setattr(querying, "PartyProcess", Party)
    printed = []
    for words in ([], ["--json"]):
        with scripted_server(server_info("semi2k", batch=2).to_message(), port_message(9)) as (port, _):
            numbers = [word for number in (3, 4, 5) for word in ("--image", str(number))]
            query = ["private", "query", "--connect", f"127.0.0.1:{port}", "--protocol", "semi2k", "--batch", "2"]
            assert run_command([*query, *numbers, *words]) == 0
        printed.append(capsys.readouterr().out)
    lines = printed[0].splitlines()
    assert [line.split(":")[0] for line in lines[1:]] == ["3", "4", "one query, images", "5", "one query, images"]
    assert lines[3].startswith("one query, images: 2; ") and lines[3].endswith(" s and 512 bytes")
    assert lines[5].startswith("one query, images: 1 (filled up to 2); ") and lines[5].endswith(" s and 1,024 bytes")
    value = json.loads(printed[1])
    assert value["batch"] == 2
    assert [reply["images_in_query"] for reply in value["replies"]] == [2, 2, 1]
    for reply in value["replies"]:
        assert reply["logits"] == [7.0] * 10 and reply["sent_bytes"] == 1024
        assert reply["per_image"]["seconds"] == reply["seconds"] / reply["images_in_query"]


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_server_that_hides_nothing_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with scripted_server(server_info("semi2k").to_message()) as (port, received):
        said = "under semi2k (trusted dealer: a cost reference), not cheetah; give --protocol semi2k if you only need"
        is_one_line(["private", "query", "--connect", f"127.0.0.1:{port}", "--image", "3", *words], said, capsys)
    assert b"".join(received) == HELLO


@contextmanager
def server(folder: Path, *words: str | Path, cwd: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A standing server that listens already, and the port that it got."""
    with subprocess.Popen(
        [Path(sys.executable).with_name("deepreduce"), "private", "serve", folder, "--port", "0",
         "--protocol", "semi2k", "--timeout", "60", *words],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=plain_environment(),
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[-1]
            assert address.startswith("127.0.0.1:")
            yield process, int(address.rpartition(":")[2])
        finally:
            process.kill()


def client(port: int, *words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    address = f"127.0.0.1:{port}"
    return command(
        "private", "query", "--connect", address, "--protocol", "semi2k", *words, cwd=cwd, timeout=300
    )  # fmt: skip


@pytest.mark.slow
def test_a_server_answers_one_client_after_another_under_tls_until_ctrl_c(folder: Path, tmp_path: Path) -> None:
    from deepreduce import load_reduced
    from deepreduce.data import load_source
    from tests.helpers.private_networks import DIGITS

    digits = load_source("digits").test
    pixels = digits.images[3].numpy()  # (1, 8, 8)
    assert pixels.shape == DIGITS
    np.save(tmp_path / "image.npy", pixels)
    for name in ("spu", "jax", "numpy", "json"):  # code of the working directory
        (tmp_path / f"{name}.py").write_text("open('it-ran', 'w'); raise SystemExit(name)")
    authority = Authority(tmp_path, "authority")
    both = [
        ["--tls-cert", str(made.certificate), "--tls-key", str(made.key), "--tls-ca", str(authority.path)]
        for made in (authority.sign("server"), authority.sign("client"))
    ]
    with server(folder, *both[0], cwd=tmp_path) as (process, port):
        # a client that is killed in the middle of a session does not hurt the next
        doomed = subprocess.Popen(
            [Path(sys.executable).with_name("deepreduce"), "private", "query", "--connect", f"127.0.0.1:{port}",
             "--protocol", "semi2k", *both[1], *(word for _ in range(500) for word in ("--image", "3"))],
            cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=plain_environment(),
        )  # fmt: skip
        assert doomed.stdout is not None
        assert doomed.stdout.readline() == "resnet20 under semi2k (trusted dealer: a cost reference)\n"
        assert doomed.stdout.readline().startswith("3: class ")
        left = [int(pid) for pid in parties_left(doomed.pid)]
        doomed.kill()
        doomed.communicate()
        assert left and all_end(left, seconds=10)
        batch = ["--batch", "2", "--image", "image.npy", "--image", "3", "--image", "3"]
        later = client(port, *both[1], *batch, "--json", cwd=tmp_path)
        assert (later.returncode, later.stderr) == (0, "the server prepares its network for 2 images a query\n")
        by_file, by_number, alone = json.loads(later.stdout)["replies"]
        np.testing.assert_allclose(alone["logits"], by_number["logits"], atol=0.01)
        np.testing.assert_allclose(by_file["logits"], by_number["logits"], atol=0.01)
        expected = load_reduced(folder, raw_pixels=True)(digits.images[3][None]).detach().numpy()[0]
        np.testing.assert_allclose(by_file["logits"], expected, atol=0.01)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130 and errors.splitlines()[-1] == "deepreduce: interrupted"
    assert not parties_left(process.pid) and not (tmp_path / "it-ran").exists()


def test_nobody_at_the_address_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    (port,) = choose_ports(1, None)
    assert run_command(["private", "query", "--connect", f"127.0.0.1:{port}", "--image", "3"]) == FAILED
    assert "no server answers at" in capsys.readouterr().err


def test_a_port_in_use_is_the_users_mistake(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert run_command(["private", "serve", str(folder), "--port", str(taken.getsockname()[1])]) == MISTAKE
    said = capsys.readouterr().err
    assert "can't be used" in said and "--port" in said


@pytest.mark.slow
def test_ctrl_c_during_a_run_leaves_no_party(folder: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [Path(sys.executable).with_name("deepreduce"), "private", "run", folder, "--protocol", "semi2k",
         "--repeats", "100000"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=plain_environment(),
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 300
        while len(pids := parties_left(process.pid)) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert len(pids) == 2
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130 and errors.splitlines()[-1] == "deepreduce: interrupted"
        assert all_end([int(pid) for pid in pids], seconds=5)
    finally:
        process.kill()
