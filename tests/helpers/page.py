"""A parsed report.html."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any


class Parsed(HTMLParser):
    """A page's elements in their order, and the text of its title and its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = tag in ("title", "script")
        if self.inside:
            self.texts.append((tag, ""))

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            tag, before = self.texts[-1]
            self.texts[-1] = (tag, before + data)

    def scripts(self) -> list[str]:
        return [text for tag, text in self.texts if tag == "script"]

    def data(self) -> Any:
        return json.loads(self.scripts()[0])
