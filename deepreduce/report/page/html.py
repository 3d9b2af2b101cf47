"""Join markup, style, script, data and plotly.js into the text of the page.

A run's data (labels, paths, its config) enter the page in two places: as JSON that can't close its element, which the
script shows as text, and escaped in the title. If that ever failed, the content security policy would still block
other scripts and all network requests.
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
    """Return the page's HTML, which is ASCII except for plotly.js. Raises `UserError` if plotly is not installed."""
    plotly, script = _plotly_js(), "\n".join(_asset(name) for name in _SCRIPTS)
    return _fill(
        _asset("page.html"),
        {
            "policy": _policy(plotly, script),
            "title": _escape(contents.title),
            "version": _escape(version("deepreduce")),
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
    # browsers normalise line ends to \n before they hash a script for the policy
    return bundle.replace("\r\n", "\n").replace("\r", "\n")


def _asset(name: str) -> str:
    return (files("deepreduce.report.page") / name).read_text(encoding="utf-8")


def _policy(*scripts: str) -> str:
    """Return a policy that blocks network requests and all scripts but these; plotly.js makes styles and images."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:;"
        " base-uri 'none'; form-action 'none'"
    )


def _escape(text: str) -> str:
    return html.escape(text).encode("ascii", "xmlcharrefreplace").decode()


def _json(value: Any) -> str:
    """Return JSON without the characters that begin or end markup."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def _fill(template: str, values: Mapping[str, str]) -> str:
    """Replace each `{{name}}` of the template in one pass, so that a `{{name}}` within a value stays as it is."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template)
