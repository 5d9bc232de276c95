"""Each check of the contract refuses a variant that is broken in the one way it is about."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from contract.checks import CHECKS, failing

from attention_impls import registry
from attention_impls.registry import add_variant_file, load
from attention_impls.spec import AttentionSpec
from bench import vector

TOY = Path(__file__).parent / "toy_linear.py"
END_OF_MIX = "        return mixed if self.local is None"
START_OF_MIX = "        queries, keys = self.map(q) + 1 + 1e-6, self.map(k) + 1 + 1e-6\n"
LAYER = "    return MultiHead(shape, ToyMix(shape, options))"
SUBCLASS = "\n\nclass Broken(MultiHead):\n    def forward(self, x, grid):\n"


def before_return(*lines: str) -> tuple[str, str]:
    """Insert statements before the mix returns."""
    return END_OF_MIX, "".join(f"        {line}\n" for line in lines) + END_OF_MIX


def in_local_branch(term: str) -> tuple[str, str]:
    """Add a term that is absent where the local branch is switched off."""
    return before_return(f"mixed = mixed if self.local is None else mixed + {term}")


def in_constructor(*lines: str) -> tuple[str, str]:
    """Insert statements into the constructor of the mix."""
    first = "        self.causal = shape.causal\n"
    return first, first + "".join(f"        {line}\n" for line in lines)


def layer_class(*lines: str) -> tuple[str, str]:
    """Replace the layer's forward pass."""
    body = "".join(f"        {line}\n" for line in lines)
    made = LAYER.replace("MultiHead", "Broken")
    return f'"""Build the layer."""\n{LAYER}', f'"""Build the layer."""\n{made}{SUBCLASS}{body}'


def trait(name: str, value: bool) -> tuple[str, str]:
    return f"{name}={value}", f"{name}={not value}"


CONTROLS: dict[str, tuple[tuple[str, str], set[str]]] = {
    "something follows SPEC": (
        (")  # fmt: skip\n", ")  # fmt: skip\nAFTER = 1\n"), {"name_is_the_files"}),
    "no source in the docstring": (
        ("Source: invented for the tests, https://example.org/toy.", "."), {"source_is_cited"}),
    "a deviation is no sentence": (("never published.", "never published"), {"source_is_cited"}),
    "FLOPs formula is not documented": (
        ('"""2 B N C (2 d + 1): keys', '"""Keys'), {"flops_formula_is_documented"}),
    "options can be changed": (
        ("@dataclass(frozen=True, slots", "@dataclass(unsafe_hash=True, slots"),
        {"options_are_strict"}),
    "an option has no effect": (
        ('    """phi."""\n', '    """phi."""\n    idle: bool = False\n'), {"every_option_matters"}),
    "a refusal says nothing": (
        ("    uncounted=uncounted,", ("    uncounted=uncounted,\n    own_limits=lambda shape, _: "
         "('no',) if shape.grid.height == 17 else (),")), {"refusals_are_builds"}),
    "build refuses what unsupported does not": (
        (LAYER, ("    if shape.grid.height == 17:\n        from attention_impls.shapes import "
         f"UnsupportedShape\n        raise UnsupportedShape('no')\n{LAYER}")),
        {"refusals_are_builds", "awkward_shapes_are_right_or_refused"}),
    "published parameters are dropped": (
        ("    return adopt_projections(official,",
         ("    official = {n: t for n, t in official.items() if n != 'nonexistent.weight'}\n"
         "    return adopt_projections(official,")), {"official_names_are_adopted"}),
    "published parameters go nowhere": (
        ("    return adopt_projections(official,",
         "    return {'mix.typo': official['to_q.weight']} | adopt_projections(official,"),
        {"official_names_are_adopted"}),
    "no mapping for published code": (
        ("    adopt_official=adopt_official,\n", ""), {"official_names_are_adopted"}),
    "dtype is not kept": (
        layer_class("return super().forward(x, grid).double()"),
        {"shape_and_dtype_are_kept", "half_precision_is_close"}),
    "a token is lost on a grid of 2x7": (
        layer_class("out = super().forward(x, grid)",
                    "return out[:, 1:] if (grid.height, grid.width) == (2, 7) else out"),
        {"awkward_shapes_are_right_or_refused"}),
    "any number of tokens is taken": (
        layer_class("q, k, v = self.project(x)",
                    "mixed = self.mix(q, k, v, x, grid)",
                    "return self.out(mixed.transpose(1, 2).flatten(2))"),
        {"wrong_number_of_tokens_is_refused"}),
    "queries are overwritten": (
        before_return("if not q.requires_grad:", "    q.add_(1)"), {"inputs_are_not_mutated"}),
    "a buffer counts the calls": (
        in_constructor("self.register_buffer('calls', torch.zeros(()))",
                       "self.register_forward_pre_hook(lambda m, _: m.calls.add_(1) is m or None)"),
        {"inputs_are_not_mutated", "copies_are_the_same_function"}),
    "keys get no gradient": (
        (START_OF_MIX, START_OF_MIX + "        keys = keys.detach()\n"), {"gradients_are_right"}),
    "a parameter plays no part": (
        in_constructor("self.idle = nn.Parameter(torch.zeros(3))"), {"gradients_are_right"}),
    "NaN for large inputs": (
        before_return("mixed = torch.where(q.abs().amax() > 60, torch.nan, mixed)"),
        {"hard_inputs_stay_finite"}),
    "NaN gradient for equal tokens": (
        in_local_branch("0 * (v - v[:, :, :1]).square().mean((1, 2, 3), keepdim=True).sqrt()"),
        {"hard_inputs_stay_finite"}),
    "batch items see each other": (
        in_local_branch("v.mean(0, keepdim=True)"), {"batch_items_are_independent"}),
    "strided values give another result": (
        before_return("mixed = mixed if v.is_contiguous() else 1.01 * mixed"),
        {"memory_layout_does_not_matter"}),
    "two builds differ": (
        in_constructor("self.register_buffer('drawn', torch.tensor(torch.seed() % 1000003))"),
        {"builds_are_reproducible"}),
    "half precision is another function": (
        before_return("mixed = 1.5 * mixed if v.element_size() == 2 else mixed"),
        {"half_precision_is_close", "autocast_is_close"}),
    "float16 sums overflow": (
        (START_OF_MIX, START_OF_MIX + "        keys = 8 * v.shape[2] * keys\n"),
        {"half_precision_is_finite_on_long_inputs"}),
    "a build draws what the state dict does not hold": (
        ("self.map = F.elu if",
         "self.map = __import__('functools').partial(F.elu, alpha=torch.rand(()).item()) if"),
        {"copies_are_the_same_function"}),
    "a lambda in the layer": (
        in_constructor("self.idle = lambda: 0"), {"copies_are_the_same_function"}),
    "what inference made is kept": (
        (START_OF_MIX, "        if not hasattr(self, 'kept'):\n"
         "            self.kept = torch.ones(()) * 1\n"
         "        q = q * self.kept\n" + START_OF_MIX),
        {"modes_are_one_function"}),
    "autocast is not finite": (
        before_return("mixed = mixed * (torch.nan if torch.is_autocast_enabled('cpu') else 1)"),
        {"autocast_is_close"}),
    "a table is viewed flat": (
        layer_class("if not hasattr(self, 'table'):",
                    "    table = torch.ones(1, 2, 2, 2)",
                    "    self.register_buffer('table', table, persistent=False)",
                    "self.table.view(8)",
                    "return super().forward(x, grid)"),
        {"channels_last_is_the_same_function"}),
    "causal is ignored": (("self.causal = shape.causal", "self.causal = False"), {"causal_trait"}),
    "causal sees one token ahead": (
        ("mixed = mixed / (queries * keys.cumsum(2))",
         "mixed = mixed / (queries * keys.cumsum(2).roll(-1, 2))"), {"causal_trait"}),
    "causal always": (("self.causal = shape.causal", "self.causal = True"),
                      {"causal_trait", "permutation_equivariant_trait", "extra_tokens_trait",
                       "flops_equal_both_counters", "half_precision_is_finite_on_long_inputs"}),
    "stale: other grids work": (trait("any_grid", True), {"any_grid_trait"}),
    "another grid is another function": (
        ("nn.Parameter(torch.zeros(shape.heads)) if options.local_size else None",
         ("nn.Parameter(torch.zeros(shape.heads)) if options.local_size else None\n"
         "        self.rows = shape.grid.height\n"
         "        self.register_forward_hook(lambda m, _, out: out if m.local is None else "
         "out + 0.01 * m.rows)")),
        {"any_grid_trait", "copies_are_the_same_function"}),
    "class token is not seen": (
        (START_OF_MIX, START_OF_MIX + "        if k.shape[2] > grid.tokens:\n"
         "            keys = torch.cat((0 * keys[:, :, :1], keys[:, :, 1:]), 2)\n"),
        {"extra_tokens_trait"}),
    "stale: permutation equivariant": (
        trait("permutation_equivariant", True), {"permutation_equivariant_trait"}),
    "place matters": (
        in_local_branch("v * (torch.arange(v.shape[2]).to(v) % 7).view(-1, 1)"),
        {"permutation_equivariant_trait"}),
    "stale: rows sum to one": (trait("rows_sum_to_one", True), {"rows_sum_to_one_trait"}),
    "rows sum to 1.01": (before_return("mixed = 1.01 * mixed"), {"rows_sum_to_one_trait"}),
    "stale: weights are not negative": (
        trait("nonnegative_weights", True), {"nonnegative_weights_trait"}),
    "a weight is negative": (
        before_return("mixed = mixed if self.causal else mixed + v.mean(2, keepdim=True) - v"),
        {"nonnegative_weights_trait"}),
    "the mix is not linear in v": (
        before_return("mixed = mixed.tanh()"),
        {"rows_sum_to_one_trait", "nonnegative_weights_trait"}),
    "stale: approximates softmax": (
        trait("approximates_softmax", False), {"approximates_softmax_trait"}),
    "stale: deterministic": (trait("deterministic_eval", True), {"deterministic_trait"}),
    "two calls differ in the last bit": (
        before_return("mixed = mixed * (1 + 1e-13 * torch.rand(()).to(mixed))"),
        {"deterministic_trait", "copies_are_the_same_function", "modes_are_one_function"}),
    "stale: continuous": (trait("continuous", True), {"continuous_trait"}),
    "the output jumps": (
        in_local_branch(
            "(0 if self.causal else 0.02 * (200 * v.mean((1, 2, 3), keepdim=True)).round())"),
        {"continuous_trait"}),
    "FLOPs forget the normaliser": (
        ("(2 * shape.head_dim + 1)", "(2 * shape.head_dim)"), {"flops_equal_both_counters"}),
    "FLOPs are no integer": (
        ("(2 * shape.head_dim + 1)", "(2 * shape.head_dim + 1.0)"), {"flops_equal_both_counters"}),
    "an operator no counter knows": (
        before_return("mixed = mixed + 0 * v.atan()"),
        {"flops_equal_both_counters"}),
    "uncounted FLOPs without a sentence": (
        ('"outer products and row sums are written as multiply-and-sum"', '""'),
        {"flops_equal_both_counters"}),
    "wrong order": (("_options: 1.0", "_options: 2.0"), {"order_is_the_growth_of_flops"}),
    "empty state": (
        ("return shape.channels * (shape.head_dim + 1)\n\n\ndef adopt",
         "return 0\n\n\ndef adopt"), {"state_is_a_number_of_floats"}),
    "N x N is materialised": (
        before_return("_ = v[..., :1] - v[..., :1].mT if v.shape[2] == 4096 else None"),
        {"no_square_of_tokens_is_materialised"}),
}  # fmt: skip


@pytest.fixture
def load_toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator:
    """A function that loads the toy with some text replaced, pinned by a vector of its own."""
    monkeypatch.setattr(vector, "FOLDER", tmp_path)
    monkeypatch.setattr(registry, "_outside", {})
    text = TOY.read_text(encoding="utf-8")

    def load_it(old: str = "", new: str = "", *, pin: bool = True) -> AttentionSpec:
        assert text.count(old) == 1 or not old, f"{old!r} occurs {text.count(old)} times"
        path = tmp_path / TOY.name
        path.write_text(text.replace(old, new) if old else text, encoding="utf-8")
        spec = load(add_variant_file(path))
        if pin:
            (tmp_path / f"{spec.name}.json").unlink(missing_ok=True)
            vector.write(spec)
        return spec

    yield load_it
    load.cache_clear()


def test_the_toy_passes_every_check(load_toy) -> None:
    assert failing(load_toy()) == {}


@pytest.mark.parametrize("name", CONTROLS)
def test_a_broken_toy_fails_its_check_alone(name: str, load_toy) -> None:
    replacement, intended = CONTROLS[name]
    found = failing(load_toy(*replacement))
    assert set(found) == intended, found


def test_every_check_has_a_control() -> None:
    controlled = set[str]().union(*(intended for _, intended in CONTROLS.values()))
    assert set(CHECKS) - controlled == {"vector_matches"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        before_return("mixed = 1.0001 * mixed"),
        ("revision=1", "revision=2"),
        ("else F.relu", "else F.silu"),
    ],
)
def test_a_moved_output_fails_the_vector(old: str, new: str, load_toy) -> None:
    load_toy()
    assert "vector_matches" in failing(load_toy(old, new, pin=False))
