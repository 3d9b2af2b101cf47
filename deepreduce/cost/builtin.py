"""Cost models that come with deepreduce, with the source of every figure.

[V] is verified in the source named, [D] derived from such a figure, [M] measured by us, [?] not verified.
"""

from __future__ import annotations

from deepreduce.cost.model import CostModel, Phase

GARBLED_OFFLINE_BYTES, GARBLED_ONLINE_BYTES = 19_088, 1_184
"""Bytes of one ReLU under DELPHI's garbled circuits [D]: circuit and labels ahead of the query, labels during it."""

# DELPHI, client and server each on an EPYC 7502; the raw data of the artifact of an ASPLOS 2023 paper on private
# inference, per unit [V raw data, D per unit]
_GARBLE, _ENCODE_OFFLINE = 30.5e-6, 7.6e-6  # seconds per ReLU, offline
_EVALUATE, _ENCODE_ONLINE = 18.3e-6, 3.6e-6  # seconds per ReLU, online
_MAC_OFFLINE, _MAC_ONLINE = 0.5e-6, 0.77e-9  # seconds per multiply-accumulate; offline: homomorphic, one thread
# ResNet-18 at 32x32 sends 321 MB up and 47 MB down offline [V]: per element that its 21 layers read (667,136) and
# make (614,410) [D]
_BYTES_PER_READ, _BYTES_PER_MADE = 321e6 / 667_136, 47e6 / 614_410
_MESSAGES_PER_RELU_LAYER = 2.0  # labels there, results back [?]

DELPHI = CostModel(
    name="delphi",
    source="DELPHI on two EPYC 7502, from the raw data of an ASPLOS 2023 artifact; rounds not verified",
    offline=Phase(
        seconds={"comparisons": _GARBLE + _ENCODE_OFFLINE, "macs": _MAC_OFFLINE},
        bytes={"comparisons": GARBLED_OFFLINE_BYTES, "read": _BYTES_PER_READ, "made": _BYTES_PER_MADE},
    ),
    online=Phase(
        seconds={"comparisons": _EVALUATE + _ENCODE_ONLINE, "macs": _MAC_ONLINE},
        bytes={"comparisons": GARBLED_ONLINE_BYTES},
        serial_bytes={"comparisons": GARBLED_ONLINE_BYTES},
        messages={"comparing_layers": _MESSAGES_PER_RELU_LAYER},
    ),
)

_CIRCA_STORAGE, _CIRCA_TIME = 4.7, 3.0  # factors below DELPHI's ReLU, at best [V abstract]

DELPHI_CIRCA = CostModel(
    name="delphi-circa",
    source="DELPHI with Circa's ReLUs at the best that its abstract states (4.7x less storage, 3x less time)",
    offline=Phase(
        seconds={"comparisons": (_GARBLE + _ENCODE_OFFLINE) / _CIRCA_TIME, "macs": _MAC_OFFLINE},
        bytes={
            "comparisons": GARBLED_OFFLINE_BYTES / _CIRCA_STORAGE,
            "read": _BYTES_PER_READ,
            "made": _BYTES_PER_MADE,
        },
    ),
    online=Phase(
        seconds={"comparisons": (_EVALUATE + _ENCODE_ONLINE) / _CIRCA_TIME, "macs": _MAC_ONLINE},
        bytes={"comparisons": GARBLED_ONLINE_BYTES},  # the abstract does not mention these
        serial_bytes={"comparisons": GARBLED_ONLINE_BYTES},
        messages={"comparing_layers": _MESSAGES_PER_RELU_LAYER},
    ),
)

# SPU 0.9.5, measured over loopback on two idle cores of an AMD EPYC, 2026-11-25 [M]. Seconds are fitted by
# `deepreduce.cost.fit` to the layers of three networks: ResNet-18 at 32x32, the same with S1 culled and thinned, and
# one of a quarter of the channels, collapsed. Bytes are counts of SPU's profile, messages the delays of a slow link.
# The cost of a batch-norm that is not folded is from one small network.
# Bytes of a ReLU are told apart into those of the comparison and those of the selection by its sign in a layer whose
# channels share signs; those of squares are counts too (2026-11-27). Seconds of a square, and of an element that is
# moved by number, are in proportion to a ReLU's of the same network on a loaded machine. How many of a square's
# messages under Cheetah wait for each other was not measured: as many as a batch-norm's [?].
_SOURCE = "SPU 0.9.5 on two idle cores of an AMD EPYC, 2026-11-25; calibrate for yours"

_CHEETAH_BYTES = {
    "sent": 185_000,  # a ciphertext
    "returned": 280_000,
    "comparisons": 82.5,
    "selections": 16,
    "pooled_elements": 3.125,
    "scaled_polynomials": 1_145_000,
    "scaled_elements": 2.6,
    "squared_elements": 236,
    "query": 160,
}

CHEETAH = CostModel(
    name="cheetah",
    source=_SOURCE,
    online=Phase(
        seconds={
            "sent": 1.49e-3,
            "returned": 4.47e-3,
            "encoded": 0.367e-3,
            "rotated": 1.54e-3,
            "multiplying_layers": 0.0312,
            "comparisons": 14.1e-6,
            "pooled_elements": 11.7e-6,
            "scaling_layers": 0.05,
            "squared_elements": 6.7e-6,
            "squaring_layers": 0.05,
            "moved_elements": 2.5e-6,
            "other_layers": 2.3e-3,
            "query": 0.113,
        },
        bytes=_CHEETAH_BYTES,
        serial_bytes={**_CHEETAH_BYTES, "comparisons": 69.25, "selections": 8},
        messages={
            "multiplying_layers": 4,
            "comparing_layers": 22,
            "pool_layers": 2,
            "scaling_layers": 8,
            "squaring_layers": 8,
            "query": 1,
        },
    ),
)

# SPU's complexity page says 232 bytes of a ReLU, 9 rounds of a layer of them, and 8 * (m*k + k*n) bytes and 1 round
# of a product [D]; what both parties of SPU 0.9.5 were seen to send together is this
SEMI2K = CostModel(
    name="semi2k",
    source=_SOURCE + "; a trusted dealer makes the triples: a cost reference, not secure",
    online=Phase(
        seconds={
            "panels": 0.066,
            "left": 0.128e-6,
            "right": 0.097e-6,
            "made": 0.57e-6,
            "multiplying_layers": 0.0331,
            "comparisons": 1.16e-6,
            "comparing_layers": 0.0148,
            "pooled_elements": 8.3e-6,
            "scaling_layers": 0.007,
            "squared_elements": 0.21e-6,
            "squaring_layers": 0.007,
            "moved_elements": 2.5e-6,
            "other_layers": 2.2e-3,
        },
        bytes={
            "left": 16, "right": 16, "made": 8, "comparisons": 112, "selections": 32, "pooled_elements": 8,
            "scaled_elements": 40, "squared_elements": 40, "query": 160,
        },
        serial_bytes={
            "left": 8, "right": 8, "made": 4, "comparisons": 56, "selections": 16, "pooled_elements": 4,
            "scaled_elements": 20, "squared_elements": 20, "query": 160,
        },
        messages={
            "multiplying_layers": 2, "comparing_layers": 8, "pool_layers": 1, "scaling_layers": 2,
            "squaring_layers": 2, "query": 1,
        },
    ),
)  # fmt: skip

MODELS = {model.name: model for model in (DELPHI, DELPHI_CIRCA, SEMI2K, CHEETAH)}
