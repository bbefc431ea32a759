"""One process of a run with an evaluation callback; writes what it logged. Started by the test."""

import json
import sys
from pathlib import Path

from tiny import parity_reward, plain_dataset, tiny_args
from training import build
from trl_dapo import EvaluationCallback, GRPOConfig, GRPOTrainer


HELD_OUT = plain_dataset(5).remove_columns("answer")


def main(folder: Path) -> None:
    judged = []

    def counted(completions, **columns):
        judged.extend(completions)
        return parity_reward(completions=completions, **columns)

    args = tiny_args(folder, cls=GRPOConfig, max_steps=1, num_generations=2, report_to="none")
    trainer = build(GRPOTrainer, args, reward_funcs=parity_reward, train_dataset=plain_dataset(32))
    fields = {"k": 2, "every": 1, "batch_size": 4, "max_new_tokens": 5}
    callback = EvaluationCallback(trainer, {"held": HELD_OUT}, counted, **fields)
    callback.evaluate()
    found = {"judged": len(judged)}
    trainer.add_callback(callback)
    trainer.train()
    found["logs"] = [log for log in trainer.state.log_history if "eval_held_avg@2" in log]

    def broken(completions, prompts, **columns):
        if any(prompt.startswith("4") for prompt in prompts):
            raise ZeroDivisionError("oh")
        return [0.0] * len(completions)

    try:
        EvaluationCallback(trainer, {"held": HELD_OUT}, broken, **fields).evaluate()
    except ValueError as error:
        found["failure"] = str(error)
    rank = trainer.accelerator.process_index
    (folder / f"rank-{rank}.json").write_text(json.dumps(found))
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
