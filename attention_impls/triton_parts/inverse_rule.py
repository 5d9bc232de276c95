"""Which inverse a softmax-free mechanism takes, in plain numbers: naming it needs no triton."""

from dataclasses import dataclass

from attention_impls.spec import Execution

MOST_LANDMARKS = 64
"""One program holds the landmarks' matrices on chip: 64 x 64 float32 are 16 KiB each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InverseRule:
    """How the inverse of the landmarks' affinities A comes about."""

    factor: float
    """alpha = factor / (largest row sum)^2."""
    normalised: bool
    """Rows and columns are divided by the root of the row sums of A."""
    halvings: int
    """alpha is halved so often at most; 0: not tried."""
    residual: float
    """alpha is small enough when no row of |I - alpha P P| sums to more."""
    ridge: float
    """Added to the diagonal of A."""
    ridge_in_scale: bool
    """The row sums that alpha comes from contain the ridge."""
    unrolled: bool
    """The gradient goes through every step; otherwise it is that of an exact inverse."""
    steps: int
    """Newton steps."""


def landmark_limits(execution: Execution, landmarks: int) -> tuple[str, ...]:
    """Return why one program cannot hold the matrices of so many landmarks."""
    if landmarks <= MOST_LANDMARKS:
        return ()
    return (
        (
            f"one program holds the matrices of at most {MOST_LANDMARKS} landmarks, grid "
            f"{execution.shape.grid} has {landmarks}: use the reference, or fewer landmarks"
        ),
    )
