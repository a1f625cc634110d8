"""The command line: what it prints, what it says to mistakes, and how it ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from elastify import ElastifyError
from elastify._adapters.build import LARGE, build
from elastify.cli import app
from elastify.cli.arguments import known_recipes

NETS = """
import torch
from torch import nn

class Tiny(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))

class Picky(nn.Linear):
    def __init__(self, size):
        super().__init__(size, size)

class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(50, 16), nn.Linear(16, 2)
    def forward(self, ids):
        return self.head(self.embed(ids))

class Rigid(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 16), nn.Linear(16, 3)
    def forward(self, x):
        return self.down(self.up(x).cumsum(-1))

def pair():
    return Tiny(), torch.randn(2, 4)

def nothing():
    return 3

def broken():
    return 1 + None

instance = Tiny()
number = 3
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "handmade_nets.py").write_text(NETS, encoding="utf-8")
    (tmp_path / "half_installed.py").write_text("import no_such_dependency\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield "handmade_nets"
    sys.modules.pop("handmade_nets", None)


def run(*words: str, code: int = 0) -> str:
    """Standard output of a command that ends well, standard error of one that does not."""
    result = CliRunner().invoke(app, words)
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result.stdout if code == 0 else result.stderr


def refused(*words: str) -> str:
    """The paragraph that a mistake gets."""
    text = run(*words, code=2)
    assert text.startswith("Error: ")
    assert "Traceback" not in text
    assert "\n\n" not in text.strip()
    return text


def test_inspect_prints_the_whole_space(nets: str) -> None:
    text = run("inspect", f"{nets}:Tiny", "--input", "2x4")
    assert "Tiny: 13 configurations, verified" in text
    assert "4..16" in text
    assert "the model's interface" in text  # frozen dimensions come with reasons
    assert "cost per sample" in text
    assert [line.split()[1] for line in text.splitlines() if line.split()[:1] in (["min"], ["max"])] == ["28", "112"]


@pytest.mark.parametrize("word", ["timm:resnet18", "torchvision:resnet18"])
def test_inspect_builds_models_by_name(word: str) -> None:
    text = run("inspect", word, "--no-verify")
    assert "ResNet" in text
    assert "not verified" in text
    assert "layer1" in text
    assert "1.81G" in text  # published multiply-accumulates of this network


def test_build_picks_the_task_head() -> None:
    # The meta device: these default sizes are large, and only the class matters here.
    from transformers import modeling_utils

    names = {
        "hf:bert": "BertForMaskedLM",
        "hf:t5": "T5ForConditionalGeneration",
        "hf:DistilBertModel": "DistilBertModel",
    }
    for word, expected in names.items():
        with torch.device("meta"):
            model = build(*word.split(":"))
        assert type(model).__name__ == expected
        assert isinstance(model, modeling_utils.PreTrainedModel)
        assert not model.training


def test_large_models_get_no_weights() -> None:
    model = build("hf", "llama")
    assert sum(p.numel() for p in model.parameters()) > LARGE
    assert all(p.is_meta for p in model.parameters())


def test_inspect_shows_the_cost_of_a_configuration(nets: str) -> None:
    text = run("inspect", f"{nets}:Tiny", "--input", "2x4", "--config", "*=0.5")
    assert "subnet *=0.5" in text
    assert "hidden = 8 of 16" in text
    assert "56 of 112  (50.0 %)" in text


def test_inspect_takes_options(nets: str) -> None:
    assert "3 configurations" in run("inspect", f"{nets}:pair", "--choices", "*=0.25,8")
    assert "9 configurations" in run("inspect", f"{nets}:pair", "--min-ratio", "0.5")
    assert "5 configurations" in run("inspect", f"{nets}:pair", "--min-ratio", "*=0.75")
    assert "2 configurations" in run("inspect", f"{nets}:instance", "--input", "2x4", "--multiple-of", "8")
    assert "not verified" in run("inspect", f"{nets}:pair", "--no-verify")


def test_inspect_explains_an_axis(nets: str) -> None:
    assert "runs through 0.weight[0]" in run("inspect", f"{nets}:pair", "--why", "*hidden")


def test_inspect_takes_integers_by_name(nets: str) -> None:
    assert "embedding" in run("inspect", f"{nets}:Tokens", "--input", "ids=2x7:50").lower()


MISTAKES = {
    "no colon": (["resnet18"], ["does not name a model", "timm:NAME", "hf:NAME", "package.module:factory"]),
    "no name": (["timm:"], ["does not name a model"]),
    "timm spelling": (["timm:resnet51"], ["timm has no model called 'resnet51'", "resnet50"]),
    "torchvision spelling": (["torchvision:vit_b16"], ["torchvision has no model called", "vit_b_16"]),
    "hf spelling": (["hf:brt"], ["hf has no model called 'brt'", "bert"]),
    "hf class spelling": (["hf:BertForMaskedLm"], ["BertForMaskedLM"]),
    "hf not a model": (["hf:AutoTokenizer"], ["hf has no model called"]),
    "no module": (["no_such_module:f"], ["no Python module called 'no_such_module'", "timm:NAME"]),
    "misspelt library": (["tim:resnet18"], ["timm:resnet18"]),
    "dependency missing": (["half_installed:f"], ["half_installed cannot be imported", "no_such_dependency"]),
    "no attribute": (["handmade_nets:Tinny"], ["handmade_nets has no 'Tinny'", "handmade_nets:Tiny"]),
    "arguments needed": (["handmade_nets:Picky"], ["cannot be called without arguments", "size"]),
    "not a model": (["handmade_nets:nothing"], ["returns a int, not a torch.nn.Module"]),
    "not callable": (["handmade_nets:number"], ["is a int"]),
    "no inputs": (["handmade_nets:Tiny"], ["needs example inputs for Tiny"]),
    "wrong shape word": (["handmade_nets:Tiny", "--input", "2xx4"], ["is not a shape", "2x3x224x224"]),
    "size zero": (["handmade_nets:Tiny", "--input", "0x4"], ["is not a shape"]),
    "nothing elastic": (["handmade_nets:Rigid", "--input", "2x4"], ["nothing in this Rigid is elastic", "cumsum"]),
    "unknown axis": (["handmade_nets:pair", "--config", "nope=0.5"], ["'nope' matches no axis"]),
    "no value": (["handmade_nets:pair", "--config", "nope"], ["has no value"]),
    "no number": (["handmade_nets:pair", "--config", "*=half"], ["'half' is not a number"]),
    "size out of range": (["handmade_nets:pair", "--config", "*=99"], ["99 is not a legal size", "4..16"]),
    "bad ratio": (["handmade_nets:pair", "--min-ratio", "2.0"], ["min_ratio must be above 0 and at most 1"]),
    "bad choice": (["handmade_nets:pair", "--choices", "*=1.5"], ["1.5 is not a possible ratio"]),
    "freeze fits nothing": (["handmade_nets:pair", "--freeze", "attn"], ["'attn' fits no axis"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_explained(name: str, nets: str) -> None:
    words, expected = MISTAKES[name]
    text = refused("inspect", *words)
    for part in expected:
        assert part in text


def test_wrong_input_is_a_mistake_too(nets: str) -> None:
    text = refused("inspect", f"{nets}:Tiny", "--input", "2x5")
    assert "the model does not run on the example inputs" in text
    assert "2x5 and 4x16" in text


def test_usage_mistakes_end_with_code_2() -> None:
    assert "No such option" in run("inspect", "timm:resnet18", "--sizes", code=2)
    assert "Missing argument" in run("inspect", code=2)
    assert "No such command" in run("inspekt", code=2)


def test_debug_shows_where(nets: str) -> None:
    result = CliRunner().invoke(app, ["inspect", "resnet18", "--debug"])
    assert isinstance(result.exception, ElastifyError)
    result = CliRunner().invoke(app, ["--debug", "inspect", "resnet18"])
    assert isinstance(result.exception, ElastifyError)


def test_bugs_are_not_dressed_up(nets: str) -> None:
    result = CliRunner().invoke(app, ["inspect", f"{nets}:broken"])
    assert isinstance(result.exception, TypeError)
    assert result.exit_code == 1


def test_help_has_examples() -> None:
    assert "elastify inspect timm:" in run("--help")
    text = run("inspect", "--help")
    assert "elastify inspect hf:bert" in text
    for option in ("--input", "--min-ratio", "--no-verify", "--freeze", "--choices", "--config"):
        assert option in text


def test_version() -> None:
    assert run("--version").startswith("elastify 0.")


DEMO = """
import sys
import argparse

def main():
    parser = argparse.ArgumentParser(prog=sys.argv[0])
    parser.add_argument("--minutes", type=float, default=5)
    print("minutes", parser.parse_args().minutes, __name__)

if __name__ == "__main__":
    main()
"""


def recipes(folder: Path, demo: str) -> None:
    home = folder / "elastify_recipes" / "music_separation"
    home.mkdir(parents=True)
    for package in (home.parent, home):
        (package / "__init__.py").touch()
    (home / "demo.py").write_text(demo, encoding="utf-8")


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """No recipes imported before, and none after."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "elastify_recipes"]:
        monkeypatch.delitem(sys.modules, name)


def test_demo_runs_the_installed_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: None) -> None:
    recipes(tmp_path, DEMO)
    monkeypatch.syspath_prepend(tmp_path)
    before = list(sys.argv)
    assert run("demo", "--minutes", "2") == "minutes 2.0 __main__\n"
    assert "elastify demo" in run("demo", "--help")
    assert "invalid float" in run("demo", "--minutes", "two", code=2)
    assert sys.argv == before


def test_demo_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: None) -> None:
    recipes(tmp_path, "import a_synthesizer_that_is_missing\n")
    monkeypatch.syspath_prepend(tmp_path)
    text = refused("demo")
    assert "a_synthesizer_that_is_missing" in text
    assert 'pip install "elastify[music,search,report]"' in text


def test_module_can_be_run() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "elastify", "inspect", "resnet18"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("Error: 'resnet18' does not name a model")


def test_train_runs_a_recipe_with_flags_and_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: None
) -> None:
    recipes(tmp_path, DEMO)
    (tmp_path / "elastify_recipes" / "music_separation" / "train.py").write_text(DEMO, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run("train", "music_separation", "--minutes", "2") == "minutes 2.0 __main__\n"
    assert "minutes 5" in run("train", "music_separation.demo")
    (tmp_path / "mine.json").write_text('{"minutes": 3}', encoding="utf-8")
    assert "minutes 3.0" in run("train", "music_separation", "--config", "mine.json")
    assert "minutes 4.0" in run("train", "music_separation", "--config=mine.json", "--minutes", "4")
    assert "elastify train music_separation" in run("train", "music_separation", "--help")
    text = refused("train", "music")
    assert "there is no recipe 'music'" in text
    assert "music_separation" in text
    assert "there is no recipe 'music_separation.game'" in refused("train", "music_separation.game")
    assert "the options cannot be read" in refused("train", "music_separation", "--config", "theirs.json")
    (tmp_path / "mine.json").write_text("[1]", encoding="utf-8")
    assert "it is not a JSON object" in refused("train", "music_separation", "--config", "mine.json")


def test_train_refuses_what_has_no_main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: None) -> None:
    recipes(tmp_path, DEMO)
    (tmp_path / "elastify_recipes" / "music_separation" / "data.py").write_text("assert False\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    text = refused("train", "music_separation.data", "--bogus", "3")
    assert "music_separation.data cannot be run" in text
    assert "it has no function main" in text
    assert "music_separation.demo" in text.partition("fix:   one of ")[2]
    assert "music_separation.data" not in text.partition("fix:   one of ")[2]
    assert "--bogus is an option" in refused("train", "--bogus")
    assert "music_separation.demo" in run("train", "--help").partition(" Recipes: ")[2]


def test_every_recipe_can_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: None) -> None:
    home = Path(__file__).parents[2] / "recipes"
    (tmp_path / "elastify_recipes").symlink_to(home)  # those of this checkout, whatever is installed
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    known = known_recipes()
    assert {file.parent.name for file in home.glob("*/__init__.py")} <= set(known)
    assert {"image_classification.sorted", "music_separation.demo", "music_separation.parallel"} <= set(known)
    listed = run("train", "--help").split()
    for name, module in known.items():
        assert module.startswith("elastify_recipes.")
        assert name in {word.strip(",") for word in listed}
        text = run("train", name, "--help")
        assert "usage:" in text, name
        assert "--out" in text, name
        assert "error: " in run("train", name, "--bogus", "3", code=2), name
