"""Check a suite of models, each in its own process, and write the coverage page of the documentation.

    python tools/zoo.py first                    # all of a suite; finished models are not run again
    python tools/zoo.py first timm:resnet50 ...  # some of it, run again
    python tools/zoo.py first --write-only       # the table from what has been run

Every model leaves one JSON file in the cache folder, so an interrupted run continues where it stopped. Results on the
page count, too. A file also names the state of the library's source text: results of another state are measured again,
unless `--keep` says that they may stand. The page names the commits. `docs/coverage.md` is for people,
`docs/coverage.json` has the same figures for programs. Two parts of the page come from other scripts, which leave JSON
files beside it: `benchmarks/pruning.py --results` and `tests/zoo/timm_metadata.py`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_PLACES = [str(ROOT), str(ROOT / "tests" / "zoo")]
sys.path[:0] = _PLACES
# Every model's process is a fork of one that has imported the libraries, and has run nothing.
_PROCESSES = multiprocessing.get_context("forkserver")
_FEW = 40  # models of a suite whose frozen dimensions are listed one by one
_STORY = {
    "first": "well-known networks of all libraries",
    "hf": "one small model for each type of transformers",
    "timm": "one model for each family of timm",
    "timm-all": "every architecture of timm, lighter check",
    "torchvision": "all models of torchvision",
    "audio": "audio networks",
}


def source_state() -> str:
    """A short name for the source text of the library and of the suites."""
    digest = hashlib.sha256()
    for file in sorted([*(ROOT / "elastify").rglob("*.py"), *(ROOT / "tests" / "zoo").glob("*.py")]):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def commit() -> str:
    """The commit that is checked out, if any; a plus says that files were changed since."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def shard(cache: Path, suite: str, name: str) -> Path:
    return cache / suite / f"{name.replace(':', '__').replace('/', '_')}.json"


# -- a suite -----------------------------------------------------------------------------------------------


def restore(suite: str, cache: Path) -> None:
    """Put results into the cache that the page has and the cache has not: another machine may have made them."""
    page = ROOT / "docs" / "coverage.json"
    for row in json.loads(page.read_text("utf-8")).get(suite, ()) if page.exists() else ():
        file = shard(cache, suite, row["model"])
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")


def run_suite(
    suite: str, names: Sequence[str], cache: Path, *, limit: float, jobs: int, again: bool, keep: bool = False
) -> None:
    """Run what has no result of this state of the source yet (`keep`: of any), `jobs` processes at a time."""
    state, version = source_state(), commit()
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(_PLACES)}
    _PROCESSES.set_forkserver_preload(["zoo_check"])

    def due(name: str) -> bool:
        file = shard(cache, suite, name)
        if again or not file.exists():
            return True
        return not keep and json.loads(file.read_text("utf-8")).get("state") != state

    waiting = [name for name in names if due(name)]
    print(f"{len(names) - len(waiting)} of {len(names)} are done, {len(waiting)} to run", flush=True)
    with ThreadPoolExecutor(jobs) as pool:
        for result in pool.map(lambda name: _run_one(suite, name, cache, limit, (state, version)), waiting):
            verdict = "passed" if result["passed"] else "; ".join(result["failures"])[:300]
            print(f"{result['model']:<40} {result['total_seconds']:6.1f} s  {verdict}", flush=True)


def _run_one(suite: str, name: str, cache: Path, limit: float, source: tuple[str, str]) -> dict[str, Any]:
    import zoo_check

    file = shard(cache, suite, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    start = time.perf_counter()
    process = _PROCESSES.Process(target=zoo_check.check_into, args=(suite, name, file))
    process.start()
    process.join(limit)
    failure = ""
    if process.is_alive():
        process.kill()
        process.join()
        failure = f"not finished after {limit:.0f} s"
    elif process.exitcode:
        failure = f"the process ended with code {process.exitcode}"
    result = {"model": name, "passed": False, "failures": [failure]} if failure else json.loads(file.read_text("utf-8"))
    result |= {"state": source[0], "commit": source[1], "total_seconds": time.perf_counter() - start}
    file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


# -- the documents -----------------------------------------------------------------------------------------


def write_documents(suites: Sequence[str], cache: Path) -> None:
    from zoo_suites import SUITES

    results = {}
    for suite in suites:
        files = [shard(cache, suite, entry.name) for entry in SUITES[suite]]
        results[suite] = [json.loads(file.read_text("utf-8")) for file in files if file.exists()]
    docs = ROOT / "docs"
    rival = json.loads((docs / "torch_pruning.json").read_text("utf-8"))
    for suite, rows in results.items():
        for row in rows:
            row["torch_pruning"] = rival.get(suite, {}).get(row["model"])
    lines = {suite: ",\n".join(map(json.dumps, rows)) for suite, rows in results.items() if rows}
    text = ",\n".join(f"{json.dumps(suite)}: [\n{rows}\n]" for suite, rows in lines.items())
    (docs / "coverage.json").write_text(f"{{\n{text}\n}}\n", encoding="utf-8")
    (docs / "coverage.md").write_text("\n".join(page(results)) + "\n", encoding="utf-8")


def page(results: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """The coverage page, line by line."""
    import torch
    from zoo_suites import OUTSIDE, SUITES

    yield "# Coverage"
    yield ""
    yield from _introduction(results)
    for suite, rows in results.items():
        if not rows:
            continue
        yield ""
        yield f"## Suite `{suite}`"
        yield ""
        yield _summary(rows, len(SUITES[suite]))
        if any(entry.light for entry in SUITES[suite]):
            yield from _section("Failures", ((row["model"], text) for row in rows for text in row["failures"][:1]))
            continue
        yield ""
        yield (
            "| model | input | passed | Torch-Pruning | elastic | axes | stages | smallest MACs | "
            "smallest parameters | elastify | capture | analysis | error |"
        )
        yield "|---|---|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|"
        yield from map(_row, rows)
        yield ""
        yield (
            f"`python tools/zoo.py {suite}`; torch {torch.__version__}, Python {platform.python_version()}, "
            f"{platform.machine()}."
        )
        yield from _section("Failures", ((row["model"], text) for row in rows for text in row["failures"]))
        yield from _section(
            "Smallest configurations above 20 % of the MACs",
            ((row["model"], row["why_large"]) for row in rows if row.get("why_large")),
        )
        yield from _section("Not checked", _by_reason(OUTSIDE.get(suite, {})))
        lines = _frozen_lines(rows) if len(rows) <= _FEW else _frozen_kinds(rows)
        yield from _section("Frozen dimensions worth explaining", lines)
        yield ""
        yield "The model's inputs and outputs, and the kernel sizes of convolutions, are always frozen and not listed."
        if suite == "timm":
            yield from _numbers_of_timm()


def _introduction(results: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """All suites in one table, and what the columns of the tables below mean."""
    from zoo_suites import SUITES

    yield "Which models elastify makes elastic, what becomes elastic in each, and how small each model can get."
    yield ""
    yield "| suite | models | passed | smallest at most 20 % of the MACs | elastic depth | Torch-Pruning works |"
    yield "|---|---|---:|---:|---:|---:|"
    for suite, rows in results.items():
        if rows:
            yield _overview(suite, rows, len(SUITES[suite]))
    yield ""
    yield (
        "**Passed** means that the model passes `elastify.testing.check_model` with its defaults. The full "
        "configuration is bit-identical to the original. 20 configurations give the same output activated and "
        "extracted. Both proofs hold, costs agree with counted kernels, and copies and `state_dict` work. In training "
        "mode, too, outputs, gradients and written buffers agree. What holds at the example also holds at other "
        "lengths, picture sizes and batches that the model takes, and with attention that is not fused. Every kind of "
        "axis in the column *elastic* is elastic everywhere in the model. Weights are random, inputs small."
    )
    yield ""
    yield (
        "The **lighter check** is `check_sizes`: reduced configurations are recorded again on fake tensors, and must "
        "be the networks that the plan predicts. Networks of up to 50 million parameters must also give the same "
        "output activated and extracted."
    )
    yield ""
    yield (
        "The **smallest configuration** is that of `min_ratio=0.25`; the tables give its MACs and parameters as "
        "shares of the full network. *error* is the largest difference between activated and extracted outputs, "
        "relative to the largest output. *elastify* is the time of the call with both proofs in CPU seconds, "
        "*capture* the share of it that records the network, *analysis* the time of the analysis in milliseconds, all "
        "with one thread per model. *Torch-Pruning* says whether a model still runs after Torch-Pruning has removed "
        "half of its channels (`benchmarks/pruning.py --results`)."
    )


def _counts(rows: Sequence[dict[str, Any]]) -> tuple[int, int, int]:
    """How many models passed, how many get small, how many have depth."""
    known = [row for row in rows if "axes" in row]
    small = sum(row["smallest_macs"] <= 0.2 for row in known)
    return sum(row["passed"] for row in rows), small, sum(row["stages"] > 0 for row in known)


def _overview(suite: str, rows: Sequence[dict[str, Any]], total: int) -> str:
    """One suite as a row of the first table."""
    passed, small, deep = _counts(rows)
    compared = [row["torch_pruning"]["works"] for row in rows if row.get("torch_pruning")]
    rival = f"{sum(compared)} of {len(compared)}" if compared else ""
    name = f"[{suite}](#suite-{suite})"
    return f"| {name} | {_STORY[suite]} | {passed} of {total} | {small} | {deep} | {rival} |"


def _summary(rows: Sequence[dict[str, Any]], total: int) -> str:
    """How many passed, and at which commits, in one line."""
    missing = f" ({total - len(rows)} not run)" if len(rows) < total else ""
    return f"{_counts(rows)[0]} of {total} models passed{missing}.{_commits(rows)}"


def _commits(rows: Sequence[dict[str, Any]]) -> str:
    """The states of the library that the results of a suite are of."""
    counts = Counter(row["commit"] for row in rows if row.get("commit"))
    listed = ", ".join(f"{name} ({count})" if len(counts) > 1 else name for name, count in counts.most_common())
    return f" Measured at commit {listed}." if counts else ""


def _row(row: dict[str, Any]) -> str:
    inputs = ", ".join("x".join(map(str, shape)) for shape in row.get("inputs", ()))
    verdict = "yes" if row["passed"] else "**no**"
    theirs = row.get("torch_pruning") or {}
    rival = {True: "yes", False: "no", None: ""}[theirs.get("works")]
    if "axes" not in row:
        return f"| {row['model']} | {inputs} | {verdict} | {rival} | | | | | | | | | |"
    cells = [
        row["model"],
        inputs,
        verdict,
        rival,
        ", ".join(row["kinds"] or row["roles"]),
        row["axes"],
        row["stages"],
        f"{row['smallest_macs']:.1%}",
        f"{row['smallest_params']:.1%}",
        f"{row['seconds']['build']:.1f}",
        f"{row['seconds']['capture_all'] / row['seconds']['build']:.0%}",
        f"{1000 * row['seconds']['analyse']:.0f}",
        f"{row['worst_error']:.0e}",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def _numbers_of_timm() -> Iterator[str]:
    """What timm does with the numbers that its models show, as `tests/zoo/timm_metadata.py` found it."""
    import timm_metadata

    yield ""
    yield "### Numbers that timm models show"
    yield ""
    yield (
        "A timm model shows numbers such as `num_features`, and timm uses them: for a new classifier, for features of "
        "all levels, for fused convolutions. They must be right in an extracted subnet. We tried this on one model "
        "from each family, with three subnets: all axes halved, random sizes, and the smallest. Only items that hold "
        "for the full model are counted (*models*). The other columns count the subnets that are right, wrong, or "
        "raise an error."
    )
    yield ""
    yield from timm_metadata.table(json.loads(timm_metadata.RESULTS.read_text("utf-8")))
    yield ""
    yield (
        "`python tests/zoo/timm_metadata.py --cache FILE`. The script skips the proofs (`verify=False`). The one "
        "subnet that raises is the smallest subnet of twins, whose number of blocks is too small; with the proofs it "
        "is not offered."
    )


def _section(title: str, lines: Iterator[tuple[str, str]]) -> Iterator[str]:
    rows = list(lines)
    if rows:
        yield ""
        yield f"### {title}"
        yield ""
        for model, text in rows:
            yield f"- {model}: {' '.join(text.split())}"


def _by_reason(left_out: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Models that are not checked, and why."""
    for reason in dict.fromkeys(left_out.values()):
        yield ", ".join(name for name, why in left_out.items() if why == reason), reason


def _frozen_lines(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for row in rows:
        for group in row.get("frozen", ())[:5]:
            times = f", {group['dims']} like it" if group["dims"] > 1 else ""
            yield row["model"], f"`{group['example']}` ({group['size']} units{times}): {group['reason']}"


def _frozen_kinds(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """The same for a large suite: each kind of reason once, with how often and one example."""
    kinds: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for row in rows:
        for group in row.get("frozen", ()):
            kind = re.sub(r"-?\d+", "N", group["reason"].partition(": ")[0])
            kinds.setdefault(kind, []).append((row["model"], group))
    for kind, found in sorted(kinds.items(), key=lambda item: -len({model for model, _ in item[1]})):
        model, group = max(found, key=lambda item: item[1]["dims"])
        dims, models = sum(group["dims"] for _, group in found), len({model for model, _ in found})
        where = group["reason"].partition(": ")[2]
        yield kind, f"{dims} dimensions in {models} models; `{group['example']}` of {model}{where and ': ' + where}"


def main() -> int:
    from zoo_suites import SUITES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=list(SUITES))
    parser.add_argument("models", nargs="*", help="names of models to run again; all that are due if left out")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "zoo", help="folder of the results")
    parser.add_argument("--limit", type=float, default=600, help="seconds per model")
    parser.add_argument("--jobs", type=int, default=1, help="models at a time")
    parser.add_argument("--keep", action="store_true", help="results of earlier states of the source count as done")
    parser.add_argument("--write-only", action="store_true", help="run nothing, write the documents")
    options = parser.parse_args()
    known = [entry.name for entry in SUITES[options.suite]]
    if unknown := set(options.models) - set(known):
        parser.error(f"suite {options.suite} has no {', '.join(sorted(unknown))}; it has {', '.join(known)}")
    for suite in SUITES:
        restore(suite, options.cache)
    if not options.write_only:
        names = options.models or known
        run_suite(
            options.suite,
            names,
            options.cache,
            limit=options.limit,
            jobs=options.jobs,
            again=bool(options.models),
            keep=options.keep,
        )
    write_documents(list(SUITES), options.cache)
    return 0


if __name__ == "__main__":
    sys.exit(main())
