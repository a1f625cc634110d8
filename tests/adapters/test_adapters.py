"""Example inputs for models of known libraries: they run, and have the size that the model was built for."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision
import transformers as hf
from einops.layers.torch import Rearrange
from torch import nn

from elastify import ElastifyError, _adapters, activate, elastify, extract, load, save, space
from elastify._adapters import LIBRARIES, Library, makers, of
from elastify._capture.examples import Example
from elastify._capture.session import capture

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
TOKENS = {**SMALL, "vocab_size": 100}


def whisper():
    config = hf.WhisperConfig(
        d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=64, decoder_ffn_dim=64, vocab_size=100, max_source_positions=50, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    return hf.WhisperForConditionalGeneration(config)


def t5():
    config = hf.T5Config(d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2, vocab_size=100)
    return hf.T5ForConditionalGeneration(config)


def clip():
    vision = {**SMALL, "image_size": 64, "patch_size": 32}
    text = {**TOKENS, "max_position_embeddings": 77, "eos_token_id": 2, "bos_token_id": 1}
    return hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=vision))


def roberta():
    return hf.RobertaModel(hf.RobertaConfig(**TOKENS, max_position_embeddings=40))


MODELS = {
    "resnet": (lambda: torchvision.models.resnet18(), [(2, 3, 224, 224)]),
    "inception": (lambda: torchvision.models.inception_v3(init_weights=False), [(2, 3, 299, 299)]),
    "vit of another size": (lambda: torchvision.models.vit_b_32(image_size=64), [(2, 3, 64, 64)]),
    "video": (lambda: torchvision.models.video.r3d_18(), [(2, 3, 16, 112, 112)]),
    "mvit": (lambda: torchvision.models.video.mvit_v2_s(), [(2, 3, 16, 224, 224)]),
    "segmentation": (
        lambda: torchvision.models.segmentation.fcn_resnet50(weights_backbone=None),
        [(2, 3, 224, 224)],
    ),
    "timm": (lambda: timm.create_model("convnext_atto"), [(2, 3, 224, 224)]),
    "timm, grey": (lambda: timm.create_model("mobilenetv3_small_050", in_chans=1), [(2, 1, 224, 224)]),
    "timm, another size": (lambda: timm.create_model("deit_tiny_patch16_224", img_size=96), [(2, 3, 96, 96)]),
    "bert": (lambda: hf.BertModel(hf.BertConfig(**TOKENS)), [(2, 128)]),
    "few positions": (roberta, [(2, 38)]),
    "llama": (lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**TOKENS)), [(2, 128)]),
    "t5": (t5, [(2, 128), (2, 128)]),
    "whisper": (whisper, [(2, 80, 100), (2, 128)]),
    "vit": (lambda: hf.ViTModel(hf.ViTConfig(**SMALL, image_size=64)), [(2, 3, 64, 64)]),
    "clip": (clip, [(2, 77), (2, 3, 64, 64)]),
}
LARGE = ("video", "mvit", "inception", "segmentation", "vit of another size")


@pytest.mark.parametrize("name", MODELS)
def test_inferred_inputs_have_the_right_size_and_run(name):
    factory, shapes = MODELS[name]
    with torch.device("meta" if name in LARGE else "cpu"):
        model = factory()
    state = torch.get_rng_state()
    args, kwargs = of(model).example_inputs(model)
    assert torch.equal(torch.get_rng_state(), state)
    graph = capture(model, Example(args, kwargs))
    assert [value.shape for value in graph.inputs] == shapes
    assert graph.outputs


def test_inputs_are_the_same_every_time_and_not_zero():
    model = timm.create_model("mobilenetv3_small_050")
    (first,), (second,) = of(model).example_inputs(model)[0], of(model).example_inputs(model)[0]
    assert torch.equal(first, second)
    assert 0.9 < first.std() < 1.1


def test_unknown_models_and_those_without_a_usual_input():
    assert of(nn.Linear(3, 4)).example_inputs(nn.Linear(3, 4)) is None
    assert of(nn.Linear(3, 4)).package == ""
    detector = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_fpn(weights_backbone=None)
    assert of(detector.rpn).example_inputs(detector.rpn) is None


def test_detectors_take_lists_of_pictures_of_the_size_that_they_make_of_them():
    detector = torchvision.models.detection.retinanet_resnet50_fpn(weights_backbone=None, min_size=96)
    (pictures,), kwargs = of(detector).example_inputs(detector)
    assert [picture.shape for picture in pictures] == [(3, 96, 96)] * 2
    assert not kwargs


def test_a_subclass_in_user_code_is_recognised():
    class Mine(hf.BertModel):
        pass

    model = Mine(hf.BertConfig(**TOKENS))
    assert of(model).package == "transformers"
    assert of(model).example_inputs(model)[1]["input_ids"].shape == (2, 128)


def test_hidden_states_and_caches_are_no_interface():
    model = t5()
    args, kwargs = of(model).example_inputs(model)
    graph = capture(model, Example(args, {**kwargs, "use_cache": True}))
    root = graph.modules[0]
    assert set(root.out) >= {"logits", "encoder_last_hidden_state"}
    assert graph.outputs == [root.out["logits"]]
    assert "past_key_values" in of(model).auxiliary_outputs
    assert not of(nn.Linear(1, 1)).auxiliary_outputs


def test_layers_of_einops_are_copied_with_the_numbers_of_the_subnet(tmp_path: Path) -> None:
    """Their copies are made from other numbers than those that they compute with."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 12), Rearrange("b (h d) -> b h d", h=4), nn.Softmax(-1))
    net = nn.Sequential(*net, Rearrange("b h d -> b (h d)"), nn.Linear(12, 2)).eval()
    full, x = copy.deepcopy(net), torch.randn(3, 6)
    model = elastify(net, x)
    with activate(model, {axis.name: 2 for axis in space(model).axes if axis.size == 4}):
        expected = model(x)
        assert torch.equal(copy.deepcopy(model)(x), expected)
        small = extract(model)
    assert small[1].axes_lengths == {"h": 2}
    save(small, tmp_path)
    for other in (small, copy.deepcopy(small), load(tmp_path, like=full)):
        torch.testing.assert_close(other(x), expected)
    assert (model[1].axes_lengths, model[1]._axes_lengths) == ({"h": 4}, (("h", 4),))


class Speaker(nn.Module):
    """Speaks with a part that its forward does not use."""

    def __init__(self):
        super().__init__()
        self.first, self.mid, self.last = nn.Linear(6, 12), nn.Linear(12, 20), nn.Linear(20, 3)
        self.voice = nn.Linear(12, 4)

    def hidden(self, x):
        return torch.tanh(self.first(x))

    def forward(self, x):
        return self.last(torch.relu(self.mid(self.hidden(x))))

    def speak(self, x):
        return self.forward(x), self.voice(self.hidden(x))


class Speaking(Library):
    """Its models speak in a way of their own."""

    def __init__(self, way):
        self.way = way

    def run_of_its_own(self, model):
        return self.way


@pytest.mark.parametrize("speaks", [True, False])
def test_what_parts_that_forward_does_not_use_read_keeps_its_size(monkeypatch, speaks):
    run = (lambda model, args, kwargs: model.speak(*args)) if speaks else None
    monkeypatch.setitem(LIBRARIES, "tests", Speaking(run))
    model = elastify(Speaker(), torch.randn(2, 6))
    assert [axis.size for axis in space(model).axes] == ([20] if speaks else [12, 20])
    if speaks:
        reasons = [d.reason for d in space(model).plan.frozen if (d.tensor, d.dim) == ("voice.weight", 1)]
        assert "used by a run other than forward" in reasons[0]
        with activate(model, 0.25):
            assert model.speak(torch.randn(2, 6))[1].shape == (2, 4)


def test_a_run_of_its_own_that_fails_is_told(monkeypatch):
    def broken(model, args, kwargs):
        raise ValueError("no voice")

    monkeypatch.setitem(LIBRARIES, "tests", Speaking(broken))
    with pytest.warns(UserWarning, match="a run other than forward was not captured"):
        elastify(Speaker(), torch.randn(2, 6))


def test_every_file_is_a_library_that_is_known():
    """The files that help are the others: no registration is lost."""
    folder = Path(_adapters.__file__).parent
    files = {path.stem for path in folder.iterdir() if not path.name.startswith("__")}
    assert files - set(LIBRARIES) == {"build", "library", "noise", "weightless"}
    assert files >= set(LIBRARIES)
    assert all(type(library).package == package for package, library in LIBRARIES.items())


def test_a_package_is_known_once():
    with pytest.raises(ElastifyError, match="timm already has a library"):

        class Another(Library, package="timm"):
            pass

    assert type(LIBRARIES["timm"]).__module__ == "elastify._adapters.timm"


def test_libraries_are_told_apart_without_importing_one():
    code = "import elastify, sys; print({'timm', 'torchvision', 'transformers', 'einops'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_users_subclass_is_not_described_as_the_network_that_it_inherits_from():
    class Mine(torchvision.models.AlexNet):
        pass

    assert of(Mine()).describe(Mine()) is None
    model = timm.create_model("test_vit")
    assert of(model).describe(model) == {"kind": "timm", "name": "test_vit", "num_classes": 1000}
    model.__class__ = type("Mine", (type(model),), {"__module__": "somebodys"})
    assert of(model).describe(model) is None


def test_libraries_whose_models_are_made_by_name():
    assert makers().keys() >= {"timm", "torchvision", "hf"}
    with pytest.raises(ElastifyError, match=r"for models of .*timm"):
        elastify(nn.Linear(3, 4))
