"""The contract is run on a file that is not in the tree yet, as CONTRIBUTING.md shows it."""

import subprocess
import sys
from pathlib import Path

import pytest
from copied_tree import ROOT, examples

FEW = "name_is_the_files or vector_matches or options_are_strict"


def contract(file: Path) -> "subprocess.CompletedProcess[str]":
    options = ("-q", "-rs", "--benchmark-disable", "-p", "no:xdist", "-k", FEW)
    command = (sys.executable, "-m", "pytest", "tests/contract/test_variants.py", *options,
               "--variant-file", str(file))  # fmt: skip
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("slip", [False, True])
def test_a_file_from_elsewhere_meets_the_contract_alone(slip: bool, tmp_path: Path) -> None:
    text = examples()["attention_impls/variants/content_lambda.py"]
    file = tmp_path / "content_lambda.py"
    file.write_text(text + "AFTER = 1\n" * slip, encoding="utf-8")
    done = contract(file)
    assert done.returncode == int(slip), done.stdout + done.stderr
    assert "nox -s vector -- NAME" in done.stdout
    assert ("1 failed, 1 passed, 3 skipped" if slip else "2 passed, 3 skipped") in done.stdout
    assert ("SPEC must be the last object of the file, not ['AFTER']" in done.stdout) == slip


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    done = contract(tmp_path / "absent.py")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "absent.py: no such file" in done.stderr
