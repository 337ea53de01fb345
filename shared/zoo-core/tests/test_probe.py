"""Probes: they show what is there, change only what they are told, and leave nothing behind."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from zoo_core.errors import UsageError, ZooError
from zoo_core.probe import Edit, Point, Probe, output_shapes


def convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.LazyLinear(2)
    )


IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


# -- what is seen ------------------------------------------------------------------------------------------------------


def test_points_show_inputs_and_outputs_and_the_output_is_untouched() -> None:
    net = convolutions()
    expected = net(IMAGES)
    seen = Probe(net, {"first": "0", "second": Point("2"), "into": Point("2", "in"), "all": Point("", "in")})(IMAGES)
    assert torch.equal(seen.out, expected)
    assert torch.equal(seen.at["all"], IMAGES)
    # the ReLU works in place, and the convolution's output is still there
    assert (seen.at["first"] < 0).any()
    assert torch.equal(seen.at["into"], functional.relu(seen.at["first"]))
    assert torch.equal(seen.at["second"], net[2](seen.at["into"]))


def test_what_is_seen_lies_on_the_way_to_the_output_also_before_a_module_that_works_in_place() -> None:
    net = convolutions()
    seen = Probe(net, {"first": "0", "again": "0"})(IMAGES)
    for name in ("first", "again"):
        (found,) = torch.autograd.grad(seen.out.sum(), seen.at[name], retain_graph=True)
        by_hand = seen.at[name].detach().requires_grad_()
        (expected,) = torch.autograd.grad(net[1:](by_hand.clone()).sum(), by_hand)
        torch.testing.assert_close(found, expected)


def test_without_points_and_edits_nothing_is_hooked() -> None:
    net = convolutions()
    seen = Probe(net, {})(IMAGES)
    assert torch.equal(seen.out, net(IMAGES))
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in net.modules())
    probe = Probe(net, {"first": "0"})
    probe.remove()
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in net.modules())


class Twice(nn.Module):
    """Runs one layer twice, another never, and one that gives more than a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.idle, self.pair = nn.Linear(3, 3), nn.Linear(3, 3), Pair()

    def forward(self, x: Tensor, *, scale: Tensor | None = None) -> Tensor:
        x = self.layer(self.layer(x))
        return self.pair(x=x)["b"] * (1 if scale is None else scale)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"a": x + 1, "b": x + 2}


def test_a_layer_that_runs_twice() -> None:
    net, x = Twice(), torch.randn(4, 3)
    with pytest.raises(UsageError, match="reached 2 times"):
        Probe(net, {"y": "layer"})(x)
    seen = Probe(net, {way: Point("layer", repeat=way) for way in ("first", "last", "all")})(x)  # type: ignore[arg-type]
    assert torch.equal(seen.at["first"], net.layer(x))
    assert torch.equal(seen.at["last"], net.layer(net.layer(x)))
    assert torch.equal(seen.at["all"], torch.stack([seen.at["first"], seen.at["last"]]))


def test_outputs_that_are_more_than_a_tensor() -> None:
    net, x = Twice(), torch.randn(4, 3)
    seen = Probe(net, {"a": Point("pair", item="a"), "x": Point("pair", "in", item="x"), "x0": Point("pair", "in")})(x)
    assert torch.equal(seen.at["a"], seen.at["x"] + 1)
    assert torch.equal(seen.at["x"], seen.at["x0"])
    with pytest.raises(UsageError, match="holds a dict with the keys a, b"):
        Probe(net, {"y": "pair"})(x)
    with pytest.raises(UsageError, match="no item 'c'"):
        Probe(net, {"y": Point("pair", item="c")})(x)
    with pytest.raises(UsageError, match="without such an argument"):
        Probe(net, {"y": Point("pair", "in", item="z")})(x)


def test_names_that_lead_nowhere() -> None:
    with pytest.raises(UsageError, match=r"no module 'layr'.*nearest are layer"):
        Probe(Twice(), {"y": "layr"})
    with pytest.raises(UsageError, match="idle was not reached"):
        Probe(Twice(), {"y": "idle"})(torch.randn(1, 3))
    with pytest.raises(UsageError, match="cannot be named 'out'"):
        Probe(Twice(), {"out": "layer"})
    with pytest.raises(UsageError, match=r"Linear is no attention module"):
        Probe(Twice(), {"y": Point("layer", "q")})


def test_all_points_of_a_module_with_their_shapes() -> None:
    net = convolutions()
    net(IMAGES)
    shapes = output_shapes(net, IMAGES)
    assert shapes == {
        "": (2, 2), "0": (2, 4, 8, 8), "1": (2, 4, 8, 8), "2": (2, 5, 6, 6), "3": (2, 180), "4": (2, 2)
    }  # fmt: skip
    assert list(output_shapes(Twice(), torch.randn(1, 3))) == ["", "layer"]
    assert all(not m._forward_hooks for m in net.modules())


def test_nothing_stays_between_calls_and_copies_are_independent() -> None:
    probe = Probe(convolutions(), {"first": "0"})
    probe(IMAGES)
    assert probe._call.taken is None
    twin = copy.deepcopy(probe)
    with torch.no_grad():
        twin.module[0].weight.mul_(2)
        twin.module[0].bias.mul_(2)
    torch.testing.assert_close(twin(IMAGES).at["first"], 2 * probe(IMAGES).at["first"])
    # an error in the module closes the call
    with pytest.raises(RuntimeError):
        probe(torch.randn(1, 7, 8, 8))
    assert probe._call.taken is None
    # the module itself, called by anyone, captures nothing
    probe.module(IMAGES)
    assert probe._call.taken is None


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        y += 1
        return y


def test_a_tensor_that_is_overwritten_unseen_is_refused() -> None:
    with pytest.raises(ZooError, match="layer was changed in place"):
        Probe(InPlace(), {"y": "layer"})(torch.randn(1, 3))


# -- gradients, checkpoints, compilation -------------------------------------------------------------------------------


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.reentrant = nn.Linear(4, 4), nn.Linear(4, 4), reentrant

    def forward(self, x: Tensor) -> Tensor:
        def part(x: Tensor) -> Tensor:
            return self.b(torch.tanh(self.a(x)))

        return part(x) if self.reentrant is None else checkpoint(part, x, use_reentrant=self.reentrant)


def test_checkpoints_that_are_not_reentrant_change_no_gradient() -> None:
    x = torch.randn(5, 4)

    def gradients(net: nn.Module) -> list[Tensor]:
        probe = Probe(net, {"h": "a"}, [Edit(Point("a"), torch.sin)])
        seen = probe(x)
        (seen.out.square().sum() + seen.at["h"].pow(3).sum()).backward()
        return [p.grad for p in net.parameters() if p.grad is not None]

    for ours, theirs in zip(
        gradients(Checkpointed(reentrant=False)), gradients(Checkpointed(reentrant=None)), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_reentrant_checkpoints_would_lose_the_gradient_and_are_refused() -> None:
    probe = Probe(Checkpointed(reentrant=True), {"h": "a"})
    with pytest.raises(ZooError, match="use_reentrant=False"):
        probe(torch.randn(5, 4, requires_grad=True))
    # without gradients there is nothing to lose
    plain = Probe(Checkpointed(reentrant=None), {"h": "a"})
    with torch.no_grad():
        assert plain(torch.randn(5, 4)).at["h"].shape == (5, 4)


def test_compiled_it_shows_the_same() -> None:
    probe = Probe(convolutions(), {"first": "0", "into": Point("2", "in")}, [Edit(Point("2"), torch.tanh)])
    expected = probe(IMAGES)
    seen = torch.compile(probe, fullgraph=True, backend="eager")(IMAGES)
    assert torch.equal(seen.out, expected.out)
    assert all(torch.equal(seen.at[name], expected.at[name]) for name in expected.at)
    (seen.at["first"].square().sum() + seen.out.sum()).backward()
    assert probe.module[0].weight.grad is not None
