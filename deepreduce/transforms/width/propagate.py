"""Follow the channels of a network through its graph, to find which can be cut out.

One run without data follows every channel: each tensor has a tensor of labels of the same shape, with a label for
each channel that a convolution or linear layer outputs. Operations that move values (views, concatenation, chunks,
...) are executed on the labels, so that their effect on channels is exact. Where two labels meet (an addition, a
shared layer, a batch-norm), their channels can only be removed together. The image, the outputs and operations that
are not understood pin their channels, with the reason.

Three rules follow published practice: of a grouped convolution the same positions are removed in every group, so that
it keeps its groups; a depthwise convolution loses groups; and a channel shuffle passes labels on unchanged, because
no choice of channels survives ShuffleNet's repeated shuffles in halves (so weights after a shuffle are inherited by
position).

torch-pruning's dependency graph is not used: version 1.6.1 fails on torchvision's ShuffleNets and Swins, takes chunks
in the order in which autograd visits them, and guesses along which dimension a view or concatenation works. For the
networks that it can follow, the tests compare these sets to its groups.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode

from deepreduce.network.meta_run import execute, module_tensors, run_without_data, tensors_in
from deepreduce.network.network import Network
from deepreduce.network.operations import Role, name_of, operations_of
from deepreduce.transforms.width.channel_sets import FIXED, FREE, OUTPUT, ChannelBook, Channels, PinnedChannels

_MOVING = operations_of(Role.MOVE, Role.PART, Role.SPLIT)
"""Operations that move values without changing them; they are executed on the labels."""

_CUTTING = operations_of(Role.PART, Role.SPLIT)
"""Operations that return parts of the input, each of which must be scaled on its own."""

_SHUFFLES = operations_of(Role.SHUFFLE)
_SAME = operations_of(Role.SAME) | _SHUFFLES
_POSITIONS = operations_of(Role.POSITIONS)
_REDUCING = operations_of(Role.REDUCTION)
_NORMS = operations_of(Role.BATCH_NORM)

_known: WeakKeyDictionary[Network, Channels] = WeakKeyDictionary()


def channels_of(network: Network) -> Channels:
    """Return the sets of a network's channels that can be removed, and the channels that must stay.

    They are found by running one image without data, and cached for as long as the network lives.
    """
    known = _known.get(network)
    if known is None:
        run = run_without_data(network.module, network.input_shape, name=network.name, interpreter=_LabelInterpreter)
        assert isinstance(run, _LabelInterpreter)
        known = _known[network] = run.book.channels(run.reshaped)
    return known


class _LabelInterpreter(fx.Interpreter):
    """An interpreter that labels every tensor, and records the labels at nodes whose arguments may contain sizes."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module, garbage_collect_values=False)
        self.book = ChannelBook()
        self.labelling = _LabellingMode(self.book, {id(t): name for name, t in module_tensors(graph_module)})
        self.reshaped: dict[str, tuple[Tensor, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.labelling.where = str(n.target) if n.op == "call_module" else n.name
        taken = [self.env[source] for source in n.all_input_nodes]
        with self.labelling:
            result = super().run_node(n)
        if n.op in ("call_function", "call_method"):
            values = taken[:1] if n.target is operator.getitem else result
            tensors = values if isinstance(values, (tuple, list)) else [values]
            if tensors and all(isinstance(t, Tensor) for t in tensors):
                self.reshaped[n.name] = tuple(self.labelling.labels_of(t).clone() for t in tensors if _names_sizes(n))
        if n.op == "output":
            for tensor in tensors_in(result):
                self.book.pin(self.labelling.labels_of(tensor), OUTPUT)
        return result


_SIZED = {"view", "reshape", "expand", "split", "getitem", "layer_norm", "flatten", "unflatten"}


def _names_sizes(node: fx.Node) -> bool:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name in _SIZED


class _LabellingMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode that gives every tensor its labels, operation by operation."""

    def __init__(self, book: ChannelBook, names: Mapping[int, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.book, self.names = book, names
        self.where = ""  # the layer or call that is running
        self._labels: dict[int, Tensor] = {}
        self._transposed: dict[int, str] = {}  # views of weight matrices
        self._unshuffled: dict[int, Tensor] = {}  # labels before a view that may begin a channel shuffle
        self._alive: list[Tensor] = []  # keeps tensors alive, so that an id belongs to one tensor only

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = execute(func, args, kwargs or {})
        self._follow(name_of(func), func, args, kwargs or {}, out)
        return out

    # -- labels of a tensor ---------------------------------------------------------------------------------

    def labels_of(self, tensor: Tensor) -> Tensor:
        """Return a tensor's labels, in its shape; those of constants are FIXED, those of single numbers FREE."""
        known = self._labels.get(id(tensor))
        if known is not None:
            return known
        wide = [d for d, size in enumerate(tensor.shape) if size > 1]
        name = self.names.get(id(tensor))
        if name is not None and len(wide) == 1:  # a parameter with one value per channel
            dim = wide[0]
            if (name, dim) not in self.book.tensors:
                self.book.tensors[name, dim] = self.book.new_labels(tensor.shape[dim], name)
            shape = [tensor.shape[dim] if d == dim else 1 for d in range(tensor.dim())]
            return self.book.tensors[name, dim].view(shape)
        return torch.full((1,) * tensor.dim(), FIXED if wide else FREE).expand(tensor.shape)

    def _is_matrix(self, tensor: Any) -> bool:
        return isinstance(tensor, Tensor) and id(tensor) in self.names and sum(n > 1 for n in tensor.shape) > 1

    def _set(self, out: Any, labels: Any) -> None:
        if isinstance(out, Tensor):
            self._alive.append(out)
            self._labels[id(out)] = labels
        elif isinstance(out, (tuple, list)):
            for o, part in zip(out, labels, strict=True):
                self._set(o, part)

    def _channels(self, tensor: Tensor, dim: int) -> Tensor:
        """Return the label (channels,) of each index of `dim`; join labels that share an index."""
        labels = self.labels_of(tensor).movedim(dim, 0)
        first = labels.flatten(1)[:, 0] if labels.dim() > 1 else labels
        if labels.dim() > 1:
            for axis in range(1, labels.dim()):
                if labels.stride(axis) == 0 and labels.shape[axis] > 1:
                    labels = labels.narrow(axis, 0, 1)
            rest = labels.flatten(1)
            self.book.join(first[:, None].expand(rest.shape), rest)
        return first

    # -- operations -----------------------------------------------------------------------------------------

    def _follow(self, base: str, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        if base in ("convolution", "_convolution"):
            self._convolution(args, out)
        elif base in ("linear", "addmm", "mm"):
            self._linear(base, args, out)
        elif base in ("t", "transpose", "permute", "detach") and self._is_matrix(args[0]):
            self._alive.append(out)
            self._transposed[id(out)] = self.names[id(args[0])] if base != "detach" and out.dim() == 2 else ""
        elif base in _NORMS or base in ("native_layer_norm", "native_group_norm"):
            self._norm(base, args, out)
        elif base in _SAME:
            self._set(out, self.labels_of(args[0]))
            self._pass_on_shuffle(args[0], out)
            if base in _SHUFFLES:
                self.book.shuffle(self.labels_of(args[0]))
        elif base in _POSITIONS or (base == "constant_pad_nd" and args[0].shape[:2] == out.shape[:2]):
            self._spatial(args[0], out)
        elif base in _REDUCING and isinstance(out, Tensor) and out.shape != args[0].shape:
            self._reduction(args, out)
        elif base in _MOVING:
            self._move(base, func, args, kwargs, out)
        else:
            self._element_wise(base, args, kwargs, out)

    def _convolution(self, args: tuple[Any, ...], out: Tensor) -> None:
        image, weight, bias, transposed, groups = args[0], args[1], args[2], bool(args[6]), int(args[8])
        if id(weight) not in self.names or (transposed and groups > 1):
            reason = "its weight is computed" if id(weight) not in self.names else "it is grouped and transposed"
            self.book.opaque.append(PinnedChannels(name=self.where, count=out.shape[1], reason=reason))
            return self._pin_all(args, out, f"they meet a convolution that can't be followed: {reason}")
        name = self.names[id(weight)]
        taken = self._channels(image, 1)
        made_dim, taken_dim = (1, 0) if transposed else (0, 1)
        count = out.shape[1]
        made = self.book.output_labels(name, made_dim, count)
        if groups == 1:
            self.book.bind(name, taken_dim, taken)
        elif weight.shape[1] == 1:  # depthwise: an input channel and its output channels belong together
            self.book.join(taken.repeat_interleave(count // groups), made)
            self.book.bind(name, 1, torch.tensor([FREE]))
        else:
            # the same positions of every group belong together
            for labels in (taken.view(groups, -1), made.view(groups, -1)):
                self.book.join(labels[:1].expand(labels.shape), labels)
            self.book.bind(name, 1, taken.view(groups, -1)[0])
        if isinstance(bias, Tensor):
            self._bind_vector(bias, made)
        self._set(out, made.view(1, -1, *(1,) * (out.dim() - 2)).expand(out.shape))

    def _linear(self, base: str, args: tuple[Any, ...], out: Tensor) -> None:
        if base == "linear":
            x, weight, bias = args[0], args[1], args[2] if len(args) > 2 else None
            name = self.names.get(id(weight), "")
        else:
            bias, x, weight = args[:3] if base == "addmm" else (None, *args[:2])
            name = self._transposed.get(id(weight), "")
        if not name:
            return self._pin_all(args, out, "two tensors are multiplied")
        self.book.bind(name, 1, self._channels(x, -1))
        made = self.book.output_labels(name, 0, out.shape[-1])
        if isinstance(bias, Tensor):
            self._bind_vector(bias, made)
        self._set(out, made.expand(out.shape))

    def _bind_vector(self, vector: Tensor, labels: Tensor) -> None:
        name = self.names.get(id(vector))
        if name is not None and vector.dim() == 1:
            self.book.bind(name, 0, labels)
        elif vector.numel() == labels.numel():
            self.book.join(self.labels_of(vector).reshape(-1), labels)

    def _norm(self, base: str, args: tuple[Any, ...], out: Any) -> None:
        x = args[0]
        if base == "native_layer_norm":
            if len(args[1]) != 1:
                return self._pin_all(args, out, "a layer-norm spans several dimensions")
            channels, vectors = self._channels(x, -1), args[2:4]
        else:
            channels = self._channels(x, 1)
            vectors = args[1:3] if base == "native_group_norm" else args[1:5]
        if base == "native_group_norm" and int(args[6]) < len(channels):  # else each channel is its own group
            grouped = channels.view(int(args[6]), -1)
            self.book.join(grouped[:1].expand(grouped.shape), grouped)
        for vector in vectors:
            if isinstance(vector, Tensor) and vector.numel():
                self._bind_vector(vector, channels)
        first = out[0] if isinstance(out, (tuple, list)) else out
        self._set(first, self.labels_of(x))

    def _spatial(self, x: Tensor, out: Any) -> None:
        channels = self._channels(x, 1) if x.dim() > 3 or x.shape[0] == 1 else None
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if channels is None or tensor.shape[1] != x.shape[1]:
                return self._pin_all((x,), out, "an unusual shape is pooled")
            self._set(tensor, channels.view(1, -1, *(1,) * (tensor.dim() - 2)).expand(tensor.shape))

    def _reduction(self, args: tuple[Any, ...], out: Tensor) -> None:
        x = args[0]
        dims = next((a for a in args[1:] if isinstance(a, (list, tuple))), None)
        if dims is None and len(args) > 1 and isinstance(args[1], int) and not isinstance(args[1], bool):
            dims = [args[1]]
        dims = sorted({d % x.dim() for d in (dims or range(x.dim()))})
        labels = self.labels_of(x)
        for dim in dims:
            first = labels.narrow(dim, 0, 1)
            if _varies(labels, dim):
                if any(_varies(first, d) for d in range(x.dim())):
                    self.book.join(first.expand(labels.shape), labels)
                else:
                    first = torch.full_like(first, FREE)  # a sum over channels works for any number of channels
            labels = first
        self._set(out, labels.reshape(out.shape) if labels.numel() == out.numel() else labels.expand(out.shape))

    def _move(self, base: str, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        def to_labels(value: Any) -> Any:
            if isinstance(value, Tensor):
                return self.labels_of(value)
            if isinstance(value, (tuple, list)):
                return type(value)(to_labels(v) for v in value)
            return value

        moved = [to_labels(value) for value in args]
        if base in ("view", "_unsafe_view", "_reshape_alias", "reshape"):
            labels: Any = self._view(args[0], moved[0], out)
        elif base == "expand":
            labels = moved[0].expand(out.shape)
        elif base == "constant_pad_nd":
            labels = func(moved[0], args[1], FIXED)
        else:
            labels = func(*moved, **kwargs)
        self._set(out, labels)
        if base in _CUTTING:
            for part in labels if isinstance(labels, (tuple, list)) else [labels]:
                self.book.segment(part)
        if base in ("permute", "transpose"):
            self._pass_on_shuffle(args[0], out)

    def _view(self, source: Tensor, labels: Tensor, out: Tensor) -> Tensor:
        seen = labels.reshape(out.shape)
        if id(source) in self._unshuffled and self._unshuffled[id(source)].shape == out.shape:
            self.book.shuffle(seen)
            return self._unshuffled[id(source)]
        varying = [d for d in range(out.dim()) if _varies(seen, d)]
        if out.dim() > source.dim() and len(varying) > 1:
            self._alive.append(out)
            self._unshuffled[id(out)] = labels
            for part in seen.unbind(varying[0]):  # each row of a grid of channels must keep the same number
                self.book.segment(part)
        return seen

    def _pass_on_shuffle(self, source: Tensor, out: Tensor) -> None:
        if id(source) in self._unshuffled:
            self._alive.append(out)
            self._unshuffled[id(out)] = self._unshuffled[id(source)]

    def _element_wise(self, base: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        taken = tensors_in([*args, *kwargs.values()])
        made = tensors_in(out)
        if not made:
            return
        if not taken:
            return  # a constant, which `labels_of` labels when it is read
        shape = made[0].shape
        fits = all(t.shape == shape for t in made) and not any(self._is_matrix(t) for t in taken)
        try:
            fits = fits and np.broadcast_shapes(*(tuple(t.shape) for t in taken)) == tuple(shape)
        except ValueError:
            fits = False
        if not fits or base in ("bmm", "matmul"):
            return self._pin_all(tuple(taken), out, f"{base} can't be followed")
        labels = self._join_broadcast([self.labels_of(t) for t in taken], shape)
        for tensor in made:
            self._set(tensor, labels)

    def _join_broadcast(self, operands: Sequence[Tensor], shape: torch.Size) -> Tensor:
        """Join the labels of an element-wise operation's operands, broadcast to `shape`, and return the result's."""
        operands = [labels.view((1,) * (len(shape) - labels.dim()) + labels.shape) for labels in operands]
        full = [labels for labels in operands if labels.shape == shape]
        result = full[0] if full else operands[0].expand(shape)
        for labels in operands:
            spread = [d for d in range(len(shape)) if labels.shape[d] == 1 and shape[d] > 1]
            if any(_varies(result, d) for d in spread):
                if not full and bool((labels > FIXED).any()):
                    self.book.pin(labels, "two tensors are broadcast against each other")
                continue  # a value that all channels share constrains none
            wide = labels.expand(shape)
            self.book.join(result, wide)
            if bool((result == FREE).any()):
                result = torch.where(result == FREE, wide, result)
        return result

    def _pin_all(self, args: tuple[Any, ...], out: Any, reason: str) -> None:
        for tensor in tensors_in(list(args)):
            if id(tensor) in self._transposed or self._is_matrix(tensor):
                name = self._transposed.get(id(tensor)) or self.names.get(id(tensor), "")
                for dim in range(tensor.dim()):
                    if (name, dim) in self.book.tensors:
                        self.book.pin(self.book.tensors[name, dim], reason)
            else:
                self.book.pin(self.labels_of(tensor), reason)
        for tensor in tensors_in(out):
            self._set(tensor, torch.full((1,) * tensor.dim(), FIXED).expand(tensor.shape))


def _varies(labels: Tensor, dim: int) -> bool:
    if labels.shape[dim] == 1 or labels.stride(dim) == 0:
        return False
    return bool((labels != labels.narrow(dim, 0, 1)).any())
