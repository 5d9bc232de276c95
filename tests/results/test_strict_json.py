"""What strangers may send, and what they may not."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import strict_json
from bench.strict_json import StrictJsonError, parse

HOSTILE = sorted((Path(__file__).parents[1] / "data" / "hostile_json").iterdir())
REASONS = {
    "byte_order_mark": "byte order mark",
    "constant_infinity": "Infinity is not a number",
    "constant_nan": "NaN is not a number",
    "cut_off": "not JSON",
    "deep": "nested deeper",
    "duplicate_key": "'a' occurs more than once",
    "huge_integer": "beyond everything that is counted",
    "latin1": "not UTF-8",
    "overflow": "1e999 is too large",
    "slightly_deep": "nested deeper",
    "trailing_comma": "not JSON",
    "two_documents": "not JSON",
}


@pytest.mark.parametrize("path", HOSTILE, ids=lambda path: path.stem)
def test_hostile_text_is_refused(path: Path) -> None:
    with pytest.raises(StrictJsonError, match=REASONS[path.stem]):
        parse(path.read_bytes())


def test_every_reason_has_its_file() -> None:
    assert [path.stem for path in HOSTILE] == sorted(REASONS)


@pytest.mark.parametrize(
    "text", ['"\\u0000"', '{"a": ["\\u202e"]}', '{"\\u001b": 1}', '["\\ud800"]']
)
def test_characters_that_act_are_refused(text: str) -> None:
    with pytest.raises(StrictJsonError, match=r"U\+[0-9A-F]{4} in a text"):
        parse(text.encode())


@pytest.mark.parametrize("form", ['"%s"', '["%s"]', '{"%s": 1}', '{"a": {"b": "%s"}}'])
def test_texts_are_of_bounded_length(form: str) -> None:
    assert parse((form % ("x" * strict_json.LONGEST_TEXT)).encode())
    with pytest.raises(StrictJsonError, match="20,001 characters"):
        parse((form % ("x" * (strict_json.LONGEST_TEXT + 1))).encode())


@pytest.mark.parametrize(
    "number", ["1e31", "-1e31", "1e-31", "5e-324", "1.7976931348623157e308", "1" + "0" * 31]
)
def test_numbers_that_nothing_measures_are_refused(number: str) -> None:
    with pytest.raises(StrictJsonError, match="beyond everything"):
        parse(f"[{number}]".encode())


def test_usual_numbers_are_read() -> None:
    assert parse(b"[0, 0.0, -0.0, 1e30, 1e-30, 1000000000000]") == [0, 0, 0, 1e30, 1e-30, 10**12]


def test_as_deep_as_allowed() -> None:
    text = "[" * strict_json.DEEPEST + "]" * strict_json.DEEPEST
    assert parse(text.encode()) is not None


characters = st.characters(
    exclude_categories=("Cs", "Cc"), include_characters="\t\n",
    exclude_characters="\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
)  # fmt: skip
texts = st.text(characters)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63)
    | st.just(0.0) | st.floats(1e-30, 1e30) | st.floats(-1e30, -1e-30) | texts,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=10,
)  # fmt: skip


@given(values)
def test_both_forms_read_back(value: object) -> None:
    assert parse(strict_json.pretty(value).encode()) == value
    assert parse(strict_json.canonical(value).encode()) == value
