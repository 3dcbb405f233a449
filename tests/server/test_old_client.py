"""openai 0.28, unchanged but for address and key, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from .conftest import Running

# The first program of the mission, and the other ways its users call the same package.
PROGRAM = """
import json, openai
openai.api_base, openai.api_key = {url!r}, "any"

response = openai.Completion.create(engine="davinci-codex", prompt="Write a short story about a river",
                                    temperature=0.7, max_tokens=150)
print(json.dumps(response.choices[0].text))

how = dict(engine="davinci-codex", prompt="The river", temperature=0, max_tokens=20)
print(json.dumps(openai.Completion.create(**how).choices[0].text))
print(json.dumps("".join(part.choices[0].text for part in openai.Completion.create(stream=True, **how))))
print(json.dumps(openai.Completion.create(model="tiny", prompt="The river", temperature=0, max_tokens=20).usage.total_tokens))
chat = dict(messages=[{{"role": "user", "content": "Hello"}}], temperature=0, max_tokens=9)
print(json.dumps(openai.ChatCompletion.create(model="tiny", **chat).choices[0].message.content))
print(json.dumps(openai.ChatCompletion.create(engine="davinci-codex", **chat).choices[0].message.content))
print(json.dumps([entry.id for entry in openai.Model.list().data]))
try:
    openai.Completion.create(engine="davinci-codex", prompt="x", n=1000)
except openai.error.InvalidRequestError as error:
    print(json.dumps(error.param))
"""


def test_the_program_of_the_mission_runs_unchanged(running: Running, old_openai: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(url=running.url))
    environment = {**os.environ, "PYTHONPATH": str(old_openai)}
    done = subprocess.run([sys.executable, str(program)], env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    story, text, streamed, total, chat, engine_chat, names, param = map(json.loads, done.stdout.splitlines())
    model = running.service.models["tiny"]
    expected = model.generate("The river", temperature=0, max_tokens=20)
    assert isinstance(story, str)
    assert text == streamed == expected.text
    assert total == expected.prompt_tokens + expected.completion_tokens
    assert chat == engine_chat == model.chat([{"role": "user", "content": "Hello"}], temperature=0, max_tokens=9).text
    assert "davinci-codex" in names and param == "n"
