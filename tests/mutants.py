"""Mutants of valid runs: one to three random changes, of a value, of bytes, or of the folder."""

import copy
import hashlib
import json
import os
import pickle
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hostile_pages import FORMULAS, PAYLOADS

from bench import strict_json
from bench.submission import content_id

Documents = dict[str, Any]
Files = dict[str, bytes]
Place = tuple[str | int, ...]

TEXTS = (
    *PAYLOADS, *FORMULAS, "", " ", "softmax", "ok", "measured", "anonymous", "repro", "compile",
    "../../etc/passwd", "..", "/", "a/b", "C:\\x", "con", "x" * 5000, "\u202etxt", "\u200b",
    "e\u0301", "\ufeff", "\x00", "\n", "\r\n::error::x", "\x1b[31m", "\U0001f600", "\ud800",
    "javascript:alert(1)", "`id`", "$(id)", "${{ secrets.X }}", "%s%n", "nan", "1e999", "-0",
)  # fmt: skip
NUMBERS = (
    0, -1, 1, 2, 3, 10**6, 2**31, 2**53 + 1, 2**63, 10**30, 0.0, -0.0, 0.5, 1.5, -1.5, 1e-300,
    5e-324, 1e-9, 1e308, 1.7976931348623157e308,
)  # fmt: skip
OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [[]], {"a": {}}, [None], {"kind": "ok"})
TOKENS = (
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"1E400", b"0x10", b"01", b"+1",
    b".5", b"null", b"true", b'""', b"{}", b"[]", b"/* x */", b"// x\n", b",", b":", b'"', b"\\",
    b"\\u0000", b"\\ud800", b"\\u202e", b"\xef\xbb\xbf", b"\xff", b"\xc0\x80", b"\xed\xa0\x80",
    b"\x00", b"\r\n", b" ", b"\t", b"\n", b'"schema": 1, ', b'"schema": 2, ', b'"run_id": "x", ',
    b"[" * 40, b"[" * 5000, b"9" * 400, b"9" * 5000, b'"' + b"A" * 100_000 + b'"',
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mutant:
    """A changed run on disk."""

    root: Path
    """A results folder that holds it and nothing else."""
    signed: bool
    """Digests and run_id were computed again, as a forger can."""
    how: tuple[str, ...]
    fields: tuple[str, ...] = ()
    """Which values were changed, see `field_of`."""


def documents_of(folder: Path) -> Documents:
    """The contents of a run's files by name."""
    return {path.name: json.loads(path.read_bytes()) for path in sorted(folder.iterdir())}


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    """Every place in a document, branches included."""
    yield at
    children: Any = ()
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list):
        children = enumerate(value)
    for key, child in children:
        yield from places(child, (*at, key))


def field_of(document: Any, at: Place) -> str:
    """The field that a place belongs to: entries of lists by what they are, not by their number."""
    words: list[str] = []
    for key in at:
        document = document[key]
        if isinstance(key, str):
            words.append(key)
        elif isinstance(document, dict):
            kinds = [document.get("metric"), document.get("name")]
            if "outcome" in document:
                kinds = [f"{document['case']['stimulus']['kind']} {document['outcome']['kind']}"]
            words.append(f"[{next((kind for kind in kinds if kind), '')}]")
    return ".".join(words)


class Mutator:
    """Makes mutants of one valid run; the same seed makes the same mutants."""

    def __init__(
        self, documents: Documents, machine: str, seed: int, *, only_signed: bool = False
    ) -> None:
        """Change anything; `only_signed`: one value, and sign again, whatever can be signed."""
        self.documents = documents
        self.only_signed = only_signed
        self.machine = machine
        self.run_id: str = documents["run.json"]["run_id"]
        self.random = random.Random(seed)
        self.files = {name: strict_json.pretty(d).encode() for name, d in documents.items()}
        self.pickled = {name: pickle.dumps(document) for name, document in documents.items()}
        self.places = {name: tuple(places(d))[1:] for name, d in documents.items()}

    def write(self, root: Path) -> Mutant:
        """Write one mutant below `root`, an empty folder."""
        if self.only_signed:
            while (one := self._of_one_value(root)) is None:
                pass
            return one
        level = self.random.choices(("values", "bytes", "folder"), (7, 2, 1))[0]
        if level == "values":
            return self._of_values(root)
        folder = root / self.machine / self.run_id
        _write(folder, self.files)
        change = self._of_bytes if level == "bytes" else self._of_folder
        return Mutant(root, False, (change(folder),))

    # Values

    def _of_values(self, root: Path) -> Mutant:
        documents = dict(self.documents)
        how = [
            self._changed(documents)[1] for _ in range(self.random.choices((1, 2, 3), (6, 3, 1))[0])
        ]
        signed = self.random.random() < 0.6 and _signable(documents)
        if signed:
            write_signed(root, documents, self.machine)
        else:
            folder = root / self.machine / self.run_id
            _write(folder, {name: _text(document) for name, document in documents.items()})
        return Mutant(root, signed, tuple(how))

    def _of_one_value(self, root: Path) -> Mutant | None:
        documents = dict(self.documents)
        changed, how = self._changed(documents)
        if not _signable(documents):
            return None
        write_signed(root, documents, self.machine)
        return Mutant(root, True, (how,), (changed,))

    def _changed(self, documents: Documents) -> tuple[str, str]:
        """Change a value; return its field, and how."""
        name = self.random.choice(sorted(documents))
        if documents[name] is self.documents[name]:
            documents[name] = pickle.loads(self.pickled[name])  # several times as fast
        at = self.random.choice(self.places[name])
        changed = field_of(self.documents[name], at)
        return changed, f"{name}: {self._change_value(documents, name, at)}"

    def _change_value(self, documents: Documents, name: str, at: Place) -> str:
        parent = documents[name]
        try:
            for key in at[:-1]:
                parent = parent[key]
            old = parent[at[-1]]
        except (KeyError, IndexError, TypeError):
            return "nothing: an earlier change took the place away"
        if not isinstance(parent, dict | list):
            return "nothing: an earlier change put a text there"
        changes: tuple[Callable[[Any, Any, Any], str], ...] = (
            self._replace, self._replace, self._replace, self._nudge, self._nudge, self._nudge,
            self._drop, self._add, self._splice, self._reorder,
        )  # fmt: skip
        change = self.random.choice(changes)
        told = change(parent, at[-1], old)
        return f"{'.'.join(map(str, at))}: {told}"

    def _replace(self, parent: Any, key: Any, old: Any) -> str:
        pool: tuple[Any, ...] = TEXTS if isinstance(old, str) else NUMBERS
        if self.random.random() < 0.3:
            pool = (*TEXTS, *NUMBERS, *OTHERS)
        new = self.random.choice(pool)
        if self.random.random() < 0.0005:
            new = "y" * 10_000_000
        parent[key] = copy.deepcopy(new)
        return f"replaced by {str(new)[:40]!r}"

    def _nudge(self, parent: Any, key: Any, old: Any) -> str:
        """A small change that may well be plausible."""
        if isinstance(old, bool):
            parent[key] = not old
        elif isinstance(old, int):
            parent[key] = old + self.random.choice((-1, 1, 2, old))
        elif isinstance(old, float):
            parent[key] = old * self.random.choice((0.5, 0.99, 1.0001, 1.01, 2.0, -1.0))
        elif isinstance(old, str) and old:
            at = self.random.randrange(len(old))
            text = self.random.choice(TEXTS)[:200] if self.random.random() < 0.5 else "x"
            parent[key] = old[:at] + text + old[at + self.random.randrange(2) :]
        elif isinstance(old, list):
            parent[key] = old + old[:1]
        elif isinstance(old, dict) and old:
            name = self.random.choice(sorted(old))
            value = old.pop(name)
            old[self.random.choice((name.upper(), name + "x", *TEXTS))] = value
        return f"nudged to {str(parent[key])[:40]!r}"

    def _drop(self, parent: Any, key: Any, old: Any) -> str:
        del parent[key]
        return "dropped"

    def _add(self, parent: Any, key: Any, old: Any) -> str:
        value = copy.deepcopy(self.random.choice((*TEXTS, *NUMBERS, *OTHERS)))
        if isinstance(parent, list):
            if self.random.random() < 0.5:
                value = copy.deepcopy(old)
            parent.insert(key, value)
        else:
            parent[self.random.choice(("added", "__proto__", *TEXTS))] = value
        return f"added {str(value)[:40]!r}"

    def _splice(self, parent: Any, key: Any, old: Any) -> str:
        """Something valid from another place."""
        name = self.random.choice(sorted(self.documents))
        at = self.random.choice(self.places[name])
        value = self.documents[name]
        for step in at:
            value = value[step]
        parent[key] = copy.deepcopy(value)
        return f"spliced from {name} {'.'.join(map(str, at))}"

    def _reorder(self, parent: Any, key: Any, old: Any) -> str:
        if isinstance(old, list):
            self.random.shuffle(old)
            return "shuffled"
        if isinstance(old, dict):
            items = list(old.items())
            self.random.shuffle(items)
            old.clear()
            old.update(items)
            return "keys shuffled"
        return self._nudge(parent, key, old)

    # Bytes

    def _of_bytes(self, folder: Path) -> str:
        name = self.random.choice(sorted(self.files))
        data = self.files[name]
        at = self.random.randrange(len(data))
        end = min(len(data), at + self.random.choice((1, 1, 2, 8, 64, 1000)))
        token = self.random.choice(TOKENS)
        how, new = self.random.choice(
            (
                ("a bit flipped", data[:at] + bytes([data[at] ^ (1 << self.random.randrange(8))])
                 + data[at + 1 :]),
                ("cut out", data[:at] + data[end:]),
                ("cut off", data[:at]),
                ("doubled", data[:end] + data[at:]),
                (f"{token[:12]!r} put in", data[:at] + token + data[at:]),
                (f"{token[:12]!r} put over", data[:at] + token + data[end:]),
                ("laid out otherwise", json.dumps(self.documents[name], indent=3).encode()),
                ("on one line", json.dumps(self.documents[name]).encode()),
                ("emptied", b""),
            )
        )  # fmt: skip
        (folder / name).write_bytes(new)
        return f"{name}: {how} at {at}"

    # Folder

    def _of_folder(self, folder: Path) -> str:
        name = self.random.choice(sorted(self.files))
        path = folder / name
        how = self.random.choice(
            ("missing", "renamed", "copied", "link", "folder", "pipe", "executable", "moved",
             "upper", "machine", "loose", "linked run", "unfinished")
        )  # fmt: skip
        match how:
            case "missing":
                path.unlink()
            case "renamed":
                path.rename(folder / self.random.choice(("x.json", "run.JSON", "run.txt", ".json")))
            case "copied":
                (folder / f"x{name}").write_bytes(self.files[name])
            case "link":
                path.unlink()
                path.symlink_to(self.random.choice(("/etc/passwd", "/dev/zero", name, "../..")))
            case "folder":
                path.unlink()
                path.mkdir()
            case "pipe":
                path.unlink()
                os.mkfifo(path)
            case "executable":
                path.chmod(0o755)
            case "moved":
                folder.rename(folder.with_name("20200101t000000z-0000000000"))
            case "upper":
                folder.rename(folder.with_name(folder.name.upper()))
            case "machine":
                folder.parent.rename(folder.parent.with_name("faster-machine"))
            case "loose":
                (folder.parent / name).write_bytes(self.files[name])
            case "linked run":
                (folder.parent / "linked").symlink_to(folder)
            case _:
                folder.rename(folder.with_name(".unfinished-x"))
        return f"{name}: {how}"


def _text(document: Any) -> bytes:
    """JSON of anything; the layout has no meaning, and lone surrogates stand as escapes."""
    return json.dumps(document).encode()


def _write(folder: Path, files: Files) -> None:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def _signable(documents: Documents) -> bool:
    return all(isinstance(document, dict) for document in documents.values())


def write_signed(root: Path, documents: Documents, machine: str) -> Path:
    """Write a run with every digest computed anew, as somebody who forges results can."""
    header = documents["run.json"]
    files = {n.removesuffix(".json"): d for n, d in documents.items() if n != "run.json"}
    run_id = content_id(header, files)
    environment = header.get("environment")
    told = environment.get("hardware_id") if isinstance(environment, dict) else None
    usable = isinstance(told, str) and told.isprintable() and "/" not in told and len(told) < 150
    folder = root / (told if usable and told.strip(". ") else machine) / run_id[:150]
    folder.mkdir(parents=True, exist_ok=True)
    digests: dict[str, str] = {}
    for name, document in files.items():
        data = _text({**document, "run_id": run_id})
        (folder / f"{name}.json").write_bytes(data)
        digests[f"{name}.json"] = hashlib.sha256(data).hexdigest()
    (folder / "run.json").write_bytes(_text({**header, "run_id": run_id, "files": digests}))
    return folder
