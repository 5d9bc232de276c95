"""Every check of the contract by name: a function of a spec that raises AssertionError."""

from collections.abc import Callable

from contract import (
    checks_behaviour,
    checks_cost,
    checks_declared,
    checks_traits,
    checks_uses,
)

from attention_impls.spec import AttentionSpec

Check = Callable[[AttentionSpec], None]

CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        checks_declared.name_is_the_files,
        checks_declared.source_is_cited,
        checks_declared.flops_formula_is_documented,
        checks_declared.vector_matches,
        checks_declared.options_are_strict,
        checks_declared.every_option_matters,
        checks_declared.refusals_are_builds,
        checks_declared.official_names_are_adopted,
        checks_behaviour.shape_and_dtype_are_kept,
        checks_behaviour.awkward_shapes_are_right_or_refused,
        checks_behaviour.wrong_number_of_tokens_is_refused,
        checks_behaviour.inputs_are_not_mutated,
        checks_behaviour.gradients_are_right,
        checks_behaviour.hard_inputs_stay_finite,
        checks_behaviour.batch_items_are_independent,
        checks_behaviour.memory_layout_does_not_matter,
        checks_behaviour.builds_are_reproducible,
        checks_behaviour.half_precision_is_close,
        checks_behaviour.half_precision_is_finite_on_long_inputs,
        checks_uses.copies_are_the_same_function,
        checks_uses.modes_are_one_function,
        checks_uses.autocast_is_close,
        checks_uses.channels_last_is_the_same_function,
        checks_traits.causal_trait,
        checks_traits.any_grid_trait,
        checks_traits.extra_tokens_trait,
        checks_traits.permutation_equivariant_trait,
        checks_traits.rows_sum_to_one_trait,
        checks_traits.nonnegative_weights_trait,
        checks_traits.approximates_softmax_trait,
        checks_traits.deterministic_trait,
        checks_traits.continuous_trait,
        checks_cost.flops_equal_both_counters,
        checks_cost.order_is_the_growth_of_flops,
        checks_cost.state_is_a_number_of_floats,
        checks_cost.no_square_of_tokens_is_materialised,
    )
}


def failing(spec: AttentionSpec) -> dict[str, str]:
    """Run every check; return the names of those that fail, with their messages."""
    found: dict[str, str] = {}
    for name, check in CHECKS.items():
        try:
            check(spec)
        except BaseException as failure:  # pytest's failures are no Exceptions
            if isinstance(failure, KeyboardInterrupt):
                raise
            found[name] = f"{type(failure).__name__}: {failure}"
    return found
