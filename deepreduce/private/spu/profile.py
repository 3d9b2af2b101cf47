"""Read the engine's profile of each layer from its log, the only place where it writes one."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import IO, Any

_RUN = re.compile(r"\[Profiling\] SPU execution (?P<name>\S+) completed, .*total time (?P<seconds>[0-9.e+-]+)s")
_LINK = re.compile(r"Link details: total send bytes (?P<bytes>\d+), recv bytes \d+, send actions (?P<messages>\d+)")


@dataclass(frozen=True, kw_only=True)
class LayerProfile:
    """One party's profile of one layer: wall seconds, and the bytes and messages that the party sent."""

    name: str
    seconds: float
    bytes_sent: int
    messages_sent: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def parse_profile(text: str) -> list[LayerProfile]:
    """Parse the profiles in a part of the engine's log, in order. The link's line is optional: nothing was sent."""
    found: list[LayerProfile] = []
    for line in text.splitlines():
        run, link = _RUN.search(line), _LINK.search(line)
        if run is not None:
            found.append(LayerProfile(name=run["name"], seconds=float(run["seconds"]), bytes_sent=0, messages_sent=0))
        elif link is not None and found:
            last = found[-1]
            found[-1] = LayerProfile(
                name=last.name,
                seconds=last.seconds,
                bytes_sent=int(link["bytes"]),
                messages_sent=int(link["messages"]),
            )
    return found


class ProfileLog:
    """Takes the profiles from the engine's log, a file that is open for reading and writing."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def take(self) -> list[LayerProfile]:
        """Return the profiles in the log, and empty it: a long session would fill the disk. The engine appends."""
        self._file.seek(0)
        text = self._file.read()
        self._file.truncate(0)
        return parse_profile(text.decode(errors="replace"))
