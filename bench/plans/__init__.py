"""One file = one plan: PLAN, a function that returns a Plan."""
