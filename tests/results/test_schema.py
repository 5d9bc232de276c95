"""results/schema.json is what the nouns say."""

import json
from pathlib import Path

from bench.schema import schema_text, write_schema

COMMITTED = Path(__file__).parents[2] / "results" / "schema.json"


def test_committed_schema_is_current() -> None:
    assert COMMITTED.read_text(encoding="utf-8") == schema_text(), "run python -m bench.schema"


def test_every_field_is_described() -> None:
    definitions = json.loads(schema_text())["$defs"]
    assert {"Run", "VariantRecords", "Record", "Case", "Environment", "Report"} <= set(definitions)
    bare = [
        f"{name}.{field}"
        for name, definition in definitions.items()
        for field, schema in definition.get("properties", {}).items()
        if "description" not in schema and field != "kind"
    ]
    assert bare == []


def test_references_resolve() -> None:
    text = schema_text()
    definitions = set(json.loads(text)["$defs"])
    used = {part.split('"')[0] for part in text.split("#/$defs/")[1:]}
    assert used <= definitions


def test_nothing_unknown_is_allowed() -> None:
    definitions = json.loads(schema_text())["$defs"].items()
    assert [name for name, d in definitions if d.get("additionalProperties", False)] == []


def test_writing(tmp_path: Path) -> None:
    write_schema(tmp_path / "schema.json")
    assert (tmp_path / "schema.json").read_text(encoding="utf-8") == schema_text()
