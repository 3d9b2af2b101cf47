"""Two threads for every test: the networks are tiny, and other tests run beside them."""

import torch

torch.set_num_threads(2)
