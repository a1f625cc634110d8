"""`save_pretrained` of extracted transformers: equal after a reload, or refused with the reason."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import nn

from elastify import ElastifyError, activate, elastify, extract, load, save, space
from elastify._adapters.transformers.pretrained import difference
from tests.every_axis import every_axis

TEXT = {"vocab_size": 50, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 6}
IDS = torch.arange(20).view(2, 10)
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def make(kind: str) -> tuple[Any, dict[str, Any]]:
    torch.manual_seed(0)
    if kind == "bert":
        return hf.BertForMaskedLM(hf.BertConfig(**TEXT, max_position_embeddings=32)), {"input_ids": IDS}
    if kind == "llama":
        config = hf.LlamaConfig(**TEXT, num_key_value_heads=3, head_dim=8, **ENDS)
        return hf.LlamaForCausalLM(config), {"input_ids": IDS, "use_cache": False}
    if kind == "t5":
        config = hf.T5Config(d_model=24, d_kv=6, d_ff=40, num_layers=3, num_heads=4, vocab_size=50)
        inputs = {"input_ids": IDS, "decoder_input_ids": IDS[:, :7], "use_cache": False}
        return hf.T5ForConditionalGeneration(config), inputs
    sizes = {key: value for key, value in TEXT.items() if key != "vocab_size"}
    config = hf.ViTConfig(**sizes, image_size=16, patch_size=8, num_labels=5)
    return hf.ViTForImageClassification(config), {"pixel_values": torch.randn(2, 3, 16, 16)}


@pytest.fixture(scope="module", params=["bert", "llama", "t5", "vit"])
def elastic(request: pytest.FixtureRequest) -> tuple[str, nn.Module, dict[str, Any]]:
    model, inputs = make(request.param)
    return request.param, every_axis(model.eval(), example_kwargs=inputs, verify=False), inputs


FITS: dict[str, list[dict[str, float]]] = {
    "bert": [{"*.hidden": 0.5, "*.layer": 2}, {"bert.width": 12, "*.heads": 3}],
    "llama": [{"*.hidden": 0.5, "*.q_per_kv": 2, "*layers": 2}, {"*.width": 0.5}],
    "t5": [{"*.hidden": 0.5, "*.heads": 2, "*.head_dim": 3}, {"*width": 0.5}],
    "vit": [{"*.hidden": 0.5, "vit.layers": 2}, {"*width": 12, "*.heads": 3}],
}


def test_a_reload_computes_the_same(elastic: tuple[str, Any, dict[str, Any]], tmp_path: Path) -> None:
    kind, model, inputs = elastic
    for number, wishes in enumerate(FITS[kind]):
        small: Any = extract(model, wishes).train()
        small.save_pretrained(tmp_path / str(number))
        assert small.training
        again, told = type(small).from_pretrained(tmp_path / str(number), output_loading_info=True)
        assert not any(told.values())
        assert torch.equal(again(**inputs).logits, small.eval()(**inputs).logits)
        assert again.num_parameters() < model.num_parameters()


def test_every_sample_is_equal_or_refused(elastic: tuple[str, Any, dict[str, Any]], tmp_path: Path) -> None:
    _, model, inputs = elastic
    for seed in range(4):
        small: Any = extract(model, space(model).sample(seed))
        if why := difference(small):
            with pytest.raises(ElastifyError) as caught:
                small.save_pretrained(tmp_path / str(seed))
            assert caught.value.why == why
        else:
            small.save_pretrained(tmp_path / str(seed))
            again = type(small).from_pretrained(tmp_path / str(seed))
            assert torch.equal(again(**inputs).logits, small(**inputs).logits)
        save(small, tmp_path / f"own {seed}")
        again = load(tmp_path / f"own {seed}")
        assert torch.equal(again(**inputs).logits, small(**inputs).logits)
        assert difference(again) == difference(small)


def refusal(model: nn.Module, wishes: Any, folder: Path) -> str:
    small: Any = extract(model, wishes)
    with pytest.raises(ElastifyError) as caught:
        small.save_pretrained(folder)
    assert not folder.exists()
    assert "elastify.save(model, directory)" in str(caught.value)
    return caught.value.why


@pytest.fixture(scope="module")
def llama() -> Any:
    model, inputs = make("llama")
    return every_axis(model.eval(), example_kwargs=inputs, verify=False)


def test_frequencies_of_a_smaller_head_would_be_others(llama: Any, tmp_path: Path) -> None:
    why = refusal(llama, {"*.head_dim": 0.5}, tmp_path / "no")
    assert "model.rotary_emb.inv_freq is not a weight" in why
    assert "computes it again" in why


def test_layers_of_different_widths_do_not_fit(llama: Any, tmp_path: Path) -> None:
    why = refusal(llama, {"model.layers.1.mlp.hidden": 0.5}, tmp_path / "no")
    assert "model.layers.1.mlp.gate_proj.weight is [20, 24]" in why
    assert "it is [40, 24]" in why


def test_a_config_that_its_class_refuses(llama: Any, tmp_path: Path) -> None:
    why = refusal(llama, {"*width": 20}, tmp_path / "no")
    assert "cannot be built from its config" in why
    assert "not a multiple of the number of attention heads" in why


def test_an_elastic_model_is_saved_whole(llama: Any, tmp_path: Path) -> None:
    llama.save_pretrained(tmp_path)
    again, told = type(llama).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(told.values())
    assert torch.equal(again(IDS).logits, llama(IDS).logits)
    inputs = {"input_ids": IDS, "use_cache": False}
    assert space(every_axis(again.eval(), example_kwargs=inputs, verify=False)).fingerprint == space(llama).fingerprint


@pytest.mark.parametrize("make", [lambda llama: llama, copy.deepcopy, lambda llama: extract(llama, {"*.hidden": 0.5})])
def test_but_not_while_a_subnet_is_active(llama: Any, make: Any, tmp_path: Path) -> None:
    model: Any = make(llama)
    if model is not llama and not hasattr(model, "_elastify"):
        elastify(model, IDS, verify=False)
    for config in (space(model).min, {"*layers": 2}):
        for saved in (model, model.model):  # the network without its head is one of the library's models, too
            with activate(model, config), pytest.raises(ElastifyError, match="makes a model of the subnet") as caught:
                saved.save_pretrained(tmp_path / "no")
            assert caught.value.why.startswith("a subnet is active")
    assert not (tmp_path / "no").exists()
    model.save_pretrained(tmp_path / "yes")


def test_copies_ask_for_themselves(llama: Any, tmp_path: Path) -> None:
    one: Any = extract(llama, {"*.hidden": 0.5})
    two = copy.deepcopy(one)
    assert two.save_pretrained.__self__ is two
    two.config.intermediate_size = 8
    assert "gate_proj" in difference(two)
    one.save_pretrained(tmp_path)
    assert (tmp_path / "config.json").is_file()


RUN = """
import sys
sys.modules["elastify"] = None  # importing it fails
import torch
model, ids, expected = torch.load("model.pt", weights_only=False)
assert torch.equal(model(ids).logits, expected)
model.save_pretrained("there")
print("saved")
"""


def test_a_pickled_model_needs_no_elastify(llama: Any, tmp_path: Path) -> None:
    small = extract(llama, {"*.hidden": 0.5})
    torch.save((small, IDS, small(IDS).logits), tmp_path / "model.pt")
    run = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert run.stdout == "saved\n", run.stderr
