"""In-place distillation: what takes the place of the labels."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elastify import ElastifyError
from elastify.train import soft_cross_entropy
from elastify.train._strategies.distill import TeacherLabels, TeacherOutputs, detached


def logits(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_labels(loss, teacher, student) -> Tensor:
    lesson = TeacherLabels(loss)
    assert torch.equal(lesson.teacher(teacher), loss(teacher))
    return lesson.student(student)


def test_classes_in_the_second_dimension() -> None:
    teacher, student = logits(4, 5, 3), logits(4, 5, 3, seed=1)
    found = by_labels(lambda z: F.cross_entropy(z, torch.zeros(4, 3, dtype=torch.long)), teacher, student)
    expected = soft_cross_entropy(student.movedim(1, -1), teacher.movedim(1, -1))
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)


def test_ignored_positions_stay_ignored() -> None:
    teacher, student = logits(6, 5), logits(6, 5, seed=1)
    labels = torch.tensor([1, -100, 2, -100, 0, 4])
    found = by_labels(lambda z: F.cross_entropy(z, labels), teacher, student)
    known = labels != -100
    assert found.item() == pytest.approx(soft_cross_entropy(student[known], teacher[known]).item(), rel=1e-12)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_one_hot_teachers_give_the_loss_with_labels(reduction: str) -> None:
    labels = torch.tensor([1, 0, 2, 1])
    teacher, student = F.one_hot(labels, 3).double() * 1e4, logits(4, 3, seed=1)
    weight = torch.ones(3, dtype=torch.float64)

    def loss(z: Tensor) -> Tensor:
        return F.cross_entropy(z, labels, weight, reduction=reduction)

    torch.testing.assert_close(by_labels(loss, teacher, student), loss(student), rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore:size_average and reduce")
@pytest.mark.parametrize("words", [{"size_average": False}, {"reduce": False}, {"size_average": True, "reduce": True}])
def test_reductions_by_their_old_names(words: dict[str, bool]) -> None:
    labels, student = torch.tensor([1, 0, 2, 1]), logits(4, 3, seed=1)

    def loss(z: Tensor) -> Tensor:
        return F.cross_entropy(z, labels, **words)

    found = by_labels(loss, F.one_hot(labels, 3).double() * 1e4, student)
    torch.testing.assert_close(found, loss(student), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("shape", [(6, 5), (2, 5, 3)])
def test_smoothed_labels_are_smoothed_teachers(shape: tuple[int, ...], reduction: str) -> None:
    teacher, student = logits(*shape), logits(*shape, seed=1)
    labels = torch.zeros(shape[0], *shape[2:], dtype=torch.long)
    loss = nn.CrossEntropyLoss(label_smoothing=0.2, reduction=reduction)
    expected = F.cross_entropy(student, teacher.softmax(1) * 0.8 + 0.2 / shape[1], reduction=reduction)
    if reduction == "mean":  # of all positions, as with labels
        expected = F.cross_entropy(student, teacher.softmax(1) * 0.8 + 0.2 / shape[1], reduction="none").mean()
    torch.testing.assert_close(by_labels(lambda z: loss(z, labels), teacher, student), expected)


def test_binary_heads_and_other_terms() -> None:
    teacher, student = logits(4, 3), logits(4, 3, seed=1)
    labels = torch.ones(4, 3, dtype=torch.float64)

    def loss(z: Tensor) -> Tensor:
        return (
            F.binary_cross_entropy_with_logits(z, labels)
            + nn.CrossEntropyLoss()(z, labels.argmax(1))
            + z.square().sum()
        )

    expected = F.binary_cross_entropy_with_logits(student, teacher.sigmoid())
    expected = expected + soft_cross_entropy(student, teacher) + student.square().sum()
    assert by_labels(loss, teacher, student).item() == pytest.approx(expected.item(), rel=1e-12)


def test_a_loss_with_neither_is_taken_as_it_is() -> None:
    teacher, student = logits(4, 3), logits(4, 3, seed=1)
    assert by_labels(lambda z: z.abs().sum(), teacher, student) == student.abs().sum()


def test_loss_that_counts_differently_is_refused() -> None:
    lesson = TeacherLabels(lambda zs: sum(F.cross_entropy(z, torch.tensor([0])) for z in zs))
    lesson.teacher([logits(1, 2), logits(1, 2)])
    with pytest.raises(ElastifyError, match="the loss cannot be distilled") as caught:
        lesson.student([logits(1, 2)])
    assert "2 cross-entropies for the full network, 1 for a subnet" in str(caught.value)
    with pytest.raises(ElastifyError, match=r"logits of shape \(1, 3\) cannot learn from \(1, 2\)"):
        lesson.student([logits(1, 3), logits(1, 3)])


def test_soft_cross_entropy_of_outputs_with_logits() -> None:
    @dataclass
    class Output:
        logits: Tensor

    teacher, student = logits(4, 3), logits(4, 3, seed=1)
    assert soft_cross_entropy(Output(student), Output(teacher)) == soft_cross_entropy(student, teacher)
    with pytest.raises(ElastifyError, match="str is not a tensor of logits and has no attribute logits"):
        soft_cross_entropy("a", "b")


def test_teachers_outputs_carry_no_graph() -> None:
    @dataclass
    class Output:
        wave: Tensor
        rest: tuple

    made = torch.ones(3, requires_grad=True) * 2
    kept = detached({"a": [made], "b": Output(made, (made, 1))})
    assert not kept["a"][0].requires_grad
    assert not kept["b"].wave.requires_grad
    assert not kept["b"].rest[0].requires_grad
    assert kept["b"].rest[1] == 1
    lesson = TeacherOutputs(lambda outputs: outputs.sum(), lambda a, b: (a - b).square().sum())
    lesson.teacher(copy.deepcopy(made.detach()).requires_grad_())
    assert lesson.student(made.detach() + 1).item() == pytest.approx(3.0)
