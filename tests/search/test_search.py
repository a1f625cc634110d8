"""Search: nested configurations within budgets, repair, studies that resume, bad input, and failures."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elastify._errors import ElastifyError
from elastify._ir.layout import Axis, Product
from elastify._ir.plan import Constraint, ElasticAxis, Plan, Stage
from elastify._search import search
from elastify._search.budget import Budget, Trial, grow, largest_nested, shrink, starting_rows
from elastify._search.options import SearchOptions
from elastify._search.search import Result
from elastify._space.config import SubnetConfig
from elastify._space.metrics import Cost
from elastify._space.space import SearchSpace


def space() -> SearchSpace:
    """A width, its heads (at most twelve units for each), and three blocks with own hidden sizes."""
    axes = (
        ElasticAxis(0, "width", 48, (12, 24, 36, 48), "width", (("norm.weight", 0),)),
        ElasticAxis(1, "heads", 4, (1, 2, 3, 4), "heads", (("qkv.weight", 0),)),
        *(
            ElasticAxis(2 + b, f"blocks.{b}.hidden", 64, tuple(range(16, 65, 4)), members=((f"blocks.{b}.w", 0),))
            for b in range(3)
        ),
    )
    stages = (Stage("blocks", "blocks", ("blocks.0", "blocks.1", "blocks.2"), (1, 2, 3)),)
    constraint = Constraint("le", (Axis(0, 48), Product((Axis(1, 4), Axis(99, 12)))), True)
    return SearchSpace(Plan(axes, stages, constraints=(constraint,)))


def cost(rows: np.ndarray) -> Cost:
    """MACs: attention of width x heads of twelve units, and width x hidden per kept block."""
    width, inner, depth = rows[:, 0], rows[:, 1] * 12, rows[:, 5]
    hidden = sum(rows[:, 2 + b] * (depth > b) for b in range(3))
    macs = 10 * (4 * width * inner + 2 * width * hidden)
    return Cost(macs, macs // 10, macs // 5 * 2, width * 10)


FULL = int(cost(space().rows.full[None]).macs[0])
LEAST = int(cost(space().rows.least[None]).macs[0])
QUICK = {"progress": False, "n_trials": 30, "population": 8}


def run_search(space, cost_fn, budgets, score_fn=None, **options) -> Result:
    return search.run_search(space, cost_fn, budgets, score_fn, SearchOptions(**options))


def score(config: SubnetConfig) -> float:
    """Likes width, then depth: never the nested configuration."""
    return 3 * math.log(config.sizes["width"]) + len(config.depths["blocks"]) + config.sizes["blocks.0.hidden"] / 64


def check(result: Result, budget: int) -> None:
    """Every trial fits, and the front is one."""
    where = space()
    for trial in result.history:
        assert trial.cost == cost(where.encode(trial.config))[0]
        assert trial.cost.macs <= budget
        assert where.check(trial.config) == trial.config
    costs, scores = [p.cost.macs for p in result.pareto], [p.score for p in result.pareto]
    assert costs == sorted(set(costs))
    assert scores == sorted(set(scores))
    best = max(trial.score for trial in result.history if not math.isnan(trial.score))
    assert result.score == best == scores[-1]
    assert result.config == result.pareto[-1].config


@settings(max_examples=40, deadline=None)
@given(st.integers(LEAST, FULL - 1), st.integers(0, 1000))
def test_shrinking_fits_and_keeps_what_already_fits(limit, seed):
    where, budget = space(), Budget({"macs": limit}, cost)
    row = where.rows.sample(np.random.default_rng(seed))
    small = shrink(where, budget, row)
    assert budget.fits(small[None])[0]
    assert where.rows.relations.legal(small[None, :5])[0]
    assert (small == row).all() == bool(budget.fits(row[None])[0])
    assert (small <= np.maximum(row, where.rows.least)).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(LEAST, FULL - 1))
def test_the_largest_nested_configuration_cannot_grow(limit):
    where, budget = space(), Budget({"macs": limit}, cost)
    row = largest_nested(where, budget)
    assert budget.fits(row[None])[0]
    larger = where.rows.grow(row)
    assert not budget.fits(larger).any()
    assert (where.rows.normalise(row[None])[0] == row).all()


def test_without_a_score_the_largest_nested_configuration_is_returned():
    result = run_search(space(), cost, {"macs": FULL // 2})
    assert result.cost == cost(space().encode(result.config))[0]
    assert 0.9 * FULL // 2 < result.cost.macs <= FULL // 2
    assert (result.score, result.pareto, result.history) == (None, (), ())
    assert result == run_search(space(), cost, {"macs": FULL // 2})
    assert "MACs" in str(result)


def test_several_budgets_all_hold():
    limits = {"macs": FULL // 2, "params": FULL // 30, "activations": 300}
    result = run_search(space(), cost, limits)
    assert all(getattr(result.cost, metric) <= limit for metric, limit in limits.items())
    result = run_search(space(), cost, limits, score, **QUICK)
    for trial in result.history:
        assert all(getattr(trial.cost, metric) <= limit for metric, limit in limits.items())


def test_a_search_is_feasible_seeded_and_better_than_nested():
    budget = FULL // 3
    result = run_search(space(), cost, {"macs": budget}, score, **QUICK)
    check(result, budget)
    assert len(result.history) == 30
    nested = run_search(space(), cost, {"macs": budget})
    assert result.score > score(nested.config)
    again = run_search(space(), cost, {"macs": budget}, score, **QUICK)
    assert [(t.config, t.score, t.state) for t in again.history] == [
        (t.config, t.score, t.state) for t in result.history
    ]
    other = run_search(space(), cost, {"macs": budget}, score, seed=1, **QUICK)
    assert [t.config for t in other.history] != [t.config for t in result.history]
    assert "30 trials" in str(result)


def test_minimising():
    result = run_search(space(), cost, {"macs": FULL // 3}, lambda c: -score(c), direction="minimize", **QUICK)
    assert result.score == min(trial.score for trial in result.history)
    assert result.config == result.pareto[-1].config
    mirrored = run_search(space(), cost, {"macs": FULL // 3}, score, **QUICK)
    assert mirrored.config == result.config


def test_a_search_without_budget_gives_the_whole_front():
    result = run_search(space(), cost, {}, score, **QUICK)
    check(result, FULL)
    assert len(result.pareto) > 3


def test_no_configuration_is_evaluated_twice():
    seen: list[SubnetConfig] = []

    def counted(config):
        seen.append(config)
        return 1.0

    small = SearchSpace(Plan((ElasticAxis(0, "a", 3, (1, 2, 3)),)))
    result = run_search(small, lambda rows: Cost(*[rows[:, 0]] * 4), {"macs": 2}, counted, n_trials=20, progress=False)
    assert len(seen) == len(set(seen)) == 2
    assert len(result.history) == 20
    assert {trial.state for trial in result.history} == {"new", "repeated"}


def test_starting_points_reduce_all_only_widths_and_only_depths():
    where = space()
    rows = starting_rows(where, Budget({"macs": FULL * 6 // 10}, cost))
    assert len(rows) == 3
    assert rows[1][-1] == 3
    assert rows[2][0] == 48
    assert rows[2][-1] < 3
    assert (
        where.decode(where.rows.normalise(rows[0][None])[0]) == run_search(where, cost, {"macs": FULL * 6 // 10}).config
    )
    tight = starting_rows(where, Budget({"macs": LEAST}, cost))
    assert [row.tolist() for row in tight] == [where.rows.least.tolist()]


def test_growing_leaves_what_skipped_blocks_use():
    where = space()
    row = grow(where, Budget({"macs": FULL // 3}, cost), where.rows.least)
    assert cost(row[None]).macs[0] <= FULL // 3
    assert (row >= where.rows.least).all()
    row[-1] = 1
    assert set(np.flatnonzero((where.rows.grow(row) > row).any(axis=0))).isdisjoint({3, 4})


def test_a_study_in_a_database_is_continued(tmp_path):
    path = tmp_path / "study.db"
    first = run_search(space(), cost, {"macs": FULL // 3}, score, study=path, **QUICK | {"n_trials": 3})
    more = run_search(space(), cost, {"macs": FULL // 3}, score, study=f"sqlite:///{path}", **QUICK | {"n_trials": 5})
    assert more.history[:3] == first.history
    assert len(more.history) == 5


def test_a_study_is_continued(tmp_path):
    path, seen = tmp_path / "new" / "study.log", []

    def counted(config):
        seen.append(config)
        return score(config)

    first = run_search(space(), cost, {"macs": FULL // 3}, counted, study=path, **QUICK | {"n_trials": 12})
    once = len(seen)
    again = run_search(space(), cost, {"macs": FULL // 3}, counted, study=path, **QUICK | {"n_trials": 12})
    assert len(seen) == once
    assert again.config == first.config
    assert again.history == first.history
    more = run_search(space(), cost, {"macs": FULL // 3}, counted, study=path, **QUICK)
    assert len(seen) == len(set(seen))
    assert more.history[:12] == first.history
    whole = run_search(space(), cost, {"macs": FULL // 3}, score, **QUICK)
    assert [t.config for t in more.history] == [t.config for t in whole.history]
    other = run_search(space(), cost, {"macs": FULL // 4}, score, study=path, **QUICK)
    check(other, FULL // 4)


def test_a_killed_search_goes_on(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "import os, sys\n"
        "sys.path[:0] = sys.argv[1].split(os.pathsep)\n"
        "from test_search import FULL, QUICK, cost, run_search, score, space\n"
        "count = [0]\n"
        "def dies(config):\n"
        "    count[0] += 1\n"
        "    if count[0] == 6:\n"
        "        os._exit(9)\n"
        "    return score(config)\n"
        "run_search(space(), cost, {'macs': FULL // 3}, dies, study=sys.argv[2], **QUICK)\n"
    )
    path = tmp_path / "study.log"
    here = __file__.rsplit("/", 1)[0]
    env = {"PYTHONPATH": f"{here}/../..", "OMP_NUM_THREADS": "1", "PATH": ""}
    command = [sys.executable, script, here, path]
    run = subprocess.run(command, capture_output=True, text=True, cwd=f"{here}/../..", check=False, env=env)
    assert run.returncode == 9, run.stderr
    result = run_search(space(), cost, {"macs": FULL // 3}, score, study=path, **QUICK)
    check(result, FULL // 3)
    assert len(result.history) == 30
    assert [trial.number for trial in result.history][:6] == [0, 1, 2, 3, 4, 6]


def test_a_study_of_another_model_or_another_kind_is_refused(tmp_path):
    path = tmp_path / "study.log"
    run_search(space(), cost, {"macs": FULL // 3}, score, study=path, **QUICK | {"n_trials": 2})
    small = SearchSpace(Plan((ElasticAxis(0, "a", 3, (1, 2, 3)),)))
    with pytest.raises(ElastifyError, match="belongs to another model"):
        run_search(small, lambda rows: Cost(*[rows[:, 0]] * 4), {"macs": 2}, lambda _: 0.0, study=path, progress=False)
    foreign = tmp_path / "foreign.log"
    foreign.write_text("this is no journal\n" * 3)
    with pytest.raises(ElastifyError, match="cannot use this study file"):
        run_search(space(), cost, {"macs": FULL // 3}, score, study=foreign, **QUICK)
    with pytest.raises(ElastifyError, match="cannot use this study file"):
        run_search(space(), cost, {"macs": FULL // 3}, score, study=tmp_path, **QUICK)
    foreign.with_suffix(".db").write_bytes(b"no database" * 100)
    with pytest.raises(ElastifyError, match="cannot use this study file"):
        run_search(space(), cost, {"macs": FULL // 3}, score, study=foreign.with_suffix(".db"), **QUICK)


def test_interrupting_returns_the_best_so_far():
    seen = []

    def interrupted(config):
        if len(seen) == 5:
            raise KeyboardInterrupt
        seen.append(config)
        return score(config)

    result = run_search(space(), cost, {"macs": FULL // 3}, interrupted, **QUICK)
    assert len(result.history) == 5
    assert result.config == max(seen, key=score)
    seen[:] = [None] * 5
    with pytest.raises(KeyboardInterrupt):
        run_search(space(), cost, {"macs": FULL // 3}, interrupted, **QUICK)


def test_time_limits_and_callbacks():
    seen: list[Trial] = []
    result = run_search(space(), cost, {"macs": FULL // 3}, score, callbacks=(seen.append,), **QUICK)
    assert [t.config for t in seen] == [t.config for t in result.history]
    assert len(run_search(space(), cost, {"macs": FULL // 3}, score, timeout=0.0, **QUICK).history) == 1


def test_a_study_is_shared(tmp_path):
    path, seen = tmp_path / "study.log", []

    def meets_another(config):
        seen.append(config)
        if len(seen) == 3:  # as another process would: in the middle of this one's trial
            run_search(space(), cost, {"macs": FULL // 3}, meets_another, study=path, **QUICK | {"n_trials": 8})
        return score(config)

    result = run_search(space(), cost, {"macs": FULL // 3}, meets_another, study=path, **QUICK | {"n_trials": 12})
    check(result, FULL // 3)
    assert [trial.number for trial in result.history] == list(range(12))
    assert len(set(seen)) == sum(trial.state == "new" for trial in result.history)


def test_some_failures_are_recorded_and_passed_over():
    calls = [0]

    def fails_sometimes(config):
        calls[0] += 1
        if calls[0] % 4 == 2:
            raise RuntimeError("out of memory")
        return float("nan") if calls[0] % 4 == 0 else score(config)

    result = run_search(space(), cost, {"macs": FULL // 3}, fails_sometimes, **QUICK)
    check(result, FULL // 3)
    assert sum(trial.state == "failed" for trial in result.history) >= 8
    assert all(math.isnan(trial.score) for trial in result.history if trial.state == "failed")


@pytest.mark.parametrize(
    ("evaluate", "text"),
    [
        (lambda _: 1 / 0, "ZeroDivisionError"),
        (lambda _: float("nan"), "it returned nan"),
        (lambda _: None, "it returned None, which is not a number"),
        (lambda _: float("inf"), "it returned inf"),
    ],
)
def test_an_evaluation_that_never_works_is_an_error(evaluate, text):
    with pytest.raises(ElastifyError) as error:
        run_search(space(), cost, {"macs": FULL // 3}, evaluate, **QUICK)
    assert text in str(error.value)
    assert "finite number" in str(error.value)


def test_an_impossible_budget_names_the_smallest_reachable_cost():
    with pytest.raises(ElastifyError) as error:
        run_search(space(), cost, {"macs": LEAST - 1})
    assert f"({LEAST}) macs" in str(error.value)
    assert run_search(space(), cost, {"macs": LEAST}).config == space().min


def test_a_budget_above_the_full_model_returns_it_with_a_notice():
    with pytest.warns(UserWarning, match="the full model is within the budget"):
        result = run_search(space(), cost, {"macs": FULL})
    assert (result.config, result.score) == (space().max, None)
    with pytest.warns(UserWarning, match="the full model is within"):
        result = run_search(space(), cost, {"macs": FULL * 2, "params": FULL}, score)
    assert result.score == score(space().max)
    assert result.pareto == ((space().max, result.cost, result.score),)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_search(space(), cost, {"macs": FULL - 1})


def test_without_optuna_only_the_nested_search_works(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    for name in ("study", "storage"):
        monkeypatch.delitem(sys.modules, f"elastify._search.{name}", raising=False)
    assert run_search(space(), cost, {"macs": FULL // 2}).cost.macs <= FULL // 2
    with pytest.raises(ElastifyError, match="needs Optuna") as error:
        run_search(space(), cost, {"macs": FULL // 2}, score, **QUICK)
    assert "elastify[search]" in str(error.value)


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"budgets": {}}, "neither a budget nor evaluate"),
        ({"budgets": {"flops": 3}}, "no budget is called flops"),
        ({"direction": "up"}, "direction must be"),
        ({"n_trials": 0}, "n_trials=0"),
        ({"population": 1}, "population=1"),
    ],
)
def test_bad_arguments(kwargs, text):
    with pytest.raises(ElastifyError) as error:
        run_search(space(), cost, **{"budgets": {"macs": FULL // 2}} | kwargs)
    assert text in str(error.value)
