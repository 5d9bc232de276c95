"""One file = one measured metric: METRIC."""
