"""
One kernel for 4-bit weights on a CPU, in training and in evaluation.

On processors with AVX512-BF16, bitsandbytes lays 4-bit weights out anew at the first pass in eval mode without
gradients, and multiplies them in bfloat16 from then on. What it multiplies so has no gradient: after an evaluation
inside a run, gradients of all layers below would be lost, without an error.
"""

from torch import nn


# Whether a layer of bitsandbytes may change its layout, and whether its quantization state says that it has
MAY_CHANGE = "support_avx512bf16_for_cpu"
HAS_CHANGED = "packing_format_for_cpu"


def check_layout(model: nn.Module) -> None:
    """Raises `ValueError` where a 4-bit layer has the layout of inference already, from which no way back is exact."""
    if any(getattr(getattr(one, "quant_state", None), HAS_CHANGED, False) for one in model.parameters()):
        raise ValueError(
            "The 4-bit model was used in eval mode before, and on this processor bitsandbytes has laid out its "
            "weights for inference, through which no gradient passes. Load it again for training; to measure it "
            "first, give it to the trainer and evaluate there."
        )


def keep_one_kernel(model: nn.Module) -> None:
    """Keeps 4-bit layers in the layout that can be trained through, in eval mode too."""
    for module in model.modules():
        if hasattr(module, MAY_CHANGE):
            setattr(module, MAY_CHANGE, False)
