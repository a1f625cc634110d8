"""What timm does with the numbers that its models show, tried on a full model and on its subnets.

    python tests/zoo/timm_metadata.py --cache FILE  # all 98 families: how many are right, per item; resumable
    python tests/zoo/timm_metadata.py coat swin     # some of them

A run over all families also writes the counts to `docs/timm_metadata.json`, from which `tools/zoo.py` makes a table.
An item holds for a model if timm's own code and the shapes that it meets agree. What does not hold for the full model
is not asked of its subnets. A subnet is `right`, `wrong`, or raises (which is loud, and counted apart).
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ERRORS = (RuntimeError, AssertionError, ValueError, TypeError, AttributeError, KeyError, IndexError)
KINDS = ("half", "uneven", "smallest")
RESULTS = Path(__file__).parents[2] / "docs" / "timm_metadata.json"
Claims = dict[str, tuple[int, tuple[int, ...]]]  # what is claimed of a size, and the shape where it should be found


def _first(out: Any) -> Any:
    return out[0] if isinstance(out, (tuple, list)) else out


def _features(model: Any, x: Tensor) -> Claims:
    return {"num_features": (model.num_features, tuple(_first(model.forward_features(x)).shape))}


def _pre_logits(model: Any, x: Tensor) -> Claims:
    """Where the input of the classifier is handed out, it is as wide as the model says."""
    hidden = model.forward_head(model.forward_features(x), pre_logits=True)
    width = sum(part.shape[-1] for part in hidden) if isinstance(hidden, (tuple, list)) else hidden.shape[-1]
    return {"head_hidden_size": (model.head_hidden_size, (2, width))}


def _feature_info(model: Any, x: Tensor) -> Claims:
    shapes: dict[str, tuple[int, ...]] = {}
    modules = dict(model.named_modules())
    entries = [dict(entry) for entry in model.feature_info if entry["module"] in modules]
    hooks = [
        modules[entry["module"]].register_forward_hook(
            lambda _, __, out, name=entry["module"]: shapes.update({name: tuple(_first(out).shape)})
        )
        for entry in entries
    ]
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return {e["module"]: (e["num_chs"], shapes[e["module"]]) for e in entries if e["module"] in shapes}


def _intermediates(model: Any, x: Tensor) -> Claims:
    """What it says of its features, where timm collects them by a method of the model."""
    found = model.forward_intermediates(x, intermediates_only=True)
    info = model.feature_info
    return {str(i): (e["num_chs"], tuple(t.shape)) for i, (e, t) in enumerate(zip(info, found, strict=True))}


def _wrapped(kind: str) -> Callable[[Any, Tensor], Claims]:
    def claims(model: Any, x: Tensor) -> Claims:
        from timm.models import _features as wrappers

        model = copy.deepcopy(model)
        wrapped = getattr(wrappers, kind)(model, out_indices=tuple(range(len(model.feature_info))))
        channels = wrapped.feature_info.channels()
        return {str(i): (n, tuple(t.shape)) for i, (n, t) in enumerate(zip(channels, wrapped(x), strict=True))}

    return claims


def _classifier(model: Any, x: Tensor) -> Claims:
    model = copy.deepcopy(model)
    model.reset_classifier(7)
    return {"classes": (7, tuple(_first(model(x)).shape))}


def _fused(model: Any, x: Tensor) -> Claims:
    from timm.utils.model import reparameterize_model

    same = torch.allclose(reparameterize_model(model)(x), model(x), rtol=1e-3, atol=1e-4)
    return {"same": (1, (int(same),))}


ITEMS: dict[str, Callable[[Any, Tensor], Claims]] = {
    "num_features": _features,
    "head_hidden_size": _pre_logits,
    "feature_info": _feature_info,
    "forward_intermediates": _intermediates,
    "FeatureListNet": _wrapped("FeatureListNet"),
    "FeatureHookNet": _wrapped("FeatureHookNet"),
    "FeatureGetterNet": _wrapped("FeatureGetterNet"),
    "reset_classifier": _classifier,
    "reparameterize": _fused,
}


def check(full: nn.Module, subnets: dict[str, nn.Module], x: Tensor) -> Iterator[tuple[str, str, str]]:
    """(item, subnet, "right" | "wrong: …" | "raises: …"), of the items that hold for the full model."""
    for item, claims in ITEMS.items():
        with torch.no_grad():
            try:
                expected = claims(full, x)
            except ERRORS:
                continue
            held = {key: [d for d, n in enumerate(shape) if n == size] for key, (size, shape) in expected.items()}
            held = {key: places for key, places in held.items() if places}
            for which, small in subnets.items() if held else ():
                try:
                    found = claims(small, x)
                except ERRORS as error:
                    said = " ".join(str(error).split())
                    yield item, which, f"raises: {type(error).__name__}: {said[:120]}"
                    continue
                wrong = {
                    key: f"{found[key][0]} of {found[key][1]}, was {expected[key][0]} of {expected[key][1]}"
                    for key, places in held.items()
                    if key in found
                    and not any(d < len(found[key][1]) and found[key][1][d] == found[key][0] for d in places)
                }
                yield item, which, f"wrong: {wrong}" if wrong else "right"


def _runs(model: Any, x: Tensor) -> bool:
    try:
        with torch.no_grad():  # what is cached can be copied
            model(x)
    except ERRORS:
        return False
    return True


def examine(family: str) -> list[tuple[str, str, str]]:
    """What `check` finds for three subnets of a family's model; nothing of theirs has been verified before."""
    from suite_timm import ROWS, TIMM

    from elastify import elastify, extract, space

    entry = next(entry for (name, *_), entry in zip(ROWS, TIMM, strict=True) if name == family)
    full, args, _ = entry.make()
    model = elastify(copy.deepcopy(full), args, verify=False)
    where = space(model)
    whole = {stage.name: len(stage.blocks) for stage in where.stages}
    subnets = {
        "half": extract(model, {axis.name: 0.5 for axis in where.axes}),
        "uneven": extract(model, where.repair({**where.sample(1).sizes, **whole})),
        "smallest": extract(model, where.min),
    }
    idle = [which for which, small in subnets.items() if not _runs(small, args[0])]
    for which in idle:
        del subnets[which]
    return [("forward", which, "raises: it does not run") for which in idle] + list(check(full, subnets, args[0]))


def counts(found: Mapping[str, Sequence[Sequence[str]]]) -> dict[str, list[int]]:
    """By item: models for which it holds, those where each kind of subnet is right, subnets that are wrong or raise."""
    rows = {}
    for item in ("forward", *ITEMS):
        lines = [
            (family, which, result)
            for family, checks in found.items()
            for name, which, result in checks
            if name == item
        ]
        if lines:
            results = Counter((which, result.partition(":")[0]) for _, which, result in lines)
            right = [results[kind, "right"] for kind in KINDS]
            others = [sum(results[kind, verdict] for kind in KINDS) for verdict in ("wrong", "raises")]
            rows[item] = [len({family for family, *_ in lines}), *right, *others]
    return rows


def table(rows: Mapping[str, Sequence[int]]) -> Iterator[str]:
    """The counts as a table."""
    yield f"| what timm does | models | {' | '.join(KINDS)} | wrong | raises |"
    yield f"|---|{'---:|' * (len(KINDS) + 3)}"
    for item, numbers in rows.items():
        yield f"| `{item}` | {' | '.join(map(str, numbers))} |"


def main(names: list[str], cache: Path | None) -> None:
    from suite_timm import ROWS

    found: dict[str, list[Any]] = {}
    if cache is not None and cache.is_file():
        found = dict(json.loads(line) for line in cache.read_text(encoding="utf-8").splitlines())
    for family, *_ in ROWS:
        if (not names or family in names) and family not in found:
            found[family] = examine(family)
            gc.collect()  # large models that refer to themselves
            if cache is not None:
                with cache.open("a", encoding="utf-8") as file:
                    print(json.dumps([family, found[family]]), file=file)
    chosen = {family: found[family] for family, *_ in ROWS if family in found and (not names or family in names)}
    for family, lines in chosen.items():
        for item, which, result in lines:
            if result != "right":
                print(f"{family:24} {which:8} {item:22} {result}")
    rows = counts(chosen)
    print("\n".join([f"{len(chosen)} models", "", *table(rows)]))
    if len(chosen) == len(ROWS):
        lines = ",\n".join(f"{json.dumps(item)}: {json.dumps(numbers)}" for item, numbers in rows.items())
        RESULTS.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2])]
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*")
    parser.add_argument("--cache", type=Path, help="JSON lines: what is in it is not tried again")
    asked = parser.parse_args()
    main(asked.families, asked.cache)
