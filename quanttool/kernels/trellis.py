"""The nearest of many points in four or eight dimensions by weighted distance.

Space is cut into cells by a few edges along each axis. A cell is searched, LANES points at a time, only if the
distance to its box is below the best found so far: of 256 cells some 27, of which most hold nothing better.
"""

import numpy as np
from numpy.typing import NDArray

from .jit import helper, kernel
from .lanes import LANES, any_lane, broadcast, float_lanes, load, multiply_add, select, smallest_lane, store

SHIFT = np.float32(128)  # coordinates are kept as bytes, so that a cell's fit the cache: that is 1.3 times as fast
NEAR_ORIGIN = 512

Book = tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.int64], NDArray[np.float32]]


def make_book(points: NDArray[np.float32], n_bins: int) -> Book:
    """Points f32 [n, dim] in n_bins^dim cells of about the same size, and some once more in a cell of the origin.

    All cells meet at the origin, so none could be left out there; instead NEAR_ORIGIN points are looked at.

    Gives coordinates + SHIFT u8 [n_chunks * dim, LANES] (chunks of LANES points of one cell, the last of a cell filled
    up with one of them), numbers of the points i32 [n_chunks, LANES], first chunk of each cell and the end
    i64 [n_cells + 2], and edges of the bins f32 [dim, n_bins + 1], the outer ones infinite.
    """
    dim = points.shape[1]
    edges = np.full((dim, n_bins + 1), np.inf, np.float32)
    edges[:, 0] = -np.inf
    edges[:, 1:-1] = np.quantile(points, np.arange(1, n_bins) / n_bins, axis=0).T
    cell = np.zeros(len(points), np.int64)
    for k in range(dim):
        cell += n_bins**k * (np.searchsorted(edges[k], points[:, k], side="right") - 1)
    order = np.argsort(cell, kind="stable")
    members = np.split(order, np.searchsorted(cell[order], np.arange(1, n_bins**dim)))
    members.append(np.argsort((points * points).sum(axis=1), kind="stable")[:NEAR_ORIGIN])
    filled = [np.append(m, np.repeat(m[:1], -len(m) % LANES)) for m in members]
    numbers = np.concatenate(filled).astype(np.int32)
    first = np.cumsum([0] + [len(m) // LANES for m in filled])
    coordinates = (points[numbers] + SHIFT).astype(np.uint8).reshape(-1, LANES, dim).transpose(0, 2, 1)
    return np.ascontiguousarray(coordinates).reshape(-1, LANES), numbers.reshape(-1, LANES), first, edges


@kernel
def nearest_points(x, weights, inverses, reach, coordinates, numbers, first, edges, found):
    """For each group the point with the least sum w (x * inverse - point)^2.

    x, weights:  f32 [n_groups, dim]; dim a multiple of 4
    inverses:    f32 [n_groups]
    reach:       f32, cells are searched up to this part of the best distance; 1 leaves nothing out
    coordinates, numbers, first, edges:  a book
    found:       i32 [n_groups], written: the number of the point
    """
    n_groups, dim = x.shape
    n_half = (edges.shape[1] - 1) ** (dim // 2)
    y = np.empty(dim, np.float32)
    query = np.empty((2 * dim, LANES), np.float32)  # the same in all lanes: w, and -2 w y
    lanes = np.empty((2, LANES), np.float32)  # the least cost in each lane, and which chunk has it
    # Cells are pairs of half cells (first half of the axes, second half); so are the distances from y to them.
    fast = np.full((-(-n_half // LANES), LANES), np.inf, np.float32)
    fast_cells = fast.reshape(-1)
    slow = np.empty(n_half, np.float32)
    for group in range(n_groups):
        at_origin = np.float32(0)
        for k in range(dim):
            y[k] = x[group, k] * inverses[group]
            wy = weights[group, k] * (y[k] + SHIFT)
            at_origin += wy * (y[k] + SHIFT)
            store(query, k, broadcast(weights[group, k]))
            store(query, dim + k, broadcast(-(wy + wy)))
        at_zero = not y.any()
        own = n_half * n_half if at_zero else own_cell(y, edges)
        store(lanes, 0, broadcast(np.inf))
        store(lanes, 1, broadcast(0))
        least = search_cell(query, coordinates, first[own], first[own + 1], lanes)
        box_distances(y, weights, group, edges, 0, fast_cells)
        box_distances(y, weights, group, edges, dim // 2, slow)
        for i in range(0 if at_zero else n_half):
            if slow[i] >= reach * (least + at_origin):
                continue
            for row in range(len(fast)):
                if any_lane(load(fast, row) + slow[i] < reach * (least + at_origin)):
                    for lane in range(LANES):
                        cell = i * n_half + row * LANES + lane
                        if fast[row, lane] + slow[i] < reach * (least + at_origin) and cell != own:
                            least = search_cell(query, coordinates, first[cell], first[cell + 1], lanes)
        nearest = 0
        for lane in range(LANES):
            nearest = lane if lanes[0, lane] < lanes[0, nearest] else nearest
        found[group] = numbers[np.int64(lanes[1, nearest]), nearest]


@helper
def own_cell(y, edges):
    """The cell that y lies in; the first axis runs fastest."""
    cell = 0
    place = 1
    for k in range(len(y)):
        for bin in range(1, edges.shape[1] - 1):
            cell += place if y[k] >= edges[k, bin] else 0
        place *= edges.shape[1] - 1
    return cell


@helper
def box_distances(y, weights, group, edges, axis, distances):
    """Weighted squared distances from y to half cells, those of the half of the axes that begins at `axis`."""
    n_bins = edges.shape[1] - 1
    distances[0] = np.float32(0)
    n = 1
    for k in range(axis, axis + len(y) // 2):
        for bin in range(n_bins - 1, -1, -1):
            off = max(np.float32(0), edges[k, bin] - y[k], y[k] - edges[k, bin + 1])
            part = weights[group, k] * off * off
            for i in range(n):
                distances[bin * n + i] = distances[i] + part
        n *= n_bins


@helper
def search_cell(query, coordinates, start, stop, lanes):
    """Look at the chunks start ... stop - 1, keep the best of each lane; the least cost of all, w p^2 - 2 w y p."""
    best = load(lanes, 0)
    where = load(lanes, 1)
    dim = len(query) // 2
    for chunk in range(start, stop):
        cost = broadcast(0)
        if dim == 8:  # with the length known, loops are unrolled and the query stays in registers: 1.5 times as fast
            for k in range(8):
                cost = plus_part(cost, query, 8, coordinates, 8 * chunk, k)
        else:
            for k in range(4):
                cost = plus_part(cost, query, 4, coordinates, 4 * chunk, k)
        better = cost < best
        best = select(better, cost, best)
        where = select(better, np.float32(chunk), where)
    store(lanes, 0, best)
    store(lanes, 1, where)
    return smallest_lane(best)


@helper
def plus_part(cost, query, dim, coordinates, at, k):
    """The cost with coordinate k's part added."""
    p = float_lanes(load(coordinates, at + k))
    return multiply_add(p, multiply_add(p, load(query, k), load(query, dim + k)), cost)
