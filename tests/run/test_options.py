"""Options that go into records are refused before anything is measured, not after."""

import click
import pytest

from bench.cli_options import Account, Patterns


def converted(kind: click.ParamType, value: str) -> str:
    return str(kind.convert(value, None, None))


@pytest.mark.parametrize("value", ["octocat", "a-b.c_9", "0", "x" * 96])
def test_accounts_that_records_hold_pass(value: str) -> None:
    assert converted(Account(), value) == value


def test_accounts_are_written_in_small_letters() -> None:
    assert converted(Account(), "OctoCat") == "octocat"


@pytest.mark.parametrize("value", ["", "-a", "o cat", "o/cat", "<b>", "ö", "x" * 97, "a\n"])
def test_other_accounts_are_refused_with_what_is_allowed(value: str) -> None:
    with pytest.raises(click.BadParameter, match="at most 96 letters, digits"):
        converted(Account(), value)


def test_patterns_that_records_hold_pass() -> None:
    assert converted(Patterns(), "soft* inline/[rs]*/layer") == "soft* inline/[rs]*/layer"
    assert converted(Patterns(), "x" * 4000)


@pytest.mark.parametrize("value", ["x" * 4001, "soft<", "soft\x1b"])
def test_patterns_too_long_or_strange_for_a_record_are_refused(value: str) -> None:
    with pytest.raises(click.BadParameter, match="at most 4,000 are recorded"):
        converted(Patterns(), value)
