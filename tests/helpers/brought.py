"""Small networks of the kinds that people bring, each with the ReLUs that it executes, and what must hold of each.

All take images (N, 3, 8, 8) and have 4 classes.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from deepreduce.network import Network, trace_network
from deepreduce.network.module_kinds import unwrapped

SHAPE = (3, 8, 8)
MAP = 8 * 8
WIDTH = 4


def conv(i: int = WIDTH, o: int = WIDTH) -> nn.Conv2d:
    return nn.Conv2d(i, o, 3, padding=1)


def head() -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, 4))


def chain(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers, *head())


class Two(nn.Module):
    """Two convolutions and a head; `between` and `forward` are what the networks below change."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.h = conv(3), conv(), head()

    def between(self, x: Tensor) -> Tensor:
        return F.relu(x)

    def forward(self, x: Tensor) -> Any:
        return self.h(F.relu(self.b(self.between(self.a(x)))))


def two(between: Callable[[nn.Module, Tensor], Tensor]) -> Callable[[], nn.Module]:
    """A network of which a function of itself and the first convolution's output is the part that matters."""

    class Made(Two):
        def between(self, x: Tensor) -> Tensor:
            return between(self, x)

    return Made


# -- arguments of forward -----------------------------------------------------------------------------------


class Mode(Two):
    def forward(self, x: Tensor, mode: str | None = None, *rest: Any, flag: bool = False, **options: Any) -> Any:
        x = self.b(F.relu(self.a(x)))
        if mode is None and not rest and not options:
            x = F.relu(x)
        return (x, self.h(x)) if flag else self.h(x)


class AnyArguments(Two):
    def forward(self, *inputs: Tensor) -> Any:
        (x,) = inputs
        return super().forward(x)


class Decorated(Two):
    @functools.cache  # noqa: B019
    def number(self) -> int:
        return 1

    def forward(self, x: Tensor) -> Any:
        return super().forward(x * self.number())


# -- sizes --------------------------------------------------------------------------------------------------


def by_size(self: Any, x: Tensor) -> Tensor:
    if x.size(1) * 2 == 8 and x.shape[-1] > 4 and len(x.shape) == 4:
        x = F.relu(x)
    return x


def by_type(self: Any, x: Tensor) -> Tensor:
    return F.relu(x) if isinstance(x, torch.Tensor) else x


def iterated(self: Any, x: Tensor) -> Tensor:
    b, c, *sizes = x.shape
    for _ in range(c // 4):
        x = F.relu(x)
    return x.view(b, c, *(int(size) for size in sizes)) + torch.zeros(b, c, 1, 1)


def rounded(self: Any, x: Tensor) -> Tensor:
    return F.relu(x)[..., : max(round(x.size(2) / 2), 4), :]


def rows(self: Any, x: Tensor) -> Tensor:
    return torch.stack([F.relu(row) for row in x.unbind(2)], 2)


def squeezed(self: Any, x: Tensor) -> Tensor:
    weights = F.adaptive_avg_pool2d(x, 1).squeeze()
    return F.relu(x) * weights.view(x.size(0), -1, 1, 1)


def built_in_forward(self: Any, x: Tensor) -> Tensor:
    return nn.MaxPool2d(1)(nn.ReLU()(x))


# -- overwriting --------------------------------------------------------------------------------------------


def added_in_place(self: Any, x: Tensor) -> Tensor:
    before = F.relu(x)
    x = x * 1.5
    alias = x
    x += before
    x *= 2
    return x + alias


def assigned(self: Any, x: Tensor) -> Tensor:
    y = x * 1.5
    y[:, :2] = F.relu(x)[:, 2:] * 0.5
    y[:, 3] += F.relu(x[:, 1])
    return y


class Residual(Two):
    def between(self, x: Tensor) -> Tensor:
        y = self.b(x)
        y += x
        return F.relu(y, inplace=True)


# -- gradients ----------------------------------------------------------------------------------------------


class Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, score: Tensor, bound: float) -> Tensor:  # type: ignore[override]
        return (score > bound).float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        return 3 * grad, None


step = Step.apply


class Twofold(torch.autograd.Function):
    """In the newer form, with a context of its own."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:  # type: ignore[override]
        return 2 * x

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad * ctx.saved_tensors[0].sign()


twofold = Twofold.apply


class Scored(Two):
    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Parameter(torch.linspace(-1, 1, WIDTH).view(-1, 1, 1))

    def between(self, x: Tensor) -> Tensor:
        y = twofold(F.relu(x)) * step(self.score, 0.0) * Step.apply(self.score, 0.5)
        with torch.no_grad():
            scale = Step.apply(self.score, 0.1)
        return Twofold.apply(y) * scale


def without_gradient(self: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        low, high = x.chunk(2, 1)
        y = self.b(x)
        with torch.enable_grad():
            y = y * 2
    return F.relu(x) + y + torch.cat([low, high], 1) * y.detach()


@torch.no_grad()
def _scaled(x: Tensor) -> Tensor:
    return x * 2


def decorated_no_grad(self: Any, x: Tensor) -> Tensor:
    return F.relu(x + _scaled(x))


def checkpointed(self: Any, x: Tensor) -> Tensor:
    x = checkpoint(lambda y: F.relu(self.b(y)), x, use_reentrant=True)
    return checkpoint(lambda y: self.b(y) * 2, x, use_reentrant=False)  # type: ignore[no-any-return]


# -- norms and functions of the mode ------------------------------------------------------------------------


class NormAct(nn.BatchNorm2d):
    """Batch-norm and activation in one, as in timm."""

    def __init__(self, channels: int, momentum: float | None = 0.1) -> None:
        super().__init__(channels, momentum=momentum)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        factor: Any = 0.0 if self.momentum is None else self.momentum
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                factor = 1.0 / float(self.num_batches_tracked)
        x = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, factor, self.eps
        )
        return self.act(x)


class OwnNorm(nn.Module):
    """No subclass of batch-norm, and without a counter."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, None, self.training, 0.3, 1e-3)


class FrozenNorm(nn.BatchNorm2d):
    """Never trained: train() leaves it in evaluation."""

    def train(self, mode: bool = True) -> FrozenNorm:
        return super().train(False)


class CalledNorm(nn.BatchNorm2d):
    """A subclass that calls its base, and activates."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


class PlainNorm(nn.BatchNorm2d):
    """A subclass that changes nothing."""


class PlainConv(nn.Conv2d):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.note = "changes nothing that computes"


class Standardised(nn.Conv2d):
    """A subclass that computes with other weights."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, padding=1)


def dropped(self: Any, x: Tensor) -> Tensor:
    x = F.dropout(F.relu(x), 0.3, self.training)
    x = F.dropout(x, 0.2, training=False)
    return F.rrelu(x, 0.1, 0.3, self.training)


class InstanceNormed(Two):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(WIDTH))
        self.register_buffer("variance", torch.ones(WIDTH))

    def between(self, x: Tensor) -> Tensor:
        statistics: Any = (self.mean, self.variance)
        return F.relu(F.instance_norm(x, *statistics, use_input_stats=self.training, momentum=0.2))


class DropBranch(nn.Module):
    """Stochastic depth without state: it returns its input in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.empty(len(x), 1, 1, 1).bernoulli_(0.5) if self.training else x


class Overwriting(nn.Module):
    """A module without state that returns its input, but not as it was."""

    def forward(self, x: Tensor) -> Tensor:
        return x.relu_()


class StochasticDepth(nn.Module):
    """Shares its name with torchvision's layer and, unlike that, holds the branch."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = chain_of_two()

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.5 * self.branch(x)  # type: ignore[no-any-return]


def chain_of_two() -> nn.Sequential:
    return nn.Sequential(conv(), nn.ReLU())


# -- hooks --------------------------------------------------------------------------------------------------


def hooked() -> nn.Module:
    """Hooks before and after the network, a block and a layer, of which some compute and some only look."""
    network = chain(conv(3), chain_of_two())
    seen: dict[str, Any] = {}
    network.register_forward_pre_hook(lambda _, args: ((args[0] - 0.5) / 0.25,))
    network.register_forward_hook(lambda _, args, out: seen.update(out=out))
    network[1].register_forward_hook(lambda _, args, out: out + args[0])
    network[0].register_forward_hook(lambda _, args, out: F.relu(out))
    network[1][0].register_forward_pre_hook(lambda _, args, kwargs: None, with_kwargs=True)
    return network


# -- weights that are computed ------------------------------------------------------------------------------


def pruned() -> nn.Module:
    network = chain(conv(3), nn.ReLU())
    prune.l1_unstructured(network[0], "weight", 0.5)
    return network


class EveryOther(prune.BasePruningMethod):
    """A user's own way to prune."""

    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        mask = default_mask.clone()
        mask.view(-1)[::2] = 0
        return mask


def pruned_otherwise() -> nn.Module:
    network = chain(conv(3), nn.ReLU())
    EveryOther.apply(network[0], "weight")
    return network


def parametrised() -> nn.Module:
    return chain(parametrizations.weight_norm(conv(3)), nn.ReLU())


def old_weight_norm() -> nn.Module:
    return chain(torch.nn.utils.weight_norm(conv(3)), nn.ReLU())


def spectral() -> nn.Module:
    return chain(parametrizations.spectral_norm(conv(3)), nn.ReLU())


class Fusion(Two):
    """relu(self.w) depends on no image."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, -1.0, 2.0]))

    def between(self, x: Tensor) -> Tensor:
        w = F.relu(self.w) @ torch.ones(3, 1)
        return F.relu(w[0] * x)


# -- outputs ------------------------------------------------------------------------------------------------


class Named(Two):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: Tensor) -> Any:
        x = self.b(F.relu(self.a(x)))
        made = {
            "single": {"scores": self.h(x)},
            "tuple": (self.h(x),),
            "logits": {"features": x, "logits": self.h(x)},
        }
        return made[self.form]


@dataclass(frozen=True)
class Brought:
    """A network, the ReLUs of one image, and what its training has that a graph does not keep."""

    build: Callable[[], nn.Module]
    relus: int
    trains: bool = True


ONE, TWICE = WIDTH * MAP, 2 * WIDTH * MAP

BROUGHT: dict[str, Brought] = {
    "optional arguments": Brought(Mode, TWICE),
    "any arguments": Brought(AnyArguments, TWICE),
    "cached method": Brought(Decorated, TWICE),
    "decides by a size": Brought(two(by_size), TWICE),
    "decides by a type": Brought(two(by_type), TWICE),
    "iterates over sizes": Brought(two(iterated), TWICE),
    "rounds a size": Brought(two(rounded), ONE + ONE // 2),
    "iterates over rows": Brought(two(rows), TWICE),
    "squeeze": Brought(two(squeezed), TWICE),
    "layers made in forward": Brought(two(built_in_forward), TWICE),
    "augmented assignment": Brought(two(added_in_place), TWICE),
    "assignment to a part": Brought(two(assigned), TWICE + MAP),
    "residual in place": Brought(Residual, TWICE),
    "autograd function": Brought(Scored, TWICE),
    "no_grad part": Brought(two(without_gradient), TWICE),
    "no_grad function": Brought(two(decorated_no_grad), TWICE),
    "checkpoint": Brought(two(checkpointed), TWICE),
    "functional batch-norm": Brought(lambda: chain(conv(3), NormAct(WIDTH), conv(), NormAct(WIDTH)), TWICE),
    "functional batch-norm over all": Brought(lambda: chain(conv(3), NormAct(WIDTH, None)), ONE),
    "own batch-norm": Brought(lambda: chain(conv(3), OwnNorm(WIDTH), nn.ReLU()), ONE),
    "frozen batch-norm": Brought(lambda: chain(conv(3), FrozenNorm(WIDTH), nn.ReLU()), ONE),
    "batch-norm that calls its base": Brought(lambda: chain(conv(3), CalledNorm(WIDTH)), ONE),
    "plain subclasses": Brought(lambda: chain(PlainConv(3, WIDTH, 1), PlainNorm(WIDTH), nn.ReLU()), ONE),
    "standardised weights": Brought(lambda: chain(Standardised(3, WIDTH, 3), nn.ReLU()), ONE),
    "dropout and rrelu": Brought(two(dropped), TWICE),
    "functional instance-norm": Brought(InstanceNormed, TWICE),
    "stochastic layer": Brought(lambda: chain(conv(3), DropBranch(), nn.ReLU()), ONE),
    "layer that overwrites": Brought(lambda: chain(conv(3), Overwriting()), ONE),
    "own StochasticDepth": Brought(lambda: chain(conv(3), StochasticDepth()), ONE),
    "hooks": Brought(hooked, TWICE),
    "pruning": Brought(pruned, ONE),
    "pruning of one's own": Brought(pruned_otherwise, ONE),
    "parametrised weights": Brought(parametrised, ONE),
    "weight norm of old": Brought(old_weight_norm, ONE),
    "spectral norm": Brought(spectral, ONE),
    "relu of a parameter": Brought(Fusion, TWICE),
    "DataParallel inside": Brought(lambda: chain(nn.DataParallel(nn.Sequential(conv(3), nn.ReLU()))), ONE),
    "DataParallel around": Brought(lambda: nn.DataParallel(chain(conv(3), nn.ReLU())), ONE),
    "AveragedModel around": Brought(lambda: AveragedModel(chain(conv(3), nn.ReLU())), ONE),
    "AveragedModel inside": Brought(lambda: chain(AveragedModel(nn.Sequential(conv(3), nn.ReLU()))), ONE),
    "compiled around": Brought(lambda: torch.compile(chain(conv(3), nn.ReLU())), ONE),  # type: ignore[arg-type, return-value]
    "one tensor in a dictionary": Brought(lambda: Named("single"), ONE),
    "one tensor in a tuple": Brought(lambda: Named("tuple"), ONE),
    "logits in a dictionary": Brought(lambda: Named("logits"), ONE),
}


# -- what must hold -----------------------------------------------------------------------------------------


class Executed(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the elements of the ReLUs that execute on something of the batch's size."""

    def __init__(self, batch: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.batch, self.elements = batch, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten.relu, torch.ops.aten.relu_) and out.shape[:1] == (self.batch,):
            self.elements += out[0].numel()
        return out


def logits_of(result: Any) -> Tensor:
    if isinstance(result, dict):
        result = result.get("logits", next(iter(result.values())))
    return result[0] if isinstance(result, tuple) else result  # type: ignore[no-any-return]


def assert_same_network(network: Network, module: nn.Module, *, trains: bool = True) -> None:
    """Assert that the traced network computes, trains and keeps what the module does, bit by bit."""
    module = unwrapped(module)
    traced, original = copy_of(network.module), copy_of(module)
    images = torch.randn(5, *SHAPE)
    own, others = dict(traced.named_parameters()), dict(original.named_parameters())
    assert own.keys() == others.keys()
    states, kept = original.state_dict(), traced.state_dict()
    assert {n for n in states if not n.endswith("n_averaged")} <= kept.keys()
    with torch.no_grad():
        assert torch.equal(traced.eval()(images), logits_of(original.eval()(images)))
    if not trains:
        return
    given, right = images.clone().requires_grad_(), images.clone().requires_grad_()
    torch.manual_seed(3)
    logits = traced.train()(given)
    torch.manual_seed(3)
    expected = logits_of(original.train()(right))
    assert torch.equal(logits, expected)
    (logits * torch.arange(4)).sum().backward()
    (expected * torch.arange(4)).sum().backward()
    assert torch.equal(given.grad, right.grad)  # type: ignore[arg-type]
    for name, parameter in others.items():
        mine = own[name].grad
        assert (mine is None) == (parameter.grad is None), name
        assert mine is None or torch.equal(mine, parameter.grad), name  # type: ignore[arg-type]
    for name, value in original.state_dict().items():
        assert name.endswith("n_averaged") or torch.equal(traced.state_dict()[name], value), name


def copy_of(module: nn.Module) -> nn.Module:
    from deepreduce.network.copying import copy_module

    return copy_module(module)


def traced(name: str) -> tuple[Network, nn.Module]:
    """The traced network of that name and the module that it is of, in evaluation mode."""
    torch.manual_seed(0)
    module = BROUGHT[name].build().eval()
    return trace_network(module, SHAPE), module


def executed_relus(module: nn.Module) -> int:
    module = copy.deepcopy(module) if not isinstance(module, nn.DataParallel) else module
    with torch.no_grad(), Executed(3) as executed:
        unwrapped(module)(torch.randn(3, *SHAPE))
    return executed.elements


# -- networks that no graph can hold ------------------------------------------------------------------------


class Held(Two):
    """Its blocks are in a list, so that they are not registered."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = [conv(), conv()]

    def between(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = F.relu(block(x))
        return x


class HeldParameter(Two):
    def __init__(self) -> None:
        super().__init__()
        self.scales = {"first": nn.Parameter(torch.ones(1))}

    def between(self, x: Tensor) -> Tensor:
        return F.relu(x) * self.scales["first"]


class Buffered(Two):
    """Writes to a buffer; `written` and `replaced` in evaluation too."""

    calls: Tensor

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.register_buffer("calls", torch.zeros(WIDTH))

    def between(self, x: Tensor) -> Tensor:
        if self.form == "written":
            self.calls += 1
        elif self.form == "computed":
            self.calls.add_(x.mean((0, 2, 3)))
        elif self.form == "replaced":
            self.calls = self.calls + 1
        elif self.form == "part":
            self.calls[0] = x.mean()
        return F.relu(x) * self.calls.view(-1, 1, 1)


class OddNorm(Two):
    """Its statistics have names that no batch-norm has."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(WIDTH))
        self.register_buffer("variance", torch.ones(WIDTH))

    def between(self, x: Tensor) -> Tensor:
        statistics: Any = (self.mean, self.variance)
        return F.relu(F.batch_norm(x, *statistics, training=self.training))


class TwoInputs(Two):
    def forward(self, x: Tensor, y: Tensor) -> Any:  # type: ignore[override]
        return super().forward(x + y)


def by_values(self: Any, x: Tensor) -> Tensor:
    return F.relu(x) if x.mean() > 0 else x


def by_item(self: Any, x: Tensor) -> Tensor:
    return F.relu(x) * float(x.mean())


def by_number(self: Any, x: Tensor) -> Tensor:
    return F.relu(x) if x.shape[0] == 1 else x


def by_each_image(self: Any, x: Tensor) -> Tensor:
    return torch.stack([F.relu(image) for image in x])


def randomly(self: Any, x: Tensor) -> Tensor:
    return F.relu(x) * torch.rand(1)


def overwritten_without_gradient(self: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        x.mul_(2)
    return F.relu(x)


def in_another_precision(self: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return self.b(F.relu(x)).float()  # type: ignore[no-any-return]


def scripted() -> nn.Module:
    return chain(conv(3), nn.ReLU(), torch.jit.script(chain_of_two()))


def with_backward_hook() -> nn.Module:
    network = chain(conv(3), nn.ReLU())
    network[1].register_full_backward_hook(lambda _, grads, out: None)
    return network


def with_gradient_hook() -> nn.Module:
    network = chain(conv(3), nn.ReLU())
    network[0].weight.register_hook(lambda grad: grad * 2)  # type: ignore[union-attr]
    return network


def with_counting_hook() -> nn.Module:
    network = chain(conv(3), chain_of_two())
    calls = {"number": 0}

    def hook(_: nn.Module, args: Any, out: Tensor) -> Tensor:
        calls["number"] += 1
        return out * calls["number"]

    network[1].register_forward_hook(hook)
    return network


LINE = r" at .*brought\.py:\d+ in \w+"
REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "values": (two(by_values), LINE + r" \(.*\): it needs the values of a tensor.*torch\.fx\.wrap"),
    "an item": (two(by_item), LINE + r" \(.*\): it needs the values of a tensor"),
    "number of images": (two(by_number), LINE + r" \(.*\): it depends on the number of images in the batch"),
    "each image": (two(by_each_image), LINE + r" \(.*\): it depends on the number of images in the batch"),
    "random numbers": (two(randomly), LINE + ": Made draws random numbers"),
    "overwrites without gradient": (
        two(overwritten_without_gradient),
        LINE + ": it overwrites a tensor under torch.no_grad",
    ),
    "precision": (two(in_another_precision), r"changes the precision \(torch\.autocast\)"),
    "TorchScript": (scripted, r"2 \(RecursiveScriptModule\) is TorchScript"),
    "backward hook": (with_backward_hook, r"1 \(ReLU\) has backward hooks.*remove"),
    "gradient hook": (with_gradient_hook, r"the weight of 0 \(Conv2d\) has hooks on its gradient.*remove"),
    "hook with state": (with_counting_hook, r"a hook of 1 \(Sequential\) changes state of its own.*remove"),
    "list of modules": (Held, r"the Conv2d in blocks is not registered.*nn\.ModuleList"),
    "dictionary of parameters": (HeldParameter, r"parameter of shape \(1,\) is not registered.*nn\.ParameterList"),
    "written buffer": (lambda: Buffered("written"), r"writes to calls in evaluation mode"),
    "computed buffer": (lambda: Buffered("computed"), LINE + ": it overwrites calls, a tensor of the network"),
    "replaced buffer": (lambda: Buffered("replaced"), r"writes to calls in evaluation mode"),
    "part of a buffer": (lambda: Buffered("part"), LINE + ": it overwrites calls, a tensor of the network"),
    "odd batch-norm": (OddNorm, LINE + ": it calls batch_norm with statistics.*running_mean.*nn.BatchNorm2d"),
    "two inputs": (TwoInputs, r"takes 2 inputs \(x, y\)"),
}


def state_of(module: nn.Module) -> Any:
    """All that a module holds: its attributes by identity, its tensors by value, the modes, and the random state."""
    if isinstance(module, torch.jit.ScriptModule):
        return None
    kinds = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks")
    held = [
        {name: id(value) for name, value in vars(m).items()} | {kind: dict(vars(m)[kind]) for kind in kinds}
        for m in module.modules()
        if not isinstance(m, torch.jit.ScriptModule)
    ]
    values = {name: value.clone() for name, value in module.state_dict().items()}
    return held, values, torch.get_rng_state()


def assert_untouched(module: nn.Module, before: Any) -> None:
    if before is None:
        return
    held, values, state = state_of(module)
    assert held == before[0]
    assert all(torch.equal(value, before[1][name]) for name, value in values.items())
    assert torch.equal(state, before[2])
