"""Profiles are read from the engine's log as it grows."""

from __future__ import annotations

from pathlib import Path

from deepreduce.private.spu.profile import LayerProfile, ProfileLog, parse_profile

RUN = "[2026-11-25] [info] [Profiling] SPU execution {} completed, input processing took 1e-05s, total time {}s."
LINK = "[2026-11-25] [info] Link details: total send bytes {}, recv bytes 7, send actions {}, recv actions 3"


def lines(name: str, seconds: str, sent: int, messages: int) -> str:
    return "\n".join([RUN.format(name, seconds), "other text", LINK.format(sent, messages), ""])


def test_a_layer_is_its_seconds_and_what_it_sent() -> None:
    found = parse_profile(lines("layer0", "0.25", 4096, 8) + lines("layer1", "1.5e-05", 0, 0))
    assert found == [
        LayerProfile(name="layer0", seconds=0.25, bytes_sent=4096, messages_sent=8),
        LayerProfile(name="layer1", seconds=1.5e-05, bytes_sent=0, messages_sent=0),
    ]
    assert LayerProfile(**found[0].to_json()) == found[0]


def test_a_layer_without_a_line_of_the_link_sent_nothing() -> None:
    found = parse_profile(RUN.format("layer0", "0.1") + "\n" + lines("layer1", "0.2", 16, 1))
    assert [(profile.bytes_sent, profile.messages_sent) for profile in found] == [(0, 0), (16, 1)]


def test_each_profile_is_taken_once_as_the_log_grows(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    path.touch()
    with open(path, "a") as writer, open(path, "r+b", buffering=0) as reader:
        log = ProfileLog(reader)
        for names in (["layer0"], [], ["layer1", "layer0"]):
            writer.write("".join(lines(name, "0.1", 1, 1) for name in names))
            writer.flush()
            assert [profile.name for profile in log.take()] == names
            assert path.stat().st_size == 0
