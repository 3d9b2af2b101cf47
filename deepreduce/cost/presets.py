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
        messages={"comparing_layers": _MESSAGES_PER_RELU_LAYER},
    ),
)

MODELS = {model.name: model for model in (DELPHI, DELPHI_CIRCA)}
