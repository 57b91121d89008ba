"""Minimum-cost assignment of many small problems at once."""

from __future__ import annotations

import numpy as np


def assign_rows(costs: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The column of every row in the cheapest one-to-one assignment; exact.

    costs (S,P,M), M ≥ P; of problem s only the first `rows[s]` rows count. A pair that is not allowed costs inf; every
    row that counts needs an assignment without one. -> columns (S,P) int, -1 for rows that do not count.

    The Hungarian method by shortest augmenting paths, one row after the other, each step for all problems together.

    >>> assign_rows(np.array([[[1.0, 2.0], [1.0, 9.0]]]), np.array([2])).tolist()
    [[1, 0]]
    """
    problems, most_rows, columns = costs.shape
    if not problems or not most_rows:
        return np.full((problems, most_rows), -1)
    allowed = np.isfinite(costs)
    # dearer than any allowed assignment, so never chosen where an allowed one exists
    dear = np.where(allowed, np.abs(costs), 0).max(initial=0) * 2 * (most_rows + 1) + 1
    costs = np.where(allowed, costs, dear)
    row_price = np.zeros((problems, most_rows))
    column_price = np.zeros((problems, columns + 1))
    owner = np.full((problems, columns + 1), -1)  # the row of a column; the last column is where a new row starts
    start = columns
    for row in range(most_rows):
        active = np.flatnonzero(rows > row)
        owner[active, start] = row
        came_from = np.full((problems, columns), start)
        reach = np.full((problems, columns), np.inf)
        seen = np.zeros((problems, columns + 1), bool)
        here = np.full(problems, start)
        searching = active
        while searching.size:
            column = here[searching]
            seen[searching, column] = True
            r = owner[searching, column]
            step = costs[searching, r] - row_price[searching, r][:, None] - column_price[searching, :columns]
            closed = seen[searching, :columns]
            better = (step < reach[searching]) & ~closed
            reach[searching] = np.where(better, step, reach[searching])
            came_from[searching] = np.where(better, column[:, None], came_from[searching])
            open_reach = np.where(closed, np.inf, reach[searching])
            nearest = open_reach.argmin(axis=1)
            distance = open_reach[np.arange(len(searching)), nearest]
            # prices move along the tree of columns seen so far, whose rows are all different
            tree_s, tree_c = np.nonzero(seen[searching])
            row_price[searching[tree_s], owner[searching[tree_s], tree_c]] += distance[tree_s]
            column_price[searching[tree_s], tree_c] -= distance[tree_s]
            reach[searching] -= np.where(closed, 0, distance[:, None])
            here[searching] = nearest
            searching = searching[owner[searching, nearest] >= 0]
        while active.size:  # walk back and hand every column on the path to the row before it
            column = here[active]
            before = came_from[active, column]
            owner[active, column] = owner[active, before]
            here[active] = before
            active = active[before != start]
        owner[:, start] = -1
    result = np.full((problems, most_rows), -1)
    s, c = np.nonzero(owner[:, :columns] >= 0)
    result[s, owner[s, c]] = c
    return result
