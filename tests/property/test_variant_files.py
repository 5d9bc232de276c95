"""What is wrong with the file of a variant is said: where, what was found, what is allowed.

Slips are loaded in a process without pytest's import hook, as `attnbench` loads them.
"""

import json
import re
from pathlib import Path

import pytest
from copied_tree import ROOT, examples, run_in

from attention_impls import registry
from attention_impls.registry import add_variant_file, load

EXAMPLE = examples()["attention_impls/variants/content_lambda.py"]


@pytest.fixture(autouse=True)
def nothing_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_outside", {})


def written(folder: Path, old: str = "", new: str = "", name: str = "content_lambda.py") -> Path:
    assert not old or EXAMPLE.count(old) == 1, f"{old!r} occurs {EXAMPLE.count(old)} times"
    path = folder / name
    path.write_text(EXAMPLE.replace(old, new) if old else EXAMPLE, encoding="utf-8")
    return path


def test_the_example_loads(tmp_path: Path) -> None:
    assert load(add_variant_file(written(tmp_path))).title == "Content lambda"


SLIPS = {
    "a field is forgotten": (
        "    state_floats=lambda shape, _options: shape.channels * shape.head_dim,\n", "",
        r":36: TypeError: .*missing 1 required keyword-only argument: 'state_floats'"),
    "a field has another name": (
        "    order=lambda", "    exponent=lambda", "unexpected keyword argument 'exponent'"),
    "a syntax error": ("def make(", "def make((", r":26: SyntaxError: "),
    "a package that is not there": (
        "from torch import Tensor\n", "import no_such_package\nfrom torch import Tensor\n",
        r":12: ModuleNotFoundError: No module named 'no_such_package'"),
    "no SPEC": ("SPEC = ", "SPECIFICATION = ", "SPEC is missing, must be an AttentionSpec named"),
    "another name": ('name="content_lambda"', 'name="lambda"', "SPEC is named 'lambda', must be"),
    "something else": ("SPEC = AttentionSpec(", "SPEC = dict(", "SPEC is a dict, must be"),
    "a family that is none": (
        'family="feature_map"', 'family="linear"', r"family is 'linear', must be one of softmax, "),
    "order is a number": (
        "order=lambda _options: 1.0", "order=1.0", r"order is 1\.0, must be a function"),
    "options are a class": (
        "options=NoOptions()", "options=NoOptions", "options is the class NoOptions, must be an i"),
    "options are a dict": (
        "options=NoOptions()", "options={}", r"options is \{\}, must be an instance of a frozen"),
    "an option is a list": (
        "options=NoOptions()", "options=NoOptions(qkv_bias=[1])",
        r"option qkv_bias is \[1\], must be a bool, int, float, str or None"),
    "deviations are one text": (
        'left out.",),', 'left out."),', "deviations is one text, must be a tuple of sentences"),
    "an option without default": (
        "options=NoOptions()",
        "options=__import__('dataclasses').make_dataclass('Mine', [('size', int)])()",
        r":\d+: TypeError: .*missing 1 required positional argument: 'size'"),
}  # fmt: skip


LOADED = """
import json, sys
from pathlib import Path
from attention_impls import registry

said = {}
for folder in sys.argv[1:]:
    registry._outside.clear()
    try:
        registry.load(registry.add_variant_file(Path(folder) / 'content_lambda.py'))
    except registry.VariantFileError as error:
        said[folder] = str(error)
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the registry says to each slip, after the path of the file."""
    folders = {slip: tmp_path_factory.mktemp("slip") for slip in SLIPS}
    for slip, folder in folders.items():
        written(folder, *SLIPS[slip][:2])
    done = run_in(ROOT, "-c", LOADED, *(str(folder) for folder in folders.values()))
    assert done.returncode == 0, done.stderr
    messages = json.loads(done.stdout)
    found = {slip: messages.get(str(folder), "") for slip, folder in folders.items()}
    return {
        slip: message.removeprefix(str(folders[slip] / "content_lambda.py"))
        for slip, message in found.items()
    }


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_named_with_its_place(slip: str, said: dict[str, str]) -> None:
    assert said[slip].startswith(":"), "the message begins with the path of the file"
    assert re.search(SLIPS[slip][2], said[slip]), said[slip]


@pytest.mark.parametrize(
    "name", ["content-lambda.py", "ContentLambda.py", "2lambda.py", "content_lambda.txt", "a b.py"]
)
def test_a_file_whose_name_no_variant_can_have_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(name) + ".*lower-case.*rename the file"):
        add_variant_file(written(tmp_path, name=name))


def test_a_name_of_the_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'softmax' is a variant of the tree; rename"):
        add_variant_file(written(tmp_path, name="softmax.py"))


def test_two_files_of_one_name_are_refused_and_one_file_twice_is_not(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    add_variant_file(written(tmp_path))
    add_variant_file(tmp_path / "content_lambda.py")
    with pytest.raises(ValueError, match=r"is already the variant of .*rename one"):
        add_variant_file(written(tmp_path / "other"))
