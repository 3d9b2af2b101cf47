"""What is traced must be the user's network: every way in which a graph can differ from its module is refused."""

from __future__ import annotations

import copy
import operator
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from deepreduce.errors import ModelError, NetworkGuardError, UserError
from deepreduce.models import ZOO, build_model, resolve_spec
from deepreduce.network import Network, analyze_network, guard, guard_network, trace_guarded, trace_network
from tests.helpers.independent import executed_relus
from tests.helpers.zoo import TOYS, Untraceable, Wrapped

SHAPE = (3, 8, 8)


class Residual(nn.Module):
    """A branch that ends in a batch-norm with scale 0, as timm's and torchvision's do: it adds nothing at first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.drop = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Dropout(0.5)
        self.bn = nn.BatchNorm2d(4)
        nn.init.zeros_(self.bn.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bn(self.drop(self.relu(self.conv(x))))


class Small(nn.Module):
    """One of everything that a check looks at: a stem, a branch with batch-norm and dropout, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 4, 3, padding=1), Residual()
        self.last, self.fc = nn.ReLU(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.block(F.relu(self.stem(x))))
        return self.fc(x.mean((2, 3)))


SMALL_RELUS = 3 * 4 * 8 * 8


def traced(module: nn.Module) -> Network:
    torch.manual_seed(0)
    return trace_network(module, SHAPE)


# -- what is right passes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in TOYS if not isinstance(TOYS[name].build(), Untraceable)])
def test_a_toy_passes_and_executes_the_relus_of_its_sites(name: str) -> None:
    toy = TOYS[name]
    module = toy.build()
    report = guard_network(trace_network(module, toy.input_shape), module)
    assert report.failure is None and report.missing_relus == 0
    # torch itself can't train those two: what an operation needs for its gradient is overwritten
    assert report.trained == (report.untrainable is None) == (name not in ("in-place, shared", "overwriting"))
    assert report.relu_count == sum(executed_relus(module, toy.input_shape))


@pytest.mark.parametrize("name", ZOO)
def test_every_network_of_the_zoo_passes(name: str) -> None:
    spec = resolve_spec(name, num_classes=7, width=max(1, ZOO[name].width // 16))
    module = build_model(spec)
    report = guard_network(trace_network(module, (3, 32, 32), spec=spec), module)
    assert report.failure is None and report.trained and not report.notes


def test_a_network_without_values_is_checked_by_the_relus_that_execute() -> None:
    spec = resolve_spec("torchvision:resnet18")
    module = build_model(spec, device="meta")
    report = guard_network(trace_network(module, (3, 64, 64), spec=spec), module)
    assert report.failure is None and not report.compared
    assert report.relu_count == sum(executed_relus(module, (3, 64, 64), device="meta"))


def test_a_reduced_network_is_itself_a_network_to_reduce() -> None:
    import deepreduce

    network = traced(Small())
    mask = deepreduce.ChannelMask.of([True, False, True, False])
    plan = deepreduce.ReductionPlan(sites=(("block.relu", mask), ("last", "identity")))
    reduced = deepreduce.apply_plan(network, plan)
    again = deepreduce.trace(reduced.as_module(), SHAPE)
    assert again.relu_count == reduced.relu_count == SMALL_RELUS // 2


def test_the_module_and_all_random_states_stay_as_they_were() -> None:
    module = Small().train()
    module.block.bn.eval()
    module.fc.weight.grad = torch.ones(3, 4)
    before, modes = copy.deepcopy(module.state_dict()), [part.training for part in module.modules()]
    states = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())
    report = guard_network(traced(module), module)
    assert report.failure is None
    after = module.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert [part.training for part in module.modules()] == modes
    assert module.fc.weight.grad is not None and torch.equal(module.fc.weight.grad, torch.ones(3, 4))
    assert all(parameter.grad is None for name, parameter in module.named_parameters() if name != "fc.weight")
    assert random.getstate() == states[1] and repr(np.random.get_state()) == states[2]
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


class Heads(nn.Module):
    """In training mode it returns an auxiliary head's logits too, which draws its own random numbers first."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.aux, self.fc = Small(), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.trunk(x))
        aux = F.dropout(self.aux(x), 0.5, self.training) if self.training else None
        out = self.fc(F.dropout(x, 0.5, self.training))
        return (out, aux) if self.training else out


def test_of_a_network_with_auxiliary_heads_the_main_output_is_compared_and_what_is_left_out_is_named() -> None:
    module = Heads()
    report = guard_network(traced(module), module)
    assert report.failure is None
    assert "returns 2 tensors" in report.notes[0]
    assert "aux.weight, aux.bias" in report.notes[1]


# -- what differs is refused ----------------------------------------------------------------------------------


class Silent(nn.Module):
    """A batch-norm that does not move its statistics, otherwise like the one it is made of."""

    def __init__(self, bn: nn.BatchNorm2d) -> None:
        super().__init__()
        self.bn = bn

    def forward(self, x: Tensor) -> Tensor:
        bn = self.bn
        mean, var = (None, None) if self.training else (bn.running_mean, bn.running_var)
        return F.batch_norm(x, mean, var, bn.weight, bn.bias, self.training)


class Constant(nn.Module):
    """A linear layer whose weights are no parameters."""

    def __init__(self, fc: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("weight", fc.weight.detach().clone())
        self.register_buffer("bias", fc.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Draws(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            torch.rand(1)
        return x


class PythonDraws(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            random.random()
        return x


def replaced(path: str, make: Callable[[Any], nn.Module]) -> Callable[[fx.GraphModule], None]:
    """Put another module in the place of the one at `path`."""

    def change(module: fx.GraphModule) -> None:
        parent, _, name = path.rpartition(".")
        setattr(module.get_submodule(parent), name, make(module.get_submodule(path)))

    return change


def after(path: str, function: Callable[..., Any], *args: Any) -> Callable[[fx.GraphModule], None]:
    """Insert a function behind the call of the module at `path`."""

    def change(module: fx.GraphModule) -> None:
        (node,) = (node for node in module.graph.nodes if node.target == path)
        with module.graph.inserting_after(node):
            new = module.graph.call_function(function, (node, *args))
        node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
        module.recompile()

    return change


@dataclass(frozen=True)
class Fault:
    change: Callable[[fx.GraphModule], None]
    named: str
    """What the line must name."""
    said: str


FAULTS = {
    "another ReLU is computed": Fault(after("block.conv", operator.mul, 1.0001), "block", "logits differ by"),
    "a hidden branch": Fault(replaced("block.relu", lambda _: nn.LeakyReLU(0.1)), "block.relu", "evaluation mode"),
    "no dropout": Fault(replaced("block.drop", lambda _: nn.Identity()), "block.drop", "training mode"),
    "more dropout": Fault(replaced("block.drop", lambda _: nn.Dropout(0.6)), "block.drop", "training mode"),
    "frozen statistics": Fault(replaced("block.bn", Silent), "block.bn", "running_mean"),
    "no gradient": Fault(after("block.conv", Tensor.detach), "block.conv", "no gradient"),
    "part of the gradient": Fault(after("stem", lambda x: x + (x.detach() - x) / 2), "stem", "another gradient"),
    "a parameter lost": Fault(replaced("fc", Constant), "fc", "fc.weight"),
    "a draw more": Fault(replaced("last", lambda _: nn.Sequential(nn.ReLU(), Draws())), "module itself", "random"),
    "a draw more of Python's": Fault(
        replaced("last", lambda _: nn.Sequential(nn.ReLU(), PythonDraws())), "module itself", "random"
    ),
    "one image only": Fault(after("fc", lambda x: x.view(1, -1)), "module itself", "evaluation mode"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_graph_that_differs_is_refused_in_one_line_that_names_the_module_and_the_repair(name: str) -> None:
    fault, module = FAULTS[name], Small()
    network = traced(module)
    changed = copy.deepcopy(network.module)
    for twin, parameter in module.named_parameters():  # shared, as tracing leaves them
        parent, _, key = twin.rpartition(".")
        setattr(changed.get_submodule(parent), key, parameter)
    fault.change(changed)
    object.__setattr__(network, "module", changed)
    failure = guard_network(network, module).failure
    assert failure is not None and "\n" not in failure
    assert fault.named in failure and fault.said in failure
    assert "; " in failure and "torch.fx.wrap" in failure


class OptionalArgument(Small):
    def forward(self, x: Tensor, mode: str | None = None) -> Tensor:  # type: ignore[override]
        x = super().forward(x)
        return F.relu(x) if mode is None else x


class Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, score: Tensor) -> Tensor:  # type: ignore[override]
        return (score > 0).float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad


class StraightThrough(Small):
    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.block(F.relu(self.stem(x)) * Step.apply(self.score)).mean((2, 3)))


class FrozenStem(Small):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.stem(x)
        return self.fc(self.last(self.block(F.relu(x))).mean((2, 3)))


class OwnTrain(Small):
    """Keeps its batch-norm frozen by a `train` of its own, which the traced graph does not have."""

    def train(self, mode: bool = True) -> OwnTrain:
        super().train(mode)
        self.block.bn.eval()
        return self


class ByTraining(Small):
    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return x * 2 if self.training else x


class ByChance(Small):
    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return x if self.training and random.random() < 0.1 else 2 * x


def with_hook() -> nn.Module:
    module = Small()
    module.register_forward_pre_hook(lambda module, args: ((args[0] - 0.5) / 0.25,))
    return module


def scripted() -> nn.Module:
    module = Small()
    module.stem = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()))
    return module


ORDINARY: dict[str, Callable[[], nn.Module]] = {
    "optional argument": OptionalArgument,
    "straight-through": StraightThrough,
    "no_grad": FrozenStem,
    "own train()": OwnTrain,
    "self.training": ByTraining,
    "chance in Python": ByChance,
    "hook of the network": with_hook,
    "TorchScript": scripted,
}


@pytest.mark.parametrize("name", ORDINARY)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_network_of_ordinary_code_is_the_same_or_refused_in_one_line(name: str) -> None:
    torch.manual_seed(0)
    module = ORDINARY[name]()
    try:
        network = trace_guarded(module, SHAPE)
    except UserError as error:
        assert "\n" not in str(error) and type(module).__name__ in str(error)
        return
    # compared once more, by code that shares nothing with the guard
    images, own, other = torch.randn(2, *SHAPE), copy.deepcopy(module), copy.deepcopy(network.as_module())
    assert sum(executed_relus(own, SHAPE)) == sum(analyze_network(network).stages.values())
    for training in (False, True):
        logits = []
        for part in (own, other):
            part.train(training)
            torch.manual_seed(1)
            random.seed(1)
            logits.append(part(images))
            logits[-1].square().sum().backward()
        assert torch.equal(*logits)
    gradients = {key: p.grad for key, p in other.named_parameters()}
    for key, parameter in own.named_parameters():
        twin = gradients[key]
        assert parameter.grad is twin is None or (twin is not None and torch.equal(parameter.grad, twin))
    buffers = dict(other.named_buffers())
    assert all(torch.equal(value, buffers[key]) for key, value in own.named_buffers())


class Locked(Small):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class Unseeded(Small):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + float(torch.rand((), generator=_OWN))


_OWN = torch.Generator()


class Failing(nn.Sequential):
    def train(self, mode: bool = True) -> Failing:
        self.fails = mode
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        if self.fails:
            raise RuntimeError("no\nbatch")
        return super().forward(x)


def test_a_module_that_cant_be_copied_is_refused_with_the_reason() -> None:
    with pytest.raises(ModelError, match=r"Locked can't be copied \(.*lock.*\)"):
        trace_guarded(Locked(), SHAPE)


def test_a_module_that_fails_in_training_mode_is_refused_where_it_must_train(
    caplog: pytest.LogCaptureFixture,
) -> None:
    module = Failing(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 2)).eval()
    with pytest.raises(ModelError, match="fails in training mode on 2 images: no batch"):
        trace_guarded(module, SHAPE)
    assert trace_guarded(module, SHAPE, training=False).relu_count == 128
    assert trace_guarded(module, SHAPE, must_train=False).relu_count == 128
    assert "no batch" in caplog.text


def test_a_module_that_differs_from_itself_is_said_to_draw_its_own_random_numbers() -> None:
    with pytest.raises(NetworkGuardError, match=r"other values each time .*torch's default generator"):
        trace_guarded(Unseeded(), SHAPE)


class Dictionary(Small):
    """Returns its features beside the logits, as models of some libraries do; the features' layer is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.side = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Any:
        logits = super().forward(x)
        return {"side": self.side(logits), "logits": logits}


def test_of_a_dictionary_the_output_that_the_network_has_is_compared() -> None:
    module = Dictionary()
    network = traced(module)
    report = guard_network(network, module)
    assert report.failure is None and report.trained
    assert network.output_shape == (3,)


def test_wrappers_are_taken_off_and_compiled_parts_run_as_written() -> None:
    module = Small()
    module.block = torch.compile(module.block)
    for wrapped in (nn.DataParallel(module), torch.optim.swa_utils.AveragedModel(module), torch.compile(module)):
        assert trace_guarded(wrapped, SHAPE).relu_count == SMALL_RELUS


class Shaky(nn.Module):
    """A layer whose gradient is never the same twice, as sums of atomic additions on a GPU are not."""

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, fx.Proxy) or not x.requires_grad:
            return x
        x = x.clone()
        x.register_hook(lambda grad: grad * (1 + 1e-6 * torch.rand(grad.shape, generator=_OWN)))
        return x


@pytest.mark.parametrize(("difference", "passes"), [(1e-7, True), (1e-2, False)])
def test_gradients_are_compared_within_what_the_module_itself_makes_of_them(difference: float, passes: bool) -> None:
    module = Small()
    network = traced(module)
    shaky = Small()
    shaky.load_state_dict(module.state_dict())
    shaky.last = nn.Sequential(nn.ReLU(), Shaky())
    after("stem", lambda x: x + difference * (x - x.detach()))(network.module)
    report = guard_network(network, shaky)
    assert (report.failure is None) == passes, report.failure


def test_relus_inside_a_call_that_is_kept_whole_are_told(caplog: pytest.LogCaptureFixture) -> None:
    network = trace_guarded(Wrapped(), SHAPE)
    assert f"{4 * 8 * 8} ReLUs in no site" in caplog.text and "shifted_relu" in caplog.text
    text = analyze_network(network).to_text()
    assert f"{4 * 8 * 8} ReLUs in 1 sites and {4 * 8 * 8} more in no site" in text


def test_real_images_are_taken_where_two_are_given_and_not_all_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def run_eval(module: nn.Module, images: Tensor, **options: Any) -> Any:
        seen.append(images)
        return original(module, images, **options)

    original = guard.run_eval
    monkeypatch.setattr(guard, "run_eval", run_eval)
    module, real = Small(), torch.rand(5, *SHAPE)
    network = traced(module)
    for images in (real, real[:1], torch.zeros(5, *SHAPE)):
        assert guard_network(network, module, images=images).failure is None
    assert len(seen) == 2 * 3  # the module and its graph
    assert all(torch.equal(batch, real[:2]) for batch in seen[:2])
    assert all(batch.shape == (2, *SHAPE) and not torch.equal(batch[0], batch[1]) for batch in seen[2:])


def test_half_a_million_weights_are_checked_in_a_second() -> None:
    module = build_model(resolve_spec("resnet18", width=16))
    network = trace_network(module, (3, 32, 32))
    begin = time.process_time()
    assert guard_network(network, module).failure is None
    assert time.process_time() - begin < 5  # 0.2 s on an idle machine
