"""docs/records.md's tables and docs/records.schema.json, as the source has them; `make pages` writes them."""

import json
import re
from pathlib import Path

from microagent.audit.schema import json_schema, tables

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "records.md"
SCHEMA = DOCS / "records.schema.json"
_TABLES = re.compile(r"(?<=<!-- tables: made by `make pages` -->\n).*?(?=<!-- end of tables -->)", re.DOTALL)


def pages() -> dict[Path, str]:
    """What each of them should hold."""
    page = _TABLES.sub(lambda _: f"\n{tables()}\n\n", PAGE.read_text("utf-8"))
    return {PAGE: page, SCHEMA: json.dumps(json_schema(), indent=1) + "\n"}


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, "utf-8")
