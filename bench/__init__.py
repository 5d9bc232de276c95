"""How attention is measured: plans, cases, workers, metrics, records."""
