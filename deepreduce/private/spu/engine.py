"""Run one party's part of a program on SPU. Needs deepreduce[private]; does not import PyTorch."""

from __future__ import annotations

import base64
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import spu
import spu.utils.frontend
from numpy.typing import NDArray
from spu import libspu

from deepreduce.private.lowering.program import REVEALED, Program, ProgramLayer
from deepreduce.private.parties.link_tls import LinkTls
from deepreduce.private.protocol import CLIENT, SERVER, MpcProtocol
from deepreduce.private.spu.layer_function import example_inputs, layer_function
from deepreduce.private.spu.profile import LayerProfile, ProfileLog

FRACTION_BITS = 18

_MAX_CHAIN = 9
"""Most certificates between a party's and the authority's."""
_MAX_LOG_BYTES = 2**40
"""Size at which the engine begins another file, which nobody would read."""

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class EngineLink:
    """How the engines reach each other.

    `addresses` are those of all parties ("host:port") by rank; `silent_s` is how many seconds another party may be
    silent, while connecting and later; `tls` has the PEM files of this party for a link under TLS (None: plain TCP).
    """

    addresses: tuple[str, ...]
    silent_s: float
    tls: LinkTls | None


class Engine:
    """Holds one party's shares and runs the program's layers on them, jointly with the other parties."""

    def __init__(self, program: Program, masks: Mapping[str, Array], protocol: MpcProtocol, *, rank: int) -> None:
        log = _open_log()
        self._program, self._rank = program, rank
        self._config = runtime_config(protocol)
        self._io = spu.Io(protocol.parties, self._config)
        self._executables = [_compile(index, layer, program, masks) for index, layer in enumerate(program.layers)]
        self._profile = ProfileLog(log)

    def connect(self, link: EngineLink, weights: Mapping[str, Array] | None) -> None:
        """Connect to the other parties and share the weights, which only the server passes."""
        self._link = libspu.link.create_brpc(_link_description(link), self._rank)
        self._runtime = spu.Runtime(self._link, self._config)
        for name in self._program.weights:
            self._share(name, weights[name] if weights is not None else None, owner=SERVER)

    def query(self, image: Array | None) -> tuple[list[LayerProfile], Array | None]:
        """Run one query; return this party's profiles. Only the client passes an `image`, and only it gets logits."""
        self._share(self._program.image, image, owner=CLIENT)
        for executable in self._executables:
            self._runtime.run(executable)
        profiles = self._profile.take()
        logits, revealing = self._reveal(self._program.logits)
        names = [layer.name for layer in self._program.layers]
        assert len(profiles) == len(names), f"{len(profiles)} of {len(names)} layers are in the engine's profile"
        return [*profiles, revealing], logits

    def _share(self, name: str, value: Array | None, *, owner: int) -> None:
        """Share a value of its owner's; the other parties know its shape only and pass zeros."""
        assert (value is not None) == (self._rank == owner)
        shape = self._program.shapes[name]
        array = np.zeros(shape, np.float32) if value is None else np.asarray(value, np.float32)
        assert array.shape == shape, (name, array.shape, shape)
        shares = self._io.make_shares(array, libspu.Visibility.VIS_SECRET, owner)
        self._runtime.set_var(name, shares[self._rank])

    def _reveal(self, name: str) -> tuple[Array | None, LayerProfile]:
        """Send all shares of a value to the client, which reconstructs it; other parties get None."""
        begin = time.perf_counter()
        share = self._runtime.get_var(name)
        text = _share_to_text(share)
        shares = self._link.gather(text, CLIENT)  # text, because the binding decodes bytes as UTF-8
        value = None
        if self._rank == CLIENT:
            value = np.asarray(self._io.reconstruct([_share_from_text(each) for each in shares]))
        sent = 0 if self._rank == CLIENT else len(text)
        seconds = time.perf_counter() - begin
        return value, LayerProfile(name=REVEALED, seconds=seconds, bytes_sent=sent, messages_sent=min(sent, 1))


def _open_log() -> IO[bytes]:
    """Have the engine log to a file that is open here, but has no name any more: it ends with this process."""
    options = libspu.logging.LogOptions()
    options.enable_console_logger = False
    options.max_log_file_size = _MAX_LOG_BYTES
    with tempfile.TemporaryDirectory(prefix="deepreduce-party-") as folder:
        path = Path(folder) / "engine.log"
        options.system_log_path = str(path)
        libspu.logging.setup_logging(options)
        return open(path, "r+b", buffering=0)


def runtime_config(protocol: MpcProtocol) -> Any:
    """Return the engine's settings for a protocol."""
    config = libspu.RuntimeConfig(
        protocol=getattr(libspu.ProtocolKind, protocol.name.upper()),
        field=libspu.FieldType.FM64,
        fxp_fraction_bits=FRACTION_BITS,
    )
    config.fxp_exp_mode = libspu.RuntimeConfig.EXP_PADE  # the default's error is 50 times as large
    config.enable_pphlo_profile = True
    config.experimental_enable_colocated_optimization = True  # inputs stay with their owners, unshared, until used
    return config


def _link_description(link: EngineLink) -> Any:
    description = libspu.link.Desc()
    for rank, host_and_port in enumerate(link.addresses):
        description.add_party(f"party{rank}", host_and_port)
    description.connect_retry_interval_ms = 100
    description.connect_retry_times = max(int(link.silent_s * 10), 1)
    description.recv_timeout_ms = int(link.silent_s * 1000)
    description.http_timeout_ms = int(link.silent_s * 1000)
    description.http_max_payload_size = 32 * 2**20
    description.throttle_window_size = 0
    if link.tls is not None:
        description.enable_ssl = True
        for options in (description.server_ssl_opts, description.client_ssl_opts):
            options.cert.certificate_path = link.tls.certificate
            options.cert.private_key_path = link.tls.key
            options.verify.ca_file_path = link.tls.authorities
            options.verify.verify_depth = _MAX_CHAIN  # 0 would check nothing
    return description


def _compile(index: int, layer: ProgramLayer, program: Program, masks: Mapping[str, Array]) -> Any:
    function = layer_function(layer, masks)
    function.__name__ = f"layer{index}"
    inputs = example_inputs(program, layer)
    executable, _ = spu.utils.frontend.compile(
        spu.utils.frontend.Kind.JAX,
        function,
        inputs,
        {},
        [*layer.inputs, *layer.weights],
        [libspu.Visibility.VIS_SECRET] * len(inputs),
        lambda outputs: list(layer.outputs),
    )
    return executable


def _share_to_text(share: Any) -> str:
    return json.dumps([base64.b64encode(part).decode() for part in (share.meta, *share.share_chunks)])


def _share_from_text(text: str | bytes) -> Any:
    meta, *chunks = (base64.b64decode(part) for part in json.loads(text))
    share = libspu.Share()
    share.meta, share.share_chunks = meta, chunks
    return share
