"""Files that are written whole or not at all, whatever fails."""

import os
from pathlib import Path

import pytest

from bench.whole_file import whole_file


@pytest.fixture
def order(tmp_path: Path) -> Path:
    path = tmp_path / "order"
    path.write_bytes(b"before")
    return path


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_the_file_is_replaced_at_the_end_of_the_block_and_not_before(order: Path) -> None:
    with whole_file(order) as file:
        file.write(b"after")
        assert order.read_bytes() == b"before"
    assert order.read_bytes() == b"after"
    assert names(order.parent) == ["order"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_where_the_block_fails_what_was_there_stays(order: Path, error: BaseException) -> None:
    def cut_off() -> None:
        with whole_file(order) as file:
            file.write(b"aft")
            raise error

    with pytest.raises(type(error)):
        cut_off()
    assert order.read_bytes() == b"before"
    assert names(order.parent) == ["order"]


def test_where_the_disk_fails_what_was_there_stays(
    order: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"), whole_file(order) as file:
            file.write(b"after")
    assert order.read_bytes() == b"before"
    assert names(order.parent) == ["order"]


def test_it_can_be_written_in_another_folder_until_then(order: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with whole_file(order, until_then=elsewhere) as file:
        file.write(b"after")
        assert names(elsewhere) != []
        assert sorted(names(tmp_path)) == ["elsewhere", "order"]
    assert order.read_bytes() == b"after"
    assert names(elsewhere) == []


def test_two_that_write_at_once_do_not_mix(order: Path) -> None:
    with whole_file(order) as first, whole_file(order) as second:
        first.write(b"1111")
        second.write(b"2")
    assert order.read_bytes() == b"1111", "the last to end"
    assert names(order.parent) == ["order"]
