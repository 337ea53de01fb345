"""In-context linear regression: what one layer of attention learns (Pan and others, code at XintianPan/ICL_linear).

Notation: L examples z_l = [x_l; y_l] in R^(d+1), y = beta . x + noise, a query z_q = [x_q; 0] that sees the examples
alone, H heads. Prediction: sum_h w_h . (sum_l a_hl z_l) with a_h = softmax of z_q W_Q W_K^T z_l / sqrt(d + 1).

What is learnt: W_Q W_K^T becomes omega_h I on the x block, w_h only sees y, and the mu_h (that entry) sum to zero.
With two heads (+-omega, +-mu) the prediction is (2 mu omega / L) sum_l y_l (x_l - mean x) . x_q + O(omega^3): one step
of gradient descent on centred examples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from zoo_core.attention.dispatch import attend


class Problems(NamedTuple):
    """A batch of regressions: examples z (B, L, d+1), queries (B, d), answers beta . x_q (B,) without noise."""

    examples: Tensor
    queries: Tensor
    answers: Tensor


@dataclass(frozen=True)
class Setting:
    """What problems are drawn from: x ~ N(0, I), beta ~ N(0, I / d), noise ~ N(0, sigma^2).

    Args:
        d: width of x.
        examples: L.
        sigma: of the noise on the examples' y.
    """

    d: int = 5
    examples: int = 40
    sigma: float = 0.1

    def draw(self, batch: int, generator: torch.Generator) -> Problems:
        """Draw problems."""
        beta = torch.randn(batch, self.d, generator=generator) / self.d**0.5
        x = torch.randn(batch, self.examples + 1, self.d, generator=generator)
        y = (x @ beta[:, :, None]).squeeze(-1)
        noisy = y[:, :-1] + self.sigma * torch.randn(batch, self.examples, generator=generator)
        return Problems(torch.cat([x[:, :-1], noisy[..., None]], -1), x[:, -1], y[:, -1])

    @property
    def best_rate(self) -> float:
        """Step size eta* of the best single step of gradient descent: 1 / (1 + (d + 1 + sigma^2 d) / L)."""
        return 1 / (1 + (self.d + 1 + self.sigma**2 * self.d) / self.examples)

    @property
    def best_step_risk(self) -> float:
        """Mean square error of that step: 1 - eta*."""
        return 1 - self.best_rate


class Regressor(nn.Module):
    """One layer of attention that answers the query.

    Args:
        d: width of x.
        heads: H.
        linear: divide scores by this number of examples instead of normalising them; None for softmax.
        deviation: of the initial weights.
    """

    def __init__(self, d: int, heads: int, *, linear: int | None = None, deviation: float = 0.1) -> None:
        super().__init__()
        self.linear = linear
        self.w_q = nn.Parameter(deviation * torch.randn(heads, d + 1, d + 1))
        self.w_k = nn.Parameter(deviation * torch.randn(heads, d + 1, d + 1))
        self.w = nn.Parameter(deviation * torch.randn(heads, d + 1))

    def forward(self, examples: Tensor, queries: Tensor) -> Tensor:
        """Return predictions (B,) for examples (B, L, d+1) and queries (B, d)."""
        width = examples.shape[-1]
        z_q = nn.functional.pad(queries, (0, 1))[:, None, None]  # (B, 1, 1, d+1)
        z = examples[:, None]
        scale = width**-0.5 / (self.linear or 1)
        normalise: Literal["softmax", "none"] = "none" if self.linear else "softmax"
        seen = attend(z_q @ self.w_q, z @ self.w_k, z, scale=scale, normalise=normalise).out  # one value head for all
        answer: Tensor = (seen[:, :, 0] * self.w).sum((1, 2))
        return answer

    def omega(self) -> Tensor:
        """Return W_Q W_K^T / sqrt(d + 1) on the x block, (H, d, d): omega_h I once learnt."""
        d = self.w.shape[1] - 1
        omega: Tensor = (self.w_q @ self.w_k.mT)[:, :d, :d] / (d + 1) ** 0.5
        return omega

    def mu(self) -> Tensor:
        """Return the weight (H,) of the attended y."""
        return self.w[:, -1]

    @torch.no_grad()
    def install(self, omega: Tensor, mu: Tensor) -> None:
        """Set the weights that the theory predicts: omega_h I, and mu_h on y alone."""
        heads, width = self.w.shape
        place = torch.eye(width, dtype=self.w.dtype)
        place[-1, -1] = 0
        self.w_q.copy_(omega[:, None, None] * width**0.5 * place)
        self.w_k.copy_(place.expand(heads, -1, -1))
        self.w.zero_()
        self.w[:, -1] = mu


def train(
    model: Regressor,
    setting: Setting,
    *,
    steps: int = 12_000,
    batch: int = 256,
    rate: float = 3e-3,
    seed: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> None:
    """Train with Adam and a cosine on fresh problems, without noise on the answers.

    Args:
        model: is changed.
        setting: of the problems.
        steps: of Adam.
        batch: problems a step.
        rate: first learning rate.
        seed: of the problems.
        progress: told step and loss.
    """
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        problems = setting.draw(batch, generator)
        loss = (model(problems.examples, problems.queries) - problems.answers).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if progress:
            progress(step, float(loss.detach()))


def step_of_descent(problems: Problems, rate: float, *, centred: bool) -> Tensor:
    """Return predictions (B,) after one step of gradient descent from zero, on centred x (debiased) or not."""
    x, y = problems.examples[..., :-1], problems.examples[..., -1]
    x = x - x.mean(1, keepdim=True) if centred else x
    return rate / x.shape[1] * ((x @ problems.queries[:, :, None]).squeeze(-1) * y).sum(1)


def ridge(problems: Problems, setting: Setting) -> Tensor:
    """Return the predictions (B,) of the Bayes rule: ridge regression with sigma^2 d."""
    x, y = problems.examples[..., :-1], problems.examples[..., -1]
    gram = x.mT @ x + setting.sigma**2 * setting.d * torch.eye(setting.d)
    beta: Tensor = torch.linalg.solve(gram, x.mT @ y[..., None])
    return (beta.squeeze(-1) * problems.queries).sum(-1)


@torch.no_grad()
def risks(
    predictors: Mapping[str, Callable[[Problems], Tensor]],
    setting: Setting,
    *,
    count: int = 100_000,
    seed: int = 1,
) -> dict[str, float]:
    """Return the mean square error of several predictors on the same problems.

    Args:
        predictors: name -> function.
        setting: of the problems.
        count: of problems, drawn in blocks of 10,000.
        seed: of the problems.
    """
    generator = torch.Generator().manual_seed(seed)
    sums = dict.fromkeys(predictors, 0.0)
    for _ in range(max(1, count // 10_000)):
        problems = setting.draw(min(count, 10_000), generator)
        for name, predict in predictors.items():
            sums[name] += float((predict(problems) - problems.answers).square().mean())
    return {name: total / max(1, count // 10_000) for name, total in sums.items()}
