"""Cost models that come with deepreduce, and where their figures are from.

[V] was read in the source named, [D] follows by arithmetic from such a figure, [M] was measured by us, [?] is from
memory and not verified.
"""

from __future__ import annotations

from deepreduce.cost.model import CostModel, Phase

GARBLED_OFFLINE_BYTES, GARBLED_ONLINE_BYTES = 19_088, 1_184
"""Of one ReLU under DELPHI's garbled circuits [D]: circuit and labels ahead of the query, labels while it runs."""

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

_CIRCA_STORAGE, _CIRCA_TIME = 4.7, 3.0  # "at most" so many times less than DELPHI's for ReLU [V abstract]

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
        bytes={"comparisons": GARBLED_ONLINE_BYTES},  # the abstract says nothing of these
        serial_bytes={"comparisons": GARBLED_ONLINE_BYTES},
        messages={"comparing_layers": _MESSAGES_PER_RELU_LAYER},
    ),
)

# SPU 0.9.5, measured on an idle two-core AVX512 machine over loopback, 2026-11-23 [M]: ResNet-18 at 32x32, a 3x3
# convolution of 64 to 64 channels at 16x16 and at 32x32, ReLUs of 1e3 to 1e5 elements. The seconds of a product
# follow from these three convolution times by least squares [D]; bytes and messages are counts of SPU's profile.
_SOURCE = "SPU 0.9.5 on an idle two-core machine, 2026-11-23; calibrate for yours"

CHEETAH = CostModel(
    name="cheetah",
    source=_SOURCE,
    online=Phase(
        seconds={"multiplied": 0.485e-3, "rotated": 0.833e-3, "comparisons": 17e-6, "comparing_layers": 0.02},
        # of a ciphertext sent, and of one returned
        bytes={"sent": 185_000, "returned": 280_000, "comparisons": 98.5},
        serial_bytes={"sent": 185_000, "returned": 280_000, "comparisons": 77.25},
        messages={"multiplying_layers": 7, "comparing_layers": 40, "pool_layers": 2, "query": 1},
    ),
)

# SPU's complexity page says 232 bytes of a ReLU, 9 rounds of a layer of them, and 8 * (m*k + k*n) bytes and 1 round
# of a product [D]; what both parties of SPU 0.9.5 were seen to send together is this
SEMI2K = CostModel(
    name="semi2k",
    source=_SOURCE + "; a trusted dealer makes the triples: a cost reference, not secure",
    online=Phase(
        seconds={
            "panels": 0.0779,
            "multiplications": 3.62e-9,
            "comparisons": 1.5e-6,
            "comparing_layers": 0.0075,
        },
        bytes={"left": 16, "right": 16, "made": 8, "comparisons": 144, "pooled_elements": 8},
        serial_bytes={"left": 8, "right": 8, "made": 4, "comparisons": 72, "pooled_elements": 4},
        messages={"multiplying_layers": 2, "comparing_layers": 8, "pool_layers": 1, "query": 1},
    ),
)

MODELS = {model.name: model for model in (DELPHI, DELPHI_CIRCA, SEMI2K, CHEETAH)}
