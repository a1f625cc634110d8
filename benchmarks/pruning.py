"""The time to a first smaller network: elastify and Torch-Pruning's dependency graph, on the same models.

    pip install --target DIR --no-deps torch-pruning==1.6.1     # not a dependency of this repository
    PYTHONPATH=DIR python benchmarks/pruning.py --results       # what works: every model in a process, resumable
    PYTHONPATH=DIR python benchmarks/pruning.py                 # the times, on the models that it does

elastify runs `elastify` without the proofs and `extract` at 0.5. Torch-Pruning builds its graph and runs one step
that prunes half of all channels by magnitude. As in its examples, we leave out the classifier, tell it the number of
heads of every attention, and correct the attributes of attention modules afterwards.

A result of Torch-Pruning *works* if the pruned network runs, returns outputs of the old shape and has fewer
parameters. Each model gets 60 CPU seconds at most. Whether it works is tested on the small inputs of the zoo. The
times are those of models of the usual size (224 pixels, 128 tokens), and only of models where Torch-Pruning works.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import resource
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

import torch
from common import ROOT, interleaved, machine, print_finding, print_table, ratio, start
from suite_first import image
from torch import Tensor, nn
from zoo_entry import Entry
from zoo_suites import SUITES

from elastify import elastify, extract, space

RESULTS = ROOT / "docs" / "torch_pruning.json"
SUITE_NAMES = ("first", "timm")
CPU_SECONDS = 60
Inputs = tuple[tuple[Any, ...], Mapping[str, Any]]
_HEADS = ("num_heads", "num_attention_heads", "n_head", "n_heads")
_PROJECTIONS = ("qkv", "q", "k", "v", "query", "key", "value", "q_proj", "k_proj", "v_proj", "kv", "in_proj")


def heads(model: nn.Module) -> dict[nn.Module, int]:
    """The number of heads of every layer that makes queries, keys or values."""
    found: dict[nn.Module, int] = {}
    for module in model.modules():
        count = next((getattr(module, name) for name in _HEADS if isinstance(getattr(module, name, None), int)), None)
        for name in _PROJECTIONS if count else ():
            layer = getattr(module, name, None)
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                found[layer] = getattr(module, "num_key_value_heads", count) if name[0] in "kv" else count  # type: ignore[assignment]
    return found


def classifiers(model: nn.Module, outputs: list[Tensor]) -> list[nn.Module]:
    """Layers as wide as the output, or the last layer if there is none."""
    sizes = {size for out in outputs for size in (out.shape[-1:] if out.ndim < 4 else out.shape[1:2])}
    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    return [m for m in layers if m.weight.shape[0] in sizes][-3:] or layers[-1:]


def tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    items = tree.values() if isinstance(tree, Mapping) else tree if isinstance(tree, (tuple, list)) else ()
    return [t for item in items for t in tensors(item)]


def mend(model: nn.Module, counts: Mapping[nn.Module, int]) -> None:
    """Sizes that attention modules keep as attributes, set anew as the examples of Torch-Pruning do."""
    for module in model.modules():
        layers = [getattr(module, n) for n in _PROJECTIONS if getattr(module, n, None) in counts]
        if not layers:
            continue
        layer, count = layers[0], counts[layers[0]]
        fused = getattr(module, "qkv", None) is layer
        inner = layer.weight.shape[0] // (3 if fused else 1)
        dims = dict.fromkeys(("head_dim", "attention_head_size", "key_value_proj_dim"), inner // count)
        sums = dict.fromkeys(("all_head_size", "inner_dim", "attn_dim"), inner)
        for name, value in {**dict.fromkeys(_HEADS, count), **dims, **sums}.items():
            if isinstance(getattr(module, name, None), int):
                setattr(module, name, value)


def prune(model: nn.Module, inputs: Inputs, ignored: list[nn.Module]) -> nn.Module:
    """Half of all channels of a model gone, in place, by Torch-Pruning."""
    import torch_pruning as tp

    args, kwargs = inputs
    counts = heads(model)
    pruner = tp.pruner.BasePruner(
        model,
        kwargs or (args[0] if len(args) == 1 else args),
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=ignored,
        num_heads=counts,
        output_transform=lambda out: sum(t.abs().sum() for t in tensors(out) if t.is_floating_point()),
    )
    pruner.step()
    mend(model, pruner.num_heads)
    return model


def made(entry: Entry) -> tuple[nn.Module, Inputs, list[Tensor]]:
    model, args, kwargs = entry.make()
    with torch.no_grad():
        return model, (args, kwargs), tensors(model(*args, **kwargs))


def full_size(entry: Entry) -> tuple[nn.Module, Inputs, list[Tensor]]:
    """The model as people use it: pictures of 224 pixels, the default configuration and 128 tokens."""
    library, _, name = entry.name.partition(":")
    if library not in ("timm", "torchvision", "hf"):
        return made(entry)
    if library != "hf":
        model, args, kwargs = image(library, name, 224)
        return model, (args, kwargs), tensors(model(*args, **kwargs))
    import transformers as hf

    ids = torch.randint(3, 900, (2, 128))
    sequences = {"input_ids": ids, "decoder_input_ids": ids[:, :64], "use_cache": False}
    models: dict[str, tuple[Any, dict[str, Any]]] = {
        "bert": (lambda: hf.BertForMaskedLM(hf.BertConfig()), {"input_ids": ids}),
        "gpt2": (lambda: hf.GPT2LMHeadModel(hf.GPT2Config()), {"input_ids": ids, "use_cache": False}),
        "t5": (lambda: hf.T5ForConditionalGeneration(hf.T5Config()), sequences),
        "vit": (lambda: hf.ViTForImageClassification(hf.ViTConfig()), {"pixel_values": torch.randn(2, 3, 224, 224)}),
    }
    if name not in models:
        return made(entry)
    make, inputs = models[name]
    model = make().eval()
    with torch.no_grad():
        return model, ((), inputs), tensors(model(**inputs))


def outcome(entry: Entry) -> dict[str, Any]:
    """Whether the pruned model works, or why not, and its share of the parameters."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
    model, inputs, outputs = made(entry)
    before = sum(p.numel() for p in model.parameters())
    try:
        prune(model, inputs, classifiers(model, outputs))
        with torch.no_grad():
            after = tensors(model(*inputs[0], **inputs[1]))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the result
        return {"works": False, "error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    share = sum(p.numel() for p in model.parameters()) / before
    if [t.shape for t in after] != [t.shape for t in outputs]:
        return {"works": False, "error": "the outputs have another shape", "parameters": share}
    return {"works": share < 1, "error": "" if share < 1 else "nothing was pruned", "parameters": share}


def results(suites: tuple[str, ...]) -> None:
    """Run every model that has no result yet; the file is written after each."""
    known = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    for suite in suites:
        rows = known.setdefault(suite, {})
        for entry in SUITES[suite]:
            if entry.name in rows:
                continue
            command = [sys.executable, __file__, "--one", suite, entry.name]
            done = subprocess.run(command, capture_output=True, text=True, env={**os.environ}, check=False)
            lines = done.stdout.strip().splitlines()
            failure = f"not finished after {CPU_SECONDS} CPU seconds" if done.returncode < 0 else done.stderr[-200:]
            rows[entry.name] = json.loads(lines[-1]) if done.returncode == 0 else {"works": False, "error": failure}
            print(suite, entry.name, rows[entry.name], flush=True)
            RESULTS.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
        print(f"{suite}: {sum(row['works'] for row in rows.values())} of {len(rows)} work", flush=True)


def times(names: list[str], repeats: int) -> Iterator[tuple[str, ...]]:
    known = json.loads(RESULTS.read_text("utf-8"))
    for entry in {e.name: e for suite in SUITE_NAMES for e in SUITES[suite] if known[suite][e.name]["works"]}.values():
        if names and entry.name not in names:
            continue
        model, inputs, outputs = full_size(entry)
        places = {id(m): path for path, m in model.named_modules()}
        ignored = [places[id(m)] for m in classifiers(model, outputs)]
        ours = iter([copy.deepcopy(model) for _ in range(repeats + 1)])
        theirs = iter([copy.deepcopy(model) for _ in range(repeats + 1)])

        def run_ours(ours: Iterator[nn.Module] = ours, inputs: Inputs = inputs) -> None:
            elastic = elastify(next(ours), inputs[0], example_kwargs=inputs[1], verify=False)
            extract(elastic, space(elastic).config(0.5))

        def run_theirs(
            theirs: Iterator[nn.Module] = theirs, inputs: Inputs = inputs, ignored: list[str] = ignored
        ) -> None:
            again = next(theirs)
            prune(again, inputs, [again.get_submodule(path) for path in ignored])

        a, b = interleaved(repeats, run_ours, run_theirs)
        RATIOS.append(ratio(b, a))
        yield entry.name, f"{median(a):.2f}", f"{median(b):.2f}", f"{RATIOS[-1]:.1f}"


RATIOS: list[float] = []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--models", nargs="*", default=[], help="only these")
    parser.add_argument("--results", nargs="*", choices=list(SUITES), help=f"suites; {', '.join(SUITE_NAMES)} if none")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    start()
    warnings.simplefilter("ignore")
    if options.one:
        suite, name = options.one
        print(json.dumps(outcome(next(entry for entry in SUITES[suite] if entry.name == name))))
    elif options.results is not None:
        results(tuple(options.results) or SUITE_NAMES)
    else:
        known = json.loads(RESULTS.read_text("utf-8"))
        print_table(("model", "elastify (s)", "Torch-Pruning (s)", "ratio"), times(options.models, options.repeats))
        print_finding(
            f"Where Torch-Pruning works, elastify is {median(RATIOS):.2f} times as fast (median; {min(RATIOS):.1f} to "
            f"{max(RATIOS):.1f} times)."
        )
        for suite in SUITE_NAMES:
            rows = known[suite].values()
            print_finding(
                f"Torch-Pruning works for {sum(r['works'] for r in rows)} of {len(rows)} models of `{suite}`."
            )
        print(f"\nGoal: a median of at least 3.\n\n{machine(options.repeats)}")


if __name__ == "__main__":
    main()
