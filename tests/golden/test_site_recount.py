"""Every kind of number on the pages against the raw files, recomputed by other code."""

import csv
import itertools
import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas
import pytest
import recount
from audited_site import (
    DASH,
    KINDS,
    WORDS,
    Audit,
    along,
    audit_of,
    context,
    ends_wrong,
    kind_of_size,
    rows_by_name,
    size,
    wrong,
)
from built_page import TIMES, BuiltPage, PageTable, TableCell, says
from recount import Cell, Stat
from sample_site import catalogue, write_later_run, write_site_sample

from bench.catalogue import read_catalogue

RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture(
    scope="module", params=["sample", pytest.param("committed", marks=pytest.mark.slow)]
)
def audit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Audit:
    out = tmp_path_factory.mktemp("built") / "site"
    if request.param == "committed":
        return audit_of(RESULTS, out, read_catalogue())
    root = write_site_sample(tmp_path_factory.mktemp("results"))
    write_later_run(root)
    return audit_of(root, out, catalogue())


# Rankings -----------------------------------------------------------------------------------------


def ranking_faults(audit: Audit) -> tuple[int, list[str]]:
    """Every cell of every ranking."""
    faults: list[str] = []
    seen = 0
    for ((machine, words), at), cells in recount.grouped(
        audit.timed, lambda c: (context(c), size(c))
    ).items():
        path = f"leaderboard/{machine}/{words}/{at}.html"
        metric = "latency" if cells[0].of["batch_policy"] == "one" else "throughput"
        floor, base = recount.noise_of(cells), _baseline(cells, metric)
        for kind in KINDS:
            mine = {c.name: c for c in cells if audit.known[c.variant].kind == kind}
            able = {n: s for n, c in mine.items() if c.ranked and (s := c.stat(metric))}
            places = recount.ranks(able, floor, least_first=metric == "latency")
            table = audit.page(path).tables.get(kind, PageTable())
            rows = rows_by_name(table, 1)
            if rows.keys() != mine.keys():
                faults.append(f"{path} {kind}: rows {sorted(rows.keys() ^ mine.keys())}")
                continue
            for name, row in rows.items():
                seen += len(row)
                bad = list(_row_faults(table, row, mine[name], metric, base))
                bad += ["rank"] if row[0].text != places.get(name, DASH) else []
                faults += [f"{path} {name}: {column}" for column in bad]
    return seen, faults


def _baseline(cells: Sequence[Cell], metric: str) -> Stat | None:
    for backend in ("sdpa", "reference"):
        for c in cells:
            if (c.variant, c.backend, c.options) == ("softmax", backend, "") and c.ranked:
                return c.stat(metric)
    return None


def _row_faults(
    table: PageTable, row: list[TableCell], c: Cell, metric: str, base: Stat | None
) -> Iterator[str]:
    main = table.column(metric.capitalize())
    unit, stat = table.heads[main].unit, c.stat(metric)
    if not c.ok or stat is None:
        if row[main].text != WORDS.get(c.outcome):
            yield "failure"
        return
    if wrong(row[main], stat, unit):
        yield metric
    if ends_wrong(row[main + 1].text, stat, unit):
        yield "interval"
    if f"/{c.run['run_id']}/" not in row[main].links[0] or not row[main].links[0].endswith(
        f"#c-{c.digest}"
    ):
        yield "link"
    ratio = row[table.column("To softmax")]
    if base is not None and not says(ratio.text, stat.value / base.value):
        yield "ratio"
    for title, name in (
        ("Peak memory", "peak_memory"), ("FLOPs", "flops"), ("Efficiency", "efficiency"),
        ("Cold", "latency_cold"),
    ):  # fmt: skip
        column = table.column(title)
        if wrong(row[column], c.stat(name), table.heads[column].unit):
            yield name
    for word, holds in (("stale", c.stale), ("busy machine", c.run["conditions"]["busy"]),
                        ("implausible", c.implausible)):  # fmt: skip
        if (word in row[1].text) != holds:
            yield word


def test_rankings_are_those_of_the_raw_files(audit: Audit) -> None:
    seen, faults = ranking_faults(audit)
    assert faults == []
    assert seen > 1000


def test_a_changed_sample_is_noticed(tmp_path: Path) -> None:
    """The pages were built of other numbers: rank, latency, interval and what follows differ."""
    root = write_site_sample(tmp_path / "results")
    before = audit_of(root, tmp_path / "site", catalogue())
    file = next(root.glob("sample-cpu/*/softmax.json"))
    document = json.loads(file.read_text("utf-8"))
    for record in document["records"]:
        for measurement in record["outcome"].get("measurements", ()):
            if measurement.get("metric") == "latency":
                measurement["rounds"][1][0] *= 3.0
                measurement["rounds"] = [[1.02 * s for s in r] for r in measurement["rounds"]]
    changed = shutil.copytree(root, tmp_path / "changed")
    (changed / file.relative_to(root)).write_text(json.dumps(document), "utf-8")
    _, cells = recount.read(changed, before.known)
    _, faults = ranking_faults(Audit(before.out, before.runs, cells, before.known))
    assert {fault.rpartition(": ")[2] for fault in faults} >= {"latency", "interval", "ratio"}


# Over sizes ---------------------------------------------------------------------------------------


def test_exponents_are_least_squares(audit: Audit) -> None:
    faults: list[str] = []
    for place, lines in along(audit):
        rows = audit.page(f"scaling/{place}").tables["exponents-table"].rows
        for key, row in zip(sorted(lines), rows, strict=True):
            points = [(n, s.value) for n, c in sorted(lines[key].items())
                      if c.ranked and (s := c.stat("latency"))][-4:]  # fmt: skip
            if len(points) < 3:
                faults += [] if row[1].text == "too few sizes" else [f"{place} {key}"]
                continue
            x, y = np.log(np.array(points)).T
            slope, offset = np.polyfit(x, y, 1)
            rest = float(((y - slope * x - offset) ** 2).sum()) / (len(x) - 2)
            half = recount.T_975[len(x) - 2] * math.sqrt(rest / ((x - x.mean()) ** 2).sum())
            low, _, high = row[2].text.partition(" to ")
            right = (
                says(row[1].text, slope) and says(low, slope - half) and says(high, slope + half)
                and says(row[4].text, audit.known[key[0]].order)
            )  # fmt: skip
            faults += [] if right else [f"{place} {key}: {row[1].text} {row[2].text}"]
    assert faults == []


def test_efficiencies_are_floor_over_latency(audit: Audit) -> None:
    faults: list[str] = []
    for place, lines in along(audit):
        table = audit.page(f"roofline/{place}").tables["efficiency-table"]
        rows = rows_by_name(table)
        sizes = sorted({n for of in lines.values() for n in of})
        for of in lines.values():
            for n, c in of.items():
                text = rows[c.name][1 + sizes.index(n)].text
                stat, floor = c.stat("efficiency"), c.floor() if c.ok else None
                if not c.ok or stat is None or floor is None:
                    faults += [] if text == DASH else [f"{place} {c.name}: {text}"]
                    continue
                number, _, letter = text.partition(" ")
                bound = {"compute": "C", "memory": "M", "overhead": "L"}[floor[1]]
                right = says(number, stat.value, "%") and letter == bound
                faults += [] if right else [f"{place} {c.name}: {text}, {stat.value}"]
    assert faults == []


def test_the_most_tokens_within_a_memory(audit: Audit) -> None:
    faults: list[str] = []
    for (machine, words), cells in recount.grouped(audit.timed, context).items():
        if "-one-" not in words:
            continue
        table = audit.page(f"failures/{machine}/{words}.html").tables["fit-table"]
        rows = rows_by_name(table)
        for name, mine in recount.grouped(cells, lambda c: c.name).items():
            able = [c for c in mine if c.ok and c.stat("peak_memory")]
            images = [c for c in able if kind_of_size(c) == "images"]
            able = images if len(images) > 1 else [c for c in able if c not in images]
            points = [(c.tokens, c.value("peak_memory")) for c in able]
            found = [recount.tokens_within(points, gb * 2**30) for gb in (8, 16, 24, 40, 80)]
            if name not in rows:
                faults += [] if not any(found) else [f"{words} {name}: missing"]
                continue
            for cell, one in zip(rows[name][1:6], found, strict=True):
                if not _fits(cell.text, one, 64 * max(n for n, _ in points)):
                    faults.append(f"{words} {name}: {cell.text}, {one}")
    assert faults == []


def _fits(text: str, found: tuple[float, bool] | None, most: int) -> bool:
    if found is None:
        return text == DASH
    tokens, beyond = found
    sign = ">" if tokens > most else "~" if beyond else ""
    value = min(tokens, most)
    two_digits = 0.5 * 10 ** (math.floor(math.log10(value)) - 1)
    number = text.lstrip("~> ").replace(",", "")
    shown = float(number.removesuffix("M")) * (1e6 if number.endswith("M") else 1)
    return text.startswith(sign or number[:1]) and abs(shown - value) <= two_digits * (1 + 1e-6)


def test_crossings_lie_between_what_was_told_apart(audit: Audit) -> None:
    """Signs by interval and noise; a change lies within the sizes at which both are decided."""
    faults: list[str] = []
    for place, lines in along(audit):
        base = lines.get(("softmax", "sdpa", "")) or lines.get(("softmax", "reference", ""))
        page = audit.page(f"crossovers/{place}")
        for key, of in lines.items():
            if base is None or of is base:
                continue
            name = next(iter(of.values())).name
            table = page.tables[f"{audit.known[key[0]].kind}-crossings"]
            row = rows_by_name(table)[name]
            for title, metric in (("time", "latency"), ("memory", "peak_memory")):
                text = row[table.column(f"Less {title}")].text
                ratio = row[table.column(f"{title.capitalize()} ratio")].text
                fault = _crossing_fault(of, base, metric, text, ratio)
                faults += [f"{place} {name} {metric}: {fault}"] if fault else []
    assert faults == []


def _crossing_fault(
    mine: Mapping[int, Cell], base: Mapping[int, Cell], metric: str, text: str, ratio: str
) -> str | None:
    a, b = ({n: s for n, c in of.items() if c.ranked and (s := c.stat(metric))}
            for of in (mine, base))  # fmt: skip
    shared = sorted(a.keys() & b.keys())
    if not shared:
        return None if text == "no shared size" else text
    if not says(ratio, a[shared[-1]].value / b[shared[-1]].value):
        return f"ratio {ratio}"
    varies = metric == "latency"
    floors = {n: recount.noise_of([mine[n], base[n]]) for n in shared}
    less = [
        0 if not recount.separable(a[n], b[n], floors[n], varies=varies)
        else -1 if a[n].value < b[n].value else 1
        for n in shared
    ]  # fmt: skip
    decided = [(n, sign) for n, sign in zip(shared, less, strict=True) if sign]
    flips = [(n, m, sign) for (n, was), (m, sign) in itertools.pairwise(decided) if was != sign]
    if set(less) == {-1}:
        return None if text == "at every size" else text
    if flips:
        first, last, sign = flips[-1]
        word = "from" if sign < 0 else "up to"
        found = re.fullmatch(rf"{word} ([\d,]+) \(([\d,]+) to ([\d,]+)\)", text)
        numbers = [int(g.replace(",", "")) for g in found.groups()] if found else [0, 1, 0]
        about, low, high = numbers
        return None if first <= low <= about <= high <= last else f"{text}, {first} to {last}"
    alone = any(n > shared[-1] and n in base and not base[n].ok for n in a)
    if alone:
        right = text.endswith("where softmax fails")
    elif less[-1] < 0:
        right = text.startswith("from ") and "(" not in text
    elif 1 in less:
        right = text == "at no size"
    elif -1 in less:
        right = text.startswith("at some sizes") and (varies or "cannot" not in text)
    else:
        right = text == ("cannot be told" if varies else "the same")
    return None if right else f"{text}, {less}"


# Accuracy -----------------------------------------------------------------------------------------


def test_accuracies_are_means_over_seeds(audit: Audit) -> None:
    faults: list[str] = []
    tasks = [c for c in audit.current if c.stimulus == "task"]
    for (task, machine), cells in recount.grouped(
        tasks, lambda c: (c.of["task"], c.machine)
    ).items():
        done = {
            variant: (recount.mean_of_seeds(seeds), sorted(seeds, key=lambda c: c.of["seed"]))
            for variant, seeds in recount.grouped(
                [c for c in cells if c.ok and not c.stale and c.stat("accuracy")],
                lambda c: c.variant,
            ).items()
        }
        places = recount.ranks({v: s for v, (s, _) in done.items()}, None, least_first=False)
        tie = len(places) > 1 and set(places.values()) == {"=1"}
        table = audit.page(f"tasks/{task}.html").tables[f"seeds-{machine}"]
        rows = {row[1].order: row for row in table.rows if "failure" not in row[2].classes}
        if rows.keys() != done.keys():
            faults.append(f"{task} {machine}: {rows.keys() ^ done.keys()}")
            continue
        for variant, row in rows.items():
            mean, seeds = done[variant]
            every = row[4].text.split(", ")
            right = (
                row[0].text == ("tie" if tie else places[variant])
                and not wrong(row[2], mean, "%")
                and not ends_wrong(row[3].text, mean, "%")
                and len(every) == len(seeds)
                and all(says(t, c.value("accuracy"), "%")
                        for t, c in zip(every, seeds, strict=True))
            )  # fmt: skip
            faults += [] if right else [f"{task} {variant}: {[c.text for c in row]}"]
        faults += list(_matrix_faults(audit, machine, task, done, places, tie=tie))
    assert faults == []


def _matrix_faults(
    audit: Audit, machine: str, task: str, done: Mapping[str, tuple[Stat, list[Cell]]],
    places: Mapping[str, str], *, tie: bool,
) -> Iterator[str]:  # fmt: skip
    """The page Accuracy: mean and half interval, uncut; bold shares the first rank."""
    table = audit.page("accuracy.html").tables[f"accuracies-{machine}"]
    titles = {audit.known[v].title: v for v in done}
    columns = [head.text for head in table.heads]
    for row in table.rows:
        variant = titles.get(row[0].order or "")
        if variant is None:
            continue
        mean, seeds = done[variant]
        values = np.array([c.value("accuracy") for c in seeds])
        cells = [c for c in row[1:] if says(c.text.partition(" ")[0], mean.value, "%")]
        if not cells:
            yield f"{task} {variant}: mean {mean.value} is not in {columns}"
        elif mean.low is not None:
            half = recount.T_975[len(values) - 1] * values.std(ddof=1) / math.sqrt(len(values))
            cut = max(mean.value - (mean.low or 0), (mean.high or 1) - mean.value)
            assert cut <= half * (1 + 1e-9)
            bold = places[variant] in ("1", "=1") and not tie
            if not any(
                says(c.text.partition(" ")[2], cut, "%") and ("best" in c.classes) == bold
                for c in cells
            ):
                yield f"{task} {variant}: {[c.text for c in cells]}, half {cut}, bold {bold}"


# Files, results, badges ---------------------------------------------------------------------------


def test_downloads_hold_the_raw_numbers(audit: Audit) -> None:
    faults: list[str] = []
    for name, wanted in (("results", True), ("history", False)):
        cells = {
            (c.run["run_id"], c.digest): c for c in audit.cells if c.current == wanted
        }  # fmt: skip
        frame = pandas.read_parquet(audit.out / f"data/{name}.parquet")
        columns = json.loads((audit.out / f"data/{name}.json").read_text("utf-8"))["columns"]
        with (audit.out / f"data/{name}.csv").open(encoding="utf-8", newline="") as lines:
            spread = [row["value"] for row in csv.DictReader(lines)]
        assert [None if v != v else v for v in frame.value] == columns["value"]
        assert [float(v) if v else None for v in spread] == columns["value"]
        seen = set()
        for row in frame.itertuples(index=False):
            place = (row.run_id, row.case_id.rpartition("#")[2])
            seen.add(place)
            fault = _data_fault(row, cells[place])
            faults += [f"{name} {row.case_id} {row.metric}: {fault}"] if fault else []
        assert seen == cells.keys()
    assert faults == []


def _data_fault(row: object, c: Cell) -> str | None:
    get = row.__getattribute__
    if (get("outcome"), bool(get("stale"))) != (c.outcome, c.stale):
        return f"{get('outcome')}, stale {get('stale')}"
    floor = c.run["noise_floor"]
    if not _close(get("noise_floor"), floor):
        return f"noise {get('noise_floor')}, {floor}"
    if not isinstance(get("metric"), str) or get("value") != get("value"):
        return None if not c.samples.get(get("metric")) else "no number"
    stat = c.stat(get("metric"))
    if stat is None:
        return "nothing was measured"
    names = ("value", "low", "high", "p10", "p90")
    bad = [n for n, v in zip(names, stat[:5], strict=True) if not _close(get(n), v)]
    bad += ["counts"] if (get("samples"), get("rounds")) != stat[5:] else []
    return ", ".join(bad) or None


def _close(value: float, wanted: float | None) -> bool:
    if wanted is None:
        return value != value
    return math.isclose(value, wanted, rel_tol=1e-6, abs_tol=1e-15)


def test_result_pages_print_their_own_record(audit: Audit) -> None:
    """Every metric with its interval, every round with its median, of a page in eight."""
    cells = {(c.run["run_id"], f"c-{c.digest}"): c for c in audit.cells}
    columns = json.loads((audit.out / "data/columns.json").read_text("utf-8"))
    metrics = {m["title"]: m["name"] for m in columns["metrics"]}
    faults: list[str] = []
    seen = 0
    for file in sorted((audit.out / "results").rglob("*.html"))[::8]:
        page = BuiltPage(file)
        run_id = file.relative_to(audit.out / "results").parts[0]
        for table in page.tables.values():
            c = cells[run_id, table.panel or ""]
            first = table.heads[0].text
            for number, row in enumerate(table.rows):
                seen += 1
                right = True
                if first == "Metric":
                    right = _metric_is(row, c.stat(metrics[row[0].text]))
                elif first == "Round":
                    samples = c.samples["latency"][number]
                    right = says(row[1].text, float(np.median(samples)))
                    right = right and row[4].text == f"{len(samples):,}"
                faults += [] if right else [f"{file.name} {c.name} {[x.text for x in row]}"]
    assert faults == []
    assert seen > 100


def _metric_is(row: list[TableCell], stat: Stat | None) -> bool:
    if stat is None:
        return row[2].text == DASH
    if not says(row[1].text, stat.value):
        return False
    if row[2].text == DASH or stat.low is None or stat.high is None:
        return stat.low is None
    low, _, high = row[2].text.partition(" to ")
    if TIMES in high:
        return says(low, stat.low) and says(high, stat.high)
    unit = re.sub(r"^\S+\s*", "", high)
    return says(low, stat.low, unit) and says(high, stat.high) and stat.low >= 0


def test_badges_and_feed_count_what_there_is(audit: Audit) -> None:
    for file in (audit.out / "badges").rglob("*.json"):
        said = json.loads(file.read_text("utf-8"))
        px = int(said["label"].removesuffix(" px").rpartition(" ")[2])
        variant, machine = file.parent.name, file.stem
        cells = [
            c for c in audit.timed
            if context(c)[1] == "float32-forward-layer-one-h3d64" and c.machine == machine
            and c.of.get("resolution_px") == px and c.ranked
            and audit.known[c.variant].kind == audit.known[variant].kind
        ]  # fmt: skip
        rows = {c.name: s for c in cells if (s := c.stat("latency"))}
        places = recount.ranks(rows, recount.noise_of(
            c for c in audit.timed if context(c) == context(cells[0]) and size(c) == size(cells[0])
        ))  # fmt: skip
        mine = [c for c in cells if c.variant == variant]
        best = min(mine, key=lambda c: (int(places[c.name].strip("=")), rows[c.name].value))
        latency, _, rank = said["message"].partition(", ")
        assert says(latency, rows[best.name].value), said
        assert rank == f"rank {places[best.name]} of {len(rows)}", said
    feed = (audit.out / "feed.xml").read_text("utf-8")
    for run in audit.runs:
        found = re.search(rf"runs/{run['run_id']}\.html.*?<summary>([\d,]+) cells?, ([\d,]+) ",
                          feed, re.DOTALL)  # fmt: skip
        mine = [c for c in audit.cells if c.run is run]
        assert found is not None
        assert [int(g.replace(",", "")) for g in found.groups()] == [
            len(mine), sum(c.ok for c in mine)
        ]  # fmt: skip
