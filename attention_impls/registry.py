"""Finds variants, backends and backbones by looking at files. Listing imports no torch."""

import difflib
import importlib
import importlib.util
import pkgutil
import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attention_impls.backbone import BackboneSpec
    from attention_impls.spec import AttentionSpec, Backend

_HERE = Path(__file__).parent
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_outside: dict[str, Path] = {}


class UnknownName(LookupError):  # noqa: N818 - named for what is wrong
    """A name that no file carries; the message has the nearest names."""


class VariantFileError(TypeError):
    """The file of a variant cannot be used; the message says where, what is wrong, what to do."""


def unknown(kind: str, name: str, known: tuple[str, ...]) -> UnknownName:
    """Build the error for `name`: what, nearest names, all names."""
    near = difflib.get_close_matches(name, known, n=3)
    hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    return UnknownName(f"no {kind} {name!r}.{hint} Known: {', '.join(known) or 'none'}.")


def names_in(folder: Path) -> tuple[str, ...]:
    """Return the module names in `folder`, sorted: one file is one thing of the folder's kind."""
    found = (m.name for m in pkgutil.iter_modules([str(folder)]))
    return tuple(sorted(n for n in found if not n.startswith("_")))


def add_variant_file(path: Path) -> str:
    """Make a variant from outside the tree known under its file name; return that name.

    Raises:
        ValueError: the file does not exist, is no Python file, or has a name that a variant cannot
            have, or that of another variant.
    """
    if not path.is_file():
        raise ValueError(f"variant file {path}: no such file")
    name = path.stem
    if path.suffix != ".py" or not _NAME.fullmatch(name):
        raise ValueError(
            f"variant file {path}: the name must be that of its variant, lower-case letters, "
            "digits and underscores, and end with .py; rename the file"
        )
    if name in names_in(_HERE / "variants"):
        raise ValueError(
            f"variant file {path}: {name!r} is a variant of the tree; rename the file and the "
            "name in its SPEC"
        )
    if _outside.get(name, path.resolve()) != path.resolve():
        raise ValueError(
            f"variant file {path}: {name!r} is already the variant of {_outside[name]}; rename one "
            "of the files and the name in its SPEC"
        )
    _outside[name] = path.resolve()
    load.cache_clear()
    return name


def outside_files() -> tuple[Path, ...]:
    """Return the variant files made known by `add_variant_file`, in that order."""
    return tuple(_outside.values())


def outside_names() -> tuple[str, ...]:
    """Return the names of the variants made known by `add_variant_file`, in that order."""
    return tuple(_outside)


def names() -> tuple[str, ...]:
    """Return the names of all variants, sorted."""
    return tuple(sorted({*names_in(_HERE / "variants"), *_outside}))


@cache
def load(name: str) -> "AttentionSpec":
    """Return the spec of variant `name`.

    Raises:
        UnknownName: no such file.
        VariantFileError: the file cannot be imported, has no `SPEC`, or one with another name.
    """
    path = source_file(name)
    try:
        module = _module(name)
    except Exception as error:
        raise VariantFileError(
            f"{path}{_line(error, path)}: {type(error).__name__}: {error}. The variant {name} "
            "cannot be loaded; CONTRIBUTING.md shows a complete file"
        ) from error
    spec_type = importlib.import_module("attention_impls.spec").AttentionSpec
    spec: Any = getattr(module, "SPEC", None)
    if isinstance(spec, spec_type) and spec.name == name:
        return spec
    if spec is None:
        found = "missing"
    elif isinstance(spec, spec_type):
        found = f"named {spec.name!r}"
    else:
        found = f"a {type(spec).__name__}"
    raise VariantFileError(
        f"{path}: SPEC is {found}, must be an AttentionSpec named {name!r} (the file's name)"
    )


def source_file(name: str) -> Path:
    """Return the file that defines variant `name`."""
    if name not in names():
        raise unknown("attention variant", name, names())
    return _outside.get(name, _HERE / "variants" / f"{name}.py")


def backends(name: str) -> tuple[str, ...]:
    """Return the backends of variant `name`: `reference`, `compile`, then those with a file."""
    known = names()
    if name not in known:
        raise unknown("attention variant", name, known)
    own = (f for f in names_in(_HERE / "backends") if _variant_of(f, known) == name)
    return ("reference", "compile", *(f.removeprefix(f"{name}_") for f in own))


@cache
def load_backend(variant: str, name: str) -> "Backend":
    """Return backend `name` of `variant` (not `reference`, which is the variant itself).

    Raises:
        UnknownName: no such backend.
    """
    if name not in backends(variant) or name == "reference":
        raise unknown(f"backend of {variant}", name, backends(variant))
    if name == "compile":
        return importlib.import_module("attention_impls.compiled").compile_backend(variant)
    return importlib.import_module(f"attention_impls.backends.{variant}_{name}").BACKEND


def backbones() -> tuple[str, ...]:
    """Return the ids of all whole models, sorted: the keys of each family's `BACKBONES`."""
    return tuple(sorted(_backbones()))


def load_backbone(id_: str) -> "BackboneSpec":
    """Return the spec of whole model `id_`.

    Raises:
        UnknownName: no family has it.
    """
    if id_ not in _backbones():
        raise unknown("backbone", id_, backbones())
    return _backbones()[id_]


@cache
def _backbones() -> dict[str, "BackboneSpec"]:
    """Return every whole model by id; an id in two families is an error."""
    found: dict[str, BackboneSpec] = {}
    for family in names_in(_HERE / "backbones"):
        models = importlib.import_module(f"attention_impls.backbones.{family}").BACKBONES
        if twice := sorted(set(found) & set(models)):
            raise TypeError(f"attention_impls/backbones/{family}.py: {twice[0]} exists already")
        found |= models
    return found


def _variant_of(backend_file: str, known: tuple[str, ...]) -> str | None:
    owners = [n for n in known if backend_file.startswith(f"{n}_")]
    return max(owners, key=len, default=None)


def _line(error: Exception, path: Path) -> str:
    """`:12`, the last line of `path` that the error passed through; nothing where it did not."""
    if isinstance(error, SyntaxError):
        return f":{error.lineno}"
    trace, found = error.__traceback__, ""
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            found = f":{trace.tb_lineno}"
        trace = trace.tb_next
    return found


def _module(name: str) -> ModuleType:
    if name not in _outside:
        return importlib.import_module(f"attention_impls.variants.{name}")
    spec = importlib.util.spec_from_file_location(f"attention_outside_{name}", _outside[name])
    if spec is None or spec.loader is None:
        raise ValueError(f"variant file {_outside[name]}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    # where Python looks classes up by name: to pickle a layer, to read annotations that are text
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(spec.name, None)  # the file may have taken itself out
        raise
    return module
