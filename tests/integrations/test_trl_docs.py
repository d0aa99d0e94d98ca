"""The scripts of docs/trl.md."""

import ast
import re
from pathlib import Path

import pytest

pytest.importorskip("trl", reason="the integration needs TRL: pip install .[trl]")

PAGE = Path(__file__).parents[2] / "docs" / "trl.md"
FIRST, SECOND = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_values_of_the_first_script_are_the_defaults(tmp_path):
    from aent.integrations.trl import AEntGRPOConfig

    defaults = AEntGRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False)
    calls = [node for node in ast.walk(ast.parse(FIRST)) if isinstance(node, ast.Call)]
    (call,) = [node for node in calls if ast.unparse(node.func) == "AEntGRPOConfig"]
    shown = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
    assert shown["token_space"] == defaults.token_space
    assert shown["coefficient_rule"] | {"pull": 0.0} == defaults.coefficient_rule


def test_the_script_without_downloads_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    script = SECOND.replace("STEPS = 30", "STEPS = 2")
    assert script != SECOND
    exec(compile(script, str(PAGE), "exec"), {})
    (printed,) = [line for line in capsys.readouterr().out.splitlines() if "{'reward'" in line]
    values = ast.literal_eval(printed[printed.index("{'reward'") :])
    assert values["entropy/coefficient"] == 0.02
    assert 7 < values["entropy/clamped"] < values["entropy/full"]
