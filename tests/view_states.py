"""Hand-made states of the live view."""

from trl_dapo.monitor.finding import Finding
from trl_dapo.view.metrics import metrics_of
from trl_dapo.view.samples import Sample
from trl_dapo.view.state import Rollout, RunState


# A class of this name is what the metrics are chosen by
DAPOConfig = type("DAPOConfig", (), {})


def entry(step: int) -> dict[str, float | None]:
    """The log of a step: accuracy rises in 40 steps from 0.2 to 0.6, entropy falls; every eighth has no token."""
    without = step % 8 == 0
    return {
        "loss": 0.01 * (-1) ** step,
        "reward": -0.5 + 0.025 * step,
        "dapo/accuracy_generated": 0.2 + 0.01 * step,
        "dapo/frac_informative": 0.5,
        "dapo/samples_per_informative_group": 16.0,
        "entropy": 1.0 - 0.02 * step,
        "dapo/mean_length_generated": 140 + step,
        "dapo/overlong_frac": 0.0,
        "clip_ratio/high_mean": None if without else 0.001 * step,
        "clip_ratio/low_mean": None if without else 0.0005,
        "grad_norm": 0.1 + 0.001 * (step % 3),
        "learning_rate": 1e-6,
        "completions/mean_terminated_length": 12.0,
    }


def going() -> RunState:
    """A run at step 40 of 100: 2 seconds and 64 completions a step, in the second round of its rollout."""
    _, metrics = metrics_of(DAPOConfig())
    state = RunState("DAPO · run-7", metrics, max_steps=100)
    for step in range(1, 41):
        state.units += 64
        state.stepped(step, now=2.0 * step)
        state.logged(entry(step), step)
    state.logged({"eval_gsm8k_avg@8": 0.4125, "eval_gsm8k_pass@8": 0.7, "eval_gsm8k_maj@8": 0.5}, 40)
    state.rollout, state.phase = Rollout(kept=11, wanted=16, finished=1, most=10), "generating"
    state.samples = (
        Sample("right", "Q: What is 3 + 4?", "3 + 4 is 7.⏎Answer: 7", 1.0, 40),
        Sample("wrong", "Q: [bold]What[/bold] is 9 - 4?", "Let me think. " * 30 + "Answer: [red]14[/red]", 0.0, 40),
    )
    state.findings = (
        Finding("entropy_collapse", 31, 38, "entropy fell from 1.0 to 0.2.", {}, ("epsilon_high=0.28",), "", ""),
    )
    return state
