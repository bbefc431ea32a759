# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "trl-dapo[math]",
#     "trl",
#     "transformers",
# ]
# ///

"""
DAPO that can be stopped at any time: the same command, given again, goes on from the last whole checkpoint.

On a GPU:

```
python examples/scripts/resume.py \
    --model_name_or_path Qwen/Qwen2.5-0.5B-Instruct \
    --dataset_name gsm8k \
    --output_dir Qwen2.5-0.5B-resumed \
    --max_completion_length 1024 \
    --save_steps 20 \
    --max_steps 800
```

On a CPU, with the built-in task: a run that is stopped inside a rollout, the same run resumed, and one without a stop.
The last two print the same digest of the weights, since a resumed run is the uninterrupted one, bit for bit:

```
python examples/scripts/resume.py --use_cpu --bf16 false --max_completion_length 40 --max_steps 12 \
    --output_dir arena-stopped --save_steps 3 --stop_after 7
python examples/scripts/resume.py --use_cpu --bf16 false --max_completion_length 40 --max_steps 12 \
    --output_dir arena-stopped --save_steps 3
python examples/scripts/resume.py --use_cpu --bf16 false --max_completion_length 40 --max_steps 12 \
    --output_dir arena-whole
```
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from transformers import TrainerCallback
from trl import ScriptArguments, TrlParser

from trl_dapo import DAPOConfig, DAPOTrainer
from trl_dapo.arena import arena_accuracy, load_warm_start, train_dataset
from trl_dapo.evaluation.scorers import math_verify
from trl_dapo.problems import load_problems


@dataclass
class StoppedArguments(ScriptArguments):
    """Arguments of the script, the model, and where to stop."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "Hub id or folder of the policy."})
    stop_after: int | None = field(default=None, metadata={"help": "Stop after so many steps, as if preempted."})


class StopAfter(TrainerCallback):
    """Stops a run in the middle; `max_steps` stays, and with it the learning-rate schedule."""

    def __init__(self, steps: int | None) -> None:
        self.steps = steps

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = control.should_training_stop or state.global_step == self.steps


def main(script_args: StoppedArguments, training_args: DAPOConfig) -> None:
    if script_args.model_name_or_path is None and script_args.dataset_name is None:
        (model, tokenizer), problems, scorer = load_warm_start(), train_dataset(2048), arena_accuracy
    else:
        model, tokenizer, scorer = script_args.model_name_or_path, None, math_verify
        split, answer_format = script_args.dataset_train_split, scorer.answer_format
        problems = load_problems(script_args.dataset_name, split=split, answer_format=answer_format)

    stop = [StopAfter(script_args.stop_after)]
    trainer = DAPOTrainer(model, scorer, training_args, problems, processing_class=tokenizer, callbacks=stop)
    trainer.train(resume_from_checkpoint=any(Path(training_args.output_dir).glob("checkpoint-*")))
    weights = b"".join(weight.detach().cpu().float().numpy().tobytes() for weight in trainer.model.parameters())
    print(f"step {trainer.state.global_step}, weights {hashlib.sha256(weights).hexdigest()[:16]}")


if __name__ == "__main__":
    main(*TrlParser((StoppedArguments, DAPOConfig)).parse_args_and_config())
