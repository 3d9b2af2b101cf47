#!/usr/bin/env python3
"""Measure a ResNet-18 under secure computation: whole, with channel masks, and with whole sites (docs/private.md).

The network has random weights and batch-norms calibrated on training images: what a query costs does not depend on
the weights. The masks keep random channels, about a tenth of every site's; the third network keeps whole sites with
about as many ReLUs. Columns: protocol, network, ReLUs, seconds and bytes of the ReLU layers, seconds, MB and messages
of a query, predictions as PyTorch's, largest error of a logit, queries.

python scripts/bench_masks.py --data cifar100 [--width 64] [--protocols semi2k cheetah] [--images 100 10]
"""

import argparse

import torch
from torch import Tensor, nn

from deepreduce.cost.link import LINKS
from deepreduce.data import Preparation, load_source, prepare
from deepreduce.models import build_model, resolve_spec
from deepreduce.network import Network, trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.private import PrivateRun, measure
from deepreduce.sites import IDENTITY, ChannelMask, SiteAction
from deepreduce.transforms import apply_plan
from deepreduce.transforms.collapse.costs import collapse_cost

SHARE = 0.1


def calibrate(module: nn.Module, images: Tensor) -> None:
    """Give the module the batch-norm statistics of images (N, C, H, W)."""
    module.train()
    with torch.no_grad():
        for batch in images.split(64):
            module(batch)
    module.eval()


def masked(network: Network, *, seed: int) -> Network:
    """Keep random channels of every site, such that the network keeps about `SHARE` of its ReLUs."""
    draw = torch.Generator().manual_seed(seed)
    actions: list[tuple[str, SiteAction]] = []
    wanted = kept = 0.0
    for site in network.sites:
        wanted += SHARE * site.elements
        pixels = site.elements // site.shape[0]
        count = min(max(1, round((wanted - kept) / pixels)), site.shape[0])
        kept += count * pixels
        mask = torch.zeros(site.shape[0], dtype=torch.bool)
        mask[torch.randperm(len(mask), generator=draw)[:count]] = True
        actions.append((site.name, ChannelMask.of(mask)))
    return apply_plan(network, ReductionPlan(sites=tuple(actions)))


def whole_sites(network: Network) -> Network:
    """Keep the ReLUs of one site of each of the last three stages."""
    kept = [stage_sites[0].name for stage in network.stages[-3:] if (stage_sites := network.sites_of(stage))]
    names = [site.name for site in network.sites if site.name not in kept]
    return apply_plan(network, ReductionPlan(sites=tuple((name, IDENTITY) for name in names)))


def relu_phase(run: PrivateRun) -> tuple[float, int]:
    """Return the seconds and bytes of a query's ReLU layers."""
    layers = [layer for layer in run.layers if layer.kind == "relu"]
    return sum(layer.seconds.median for layer in layers), sum(layer.bytes for layer in layers)


def describe(protocol: str, label: str, run: PrivateRun) -> str:
    """Return a row of the table: medians over the queries."""
    relu_seconds, relu_bytes = relu_phase(run)
    agreement = run.agreement
    cells = [
        protocol, label, f"{run.relu_count:,}", f"{relu_seconds:.3f}", f"{relu_bytes:,}", f"{run.seconds.median:.2f}",
        f"{run.bytes / 1e6:.1f}", f"{run.messages}", f"{agreement.same_argmax} of {agreement.images}",
        f"{agreement.max_abs_error:.2g} of {agreement.max_abs_logit:.3g}", f"{run.seconds.count}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar100")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--protocols", nargs="+", default=["semi2k", "cheetah"])
    parser.add_argument(
        "--images", type=int, nargs="+", default=[100, 10], help="for the masked network, by protocol"
    )
    parser.add_argument("--queries", type=int, default=3, help="queries of the other networks")
    options = parser.parse_args()
    if len(options.images) != len(options.protocols):
        parser.error("give a number of --images for each of --protocols")
    data = prepare(load_source(options.data), Preparation(train_limit=2000, test_limit=200), seed=options.seed)
    train, _ = next(iter(data.train.eval_batches(batch_size=640, device=torch.device("cpu"))))
    test, _ = next(iter(data.test.eval_batches(batch_size=200, device=torch.device("cpu"))))
    spec = resolve_spec("resnet18", num_classes=data.num_classes, in_channels=3, width=options.width)
    module = build_model(spec, seed=options.seed)
    calibrate(module, train)
    full = trace_network(module, data.image_shape, spec=spec)
    networks = {"full": full, "channel masks": masked(full, seed=options.seed), "whole sites": whole_sites(full)}
    for network in networks.values():
        calibrate(network.module, train)
    for protocol, images in zip(options.protocols, options.images, strict=True):
        cost = collapse_cost(protocol, LINKS["loopback"])
        for label, network in networks.items():
            chosen = test[: images if label == "channel masks" else options.queries]
            print(describe(protocol, label, measure(network, chosen, protocol=protocol, cost=cost)), flush=True)


if __name__ == "__main__":
    main()
