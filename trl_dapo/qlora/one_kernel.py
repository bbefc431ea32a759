"""
One kernel for 4-bit weights on a CPU, in training and in evaluation.

On processors with AVX512-BF16, bitsandbytes lays 4-bit weights out anew at the first pass in eval mode without
gradients, and multiplies them in bfloat16 from then on. What it multiplies so has no gradient: after an evaluation
inside a run, gradients of all layers below would be lost, without an error.
"""

from accelerate.logging import get_logger
from torch import nn


logger = get_logger(__name__)

# Whether a layer of bitsandbytes may change its layout, and whether its quantization state says that it has
MAY_CHANGE = "support_avx512bf16_for_cpu"
HAS_CHANGED = "packing_format_for_cpu"


def keep_one_kernel(model: nn.Module) -> None:
    """
    Keeps 4-bit layers in the layout that can be trained through, in eval mode too; other layers are left as they are.

    Args:
        model (`nn.Module`):
            Model that is to be trained.
    """
    changed = False
    for module in model.modules():
        if not hasattr(module, MAY_CHANGE):
            continue
        setattr(module, MAY_CHANGE, False)
        if getattr(getattr(module.weight, "quant_state", None), HAS_CHANGED, False):
            changed = True
            module.state_dict()  # it is in the layout of training that weights are saved
    if changed:
        logger.warning(
            "The model was used in eval mode on this processor before, and its 4-bit weights had another layout. They "
            "are back in that of training; their scales were rounded anew. Load the model again for the exact ones."
        )
