"""A plan of memory by sums that can be done in the head, in place of the traced one."""

from trl_dapo.planning.memory_plan import Item, MemoryPlan, Phase
from trl_dapo.planning.run_shape import RunShape


MIB = 2**20


def plan(shape: RunShape) -> MemoryPlan:
    """1000 MiB of weights (250 in 4 bits), 1 MiB per 64 tokens of cache, 1 MiB per 16 tokens of an update (a quarter
    with checkpointing), 400 MiB of optimizer (100 in 8 bits; 4 for an adapter)."""
    weights = Item("weights", (250 if shape.quantization else 1000) * MIB, "traced")
    state = 4 if shape.lora is not None else 100 if "8bit" in shape.optimizer else 400
    optimizer = Item("optimizer", state * MIB, "modelled")
    row = shape.prompt_length + shape.completion_length
    share = 4 if shape.gradient_checkpointing else 1
    phases = [
        Phase("load", (weights,)),
        Phase(
            "update",
            (weights, optimizer, Item("activations", shape.microbatch_rows * row * MIB // 16 // share, "traced")),
        ),
    ]
    if shape.chunk_rows:
        phases.insert(1, Phase("generate", (weights, Item("KV cache", shape.chunk_rows * row * MIB // 64, "traced"))))
    return MemoryPlan(tuple(phases), fragmentation=0.0, modelled=("optimizer: two moments per weight",))
