"""
One run with vLLM, whose figures it returns or, as a program, prints: `python tests/engine_worker.py JSON`.

vLLM's sleep mode takes one engine a process, so that on a card each run has a process of its own.
"""

import importlib
import json
import sys
from pathlib import Path

from peft import LoraConfig

from test_on_device import Place, base_bytes, prompts
from tiny import tiny_args
from training import record_rollouts
from trl_dapo import DAPOConfig, DAPOTrainer, EvaluationCallback
from trl_dapo.rollouts.sync_check import SyncError


def digits(completions, **given):
    """The share of digits: most groups vary."""
    texts = [one[0]["content"] if isinstance(one, list) else one for one in completions]
    return [sum(letter.isdigit() for letter in text) / max(len(text), 1) for text in texts]


def even_length(completion_ids, **given):
    """1 where the number of tokens and the last one add up to a multiple of 4: some groups are degenerate."""
    return [float((len(ids) + ids[-1]) % 4 == 0) for ids in completion_ids]


def run(place: Place, folder, evaluates=False, refills=False, applied=True, **fields) -> dict:
    """Trains 3 steps on a 4-bit base; returns figures of the run, or the message that stopped it."""
    settings = place.settings(
        use_vllm=True,
        vllm_mode="colocate",
        vllm_gpu_memory_utilization=0.25,
        vllm_max_model_length=256,
        max_completion_length=place.tokens,
        updates_per_rollout=1,
        overlong_filtering=False,
        learning_rate=1e-3,
        warmup_steps=0,
        max_refill_rounds=3 if refills else 0,
        **fields,
    )
    # Random from the start, so that the base is another model
    lora = {"r": 8, "lora_alpha": 1, "target_modules": "all-linear", "init_lora_weights": False}
    trainer = DAPOTrainer(
        place.model,
        even_length if refills else digits,
        tiny_args(folder, cls=DAPOConfig, **settings),
        prompts(),
        peft_config=LoraConfig(task_type="CAUSAL_LM", **lora),
        **place.four_bit(),
    )
    if evaluates:
        held = {"held": prompts(4).remove_columns("solution")}
        trainer.add_callback(EvaluationCallback(trainer, held, digits, k=2, every=1, max_new_tokens=place.tokens))
    if not applied:
        _leave_adapter_out(trainer.vllm_generation.llm.llm)
    before, rollouts = base_bytes(trainer.model), record_rollouts(trainer)
    try:
        trainer.train()
    except SyncError as error:
        return {"stopped": str(error)}
    logs = trainer.state.log_history
    names = ("rollout/sync_difference", "rollout/mismatch_k3", "rollout/effective_sample_size", "dapo/refill_rounds")
    apart = [one["old_per_token_logps"] - one["sampling_per_token_logps"] for one in rollouts]
    apart = [
        (difference * one["completion_mask"]).abs().max().item()
        for difference, one in zip(apart, rollouts, strict=True)
    ]
    return {
        **{name: [log[name] for log in logs if name in log] for name in names},
        "evaluations": sum("eval_held_avg@2" in log for log in logs),
        "token_difference": max(apart),
        "base_is_kept": base_bytes(trainer.model) == before,
    }


def _leave_adapter_out(llm) -> None:
    host = llm.generate

    def generate(*args, **given):
        given.pop("lora_request", None)
        return host(*args, **given)

    llm.generate = generate


if __name__ == "__main__":
    importlib.import_module("vllm")
    given = json.loads(sys.argv[1])
    place = Place(given.pop("device"), given.pop("model"), given.pop("tokens"))
    out = Path(given.pop("out"))
    out.write_text(json.dumps(run(place, **given)))
