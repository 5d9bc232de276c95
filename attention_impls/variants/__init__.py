"""One file = one mechanism: reference, FLOPs formula, SPEC."""
