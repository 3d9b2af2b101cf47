"""Name the files with which the engines speak TLS to each other."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class LinkTls:
    """The PEM files with which an engine proves who it is and checks the other engine."""

    certificate: str
    key: str
    authorities: str

    def to_json(self) -> dict[str, str]:
        """Return what `LinkTls(**values)` takes."""
        return asdict(self)
