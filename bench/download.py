"""Where data sets are found on this machine, and how they come here: by a command, with a checksum.

Nothing is downloaded while something is measured. A data set lies in `$ATTNBENCH_DATA/<name>`, in
`~/.cache/attnbench/<name>`, or where the system's packages put it.
"""

import hashlib
import importlib
import os
import shutil
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from attention_impls.registry import names_in
from bench.dataset import WrongDataError
from bench.task import MissingDataError

VARIABLE = "ATTNBENCH_DATA"
"""Environment variable that names the folder of all data sets."""
_CHUNK_BYTES = 1 << 20
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """One file to download."""

    url: str
    sha256: str
    """Of the file as it is downloaded."""
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where one data set comes from."""

    name: str
    """Folder below the data folders, and what `attnbench download` is given."""
    title: str
    files: tuple[str, ...]
    """Paths below that folder that must be there."""
    remotes: tuple[Remote, ...]
    """What is downloaded; archives are unpacked."""
    package_folder: Path | None = None
    """Where a system package puts the files."""
    stored_bytes: int | None = None
    """Size of the files, where there is nothing to download."""
    otherwise: str
    """What else a person can do, in a sentence."""

    @property
    def size_bytes(self) -> int:
        """Size of the download."""
        return sum(remote.size_bytes for remote in self.remotes)


def sources() -> tuple[Source, ...]:
    """Return the source of every data set that is not generated or installed with a package."""
    folder = Path(__file__).parent / "datasets"
    modules = (importlib.import_module(f"bench.datasets.{name}") for name in names_in(folder))
    found = (getattr(module, "SOURCE", None) for module in modules)
    return tuple(source for source in found if isinstance(source, Source))


def folders(source: Source) -> tuple[Path, ...]:
    """Return every place where `source` is looked for, in order."""
    named = os.environ.get(VARIABLE)
    found = [Path(named) / source.name] if named else []
    found.append(Path.home() / ".cache" / "attnbench" / source.name)
    if source.package_folder is not None:
        found.append(source.package_folder)
    return tuple(found)


def find(source: Source) -> Path:
    """Return the first folder that holds every file of `source`.

    Raises:
        MissingDataError: none does; says where it looked, the size, and what to do.
    """
    for folder in folders(source):
        if all((folder / file).is_file() for file in source.files):
            return folder
    looked = ", ".join(str(folder) for folder in folders(source))
    partly = "".join(
        f"{folder} lacks {', '.join(lacking)}. "
        for folder in folders(source)
        if (lacking := [file for file in source.files if not (folder / file).is_file()])
        and len(lacking) < len(source.files)
    )
    command = f"run `attnbench download {source.name}` ({source.size_bytes / 1e6:.0f} MB), or "
    size = f" ({source.stored_bytes / 1e6:.0f} MB)" if source.stored_bytes else ""
    raise MissingDataError(
        f"{source.title} is not on this machine. Looked for {source.files[0]} and "
        f"{len(source.files) - 1} more files in {looked}. {partly}Put them{size} into one of these "
        f"folders, {command if source.remotes else 'or '}{source.otherwise}"
    )


def checked(path: Path, sha256: str, data: bytes | None = None) -> bytes:
    """Return the contents of `path`, which must have the digest `sha256`.

    Args:
        path: the file.
        sha256: of the contents.
        data: the contents, where they were read (and unpacked) before.

    Raises:
        WrongDataError: names the file, the digest that was found and the one that is expected.
    """
    contents = path.read_bytes() if data is None else data
    found = hashlib.sha256(contents).hexdigest()
    if found != sha256:
        raise WrongDataError(
            f"{path} is damaged or another version: sha256 is {found}, must be {sha256}; delete it "
            "and get it again"
        )
    return contents


def download(source: Source, told: Callable[[str], None]) -> Path:
    """Download `source` into the first data folder and return that folder.

    Each file is checked before it gets its name; what is there already is left alone.

    Raises:
        WrongDataError: what came is not what is expected.
        MissingDataError: the address cannot be reached.
    """
    target = folders(source)[0]
    target.mkdir(parents=True, exist_ok=True)
    for remote in source.remotes:
        name = remote.url.rpartition("/")[2]
        if all((target / file).is_file() for file in source.files):
            break
        told(f"{remote.url} ({remote.size_bytes / 1e6:.0f} MB)")
        arrived = _fetched(remote, target / f"{name}.unfinished")
        if name.endswith(".tar.gz"):
            _unpack(arrived, target, source.files)
            arrived.unlink()
        else:
            arrived.replace(target / name)
    return target


def _fetched(remote: Remote, target: Path) -> Path:
    digest = hashlib.sha256()
    try:
        with (
            urllib.request.urlopen(remote.url, timeout=_PATIENCE_S) as answer,
            target.open("wb") as file,
        ):
            while chunk := answer.read(_CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        target.unlink(missing_ok=True)
        raise MissingDataError(
            f"{remote.url} cannot be reached ({error}): get the file another way and put it into "
            f"{target.parent}"
        ) from error
    if digest.hexdigest() != remote.sha256:
        target.unlink()
        raise WrongDataError(
            f"{remote.url}: sha256 of what came is {digest.hexdigest()}, must be {remote.sha256}; "
            "it was deleted"
        )
    return target


def _unpack(archive: Path, target: Path, files: Sequence[str]) -> None:
    """Take the expected files out of an archive, by their last names, and nothing else."""
    with tarfile.open(archive) as tar:
        members = {Path(m.name).name: m for m in tar.getmembers() if m.isfile()}
        for file in files:
            if file not in members:
                raise WrongDataError(f"{archive.name} holds no {file}")
            stream = tar.extractfile(members[file])
            assert stream is not None, file  # noqa: S101 - plain files have contents
            with (target / f"{file}.unfinished").open("wb") as out:
                shutil.copyfileobj(stream, out)
            (target / f"{file}.unfinished").replace(target / file)
