"""The base of channel and pixel masks: bits, a digest of them, and the layers that they make."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepreduce.cost.layers import Layer
from deepreduce.errors import PlanError
from deepreduce.network.network import ReluSite
from deepreduce.network.site_layer import SiteLayer
from deepreduce.sites.base import Annealing, SiteAction, Units, select_of
from deepreduce.sites.identity import IDENTITY
from deepreduce.sites.keep import KEEP
from deepreduce.sites.layers import Fading, MaskedRelu

Booleans = Tensor | NDArray[np.bool_] | Sequence[Any]

AnyMask = TypeVar("AnyMask", bound="Mask")


@dataclass(frozen=True, kw_only=True)
class Mask(SiteAction):
    """Keep the ReLU of some channels or pixels of a site; the others become the identity.

    Make one by `of`. `kept` is how many are true, `digest` a hash of shape and bits, by which masks are equal.
    The bits are part of the value in memory; a plan read from JSON alone knows the digest only.
    """

    ranks: ClassVar[tuple[int, ...]]
    """Ranks of the sites that it fits, without the batch dimension."""

    kept: int
    digest: str
    shape: tuple[int, ...] | None = field(default=None, compare=False, repr=False)
    bits: bytes | None = field(default=None, compare=False, repr=False)

    # -- a value of a plan ----------------------------------------------------------------------------------------

    @classmethod
    def of(cls: type[AnyMask], mask: Booleans) -> AnyMask:
        """Return the mask of booleans, true where the ReLU is kept. Raises `PlanError` for anything else."""
        array = np.asarray(mask.detach().cpu() if isinstance(mask, Tensor) else mask)
        if array.dtype != np.bool_:
            raise PlanError(f"a {cls.kind} of {array.dtype} is given; give booleans, such as scores > 0.5")
        array = cls._checked(array)
        shape, bits = tuple(array.shape), np.packbits(array).tobytes()
        digest = hashlib.sha256(repr(shape).encode() + bits).hexdigest()[:32]
        return cls(kept=int(array.sum()), digest=digest, shape=shape, bits=bits)

    @classmethod
    @abstractmethod
    def _checked(cls, array: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the array in the mask's own shape. Raises `PlanError` for one of another rank."""

    def to_json(self) -> dict[str, Any]:
        """Return kind, number of kept units and digest."""
        return {"kind": self.kind, "kept": self.kept, "digest": self.digest}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], tensor: Tensor | None) -> Mask:
        """Return the mask; without its `tensor` it is known by its digest alone."""
        kept, digest = value.get("kept"), value.get("digest")
        if set(value) != {"kept", "digest"} or not isinstance(digest, str) or type(kept) is not int:
            raise PlanError(f"{dict(value)!r} does not describe a {cls.kind}; it has kind, kept and digest")
        described = cls(kept=kept, digest=digest)
        if tensor is None:
            return described
        found = cls.of(tensor)
        if found != described:
            raise PlanError(f"the mask is {found!r}, and not {described!r}, which the plan names")
        return found

    def tensor(self) -> Tensor:
        """Return the booleans (C,) or (C, H, W). Raises `PlanError` where the mask is known by its digest alone."""
        return torch.from_numpy(self._array())

    @property
    def is_complete(self) -> bool:
        """Return whether the bits are known, and not their digest alone."""
        return self.bits is not None

    def _array(self) -> NDArray[np.bool_]:
        if self.bits is None or self.shape is None:
            raise PlanError(
                f"{self!r} is known by its digest alone; take the plan of the run's result (deepreduce.load_result),"
                " which reads masks.safetensors as well"
            )
        size = int(np.prod(self.shape))
        bits = np.unpackbits(np.frombuffer(self.bits, np.uint8), count=size)
        return bits.astype(np.bool_).reshape(self.shape)

    def units(self) -> Units:
        """Return which elements keep their ReLU, of a shape that broadcasts to (C, H, W)."""
        array = self._array()
        return array.reshape(*array.shape, *(1,) * (3 - array.ndim))

    # -- at a site ------------------------------------------------------------------------------------------------

    def normalised(self, site: ReluSite) -> SiteAction:
        """Return keep for a mask that keeps everything, identity for one that keeps nothing."""
        array = self._array()
        if not site.has_batch or len(site.shape) not in self.ranks:
            raise PlanError(self._unfit(site))
        if site.shape[: array.ndim] != array.shape:
            raise PlanError(
                f"site {site.name!r} is of shape {site.shape} where alpha, rho and depth are done, its {self.kind} of"
                f" {array.shape}; give one of {site.shape[: array.ndim]}"
            )
        return KEEP if array.all() else IDENTITY if not array.any() else self

    def _unfit(self, site: ReluSite) -> str:
        wanted = " or ".join({1: "(C,)", 3: "(C, H, W)"}[rank] for rank in sorted(self.ranks, reverse=True))
        found = f"{site.shape}" if site.has_batch else f"{site.shape} without a batch dimension"
        hint = "; a channel mask fits" if site.has_batch and site.shape[1:] == () else ""
        return f"site {site.name!r}: a {self.kind} is for outputs {wanted} of one image; this one's is {found}{hint}"

    def layer(self, site: ReluSite, *, inplace: bool) -> SiteLayer:
        """Return the masked ReLU."""
        mask = select_of(self, site)
        assert mask is not None
        return MaskedRelu(self, site, mask, inplace=inplace)

    def layers(self, relu: Layer) -> Sequence[Layer]:
        """Return the ReLU with the number of elements that are kept, which alone are compared.

        The lowering (`deepreduce.private.lowering`) makes the kept channels of a channel mask slices, which cost
        nothing. A pixel mask's elements are moved one by one, there and back.
        """
        kept = self.kept_of(relu.out_shape)
        return (replace(relu, kept=kept, moved=self.moved_of(relu.out_shape)),)

    def moved_of(self, shape: tuple[int, ...]) -> int:
        """Return how many elements of an output of that shape are moved one by one, so that the kept are in a row."""
        return 0

    def relu_count(self, site: ReluSite) -> int:
        """Return the elements that are kept."""
        return self.kept_of(site.shape)

    @abstractmethod
    def kept_of(self, shape: tuple[int, ...]) -> int:
        """Return how many elements of an output of that shape, without the batch dimension, are kept."""

    def annealed(self, site: ReluSite, *, before: SiteAction, copies: bool) -> Annealing | None:
        """Return a layer in which the slope for negative inputs rises from 0 to 1 where the mask is false."""
        return Fading(kept=select_of(self, site), before=select_of(before, site), cap=site.cap, copies=copies)
