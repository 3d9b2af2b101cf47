"""One thread for every test: the networks are tiny, and threads that wait for each other cost more than they do."""

import signal

import hypothesis
import torch

torch.set_num_threads(1)

# how long an example takes says more about the machine's other load than about the code
hypothesis.settings.register_profile("deepreduce", deadline=None)
hypothesis.settings.load_profile("deepreduce")

# background jobs of a shell ignore Ctrl-C, and so would the programs that tests start and interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)
