"""A job on a ComfyUI server: what came of it, and how it can fail."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..engine.workflow import Prompt, PromptError, problem, title


class ServerUnreachable(ConnectionError):
    """No ComfyUI answers at an address."""


class JobFailed(RuntimeError):
    """A node failed; the text names it. `data` is what the server said."""

    def __init__(self, prompt: Prompt, data: Mapping[str, Any]) -> None:
        self.data = dict(data)
        id = str(data.get("node_id"))
        where = title(prompt, id) if id in prompt else f"node {id} {data.get('node_type', '')}".rstrip()
        super().__init__(f"{where}: {str(data.get('exception_message', 'failed')).strip()}")


class JobInterrupted(RuntimeError):
    """Somebody stopped the job."""


class JobLost(RuntimeError):
    """The server knows nothing of the job any more: it was restarted, or the job was deleted there."""


@dataclass
class Result:
    """What came of a job: what each node showed, the nodes taken from the cache, and the seconds of the others."""

    prompt_id: str
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    cached: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)

    def images(self) -> Iterator[dict[str, str]]:
        """Return the files that nodes saved or previewed: filename, subfolder and type of each."""
        for output in self.outputs.values():
            for entries in output.values():
                if isinstance(entries, list):
                    yield from (entry for entry in entries if isinstance(entry, dict) and "filename" in entry)

    def texts(self) -> Iterator[str]:
        """Return the texts that nodes showed."""
        for output in self.outputs.values():
            yield from (text for text in output.get("text") or [] if isinstance(text, str))


def refused(answer: Any) -> PromptError:
    """Return the error of a workflow that /prompt refused, with the words of each node."""
    answer = answer if isinstance(answer, dict) else {}
    error = answer.get("error")
    if not isinstance(error, dict):
        error = problem("no_prompt", "The server refused the workflow", str(error or answer)[:500])
    nodes = answer.get("node_errors")
    found = {}
    for id, entry in nodes.items() if isinstance(nodes, dict) else ():
        found[str(id)] = {**entry, "name": f"node {id} {entry.get('class_type', '')}".rstrip()}
    return PromptError(problem("", "", "") | error, found)
