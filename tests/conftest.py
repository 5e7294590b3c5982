"""For all tests: one torch thread (the machine is shared with other test processes)."""

import torch

torch.set_num_threads(1)
