"""Named pieces of mathematics that two or more variants use unchanged."""
