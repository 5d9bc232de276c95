"""One file = one analysis: ANALYSIS, a question about trained attention."""
