"""What a server sends is read back whole, and anything else is refused in one line."""

from __future__ import annotations

import numpy as np
import pytest

from deepreduce.data import Standardisation
from deepreduce.errors import RunError, UserError
from deepreduce.private.handshake import ServerInfo, port_message, read_port, two_party_protocol
from deepreduce.private.lowering.program import Op, Program, ProgramLayer, Ref
from deepreduce.private.parties.wire import Message
from deepreduce.private.protocol import PROTOCOLS

RELU = Op(name="relu", args=(Ref("image"),), output="out", shape=(1, 1, 2, 2))
PROGRAM = Program(
    network="toy",
    image="image",
    logits="out",
    layers=(ProgramLayer(name="relu", kind="relu", ops=(RELU,), inputs=("image",), weights=(), outputs=("out",)),),
    shapes={"image": (1, 2, 2, 1), "out": (1, 2, 2, 1)},
)
INFO = ServerInfo(
    protocol=PROTOCOLS["semi2k"],
    program=PROGRAM,
    masks={"mask": np.array([True, False])},
    input_shape=(1, 2, 2),
    standardisation=Standardisation(mean=(80.0,), std=(90.0,)),
)


def test_a_server_info_is_read_as_it_was_sent() -> None:
    assert ServerInfo.from_message(INFO.to_message()) == INFO


@pytest.mark.parametrize(
    "change",
    [
        {"program": {**PROGRAM.to_json(), "shapes": {"image": [0, 2, 2, 1]}}}, {"input_shape": [1, 2, 3]},
        {"program": {**PROGRAM.to_json(), "image": "no"}},
        {"program": {**PROGRAM.to_json(), "shapes": {"image": []}}},
        {"program": {**PROGRAM.to_json(), "shapes": {"image": [1, 2, 2, None]}}},
        {"protocol": "rot13"}, {"protocol": ["semi2k"]}, {"program": []}, {"program": {"shapes": []}},
        {"input_shape": 3}, {"input_shape": [1, 2]}, {"input_shape": [float("inf")] * 3},
        {"standardisation": []}, {"standardisation": {"mean": 1, "std": 2}},
        {"standardisation": {"mean": [1.0], "std": [1.0, 2.0]}}, {"standardisation": {"mean": ["a"], "std": [1.0]}},
    ],
    ids=str,
)  # fmt: skip
def test_values_of_another_form_are_no_server_info(change: dict[str, object]) -> None:
    values = {**INFO.to_message().values, **change}
    with pytest.raises(RunError, match="not answer like a 'deepreduce private serve' of this version"):
        ServerInfo.from_message(Message(kind="server", values=values))


def test_another_kind_of_message_is_no_server_info() -> None:
    with pytest.raises(RunError, match="not answer like a 'deepreduce private serve' of this version"):
        ServerInfo.from_message(Message(kind="port", values=INFO.to_message().values))


def test_a_port_is_read_as_it_was_sent_and_anything_else_is_none() -> None:
    assert read_port(port_message(9001)) == 9001
    for port in (0, -1, 2**16, 9001.0, "9001", True, None):
        assert read_port(Message(kind="port", values={"port": port})) is None
    assert read_port(Message(kind="query", values={"port": 9001})) is None
    assert read_port(Message(kind="port")) is None


def test_serve_and_query_are_two_parties() -> None:
    assert two_party_protocol("cheetah") == PROTOCOLS["cheetah"]
    with pytest.raises(UserError, match="aby3 needs 3 parties, but serve and query are two; give cheetah or semi2k"):
        two_party_protocol("aby3")
