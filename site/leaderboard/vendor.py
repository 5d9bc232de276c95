"""Third-party scripts of the site, pinned by `site/vendor.lock.json`.

`python -m leaderboard.vendor` fetches what the lock lists, `--check` re-hashes what is in the
tree without a network. The lock holds, for each package: name, version, the registry's sha512
integrity, licence, and each file taken from it with its sha256 and its place in the tree.
"""

import argparse
import base64
import hashlib
import io
import json
import sys
import tarfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
LOCK = REPOSITORY / "site" / "vendor.lock.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class VendoredFile:
    """One file copied unchanged out of a package."""

    member: str
    """Path inside the package's archive."""
    destination: str
    """Path inside the repository."""
    sha256: str
    """Digest of the contents."""
    size_bytes: int
    """Length of the contents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VendoredPackage:
    """One package of the npm registry at one version."""

    name: str
    version: str
    url: str
    """Address of the archive."""
    integrity: str
    """`sha512-` and the base64 digest that the registry publishes for the archive."""
    licence: str
    """SPDX identifier."""
    files: tuple[VendoredFile, ...]


class VendorError(RuntimeError):
    """A vendored file or archive is not the one that the lock names."""


def locked(lock: Path = LOCK) -> tuple[VendoredPackage, ...]:
    """Read the lock."""
    packages = json.loads(lock.read_text("utf-8"))["packages"]
    return tuple(
        VendoredPackage(
            name=package["name"],
            version=package["version"],
            url=package["url"],
            integrity=package["integrity"],
            licence=package["licence"],
            files=tuple(VendoredFile(**file) for file in package["files"]),
        )
        for package in packages
    )


def faults(packages: tuple[VendoredPackage, ...], root: Path = REPOSITORY) -> tuple[str, ...]:
    """Return one sentence for each file that is missing or differs from the lock."""
    found: list[str] = []
    for package in packages:
        for file in package.files:
            path = root / file.destination
            if not path.is_file():
                found.append(f"{file.destination}: missing; run `python -m leaderboard.vendor`")
            elif (got := hashlib.sha256(path.read_bytes()).hexdigest()) != file.sha256:
                found.append(f"{file.destination}: sha256 is {got}, the lock says {file.sha256}")
    return tuple(found)


def unpack(package: VendoredPackage, archive: bytes, root: Path) -> None:
    """Check `archive` against the lock and write its listed files below `root`.

    Raises:
        VendorError: the archive or a file in it is not the one that the lock names.
    """
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(archive).digest()).decode()
    if integrity != package.integrity:
        raise VendorError(f"{package.name}: integrity is {integrity}, lock has {package.integrity}")
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as members:
        for file in package.files:
            member = members.extractfile(file.member)
            contents = b"" if member is None else member.read()
            if hashlib.sha256(contents).hexdigest() != file.sha256:
                raise VendorError(f"{package.name}: {file.member} has another sha256 than the lock")
            destination = root / file.destination
            destination.parent.mkdir(parents=True, exist_ok=True)
            destination.write_bytes(contents)


def main(arguments: list[str] | None = None) -> int:
    """Fetch or check the vendored files; return the exit status."""
    parser = argparse.ArgumentParser(prog="leaderboard.vendor", description=__doc__)
    parser.add_argument("--check", action="store_true", help="hash the files, use no network")
    check_only: bool = parser.parse_args(arguments).check
    packages = locked()
    if not check_only:
        for package in packages:
            with urllib.request.urlopen(package.url, timeout=60) as answer:
                unpack(package, answer.read(), REPOSITORY)
    found = faults(packages)
    sys.stderr.writelines(f"{fault}\n" for fault in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
