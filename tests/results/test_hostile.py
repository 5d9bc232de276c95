"""What an attacker would send: each is refused or found, in bounded time, and no page is harmed.

Digests are computed again after each change, as an attacker can; without that, R101 refuses all.
"""

import copy
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hostile_pages import FORMULAS, PAYLOADS, faults_of_site, faults_of_text, is_formula
from leaderboard.build import build
from mutants import documents_of, places, write_signed
from sample_run import write_sample
from sample_site import catalogue

from bench.cli import main
from bench.export import csv_text
from bench.rules import check_results
from bench.strict_json import LARGEST_FILE_BYTES
from bench.submission import read_results
from bench.tabulation import load_table
from bench.tier import Finding

Documents = dict[str, Any]
MACHINE = "sample-cpu"
OF_SAMPLE = ("R107", "R210")
"""Layout and id of the machine: found in the sample, attacked or not."""


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Documents:
    """A small valid run as plain JSON data: the outcomes of softmax, each kind once."""
    whole = documents_of(write_sample(tmp_path_factory.mktemp("valid"), variants=("softmax",)))
    kinds = {
        (r["outcome"]["kind"], r["case"]["stimulus"]["kind"]): r
        for r in whole["softmax.json"]["records"]
    }
    kept = [r for r in whole["softmax.json"]["records"] if r in list(kinds.values())]
    cases = [r["case"] for r in kept]
    conditions = whole["run.json"]["conditions"]
    conditions["noise"] = [pair for pair in conditions["noise"] if pair["case"] in cases]
    return {**whole, "softmax.json": {**whole["softmax.json"], "records": kept}}


def set_at(documents: Documents, name: str, at: tuple[Any, ...], value: Any) -> Documents:
    changed = {**documents, name: copy.deepcopy(documents[name])}
    parent = changed[name]
    for key in at[:-1]:
        parent = parent[key]
    parent[at[-1]] = value
    return changed


def text_fields(documents: Documents) -> dict[str, tuple[str, tuple[Any, ...]]]:
    """One place for each field that holds a text, records and list entries taken together."""
    found: dict[str, tuple[str, tuple[Any, ...]]] = {}
    for name, document in documents.items():
        for at in places(document):
            value = document
            for key in at:
                value = value[key]
            if at and isinstance(value, str):
                words = ["*" if isinstance(key, int) else key for key in at]
                found.setdefault(f"{name}:{'.'.join(words)}", (name, at))
    return found


def test_the_run_that_is_attacked_is_good(documents: Documents, tmp_path: Path) -> None:
    """Negative control: what is found below is found because of the attack."""
    assert blocked(documents, tmp_path) == []


def blocked(documents: Documents, root: Path) -> list[Finding]:
    """Findings that keep the run out."""
    write_signed(root, documents, MACHINE)
    found = check_results(root)
    return [f for f in found if f.severity == "error" and f.rule not in OF_SAMPLE]


# Markup -------------------------------------------------------------------------------------------

MARKUP = ("<script>alert(1)</script>", "x{{ 7 * 7 }}", "javascript:alert(1)", "a\u202eb")


@pytest.mark.parametrize("payload", MARKUP)
def test_markup_is_kept_out_of_every_text_field(
    documents: Documents, payload: str, tmp_path: Path
) -> None:
    fields = text_fields(documents)
    assert len(fields) > 45
    for number, (field, (name, at)) in enumerate(fields.items()):
        changed = set_at(documents, name, at, payload)
        if at[0] in ("run_id", "files"):
            continue  # computed again by whoever signs
        assert blocked(changed, tmp_path / str(number)), field


KEYED = {
    "settings": ("run.json", ("environment", "settings")),
    "packages": ("run.json", ("environment", "packages")),
    "options": ("softmax.json", ("records", 0, "case", "options")),
}


@pytest.mark.parametrize("payload", [*PAYLOADS, *MARKUP])
@pytest.mark.parametrize("field", KEYED)
def test_markup_is_kept_out_of_keys(
    documents: Documents, field: str, payload: str, tmp_path: Path
) -> None:
    name, at = KEYED[field]
    assert blocked(set_at(documents, name, (*at, payload), "x"), tmp_path)


def hostile_run(documents: Documents, root: Path) -> None:
    """A run with every payload where the reader alone, without the rules, lets it pass."""
    changed = {name: copy.deepcopy(document) for name, document in documents.items()}
    environment = changed["run.json"]["environment"]
    acting = [p for p in (*PAYLOADS, *FORMULAS) if "\x00" not in p and "\r" not in p]
    for number, payload in enumerate(acting):
        environment["settings"][f"{payload}{number}"] = payload
        environment["packages"][payload] = "1"
    records = changed["softmax.json"]["records"]
    for record, payload in zip(records, acting[::-1] * 9, strict=False):
        record["case"]["options"] = {payload: payload, "kernel": payload}
    write_signed(root, changed, MACHINE)


def test_no_page_is_harmed_by_a_run_that_the_rules_would_keep_out(
    documents: Documents, tmp_path: Path
) -> None:
    from bench.model import Case, from_json

    records = documents["softmax.json"]["records"]
    hostile_run(documents, tmp_path / "results")
    folder = next((tmp_path / "results" / MACHINE).iterdir())
    # case ids follow from the options: sorted again, so that the reader accepts the file
    told = documents_of(folder)
    told["softmax.json"]["records"].sort(key=lambda r: from_json(Case, r["case"]).id)
    write_signed(tmp_path / "sorted", told, MACHINE)
    stored, refusals = read_results(tmp_path / "sorted")
    assert (len(stored), refusals) == (1, ())
    assert len(stored[0].records) == len(records)
    table = load_table(tmp_path / "sorted", catalogue(), judge=True)
    site = build(table, tmp_path / "site")
    assert list(faults_of_site(site.out)) == []
    text = "".join(p.read_text("utf-8") for p in sorted(site.out.rglob("*.html")))
    assert text.count("&lt;img src=x onerror=alert(3)&gt;") > 0, "payloads must reach the pages"
    assert not any(is_formula(cell) for line in csv_text(table.rows).splitlines()
                   for cell in line.split(","))  # fmt: skip


@pytest.mark.parametrize(
    ("suffix", "text"),
    [(".html", "<p><img src=x onerror=alert(1)></p>"), (".html", "<b>x</b>"), (".html", "a\x07b"),
     (".html", '<script type="application/json">{"a": "<"}</script>'), (".csv", "a\r\n=1+1\r\n"),
     (".csv", 'a\r\n"@SUM(A1)"\r\n'), (".html", "zq9x7"), (".json", '"\x7f"')],
)  # fmt: skip
def test_what_looks_at_pages_sees_faults(suffix: str, text: str) -> None:
    assert list(faults_of_text(suffix, text))


@pytest.mark.parametrize(("cell", "runs"), [("-1.5", False), ("+1e-05", False), ("'=1", False),
                                            ("=1", True), ("-1+cmd", True)])  # fmt: skip
def test_numbers_are_no_formulas(cell: str, runs: bool) -> None:
    assert is_formula(cell) == runs


# Paths --------------------------------------------------------------------------------------------


NAMES = ("../../etc/passwd", "/etc/passwd", "..", ".", "", "a/b", "C:\\x", "x" * 10**4)


@pytest.mark.parametrize("name", [pytest.param(n, id=n[:20] or "empty") for n in NAMES])
def test_a_path_in_files_leads_nowhere(documents: Documents, name: str, tmp_path: Path) -> None:
    folder = write_signed(tmp_path, documents, MACHINE)
    header = json.loads((folder / "run.json").read_text())
    header["files"][name] = "0" * 64
    (folder / "run.json").write_text(json.dumps(header))
    (finding,) = (f for f in check_results(tmp_path) if f.rule == "R101")
    assert finding.path == f"{MACHINE}/{folder.name}/run.json"
    assert "which is not there" in finding.message
    assert len(finding.message) < 300


@pytest.mark.parametrize("what", ["file", "device", "folder", "run", "machine", "loop", "pipe"])
def test_links_and_devices_are_not_followed(
    documents: Documents, what: str, tmp_path: Path
) -> None:
    outside = write_signed(tmp_path / "outside", documents, MACHINE)
    root = tmp_path / "results"
    folder = root / MACHINE / outside.name
    folder.mkdir(parents=True)
    for path in outside.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    target = folder / "softmax.json"
    match what:
        case "file":
            target.unlink()
            target.symlink_to(outside / "softmax.json")
        case "device":
            target.unlink()
            target.symlink_to("/dev/zero")
        case "folder":
            (folder / "more.json").mkdir()
        case "run":
            (root / MACHINE / "linked").symlink_to(outside)
        case "machine":
            (root / "linked").symlink_to(tmp_path / "outside" / MACHINE)
        case "loop":
            (root / MACHINE / "loop").symlink_to("..")
        case _:
            os.mkfifo(folder / "pipe.json")
    found = check_results(root)
    assert any(f.rule == "R101" and ("link" in f.message or "plain" in f.message) for f in found)


# Size, depth, numbers -----------------------------------------------------------------------------


def quick(root: Path) -> list[Finding]:
    """Errors, found within seconds and told in bounded words."""
    started = time.process_time()
    found = [f for f in check_results(root) if f.severity == "error" and f.rule not in OF_SAMPLE]
    assert time.process_time() - started < 10
    assert all(len(str(f)) < 3000 and str(f).isprintable() for f in found)
    return found


HUGE = "A" * 10_000_000


@pytest.mark.parametrize(
    ("name", "at"),
    [("run.json", ("environment", "os")), ("run.json", ("environment", "settings", "x")),
     ("run.json", ("environment", "packages", HUGE)), ("run.json", (HUGE,)),
     ("softmax.json", ("records", 0, "case", "options", HUGE)),
     ("softmax.json", ("records", 0, "case", "options", "x")),
     ("softmax.json", ("records", 0, "case", "variant")), ("run.json", ("schema",))],
    ids=["text", "setting", "package", "field", "option", "value", "name", "schema"],
)  # fmt: skip
def test_ten_megabytes_in_one_string(
    documents: Documents, name: str, at: tuple[Any, ...], tmp_path: Path
) -> None:
    changed = set_at(documents, name, at, HUGE if at[-1] != HUGE else "1")
    if at == ("schema",):
        folder = write_signed(tmp_path, documents, MACHINE)
        (folder / name).write_text(json.dumps(changed[name]))
    else:
        write_signed(tmp_path, changed, MACHINE)
    assert quick(tmp_path)


def test_a_file_beyond_the_limit_is_not_even_read(documents: Documents, tmp_path: Path) -> None:
    folder = write_signed(tmp_path, documents, MACHINE)
    with (folder / "softmax.json").open("r+b") as file:
        file.truncate(LARGEST_FILE_BYTES + 1)  # sparse: costs no disk
    (finding,) = quick(tmp_path)
    assert "allowed" in finding.message


def texts() -> Iterator[tuple[str, bytes]]:
    yield "deep lists", b"[" * 200_000 + b"]" * 200_000
    yield "deep objects", b'{"a":' * 200_000 + b"1" + b"}" * 200_000
    yield "duplicate key", b'{"schema": 2, "schema": 1}'
    yield "NaN", b'{"schema": NaN}'
    yield "1e999", b'{"schema": 1e999}'
    yield "many digits", b'{"schema": ' + b"9" * 1_000_000 + b"}"
    yield "byte order mark", b"\xef\xbb\xbf{}"
    yield "surrogate", b'{"schema": 2, "run_id": "\\ud800"}'
    yield "overlong UTF-8", b'{"schema": "\xc0\x80"}'
    yield "empty", b""
    yield "a list", b"[]"
    yield "a word", b"null"


@pytest.mark.parametrize("name", ["run.json", "softmax.json"])
@pytest.mark.parametrize("data", [pytest.param(d, id=i) for i, d in texts()])
def test_json_that_is_none_of_ours(
    documents: Documents, name: str, data: bytes, tmp_path: Path
) -> None:
    folder = write_signed(tmp_path, documents, MACHINE)
    (folder / name).write_bytes(data)
    assert quick(tmp_path)


@pytest.mark.parametrize("number", [2**53 + 1, 2**63, 10**30, -1, 0])
@pytest.mark.parametrize("field", ["device_memory_bytes", "cpu_count"])
def test_numbers_that_nothing_can_hold(
    documents: Documents, field: str, number: int, tmp_path: Path
) -> None:
    write_signed(tmp_path, set_at(documents, "run.json", ("environment", field), number), MACHINE)
    assert "R101" in {f.rule for f in quick(tmp_path)}


@pytest.mark.parametrize(
    ("place", "number"),
    [(("head_dim",), 2**31), (("heads",), 2**31), (("extra_tokens",), 2**31),
     (("grid", "height"), 2**31)],
)  # fmt: skip
def test_sizes_that_no_layer_can_have(
    documents: Documents, place: tuple[str, ...], number: int, tmp_path: Path
) -> None:
    where = ("records", 0, "case", "stimulus", *place)
    write_signed(tmp_path, set_at(documents, "softmax.json", where, number), MACHINE)
    assert "R101" in {f.rule for f in quick(tmp_path)}


# Forgery ------------------------------------------------------------------------------------------


def test_an_edit_without_the_digests_is_noticed(documents: Documents, tmp_path: Path) -> None:
    folder = write_signed(tmp_path, documents, MACHINE)
    assert not any(f.rule == "R101" for f in check_results(tmp_path))
    path = folder / "softmax.json"
    path.write_text(path.read_text().replace("0.", "0.0", 1))
    (finding,) = (f for f in check_results(tmp_path) if f.rule == "R101")
    assert "sha256 differs" in finding.message


def test_a_digest_made_to_fit_changes_the_name_of_the_run(
    documents: Documents, tmp_path: Path
) -> None:
    import hashlib

    folder = write_signed(tmp_path, documents, MACHINE)
    path = folder / "softmax.json"
    path.write_text(path.read_text().replace("0.", "0.0", 1))
    header = json.loads((folder / "run.json").read_text())
    header["files"]["softmax.json"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "run.json").write_text(json.dumps(header))
    (finding,) = (f for f in check_results(tmp_path) if f.rule == "R101")
    assert "the run was edited" in finding.message


def faster(documents: Documents, factor: float) -> Documents:
    """Every latency times `factor`, signed like the rest."""
    file = copy.deepcopy(documents["softmax.json"])
    for record in file["records"]:
        for measured in record["outcome"].get("measurements", []):
            if measured["metric"] == "latency":
                measured["rounds"] = [[factor * s for s in r] for r in measured["rounds"]]
    return {**documents, "softmax.json": file}


@pytest.mark.parametrize(("factor", "rules"), [(0.01, {"R404"}), (1e-7, {"R404", "R405"})])
def test_times_below_the_floor_of_the_machine(
    documents: Documents, factor: float, rules: set[str], tmp_path: Path
) -> None:
    assert rules <= {f.rule for f in blocked(faster(documents, factor), tmp_path)}


def test_samples_of_another_run_are_copied(documents: Documents, tmp_path: Path) -> None:
    write_signed(tmp_path, documents, MACHINE)
    later = set_at(documents, "run.json", ("created",), "2026-03-02T03:04:05Z")
    assert "R701" in {f.rule for f in blocked(later, tmp_path)}


# The terminal -------------------------------------------------------------------------------------


def test_nothing_reaches_the_terminal_or_a_log_as_a_command(
    documents: Documents, tmp_path: Path
) -> None:
    attack = "\x1b]0;x\x07\n::error file=x::y\r\n::set-output name=a::b\u202e"
    name, at = KEYED["options"]
    write_signed(tmp_path, set_at(documents, name, (*at, attack), attack), MACHINE)
    shown = CliRunner().invoke(main, ["check", "--results", str(tmp_path)])
    assert shown.exit_code == 1
    lines = shown.output.splitlines()
    assert all(line.isprintable() for line in lines)
    assert not any(line.startswith("::") for line in lines)
