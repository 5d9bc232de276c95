"""What a variant and a backend must declare about themselves."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from attention_impls.shapes import AttentionShape, Grid, UnsupportedShape

Family = Literal[
    "softmax", "pairwise", "feature_map", "low_rank", "local", "pooled", "sparse", "recurrent",
    "spectral", "hybrid",
]  # fmt: skip
DType = Literal["float32", "bfloat16", "float16"]
StateDict = Mapping[str, Tensor]


@runtime_checkable
class Mix(Protocol):
    """Core level: mixes values between tokens, given queries, keys and values.

    `x` is the layer's input; almost every mechanism ignores it (InLine's residual reads its mean).
    """

    def __call__(
        self,
        q: Float[Tensor, "batch heads tokens head_dim"],
        k: Float[Tensor, "batch heads tokens head_dim"],
        v: Float[Tensor, "batch heads tokens head_dim"],
        x: Float[Tensor, "batch tokens channels"],
        grid: Grid,
    ) -> Float[Tensor, "batch heads tokens head_dim"]:
        """Mix the values."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """Where a mechanism comes from."""

    title: str
    authors: tuple[str, ...]
    year: int
    venue: str
    url: str
    equation: str
    """Which equation or section defines the mechanism."""
    code: str | None
    """The authors' code with the commit that was read; None where none was published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """Statements about a variant with default options. Each is tested in both directions."""

    causal: bool
    """`causal=True` is computed; False means that it is refused."""
    any_grid: bool
    """A module built for one grid also works on others; False means that it refuses them."""
    extra_tokens: bool
    """Class tokens are supported; False means that they are refused."""
    permutation_equivariant: bool
    """Permuting the tokens permutes the output and changes nothing else."""
    rows_sum_to_one: bool
    """The implied attention matrix has rows that sum to 1 (local branches switched off)."""
    nonnegative_weights: bool
    """The implied attention matrix has no negative entry (local branches switched off)."""
    approximates_softmax: bool
    """The mechanism is meant to give the output of softmax attention for the same q, k, v."""
    deterministic_eval: bool
    """Two calls in evaluation mode give the same bits."""
    continuous: bool = True
    """Small changes of the input change the output little; False: they can change a choice (of
    keys, of a bucket), and rounding, too, can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """Largest accepted error: |got - want| <= absolute + relative * max|want|."""

    absolute: float
    relative: float


def square_projections(count: int) -> Callable[[AttentionShape, Any], int]:
    """FLOPs of `count` channels-to-channels linear maps: 2 count batch tokens channels^2."""

    def flops(shape: AttentionShape, _options: Any) -> int:
        return 2 * count * shape.batch * shape.tokens * shape.channels**2

    return flops


_FOUR_PROJECTIONS = square_projections(4)


def nothing_unsupported(_shape: AttentionShape, _options: Any) -> tuple[str, ...]:
    """Reasons of a variant that computes every shape its traits admit: none."""
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSpec:
    """One mechanism: its mathematics, costs, source and limits. The last object of its file."""

    name: str
    """Identifier; equals the file's name."""
    title: str
    """Name for people."""
    family: Family
    paper: Paper
    revision: int
    """Raised whenever an output or a formula changes; older results become stale."""
    formula: str
    """The mathematics in LaTeX, symbols as in the module docstring."""
    deviations: tuple[str, ...]
    """Sentences: where this differs from the paper or from the authors' code, and why."""
    scaling: str
    """One sentence: what becomes of the options when the grid grows."""
    options: Any
    """Hyper-parameters: a frozen dataclass instance that holds the published defaults."""
    make: Callable[[AttentionShape, Any], nn.Module]
    """Builds the layer; call `build`, which checks first."""
    core_flops: Callable[[AttentionShape, Any], int]
    """FLOPs of one forward mix, without projections."""
    projection_flops: Callable[[AttentionShape, Any], int] = _FOUR_PROJECTIONS
    """FLOPs of the maps around the mix (by default q, k, v and out)."""
    order: Callable[[Any], float]
    """Exponent of `core_flops` in tokens for large square grids, given the options."""
    state_floats: Callable[[AttentionShape, Any], int]
    """Numbers per sequence that summarise all keys and values for a query (2 N C for softmax)."""
    traits: Traits
    own_limits: Callable[[AttentionShape, Any], tuple[str, ...]] = nothing_unsupported
    """Reasons beyond the traits why a shape cannot be computed; call `unsupported`."""
    uncounted: Callable[[AttentionShape, Any], tuple[int, str]] | None = None
    """FLOPs that operator counters cannot see, and the sentence why."""
    adopt_official: Callable[[StateDict], dict[str, Tensor]] | None = None
    """Maps the authors' parameter names of one attention module onto ours; None: no code."""

    def __post_init__(self) -> None:
        if problems := [*self._wrong_fields(), *_wrong_options(self.options)]:
            raise TypeError(f"AttentionSpec {self.name!r}: " + "; ".join(problems))

    def _wrong_fields(self) -> Iterator[str]:
        """Sentences about fields that no variant can work with."""
        for name, type_ in (("paper", Paper), ("traits", Traits), ("revision", int)):
            if type(value := getattr(self, name)) is not type_:
                yield f"{name} is {value!r}, must be of type {type_.__name__}"
        for name in ("make", "core_flops", "projection_flops", "order", "state_floats"):
            if not callable(value := getattr(self, name)):
                yield f"{name} is {value!r}, must be a function: see its docstring in AttentionSpec"
        if self.family not in get_args(Family):
            yield f"family is {self.family!r}, must be one of {', '.join(get_args(Family))}"
        if isinstance(self.deviations, str):
            yield "deviations is one text, must be a tuple of sentences; one takes a comma: (..., )"

    def unsupported(self, shape: AttentionShape, options: Any = None) -> tuple[str, ...]:
        """Return every reason why `shape` cannot be computed; an empty tuple means that it can.

        Raises:
            TypeError: `options` is not of this variant's options class, `shape` no AttentionShape.
        """
        chosen = self.checked_options(options)
        _require_shape(self.name, shape)
        reasons: list[str] = []
        if shape.causal and not self.traits.causal:
            reasons.append("no causal form: use causal=False")
        if shape.extra_tokens and not self.traits.extra_tokens:
            reasons.append(f"no class tokens: got extra_tokens={shape.extra_tokens}, allowed 0")
        return (*reasons, *self.own_limits(shape, chosen))

    def build(self, shape: AttentionShape, options: Any = None) -> nn.Module:
        """Build the layer for `shape`; `options=None` takes the published defaults.

        Tables that follow from shape and options are no part of the layer's state dict: a layer
        that was built on the meta device is built again where it runs, not filled by `to_empty`.

        Raises:
            UnsupportedShape: with every reason.
            TypeError: `options` is not of this variant's options class, `shape` no AttentionShape.
        """
        chosen = self.checked_options(options)
        if reasons := self.unsupported(shape, chosen):
            raise UnsupportedShape(f"{self.name}: " + "; ".join(reasons))
        return self.make(shape, chosen)

    def flops(self, shape: AttentionShape, options: Any = None) -> int:
        """FLOPs of one forward pass at layer level (one multiply-add = 2, contractions only).

        Raises:
            TypeError: `options` is not of this variant's options class, `shape` no AttentionShape.
        """
        chosen = self.checked_options(options)
        _require_shape(self.name, shape)
        return self.core_flops(shape, chosen) + self.projection_flops(shape, chosen)

    def checked_options(self, options: Any) -> Any:
        """Return `options`, or the defaults for None; refuse options of another variant."""
        if options is None:
            return self.options
        if type(options) is not type(self.options):
            raise TypeError(
                f"{self.name}: options are {type(options).__name__}, "
                f"must be {type(self.options).__name__}"
            )
        return options


def _require_shape(name: str, shape: AttentionShape) -> None:
    if type(shape) is not AttentionShape:
        raise TypeError(
            f"{name}: shape is {shape!r}, must be an "
            "AttentionShape(batch, Grid(height, width), heads, head_dim)"
        )


def _wrong_options(options: Any) -> Iterator[str]:
    """Sentences about options that a case could not name, change or compare."""
    if isinstance(options, type) or not is_dataclass(options):
        found = f"the class {options.__name__}" if isinstance(options, type) else repr(options)
        yield f"options is {found}, must be an instance of a frozen dataclass: your defaults"
        return
    for field in fields(options):
        value = getattr(options, field.name)
        if value is not None and type(value) not in (bool, int, float, str):
            yield f"option {field.name} is {value!r}, must be a bool, int, float, str or None"


@dataclass(frozen=True, slots=True, kw_only=True)
class NoOptions:
    """Options of a mechanism that has none beyond the projections' bias."""

    qkv_bias: bool = True
    """The input projections have a bias."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """What a backend is asked to run."""

    variant: str
    shape: AttentionShape
    options: Any
    dtype: DType
    backward: bool
    """Gradients are needed."""
    device: str
    """`cpu` or `cuda`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One faster execution of one variant, over the very same parameters."""

    variant: str
    """The variant it executes."""
    name: str
    """Identifier within the variant: the file is `<variant>_<name>.py`."""
    title: str
    requires: tuple[str, ...]
    """Import names of optional packages; a missing one is a reason, not an ImportError."""
    unsupported: Callable[[Execution], tuple[str, ...]]
    """Reasons why an execution is impossible; empty means possible."""
    adopt: Callable[[nn.Module], nn.Module]
    """Wraps the reference layer (level `layer`) without copying or changing parameters."""
    tolerance: Mapping[DType, Tolerance]
    """Accepted difference from the reference run in float64, forward and gradients."""
    executed: Callable[[Execution], str] | None = None
    """Names the kernel family that an execution really uses, where torch can choose."""
