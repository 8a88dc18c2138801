"""Standard optimization problems with their minima, mostly of Moré, Garbow and Hillstrom (1981).

Problems with the same number of variables are branches of one function, so that each method is
compiled once per number.
"""

import jax
import jax.numpy as jnp
import numpy as np


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def beale(x):
    power = jnp.array([1, 2, 3])
    return jnp.sum((jnp.array([1.5, 2.25, 2.625]) - x[0] * (1 - x[1] ** power)) ** 2)


def himmelblau(x):
    return (x[0] ** 2 + x[1] - 11) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2


def powell(x):
    square = (x[0] + 10 * x[1]) ** 2 + 5 * (x[2] - x[3]) ** 2
    return square + (x[1] - 2 * x[2]) ** 4 + 10 * (x[0] - x[3]) ** 4


def wood(x):
    first = 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2
    second = 90 * (x[3] - x[2] ** 2) ** 2 + (1 - x[2]) ** 2
    third = 10.1 * ((x[1] - 1) ** 2 + (x[3] - 1) ** 2) + 19.8 * (x[1] - 1) * (x[3] - 1)
    return first + second + third


def quadratic(x):
    """Condition number 1e6, rotated away from the axes; the minimum is at 1, 2, 3, ..."""
    size = x.shape[0]
    turn, _ = np.linalg.qr(np.random.default_rng(size).normal(size=(size, size)))
    away = turn.T @ (x - jnp.arange(1.0, size + 1))
    return 0.5 * jnp.sum(np.geomspace(1, 1e6, size) * away**2)


_BRANCHES = {
    2: [rosenbrock, beale, himmelblau, lambda x: 1000 + rosenbrock(x)],
    4: [powell, wood, quadratic],
    10: [rosenbrock, quadratic],
    50: [rosenbrock],
}


def standard(x, branch):
    branches = _BRANCHES[x.shape[0]]
    return jax.lax.switch(jnp.asarray(branch, int), branches, x)


def _rosenbrock_start(size):
    return np.resize([1.3, 0.7, 0.8, 1.9, 1.2], size)


# Name: branch, start, minimum.
STANDARD = {
    "rosenbrock 2": (0, [-1.2, 1], np.ones(2)),
    "beale": (1, [1, 1], [3, 0.5]),
    "himmelblau": (2, [0, 0], [3, 2]),
    "rosenbrock, lifted": (3, [-1.2, 1], np.ones(2)),
    "powell": (0, [3, -1, 0, 1], np.zeros(4)),
    "wood": (1, [-3, -1, -3, -1], np.ones(4)),
    "quadratic 4": (2, np.zeros(4), np.arange(1, 5)),
    "rosenbrock 10": (0, _rosenbrock_start(10), np.ones(10)),
    "quadratic 10": (1, np.zeros(10), np.arange(1, 11)),
    "rosenbrock 50": (0, _rosenbrock_start(50), np.ones(50)),
}
STANDARD = {
    name: (branch, np.asarray(start, float), np.asarray(minimum, float))
    for name, (branch, start, minimum) in STANDARD.items()
}


_BARD = np.array(
    [0.14, 0.18, 0.22, 0.25, 0.29, 0.32, 0.35, 0.39, 0.37, 0.58, 0.73, 0.96, 1.34, 2.1, 4.39]
)
_GAUSS = np.array([0.0009, 0.0044, 0.0175, 0.054, 0.1295, 0.242, 0.3521, 0.3989])
_GAUSS = np.concatenate([_GAUSS, _GAUSS[-2::-1]])
_KOWALIK = np.array(
    [0.1957, 0.1947, 0.1735, 0.16, 0.0844, 0.0627, 0.0456, 0.0342, 0.0323, 0.0235, 0.0246]
)
_KOWALIK_AT = np.array([4, 2, 1, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625])
_MEYER = np.array(
    [34780, 28610, 23650, 19630, 16370, 13720, 11540, 9744]
    + [8261, 7030, 6005, 5147, 4427, 3820, 3307, 2872]
)
_OSBORNE = 1e-3 * np.array(
    [844, 908, 932, 936, 925, 908, 881, 850, 818, 784, 751, 718, 685, 658, 628, 603, 580]
    + [558, 538, 522, 506, 490, 478, 467, 457, 448, 438, 431, 424, 420, 414, 411, 406]
)


def _helical(x):
    turn = jnp.arctan2(x[1], x[0]) / (2 * jnp.pi)
    turn = jnp.where((x[0] < 0) & (x[1] < 0), turn + 1, turn)
    return jnp.stack([10 * (x[2] - 10 * turn), 10 * (jnp.hypot(x[0], x[1]) - 1), x[2]])


def _bard(x):
    u = jnp.arange(1.0, 16)
    return _BARD - (x[0] + u / ((16 - u) * x[1] + jnp.minimum(u, 16 - u) * x[2]))


def _gaussian(x):
    t = (8 - jnp.arange(1.0, 16)) / 2
    return x[0] * jnp.exp(-x[1] * (t - x[2]) ** 2 / 2) - _GAUSS


def _box(x):
    t = 0.1 * jnp.arange(1.0, 11)
    return jnp.exp(-t * x[0]) - jnp.exp(-t * x[1]) - x[2] * (jnp.exp(-t) - jnp.exp(-10 * t))


def _kowalik(x):
    u = _KOWALIK_AT
    return _KOWALIK - x[0] * (u**2 + u * x[1]) / (u**2 + u * x[2] + x[3])


def _meyer(x):
    return x[0] * jnp.exp(x[1] / (45 + 5 * jnp.arange(1.0, 17) + x[2])) - _MEYER


def _osborne(x):
    t = 10 * jnp.arange(33.0)
    return _OSBORNE - (x[0] + x[1] * jnp.exp(-t * x[3]) + x[2] * jnp.exp(-t * x[4]))


def _brown_dennis(x):
    t = jnp.arange(1.0, 21) / 5
    first = x[0] + t * x[1] - jnp.exp(t)
    return first**2 + (x[2] + x[3] * jnp.sin(t) - jnp.cos(t)) ** 2


def _jennrich(x):
    i = jnp.arange(1.0, 11)
    return 2 + 2 * i - jnp.exp(i * x[0]) - jnp.exp(i * x[1])


def _freudenstein(x):
    first = -13 + x[0] + ((5 - x[1]) * x[1] - 2) * x[1]
    return jnp.stack([first, -29 + x[0] + ((x[1] + 1) * x[1] - 14) * x[1]])


def _powell_badly_scaled(x):
    return jnp.stack([1e4 * x[0] * x[1] - 1, jnp.exp(-x[0]) + jnp.exp(-x[1]) - 1.0001])


def _brown_badly_scaled(x):
    return jnp.stack([x[0] - 1e6, x[1] - 2e-6, x[0] * x[1] - 2])


def _beale_residuals(x):
    return jnp.array([1.5, 2.25, 2.625]) - x[0] * (1 - x[1] ** jnp.array([1, 2, 3]))


def _rosenbrock_residuals(x):
    return jnp.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])


# Name: residuals, start, twice the minimal cost (Moré, Garbow and Hillstrom, section 3).
RESIDUALS = {
    "rosenbrock": (_rosenbrock_residuals, [-1.2, 1], 0),
    "freudenstein-roth": (_freudenstein, [0.5, -2], 48.9842536792),
    "powell badly scaled": (_powell_badly_scaled, [0, 1], 0),
    "brown badly scaled": (_brown_badly_scaled, [1, 1], 0),
    "beale": (_beale_residuals, [1, 1], 0),
    "jennrich-sampson": (_jennrich, [0.3, 0.4], 124.362182356),
    "helical valley": (_helical, [-1, 0, 0], 0),
    "bard": (_bard, [1, 1, 1], 8.21487730657e-3),
    "gaussian": (_gaussian, [0.4, 1, 0], 1.12793276961e-8),
    "box": (_box, [0, 10, 20], 0),
    "kowalik-osborne": (_kowalik, [0.25, 0.39, 0.415, 0.39], 3.07505603849e-4),
    "meyer": (_meyer, [0.02, 4000, 250], 87.9458551711),
    "osborne 1": (_osborne, [0.5, 1.5, -1, 0.01, 0.02], 5.46489469748e-5),
    "brown-dennis": (_brown_dennis, [25, 5, -5, -1], 85822.2016264),
}
RESIDUALS = {
    name: (function, np.asarray(start, float), least)
    for name, (function, start, least) in RESIDUALS.items()
}
