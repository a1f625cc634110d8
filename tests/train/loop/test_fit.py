"""The trainer: it learns, it ends where it should, it resumes to the same losses, it says what is wrong."""

from __future__ import annotations

import copy
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from elastify import ElastifyError, activate, cost, elastify, space
from elastify._rewrite import all_statistics
from elastify._verbs import active_config
from elastify.train import (
    Compressible,
    FullPlusRandom,
    GumbelMask,
    Losses,
    ProgressiveShrinking,
    Sandwich,
    Sorted,
    fit,
    recalibrate,
)

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(96, 6, generator=GENERATOR)
Y = (X @ torch.randn(6, 4, generator=GENERATOR)).argmax(1)


@pytest.fixture(scope="module")
def elastic() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.2), nn.Linear(24, 4))
    return elastify(net, torch.randn(4, 6))


@pytest.fixture
def model(elastic: nn.Module) -> nn.Module:
    return copy.deepcopy(elastic)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 4))


class Noisy(Dataset):
    """Draws from all three global generators, as datasets with augmentation do."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = torch.randn(6) + np.random.normal() + random.gauss(0, 1)  # noqa: NPY002
        return X[index] + 0.01 * noise, Y[index]


def loader(dataset: Dataset | None = None, **kwargs: object) -> DataLoader:
    return DataLoader(dataset or TensorDataset(X, Y), 16, shuffle=True, **kwargs)


def quiet(model: nn.Module, data: object, **kwargs: object):
    kwargs.setdefault("loss", F.cross_entropy)
    return fit(model, data, progress=False, **kwargs)


class TestTraining:
    def test_all_sizes_learn(self, model: nn.Module) -> None:
        history = quiet(
            model,
            loader(),
            strategy=Sandwich(model, n_random=1),
            epochs=15,
            optimizer=lambda p: torch.optim.Adam(p, 0.01),
        )
        first, last = history.losses[:6], history.losses[-6:]
        assert sum(x.max for x in last) < 0.6 * sum(x.max for x in first)
        assert sum(x.min for x in last) < 0.9 * sum(x.min for x in first)
        assert history.steps == 90
        assert not history.interrupted
        assert len(last[0].random) == 1

    def test_plain_equals_a_loop_by_hand(self) -> None:
        data = [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 96, 16)]
        mine, theirs = nn.Linear(6, 4), nn.Linear(6, 4)
        theirs.load_state_dict(mine.state_dict())
        optimizer = torch.optim.SGD(theirs.parameters(), 0.1, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 4)
        expected = []
        for x, y in data * 2:
            optimizer.zero_grad()
            loss = F.cross_entropy(theirs(x), y)
            loss.backward()
            nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
            optimizer.step()
            scheduler.step()
            expected.append(loss.item())
        history = quiet(
            mine,
            data,
            epochs=2,
            clip=0.5,
            optimizer=lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
            scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 4),
        )
        assert [x.max for x in history.losses] == expected
        assert all(x.min is None and x.random == () for x in history.losses)
        for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(a, b)

    def test_leaves_flags_generators_and_gradients(self, model: nn.Module) -> None:
        model.eval()
        torch.manual_seed(5)
        before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
        quiet(model, loader(Noisy()), strategy=FullPlusRandom(model), steps=3)
        assert not any(module.training for module in model.modules())
        assert torch.equal(torch.get_rng_state(), before[0])
        assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
        assert random.getstate() == before[2]
        assert all(p.grad is None for p in model.parameters())

    def test_frozen_modules_of_a_training_model_stay_frozen(self) -> None:
        seen = []
        made = net().train()
        made[2].eval()
        quiet(made, loader(), steps=1, on_step=lambda step, losses: seen.append((made.training, made[2].training)))
        assert seen == [(True, False)]

    @pytest.mark.parametrize("amp", ["bf16", "fp16"])
    def test_mixed_precision(self, model: nn.Module, amp: str) -> None:
        kinds = set()
        model[4].register_forward_hook(lambda module, args, out: kinds.add(out.dtype))
        history = quiet(model, loader(), strategy=Sandwich(model), epochs=4, amp=amp, clip=1.0)
        assert kinds == {torch.bfloat16 if amp == "bf16" else torch.float16}
        assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())
        assert history.losses[-1].max < history.losses[0].max

    def test_batches_of_every_shape(self) -> None:
        class Two(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.linear = nn.Linear(6, 4)

            def forward(self, a: Tensor, b: Tensor, labels: Tensor | None = None) -> Tensor:
                return self.linear(a + b)

        for batch, loss, forward_fn in [
            (((X, X), Y), F.cross_entropy, None),
            ([{"a": X, "b": X}, Y], F.cross_entropy, None),
            ({"a": X, "b": X, "labels": Y}, lambda out, batch: F.cross_entropy(out, batch["labels"]), None),
            (
                (X, Y, 1),
                lambda out, batch: F.cross_entropy(out, batch[1]),
                lambda model, batch: model(batch[0], batch[0]),
            ),
        ]:
            torch.manual_seed(0)
            history = quiet(Two(), [batch], loss=loss, forward_fn=forward_fn, steps=2)
            torch.manual_seed(0)
            reference = quiet(Two(), [((X, X), Y)], steps=2)
            assert history.losses == reference.losses

    def test_distillation_of_ones_own(self, model: nn.Module) -> None:
        seen = []

        def distill(outputs: Tensor, teacher: Tensor) -> Tensor:
            seen.append((outputs.requires_grad, teacher.requires_grad))
            return F.mse_loss(outputs, teacher)

        quiet(model, loader(), strategy=Sandwich(model, n_random=1), steps=2, distill=distill)
        assert seen == [(True, False)] * 4

    def test_ends(self) -> None:
        assert quiet(net(), loader(), epochs=2, steps=9).steps == 9
        assert quiet(net(), loader(), epochs=1, steps=9).steps == 6
        assert quiet(net(), (batch for batch in loader()), epochs=1).steps == 6  # a generator, once
        timed = quiet(net(), loader(), minutes=0.5 / 60, scheduler="cosine")
        assert 0.5 <= timed.seconds < 5
        stopped = quiet(net(), loader(), epochs=50, on_step=[lambda step, losses: step == 4, lambda step, losses: None])
        assert stopped.steps == 4

    def test_cosine_reaches_zero(self) -> None:
        rates = []
        made = net()
        optimizer = torch.optim.SGD(made.parameters(), 0.1)
        quiet(
            made,
            loader(),
            epochs=4,
            optimizer=optimizer,
            scheduler="cosine",
            on_step=lambda step, losses: rates.append(optimizer.param_groups[0]["lr"]),
        )
        assert rates[0] == pytest.approx(0.1 * (1 / 24) / 0.05)
        assert max(rates) <= 0.1
        assert rates[-1] == pytest.approx(0)

    def test_the_bar_shows_the_losses_of_max_min_and_random(
        self, model: nn.Module, capsys: pytest.CaptureFixture
    ) -> None:
        fit(model, loader(), F.cross_entropy, strategy=Sandwich(model), epochs=1)
        shown = capsys.readouterr().err
        assert "6/6" in shown
        assert all(f"{name}=" in shown for name in ("max", "min", "random"))


def interrupt_at(step: int):
    def hook(number: int, losses: Losses) -> None:
        if number == step:
            os.kill(os.getpid(), signal.SIGINT)

    return hook


class TestResume:
    @pytest.mark.parametrize("workers", [0, 1])
    def test_interrupted_and_resumed_is_bit_equal(self, elastic: nn.Module, tmp_path: Path, workers: int) -> None:
        def run(model: nn.Module, **kwargs: object):
            data = loader(Noisy(), num_workers=workers, generator=torch.Generator() if workers else None)
            return quiet(
                model,
                data,
                strategy=Sandwich(model, n_random=2),
                epochs=3,
                scheduler="cosine",
                clip=1.0,
                seed=4,
                optimizer=lambda p: torch.optim.AdamW(p, 0.01),
                **kwargs,
            )

        torch.manual_seed(123)
        whole = copy.deepcopy(elastic)
        expected = run(whole)
        torch.manual_seed(456)  # what the process has drawn before must not matter
        first = copy.deepcopy(elastic)
        part = run(first, checkpoint=tmp_path, on_step=interrupt_at(8))
        assert part.interrupted
        assert part.steps == 8
        assert part.losses == expected.losses[:8]
        second = copy.deepcopy(elastic)
        with torch.no_grad():
            for parameter in second.parameters():
                parameter.mul_(3)  # all comes from the checkpoint
        rest = run(second, checkpoint=tmp_path)
        assert not rest.interrupted
        assert rest.losses == expected.losses
        for name, tensor in whole.state_dict().items():
            assert torch.equal(second.state_dict()[name], tensor), name
        again = run(copy.deepcopy(elastic), checkpoint=tmp_path, on_step=lambda step, losses: pytest.fail("trained"))
        assert again.losses == expected.losses

    @pytest.mark.parametrize(
        ("optimizer", "scheduler", "amp"),
        [
            (
                lambda p: torch.optim.SGD(p, 0.05, momentum=0.9),
                lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, 12),
                None,
            ),
            (torch.optim.Adagrad, lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=1), "fp16"),
            (
                lambda p: torch.optim.Adam(p, amsgrad=True),
                lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda e: 0.9**e),
                None,
            ),
        ],
    )
    def test_other_optimizers_and_schedulers(self, tmp_path: Path, optimizer, scheduler, amp: str | None) -> None:
        def run(**kwargs: object):
            return quiet(net(), loader(), epochs=2, optimizer=optimizer, scheduler=scheduler, amp=amp, **kwargs)

        expected = run()
        assert run(checkpoint=tmp_path, on_step=lambda step, losses: step == 7).steps == 7
        assert run(checkpoint=tmp_path).losses == expected.losses

    def test_between_epochs_and_every_so_many_steps(self, tmp_path: Path) -> None:
        expected = quiet(net(), loader(), epochs=3)

        def crash(step: int, losses: Losses) -> None:
            if step == 9:
                raise RuntimeError("power cut")

        with pytest.raises(RuntimeError, match="power cut"):
            quiet(net(), loader(), epochs=3, checkpoint=tmp_path, checkpoint_every=3, on_step=crash)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.json", "step-00000006.safetensors"]
        assert quiet(net(), loader(), epochs=3, checkpoint=tmp_path).losses == expected.losses
        longer = quiet(net(), loader(), epochs=4, checkpoint=tmp_path)
        assert longer.losses[:18] == expected.losses
        assert longer.steps == 24
        anew = quiet(net(), loader(), epochs=1, checkpoint=tmp_path, resume=False)
        assert anew.losses == expected.losses[:6]

    def test_sigint_handler_is_given_back(self) -> None:
        before = signal.getsignal(signal.SIGINT)
        history = quiet(net(), loader(), epochs=2, on_step=interrupt_at(2))
        assert history.interrupted
        assert history.steps == 2
        assert signal.getsignal(signal.SIGINT) is before

    def test_a_second_interrupt_ends_at_once(self) -> None:
        def hook(step: int, losses: Losses) -> None:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)

        before = signal.getsignal(signal.SIGINT)  # a shell in the background lets its children ignore it
        with pytest.raises(KeyboardInterrupt):
            quiet(net(), loader(), epochs=2, on_step=hook)
        assert signal.getsignal(signal.SIGINT) is before


class TestRefusals:
    def refuse(self, message: str, *args: object, **kwargs: object) -> str:
        kwargs.setdefault("epochs", 1)
        with pytest.raises(ElastifyError) as caught:
            quiet(*(args or (net(), loader())), **kwargs)
        assert message in str(caught.value)
        return str(caught.value)

    def test_arguments(self) -> None:
        self.refuse("fit needs a limit", epochs=None)
        self.refuse("there is no subnet to distil into", distill=F.mse_loss)
        self.refuse("epochs=0 is not a number above 0", epochs=0)
        self.refuse("steps=2.5 is not a whole number of at least 1", steps=2.5)
        self.refuse("minutes=-1 is not a number above 0", minutes=-1)
        self.refuse("unknown amp 'int8'", amp="int8")
        self.refuse("checkpoint_every=5 needs checkpoint=", checkpoint_every=5)
        self.refuse("checkpoint_keep=2 needs checkpoint=", checkpoint_keep=2)
        self.refuse("checkpoint_keep=-1 is not a whole number of at least 0", checkpoint_keep=-1)
        self.refuse("optimizer returns a int", optimizer=lambda p: 3)
        self.refuse(
            "the optimizer does not train this model", optimizer=torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1)
        )
        self.refuse("scheduler returns a str", scheduler="linear")
        self.refuse("nothing to train", nn.ReLU(), loader())
        self.refuse("a cosine schedule needs the length of the run", net(), (b for b in loader()), scheduler="cosine")

    def test_strategy_of_another_model(self, model: nn.Module) -> None:
        self.refuse("this Sandwich trains another model", net(), loader(), strategy=Sandwich(model))

    def test_data(self) -> None:
        assert "forward_fn" in self.refuse(
            "a batch is neither (inputs, targets) nor a dict: it is a tuple of 3", net(), [(X, Y, Y)]
        )
        self.refuse("it is a Tensor", net(), [X])
        self.refuse("the data have no batches", net(), [])
        self.refuse("the data have no batches", net(), iter(()))
        said = self.refuse("the data have no batches", net(), (batch for batch in loader()), epochs=2)
        assert "epoch 2" in said
        assert "or can be read only once" in said

    def test_loss_that_is_not_finite(self, tmp_path: Path) -> None:
        data = [(X, Y), (X * torch.inf, Y)]
        said = self.refuse("the loss is not finite in step 2", net(), data, checkpoint=tmp_path)
        assert "nan" in said
        assert not list(tmp_path.iterdir())

    def test_fewer_data_than_before(self, tmp_path: Path) -> None:
        quiet(net(), loader(), epochs=2, steps=5, checkpoint=tmp_path)
        data = [(X, Y)] * 3
        self.refuse(
            "the data have 3 batches, the checkpoint has used 5 of this epoch",
            net(),
            data,
            epochs=2,
            checkpoint=tmp_path,
        )


def test_epochs_follow_set_epoch() -> None:
    class Batches:
        epochs: list[int]

        def __init__(self) -> None:
            self.epochs = []

        def set_epoch(self, epoch: int) -> None:
            self.epochs.append(epoch)

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            yield X, Y

    data = Batches()
    assert quiet(net(), data, epochs=3).steps == 3
    assert data.epochs == [0, 1, 2]


def test_an_elastic_model_without_a_strategy_trains_the_full_network(model: nn.Module) -> None:
    from elastify import activate

    activate(model, 0.5)
    widths = set()
    quiet(model, loader(), steps=2, on_step=lambda step, losses: widths.add(model[0].weight.shape[0]))
    assert widths == {24}
    assert space(model).max.sizes["hidden"] == 24


class TestAccumulation:
    def test_equals_one_large_batch(self) -> None:
        data = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 96, 8)]
        large = [(X[i : i + 24], Y[i : i + 24]) for i in range(0, 96, 24)]
        mine, theirs = nn.Linear(6, 4), nn.Linear(6, 4)
        theirs.load_state_dict(mine.state_dict())
        options = {"epochs": 2, "clip": 0.5, "optimizer": lambda p: torch.optim.SGD(p, 0.1)}
        history = quiet(mine, data, accumulate=3, **options)
        expected = quiet(theirs, large, **options)
        assert history.steps == expected.steps == 8
        assert [x.max for x in history.losses] == pytest.approx([x.max for x in expected.losses], rel=1e-5)
        torch.testing.assert_close(mine.state_dict(), theirs.state_dict())

    def test_the_last_step_of_an_epoch_takes_what_is_left(self) -> None:
        data = [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 80, 16)]
        model, by_hand = nn.Linear(6, 4), nn.Linear(6, 4)
        by_hand.load_state_dict(model.state_dict())
        history = quiet(model, data, accumulate=4, epochs=1, optimizer=lambda p: torch.optim.SGD(p, 0.1))
        assert history.steps == 2
        optimizer = torch.optim.SGD(by_hand.parameters(), 0.1)
        for group in (data[:4], data[4:]):
            optimizer.zero_grad()
            F.cross_entropy(by_hand(torch.cat([x for x, _ in group])), torch.cat([y for _, y in group])).backward()
            optimizer.step()
        torch.testing.assert_close(model.state_dict(), by_hand.state_dict())

    def test_every_batch_draws_its_own_subnet(self, model: nn.Module) -> None:
        history = quiet(model, loader(), strategy=Sorted(model, 6), accumulate=3, epochs=2)
        assert history.steps == 4
        assert all(x.max is None and len(x.random) == 1 for x in history.losses)
        with pytest.raises(ElastifyError, match="accumulate=0 is not a whole number of at least 1"):
            quiet(model, loader(), steps=1, accumulate=0)

    def test_resumes_to_the_same_losses(self, model: nn.Module, tmp_path: Path) -> None:
        def run(net: nn.Module, **kwargs: object) -> list[Losses]:
            strategy = Sorted(net, 6, weights="macs")  # which do not change with the length of the run
            return list(quiet(net, loader(), strategy=strategy, accumulate=4, seed=2, **kwargs).losses)

        whole = run(copy.deepcopy(model), steps=5)
        run(other := copy.deepcopy(model), steps=3, checkpoint=tmp_path)
        assert run(other, steps=5, checkpoint=tmp_path) == whole


def test_an_optimizer_that_does_not_know_what_the_strategy_adds(model: nn.Module) -> None:
    early = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(ElastifyError, match=r"does not know .*_elastic[\s\S]*strategy.prepare\(\) before"):
        quiet(model, loader(), strategy=Compressible(model, "sparsity", dense=()), optimizer=early, steps=1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"clip": -1.0}, "clip=-1.0 is not a limit"),
        ({"clip": "1"}, "clip='1' is not a limit"),
        ({"checkpoint": "run", "checkpoint_every": "5"}, "checkpoint_every='5' is not a whole number of at least 1"),
        ({"strategy": Sandwich}, "is not a strategy"),
        ({"strategy": "sandwich"}, "'sandwich' is not a strategy"),
    ],
)
def test_bad_arguments_are_named(model: nn.Module, options: dict, said: str) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ElastifyError, match=said):
        quiet(model, loader(), steps=1, **options)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_numbers_of_strategies_are_whole(model: nn.Module) -> None:
    for make in (lambda: Sandwich(model, n_random=1.5), lambda: Sorted(model, draws="4")):
        with pytest.raises(ElastifyError, match="is not a whole number"):
            make()
    for subnets in (2.5, "abc"):
        with pytest.raises(ElastifyError, match="subnets="):
            Sorted(model, subnets)
    quiet(
        model, loader(), strategy=Sandwich(model, n_random=np.int64(1), seed=np.int64(3)), clip=np.float32(1), steps=1
    )


def test_an_optimizer_of_a_part_is_the_users_choice(model: nn.Module) -> None:
    strategy = GumbelMask(model)
    gates = [group for group in strategy.groups(lr=50.0, scale_lr=1e-3) if group.get("lr") == 50.0]
    assert quiet(model, loader(), strategy=strategy, optimizer=torch.optim.SGD(gates), steps=1).steps == 1


def test_a_state_of_another_strategy(model: nn.Module) -> None:
    with pytest.raises(ElastifyError, match=r"not the state of a ProgressiveShrinking[\s\S]*it has no now"):
        ProgressiveShrinking(model).load_state_dict(Sandwich(model).state_dict())


def test_a_hook_that_leaves_a_subnet_active(model: nn.Module) -> None:
    quiet(model, loader(), strategy=Sandwich(model), steps=2, on_step=lambda *_: activate(model, 0.5) and None)
    assert active_config(model) == space(model).max


def test_nan_in_fp16_ends_the_run(model: nn.Module) -> None:
    def lost(outputs: Tensor, _: Tensor) -> Tensor:
        return outputs.sum() * float("nan")

    with pytest.raises(ElastifyError, match="not finite in step 21"):
        quiet(model, loader(), loss=lost, strategy=Sandwich(model), amp="fp16", steps=40)


class Remembering(nn.Module):
    """A batch norm, and a mean of its own that forward assigns anew."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last = nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Linear(16, 4)
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        return self.last(self.norm(self.first(x)))


@pytest.mark.parametrize("kind", ["plain", "sandwich", "own statistics"])
def test_what_a_refused_step_has_written_is_put_back(kind: str) -> None:
    net = Remembering()
    if kind != "plain":
        elastify(net, X[:4])
    if kind == "own statistics":
        recalibrate(net, [X[:16]], 0.5)
    sizes = [space(net).config(0.5)] if kind == "own statistics" else []
    strategies = {"sandwich": lambda: Sandwich(net), "own statistics": lambda: FullPlusRandom(net, sizes)}
    strategy = strategies[kind]() if kind != "plain" else None

    def stored() -> list[Tensor]:
        own = [t for *_, kept in all_statistics(net) for t in kept.values()] if kind == "own statistics" else []
        return [t.clone() for t in (*net.buffers(), *own)]

    seen: list[list[Tensor]] = []
    data = [(X[:16], Y[:16]), (X[16:32] * torch.inf, Y[16:32])]
    with pytest.raises(ElastifyError, match="the loss is not finite in step 2"):
        quiet(net, data, strategy=strategy, epochs=1, on_step=lambda *_: seen.append(stored()) and None)
    assert len(seen) == 1
    assert all(map(torch.equal, stored(), seen[0]))
    assert not torch.equal(net.norm.running_mean, torch.zeros(16))


def test_steps_that_overflow_move_no_statistics() -> None:
    net = Remembering()

    def lost(outputs: Tensor, _: Tensor) -> Tensor:
        return outputs.sum() * float("nan")

    quiet(net, loader(), loss=lost, amp="fp16", steps=3)
    assert int(net.norm.num_batches_tracked) == 0
    assert not net.mean.any()


class TestMacs:
    def test_a_limit_that_is_exact_to_one_step(self, model: nn.Module) -> None:
        full = cost(model, space(model).max).macs
        history = quiet(model, loader(), strategy=Sorted(model, 4), macs=50 * 3 * full * 16)
        assert history.passes == history.steps > 50
        assert 0 <= history.macs - 50 * 3 * full * 16 < 3 * full * 16

    def test_a_teacher_counts_its_forward(self, model: nn.Module) -> None:
        full = cost(model, space(model).max).macs
        half = space(model).config(0.5)
        history = quiet(model, loader(), strategy=Sorted(model, [half], teacher="full"), steps=4)
        assert history.passes == 8
        assert history.macs == pytest.approx(4 * 16 * (3 * cost(model, half).macs + full))

    def test_the_full_network_alone(self, model: nn.Module) -> None:
        history = quiet(model, loader(), steps=4)
        assert (history.passes, history.macs) == (4, 4 * 16 * 3 * cost(model, space(model).max).macs)

    def test_refused_where_they_are_not_known(self) -> None:
        with pytest.raises(ElastifyError, match="macs= cannot limit a training with Plain"):
            quiet(nn.Linear(6, 4), loader(), macs=1e6)

    def test_resumed(self, model: nn.Module, tmp_path: Path) -> None:
        twin = copy.deepcopy(model)
        whole = quiet(twin, loader(), strategy=Sorted(twin, 4, weights="macs"), steps=6)
        quiet(model, loader(), strategy=Sorted(model, 4, weights="macs"), steps=3, checkpoint=tmp_path)
        history = quiet(model, loader(), strategy=Sorted(model, 4, weights="macs"), steps=6, checkpoint=tmp_path)
        assert (history.passes, history.macs) == (whole.passes, whole.macs)
