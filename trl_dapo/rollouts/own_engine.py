"""
TRL's vLLM generation with an engine that gets the adapter, or dense weights, and is checked after each sync.

It takes the place of TRL's class while TRL's constructor runs. Where the engine is to get merged weights, it does what
TRL's does.
"""

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from accelerate.utils import DistributedType
from trl.generation import vllm_generation
from trl.trainer import grpo_trainer

from ..host.engine_seams import EngineSeams
from ..host.swapped import swapped
from .adapter_engine import AdapterSync
from .dense_engine import DenseSync
from .engine import Engine
from .engine_settings import EngineSettings
from .sync_check import SyncCheck


WAYS = {"adapter": AdapterSync, "dense": DenseSync}


class OwnGeneration(EngineSeams):
    """
    [`~trl.generation.vllm_generation.VLLMGeneration`] whose engine can get the adapter alone, or dense weights.

    Args:
        settings ([`EngineSettings`]):
            What the engine holds and gets.
        **kwargs:
            The host's arguments.
    """

    def __init__(self, *, settings: EngineSettings, **kwargs: Any) -> None:
        self.settings = settings
        self.way: AdapterSync | DenseSync | None = None
        self._unread_differences: list[float] = []
        self._held: tuple[float, ...] | None = None  # version of the adapter that the engine has
        super().__init__(**kwargs)

    def take_differences(self) -> list[float]:
        """Returns the differences that were found since the last call, in nats per token."""
        taken, self._unread_differences = self._unread_differences, []
        return taken

    # The host's methods

    def while_engine_is_made(self) -> AbstractContextManager[Any]:
        sync = self.settings.sync_of(self.model)
        if sync == "merged":
            return super().while_engine_is_made()
        kind = self.accelerator.distributed_type
        if kind in (DistributedType.FSDP, DistributedType.DEEPSPEED):
            raise ValueError(f"vllm_sync={sync!r} with {kind}: no process has the whole adapter. Use DDP or one GPU.")
        self.way = WAYS[sync](self.model, self.settings, self.trust_remote_code)
        tokenizer: Any = getattr(self.processing_class, "tokenizer", self.processing_class)
        limits = self.settings.limits_of(self.model)
        self.sync_check = SyncCheck(self.model, tokenizer, limits, sync, self.accelerator.autocast)
        host = vars(vllm_generation).get("LLM")  # absent where vLLM is, which the host says
        return swapped(vllm_generation, LLM=partial(self._engine, host))

    def _engine(self, host: Any, **kwargs: Any) -> Engine:
        way: Any = self.way
        given = {**kwargs, **way.engine_arguments()}
        return Engine(host(**given), way.sleep_level)

    def own_weights(self) -> Any:
        return self.way.weights() if isinstance(self.way, DenseSync) else None

    def sync_weights(self) -> None:
        if self.way is None:
            return super().sync_weights()
        with torch.no_grad():
            if isinstance(self.way, DenseSync):
                super().sync_weights()
            else:
                self._sync_adapter(self.way)
        self._held = self.way.version()
        self.llm.unchecked = self._check_sync

    def generate(self, *args: Any, **kwargs: Any) -> tuple:
        if self.way is not None:
            self._hold_policy(self.way)
        return super().generate(*args, **kwargs)

    def _hold_policy(self, way: AdapterSync | DenseSync) -> None:
        """Sends the policy again if it has changed since, as when the best model is loaded at the end of a run."""
        if way.version() != self._held:
            self.sync_weights()
        elif isinstance(way, AdapterSync):
            # Level 1 has kept base and adapter. The host takes them for lost, and would send the adapter each time
            self.wake_weights()

    def _sync_adapter(self, way: AdapterSync) -> None:
        self.wake_weights()
        self.llm.lora_request = way.load(self.llm.llm_engine)
        # Keys and values of prompts are those of the adapter before
        self.llm.reset_prefix_cache()

    def _check_sync(self) -> None:
        found = self.sync_check.difference(self.llm.llm, self.llm.lora_request)
        self._unread_differences.append(found)


@contextmanager
def own_engine(settings: EngineSettings) -> Generator[None]:
    """Has TRL's trainers make an [`OwnGeneration`] while it is entered."""
    with _swapped_class(settings):
        yield


def _swapped_class(settings: EngineSettings) -> AbstractContextManager[None]:
    return swapped(grpo_trainer, VLLMGeneration=partial(OwnGeneration, settings=settings))
