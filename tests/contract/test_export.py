"""Every layer goes through torch.export, whole, by a module that holds the grid."""

import json

import pytest
from contract.exported_in_a_fresh_process import STUBBORN
from copied_tree import ROOT, run_in

from attention_impls import names


def faults(*chosen: str) -> dict[str, str]:
    done = run_in(ROOT, "-W", "ignore", "-m", "contract.exported_in_a_fresh_process", *chosen)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_an_exported_layer_is_the_same_function_and_a_stubborn_one_is_noticed() -> None:
    found = faults("inline", STUBBORN)
    assert found["inline"] == ""
    assert "data-dependent" in found[STUBBORN]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_layer_can_be_exported() -> None:
    assert {name: fault for name, fault in faults(*names()).items() if fault} == {}
