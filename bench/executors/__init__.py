"""One file = one way to run cases: EXECUTOR."""
