"""One process of a run with an evaluation callback; writes what it logged. Started by the test."""

import json
import sys
from pathlib import Path

from evaluations import LastNumber, SeededSampler, questions
from tiny import parity_reward, plain_dataset, tiny_args
from training import build
from trl_dapo import EvaluationCallback, GRPOConfig, GRPOTrainer
from trl_dapo.cli.main import main as command
from trl_dapo.evaluation.judging import ScorerError
from trl_dapo.evaluation.processes import Processes
from trl_dapo.evaluation.results import ResultsFolder
from trl_dapo.evaluation.runner import evaluate
from trl_dapo.evaluation.settings import Protocol


PROTOCOL = Protocol(k=2, batch_size=2, max_new_tokens=16)
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
    rank, count = trainer.accelerator.process_index, trainer.accelerator.num_processes
    found["runner"] = runner_failure(folder / "broken", Processes(rank, count))
    (folder / f"rank-{rank}.json").write_text(json.dumps(found))
    trainer.accelerator.wait_for_everyone()
    # Leaves the process group at its end
    words = ["--k", "3", "--size", "10", "--batch_size", "6", "--output_dir", str(folder / "arena")]
    assert command(["eval", *words]) == 0


def runner_failure(folder: Path, processes: Processes) -> str:
    """What an evaluation says whose scorer fails on the second of three batches."""
    results = ResultsFolder(folder, {}, writes=processes.is_first)
    try:
        evaluate(SeededSampler(), [questions(3, scorer=Fails())], PROTOCOL, results, processes=processes)
    except ScorerError as error:
        return str(error)
    finally:
        results.close()
    return ""


class Fails(LastNumber):
    """Fails on the second question."""

    def judge(self, completions, solutions, **columns):
        if "1" in solutions:
            raise ZeroDivisionError("oh")
        return super().judge(completions, solutions, **columns)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
