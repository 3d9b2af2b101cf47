"""Garbled-circuit cost of one ReLU.

Source: DELPHI's protocol as measured in the artifact of an ASPLOS 2023 paper on private inference, client and
server each on an EPYC 7502, derived per ReLU from its raw data.
"""

OFFLINE_BYTES_PER_RELU = 19_088
"""Garbled circuit and labels sent ahead of the query."""

ONLINE_BYTES_PER_RELU = 1_184
"""Labels sent while the query runs."""
