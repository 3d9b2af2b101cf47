"""Original networks by name: the private-inference literature's zoo, torchvision, or the user's own file."""

from deepreduce.models.build import build_model, default_input_size, resolve_spec
from deepreduce.models.spec import ModelSpec
from deepreduce.models.zoo import ZOO, ZooEntry

__all__ = ["ZOO", "ModelSpec", "ZooEntry", "build_model", "default_input_size", "resolve_spec"]
