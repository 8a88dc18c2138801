"""The bootstrap of many points: one Newton step from the fit for each resample, in blocks.

With n points, the minimum of a resample differs from its first Newton step by order 1/n, while the
interval has a width of order 1/sqrt(n) (Davidson and MacKinnon 1999; Andrews 2002). So with
thousands of points, further steps gain nothing. The gradients and Hessians of the resamples are
then products of their weights with those of the points, and blocks keep the weights in memory
small.

Shapes: S resamples, n points, G groups (runs), P coordinates.
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from scaling.law.problem import Problem
from scaling.optimize.precision import in_float64

Pairs = tuple[np.ndarray, np.ndarray]  # rows and columns of an upper triangle

MANY = 5000
"""With this many points or more, a resample is one step; a full refit of 5,000 takes 0.1 s."""
_BLOCK = 2**24  # numbers in a block of weights
_POINTS = 2**13  # Hessians of this many points are computed together


def one_step(
    problem: Problem, theta: np.ndarray, runs: np.ndarray, resamples: int, seed: int
) -> np.ndarray:
    """Resamples of the fit (S, P), centred; arguments as in `bootstrap.bootstrap`."""
    _, group_n = np.unique(runs, return_inverse=True)
    groups, size = int(group_n.max()) + 1, len(theta)
    pairs = np.triu_indices(size)
    slope_nxP, bend_nxT = _derivatives(problem, theta, pairs)
    each = np.concatenate([slope_nxP, bend_nxT], 1)
    if groups < len(problem):  # points of a run are drawn together, so their sums suffice
        order = np.argsort(group_n, kind="stable")
        starts = np.searchsorted(group_n[order], np.arange(groups))
        each = np.add.reduceat(each[order], starts, axis=0)
    else:
        each = each[np.argsort(group_n)]
    generator = np.random.Generator(np.random.Philox(seed))
    sums = np.empty((resamples, each.shape[1]))
    height = max(1, min(resamples, _BLOCK // groups))
    for start in range(0, resamples, height):
        rows = range(start, min(start + height, resamples))
        counts = np.empty((len(rows), groups))
        for row in range(len(rows)):
            counts[row] = np.bincount(generator.integers(groups, size=groups), minlength=groups)
        sums[rows.start : rows.stop] = counts @ each
    return theta - _steps(problem.basis, sums, each.sum(0), pairs)


def _steps(free_PxQ: np.ndarray, sums: np.ndarray, whole: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Newton steps (S, P) in the free directions, from sums of gradients and Hessians.

    If the Hessian of a resample is not positive, that of all points is used.
    """
    size = len(free_PxQ)

    def inside(flat: np.ndarray) -> np.ndarray:
        square = np.zeros((*flat.shape[:-1], size, size))
        square[..., pairs[0], pairs[1]] = square[..., pairs[1], pairs[0]] = flat[..., size:]
        return free_PxQ.T @ square @ free_PxQ

    hessian = inside(sums)
    hessian[np.linalg.eigvalsh(hessian)[:, 0] <= 0] = inside(whole)
    inverse = np.linalg.pinv(hessian, rcond=1e-14, hermitian=True)
    return np.einsum("spq,sq->sp", inverse, sums[:, :size] @ free_PxQ) @ free_PxQ.T


@in_float64
def _derivatives(
    problem: Problem, theta: np.ndarray, pairs: Pairs
) -> tuple[np.ndarray, np.ndarray]:
    """Gradient (n, P) and upper Hessian (n, T) of each point's term of the objective.

    Huber's loss is curved only within delta, which may contain few points. The curvature is
    smoothed by a kernel estimate of the residuals' density, because the noise of those few points
    would widen the intervals.
    """
    law, names, delta = problem.law, list(problem.logs), problem.delta
    residual_n = problem.residuals(theta)
    spread = 1.4826 * np.median(np.abs(residual_n - np.median(residual_n)))
    width = max(0.9 * spread * len(problem) ** -0.2, 1e-300)
    upper, lower = (delta - residual_n) / width, (-delta - residual_n) / width
    curved_n = problem.weights * (special.ndtr(upper) - special.ndtr(lower))
    pull_n = problem.weights * np.clip(residual_n, -delta, delta)

    def log_law(theta: jax.Array, *logs: jax.Array) -> jax.Array:
        # Laws are written for arrays, so each point is an array of length 1.
        return law.log_loss(theta, {k: v[None] for k, v in zip(names, logs, strict=True)})[0]

    @jax.jit
    def derivatives(
        theta: jax.Array, curved: jax.Array, pull: jax.Array, *logs: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        every = (None, *[0] * len(logs))
        first = jax.vmap(jax.grad(log_law), every)(theta, *logs)
        second = jax.vmap(jax.hessian(log_law), every)(theta, *logs)
        bend = curved[:, None, None] * first[:, :, None] * first[:, None, :]
        bend = bend - pull[:, None, None] * second
        return -pull[:, None] * first, bend[:, pairs[0], pairs[1]]

    data = [curved_n, pull_n, *problem.logs.values()]
    n = len(problem)
    slopes, bends = np.empty((n, len(theta))), np.empty((n, len(pairs[0])))
    for start in range(0, n, _POINTS):
        rows = np.minimum(np.arange(start, start + _POINTS), n - 1)  # one shape, one program
        some = derivatives(jnp.asarray(theta), *(jnp.asarray(column[rows]) for column in data))
        here = slice(start, min(start + _POINTS, n))
        slopes[here], bends[here] = (np.asarray(x)[: here.stop - start] for x in some)
    return slopes, bends
