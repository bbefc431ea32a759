"""
What of a run is set aside to look at it on this machine, by one process, without leaving anything behind.

The batch keeps its updates per rollout; only its size follows from one process.
"""

import importlib.util
from dataclasses import dataclass, field
from typing import Any

import torch


# What would write, report, or go on from somewhere
SILENT: dict[str, Any] = {
    "report_to": "none",
    "push_to_hub": False,
    "save_strategy": "no",
    "eval_strategy": "no",
    "eval_on_start": False,
    "load_best_model_at_end": False,
    "resume_from_checkpoint": None,
    "disable_tqdm": True,
    "precompute_ref_log_probs": False,
    "dataloader_num_workers": 0,
}
# Ways to compute faster, which change no number that is looked at
FAST: dict[str, Any] = {
    "deepspeed": None,
    "fsdp": None,
    "use_vllm": False,
    "vllm_sync": None,
    "vllm_base": None,
    "torch_compile": False,
    "activation_offloading": False,
}
WITHOUT_GPU: dict[str, Any] = {"tf32": None, "fp16": False, "use_liger_kernel": False, "cache_implementation": None}
FLASH = "flash"
QUANTIZED = ("load_in_4bit", "load_in_8bit")


@dataclass
class ThisMachine:
    """
    Changes the values of a run, by field.

    Args:
        output_dir (`str`):
            A folder that is thrown away.
        planned (`Any`):
            The config as the run's processes will have it.
        processes (`int`):
            How many there will be.
        has_gpu (`bool`, *optional*):
            Whether this machine has an accelerator.
        notes (`list[str]`, *optional*):
            One line for each value that was set aside.
    """

    output_dir: str
    planned: Any
    processes: int
    has_gpu: bool = field(default_factory=lambda: torch.accelerator.is_available())
    notes: list[str] = field(default_factory=list)

    def __call__(self, values: dict[str, Any]) -> None:
        """Writes into `values` what works here."""
        values["output_dir"] = self.output_dir
        for name in SILENT.keys() & values.keys():
            values[name] = SILENT[name]
        self._set_aside(values, FAST, "it changes the speed of a run and is not looked at")
        if not self.has_gpu or values.get("use_cpu"):
            values["use_cpu"] = True
            values["dataloader_pin_memory"] = False
            self._set_aside(values, WITHOUT_GPU, "there is no GPU here")
            if FLASH in str(values.get("attn_implementation")):
                self._set_aside(values, {"attn_implementation": None}, "there is no GPU here")
        if importlib.util.find_spec("bitsandbytes") is None:
            self._set_aside(values, dict.fromkeys(QUANTIZED, False), "bitsandbytes is not installed here")
        if "num_generations" in values:
            self._one_process(values)

    def _set_aside(self, values: dict[str, Any], here: dict[str, Any], why: str) -> None:
        for name in here:
            if name in values and values[name] not in (here[name], None, False, "", [], {}):
                self.notes.append(f"{name}={values[name]} was set aside: {why}")
                values[name] = here[name]

    def _one_process(self, values: dict[str, Any]) -> None:
        steps = self.planned.steps_per_generation
        rows = values["per_device_train_batch_size"] * steps
        if rows % self.planned.num_generations:
            values["per_device_train_batch_size"] *= self.processes
        values["generation_batch_size"], values["steps_per_generation"] = None, steps
        if "updates_per_rollout" in values:
            values["updates_per_rollout"] = None
