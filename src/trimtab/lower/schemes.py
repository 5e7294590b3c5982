"""Int8, as every target has it: the schemes, and the operators that have an integer kernel everywhere."""

from trimtab.plan import PER_CHANNEL, PER_TENSOR, Scheme

ACTIVATION_INT8 = Scheme(grid="affine", bits=8, granularity=PER_TENSOR)
WEIGHT_INT8 = Scheme(grid="symmetric", bits=8, granularity=PER_CHANNEL)

INT8_KERNELS: dict[str, tuple[Scheme, ...]] = {
    "convolution": (WEIGHT_INT8, ACTIVATION_INT8),
    "linear": (WEIGHT_INT8, ACTIVATION_INT8),
    "add": (ACTIVATION_INT8,),
    "mean": (ACTIVATION_INT8,),
    "average_pool": (ACTIVATION_INT8,),
    "concatenation": (ACTIVATION_INT8,),
}
