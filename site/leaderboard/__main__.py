"""`python -m leaderboard --results results --out site/_build`: the site by itself."""

import argparse
import sys
from pathlib import Path

from bench.tabulation import load_table
from leaderboard.build import build


def main(arguments: list[str] | None = None) -> int:
    """Build the site; return the exit status."""
    parser = argparse.ArgumentParser(prog="leaderboard", description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--out", type=Path, default=Path("site/_build"))
    chosen = parser.parse_args(arguments)
    site = build(load_table(chosen.results, judge=True), chosen.out)
    sys.stdout.write(f"{len(site.files)} files; open {site.home.resolve()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
