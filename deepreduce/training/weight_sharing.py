"""Networks that share their weights, so that a step for one of them is a step for all."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class SharedWeights(nn.Module):
    """Networks of one architecture whose convolutions and linear layers share weights.

    Batch-norms stay each network's own, since with other ReLUs the same weights give activations of another scale (as
    in slimmable networks, arXiv 1812.08928), and so does the last linear layer, the classifier. Weights of the same
    name are one tensor afterwards, the first network's. Each of `members` is the network it was, and is called as
    such; the family itself answers nothing.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        linear = [f"{name}.weight" for name, m in members[0].named_modules() if isinstance(m, nn.Linear)]
        shared = {
            name: parameter
            for name, parameter in members[0].named_parameters(remove_duplicate=False)  # a network may tie some
            if parameter.dim() > 1 and name not in linear[-1:]
        }
        for member in members[1:]:
            for name, parameter in list(member.named_parameters(remove_duplicate=False)):
                first = shared.get(name)
                if first is not None and first.shape == parameter.shape:
                    owner, _, leaf = name.rpartition(".")
                    setattr(member.get_submodule(owner), leaf, first)

    def forward(self, images: Tensor) -> Tensor:
        """Nothing: a step calls one of `members`."""
        raise NotImplementedError("call one of the family's members")
