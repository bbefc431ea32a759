"""Real runs on the arena: each fault is found within so many steps of its onset, and healthy runs have none."""

import importlib.util
import sys
from pathlib import Path

import pytest

from diagnosis_faults import FAULTS, findings_of
from trl_dapo.monitor.diagnosis import NAMES, diagnose
from trl_dapo.monitor.history import History
from trl_dapo.monitor.settings import Settings


pytestmark = pytest.mark.slow

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "diagnosis_false_alarms.py"
# A sampler apart needs an engine: `test_diagnosis_engine.py`
ELSEWHERE = {"sampler_apart"}


def test_every_rule_has_a_run_with_its_fault():
    assert FAULTS.keys() | ELSEWHERE == set(NAMES)


@pytest.mark.parametrize("rule", FAULTS)
def test_a_run_with_a_fault_is_found_and_no_other_rule_finds_anything(rule, tmp_path):
    fault = FAULTS[rule]
    findings, _ = findings_of(fault, tmp_path)
    own = [one for one in findings if one.rule == rule]
    assert own, findings
    assert fault.onset < own[0].step <= fault.onset + fault.steps
    assert {one.rule for one in findings} <= {rule, *fault.also}, findings


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("diagnosis_false_alarms", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["dapo", "grpo", "ppo", "dpo", "reward"])
def test_a_healthy_run_has_no_finding(name, benchmark):
    # Of a seed that chose no bound; benchmarks/diagnosis_false_alarms.py has a hundred of these
    log, settings = benchmark.healthy_run(name, 100)
    assert diagnose(History.of(log), Settings(settings)) == ()
