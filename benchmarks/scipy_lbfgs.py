"""The same search as `course_lib.attacks.lbfgs`, one image at a time, with SciPy's L-BFGS-B.

The objective, the first c, the rule for the next one and the judge are the library's; the solver is
not. Tests hold the library to it, and `gradient_attacks.py` times the two side by side.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from course_lib.attacks.lbfgs import HISTORY, evaluate, next_c, start
from course_lib.gradients import frozen


def scipy_lbfgs(
    model: nn.Module, x: Tensor, y: Tensor, *, target: Tensor | None = None, c_steps: int = 10,
    steps: int = 20, ftol: float = 1e-3,
) -> Tensor:
    """Adversarial images like `lbfgs`. ftol: SciPy's tolerance; its own default is 2.2e-9."""
    rows = nn.Sequential(nn.Unflatten(1, x.shape[1:]), model)
    with frozen(rows):
        return torch.cat([
            _one(rows, x[i:i + 1].flatten(1), y[i:i + 1],
                 None if target is None else target[i:i + 1], c_steps, steps, ftol)
            for i in range(len(x))
        ]).view_as(x)


def _one(
    model: nn.Module, x: Tensor, y: Tensor, target: Tensor | None, c_steps: int, steps: int,
    ftol: float,
) -> Tensor:
    search = start(model, x, y, target)
    if not len(search.x):
        return x
    clean = x[0].double().numpy()
    best, size, hits = x, np.inf, {}

    def objective(point: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal best, size
        x_t = torch.from_numpy(point).to(x)[None]
        loss, gradient, hit = evaluate(model, x_t, y, target, search.scale)
        r, c = point - clean, search.c.item()
        hits[point.tobytes()] = bool(hit)
        if hit and np.linalg.norm(r) < size:
            best, size = x_t, np.linalg.norm(r)
        return loss.item() + c * (r @ r), gradient[0].double().numpy() + 2 * c * r

    point = clean
    for _ in range(c_steps):
        hits.clear()
        point = minimize(
            objective, point, jac=True, method="L-BFGS-B", bounds=[(0, 1)] * len(clean),
            options={"maxcor": HISTORY, "maxfun": steps, "ftol": ftol, "gtol": 0},
        ).x
        if hits.get(point.tobytes(), False):
            search.low = search.c
        else:
            search.high = search.c
        search.c = next_c(search.c, search.low, search.high)
    return best
