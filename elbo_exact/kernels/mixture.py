"""The E-step of a mixture on a block of rows: log densities as (K, n), one softmax in place, sums of weighted observations.

Loops run over rows or columns that lie side by side, one state at a time, in an order that the block alone determines.
"""

from __future__ import annotations

from elbo_exact.kernels._jit import BOOL, OUT, OUT2, ROW, TABLE, kernel, void
from elbo_exact.kernels.scalar import log_of_sum, two_sum, weight
from elbo_exact.kernels.tiles import ROWS, row_tiles, state_tiles
from elbo_exact.kernels.tree import INF

__all__ = [
    "diagonal_densities",
    "diagonal_sums",
    "moments",
    "responsibilities",
    "row_posteriors",
    "triangular_densities",
    "triangular_sums",
    "weighted_total",
]

U = 2.0**-53
NEGLIGIBLE = -660.0  # posteriors below 2**-952 are taken as 0, so that no subnormal number enters a sum


@kernel
def folded(lanes):
    """Sum of ROWS lanes by halving."""
    width = ROWS // 2
    while width > 0:
        for i in range(width):
            lanes[i] += lanes[i + width]
        width //= 2
    return lanes[0]


@kernel(void(TABLE, TABLE, TABLE, ROW, OUT2))
def diagonal_densities(columns, means, inverse_scales, constants, out):
    """out[k, n] = constants[k] - sum over d of ((columns[d, n] - mean) * inverse scale)^2 / 2."""
    n_columns, n_rows = columns.shape
    for k in range(out.shape[0]):
        row = out[k]
        for n in range(n_rows):
            row[n] = 0.0
        for d in range(n_columns):
            column = columns[d]
            mean, inverse = means[k, d], inverse_scales[k, d]
            for n in range(n_rows):
                z = (column[n] - mean) * inverse
                row[n] += z * z
        for n in range(n_rows):
            row[n] = constants[k] - 0.5 * row[n]


@kernel(void(TABLE, TABLE, TABLE, OUT, OUT2, OUT2))
def diagonal_sums(columns, means, weights, totals, first_sums, second_sums):
    """Weights, and weighted sums of deviations from ``means`` and of their squares, added; ROWS divides n."""
    n_columns, n_rows = columns.shape
    tiles = row_tiles()
    moved, squared, total = tiles[0], tiles[1], tiles[2]
    for k in range(weights.shape[0]):
        for d in range(n_columns):
            mean, column = means[k, d], columns[d]
            for i in range(ROWS):
                moved[i], squared[i], total[i] = 0.0, 0.0, 0.0
            for first in range(0, n_rows, ROWS):
                w, x = weights[k, first : first + ROWS], column[first : first + ROWS]
                for i in range(ROWS):
                    deviation = x[i] - mean
                    weighted = w[i] * deviation
                    total[i] += w[i]
                    moved[i] += weighted
                    squared[i] += weighted * deviation
            first_sums[k, d] += folded(moved)
            second_sums[k, d] += folded(squared)
        totals[k] += folded(total)


@kernel(void(TABLE, TABLE, TABLE, ROW, OUT2, OUT2))
def triangular_densities(columns, means, factors, constants, z, out):
    """out[k, n] = constants[k] - ||z||^2 / 2 with L z = columns[:, n] - mean by substitution; ROWS divides n.

    factors[k * D + i] is row i of L with the reciprocal on the diagonal; z is (D, ROWS) of scratch.
    """
    n_columns, n_rows = columns.shape
    tiles = row_tiles()
    own, square = tiles[0], tiles[1]
    for first in range(0, n_rows, ROWS):
        for k in range(out.shape[0]):
            for lane in range(ROWS):
                square[lane] = 0.0
            for i in range(n_columns):
                column, mean, line = columns[i, first : first + ROWS], means[k, i], factors[k * n_columns + i]
                for lane in range(ROWS):
                    own[lane] = column[lane] - mean
                for j in range(0, i - 1, 2):  # two at a time: half the loads and stores of ``own``
                    entry, other, next_entry, following = line[j], z[j], line[j + 1], z[j + 1]
                    for lane in range(ROWS):
                        own[lane] = (own[lane] - entry * other[lane]) - next_entry * following[lane]
                if i % 2 == 1:
                    entry, other = line[i - 1], z[i - 1]
                    for lane in range(ROWS):
                        own[lane] -= entry * other[lane]
                inverse, kept = line[i], z[i]
                for lane in range(ROWS):
                    value = own[lane] * inverse
                    square[lane] += value * value
                    kept[lane] = value
            row = out[k, first : first + ROWS]
            for lane in range(ROWS):
                row[lane] = constants[k] - 0.5 * square[lane]


@kernel(void(TABLE, TABLE, TABLE, OUT2, OUT, OUT2, OUT2))
def triangular_sums(columns, means, weights, deviations, totals, first_sums, second_sums):
    """Weights, and weighted sums of deviations from ``means`` and of their products (lower triangle, (K, D * D)), added.

    ROWS divides n; deviations is (D + 4, n) of finite scratch: its last row for weighted deviations, three for groups of four columns.
    """
    n_columns, n_rows = columns.shape
    tiles = row_tiles()
    lanes, moved = tiles[0], tiles[1]
    a, b, c, e = tiles[2], tiles[3], tiles[4], tiles[5]
    weighted = deviations[n_columns + 3]
    for k in range(weights.shape[0]):
        w = weights[k]
        for i in range(ROWS):
            lanes[i] = 0.0
        for first in range(0, n_rows, ROWS):
            part = w[first : first + ROWS]
            for i in range(ROWS):
                lanes[i] += part[i]
        totals[k] += folded(lanes)
        for d in range(n_columns):
            mean, column, own = means[k, d], columns[d], deviations[d]
            for i in range(ROWS):
                moved[i] = 0.0
            for first in range(0, n_rows, ROWS):
                last = first + ROWS
                part, x, kept, product = w[first:last], column[first:last], own[first:last], weighted[first:last]
                for i in range(ROWS):
                    deviation = x[i] - mean
                    kept[i] = deviation
                    product[i] = part[i] * deviation
                    moved[i] += part[i] * deviation
            first_sums[k, d] += folded(moved)
            for j in range(0, d + 1, 4):
                for i in range(ROWS):
                    a[i], b[i], c[i], e[i] = 0.0, 0.0, 0.0, 0.0
                for first in range(0, n_rows, ROWS):
                    product = weighted[first : first + ROWS]
                    one, two = deviations[j, first : first + ROWS], deviations[j + 1, first : first + ROWS]
                    three, four = deviations[j + 2, first : first + ROWS], deviations[j + 3, first : first + ROWS]
                    for i in range(ROWS):
                        p = product[i]
                        a[i] += p * one[i]
                        b[i] += p * two[i]
                        c[i] += p * three[i]
                        e[i] += p * four[i]
                line = second_sums[k, d * n_columns : (d + 1) * n_columns]
                line[j] += folded(a)
                if j + 1 <= d:
                    line[j + 1] += folded(b)
                if j + 2 <= d:
                    line[j + 2] += folded(c)
                if j + 3 <= d:
                    line[j + 3] += folded(e)


@kernel
def tile_weights(errors, counts, table, first, tiles):
    """`responsibilities` of ROWS rows from ``first`` on, up to the factor tiles[1]; tiles[0] holds their largest log joints.

    In ``table`` exp(log joint - largest), in the first tiles what `responsibilities` has in ``known``.
    """
    n_states, last = table.shape[0], first + ROWS
    top, total, mean_error, worst = tiles[0], tiles[1], tiles[2], tiles[3]
    for i in range(ROWS):
        total[i], mean_error[i], worst[i] = 0.0, 0.0, 0.0
    for k in range(n_states):
        row = table[k, first:last]
        fixed, relative = errors[0, k], errors[1, k]
        for i in range(ROWS):
            x = row[i]
            alive = x > top[i] + NEGLIGIBLE
            w = weight(x if alive else top[i], top[i])
            w = w if alive else 0.0
            error = fixed + relative * abs(x)
            error = error if alive else 0.0
            worst[i] = error if error > worst[i] else worst[i]
            mean_error[i] += w * error
            total[i] += w
            row[i] = w
    for i in range(ROWS):
        mean_error[i] = 1.02 * (mean_error[i] / total[i])
        top[i] = top[i] + log_of_sum(total[i], 0.0)
        total[i] = counts[i] / total[i]
        worst[i] = 1.01 * (worst[i] + mean_error[i]) + (2.0 * n_states + 14.0) * U
        mean_error[i] = 1.01 * (mean_error[i] + (3.0 * n_states + 6.0 + abs(top[i])) * U)


@kernel(void(TABLE, ROW, OUT2, OUT2))
def row_posteriors(errors, counts, table, known):
    """`responsibilities` of any number of rows (n, K) of at most SHORT states; known is (4, n).

    The largest on the way into the tile and the factor on the way out: 0.14 instead of 0.16 ms for 1797 rows of ten (AVX2, 2026).
    """
    n_rows, n_states = table.shape
    lanes, tiles = state_tiles(), row_tiles()
    own, weights, top, scale = lanes[:n_states], tiles[4], tiles[0], tiles[1]
    for first in range(0, n_rows, ROWS):
        for i in range(ROWS):
            at, largest = min(first + i, n_rows - 1), -INF
            weights[i], row = counts[at], table[at]
            for k in range(n_states):
                own[k, i] = row[k]
                largest = row[k] if row[k] > largest else largest
            top[i] = largest
        tile_weights(errors, weights, own, 0, tiles)
        for i in range(min(ROWS, n_rows - first)):
            row = table[first + i]
            for k in range(n_states):
                row[k] = own[k, i] * scale[i]
        for part in range(4):
            for i in range(min(ROWS, n_rows - first)):
                known[part, first + i] = tiles[part, i]


@kernel(void(TABLE, ROW, OUT2, OUT2))
def responsibilities(errors, counts, table, known):
    """Posteriors times counts in place of log joints (K, n); known[:, n] = log evidence, count / sum, error bound of the log
    evidence, relative error of the posteriors; ROWS divides n.

    Log joints are off by at most errors[0, k] + errors[1, k] * |log joint|. exp with its difference rounds by 3.1 u, K additions by u
    each, the log (of at most K) by 1.4 u of itself, so the log evidence by u (2 K + 4 + |log evidence|), and by the mean error of
    the log joints; a posterior by twice the first, one division and one product.
    """
    n_states, tiles = table.shape[0], row_tiles()
    top, scale = tiles[0], tiles[1]
    for first in range(0, table.shape[1], ROWS):
        last = first + ROWS
        for i in range(ROWS):
            top[i] = -INF
        for k in range(n_states):
            row = table[k, first:last]
            for i in range(ROWS):
                top[i] = row[i] if row[i] > top[i] else top[i]
        tile_weights(errors, counts[first:last], table, first, tiles)
        for k in range(n_states):
            row = table[k, first:last]
            for i in range(ROWS):
                row[i] *= scale[i]
        for part in range(4):
            lanes, kept = tiles[part], known[part, first:last]
            for i in range(ROWS):
                kept[i] = lanes[i]


@kernel(void(ROW, ROW, OUT))
def weighted_total(counts, values, out):
    """(s, c, a): s + c is the sum of the rounded products by a TwoSum chain, off by at most (n u)^2 a, and a is the sum of their sizes."""
    total, rest, size = 0.0, 0.0, 0.0
    for n in range(values.size):
        product = counts[n] * values[n]
        total, low = two_sum(total, product)
        rest += low
        size += abs(product)
    out[0], out[1], out[2] = total, rest, size


@kernel(void(TABLE, ROW, BOOL, OUT2))
def moments(columns, center, products, out):
    """Rows of out: ones, deviations from ``center``, their squares or (i by i, j <= i) their products."""
    n_columns, n_rows = columns.shape
    ones = out[0]
    for n in range(n_rows):
        ones[n] = 1.0
    entry = n_columns + 1
    for i in range(n_columns):
        own, column, middle = out[1 + i], columns[i], center[i]
        for n in range(n_rows):
            own[n] = column[n] - middle
        for j in range(0 if products else i, i + 1):
            other, product = out[1 + j], out[entry]
            for n in range(n_rows):
                product[n] = own[n] * other[n]
            entry += 1
