"""Saved folders: what comes back, and every way in which a folder can be wrong."""

from __future__ import annotations

import copy
import json
import os
import resource
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from elastify import elastify, extract
from elastify._adapters import build_like, of
from elastify._deploy.extract import materialise
from elastify._deploy.save import load, save
from elastify._errors import ElastifyError
from elastify._files import sealed
from elastify._ir.choice import FULL, Choice
from elastify._ir.layout import Axis
from elastify._ir.plan import ElasticAxis, Plan
from elastify._rewrite.activate import set_active
from elastify._rewrite.install import install
from tests.plans_by_hand import CASES, MLP, fixed, make


def extracted(name, number=-1):
    case = make(name)
    case.model.eval()
    install(case.model, case.plan)
    return case, materialise(case.model, case.configurations[number])


def fresh(name):
    """A full-size model with other weights."""
    torch.manual_seed(99)
    return CASES[name]().model


@pytest.fixture
def folder(tmp_path):
    save(extracted("language", 2)[1], tmp_path / "saved")
    return tmp_path / "saved"


def edit(folder, **changes):
    """Change what is noted, with a checksum as if it had been so from the start."""
    path = folder / "elastify.json"
    spec = json.loads(path.read_text())
    del spec["sha256"]
    for key, value in changes.items():
        if value is None:
            del spec[key]
        else:
            spec[key] = value(spec[key]) if callable(value) else value
    path.write_text(sealed(spec))


class TestRoundTrip:
    @pytest.mark.parametrize("name", CASES)
    def test_every_configuration(self, name, tmp_path):
        for number in range(len(make(name).configurations)):
            case, small = extracted(name, number)
            save(small, tmp_path / str(number))
            like = fresh(name)
            before = copy.deepcopy(like.state_dict())
            again = load(tmp_path / str(number), like=like)
            assert torch.equal(again(*case.inputs), small(*case.inputs))
            assert repr(again) == repr(small)
            assert list(again.state_dict()) == list(small.state_dict())
            assert all(torch.equal(before[key], value) for key, value in like.state_dict().items())
            assert not {id(p) for p in again.parameters()} & {id(p) for p in like.parameters()}

    def test_a_factory_ties_and_flags(self, tmp_path):
        _, small = extracted("language", 2)
        small.embed.weight.requires_grad_(False)
        save(small.train(), tmp_path)
        again = load(tmp_path, like=lambda: fresh("language"))
        assert again.head.weight is again.embed.weight
        assert not again.embed.weight.requires_grad
        assert again.position.requires_grad
        assert again.training
        assert len(load_file(tmp_path / "model.safetensors")) == len(dict(small.named_parameters())) + 1

    def test_saving_what_was_loaded(self, folder, tmp_path):
        again = load(folder, like=fresh("language"))
        save(again, tmp_path / "twice")
        case = make("language")
        assert torch.equal(load(tmp_path / "twice", like=fresh("language"))(*case.inputs), again(*case.inputs))
        assert (tmp_path / "twice" / "elastify.json").read_bytes() == (folder / "elastify.json").read_bytes()

    def test_other_types_and_devices(self, tmp_path):
        _, small = extracted("language", 2)
        save(small.to(torch.bfloat16), tmp_path)
        with torch.device("meta"):
            like = fresh("language")
        again = load(tmp_path, like=like)
        assert {p.dtype for p in again.parameters()} == {torch.bfloat16}
        assert {p.device.type for p in again.parameters()} == {"cpu"}

    def test_an_elastic_model_serves_as_like(self, folder):
        case = make("language")
        install(case.model, case.plan)
        plain = load(folder, like=make("language").model)
        for configuration in (FULL, case.configurations[3]):
            set_active(case.model, configuration)
            again = load(folder, like=case.model)
            assert type(again) is type(make("language").model)
            assert torch.equal(again(*case.inputs), plain(*case.inputs))
            assert repr(again) == repr(plain)
        assert len(case.model.layers) == 2

    def test_fine_tuned_weights_are_saved(self, tmp_path):
        _, small = extracted("mlp", 0)
        with torch.no_grad():
            small.fc1.weight.fill_(3.0)
        save(small, tmp_path)
        assert (load(tmp_path, like=MLP()).fc1.weight == 3).all()

    def test_overwriting_is_atomic(self, folder, monkeypatch):
        case, small = extracted("language", 0)
        before = {path.name: path.read_bytes() for path in folder.iterdir()}

        def broken(tensors, path):
            with open(path, "wb") as file:
                file.write(b"half")
            raise OSError("disk full")

        monkeypatch.setattr(sys.modules["elastify._files"], "save_file", broken)
        with pytest.raises(ElastifyError, match=r"cannot be written[\s\S]*disk full[\s\S]*can still be read"):
            save(small, folder)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        monkeypatch.undo()
        save(small, folder)
        assert torch.equal(load(folder, like=fresh("language"))(*case.inputs), small(*case.inputs))
        assert sorted(path.name for path in folder.iterdir()) == ["elastify.json", "model.safetensors"]

    def test_files_can_be_read_by_others(self, folder):
        mask = os.umask(0)
        os.umask(mask)
        assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o666 & ~mask}


def bert_of_two_layers():
    import transformers

    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )
    return transformers.BertForSequenceClassification(config).eval()


@pytest.fixture
def bert(tmp_path):
    model = bert_of_two_layers()
    ids = torch.arange(12).view(2, 6)
    save(extract(elastify(model, ids, verify=False), 0.5), tmp_path / "bert")
    return tmp_path / "bert"


class HoldsATable(nn.Module):
    """A list of tensors that are neither parameters nor buffers, as its constructor computes them."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 16), nn.Linear(16, 3)
        self.tables = [torch.ones(3) * 2]

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x))) * self.tables[0]


class LooksAtItsWeights(HoldsATable):
    def __init__(self):
        super().__init__()
        self.first = float(torch.ones(2).sum())


class TestLibraries:
    @pytest.mark.parametrize("kind", [HoldsATable, LooksAtItsWeights])
    def test_what_is_computed_beside_the_weights_is_there(self, kind, tmp_path, monkeypatch):
        x = torch.randn(2, 4)
        small = extract(elastify(kind(), x), 0.5)
        save(small, tmp_path)
        monkeypatch.setattr(sys.modules["elastify._deploy.save"], "build_like", lambda *_: kind())
        again = load(tmp_path)
        assert torch.equal(again(x), small(x))
        assert again.fc1.out_features == 8
        monkeypatch.setattr(sys.modules["elastify._deploy.save"], "LARGE", 10)
        if kind is HoldsATable:
            with pytest.raises(ElastifyError, match="computes tensors beside its weights"):
                load(tmp_path)

    def round_trip(self, model, plan, sizes, x, tmp_path):
        install(model.eval(), plan)
        small = materialise(model, Choice(sizes))
        save(small, tmp_path)
        again = load(tmp_path)
        assert type(again) is type(small)
        assert torch.equal(again(x), small(x))
        return again

    def test_timm(self, tmp_path):
        import timm

        model = timm.create_model("test_vit", num_classes=7)
        hidden = Axis(0, model.blocks[0].mlp.fc1.out_features)
        width = fixed(model.embed_dim)
        tensors = {
            "blocks.0.mlp.fc1.weight": (hidden, width),
            "blocks.0.mlp.fc1.bias": (hidden,),
            "blocks.0.mlp.fc2.weight": (width, hidden),
        }
        plan = Plan((ElasticAxis(0, "hidden", hidden.size, (8, hidden.size)),), tensors=tensors)
        again = self.round_trip(model, plan, {0: 8}, torch.randn(1, 3, 160, 160), tmp_path)
        assert again.blocks[0].mlp.fc1.out_features == 8

    def test_torchvision(self, tmp_path):
        from torchvision import models

        model = models.resnet18()
        stem = Axis(0, 64)
        names = ("weight", "bias", "running_mean", "running_var")
        tensors = {f"layer1.0.bn1.{name}": (stem,) for name in names}
        tensors["layer1.0.conv1.weight"] = (stem, fixed(64), fixed(3), fixed(3))
        tensors["layer1.0.conv2.weight"] = (fixed(64), stem, fixed(3), fixed(3))
        plan = Plan((ElasticAxis(0, "hidden", 64, (8, 64)),), tensors=tensors)
        again = self.round_trip(model, plan, {0: 8}, torch.randn(1, 3, 64, 64), tmp_path)
        assert again.layer1[0].bn1.num_features == 8

        def describe(net):
            return of(net).describe(net)

        assert describe(models.resnet34()) == {"kind": "torchvision", "name": "resnet34"}
        computed = models.regnet_y_400mf()  # its constructor computes widths with tensors
        assert describe(computed) == {"kind": "torchvision", "name": "regnet_y_400mf"}
        offline = models.segmentation.lraspp_mobilenet_v3_large(weights_backbone=None)  # downloads one by default
        assert describe(offline) == {"kind": "torchvision", "name": "lraspp_mobilenet_v3_large"}

    def test_transformers(self, tmp_path):
        import transformers

        config = transformers.BertConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24
        )
        model = transformers.BertForMaskedLM(config).eval()
        hidden = Axis(0, 24)
        path = "bert.encoder.layer.0"
        tensors = {
            f"{path}.intermediate.dense.weight": (hidden, fixed(16)),
            f"{path}.intermediate.dense.bias": (hidden,),
            f"{path}.output.dense.weight": (fixed(16), hidden),
        }
        install(model, Plan((ElasticAxis(0, "hidden", 24, (8, 24)),), tensors=tensors))
        small = materialise(model, Choice({0: 8}))
        save(small, tmp_path)
        again = load(tmp_path)
        ids = torch.randint(50, (2, 9))
        assert torch.equal(again(ids).logits, small(ids).logits)
        assert again.cls.predictions.decoder.weight is again.bert.embeddings.word_embeddings.weight

    @pytest.mark.parametrize(
        ("field", "number", "why"),
        [
            ("hidden_size", 10**9, "has shape .*1000000000"),
            ("intermediate_size", 10**9, "has shape .*1000000000"),
            ("vocab_size", 10**9, "has shape .*1000000000"),
            ("max_position_embeddings", 10**9, "a tensor of 1000000000 numbers"),
            ("num_hidden_layers", 10**9, "num_hidden_layers = 1000000000, and no tensor has so many entries"),
            ("num_hidden_layers", 10**3, "the tensors differ|far more parts"),
            ("num_labels", 10**9, "num_labels = 1000000000, and no tensor has so many entries"),
        ],
    )
    def test_a_size_that_the_notes_claim_is_not_believed(self, bert, field, number, why):
        source = json.loads((bert / "elastify.json").read_text())["source"]
        source["config"][field] = number
        if field == "num_labels":
            del source["config"]["id2label"]
        edit(bert, source=source)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(ElastifyError, match=why):
            load(bert)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000, "in KiB"

    def test_what_names_code_or_kernels_is_dropped(self, bert):
        source = json.loads((bert / "elastify.json").read_text())["source"]
        code = {"attn_implementation": "nobody/kernel", "_attn_implementation": "nobody/kernel"}
        code |= {"auto_map": {"AutoModel": "nobody/code--m.M"}, "_name_or_path": "nobody/code"}
        code |= {"_experts_implementation": "nobody/kernel", "trust_remote_code": True}
        source["config"].update(code, inner={"kept": 1, **code})
        edit(bert, source=source)
        config = load(bert).config
        assert config.inner == {"kept": 1}
        assert not hasattr(config, "auto_map")
        assert "nobody" not in str(config.to_dict())
        assert config._attn_implementation in ("sdpa", "eager")

    @pytest.mark.parametrize(
        "source",
        [
            {"kind": "timm", "name": "os.system"},
            {"kind": "torchvision", "name": "../resnet18"},
            {"kind": "transformers", "name": "AutoModel", "config": {"model_type": "bert"}},
            {"kind": "transformers", "name": "BertModel", "config": {"model_type": "no such type"}},
            {"kind": "pickle", "name": "resnet18"},
            {"kind": "timm", "name": ["resnet18"]},
            "timm",
            None,
        ],
        ids=str,
    )
    def test_names_that_no_registry_lists(self, source):
        assert build_like(source) is None


class TestRefusedModels:
    def test_elastic(self, tmp_path):
        case = make("mlp")
        install(case.model, case.plan)
        with pytest.raises(ElastifyError, match=r"elastic model cannot be saved[\s\S]*extract\(model, config\)"):
            save(case.model, tmp_path)

    def test_never_extracted(self, tmp_path):
        with pytest.raises(ElastifyError, match=r"this MLP was not extracted[\s\S]*save\(extract\(model\)"):
            save(MLP(), tmp_path)


class TestBadFolders:
    def refuses(self, folder, text, like="language"):
        like = fresh(like) if isinstance(like, str) else like
        with pytest.raises(ElastifyError, match=text) as caught:
            load(folder, like=like)
        assert str(folder) in str(caught.value)

    def test_missing(self, tmp_path):
        self.refuses(tmp_path / "nowhere", "no saved model[\\s\\S]*does not exist")

    def test_foreign(self, tmp_path):
        (tmp_path / "config.json").write_text("{}")
        self.refuses(tmp_path, "holds no saved model[\\s\\S]*has no elastify.json")

    @pytest.mark.parametrize("text", ["", "{", "[]", "nonsense", '{"format": "1"}', "{}", "[" * 100000, '"\ud800"'])
    def test_json_that_is_none_of_ours(self, folder, text):
        (folder / "elastify.json").write_text(text, encoding="utf-8", errors="surrogatepass")
        self.refuses(folder, "damaged")

    def test_newer_format(self, folder):
        edit(folder, format=99)
        self.refuses(folder, r"format 99, newer than 2[\s\S]*pip install --upgrade")

    @pytest.mark.parametrize(
        "key", ["class", "attributes", "removed", "aside", "training", "tensors", "frozen", "ties"]
    )
    def test_missing_fields(self, folder, key):
        edit(folder, **{key: None})
        self.refuses(folder, f"'{key}' is missing")

    def test_weights_missing(self, folder):
        (folder / "model.safetensors").unlink()
        self.refuses(folder, r"damaged[\s\S]*its tensors, 'model.safetensors', are missing")

    @pytest.mark.parametrize("keep", [0, 4, 100, -1])
    def test_weights_truncated(self, folder, keep):
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:keep])
        self.refuses(folder, r"damaged[\s\S]*model.safetensors")

    def test_one_bit_flipped(self, folder):
        path = folder / "model.safetensors"
        data = bytearray(path.read_bytes())
        data[-3] ^= 1
        path.write_bytes(bytes(data))
        self.refuses(folder, r"checksum of [\w.]+ is wrong")

    def test_weights_of_another_folder(self, folder, tmp_path):
        save(extracted("mlp")[1], tmp_path / "other")
        (tmp_path / "other" / "model.safetensors").replace(folder / "model.safetensors")
        self.refuses(folder, "do not list the same tensors")

    def test_shapes_or_types_that_disagree(self, folder):
        edit(folder, tensors=lambda t: {**t, "position": {**t["position"], "shape": [1, 9, 6]}})
        self.refuses(folder, r"position is float32 \[1, 9, 5\], elastify.json says otherwise")

    def test_another_model(self, folder):
        self.refuses(
            folder, r"does not fit this MLP[\s\S]*no block 'layers.2'[\s\S]*plans_by_hand.Language", like="mlp"
        )

    def test_the_same_class_of_a_smaller_size(self, tmp_path):
        save(extracted("mlp", 0)[1], tmp_path)
        like = MLP()
        like.fc2 = nn.Linear(16, 3)
        self.refuses(
            tmp_path, r"fc2.weight has shape \[3, 16\], the saved one \[12, 5\], cut from \[12, 16\]", like=like
        )

    def test_the_same_class_of_a_larger_size(self, tmp_path):
        save(extracted("mlp", 0)[1], tmp_path)
        like = MLP()
        like.fc1, like.fc2 = nn.Linear(like.fc1.in_features, 32), nn.Linear(32, like.fc2.out_features)
        self.refuses(tmp_path, r"has shape \[32[\s\S]*cut from \[16", like=like)

    def test_a_classifier_that_was_replaced(self, tmp_path):
        x = torch.randn(2, 4)
        net = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 9))
        small = extract(elastify(net, x), 0.5)
        small[2] = nn.Linear(32, 7)
        save(small, tmp_path)
        for classes in (9, 7):
            like = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, classes))
            assert torch.equal(load(tmp_path, like=like)(x), small(x))

    def test_more_tensors_than_the_model_has(self, tmp_path):
        save(extracted("mlp", 0)[1], tmp_path)
        like = MLP()
        like.extra = nn.Linear(2, 2)
        self.refuses(tmp_path, r"the tensors differ: extra.bias, extra.weight", like=like)

    @pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/b", "..", ""])
    def test_names_that_are_paths(self, folder, name):
        edit(folder, removed=[name])
        self.refuses(folder, "no block")
        spec = json.loads((folder / "elastify.json").read_text())
        tensors = load_file(folder / "model.safetensors")
        tensors[name] = tensors.pop("position")
        save_file(tensors, folder / "model.safetensors")
        spec["tensors"][name] = spec["tensors"].pop("position")
        edit(folder, removed=["layers.2", "layers.3"], tensors=spec["tensors"])
        self.refuses(folder, "the tensors differ")

    @pytest.mark.parametrize(
        ("entry", "text"),
        [
            (["", "no_such", [], 3], "no number"),
            (["", "forward", [], 3], "not a number of the same kind"),
            (["", "training", [], 3], "not a number of the same kind"),
            (["layers.9", "num_heads", [], 3], "no number"),
            (["layers.0.attn", "num_heads", [], 2.5], "not a number of the same kind"),
            (["", "shape", [7], 3], "no number"),
            (["config", "__class__", [], 3], r"not \[owner, name"),
            (["config.__class__", "x", [], 3], r"not \[owner, name"),
            (["config", "hidden_size", [], "5"], r"not \[owner, name"),
            (["config", "hidden_size", [], True], r"not \[owner, name"),
            (["config", "hidden_size", 5], r"not \[owner, name"),
            ("config", r"not \[owner, name"),
        ],
        ids=str,
    )
    def test_attributes_only_replace_numbers(self, folder, entry, text):
        edit(folder, attributes=lambda known: [*known, entry])
        self.refuses(folder, text)

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"removed": [3]}, "a name is not text"),
            ({"ties": {"head.weight": "nothing"}}, "should have another name"),
            ({"ties": {}}, "the tensors differ: head.weight"),
            ({"tensors": {"a": 3}}, "do not list the same tensors"),
        ],
        ids=str,
    )
    def test_other_nonsense(self, folder, change, text):
        edit(folder, **change)
        self.refuses(folder, text)

    def test_notes_that_the_library_refuses(self, folder):
        config = {"model_type": "bert", "hidden_size": 15, "num_attention_heads": 4}
        edit(folder, source={"kind": "transformers", "name": "BertModel", "config": config})
        with pytest.raises(ElastifyError, match=r"cannot be built from the saved notes[\s\S]*hidden size"):
            load(folder)

    def test_no_full_size_model(self, folder):
        with pytest.raises(ElastifyError, match=r"full-size Language cannot be built[\s\S]*like=model_of_full_size"):
            load(folder)
        with pytest.raises(ElastifyError, match="is not a model"):
            load(folder, like=lambda: 3)
