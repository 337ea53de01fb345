"""The in-context-regression study: what heads learn is the theory's step of descent."""

from __future__ import annotations

import pytest
import torch

from zoo_core.attention.papers import in_context as icl


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("omega", "limit"), [(0.1, 1.2e-2), (0.01, 1.2e-4), (0.001, 1.2e-6)])
def test_in_context_two_opposite_heads_are_a_step_of_centred_descent(omega: float, limit: float) -> None:
    setting = icl.Setting()
    model = icl.Regressor(5, 2).double()
    mu = setting.best_rate / (2 * omega)
    model.install(torch.tensor([omega, -omega]).double(), torch.tensor([mu, -mu]).double())
    problems = icl.Problems(*(x.double() for x in setting.draw(500, torch.Generator().manual_seed(0))))
    truth = icl.step_of_descent(problems, setting.best_rate, centred=True)
    with torch.no_grad():
        error = (model(problems.examples, problems.queries) - truth).norm() / truth.norm()
    assert error < limit, "the error falls with the square of omega"
    torch.testing.assert_close(
        model.omega().detach(), torch.tensor([[[omega]], [[-omega]]]).double() * torch.eye(5).double()
    )


def test_in_context_risks_of_the_references_are_those_of_the_theory() -> None:
    setting = icl.Setting()
    risks = icl.risks(
        {
            "step": lambda p: icl.step_of_descent(p, setting.best_rate, centred=False),
            "centred": lambda p: icl.step_of_descent(p, setting.best_rate, centred=True),
            "ridge": lambda p: icl.ridge(p, setting),
        },
        setting,
    )
    assert risks["step"] == pytest.approx(setting.best_step_risk, rel=0.02)
    assert risks["centred"] == pytest.approx(0.1351, rel=0.02)
    assert risks["ridge"] == pytest.approx(0.0015, rel=0.05)


def learnt(heads: int, setting: icl.Setting, *, linear: int | None = None) -> icl.Regressor:
    # short: from other seeds one head may still do all the work, which the long study below leaves behind
    torch.manual_seed(1)
    model = icl.Regressor(setting.d, heads, linear=linear)
    icl.train(model, setting, steps=600, batch=64, rate=2e-2, seed=1)
    return model


def test_in_context_two_heads_learn_opposite_signs_and_one_linear_head_breaks_at_other_lengths() -> None:
    setting = icl.Setting(d=2, examples=20)
    longer = icl.Setting(d=2, examples=80)
    two = learnt(2, setting)
    linear = learnt(1, setting, linear=20)
    omega, mu = two.omega().detach().diagonal(dim1=1, dim2=2).mean(1), two.mu().detach()
    assert float(omega[0] * omega[1]) < 0
    assert float(mu[0] * mu[1]) < 0
    assert float(mu.sum().abs()) < 0.1 * float(mu.abs().sum())
    models = {"two": two, "linear": linear}
    predictors = {name: lambda p, m=m: m(p.examples, p.queries) for name, m in models.items()}
    here, there = icl.risks(predictors, setting, count=10_000), icl.risks(predictors, longer, count=10_000)
    assert here["two"] < 1.3 * setting.best_step_risk
    assert there["linear"] > 50 * there["two"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_in_context_figures_of_the_study_are_reproduced() -> None:
    setting, longer = icl.Setting(), icl.Setting(examples=160)
    for heads, linear, wanted, wanted_longer in (
        (1, None, 0.2938, 0.126),
        (2, None, 0.1338, 0.0433),
        (4, None, 0.1338, 0.0432),
        (1, 40, 0.1305, 6.56),
    ):
        torch.manual_seed(0)
        model = icl.Regressor(5, heads, linear=linear)
        icl.train(model, setting)
        predictor = {"it": lambda p, m=model: m(p.examples, p.queries)}
        assert icl.risks(predictor, setting)["it"] == pytest.approx(wanted, rel=0.05)
        assert icl.risks(predictor, longer)["it"] == pytest.approx(wanted_longer, rel=0.05)
