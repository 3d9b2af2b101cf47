"""Define the commands of `deepreduce private`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepreduce.cli.checks import check_writable
from deepreduce.cli.output import say
from deepreduce.errors import UserError
from deepreduce.utils.printable import printable
from deepreduce.utils.text import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from deepreduce.private.querying import Reply

app = typer.Typer(
    help="Run a reduced network under secure computation, on SPU. Needs deepreduce[private] and Python 3.10 or 3.11.",
    rich_markup_mode=None,
)

Candidate = Annotated[Path, typer.Argument(help="A network's folder: RUN/candidates/HASH or RUN/teacher.")]
ProtocolName = Annotated[
    str,
    typer.Option("--protocol", help="cheetah, semi2k (trusted dealer: a cost reference) or aby3 (three parties)."),
]
LinkName = Annotated[
    str,
    typer.Option("--link", help="loopback (measured), lan or wan (computed from bytes and messages)."),
]
TlsCert = Annotated[Path | None, typer.Option("--tls-cert", help="Speak TLS with this certificate (PEM).")]
TlsKey = Annotated[Path | None, typer.Option("--tls-key", help="The key of --tls-cert (PEM, no passphrase).")]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds that a query may take.")]
Data = Annotated[str | None, typer.Option("--data", help="A data set other than the run's.")]
Batch = Annotated[
    int, typer.Option("--batch", help="Images in one query, which pays for the network's weights once (1 to 256).")
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="A YAML file of config keys.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any config key, as in data.root=/data. Repeatable."),
]
Shape = Annotated[
    bool, typer.Option("--shape", help="Also time queries over --link, shaped by the Linux kernel (needs root).")
]
Ports = Annotated[
    str | None, typer.Option("--ports", help="One port per party, as in 9001,9002 (default: free ones).")
]
CsvFile = Annotated[Path | None, typer.Option("--csv", help="Write the cost of each layer to this CSV file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TrustCode = Annotated[
    bool, typer.Option("--trust-code", help="Run the file of a model FILE.py:FACTORY, which builds the network.")
]


@app.command()
def run(
    candidate: Candidate,
    protocol: ProtocolName = "cheetah",
    link: LinkName = "loopback",
    shape: Shape = False,
    images: Annotated[int, typer.Option("--images", help="Number of test images.")] = 1,
    repeats: Annotated[int, typer.Option("--repeats", help="Least number of timed queries.")] = 3,
    batch: Batch = 1,
    ports: Ports = None,
    timeout: Timeout = 600.0,
    data: Data = None,
    config: ConfigFile = None,
    settings: Settings = None,
    csv_file: CsvFile = None,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Run a network in two processes (aby3: three), each with its own secret, and measure every layer.

    Compares the logits with PyTorch's. The first query is not timed.
    """
    from deepreduce.api import private_run
    from deepreduce.config.load import config_for_network
    from deepreduce.cost.link import link_named
    from deepreduce.private.batches import check_batch_of
    from deepreduce.private.protocol import protocol_named
    from deepreduce.utils.files import write_text

    parties, chosen_link = protocol_named(protocol).parties, link_named(link)
    _check_count("--images", images)
    _check_count("--repeats", repeats)
    check_batch_of(images, batch)
    _check_seconds("--timeout", timeout)
    chosen_ports = _parse_ports(ports, parties)
    check_writable(csv_file)
    found = private_run(
        candidate,
        config_for_network(candidate, config=config, data=data, settings=settings or ()),
        protocol=protocol,
        link=link,
        shape=shape,
        images=images,
        repeats=repeats,
        batch=batch,
        ports=chosen_ports,
        timeout_s=timeout,
        trust_code=trust_code,
    )
    if csv_file is not None:
        write_text(csv_file, found.to_csv())
    if as_json:
        say(json.dumps({"link": link, **found.to_json()}, indent=2))
        return
    say(found.to_text(chosen_link))
    if csv_file is not None:
        say(f"\nLayers written to {csv_file}.")


@app.command()
def serve(
    candidate: Candidate,
    port: Annotated[int, typer.Option("--port", help="Port that clients connect to; 0: any free one.")] = 9000,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; 0.0.0.0: all addresses of this machine.")
    ] = "127.0.0.1",
    protocol: ProtocolName = "cheetah",
    link: Annotated[
        str,
        typer.Option(
            "--link",
            help="Link to the clients: loopback, lan or wan. Layers are merged where that is faster over it.",
        ),
    ] = "lan",
    idle: Annotated[
        float,
        typer.Option(
            "--idle", help="Seconds without a query after which a session ends, so that the next client connects."
        ),
    ] = 60.0,
    silent: Annotated[
        float,
        typer.Option("--silent", help="Seconds that a client's engine may be silent, at its start or in a query."),
    ] = 60.0,
    timeout: Timeout = 600.0,
    batch: Annotated[
        int, typer.Option("--batch", help="Most images that a client may put in one query (1 to 256).")
    ] = 16,
    trust_code: TrustCode = False,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option("--tls-ca", help="Accept only clients with a certificate of these authorities (PEM)."),
    ] = None,
) -> None:
    """Serve a network's weights to one client after another, until Ctrl-C."""
    from deepreduce.cost.batch import check_batch
    from deepreduce.cost.link import link_named
    from deepreduce.private.handshake import two_party_protocol
    from deepreduce.private.serving import listen
    from deepreduce.private.serving import serve as serve_network
    from deepreduce.private.tls import server_tls
    from deepreduce.store.checkpoint import SavedNetwork
    from deepreduce.transforms.collapse.costs import collapse_cost

    two_party_protocol(protocol)
    cost = collapse_cost(protocol, link_named(link))
    _check_seconds("--idle", idle)
    _check_seconds("--silent", silent)
    _check_seconds("--timeout", timeout)
    check_batch(batch)
    tls = server_tls(tls_cert, tls_key, tls_ca)
    saved = SavedNetwork.read(candidate)
    with listen(host, port) as listener:
        serve_network(
            saved.load(trust_code=trust_code),
            listener,
            protocol=protocol,
            standardisation=saved.standardisation,
            timeout_s=timeout,
            report=say,
            idle_s=idle,
            silent_s=silent,
            tls=tls,
            cost=cost,
            most_images=batch,
        )


@app.command()
def query(
    connect: Annotated[str, typer.Option("--connect", metavar="HOST:PORT", help="Where 'private serve' listens.")],
    image: Annotated[
        list[str],
        typer.Option(
            "--image", help="A .npy or picture file of pixel values, or the number of a test image. Repeatable."
        ),
    ],
    protocol: Annotated[
        str,
        typer.Option(
            "--protocol", help="Protocol that the server must use: cheetah, or semi2k (a cost reference, not secure)."
        ),
    ] = "cheetah",
    batch: Batch = 1,
    timeout: Timeout = 600.0,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option("--tls-ca", help="Speak TLS, and accept only a server with a certificate of these (PEM)."),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="The data set whose test images --image numbers.")
    ] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Have a server classify images that it never sees. Only the client learns the logits."""
    from deepreduce.config.load import resolve_config
    from deepreduce.config.query_images import images_to_query
    from deepreduce.private.batches import check_batch_of
    from deepreduce.private.handshake import two_party_protocol
    from deepreduce.private.querying import open_session
    from deepreduce.private.tls import client_tls

    host, port = _parse_address(connect)
    two_party_protocol(protocol)
    check_batch_of(len(image), batch)
    _check_seconds("--timeout", timeout)
    for name in image:
        if not name.isdecimal() and not os.path.exists(name):
            raise UserError(f"--image is {name!r}; give a file that exists, or the number of a test image")
    tls = client_tls(tls_cert, tls_key, tls_ca)
    chosen = resolve_config(data=data, config=config, settings=settings or ())
    on_scale_of = images_to_query(image, chosen.data, seed=chosen.seed)  # before the server waits for them
    tensors: list[Tensor] = []
    with open_session(
        host,
        port,
        timeout_s=timeout,
        protocol=protocol,
        batch=batch,
        tls=tls,
        check=lambda server: tensors.extend(on_scale_of(server)),
        report=lambda line: say(line, to_errors=True),
    ) as session:
        label = session.server.protocol.label
        if not as_json:
            say(f"{printable(session.server.program.network)} under {label}")
        replies: list[Reply] = []
        for first in range(0, len(tensors), batch):
            found = session.query_together(tensors[first : first + batch])
            replies += found
            if not as_json:
                say(_text_of_query(image[first : first + batch], found, batch=batch))
    if as_json:
        values = [_json_of_reply(name, reply) for name, reply in zip(image, replies, strict=True)]
        say(json.dumps({"protocol": label, "batch": batch, "replies": values}, indent=2))


def _text_of_query(names: Sequence[str], replies: Sequence[Reply], *, batch: int) -> str:
    """Return the lines of a query's images; in a session of more than one, a line with its cost follows."""
    lines, seconds, sent = [], replies[0].seconds, replies[0].sent_bytes
    for name, reply in zip(names, replies, strict=True):
        logits = " ".join(f"{value:.3f}" for value in reply.logits)
        own = f", {seconds:.2f} s" if batch == 1 else ""
        lines.append(f"{printable(name)}: class {reply.predicted_class}{own}, logits {logits}")
    if batch > 1:
        count = len(replies)
        filled = f" (filled up to {batch})" if count < batch else ""
        lines.append(
            f"one query, images: {count}{filled}; {seconds:.2f} s and {sent:,} bytes from here, an image"
            f" {seconds / count:.2f} s and {sent / count:,.0f} bytes"
        )
    return "\n".join(lines)


def _json_of_reply(name: str, reply: Reply) -> dict[str, Any]:
    """Return a reply as plain values; seconds and bytes are those of its query and its part of them."""
    return {
        "image": name,
        "class": reply.predicted_class,
        "seconds": reply.seconds,
        "sent_bytes": reply.sent_bytes,
        "images_in_query": reply.images,
        "per_image": {"seconds": reply.seconds / reply.images, "sent_bytes": reply.sent_bytes / reply.images},
        "logits": list(reply.logits),
    }


@app.command()
def calibrate(
    protocol: ProtocolName = "cheetah",
    repeats: Annotated[int, typer.Option("--repeats", help="Timed queries per network.")] = 5,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Also write the model to this file (it is always kept in the user's cache)."),
    ] = None,
    timeout: Timeout = 600.0,
    as_json: AsJson = False,
) -> None:
    """Fit a protocol's cost model to this machine, and judge it on six networks outside the fit.

    The model's estimates then have a name for --preset, such as mine-cheetah-lan.
    """
    from deepreduce.cost.preset import CALIBRATED, save_calibration
    from deepreduce.private.calibrate import calibrate as fit_this_machine
    from deepreduce.utils.files import write_json

    _check_count("--repeats", repeats)
    _check_seconds("--timeout", timeout)
    check_writable(out)
    name = f"{CALIBRATED}{protocol}"
    found = fit_this_machine(
        protocol,
        name=name,
        repeats=repeats,
        timeout_s=timeout,
        report=lambda line: typer.echo(line, err=True),
    )
    kept = save_calibration(name, found.to_json())
    if out is not None:
        write_json(out, found.to_json())
    if as_json:
        say(json.dumps(found.to_json(), indent=2))
        return
    say(found.to_text())
    say(f"\n{name} kept in {kept}.")


# -- checks before anything starts ----------------------------------------------------------------------------------


_MOST_SECONDS = 86_400
_MOST_QUERIES = 1_000_000


def _check_seconds(flag: str, seconds: float) -> None:
    if not 0 < seconds <= _MOST_SECONDS:  # false for NaN
        raise UserError(f"{flag} is {seconds:g}; give seconds above 0, at most {_MOST_SECONDS:,}")


def _check_count(flag: str, count: int) -> None:
    if not 1 <= count <= _MOST_QUERIES:
        raise UserError(f"{flag} is {shown(count)}; give 1 to {_MOST_QUERIES:,}")


def _parse_ports(text: str | None, count: int) -> list[int] | None:
    """Return the `count` ports in `text`. Raises `UserError` if one of them is in use."""
    from deepreduce.private.parties.processes import choose_ports

    if text is None:
        return None
    try:
        ports = [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--ports is {text!r}; give whole numbers as in 9001,9002") from None
    choose_ports(count, ports)
    return ports


def _parse_address(text: str) -> tuple[str, int]:
    host, _, digits = text.rpartition(":")
    port = int(digits) if digits.isdecimal() and len(digits) < 6 else 0
    if not host or not 0 < port < 2**16:
        raise UserError(f"--connect is {text!r}; give HOST:PORT as in 127.0.0.1:9000")
    return host, port
