"""The HTML pages: one file each, no scripts or styles from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def page(template: str, /, **content: Any) -> str:
    """A filled template; everything that is not markup of our own is escaped."""
    import jinja2

    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(template).render(**content)
