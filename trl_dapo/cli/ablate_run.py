"""
The script of one run of `trl-dapo ablate`: a run of `trl-dapo dapo` that is measured at its budgets.

Its folder has `config.yaml`, which is given to it, and `run.json`, which says what it may spend and how it is
measured. It goes on from a checkpoint of its own if there is one, and writes `result.json` at its end.
"""

import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PrinterCallback

from trl_dapo.ablation.environment import environment
from trl_dapo.ablation.manipulation import means
from trl_dapo.ablation.measurement import Measurement
from trl_dapo.ablation.recorder import Recorder
from trl_dapo.ablation.results import RunResult, write_result
from trl_dapo.ablation.run_spec import RunSpec, read_spec
from trl_dapo.arena import REGIMES, held_out_dataset, load_warm_start, train_dataset
from trl_dapo.arena.settings import TRAINING_PROMPTS

from .ablate_budget import DEFAULT_REGIME
from .arguments import Arguments
from .commands import ABLATE_RUN
from .errors import UsageError, one_line, report
from .held_out import held_out
from .online import OnlineScriptArguments, online_arguments
from .questions import ARENA
from .script import build_trainer, parse_words
from .unfinished import none_left


CHECKPOINT_WHY = "the last policy of the run when the budget was spent; none was chosen by its score"


@dataclass
class RunScriptArguments(OnlineScriptArguments):
    """
    Arguments of `trl-dapo dapo`, and the folder of the run.

    Args:
        ablation_run (`str`):
            The run's folder, with its `run.json`.
    """

    ablation_run: str = field(default="", metadata={"help": "Folder of the run, with run.json."})


def run_script(argv: list[str]) -> int:
    """Parses, trains and writes the result. Returns 0, or 2 after one line on stderr for what the user can fix."""
    try:
        _run(parse_words(ABLATE_RUN, argv))
    except UsageError as error:
        return report(error)
    return 0


def _run(arguments: Arguments) -> None:
    folder, spec = _folder(arguments), _spec(arguments)
    output_dir = Path(str(arguments.training_args.output_dir))
    if any(output_dir.glob("*checkpoint-*")):
        arguments.training_args.resume_from_checkpoint = True
    resume_from = ABLATE_RUN.load("checkpoint")(arguments.training_args)
    trainer = build_trainer(ABLATE_RUN, arguments)
    recorder = next(one for one in trainer.callback_handler.callbacks if isinstance(one, Recorder))
    with none_left(output_dir, "checkpoints"):
        trainer.train(resume_from_checkpoint=resume_from)
    missing = [match for match in spec.budgets if match not in recorder.ends]
    if missing:
        raise UsageError(
            f"max_steps={trainer.args.max_steps}: the run ended before its budget of {missing[0]} was spent, after "
            f"{trainer.completions_generated} completions. Raise max_steps."
        )
    if spec.keep_model:
        trainer.save_model(str(folder / "model"))
    if trainer.is_world_process_zero():
        _write(folder, spec, trainer, recorder)
        shutil.rmtree(output_dir, ignore_errors=True)
    trainer.accelerator.end_training()


def _write(folder: Path, spec: RunSpec, trainer: Any, recorder: Recorder) -> None:
    result = RunResult(
        row=spec.row,
        seed=spec.seed,
        ends=recorder.ends,
        curve=recorder.curve,
        held_out=recorder.held_out,
        manipulation=means(recorder.curve),
        completions=recorder.completions,
        regime=spec.regime,
        start=_start(spec, trainer.model),
        config=_plain(trainer.args.to_dict()),
        checkpoint={"step": trainer.state.global_step, "why": CHECKPOINT_WHY},
        environment=environment(),
    )
    write_result(folder, result)


def run_arguments(arguments: Arguments) -> dict[str, Any]:
    """Returns the trainer's arguments: those of `trl-dapo dapo`; on the built-in task, start and prompts by seed."""
    given = online_arguments(arguments)
    spec = _spec(arguments)
    if arguments.model_args.model_name_or_path is not None:
        return given
    regime = REGIMES[spec.regime or DEFAULT_REGIME]
    model, tokenizer = load_warm_start(regime.start_of(spec.seed))
    prompts = train_dataset(TRAINING_PROMPTS, spec.seed, regime.lengths)
    return {**given, "model": model, "processing_class": tokenizer, "train_dataset": prompts}


def measure_run(trainer: Any, arguments: Arguments) -> None:
    """Gives the trainer what measures it and stops it when its budgets are spent."""
    found, spec = held_out(arguments.script_args), _spec(arguments)
    data = {name: rows for name, (rows, _) in found.items()}
    if spec.regime is not None and ARENA in data:
        # Questions of the lengths that the regime trains on
        data[ARENA] = held_out_dataset(len(data[ARENA]), lengths=REGIMES[spec.regime].lengths)
    measurement = Measurement(trainer, data, {name: judge for name, (_, judge) in found.items()}, spec.measuring)
    trainer.add_callback(Recorder(trainer, spec, measurement, _folder(arguments)))
    # The result has the logs
    trainer.remove_callback(PrinterCallback)


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    # Numbers that are not finite are no JSON
    return json.loads(json.dumps(config, default=str), parse_constant=str)


def _folder(arguments: Arguments) -> Path:
    return Path(arguments.script_args.ablation_run)


def _spec(arguments: Arguments) -> RunSpec:
    try:
        return read_spec(_folder(arguments))
    except ValueError as error:
        raise UsageError(f"ablation_run={_folder(arguments)}: {one_line(error)}") from error


def _start(spec: RunSpec, model: Any) -> str:
    if spec.regime is None:
        return model.config.name_or_path
    start = REGIMES[spec.regime].start_of(spec.seed)
    return start if REGIMES[spec.regime].warm_start else f"{DEFAULT_REGIME}-{start}"


if __name__ == "__main__":
    sys.exit(run_script(sys.argv[1:]))
