"""What a variant says about itself: name, source, options, refusals, pinned output."""

import ast
import dataclasses
import re

import pytest
import torch
from contract.checked_layer import AWKWARD, MAIN, OTHERS, closer, home, layer

from attention_impls.registry import source_file
from attention_impls.shapes import AttentionShape, UnsupportedShape
from attention_impls.spec import AttentionSpec
from bench.alternatives import discrete_alternatives
from bench.vector import differences


def name_is_the_files(spec: AttentionSpec) -> None:
    path = source_file(spec.name)
    assert path.stem == spec.name, f"{path.name}: SPEC.name is {spec.name!r}, must be {path.stem!r}"
    last = ast.parse(path.read_text(encoding="utf-8")).body[-1]
    assert isinstance(last, ast.Assign), f"{path.name}: SPEC must be the last object of the file"
    named = [t.id for t in last.targets if isinstance(t, ast.Name)]
    assert named == ["SPEC"], f"{path.name}: SPEC must be the last object of the file, not {named}"


def source_is_cited(spec: AttentionSpec) -> None:
    tree = ast.parse(source_file(spec.name).read_text(encoding="utf-8"))
    text = ast.get_docstring(tree) or ""
    assert spec.paper.url in text, f"the module's docstring must have {spec.paper.url}"
    assert re.search(r"^\s+\w.*=", text, re.M), "the module's docstring must have the formula"
    assert re.search(r"\\[a-z]+|[_^]", spec.formula), "formula must be LaTeX"
    for field in ("title", "venue", "equation"):
        assert getattr(spec.paper, field).strip(), f"paper.{field} is empty"
    assert spec.paper.authors, "paper.authors is empty"
    assert 2014 <= spec.paper.year <= 2100, f"paper.year is {spec.paper.year}, allowed 2014 to 2100"
    assert spec.paper.url.startswith("https://"), f"paper.url is {spec.paper.url}, must be https://"
    assert spec.revision >= 1, f"revision is {spec.revision}, must be >= 1"
    for sentence in (*spec.deviations, spec.scaling):
        assert sentence.rstrip().endswith("."), f"not a sentence: {sentence!r}"


def flops_formula_is_documented(spec: AttentionSpec) -> None:
    text = spec.core_flops.__doc__ or ""
    assert re.search(r"\d.*\b[NB]\b", text), "the docstring of core_flops must have the formula"


def vector_matches(spec: AttentionSpec) -> None:
    found = differences(spec)
    assert not found, "\n".join(found)


def options_are_strict(spec: AttentionSpec) -> None:
    options = spec.options
    assert dataclasses.is_dataclass(options), f"options are {options!r}, must be a dataclass"
    assert not isinstance(options, type), "options are a class, must be an instance: the defaults"
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        assert value is None or type(value) in (bool, int, float, str), (
            f"option {field.name} is {value!r}, must be a bool, int, float, str or None"
        )
        try:
            setattr(options, field.name, value)
        except dataclasses.FrozenInstanceError:
            continue
        raise AssertionError(f"option {field.name} can be changed: declare @dataclass(frozen=True)")
    with pytest.raises(TypeError):
        dataclasses.replace(options, no_such_option=1)

    @dataclasses.dataclass(frozen=True)
    class Foreign:
        qkv_bias: bool = True

    for call in (spec.build, spec.flops, spec.unsupported):
        with pytest.raises(TypeError, match="Foreign"):
            call(home(spec), Foreign())


def every_option_matters(spec: AttentionSpec) -> None:
    """Each discrete option changes the output, the parameters or the gradient."""
    spec = closer(spec)
    shape = home(spec)
    default = layer(spec, shape)
    parameters = {n: p.shape for n, p in default.state_dict().items()}
    x = torch.randn(shape.batch, shape.tokens, shape.channels, dtype=torch.float64,
                    generator=torch.Generator().manual_seed(1))  # fmt: skip
    for options in discrete_alternatives(spec.options):
        if spec.unsupported(shape, options):
            continue
        changed = layer(spec, shape, options)
        if {n: p.shape for n, p in changed.state_dict().items()} != parameters:
            continue
        if not torch.equal(changed(x, shape.grid), default(x, shape.grid)):
            continue
        ours, theirs = (_gradient(module, x, shape) for module in (default, changed))
        assert not torch.equal(ours, theirs), f"{options} gives the same function as the defaults"


def _gradient(module: torch.nn.Module, x: torch.Tensor, shape: AttentionShape) -> torch.Tensor:
    leaf = x.clone().requires_grad_()
    (module(leaf, shape.grid) * x.sin()).sum().backward()
    assert leaf.grad is not None
    return leaf.grad


def refusals_are_builds(spec: AttentionSpec) -> None:
    """`unsupported` gives reasons exactly where `build` raises, and the error has all of them."""
    for shape in (MAIN, *OTHERS, *AWKWARD, dataclasses.replace(MAIN, causal=True)):
        reasons = spec.unsupported(shape)
        assert all(isinstance(r, str) and len(r.split()) >= 3 for r in reasons), reasons
        if not reasons:
            layer(spec, shape)
            continue
        with pytest.raises(UnsupportedShape) as refusal:
            spec.build(shape)
        assert all(reason in str(refusal.value) for reason in reasons), (
            f"build says {refusal.value}, unsupported gives {reasons}"
        )


def official_names_are_adopted(spec: AttentionSpec) -> None:
    """The mapping gives names the layer has, and drops nothing that it does not know."""
    if spec.adopt_official is None:
        assert spec.paper.code is None, "paper.code is published, so adopt_official must map it"
        return
    assert spec.paper.code is not None, "adopt_official maps names of code that is not cited"
    square = torch.zeros(MAIN.channels, MAIN.channels)
    official = {}
    for _ in range(64):
        try:
            adopted = spec.adopt_official(official)
            break
        except KeyError as missing:
            name = str(missing.args[0])
            assert name not in official, f"{name}: refused although present"
            assert re.fullmatch(r"[\w.]+", name), f"asks for what is no parameter name: {name}"
            official[name] = square if name.endswith("weight") else square[0]
    else:
        raise AssertionError(f"asks for more and more names: {sorted(official)[:5]}")
    known = set(layer(spec, home(spec)).state_dict())
    assert set(adopted) <= known, f"maps onto unknown names: {sorted(set(adopted) - known)}"
    with pytest.raises(KeyError, match=r"nonexistent\.weight"):
        spec.adopt_official({**official, "nonexistent.weight": square})
