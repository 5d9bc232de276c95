"""Records of whole networks: accepted, judged by the rules, and rows of the table."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sample_run import sample_header, sample_records

from attention_impls import load_backbone
from bench.cases import images_case
from bench.catalogue import Catalogue, read_catalogue
from bench.model import Case, Images, Measured, Measurement, Ok, Record
from bench.rules import check_run
from bench.submission import StoredRun, identified
from bench.tidy import frames

ID = "vit_micro"
SIDE = 64
BATCH = 4


def network_case(**changed: Any) -> Case:
    one = images_case(
        ID, "inline", "reference", resolution_px=SIDE, dtype="float32", passes="forward",
        batch=BATCH, policy="image_budget",
    )  # fmt: skip
    return replace(one, stimulus=replace(one.stimulus, **changed)) if changed else one


def record(case: Case, **changed: float) -> Record:
    spec = load_backbone(ID).with_variant("inline")
    numbers = {
        "flops": spec.flops(SIDE, batch=BATCH),
        "parameters": spec.parameters(SIDE),
        "error": 1e-7,
    }
    measurements: list[Measurement] = [
        Measured(metric=name, rounds=((value,),)) for name, value in (numbers | changed).items()
    ]
    rounds = tuple(tuple(0.05 + 0.001 * i + 1e-5 * r for i in range(8)) for r in range(3))
    measurements.append(Measured(metric="latency", rounds=rounds))
    outcome = Ok(measurements=tuple(measurements), executed="reference", batch=BATCH)
    return Record(case=case, variant_revision=1, outcome=outcome)


def stored(one: Record) -> StoredRun:
    """The synthetic run of one variant, with one record of a network beside the others."""
    (file,) = sample_records(("inline",))
    one = replace(one, variant_revision=file.records[0].variant_revision)
    records = tuple(sorted((*file.records, one), key=lambda r: r.case.id))
    run, files = identified(sample_header(), [replace(file, records=records)])
    return StoredRun(run=run, files=files, folder=Path("sample"))


def findings(one: Record) -> set[str]:
    """Rules that object to the network's record and not to the run without it."""
    named = {f.rule for f in check_run(stored(one)) if f"({one.case.id})" in f.message}
    return named - {"R318", "R504", "R505"}  # it has a few metrics alone


def test_a_right_record_is_accepted() -> None:
    assert findings(record(network_case())) == set()


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda: record(network_case(), flops=1.0),
        lambda: record(network_case(backbone="resnet_50")),
        lambda: record(replace(network_case(), level="layer")),
        lambda: record(network_case(batch_policy="token_budget")),
        lambda: record(network_case(batch=8)),
        lambda: record(network_case(resolution_px=2)),
        lambda: record(network_case(), state_floats=3.0),
        lambda: record(network_case(), error=0.5),
    ],
    ids=["flops", "backbone", "level", "policy", "batch", "size", "metric", "error"],
)
def test_a_wrong_record_is_found(spoilt: Callable[[], Record]) -> None:
    """Negative controls."""
    assert findings(spoilt()) != set()


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return read_catalogue()


def test_a_network_is_a_row_with_images_per_second(catalogue: Catalogue) -> None:
    one = record(network_case())
    rows, _ = frames([stored(one)], catalogue)
    mine = rows[rows["case_id"] == one.case.id]
    assert set(mine["backbone"]) == {ID}
    assert set(mine["level"]) == {"model"}
    assert set(mine["resolution_px"]) == {SIDE}
    assert "throughput" not in set(mine["metric"])
    latency = mine[mine["metric"] == "latency"]["value"].item()
    images = mine[mine["metric"] == "image_throughput"]["value"].item()
    assert images == pytest.approx(BATCH / latency)
    others = rows[rows["case_id"] != one.case.id]
    assert others["backbone"].isna().all()


def test_the_catalogue_knows_every_network(catalogue: Catalogue) -> None:
    found = {entry.id: entry for entry in catalogue.backbones}
    spec = load_backbone(ID)
    assert found[ID].parameters == sum(p.numel() for p in spec.build().parameters())
    assert found[ID].macs == spec.flops() // 2
    assert isinstance(network_case().stimulus, Images)
