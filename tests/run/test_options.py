"""Options that go into records are refused before anything is measured, not after."""

import click
import pytest

from bench.cli_options import account_name, patterns

OPTION = click.Option(["--some"])
CONTEXT = click.Context(click.Command("some"))


@pytest.mark.parametrize("value", ["octocat", "a-b.c_9", "0", "x" * 96])
def test_accounts_that_records_hold_pass(value: str) -> None:
    assert account_name(CONTEXT, OPTION, value) == value


def test_accounts_are_written_in_small_letters() -> None:
    assert account_name(CONTEXT, OPTION, "OctoCat") == "octocat"


@pytest.mark.parametrize("value", ["", "-a", "o cat", "o/cat", "<b>", "ö", "x" * 97, "a\n"])
def test_other_accounts_are_refused_with_what_is_allowed(value: str) -> None:
    with pytest.raises(click.BadParameter, match="at most 96 letters, digits"):
        account_name(CONTEXT, OPTION, value)


def test_patterns_that_records_hold_pass() -> None:
    assert patterns(CONTEXT, OPTION, "soft* inline/[rs]*/layer") == "soft* inline/[rs]*/layer"
    assert patterns(CONTEXT, OPTION, "x" * 4000)


@pytest.mark.parametrize("value", ["x" * 4001, "soft<", "soft\x1b"])
def test_patterns_too_long_or_strange_for_a_record_are_refused(value: str) -> None:
    with pytest.raises(click.BadParameter, match="at most 4,000 are recorded"):
        patterns(CONTEXT, OPTION, value)


def test_what_is_not_given_stays_so() -> None:
    assert account_name(CONTEXT, OPTION, None) is None
    assert patterns(CONTEXT, OPTION, None) is None
