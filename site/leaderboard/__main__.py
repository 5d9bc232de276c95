"""`python -m leaderboard --results results --out site/_build`: the site by itself."""

import argparse
import sys
from pathlib import Path

from bench.catalogue import add_variants
from bench.tabulation import load_table
from leaderboard.build import BuildError, build, require_free


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
        site = build(load_table(chosen.results, judge=True), chosen.out)
    except BuildError as refusal:
        sys.stderr.write(f"{refusal}\n")
        return 1
    sys.stdout.write(f"{len(site.files)} files; open {site.home.resolve()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
