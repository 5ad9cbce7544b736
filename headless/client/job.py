"""A job on a ComfyUI server: what came of it, and how it can fail."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..engine.workflow import Prompt, PromptError, problem, title
from .answers import as_dict, as_list, files_of


class ServerUnreachable(ConnectionError):
    """No ComfyUI answers at an address; `final` where asking again cannot help: somebody else answers, or refuses."""

    def __init__(self, text: str, final: bool = False) -> None:
        self.final = final
        super().__init__(text)


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
    """The server knows nothing of the job any more: it was `restarted`, or the job was deleted there."""

    def __init__(self, text: str, restarted: bool = False) -> None:
        self.restarted = restarted
        super().__init__(text)


@dataclass
class Result:
    """What came of a job: what each node showed, the nodes taken from the cache, and the seconds of the others.

    Args:
        refused: the errors of nodes whose outputs the server left out, by node.
    """

    prompt_id: str
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    cached: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    refused: dict[str, dict[str, Any]] = field(default_factory=dict)

    def images(self) -> Iterator[dict[str, Any]]:
        """Return the files that nodes saved or previewed: filename, subfolder and type of each."""
        for output in self.outputs.values():
            yield from files_of(output)

    def texts(self) -> Iterator[str]:
        """Return the texts that nodes showed."""
        for output in self.outputs.values():
            text = output.get("text")
            yield from (one for one in ([text] if isinstance(text, str) else as_list(text)) if isinstance(one, str))


def refused(answer: Any) -> PromptError:
    """Return the error of a workflow that /prompt refused, with the words of each node."""
    answer = as_dict(answer)
    error = answer.get("error")
    said = problem("no_prompt", "The server refused the workflow", str(error or answer)[:500])
    error = error if isinstance(error, dict) and isinstance(error.get("message"), str) else said
    found = {}
    for id, entry in as_dict(answer.get("node_errors")).items():
        if isinstance(entry, dict):
            errors = [problem("", "", "") | one for one in as_list(entry.get("errors")) if isinstance(one, dict)]
            found[str(id)] = {**entry, "errors": errors, "name": f"node {id} {entry.get('class_type', '')}".rstrip()}
    return PromptError(problem("", "", "") | error, {id: entry for id, entry in found.items() if entry["errors"]})
