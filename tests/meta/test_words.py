"""One word an idea (docs/glossary.md): public names are searched for the synonyms it refuses."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("attention_impls", "bench", "site/leaderboard")
TEMPLATES = ROOT / "site" / "leaderboard" / "templates"

INSTEAD = {
    "impl": "variant or backend", "impls": "variants or backends", "method": "variant",
    "naive": "reference", "vanilla": "reference", "eager": "reference",
    "provider": "backend", "engine": "backend",
    "kwargs": "options", "hparams": "options",
    "hyperparameters": "options", "hyperparams": "options",
    "params": "parameters (learned) or options",
    "cfg": "options or protocol", "config": "options or protocol", "conf": "options or protocol",
    "dims": "shape", "embed": "channels", "dmodel": "channels", "hidden": "channels",
    "nheads": "heads", "dhead": "head_dim", "seqlen": "tokens", "ntokens": "tokens",
    "experiment": "case", "suite": "plan", "submission": "run",
    "runtime": "latency", "elapsed": "latency or wall time", "speed": "throughput",
    "vram": "peak memory", "autoregressive": "causal", "unidirectional": "causal",
    "mflops": "flops, in base units", "gflops": "flops, in base units",
    "tflops": "flops, in base units",
    "ms": "_s, in base units", "mb": "_bytes", "gb": "_bytes", "mib": "_bytes", "gib": "_bytes",
    "util": "a name from the mathematics", "utils": "a name from the mathematics",
    "helper": "a name from the mathematics", "helpers": "a name from the mathematics",
    "common": "a name from the mathematics", "misc": "a name from the mathematics",
    "manager": "what it manages", "get": "a noun", "do": "a verb that says what",
}  # fmt: skip
"""Word of a name -> what the glossary says instead."""

ALLOWED = {
    "get_params": "click's name of what a command overrides",
    "attention_impls": "the package itself, named before the glossary",
    "bench/submission.py": "the module that takes submitted runs in",
    "suite_version": "the version of this distribution, a field of the file format",
}
"""Names that are right although a word of theirs is refused, and why."""


def words(name: str) -> list[str]:
    """`peakMemory_bytes` -> peak, memory, bytes."""
    return re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower().split("_")


def public(name: str) -> bool:
    return not name.startswith("_")


def public_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Functions, classes, fields, constants and arguments that callers can see."""
    for node in tree.body:
        yield from _names_of(node)


def _names_of(node: ast.stmt) -> Iterator[tuple[int, str]]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() if public(node.name):
            yield node.lineno, node.name
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            yield from ((a.lineno, a.arg) for a in arguments if public(a.arg))
        case ast.ClassDef() if public(node.name):
            yield node.lineno, node.name
            for inner in node.body:
                yield from _names_of(inner)
        case ast.AnnAssign(target=ast.Name(id=name)) if public(name):
            yield node.lineno, name
        case ast.Assign():
            targets = [t for t in node.targets if isinstance(t, ast.Name)]
            yield from ((t.lineno, t.id) for t in targets if public(t.id))
        case _:
            pass


def refused_words(name: str) -> list[str]:
    if name in ALLOWED:
        return []
    return [f"{word!r} in {name!r}: say {INSTEAD[word]}" for word in words(name) if word in INSTEAD]


def refused_names(text: str) -> list[str]:
    tree = ast.parse(text)
    return [f"{line}: {why}" for line, name in public_names(tree) for why in refused_words(name)]


def open_ended_arguments(text: str) -> list[str]:
    """Functions that take any keyword: a misspelt option would pass in silence."""
    functions = (n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef))
    return [
        f"{f.lineno}: {f.name}(**{f.args.kwarg.arg})"
        for f in functions
        if f.args.kwarg and (public(f.name) or f.args.kwarg.arg == "kwargs")
    ]


def unescaped(text: str) -> list[str]:
    """Places where text would reach a page without being escaped."""
    return re.findall(r"\|\s*safe\b|\{%-?\s*autoescape\s+false|\bMarkup\(", text)


FILES = [
    pytest.param(path, id=path.relative_to(ROOT).as_posix())
    for source in SOURCES
    for path in sorted((ROOT / source).rglob("*.py"))
]


@pytest.mark.parametrize("path", FILES)
def test_public_names_use_the_glossary(path: Path) -> None:
    assert refused_names(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", FILES)
def test_the_file_has_a_name_of_its_own(path: Path) -> None:
    if path.relative_to(ROOT).as_posix() not in ALLOWED:
        assert refused_words(path.stem) == []


@pytest.mark.parametrize("path", FILES)
def test_no_function_takes_any_keyword(path: Path) -> None:
    assert open_ended_arguments(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", FILES)
def test_nothing_is_marked_safe_in_python(path: Path) -> None:
    assert unescaped(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "path", [pytest.param(p, id=p.name) for p in sorted(TEMPLATES.rglob("*")) if p.is_file()]
)
def test_nothing_is_marked_safe_in_templates(path: Path) -> None:
    assert unescaped(path.read_text(encoding="utf-8")) == []


def test_there_are_files_and_templates_to_search() -> None:
    assert len(FILES) > 40
    assert any(TEMPLATES.rglob("*.html"))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("def get_flops(): ...", "get"),
        ("def do_run(): ...", "do"),
        ("class RunManager: ...", "manager"),
        ("class ShapeHelper: ...", "helper"),
        ("def build(shape, cfg): ...", "cfg"),
        ("def build(*, hyperparams): ...", "hyperparams"),
        ("class Spec:\n    naive: bool", "naive"),
        ("class Spec:\n    def vanilla(self): ...", "vanilla"),
        ("PEAK_VRAM = 3", "vram"),
        ("def latency_ms(): ...", "ms"),
    ],
)
def test_a_synonym_is_refused(text: str, word: str) -> None:
    """Negative control of the search for synonyms."""
    (refusal,) = refused_names(text)
    assert f"{word!r} in" in refusal


def test_private_names_and_allowed_words_pass() -> None:
    assert refused_names("def _get(): ...\ndef state_floats(options): ...\npeak_memory = 1") == []


@pytest.mark.parametrize("name", ["utils", "helpers", "common", "misc", "page_utils"])
def test_a_module_for_everything_is_refused(name: str) -> None:
    """Negative control of the file names."""
    assert refused_words(name) != []


def test_open_ended_arguments_are_found() -> None:
    """Negative control of the keyword search."""
    assert open_ended_arguments("def build(shape, **options): ...") == ["1: build(**options)"]
    assert open_ended_arguments("def _build(**kwargs): ...") == ["1: _build(**kwargs)"]
    assert open_ended_arguments("def build(shape, *, options): ...") == []


def test_every_allowed_name_still_exists() -> None:
    """An exception that nothing needs any more must go."""
    text = "\n".join(p.values[0].read_text(encoding="utf-8") for p in FILES)
    for name in ALLOWED:
        assert (ROOT / name).exists() or re.search(rf"\b{name}\b", text), name


@pytest.mark.parametrize("text", ["{{ x|safe }}", "{{ x | safe }}", "Markup(text)",
                                  "{% autoescape false %}"])  # fmt: skip
def test_unescaped_text_is_found(text: str) -> None:
    """Negative control of the template search."""
    assert unescaped(text) != []
