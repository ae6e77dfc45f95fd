"""Fills the templates of reports, with the filters that put numbers into words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeprune.verdict import wording

_TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, view: Mapping[str, Any]) -> str:
    """Return the page; what goes into HTML is escaped, unless the template calls it safe."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        autoescape=template.endswith(".html.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "ms": wording.in_ms,
        "percent": wording.in_percent,
        "count": wording.in_count,
        "bytes": wording.in_bytes,
        "duration": wording.in_seconds,
        "tidy": wording.without_home,
        "cell": markdown_cell,
    }
    return environment.get_template(template).render(view)


def markdown_cell(value: object) -> str:
    """Keep a name from ending a table cell, opening a tag or code, or mentioning somebody."""
    text = " ".join(str(value).split())
    return "".join(f"&#{ord(character)};" if character in "&<>|`@*[" else character for character in text)
