"""Pathfinder: two dots on a picture of dashed curves. Do they lie on the same curve?

Linsley et al., "Learning long-range spatial dependencies with horizontal gated recurrent units",
NeurIPS 2018, https://arxiv.org/abs/1805.08315; the 32-pixel form of Tay et al., "Long Range Arena",
ICLR 2021, https://arxiv.org/abs/2011.04006. Our own generator by the published rules: two curves of
the same number of dashes grow from seeds at a fixed distance, the angle turns by a draw whose
density is the square of the cosine, nothing may come near what is drawn already, shorter curves
distract, and pictures are drawn at twice the size and averaged. In half of the pictures the dots
mark both ends of one curve, in the other half one end of each. Differences from the authors'
generator: dashes are drawn by their distance instead of by lines, and averaged instead of filtered.
"""

from dataclasses import dataclass

import numpy as np
import torch

from bench.dataset import Split

SIDE = 32
_FINE = 2
"""Factor of the size at which pictures are drawn."""
_CANVAS = SIDE * _FINE
_PADDING, _DASH, _GAP, _THICKNESS, _DOT = 1.0, 2.0, 1.0, 0.5, 1.5
"""In pixels of the picture."""
_SEED_DISTANCE = 7.0
_DISTRACTORS = 5
_CLEARANCE = 1.0
"""Nothing is drawn nearer than this to another curve."""
_LIGHT = 255
_TRIES_A_DASH, _TRIES_A_PICTURE = 12, 200
_GRID = np.stack(np.meshgrid(np.arange(_CANVAS), np.arange(_CANVAS), indexing="ij"), -1)
_CENTRES = (_GRID + 0.5) / _FINE

Generator = np.random.Generator
Array = np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How hard the pictures are."""

    dashes: int
    """Of each of the two curves: 6 easy, 9 intermediate, 14 hard."""

    @property
    def distractor_dashes(self) -> int:
        """Of each distracting curve."""
        return max(1, self.dashes // 3)


def examples(items: int, seed: int, rules: Rules) -> Split:
    """Return pictures [items, 1, 32, 32], bytes, and labels [items]; 1: on the same curve."""
    draws = np.random.default_rng(seed)
    pictures = torch.empty(items, 1, SIDE, SIDE, dtype=torch.uint8)
    labels = torch.arange(items) % 2
    for place in range(items):
        drawn = picture(draws, rules, connected=bool(labels[place]))
        pictures[place, 0] = torch.from_numpy(drawn)
    return Split(pictures, labels)


def picture(draws: Generator, rules: Rules, *, connected: bool) -> Array:
    """Return one picture [32, 32], bytes.

    Raises:
        RuntimeError: too many attempts failed, which the sizes above make all but impossible.
    """
    for _ in range(_TRIES_A_PICTURE):
        curves = _two_curves(draws, rules)
        if curves is None:
            continue
        occupied = _near(_points(curves), _CLEARANCE)
        distracting: list[Array] = []
        for _ in range(_TRIES_A_DASH * _DISTRACTORS):
            if len(distracting) == _DISTRACTORS:
                break
            one = _curve(draws, _anywhere(draws), rules.distractor_dashes, occupied)
            if one is not None:
                distracting.append(one)
                occupied |= _near(_points([one]), _CLEARANCE)
        if len(distracting) < _DISTRACTORS:
            continue
        ends = _marked(draws, curves, connected=connected)
        drawn = _drawn([*curves, *distracting], ends)
        return np.rint(drawn * _LIGHT).astype(np.uint8)
    raise RuntimeError(f"no picture in {_TRIES_A_PICTURE} attempts with {rules}")


def _marked(draws: Generator, curves: list[Array], *, connected: bool) -> list[Array]:
    """Choose the two ends that get dots: of one curve, either, or one of each."""
    if connected:
        curve = curves[int(draws.random() < 0.5)]
        return [curve[0][0], curve[-1][1]]
    return [curve[0][0] if draws.random() < 0.5 else curve[-1][1] for curve in curves]


def _two_curves(draws: Generator, rules: Rules) -> list[Array] | None:
    """Grow two curves from seeds at the fixed distance; None if one has no room."""
    angle = draws.uniform(0, 2 * np.pi)
    middle = _anywhere(draws)
    half = _SEED_DISTANCE / 2 * np.array([np.sin(angle), np.cos(angle)])
    empty = np.zeros((_CANVAS, _CANVAS), dtype=bool)
    first = _curve(draws, middle - half, rules.dashes, empty)
    if first is None:
        return None
    second = _curve(draws, middle + half, rules.dashes, _near(_points([first]), _CLEARANCE))
    return None if second is None else [first, second]


def _curve(draws: Generator, seed: Array, dashes: int, occupied: Array) -> Array | None:
    """Grow [dashes, 2 ends, 2] to both sides of `seed`; None if there is no room."""
    angle = draws.uniform(0, 2 * np.pi)
    first = _dash(seed, angle)
    if not _free(first, occupied):
        return None
    chain = [first]
    heading = {False: angle + np.pi, True: angle}
    for number in range(1, dashes):
        forward = bool(number % 2)
        for _ in range(_TRIES_A_DASH):
            turned = heading[forward] + _turn(draws)
            tip = chain[-1][1] if forward else chain[0][0]
            direction = np.array([np.sin(turned), np.cos(turned)])
            start = tip + _GAP * direction
            end = start + _DASH * direction
            dash = np.stack([start, end] if forward else [end, start])
            if _free(dash, occupied) and _apart(dash, chain):
                chain = [*chain, dash] if forward else [dash, *chain]
                heading[forward] = turned
                break
        else:
            return None
    return np.stack(chain)


def _turn(draws: Generator) -> float:
    """Draw an angle in (-pi/2, pi/2) with density proportional to the square of its cosine."""
    while True:
        angle = draws.uniform(-np.pi / 2, np.pi / 2)
        if draws.random() < np.cos(angle) ** 2:
            return angle


def _dash(centre: Array, angle: float) -> Array:
    half = _DASH / 2 * np.array([np.sin(angle), np.cos(angle)])
    return np.stack([centre - half, centre + half])


def _anywhere(draws: Generator) -> Array:
    return draws.uniform(_PADDING, SIDE - _PADDING, 2)


def _points(curves: list[Array]) -> Array:
    """Points along every dash, a quarter of a pixel apart."""
    ends = np.concatenate(curves)
    share = np.linspace(0, 1, int(_DASH * 4) + 1)[None, :, None]
    return (ends[:, :1] * (1 - share) + ends[:, 1:] * share).reshape(-1, 2)


def _near(points: Array, radius: float) -> Array:
    """Which fine pixels lie within `radius` of a point."""
    found = np.zeros((_CANVAS, _CANVAS), dtype=bool)
    reach = int(np.ceil(radius * _FINE)) + 1
    around = np.arange(-reach, reach + 1)
    for point in points:
        centre = np.floor(point * _FINE).astype(int)
        rows = np.clip(centre[0] + around, 0, _CANVAS - 1)
        columns = np.clip(centre[1] + around, 0, _CANVAS - 1)
        block = np.ix_(rows, columns)
        distance = ((_CENTRES[block] - point) ** 2).sum(-1)
        found[block] |= distance <= radius**2
    return found


def _free(dash: Array, occupied: Array) -> bool:
    """Whether a dash lies inside the picture and on no occupied pixel."""
    if dash.min() < _PADDING or dash.max() > SIDE - _PADDING:
        return False
    places = np.floor(_points([dash[None]]) * _FINE).astype(int)
    return not occupied[places[:, 0], places[:, 1]].any()


def _apart(dash: Array, chain: list[Array]) -> bool:
    """Whether a new dash keeps clear of its own curve, its neighbour excepted."""
    others = [d for d in chain if min(np.abs(d - end).sum(1).min() for end in dash) > 2 * _GAP]
    if not others:
        return True
    mine, theirs = _points([dash[None]]), _points([np.stack(others)])
    gaps = ((mine[:, None] - theirs[None]) ** 2).sum(-1)
    return bool(gaps.min() > _CLEARANCE**2)


def _drawn(curves: list[Array], ends: list[Array]) -> Array:
    """Return the picture in 0..1: dashes at three quarters of the light of the dots."""
    fine = 0.75 * _near(_points(curves), _THICKNESS)
    for end in ends:
        disc = ((_CENTRES - end) ** 2).sum(-1) <= _DOT**2
        fine = np.where(disc, 1.0, fine)
    return fine.reshape(SIDE, _FINE, SIDE, _FINE).mean((1, 3))
