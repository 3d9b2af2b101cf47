"""A party reports the engine's error in one line, with a repair if there is one."""

from __future__ import annotations

import pytest

from deepreduce.private.parties.party import explain_error
from deepreduce.private.parties.processes import HOST
from deepreduce.private.parties.wire import Message


@pytest.mark.parametrize(
    ("raised", "reported"),
    [
        (
            "what: \n\t[external/yacl~/yacl/link/transport/brpc_link.cc:106] brpc server failed start\nstacktrace:",
            "port 9002 can't be used (brpc server failed start); give another, or none for free ones",
        ),
        (
            "what: \n\t[external/yacl~/yacl/link/transport/channel.cc:430] Get data timeout, key=root:4:ALLGATHER\n",
            "another party was silent for too long (Get data timeout, key=root:4:ALLGATHER); give a longer timeout",
        ),
        ("what: [libspu/mpc/factory.cc:12] no [such] thing", "no [such] thing"),
        ("an error of [1:2] parts\nand more", "an error of [1:2] parts"),
        ("\n", "RuntimeError"),
    ],
)
def test_the_engines_error_is_reported_without_its_decoration(raised: str, reported: str) -> None:
    order = Message(kind="connect", values={"rank": 1, "addresses": [f"{HOST}:9001", f"{HOST}:9002"]})
    assert explain_error(RuntimeError(raised), order) == reported
