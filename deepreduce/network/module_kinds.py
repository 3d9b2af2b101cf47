"""What a module is, decided by what it does and never by the name of its class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.optim.swa_utils import AveragedModel

_TORCH = ("torch.nn.", "torch.ao.nn.")

_HARMLESS = {
    "__init__", "__module__", "__doc__", "__qualname__", "__annotations__", "__dict__", "__weakref__",
    "__parameters__", "__static_attributes__", "__firstlineno__", "__constants__", "__repr__", "__orig_bases__",
    "extra_repr", "reset_parameters", "reset_running_stats", "_load_from_state_dict",
    "_save_to_state_dict", "_version",
}  # fmt: skip
"""What a subclass may define of its own and still compute what its base does."""

_STATE = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked", "training"}


def is_torch_class(cls: type) -> bool:
    """Return True for a class that torch itself defines as a layer."""
    return f"{cls.__module__}.".startswith(_TORCH)


def torch_class_of(layer: nn.Module) -> type[nn.Module] | None:
    """Return the class of torch.nn whose computation is exactly that of the layer; None if there is none.

    It is the layer's own class, or the one that it inherits from without overriding anything that computes.
    """
    classes = type(layer).__mro__
    place = next((i for i, cls in enumerate(classes) if is_torch_class(cls) and cls is not nn.Module), None)
    if place is None or "forward" in vars(layer) or "_conv_forward" in vars(layer) or is_parametrized(layer):
        return None
    base = classes[place]
    if place and isinstance(layer, nn.Sequential):
        return None
    known = set(dir(base)) | set(vars(layer)) | layer._parameters.keys() | layer._buffers.keys() | _STATE
    for cls in classes[:place]:
        if (known & vars(cls).keys()) - _HARMLESS:
            return None
    return base


def is_layer_of_torch(layer: nn.Module) -> bool:
    """Return True for a layer of torch.nn that a graph can call whole: no container, and not changed by its user."""
    if isinstance(layer, (nn.Sequential, nn.ModuleList, nn.ModuleDict)) or wrapped_module(layer) is not None:
        return False
    if torch_class_of(layer) is not None:
        return True
    return is_torch_class(type(layer)) and "forward" not in vars(layer) and type(layer) is not nn.Module


def wrapped_module(module: nn.Module) -> nn.Module | None:
    """Return the module that a wrapper calls in its own place; None for a module that is no wrapper.

    Wrappers are DataParallel, DistributedDataParallel, AveragedModel and the module that torch.compile returns.
    """
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)):
        return module.module
    return getattr(module, "_orig_mod", None) if type(module).__module__.startswith("torch._dynamo") else None


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the innermost module in wrappers without hooks of their own; the module itself if it is no wrapper."""
    inner = wrapped_module(module)
    return module if inner is None or has_hooks(module) else unwrapped(inner)


def has_hooks(module: nn.Module) -> bool:
    """Return True if the module has forward hooks, which may compute anything."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def has_own_hooks(module: nn.Module) -> bool:
    """Return True if the module has forward hooks that are not torch's own (those of pruning, weight norm, ...)."""
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    return any(not _module_name(hook).startswith("torch.") for hook in hooks)


def _module_name(hook: Any) -> str:
    hook = getattr(hook, "__self__", hook)
    return str(getattr(hook, "__module__", None) or type(hook).__module__)


def has_tensors(module: nn.Module) -> bool:
    """Return True if the module or one in it has a parameter or a buffer."""
    return any(True for _ in module.parameters()) or any(True for _ in module.buffers())


def returns_its_input(module: nn.Module, probe: Tensor | None = None) -> bool:
    """Return True for a module without state that returns its input in evaluation mode, as stochastic layers do.

    `probe` is an input on the meta device; default: images (2, 8, 8, 8).
    """
    if any(True for _ in module.children()) or has_tensors(module) or has_hooks(module):
        return False
    probe = torch.empty(2, 8, 8, 8, device="meta") if probe is None else probe
    mode, module.training = module.training, False
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            version = probe._version
            return module.forward(probe) is probe and probe._version == version  # neither replaced nor overwritten
    except Exception:  # a module of any user; one that can't take the probe is not known to return it
        return False
    finally:
        module.training = mode
