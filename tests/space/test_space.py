"""The search space: legality against brute force on random plans, wishes, order, encoding, and the printed table."""

from __future__ import annotations

import random

import numpy as np
import pytest

from elastify._errors import ElastifyError
from elastify._ir.ints import Op
from elastify._ir.layout import Axis, Product
from elastify._ir.plan import Constraint, ElasticAxis, FrozenDim, Plan, Stage
from elastify._plan.choices import build_choices
from elastify._space.config import SubnetConfig, fingerprint
from elastify._space.metrics import Cost
from elastify._space.space import SearchSpace
from elastify._space.wishes import match

# What is left of 48..192 step 8: widths that some number of heads divides into a legal head_dim.
WIDTHS = "48, 56, 64, 72, 80, 96, 112, 120, 128, 144, 168, 192"


def vit(blocks: int = 4, *, wide: int = 192, constraints: tuple[Constraint, ...] = ()) -> Plan:
    """Residual width shared; heads, head_dim (the width is their product) and MLP per block."""
    width, mlp = Axis(0, wide), build_choices(768)
    axes = [ElasticAxis(0, "width", wide, build_choices(wide), "width", (("norm.weight", 0),))]
    for b in range(blocks):
        heads, at = Axis(3 * b + 1, 3), f"blocks.{b}.attn.qkv.weight"
        axes += [
            ElasticAxis(heads.id, f"blocks.{b}.attn.heads", 3, (1, 2, 3), "heads", ((at, 0),)),
            ElasticAxis(
                3 * b + 2,
                f"blocks.{b}.attn.head_dim",
                wide // 3,
                build_choices(wide // 3, "head_dim", 0.2),
                "head_dim",
                ((at, 0),),
            ),
            ElasticAxis(3 * b + 3, f"blocks.{b}.mlp.hidden", 768, mlp, members=((f"blocks.{b}.mlp.w", 0),)),
        ]
        whole = Product((heads, Axis(3 * b + 2, wide // 3)))
        constraints += (Constraint("eq", (width, whole), True, f"blocks.{b}.attn at vit.py:9"),)
    stage = Stage("blocks", "blocks", tuple(f"blocks.{b}" for b in range(blocks)), tuple(range(1, blocks + 1)))
    frozen = tuple(
        FrozenDim(f"blocks.{b}.attn.rel", 1, 49, f"a table by position: getitem in blocks.{b}.attn")
        for b in range(blocks)
    )
    return Plan(tuple(axes), (stage,), constraints=constraints, frozen=frozen)


def test_a_transformer_space_is_counted_exactly():
    space = SearchSpace(vit(2))
    heads = {
        w: [h for h in (1, 2, 3) if w % h == 0 and w // h in build_choices(64, "head_dim", 0.2)]
        for w in build_choices(192)
    }
    hidden = len(build_choices(768))
    assert space.size == sum(hidden * len(h) + (hidden * len(h)) ** 2 for h in heads.values())
    assert str(space.size) == f"{int(space.size):,}"
    assert repr(space) == f"SearchSpace(7 axes, 1 stages, {space.size!s} configurations)"
    assert SearchSpace(vit(12)).size.exact


def test_equal_subnets_are_equal():
    space = SearchSpace(vit())
    shallow = {"blocks": 2, "width": 96}
    one = space.config(shallow | {"blocks.3.mlp.hidden": 200, "blocks.0.mlp.hidden": 400})
    assert one == space.config(shallow | {"blocks.0.mlp.hidden": 400})
    assert one.sizes["blocks.3.mlp.hidden"] == 768
    assert one != space.config(shallow)
    kept = space.config({"blocks": (0, 3), "blocks.3.mlp.hidden": 200, "blocks.1.mlp.hidden": 200})
    assert (kept.sizes["blocks.3.mlp.hidden"], kept.sizes["blocks.1.mlp.hidden"]) == (200, 768)
    assert kept.depths == {"blocks": (0, 3)}
    assert space.normalise(kept) == kept


def test_a_tied_tensor_outside_keeps_an_axis_alive():
    axes = (ElasticAxis(0, "layers.1.h", 8, (2, 8), members=(("layers.1.w", 0),)),)
    stage = (Stage("layers", "layers", ("layers.0", "layers.1"), (1, 2)),)
    wish = {"layers": 1, "layers.1.h": 2}
    assert SearchSpace(Plan(axes, stage)).config(wish).sizes == {"layers.1.h": 8}
    assert SearchSpace(Plan(axes, stage, aliases={"head.w": "layers.1.w"})).config(wish).sizes == {"layers.1.h": 2}
    assert SearchSpace(Plan(axes, stage)).size == 3
    assert SearchSpace(Plan(axes, stage, aliases={"head.w": "layers.1.w"})).size == 4


def test_wishes():
    space = SearchSpace(vit())
    config = space.config({"*": 0.5, "*.mlp.*": 0.26, "blocks.1.mlp.hidden": 768, "blocks": 3})
    assert config.sizes["width"] == 96
    assert space.config({"width": 0.5}).sizes["width"] == 96
    assert [config.sizes[f"blocks.{b}.mlp.hidden"] for b in range(4)] == [200, 768, 200, 768]
    assert config.sizes["blocks.0.attn.heads"] * config.sizes["blocks.0.attn.head_dim"] == 96  # a relation, no product
    assert config.depths == {"blocks": (0, 1, 2)}
    assert space.config(0.5).depths == {"blocks": (0, 1)}
    assert space.config({"*.mlp.hidden": np.float32(0.5)}).sizes["blocks.0.mlp.hidden"] == 384
    assert space.config({"width": np.int64(48)}).sizes["width"] == 48


def test_a_factor_can_be_asked_for():
    space = SearchSpace(vit())
    sizes = space.config({"blocks.0.attn.head_dim": 32}).sizes
    assert sizes["blocks.0.attn.head_dim"] == 32
    assert sizes["width"] == 96
    assert space.config({"*.head_dim": 0.5}).sizes["width"] == 96
    assert space.repair({"blocks.0.attn.head_dim": 33}).sizes["blocks.0.attn.head_dim"] <= 33


@pytest.mark.parametrize(
    ("wish", "texts"),
    [
        ({"widht": 0.5}, ["'widht' matches no axis", "width"]),
        ({"*.mpl.hidden": 0.5}, ["matches no axis", "mlp.hidden"]),
        ({"width": 47}, ["47 is not a legal size", "where: width", f"legal: {WIDTHS}"]),
        ({"width": 0.0}, ["0.0 is not a ratio"]),
        ({"width": 1.5}, ["1.5 is not a ratio", "at most 1"]),
        ({"width": True}, ["True is not a ratio"]),
        ({"width": "half"}, ["'half' is not a ratio"]),
        ({3: 0.5}, ["3 is not a pattern"]),
        (2, ["2 is not a ratio", "mapping of names to sizes"]),
        (float("nan"), ["nan is not a ratio"]),
        ({"blocks": 9}, ["9 is not a legal size", "legal: 1..4"]),
        ({"blocks": (1, 2)}, ["blocks [1, 2] cannot be kept", "begin with 0"]),
        ({"blocks": (0, 7)}, ["blocks [0, 7] cannot be kept"]),
        ({"blocks": ()}, ["blocks [] cannot be kept"]),
        (
            {"width": 48, "blocks.1.attn.heads": 2, "blocks.1.attn.head_dim": 16},
            ["head_dim = 16 does not fit the other sizes", "where: blocks.1.attn at vit.py:9", "legal: 24"],
        ),
    ],
)
def test_bad_wishes_are_explained(wish, texts):
    with pytest.raises(ElastifyError) as error:
        SearchSpace(vit()).config(wish)
    for text in texts:
        assert text in str(error.value)


def test_configurations_of_other_models_are_refused():
    space, other = SearchSpace(vit()), SearchSpace(vit(3))
    with pytest.raises(ElastifyError, match="belongs to another model"):
        space.config(other.max)
    with pytest.raises(ElastifyError, match="belongs to another model"):
        space.check(SubnetConfig.of({"width": 96}, {}))
    broken = SubnetConfig.of(dict(space.max.sizes) | {"width": 96}, space.max.depths, space.fingerprint)
    with pytest.raises(ElastifyError, match="do not fit together: width=96, blocks") as error:
        space.check(broken)
    assert "repair" in str(error.value)
    with pytest.raises(ElastifyError, match="47 is not a legal size"):
        space.check(SubnetConfig.of(dict(space.max.sizes) | {"width": 47}, space.max.depths, space.fingerprint))
    with pytest.raises(ElastifyError, match="cannot be kept"):
        space.check(SubnetConfig.of(space.max.sizes, {"blocks": (1, 2)}, space.fingerprint))
    assert fingerprint(vit()) == space.fingerprint != other.fingerprint


def test_encoding():
    space = SearchSpace(vit())
    configs = [space.sample(seed) for seed in range(5)]
    rows = space.encode(configs)
    assert rows.shape == (5, len(space.columns))
    assert rows.dtype == np.int64
    assert space.columns[0] == "width"
    assert space.columns[-1] == "blocks"
    assert [space.decode(row) for row in rows] == configs
    assert (space.encode([0.5, {"width": 48}])[1, 0], space.encode(0.5).shape) == (48, (1, 14))
    with pytest.raises(ElastifyError, match="cannot be encoded"):
        space.encode(space.config({"blocks": (0, 2)}))
    with pytest.raises(ElastifyError, match="cannot decode"):
        space.decode(np.ones(3, np.int64))
    with pytest.raises(ElastifyError, match="not a legal size"):
        space.decode(np.ones(14, np.int64))


def test_sampling_is_even_and_seeded():
    space = SearchSpace(vit())
    assert space.sample(3) == space.sample(3) != space.sample(4)
    assert space.sample(random.Random(5)) == space.sample(random.Random(5))
    generator = np.random.default_rng(0)
    drawn = [space.sample(generator) for _ in range(400)]
    assert len(set(drawn)) > 390
    depth = np.bincount([len(config.depths["blocks"]) for config in drawn], minlength=5)[1:]
    assert depth.min() > 70
    hidden = np.array([config.sizes["blocks.0.mlp.hidden"] for config in drawn])
    assert 440 < hidden.mean() < 520
    assert (hidden.min(), hidden.max()) == (192, 768)
    assert {config.sizes["width"] for config in drawn} == set(space.rows.choices[0].tolist())
    assert 88 not in space.rows.choices[0]  # no number of heads divides it into a legal head_dim


def test_nested_configurations_go_from_min_to_max():
    space = SearchSpace(vit())
    nested = space.nested(6)
    assert (nested[0], nested[-1]) == (space.min, space.max)
    rows = space.rows.nested(6)
    assert (np.diff(rows, axis=0) >= 0).all()
    assert len({tuple(row) for row in rows.tolist()}) == 6
    with pytest.raises(ElastifyError, match="n=0 is not a whole number of at least 1"):
        space.nested(0)


def cost(rows: np.ndarray) -> Cost:
    total = rows.sum(axis=1) * 1000
    return Cost(total, total // 10, total * 4, total // 2)


def test_the_table():
    plan = vit(12, constraints=(Constraint("eq", (Op("mod", (Axis(0, 192), 8)), 0), True, "vit.py:30"),))
    space = SearchSpace(plan, verified=True, title="vit", example={"x": (3, 224, 224)}, cost=cost)
    assert str(space).splitlines() == [
        f"vit: {space.size!s} configurations, verified",
        "",
        "  axis                    role      full       choices",
        f"  width                   width      192       {WIDTHS}",
        "  blocks.*.attn.heads     heads        3  x12  1, 2, 3",
        "  blocks.*.attn.head_dim  head_dim    64  x12  16..64 step 8",
        "  blocks.*.mlp.hidden     hidden     768  x12  192..768 step 8",
        "",
        "  stage   blocks  keep",
        "  blocks      12  1..12  blocks.0 .. blocks.11",
        "",
        "frozen dimensions (12)",
        "  a table by position, first: getitem in blocks.0.attn  x12",
        "      blocks.*.attn.rel[1] x12",
        "",
        "relations (13)",
        "  (width % 8) == 0  (vit.py:30)",
        "  width == (blocks.*.attn.heads * blocks.*.attn.head_dim)  (blocks.0.attn at vit.py:9)  x12",
        "",
        *str(space).splitlines()[19:23],
        "  one sample: x 3x224x224",
    ]
    assert str(space).splitlines()[19].split() == [
        "cost",
        "per",
        "sample",
        "MACs",
        "parameters",
        "bytes",
        "activations",
    ]
    assert str(space).splitlines()[21].split()[0] == "max"
    assert max(map(len, str(space).splitlines())) <= 120
    assert str(space) == str(SearchSpace(plan, verified=True, title="vit", example={"x": (3, 224, 224)}, cost=cost))


def test_long_lines_are_wrapped_and_names_are_whole():
    name = "a." + "very_long_module_name." * 8 + "hidden"
    axes = (ElasticAxis(0, name, 64, (3, 5, 9, 17, 20, 21, 22, 30, 31, 33, 41, 47, 53, 64)),)
    frozen = tuple(FrozenDim(f"{name}.{chr(97 + i)}", 0, 3, "because " * 30) for i in range(5))
    lines = str(SearchSpace(Plan(axes, frozen=frozen))).splitlines()
    assert max(len(line) for line in lines if name not in line) <= 120
    assert lines[3:5] == [f"  {name}", "        hidden    64    3, 5, 9, 17, 20, ..., 47, 53, 64 (14 choices)"]
    assert f"      {name}.a[0], and 4 more" in lines
    assert "no elastic axes" in str(SearchSpace(Plan()))


def test_names_of_one_shape_share_a_line():
    sizes = {"a.0.b.0.hidden": 32, "a.0.b.1.hidden": 64, "a.1.b.0.hidden": 64, "c.1.2.hidden": 64, "c.2.0.hidden": 64}
    sizes |= {f"d.{i}.{j}.hidden": 64 if i < 3 else 16 + j for i in range(6) for j in range(4)}
    axes = tuple(ElasticAxis(i, name, size, (8, size)) for i, (name, size) in enumerate(sizes.items()))
    space = SearchSpace(Plan(axes))
    lines = [line.split("  hidden ")[0].strip() for line in str(space).splitlines()[3:]]
    assert lines[:4] == [
        "a.0.b.0.hidden",
        "a.0.b.1.hidden, a.1.b.0.hidden",
        "c.*.*.hidden",
        "d.0.*.hidden, d.1.*.hidden, d.2.*.hidden",
    ]
    assert lines[4:] == [f"d.*.{j}.hidden" for j in range(4)] or lines[4].startswith("d.3.0.hidden, d.4.0.hidden")
    for line, count in zip(lines, (1, 2, 2, 12), strict=False):
        assert sum(len(match(glob, space.columns)) for glob in line.split(", ")) == count


def test_what_was_asked_is_shown():
    axes = (ElasticAxis(0, "width", 64, (32, 64), "width"),)
    asked = {"freeze": ("head",), "min_ratio": 0.5, "multiple_of": None, "keep_outputs": False}
    lines = str(SearchSpace(Plan(axes), asked=asked)).splitlines()
    assert lines[1:4] == ["asked: freeze=('head',)", "asked: min_ratio=0.5", "asked: keep_outputs=False"]


def test_why():
    space = SearchSpace(vit(), reasons={"width": ("add at vit.py:12 ties it to norm.weight",)})
    text = space.why("width")
    assert f"width: width, 192 units, choices {WIDTHS}" in text
    assert "runs through norm.weight[0]" in text
    assert "width == (blocks.3.attn.heads * blocks.3.attn.head_dim)  (blocks.3.attn at vit.py:9)" in text
    assert "add at vit.py:12" in text
    assert space.why("blocks") == "blocks: keeps 1..4 of the 4 blocks of blocks"
    with pytest.raises(ElastifyError, match="matches no axis"):
        space.why("nothing")
