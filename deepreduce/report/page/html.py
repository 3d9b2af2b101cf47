"""The page as one text: markup, style, script, data and plotly.js.

Whatever came from a run (labels, paths, its config) reaches the page in two places only: as JSON that can't close its
element, which the script shows as text, and escaped in the title. Should that ever fail, a content security policy
still lets no script run but ours and no address be loaded.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from deepreduce.report.page.contents import PageContents
from deepreduce.utils.optional import require_packages

_SCRIPTS = ("dom.js", "charts.js", "details.js", "costs.js", "table.js", "main.js")


def page_html(contents: PageContents) -> str:
    """The page, ASCII but for plotly.js. Raises `UserError` where plotly is not installed."""
    plotly, script = _plotly_js(), "\n".join(_asset(name) for name in _SCRIPTS)
    return _filled(
        _asset("page.html"),
        {
            "policy": _policy(plotly, script),
            "title": _escaped(contents.title),
            "version": _escaped(version("deepreduce")),
            "style": _asset("page.css"),
            "data": _json(contents.to_json()),
            "plotly": plotly,
            "script": script,
        },
    )


def _plotly_js() -> str:
    require_packages("the page", "plotly", extra="report")
    from plotly.offline import get_plotlyjs

    bundle = get_plotlyjs()
    assert isinstance(bundle, str) and "</script" not in bundle.lower()
    # a browser reads line ends as \n, and the policy's hash is of what it reads
    return bundle.replace("\r\n", "\n").replace("\r", "\n")


def _asset(name: str) -> str:
    return (files("deepreduce.report.page") / name).read_text(encoding="utf-8")


def _policy(*scripts: str) -> str:
    """Nothing from any address, no script but these; styles and images are made by plotly.js as it draws."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:;"
        " base-uri 'none'; form-action 'none'"
    )


def _escaped(text: str) -> str:
    return html.escape(text).encode("ascii", "xmlcharrefreplace").decode()


def _json(value: Any) -> str:
    """JSON in which no markup can begin or end."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def _filled(template: str, values: Mapping[str, str]) -> str:
    """The template with its `{{name}}` replaced, in one pass: what a value holds is never taken for a name."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template)
