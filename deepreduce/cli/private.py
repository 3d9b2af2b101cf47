"""The commands of `deepreduce private`. With `cli`, the only room that prints."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from deepreduce.errors import UserError

app = typer.Typer(
    help="Run a reduced network under secure computation, on SPU. Needs deepreduce[private] and Python 3.10 or 3.11.",
    rich_markup_mode=None,
)

Candidate = Annotated[Path, typer.Argument(help="The folder of a network: RUN/candidates/HASH or RUN/teacher.")]
ProtocolName = Annotated[
    str,
    typer.Option("--protocol", help="cheetah, semi2k (trusted dealer: a cost reference) or aby3 (three parties)."),
]
LinkName = Annotated[
    str,
    typer.Option("--link", help="loopback (measured), lan or wan (computed from bytes and messages)."),
]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds that a query may take.")]
Data = Annotated[str | None, typer.Option("--data", help="Another data set than the run's.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="A YAML file of config keys.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any config key, as in data.root=/data. Repeatable."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def run(
    candidate: Candidate,
    protocol: ProtocolName = "cheetah",
    link: LinkName = "loopback",
    shape: Annotated[
        bool,
        typer.Option("--shape", help="Time queries over --link too, as Linux makes it for root."),
    ] = False,
    images: Annotated[int, typer.Option("--images", help="Test images to run, one query each.")] = 1,
    repeats: Annotated[int, typer.Option("--repeats", help="Time at least so many queries.")] = 3,
    ports: Annotated[
        str | None, typer.Option("--ports", help="A port for each party, as in 9001,9002 (default: free ones).")
    ] = None,
    timeout: Timeout = 600.0,
    data: Data = None,
    config: ConfigFile = None,
    settings: Settings = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write the layers to this CSV file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run a network in two processes (aby3: three), each with its own secret, and measure every layer.

    The logits are compared with PyTorch's. A first query is not timed.
    """
    from deepreduce.api import private_run
    from deepreduce.config.load import config_for_network
    from deepreduce.cost.link import link_named
    from deepreduce.private.protocol import protocol_named
    from deepreduce.utils.files import write_text

    parties, over = protocol_named(protocol).parties, link_named(link)
    _check_count("--images", images)
    _check_count("--repeats", repeats)
    _check_seconds("--timeout", timeout)
    given_ports = _ports(ports, parties)
    if csv_file is not None:
        _check_writable(csv_file)
    found = private_run(
        candidate,
        config_for_network(candidate, config=config, data=data, settings=settings or ()),
        protocol=protocol,
        link=link,
        shape=shape,
        images=images,
        repeats=repeats,
        ports=given_ports,
        timeout_s=timeout,
    )
    if csv_file is not None:
        write_text(csv_file, found.to_csv())
    if as_json:
        print(json.dumps({"link": link, **found.to_json()}, indent=2))
        return
    print(found.to_text(over))
    if csv_file is not None:
        print(f"\nLayers written to {csv_file}.")


@app.command()
def serve(
    candidate: Candidate,
    port: Annotated[int, typer.Option("--port", help="Port that clients connect to; 0: any free one.")] = 9000,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    protocol: ProtocolName = "cheetah",
    link: Annotated[
        str, typer.Option("--link", help="To the clients: loopback, lan or wan. Layers merge where that is faster.")
    ] = "lan",
    idle: Annotated[
        float, typer.Option("--idle", help="Seconds that a client may ask nothing before it is the next one's turn.")
    ] = 60.0,
    timeout: Timeout = 600.0,
) -> None:
    """Hold a network's weights and answer one client after another, until Ctrl-C."""
    from deepreduce.cost.link import link_named
    from deepreduce.private.serving import listening, protocol_between_two
    from deepreduce.private.serving import serve as serve_network
    from deepreduce.store.checkpoint import SavedNetwork
    from deepreduce.transforms.collapse.costs import collapse_cost

    protocol_between_two(protocol)
    cost = collapse_cost(protocol, link_named(link))
    _check_seconds("--idle", idle)
    _check_seconds("--timeout", timeout)
    saved = SavedNetwork.read(candidate)
    with listening(host, port) as door:
        serve_network(
            saved.load(),
            door,
            protocol=protocol,
            standardisation=saved.standardisation,
            timeout_s=timeout,
            told=lambda line: print(line, flush=True),
            idle_s=idle,
            cost=cost,
        )


@app.command()
def query(
    connect: Annotated[str, typer.Option("--connect", metavar="HOST:PORT", help="Where 'private serve' listens.")],
    image: Annotated[
        list[str],
        typer.Option("--image", help="A .npy or picture file of pixel values, or a test image's number. Repeatable."),
    ],
    protocol: Annotated[
        str,
        typer.Option(
            "--protocol", help="What the server must offer: cheetah, or semi2k (a cost reference: it hides nothing)."
        ),
    ] = "cheetah",
    timeout: Timeout = 600.0,
    data: Annotated[str | None, typer.Option("--data", help="The data set that --image numbers.")] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Have a server classify images that it never sees. The logits are known here alone."""
    from deepreduce.api import image_to_query
    from deepreduce.config.load import resolve_config
    from deepreduce.private.serving import protocol_between_two, session

    host, _, digits = connect.rpartition(":")
    port = int(digits) if digits.isdecimal() and len(digits) < 6 else 0
    if not host or not 0 < port < 2**16:
        raise UserError(f"--connect is {connect!r}; give HOST:PORT as in 127.0.0.1:9000")
    protocol_between_two(protocol)
    _check_seconds("--timeout", timeout)
    for name in image:
        if not name.isdecimal() and not os.path.exists(name):
            raise UserError(f"--image is {name!r}; give a file that is there, or the number of a test image")
    chosen = resolve_config(data=data, config=config, settings=settings or ())
    with session(host, port, timeout_s=timeout, protocol=protocol) as served:
        label = served.offer.protocol.label
        if not as_json:
            print(f"{served.offer.program.network} under {label}", flush=True)
        replies = []
        for name in image:
            reply = served.query(image_to_query(name, served.offer, chosen.data, seed=chosen.seed))
            replies.append(
                {"image": name, "class": reply.predicted, "seconds": reply.seconds, "logits": list(reply.logits)}
            )
            if not as_json:
                logits = " ".join(f"{value:.3f}" for value in reply.logits)
                print(f"{name}: class {reply.predicted}, {reply.seconds:.2f} s, logits {logits}", flush=True)
    if as_json:
        print(json.dumps({"protocol": label, "replies": replies}, indent=2))


@app.command()
def calibrate(
    protocol: ProtocolName = "cheetah",
    repeats: Annotated[int, typer.Option("--repeats", help="Time each network so often.")] = 5,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the model here too (it is kept in the user's cache).")
    ] = None,
    timeout: Timeout = 600.0,
    as_json: AsJson = False,
) -> None:
    """Fit a protocol's cost model to this machine, and judge it on six networks that the fit has not seen.

    Its estimates can then be asked for by name, as in mine-cheetah-lan.
    """
    from deepreduce.cost.preset import CALIBRATED, save_calibration
    from deepreduce.private.calibrate import calibrate as fit_this_machine
    from deepreduce.utils.files import write_json

    _check_count("--repeats", repeats)
    _check_seconds("--timeout", timeout)
    if out is not None:
        _check_writable(out)
    name = f"{CALIBRATED}{protocol}"
    found = fit_this_machine(
        protocol,
        name=name,
        repeats=repeats,
        timeout_s=timeout,
        told=lambda line: typer.echo(line, err=True),
    )
    kept = save_calibration(name, found.to_json())
    if out is not None:
        write_json(out, found.to_json())
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
        return
    print(found.to_text())
    print(f"\n{name} kept in {kept}.")


# -- what is given is checked before anything starts -----------------------------------------------------------------


_MOST_SECONDS = 86_400


def _check_seconds(flag: str, seconds: float) -> None:
    if not 0 < seconds <= _MOST_SECONDS:  # NaN is neither
        raise UserError(f"{flag} is {seconds:g}; give seconds above 0, at most {_MOST_SECONDS:,}")


def _check_count(flag: str, count: int) -> None:
    if count < 1:
        raise UserError(f"{flag} is {count}; give at least 1")


def _check_writable(path: Path) -> None:
    """Raises what writing the file would, which would otherwise be told when all is measured."""
    from deepreduce.utils.files import writing

    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=path.parent):
            pass


def _ports(text: str | None, count: int) -> list[int] | None:
    """The `count` ports in `text`, none of which is in use."""
    from deepreduce.private.parties.processes import choose_ports

    if text is None:
        return None
    try:
        ports = [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--ports is {text!r}; give whole numbers as in 9001,9002") from None
    choose_ports(count, ports)
    return ports
