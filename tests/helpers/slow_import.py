"""A child process for tests that loads for a long time, holding Python's lock as the loading of a library does."""

import ctypes
import os

print(os.getpid(), flush=True)
ctypes.PyDLL(None).sleep(60)
