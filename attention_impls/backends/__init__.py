"""One file = one faster execution of one variant: BACKEND."""
