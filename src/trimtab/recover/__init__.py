"""Recovery: one training loop for fine-tuning, quantization-aware training and distillation."""

from trimtab.recover.batchnorm import reestimate_batchnorm as reestimate_batchnorm
from trimtab.recover.delivery import Recovered as Recovered
from trimtab.recover.distill import distillation_loss as distillation_loss
from trimtab.recover.loop import DivergedError as DivergedError
from trimtab.recover.loop import recover as recover
from trimtab.recover.reconstruct import repair as repair
from trimtab.recover.settings import Imitation as Imitation
from trimtab.recover.settings import Settings as Settings
from trimtab.recover.settle import settle as settle
