"""Newton's inverse of the landmarks' affinities, one program a head, everything on chip.

Symbols: landmarks l [m, d]; A_kl = exp(min(0, l_k . l_l - |l_k|^2 / 2 - |l_l|^2 / 2)); r: row sums
of A; P = A + ridge I; V_0 = alpha P, V_(t+1) = 2 V_t - V_t P V_t; X = V_T, or
r^(-1/2) V_T r^(-1/2) (normalised); alpha = factor / (largest row sum)^2, halved at most halvings
times until no row of |I - alpha P P| sums to more than most_residual (halvings > 0).

All of it is symmetric, and so is what a gradient does: that of A counts only through its symmetric
part, which is carried backward instead of the whole: three products a step instead of six.
m <= 64 is padded with zeros, which every product keeps at zero.
"""

from typing import no_type_check

import triton
import triton.language as tl

from attention_impls.triton_parts.gaussian_kernels import landmark_rows, store_landmark_rows


@triton.jit
@no_type_check
def summed_rows(
    partial, matrix, splits, count,
    head_dim: tl.constexpr, block_landmarks: tl.constexpr, block_width: tl.constexpr,
):  # fmt: skip
    """Return the sum of the `parts` partial results of one matrix, in their order."""
    total = tl.zeros((block_landmarks, block_width), tl.float32)
    for part in range(splits):
        total += landmark_rows(
            partial, matrix * splits + part, count, head_dim, block_landmarks, block_width
        )
    return total


@triton.jit
@no_type_check
def affinities_between(centres, count, block_landmarks: tl.constexpr, precision: tl.constexpr):
    """Return A, zero beyond `count`, and the exponents before they are cut off at 0."""
    number = tl.arange(0, block_landmarks)
    inside = (number < count)[:, None] & (number < count)[None, :]
    half = tl.sum(centres * centres, axis=1) / 2
    exponent = tl.dot(centres, tl.trans(centres), input_precision=precision)
    exponent = exponent - half[:, None] - half[None, :]
    return tl.where(inside, tl.exp(tl.minimum(exponent, 0.0)), 0.0), exponent


@triton.jit
@no_type_check
def start_scale(
    matrix, row_sums, largest, count, factor,
    halvings: tl.constexpr, most_residual: tl.constexpr, block_landmarks: tl.constexpr,
):  # fmt: skip
    """Return alpha; `row_sums` are those of `matrix`, the 1-norms follow from them."""
    alpha = factor / (largest * largest)
    if halvings > 0:
        inside = tl.arange(0, block_landmarks) < count
        diagonal = tl.sum(matrix * matrix, axis=1)
        columns = tl.sum(matrix * row_sums[None, :], axis=1)
        tried = alpha
        for _ in range(halvings):
            residual = tl.abs(1 - tried * diagonal) + tried * (columns - diagonal)
            worst = tl.max(tl.where(inside, residual, 0.0), axis=0)
            # where one is small enough, all later ones are tried with the same alpha
            tried = tl.where(worst > most_residual, tried * 0.5, tried)
        alpha = tried
    return alpha


@triton.jit
@no_type_check
def inverse_kernel(
    landmarks,
    partial,
    iterates,
    summary,
    weights,
    splits,
    count,
    ridge,
    scale_ridge,
    factor,
    steps,
    halvings: tl.constexpr,
    most_residual: tl.constexpr,
    normalised: tl.constexpr,
    keep_all: tl.constexpr,
    keep_last: tl.constexpr,
    head_dim: tl.constexpr,
    block_landmarks: tl.constexpr,
    block_width: tl.constexpr,
    precision: tl.constexpr,
):
    """Sum of the partial summaries, and weights = X times it: [m, d] each.

    `iterates` takes V_T (keep_last), after V_0 .. V_(T-1) (keep_all), [m padded, m padded] each.

    Bytes: a few m d numbers a head, and with keep_all 4 (T + 1) m^2 written. Floor: the latency of
    2 T dependent products of [m, m]: 4 T m^3 FLOPs on one multiprocessor a head. Binds: that
    latency, below some thousand tokens the largest part of the whole layer.
    Measured: not yet.
    """
    matrix = tl.program_id(0)
    centres = landmark_rows(landmarks, matrix, count, head_dim, block_landmarks, block_width)
    affinity, _exponent = affinities_between(centres, count, block_landmarks, precision)
    number = tl.arange(0, block_landmarks)
    row_sums = tl.sum(affinity, axis=1)
    on_diagonal = (number[:, None] == number[None, :]) & (number < count)[:, None]
    ridged = affinity + tl.where(on_diagonal, ridge, 0.0)
    largest = tl.max(row_sums, axis=0) + scale_ridge
    ridged_sums = row_sums + tl.where(number < count, ridge, 0.0)
    alpha = start_scale(
        ridged, ridged_sums, largest, count, factor, halvings, most_residual, block_landmarks
    )  # fmt: skip
    iterate = ridged * alpha
    square = number[:, None] * block_landmarks + number[None, :]
    if keep_all:
        iterates += matrix.to(tl.int64) * (steps + 1) * (block_landmarks * block_landmarks)
    else:
        iterates += matrix.to(tl.int64) * (block_landmarks * block_landmarks)
    for step in range(steps):
        if keep_all:
            tl.store(iterates + step * (block_landmarks * block_landmarks) + square, iterate)
        product = tl.dot(iterate, ridged, input_precision=precision)
        iterate = 2 * iterate - tl.dot(product, iterate, input_precision=precision)
    if keep_all:
        tl.store(iterates + steps * (block_landmarks * block_landmarks) + square, iterate)
    elif keep_last:
        tl.store(iterates + square, iterate)
    inverse = iterate
    if normalised:
        root = tl.where(number < count, tl.rsqrt(tl.maximum(row_sums, 1e-30)), 0.0)
        inverse = root[:, None] * iterate * root[None, :]
    total = summed_rows(partial, matrix, splits, count, head_dim, block_landmarks, block_width)
    store_landmark_rows(summary, total, matrix, count, head_dim, block_landmarks, block_width)
    mixed = tl.dot(inverse, total, input_precision=precision)
    store_landmark_rows(weights, mixed, matrix, count, head_dim, block_landmarks, block_width)


@triton.jit
@no_type_check
def inverse_backward_kernel(
    landmarks,
    partial,
    iterates,
    summary,
    summary_gradient,
    landmarks_gradient,
    splits,
    count,
    ridge,
    scale_ridge,
    factor,
    steps,
    halvings: tl.constexpr,
    most_residual: tl.constexpr,
    normalised: tl.constexpr,
    unrolled: tl.constexpr,
    head_dim: tl.constexpr,
    block_landmarks: tl.constexpr,
    block_width: tl.constexpr,
    precision: tl.constexpr,
):
    """Gradients of the summary, and of the landmarks through A; `partial`: of the weights, in runs.

    With G the symmetric gradient of V_T: unrolled, from the last step to the first,

        U = V_t G,   P' -= U V_t,   G <- 2 G - U^T P - P U,

    then P' += alpha G and alpha' = sum(G * P); implicit, P' = -V_T G V_T and nothing to alpha.

    Bytes: some m d numbers a head; unrolled, 4 (T + 1) m^2 read. Floor: as for `inverse_kernel`, with
    three products a step. Binds: their latency.
    Measured: not yet.
    """
    matrix = tl.program_id(0)
    centres = landmark_rows(landmarks, matrix, count, head_dim, block_landmarks, block_width)
    affinity, exponent = affinities_between(centres, count, block_landmarks, precision)
    number = tl.arange(0, block_landmarks)
    real = number < count
    row_sums = tl.sum(affinity, axis=1)
    on_diagonal = (number[:, None] == number[None, :]) & real[:, None]
    ridged = affinity + tl.where(on_diagonal, ridge, 0.0)
    square = number[:, None] * block_landmarks + number[None, :]
    if unrolled:
        iterates += matrix.to(tl.int64) * (steps + 1) * (block_landmarks * block_landmarks)
        last = tl.load(iterates + steps * (block_landmarks * block_landmarks) + square)
    else:
        last = tl.load(
            iterates + matrix.to(tl.int64) * (block_landmarks * block_landmarks) + square
        )
    of_weights = summed_rows(partial, matrix, splits, count, head_dim, block_landmarks, block_width)
    total = landmark_rows(summary, matrix, count, head_dim, block_landmarks, block_width)
    inverse = last
    root = tl.where(real, tl.rsqrt(tl.maximum(row_sums, 1e-30)), 0.0)
    if normalised:
        inverse = root[:, None] * last * root[None, :]
    of_summary = tl.dot(tl.trans(inverse), of_weights, input_precision=precision)
    store_landmark_rows(
        summary_gradient, of_summary, matrix, count, head_dim, block_landmarks, block_width
    )
    pull = tl.dot(of_weights, tl.trans(total), input_precision=precision)
    pull = (pull + tl.trans(pull)) * 0.5
    of_sums = tl.zeros((block_landmarks,), tl.float32)
    if normalised:
        # of root_i: twice the row's sum, for rows and columns alike; root = sums^(-1/2)
        of_root = 2 * tl.sum(pull * last * root[None, :], axis=1)
        of_sums = of_root * -0.5 * root * root * root
        pull = root[:, None] * pull * root[None, :]
    if unrolled:
        of_matrix = tl.zeros((block_landmarks, block_landmarks), tl.float32)
        for back in range(steps):
            iterate = tl.load(
                iterates + (steps - 1 - back) * (block_landmarks * block_landmarks) + square
            )
            product = tl.dot(iterate, pull, input_precision=precision)
            of_matrix -= tl.dot(product, iterate, input_precision=precision)
            side = tl.dot(tl.trans(product), ridged, input_precision=precision)
            pull = 2 * pull - side - tl.trans(side)
        largest = tl.max(row_sums, axis=0)
        ridged_sums = row_sums + tl.where(real, ridge, 0.0)
        alpha = start_scale(
            ridged, ridged_sums, largest + scale_ridge, count, factor, halvings, most_residual,
            block_landmarks,
        )  # fmt: skip
        of_matrix += alpha * pull
        of_alpha = tl.sum(tl.sum(pull * ridged, axis=1), axis=0)
        ties = tl.where(real & (row_sums == largest), 1.0, 0.0)
        share = ties / tl.sum(ties, axis=0)
        of_sums += share * (of_alpha * alpha * -2 / (largest + scale_ridge))
    else:
        product = tl.dot(last, pull, input_precision=precision)
        of_matrix = -tl.dot(product, last, input_precision=precision)
    of_affinity = of_matrix + of_sums[:, None]
    felt = (exponent <= 0.0) & real[:, None] & real[None, :]
    of_exponent = tl.where(felt, of_affinity * affinity, 0.0)
    of_exponent += tl.trans(of_exponent)
    of_landmarks = tl.dot(of_exponent, centres, input_precision=precision)
    of_landmarks -= centres * tl.sum(of_exponent, axis=1)[:, None]
    store_landmark_rows(
        landmarks_gradient, of_landmarks, matrix, count, head_dim, block_landmarks, block_width
    )
