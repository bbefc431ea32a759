"""Everything a trainer test needs, built in code: no hub, float32, CPU, fractions of a second.

Plain functions, not pytest fixtures, so that a benchmark or a script under `accelerate launch` can use them too.
Nothing here knows `trl_dapo`. Every object depends only on its arguments, and building one leaves the global random
state alone, so two trainers built from the same calls start equal, bit for bit.
"""

import json
import re
import string
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset, Features, IterableDataset, List
from datasets import Image as ImageFeature
from peft import LoraConfig
from PIL import Image
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
)
from trl import GRPOConfig, GRPOTrainer


# ---------------------------------------------------------------------------------------------------------- tokenizers

SPECIAL_TOKENS = ["<|pad|>", "<|unk|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>", "<image>"]
# As in Qwen's tokenizers, these are single ids but not special: `skip_special_tokens=True` keeps them.
TOOL_TOKENS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"]
CHARACTERS = [*string.printable[:95], "\n"]  # letters, digits, punctuation, space

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tiny_tokenizer(chat: bool = True) -> PreTrainedTokenizerFast:
    """
    A character-level fast tokenizer of 108 ids whose decoding inverts its encoding on printable ASCII.

    Args:
        chat (`bool`, *optional*, defaults to `True`):
            Whether it carries a ChatML chat template of text-only turns (see [`tiny_tool_tokenizer`] for tools).
    """
    vocabulary = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *TOOL_TOKENS, *CHARACTERS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unk|>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in TOOL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<|pad|>",
        unk_token="<|unk|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", "<|image_pad|>", "<image>"],
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE if chat else None,
    )


# --------------------------------------------------------------------------------------------------- model and config


def tiny_model(
    tokenizer: PreTrainedTokenizerBase, seed: int = 0, layers: int = 1, hidden: int = 16, tied: bool = False
) -> LlamaForCausalLM:
    """A random float32 Llama over `tokenizer`'s ids; equal arguments give equal weights."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=4096,  # a tool schema is about a thousand characters, and a character is a token
        tie_word_embeddings=tied,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).to(torch.float32)
    model.config._name_or_path = "tiny-llama"
    model.name_or_path = "tiny-llama"
    return model


def save_tiny_model(directory: str | Path, tokenizer: PreTrainedTokenizerBase, **kwargs: Any) -> str:
    """
    Write [`tiny_model`] and `tokenizer` to `directory` and return it, for trainers that want a model id.

    A full fine-tune with `beta > 0` needs one: TRL loads its reference model from the id, not from the object.
    """
    tiny_model(tokenizer, **kwargs).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


def tiny_lora(**overrides: Any) -> LoraConfig:
    """A LoRA config of rank 4 on the attention of [`tiny_model`]."""
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    return LoraConfig(**{**settings, **overrides})


def snapshot(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of every parameter by name."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def tiny_args(output_dir: str | Path, cls: type[GRPOConfig] = GRPOConfig, **overrides: Any) -> GRPOConfig:
    """
    A config for CPU tests: 2 prompts of 4 generations a step, 8 tokens, 3 steps, constant learning rate.

    Args:
        output_dir (`str` or `Path`):
            Where the trainer may write; pass `tmp_path`.
        cls (`type`, *optional*, defaults to [`~trl.GRPOConfig`]):
            The config class. It may be `transformers.TrainingArguments` itself too: fields that it lacks are left out.
        **overrides:
            Any field of `cls`; unknown names raise.
    """
    common = {
        "output_dir": str(output_dir),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "max_steps": 3,
        "learning_rate": 5e-3,
        "lr_scheduler_type": "constant",
        "seed": 0,
    }
    grpo = {"num_generations": 4, "max_completion_length": 8}
    known = cls.__dataclass_fields__
    return cls(**{**common, **{name: value for name, value in grpo.items() if name in known}, **overrides})


# ------------------------------------------------------------------------------------------------------------ datasets


def _questions(n: int) -> list[str]:
    return [f"{i}+{i + 1}=" for i in range(n)]


def plain_dataset(n: int = 8) -> Dataset:
    """`n` rows of different text prompts (`prompt`) and the sum they ask for as a string (`answer`)."""
    return Dataset.from_dict({"prompt": _questions(n), "answer": [str(2 * i + 1) for i in range(n)]})


def conversational_dataset(n: int = 8) -> Dataset:
    """[`plain_dataset`] with each prompt as one user message."""
    prompts = [[{"role": "user", "content": question}] for question in _questions(n)]
    return Dataset.from_dict({"prompt": prompts, "answer": [str(2 * i + 1) for i in range(n)]})


def iterable_dataset(n: int = 8, conversational: bool = False) -> IterableDataset:
    """The same rows as a stream; the trainer needs `max_steps`."""
    return (conversational_dataset(n) if conversational else plain_dataset(n)).to_iterable_dataset()


# ------------------------------------------------------------------------------------------------------------- rewards
# Functions of the completion ids, hence of the row alone: the same rows score the same in any order and any batch.


def parity_reward(completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
    """1.0 where the sum of the ids is odd, else 0.0: about half of the rows of a random model."""
    return [float(sum(ids) % 2) for ids in completion_ids]


def share_reward(completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
    """The share of ids below 60 (digits and most letters, for [`tiny_tokenizer`]): nearly all groups vary."""
    return [sum(i < 60 for i in ids) / max(len(ids), 1) for ids in completion_ids]


def constant_reward(completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
    """1.0 for every row: every group is degenerate."""
    return [1.0] * len(completion_ids)


def rare_reward(completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
    """1.0 where the sum of the ids is divisible by 8: with 4 generations, about 3 groups in 5 are degenerate."""
    return [float(sum(ids) % 8 == 0) for ids in completion_ids]


def sometimes_none_reward(completion_ids: list[list[int]], **kwargs: Any) -> list[float | None]:
    """[`parity_reward`], but None (not applicable) where the sum of the ids is divisible by 3."""
    return [None if sum(ids) % 3 == 0 else float(sum(ids) % 2) for ids in completion_ids]


def none_reward(completion_ids: list[list[int]], **kwargs: Any) -> list[float | None]:
    """None for every row."""
    return [None] * len(completion_ids)


async def async_share_reward(completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
    """[`share_reward`] as a coroutine."""
    return share_reward(completion_ids)


def answer_reward(completion_ids: list[list[int]], answer: list[str], **kwargs: Any) -> list[float]:
    """The parity of `sum(ids) + id of the prompt`, read off the `answer` column: wrong if rows and columns slip."""
    return [float((sum(ids) + int(a) // 2) % 2) for ids, a in zip(completion_ids, answer, strict=True)]


def recording_reward() -> Callable[..., list[float]]:
    """0.0 for every row; its attribute `calls` lists the arguments of every call (`prompts`, `completions`, ...)."""

    def recording(**kwargs: Any) -> list[float]:
        recording.calls.append(kwargs)
        return [0.0] * len(kwargs["prompts"])

    recording.calls = []
    return recording


def logging_reward(
    completion_ids: list[list[int]],
    log_extra: Callable[[str, list], None],
    log_metric: Callable[[str, float], None],
    **kwargs: Any,
) -> list[float]:
    """[`parity_reward`] that also logs each row's `id_sum` to the completions table and their mean as a metric."""
    sums = [sum(ids) for ids in completion_ids]
    log_extra("id_sum", sums)
    log_metric("id_sum_mean", sum(sums) / len(sums))
    return [float(s % 2) for s in sums]


# ------------------------------------------------------------------------------------------------------------ rollouts


def prompt_text(prompt: str | list[dict[str, Any]]) -> str:
    """The text of a prompt, plain or conversational (its last message)."""
    if isinstance(prompt, str):
        return prompt
    content = prompt[-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def scripted_ids(text: str, row: int, max_length: int, eos: int, vocab_size: int) -> list[int]:
    """
    Completion ids as a function of the prompt's text and the row's index in its group.

    The sum of the ids is odd in odd rows and even in even rows. Every third row fills `max_length` and has no EOS; the
    others end with EOS and are shorter.
    """
    first = len(SPECIAL_TOKENS) + len(TOOL_TOKENS)  # characters only
    draw = zlib.crc32(f"{text}#{row}".encode())
    truncated = row % 3 == 2
    length = max_length if truncated else 2 + draw % (max_length - 2)
    ids = [first + (draw + 7 * k * (k + row)) % (vocab_size - first - 1) for k in range(length)]
    if not truncated:
        ids[-1] = eos
    ids[0] += (sum(ids) + row) % 2
    return ids


def scripted_rollout(
    rewardable: Callable[[str], bool] | None = None, env_mask: bool = False
) -> Callable[[list, Any], dict[str, list]]:
    """
    A `rollout_func` without a model: ids are [`scripted_ids`], so [`parity_reward`] is the parity of the row.

    Args:
        rewardable (`Callable[[str], bool]`, *optional*):
            Of a prompt's text: whether its group's rows differ. Where it says no, all rows of the group are row 0, so
            that the group is degenerate under any reward of the ids. By default every prompt is rewardable.
        env_mask (`bool`, *optional*, defaults to `False`):
            Whether to return an `env_mask` that marks each row's second token as the environment's.

    Returns:
        `Callable`: it returns `prompt_ids`, `completion_ids`, `logprobs`, and per row the extra field `rollout_tag`,
        `"<prompt text>#<row index>"`, which reward functions and `_calculate_rewards`' inputs see as a column. Its
        attribute `calls` lists the prompts' texts of every call.
    """

    def rollout(prompts: list, trainer: Any) -> dict[str, list]:
        tokenizer = trainer.processing_class
        generations = trainer.num_generations if trainer.model.training else trainer.num_generations_eval
        start = trainer.accelerator.process_index * len(prompts)
        texts = [prompt_text(prompt) for prompt in prompts]
        rollout.calls.append(texts)
        rows = [(start + i) % generations for i in range(len(prompts))]
        completion_ids = [
            scripted_ids(
                text,
                row if rewardable is None or rewardable(text) else 0,
                trainer.max_completion_length,
                tokenizer.eos_token_id,
                len(tokenizer),
            )
            for text, row in zip(texts, rows, strict=True)
        ]
        output = {
            "prompt_ids": [_prompt_ids(tokenizer, prompt) for prompt in prompts],
            "completion_ids": completion_ids,
            "logprobs": [[-1.0 - 0.01 * (i % 10) for i in ids] for ids in completion_ids],
            "rollout_tag": [f"{text}#{row}" for text, row in zip(texts, rows, strict=True)],
        }
        if env_mask:
            output["env_mask"] = [[int(k != 1) for k in range(len(ids))] for ids in completion_ids]
        return output

    rollout.calls = []
    return rollout


def _prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str | list[dict[str, Any]]) -> list[int]:
    if isinstance(prompt, str):
        return tokenizer(prompt)["input_ids"]
    return tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=True, return_dict=False)


# --------------------------------------------------------------------------------------------------------------- tools


def tiny_tool_tokenizer() -> PreTrainedTokenizerFast:
    """[`tiny_tokenizer`] with the Qwen3-2507 template that TRL ships and whose tool calls it can parse."""
    tokenizer = tiny_tokenizer()
    template = Path(trl.__file__).parent / "chat_templates" / "qwen3_instruct_2507.jinja"
    tokenizer.chat_template = template.read_text(encoding="utf-8")
    return tokenizer


def multiply(a: int, b: int) -> int:
    """
    Multiplies two integers.

    Args:
        a: The first factor.
        b: The second factor.

    Returns:
        The product.
    """
    return a * b


async def async_multiply(a: int, b: int) -> int:
    """
    Multiplies two integers.

    Args:
        a: The first factor.
        b: The second factor.

    Returns:
        The product.
    """
    return a * b


def tool_call(name: str, **arguments: Any) -> str:
    """The assistant text that [`tiny_tool_tokenizer`]'s response template parses as a call of `name`."""
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def tool_turns(call: Callable[[int, int], str | None]) -> Callable[[str, int], str]:
    """
    A script for [`script_generation`]: some rows call a tool once and repeat what it returned, others answer at once.

    Args:
        call (`Callable[[int, int], str | None]`):
            Of the first number in the question and the row's index in its group: a [`tool_call`], or `None` to answer
            `"direct <row>"`.
    """

    def turns(context: str, row: int) -> str:
        # Qwen renders a tool's result as a user turn of its own.
        response = re.search(r"<tool_response>\n(.*?)\n</tool_response>", context.split("<|im_start|>user")[-1], re.S)
        if response:
            return f"got {response.group(1)}"
        question = re.search(r"<\|im_start\|>user\n\D*(\d+)", context)
        return call(int(question.group(1)) if question else 0, row) or f"direct {row}"

    return turns


def multiply_turns(tool: str = "multiply") -> Callable[[str, int], str]:
    """[`tool_turns`] whose even rows multiply the question's first number by 2 + row, and whose odd rows answer."""
    return tool_turns(lambda number, row: tool_call(tool, a=number, b=2 + row) if row % 2 == 0 else None)


def script_generation(trainer: GRPOTrainer, turns: Callable[[str, int], str]) -> list[list[str]]:
    """
    Replace `trainer`'s model in generation by a script, in every turn of a tool loop.

    Args:
        trainer ([`~trl.GRPOTrainer`]):
            Its `_generate_single_turn` is replaced. A row never exceeds `max_completion_length`; a cut row has no EOS.
        turns (`Callable[[str, int], str]`):
            Of the text so far (the rendered prompt and, after a tool call, the turns since) and the row's index in its
            group: the assistant's text, without EOS. After a tool call TRL asks for the subset of rows that made one,
            so the index means nothing there and a row has to be read off its text.

    Returns:
        `list[list[str]]`: the texts of every call so far, in order; it grows as `trainer` generates.
    """
    contexts: list[list[str]] = []
    tokenizer = trainer.processing_class

    # TRL before 1.14 does not pass `num_generations`.
    def generate(prompt_ids, images, multimodal_fields, num_generations=None, has_tool_images=False):
        group = num_generations or trainer.num_generations
        texts = [tokenizer.decode(ids) for ids in prompt_ids]
        contexts.append(texts)
        answers = [turns(text, i % group) for i, text in enumerate(texts)]
        ids = [tokenizer(answer)["input_ids"] + [tokenizer.eos_token_id] for answer in answers]
        return [row[: trainer.max_completion_length] for row in ids], None

    trainer._generate_single_turn = generate
    return contexts


def used_tool_reward(completions: list[list[dict[str, Any]]], **kwargs: Any) -> list[float]:
    """1.0 where the completion has a tool's message in it, else 0.0."""
    return [float(any(message["role"] == "tool" for message in completion)) for completion in completions]


# -------------------------------------------------------------------------------------------------------- environments


class CountingEnvironment:
    """
    An environment with a running total and one tool, [`~CountingEnvironment.add`]; it counts its own resets.

    Args:
        observe (`str` or `None`, *optional*, defaults to `"row"`):
            What `reset` returns: `"row"` a text with the row's `answer`, equal within a group; `"resets"` a text with
            the number of resets so far, which shows resets that nobody asked for; `None` nothing.

    Attributes:
        resets (`int`): number of calls of `reset`.
        rows (`list[dict]`): the arguments of each.
        amounts (`list[int]`): what was added since the last one.
    """

    def __init__(self, observe: str | None = "row") -> None:
        self._observe = observe
        self.resets = 0
        self.rows: list[dict[str, Any]] = []
        self.amounts: list[int] = []

    def reset(self, **kwargs: Any) -> str | None:
        self.resets += 1
        self.rows.append(kwargs)
        self.amounts = []
        if self._observe is None:
            return None
        return f" [{kwargs.get('answer')}]" if self._observe == "row" else f" [reset {self.resets}]"

    def add(self, amount: int) -> int:
        """
        Adds an amount to the total.

        Args:
            amount: The amount to add.

        Returns:
            The total so far.
        """
        self.amounts.append(amount)
        return sum(self.amounts)


class RewardingEnvironment(CountingEnvironment):
    """[`CountingEnvironment`] that owns its reward: its total."""

    def get_reward(self) -> float:
        return float(sum(self.amounts))


class AsyncRewardingEnvironment(CountingEnvironment):
    """[`RewardingEnvironment`] with a coroutine."""

    async def get_reward(self) -> float:
        return float(sum(self.amounts))


def environment_factory(cls: type = CountingEnvironment, **kwargs: Any) -> Callable[[], Any]:
    """A factory of `cls(**kwargs)` that keeps every environment it made in its attribute `instances`."""

    def make() -> Any:
        make.instances.append(cls(**kwargs))
        return make.instances[-1]

    make.instances = []
    return make


def environment_dataset(n: int = 8, names: tuple[str, ...] = ("counting", "rewarding")) -> Dataset:
    """[`conversational_dataset`] with a column `environment` that goes round `names`."""
    return conversational_dataset(n).add_column("environment", [names[i % len(names)] for i in range(n)])


def add_turns() -> Callable[[str, int], str]:
    """[`tool_turns`] whose even rows add 1 + the question's first number, once, and whose odd rows answer."""
    return tool_turns(lambda number, row: tool_call("add", amount=1 + number) if row % 2 == 0 else None)


def total_reward(environments: list[CountingEnvironment], **kwargs: Any) -> list[float]:
    """Each row's total, read off its environment."""
    return [float(sum(environment.amounts)) for environment in environments]


# -------------------------------------------------------------------------------------------------------------- images

IMAGE_SIZE = 16
PATCH_SIZE = 8


def _vlm_chat_template(image_token: str) -> str:
    # A line break follows each image: Qwen2-VL counts adjacent image tokens as one image.
    return (
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\n' }}"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
        "{{ '" + image_token + "\n' if part['type'] == 'image' else part['text'] }}"
        "{% endfor %}{% endif %}{{ '<|im_end|>\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )


class TinyLlavaProcessor(LlavaProcessor):
    """A [`~transformers.LlavaProcessor`] that takes `None` for a row without images, which is what TRL hands it."""

    def __call__(self, images=None, text=None, **kwargs):
        return super().__call__(images=_without_none(images), text=text, **kwargs)


class TinyQwenProcessor(Qwen2VLProcessor):
    """
    A [`~transformers.Qwen2VLProcessor`] without a video processor, which would need torchvision, and with `None` for a
    row without images.
    """

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
        self.image_token = "<|image_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        # Past the parent, which hands a video processor on.
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    def __call__(self, images=None, text=None, **kwargs):
        return super().__call__(images=_without_none(images), text=text, **kwargs)


def _without_none(images: Any) -> Any:
    return [[] if row is None else row for row in images] if isinstance(images, list) else images


def tiny_vlm(kind: str = "llava", seed: int = 0) -> tuple[PreTrainedModel, ProcessorMixin]:
    """
    A random float32 vision-language model and its processor, without torchvision.

    A micro-batch needs at least one image, or the vision tower raises; that is the host's limit.

    Args:
        kind (`str`, *optional*, defaults to `"llava"`):
            How images become `pixel_values`: `"llava"` one row per image, told apart by `num_images` alone; `"qwen"`
            (Qwen2-VL) one row per patch, as many as the picture is large, told apart by `image_grid_thw` too.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the weights.
    """
    tokenizer = tiny_tokenizer(chat=False)
    config, processor = {"llava": _llava, "qwen": _qwen}[kind](tokenizer)
    model_class = {"llava": LlavaForConditionalGeneration, "qwen": Qwen2VLForConditionalGeneration}[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config).to(torch.float32)
    # A random model would sample image tokens now and then, for which there is no image. TRL 1.16 suppresses them
    # itself, TRL 1.12 does not.
    model.generation_config.suppress_tokens = tokenizer.convert_tokens_to_ids(["<image>", "<|image_pad|>"])
    model.config._name_or_path = f"tiny-{kind}"
    model.name_or_path = f"tiny-{kind}"
    return model, processor


def _llava(tokenizer: PreTrainedTokenizerBase) -> tuple[LlavaConfig, TinyLlavaProcessor]:
    # Imported here because the oldest transformers that the package allows has no such module.
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = TinyLlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
        ),
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # CLIP's class token, which the "default" strategy drops again
        chat_template=_vlm_chat_template("<image>"),
    )
    vision_config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=16,
    )
    config = LlavaConfig(
        vision_config=vision_config,
        text_config=tiny_model(tokenizer).config,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(IMAGE_SIZE // PATCH_SIZE) ** 2,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return config, processor


def _qwen(tokenizer: PreTrainedTokenizerBase) -> tuple[Qwen2VLConfig, TinyQwenProcessor]:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    patch = PATCH_SIZE // 2  # four patches are merged into one token
    processor = TinyQwenProcessor(
        image_processor=Qwen2VLImageProcessorPil(
            patch_size=patch, merge_size=2, size={"shortest_edge": PATCH_SIZE**2, "longest_edge": 64**2}
        ),
        tokenizer=tokenizer,
        chat_template=_vlm_chat_template("<|image_pad|>"),
    )
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
    text_config = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
        **ids,
    }
    vision_config = {
        "depth": 1,
        "embed_dim": 16,
        "hidden_size": 16,
        "num_heads": 2,
        "mlp_ratio": 2,
        "patch_size": patch,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    # The vocabulary has no video and no frame tokens: their ids lie outside it.
    outside = range(len(tokenizer), len(tokenizer) + 3)
    absent = dict(zip(["video_token_id", "vision_start_token_id", "vision_end_token_id"], outside, strict=True))
    image_token_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    config = Qwen2VLConfig(
        text_config=text_config,
        vision_config=vision_config,
        image_token_id=image_token_id,
        tie_word_embeddings=False,
        **absent,
        **ids,
    )
    return config, processor


def tiny_image(i: int) -> Image.Image:
    """The `i`-th of 256 plain grey pictures; every second one is half as wide again."""
    return Image.new("RGB", (IMAGE_SIZE + (i % 2) * IMAGE_SIZE // 2, IMAGE_SIZE), (37 * i % 256,) * 3)


def image_dataset(n: int = 8, counts: tuple[int, ...] | None = (1, 2)) -> Dataset:
    """
    Conversational rows with pictures and an `answer`.

    Args:
        n (`int`, *optional*, defaults to `8`):
            Number of rows.
        counts (`tuple[int, ...]` or `None`, *optional*, defaults to `(1, 2)`):
            Numbers of pictures, gone round: row `i` has `counts[i % len(counts)]` in its column `images`. A count may
            be 0. `None` gives every row one picture in a column `image`.
    """
    dataset = conversational_dataset(n)
    if counts is None:
        column, feature, images = "image", ImageFeature(), [tiny_image(i) for i in range(n)]
    else:
        column, feature = "images", List(ImageFeature())
        images = [[tiny_image(10 * i + j) for j in range(counts[i % len(counts)])] for i in range(n)]
    return Dataset.from_dict(
        {**dataset.to_dict(), column: images}, features=Features({**dataset.features, column: feature})
    )
