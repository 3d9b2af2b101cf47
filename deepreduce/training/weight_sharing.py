"""Networks that share weights, so that a training step of one of them trains all."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class SharedWeights(nn.Module):
    """Networks of one architecture whose convolutions and linear layers share weights.

    Each network keeps its own batch-norms, since with other ReLUs the same weights give activations of another scale
    (as in slimmable networks, arXiv 1812.08928), and its own classifier, the last linear layer. All other weights of
    the same name and shape become one tensor, the first network's. `members` are the networks; call one of them, not
    this module.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        linear = [f"{name}.weight" for name, m in members[0].named_modules() if isinstance(m, nn.Linear)]
        shared = {
            name: parameter
            for name, parameter in members[0].named_parameters(
                remove_duplicate=False
            )  # with the names of tied weights
            if parameter.dim() > 1 and name not in linear[-1:]
        }
        for member in members[1:]:
            for name, parameter in list(member.named_parameters(remove_duplicate=False)):
                first = shared.get(name)
                if first is not None and first.shape == parameter.shape:
                    owner, _, leaf = name.rpartition(".")
                    setattr(member.get_submodule(owner), leaf, first)

    def forward(self, images: Tensor) -> Tensor:
        """Raise `NotImplementedError`: a training step calls one of `members`."""
        raise NotImplementedError("SharedWeights holds networks and is none; call one of its members")
