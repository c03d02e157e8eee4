"""Coordinates of one posterior, z = center + frame u, and the box in u that holds it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize

from elbo_exact._validate import FloatArray

__all__ = ["CUT", "cube", "find_box", "find_frame"]

CUT = 42.0  # nats: what lies outside the box is about exp(-42) of the evidence
LOOK = {1: 33, 2: 17, 3: 11}  # points per axis over [-6, 6] while moments are followed


def find_frame(
    density: Callable[[FloatArray], FloatArray],
    scan: FloatArray,
    table: FloatArray,
    step: float,
    mean: FloatArray,
    log_variance: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """Center and frame in which the posterior has mean 0 and covariance 1.

    The moments over a box of 6 standard deviations define the next box: it moves where mass lies at an edge and shrinks by up to
    four where all mass lies on one node. A posterior whose largest value in the scan is on its edge lies beyond the prior's range: it is
    climbed to its mode first.
    """
    n_latent = len(mean)
    u = cube(np.linspace(-6.0, 6.0, LOOK[n_latent]), n_latent)
    smallest = (12.0 / (LOOK[n_latent] - 1) / 3.0) ** 2
    center, covariance = _moments(scan, table)
    frame = _root(covariance, (step / 2.0) ** 2)
    if float(density(mean[None])[0]) > float(table.max()) + 3.0:  # narrower than the scan, and the encoder knows where
        center, frame = mean, np.diag(np.exp(0.5 * log_variance))
    elif np.abs(scan[table.argmax()]).max() == np.abs(scan).max():
        center, frame = _mode(density, scan[table.argmax()])
    for _ in range(60):
        shift, covariance = _moments(u, density(center + u @ frame.T))
        change = _root(covariance, smallest)
        center, frame = center + frame @ shift, frame @ change
        if np.abs(shift).max() < 0.2 and 0.85 < np.diag(change).min() and np.diag(change).max() < 1.18:
            break
    return center, frame


def find_box(
    density: Callable[[FloatArray], FloatArray], center: FloatArray, frame: FloatArray
) -> tuple[tuple[FloatArray, FloatArray], bool]:
    """Bounds in u of all nodes within CUT nats of the largest, and one step more, and whether these hold them all.

    Wider where they reach the edge, up to 60 standard deviations: the box of a density that is still large there holds a part of it.
    """
    half_width, points, n_latent = 12.0, 33, len(center)
    while True:
        line = np.linspace(-half_width, half_width, points)
        u = cube(line, n_latent)
        table = density(center + u @ frame.T)
        inside = u[table >= table.max() - CUT]
        step = line[1] - line[0]
        low, high = inside.min(axis=0) - step, inside.max(axis=0) + step
        is_whole = bool((low > -half_width).all() and (high < half_width).all())
        if is_whole or half_width > 60.0:
            return (low, high), is_whole
        half_width *= 1.5


def _mode(density: Callable[[FloatArray], FloatArray], start: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Where BFGS ends uphill, and a root of its inverse Hessian."""
    with np.errstate(all="ignore"):
        found = minimize(lambda z: -float(density(z[None])[0]), start, method="BFGS")
    return found.x, _root(found.hess_inv, 1e-24)


def _moments(nodes: FloatArray, table: FloatArray) -> tuple[FloatArray, FloatArray]:
    weights = np.exp(table - table.max())
    weights /= weights.sum()
    mean = weights @ nodes
    centered = nodes - mean
    return mean, (weights[:, None] * centered).T @ centered


def _root(covariance: FloatArray, smallest: float) -> FloatArray:
    """Lower triangular root of a covariance whose eigenvalues are at least ``smallest``."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(np.linalg.cholesky((vectors * np.maximum(values, smallest)) @ vectors.T))


def cube(line: FloatArray, n_latent: int) -> FloatArray:
    """All points of a cube, the last axis fastest."""
    return np.stack(np.meshgrid(*[line] * n_latent, indexing="ij"), axis=-1).reshape(-1, n_latent)
