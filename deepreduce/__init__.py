"""Fewer ReLUs for private inference: from a network to its ReLU/accuracy frontier.

import deepreduce

print(deepreduce.analyze("resnet18").to_text())
result = deepreduce.optimize("resnet18", "digits", out="runs/digits")
small = result.best(max_relus=10_000).model     # an ordinary nn.Module
"""

import lazy_loader

# Names load when they are first used: the command line answers --help without importing torch, and can choose how
# its threads wait before torch reads that from the environment.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
