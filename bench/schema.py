"""The JSON Schema of results/, generated from the nouns: `python -m bench.schema`.

`python -m bench.schema --check` writes nothing and fails if the file is not up to date.
"""

import json
import sys
from pathlib import Path
from typing import Any

from bench.model import SCHEMA, Run, VariantRecords, adapter
from bench.report import AnalysisReport
from bench.reported import Report

_OUT = Path(__file__).parents[1] / "results" / "schema.json"


_KINDS = {noun.__name__: noun for noun in (Run, VariantRecords, Report, AnalysisReport)}


def schema_text() -> str:
    """Return the text of results/schema.json: one definition a file kind, descriptions included."""
    definitions: dict[str, Any] = {}
    for noun in _KINDS.values():
        schema = adapter(noun).json_schema(ref_template="#/$defs/{model}")
        for name, definition in schema.pop("$defs", {}).items():
            definitions[name] = definition
        definitions[noun.__name__] = schema
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"attnbench results, schema {SCHEMA}",
        "description": (
            "run.json is a Run, <variant>.json a VariantRecords, reported/<paper>.json a Report, "
            "analyses/<hardware_id>/<analysis>.json an AnalysisReport. attnbench check asks for "
            "more than a schema can say."
        ),
        "$defs": definitions,
        "anyOf": [{"$ref": f"#/$defs/{n}"} for n in _KINDS],
    }
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def write_schema(path: Path = _OUT) -> None:
    """Write the schema file."""
    path.write_text(schema_text(), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] != ["--check"]:
        write_schema()
    elif not _OUT.is_file() or _OUT.read_text(encoding="utf-8") != schema_text():
        sys.exit("results/schema.json is not what the nouns say: run python -m bench.schema")
