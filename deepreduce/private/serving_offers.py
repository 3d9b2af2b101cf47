"""What a server offers to clients: its network, lowered for the number of images that a client asks for."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from deepreduce.data import Standardisation
from deepreduce.errors import RunError, UserError
from deepreduce.network import Network
from deepreduce.private.batches import check_query_fits
from deepreduce.private.handshake import ServerInfo
from deepreduce.private.lowering.lower import Array, lower
from deepreduce.private.protocol import MpcProtocol
from deepreduce.transforms.collapse.choose import LayerCostFunction, macs


class RefusedError(RunError):
    """Raised for a batch that a server does not offer; `reason` is what the client is told."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What is served for one batch: the public facts, and the server's weights by name."""

    info: ServerInfo
    weights: Mapping[str, Array]


class Offers:
    """The offers of a prepared network by batch, 1 to `most_images`. All methods may be called by several threads.

    `cost` is that of a layer, by which masks are lowered (`deepreduce.private.lowering.lower`).
    Raises `UserError` for a network that can't be lowered.
    """

    def __init__(
        self,
        network: Network,
        protocol: MpcProtocol,
        *,
        most_images: int,
        standardisation: Standardisation | None,
        link_tls: bool,
        cost: LayerCostFunction = macs,
    ) -> None:
        self._network, self._protocol, self._most_images = network, protocol, most_images
        self._cost = cost
        self._standardisation, self._link_tls = standardisation, link_tls
        self._one_at_a_time = threading.Lock()
        self._found: dict[int, Offer] = {}
        self._found[1] = self._lower(1)

    def has(self, batch: int) -> bool:
        """Return whether the answer for a batch takes no time: it was asked for before, or is too large."""
        return batch in self._found or batch > self._most_images

    def get(self, batch: int) -> Offer:
        """Return the offer for a batch; lower the network for it if nobody has asked before.

        Raises `RefusedError` for more than `most_images`, for a query that exceeds the free memory, and for a network
        that takes one image at a time only.
        """
        if batch > self._most_images:
            reason = f"it takes at most {self._most_images} images a query; give a smaller --batch"
            raise RefusedError(
                f"refused: it asked for {batch} images a query, {self._most_images} are the most", reason
            )
        with self._one_at_a_time:
            try:
                check_query_fits(self._found[1].info.program, batch, parties=1)
                if batch not in self._found:
                    self._found[batch] = self._lower(batch)
            except UserError as error:
                reason = "the network or the server's memory does not allow it now; give a smaller --batch"
                raise RefusedError(f"refused: {error}", reason) from error
            return self._found[batch]

    def _lower(self, batch: int) -> Offer:
        lowered = lower(self._network, batch=batch, cost=self._cost)
        known = self._found[1].weights if self._found else {}
        return Offer(
            info=ServerInfo(
                protocol=self._protocol,
                program=lowered.program,
                masks=lowered.masks,
                input_shape=self._network.input_shape,
                standardisation=self._standardisation,
                link_tls=self._link_tls,
            ),
            # the same arrays for all batches: they are most of the memory
            weights={name: _known(name, array, known) for name, array in lowered.weights.items()},
        )


def _known(name: str, array: Array, known: Mapping[str, Array]) -> Array:
    found = known.get(name)
    return found if found is not None and np.array_equal(found, array) else array
