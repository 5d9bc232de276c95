"""`python -m leaderboard --results results --out site/_build`: the site by itself."""

import argparse
import sys
import tempfile
from pathlib import Path

from bench.catalogue import add_variants
from bench.table import LeaderboardTable
from bench.tabulation import load_table
from leaderboard.build import BuildError, Site, build, require_free


def main(arguments: list[str] | None = None) -> int:
    """Build the site; return the exit status."""
    parser = argparse.ArgumentParser(prog="leaderboard", description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--out", type=Path, default=Path("site/_build"))
    parser.add_argument("--variant-file", type=Path, action="append", default=[])
    chosen = parser.parse_args(arguments)
    add_variants(chosen.variant_file)
    try:
        require_free(chosen.out)  # before the table is judged, which takes long
        require_writable(chosen.out)
        table = load_table(chosen.results, judge=True)
        site = written(table, chosen.out)
    except BuildError as refusal:
        sys.stderr.write(f"{refusal}\n")
        return 1
    sys.stdout.write(f"{len(site.files)} files; open {site.home.resolve()}\n")
    return 0


def require_writable(out: Path) -> None:
    """Refuse a folder beside which nothing can be written, before anything is computed.

    Raises:
        BuildError: names the folder, the reason and what to do.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise BuildError(_unwritable(out, error)) from error


def written(table: LeaderboardTable, out: Path) -> Site:
    """Build; a site that was there stays as it was where the new one cannot be written.

    Raises:
        BuildError: as `build`, or the disk is full.
    """
    try:
        return build(table, out)
    except OSError as error:
        raise BuildError(_unwritable(out, error)) from error


def _unwritable(out: Path, error: OSError) -> str:
    return (
        f"{out} cannot be written: {error.strerror}; free space or make it writable, or choose "
        "another folder: attnbench site --out DIR"
    )


if __name__ == "__main__":
    sys.exit(main())
