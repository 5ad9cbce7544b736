"""Check a workflow against the nodes there are, before anything runs."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..api.comfy_io import ComfyNode, Refusal
from ..api.dynamic_io import MATCHING
from .brought import Config, brought
from .workflow import Prompt, PromptError, problem, short, title

Catalog = Mapping[str, type[ComfyNode]]
CONVERSIONS: dict[str, type] = {"INT": int, "FLOAT": float, "FLOATS": float, "STRING": str, "BOOLEAN": bool}
LONG_LIST = 20
MOST = 1000  # nodes with errors to tell of
UNLINKED = "not_linked"


def validate(prompt: Prompt, catalog: Catalog, strict: bool = True) -> list[str]:
    """Check a whole workflow and return the ids of the nodes to run, each after those it needs.

    Values are converted to the types of their inputs in place. As ComfyUI, a check that is not strict lets pass inputs
    that a node does not declare, and constants of any type. Raises PromptError with the errors of MOST nodes at most.
    """
    order, node_errors = checked(prompt, catalog, strict)
    if node_errors:
        raise _failed(node_errors)
    return order


def validate_outputs(prompt: Prompt, catalog: Catalog) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Check a workflow as ComfyUI does: an output in whose way there is an error is left out, the others run.

    Return the ids of the nodes to run, and the errors by node. Raises PromptError where no output is left.
    """
    order, node_errors = checked(prompt, catalog, True)
    if not node_errors:
        return order, {}
    known = Classes(catalog)
    bad: set[str] = set()
    for id in order:
        if id in node_errors or any(source in bad for _, source, _ in links(prompt[id])):
            bad.add(id)
    good = [id for id in order if id not in bad and known[prompt[id]["class_type"]].schema.is_output_node]
    if not good or len(node_errors) == MOST:
        raise _failed(node_errors)
    return _order(prompt, good), node_errors


def checked(prompt: Prompt, catalog: Catalog, strict: bool) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Return the ids of the nodes that the outputs need in running order, and the errors of nodes by id.

    Raises PromptError for a workflow that is wrong as a whole.
    """
    known = Classes(catalog)
    for id in prompt:
        check_type(prompt, id, catalog)
    outputs = [id for id, node in prompt.items() if known[node["class_type"]].schema.is_output_node]
    if not outputs:
        how = "add a node that gives something out, such as SaveImage"
        raise PromptError(problem("prompt_no_outputs", "Prompt has no outputs", how))
    order = _order(prompt, outputs)
    node_errors: dict[str, dict[str, Any]] = {}
    for id in order:
        if len(node_errors) == MOST:
            break
        errors = _node_problems(prompt, id, known, strict)
        if errors:
            entry = {"errors": errors, "dependent_outputs": outputs, "class_type": prompt[id]["class_type"]}
            node_errors[id] = {**entry, "name": title(prompt, id)}
    return order, node_errors


def _failed(node_errors: dict[str, dict[str, Any]]) -> PromptError:
    details = "\n".join(f"{e['message']}: {e['details']}" for node in node_errors.values() for e in node["errors"])
    details += f"\nthe check ended at {MOST} nodes with errors" if len(node_errors) == MOST else ""
    message = "Prompt outputs failed validation"
    return PromptError(problem("prompt_outputs_failed_validation", message) | {"details": details}, node_errors)


class Known(NamedTuple):
    """A class, its schema, and its inputs as id, whether it is optional, and type with settings."""

    cls: type[ComfyNode]
    schema: Any
    inputs: tuple[tuple[str, bool, Config], ...]


class Classes(dict[str, Known]):
    """The classes of a catalog, each asked once for its schema: it may look for files."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog

    def __missing__(self, name: str) -> Known:
        cls = self.catalog[name]
        schema = cls.GET_SCHEMA()
        self[name] = Known(cls, schema, tuple((entry.id, entry.optional, entry.info()) for entry in schema.inputs))
        return self[name]


def check_type(prompt: Prompt, id: str, catalog: Catalog) -> None:
    """Raise PromptError for a node of a class that there is not."""
    class_type = prompt[id].get("class_type")
    if isinstance(class_type, str) and class_type in catalog:
        return
    name = title(prompt, id)
    if not isinstance(class_type, str):
        raise PromptError(problem("missing_node_type", f"{name} has no class_type", "the workflow may be damaged"))
    near = difflib.get_close_matches(short(class_type), catalog, 1)
    how = f"did you mean {near[0]}?" if near else "'patchbay nodes' lists those there are"
    extra = {"node_id": id, "class_type": class_type, "node_title": name}
    raise PromptError(problem("missing_node_type", f"{name} is not known here", how, **extra))


def links(node: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """Return the well-formed links into a node as (input, source id, output slot)."""
    found = []
    for name, value in node["inputs"].items():
        if is_link(value):
            found.append((name, value[0], value[1]))
    return found


def is_link(value: Any) -> bool:
    """Return whether an input's value is a link [node id, output slot]."""
    if not (isinstance(value, list) and len(value) == 2):
        return False
    return isinstance(value[0], str) and isinstance(value[1], int) and not isinstance(value[1], bool)


def _order(prompt: Prompt, outputs: list[str]) -> list[str]:
    """Return the nodes that the outputs need in running order, depth first and without recursion.

    Raises PromptError for a cycle, naming its nodes.
    """
    order: list[str] = []
    state: dict[str, str] = {}
    for output in outputs:
        stack = [(output, iter(links(prompt[output])))] if output not in state else []
        state.setdefault(output, "open")
        while stack:
            id, waiting = stack[-1]
            source = next(
                (source for _, source, _ in waiting if source in prompt and state.get(source) != "done"), None
            )
            if source is None:
                state[id] = "done"
                order.append(id)
                stack.pop()
            elif state.get(source) == "open":
                path = [entry for entry, _ in stack]
                raise _cycle(prompt, [*path[path.index(source) :], source])
            else:
                state[source] = "open"
                stack.append((source, iter(links(prompt[source]))))
    return order


def _cycle(prompt: Prompt, ids: list[str]) -> PromptError:
    path = " -> ".join(ids)
    error = problem("dependency_cycle", "Dependency cycle detected", path, node_id=ids[0], cycle_nodes=ids)
    entry = {"errors": [error], "dependent_outputs": [], "class_type": prompt[ids[0]]["class_type"]}
    return PromptError(error, {ids[0]: {**entry, "name": title(prompt, ids[0])}})


def _node_problems(prompt: Prompt, id: str, known: Classes, strict: bool) -> list[dict[str, Any]]:
    """Return what is wrong with the inputs of one node; an empty list if nothing is."""
    node = prompt[id]
    cls, schema, inputs = known[node["class_type"]]
    checked = _checked_by_node(cls)
    errors = []
    there = list(brought(inputs, node["inputs"]))
    for name, optional, config in there:
        if name in node["inputs"]:
            found = _input_problems(prompt, node, name, config, name in checked, known)
            errors += [one for one in found if strict or one["type"] != UNLINKED]
        elif not optional:
            errors.append(_missing(node, name, config))
    strict = strict and not schema.accept_all_inputs
    errors += _refused_inputs(node, {name for name, _, _ in there}) if strict else []
    return errors or _custom_problems(cls, node, checked)


def unknown_inputs(node: Mapping[str, Any], schema: Any) -> list[dict[str, Any]]:
    """Return an error for each input that a node does not declare."""
    entries = [(entry.id, entry.optional, entry.info()) for entry in schema.inputs]
    known = {name for name, _, _ in brought(entries, node["inputs"])}
    return [_unknown(name, known) for name in node["inputs"] if name not in known and not schema.accept_all_inputs]


def _refused_inputs(node: Mapping[str, Any], known: set[str]) -> list[dict[str, Any]]:
    """Return an error for each link to an input that there is not, and for each name that is nearly a known one.

    Other constants are what a page wrote for itself (`upload`), or an older or newer node has; ComfyUI ignores them.
    """
    extra = [name for name in node["inputs"] if name not in known]
    return [
        _unknown(name, known)
        for name in extra
        if isinstance(node["inputs"][name], list) or difflib.get_close_matches(short(name), known, 1)
    ]


def _missing(node: Mapping[str, Any], name: str, config: Config) -> dict[str, Any]:
    hint = f", for example {config[1]['default']!r}" if "default" in config[1] else f"; connect a {config[0]} to it"
    return problem("required_input_missing", "Required input is missing", name + hint, input_name=name)


def _unknown(name: str, known: set[str]) -> dict[str, Any]:
    near = difflib.get_close_matches(short(name), known, 1)
    there = f"there are {', '.join(sorted(known)) or 'none'}"
    how = f"{short(name)}; {f'did you mean {near[0]}?' if near else there}"
    return problem("unknown_input", "The node has no such input", how, input_name=name)


def _input_problems(
    prompt: Prompt, node: Mapping[str, Any], name: str, config: Config, checked: bool, known: Classes
) -> list[dict[str, Any]]:
    value = node["inputs"][name]
    if isinstance(value, list):
        return _link_problems(prompt, name, value, config, known)
    if isinstance(value, dict) and "__value__" in value:
        value = node["inputs"][name] = value["__value__"]
    wanted, settings = config
    extra = {"input_name": name, "input_config": config, "received_value": value}
    if wanted in CONVERSIONS:
        try:
            value = node["inputs"][name] = _convert(value, wanted)
        except (TypeError, ValueError, OverflowError) as error:
            message = f"Failed to convert an input value to a {wanted} value"
            return [problem("invalid_input_type", message, f"{name}, {_short(value)}, {error}", **extra)]
    elif wanted != "COMBO" and not _takes_anything(wanted):
        return [problem(UNLINKED, f"A {wanted} comes from another node", f"connect one to {name}", **extra)]
    if wanted == "COMBO" and checked and isinstance(value, (dict, list)):
        details = f"{name}: {_short(value)} is no choice"
        return [problem("value_not_in_list", "Value not in list", details, input_name=name, received_value=value)]
    if checked:
        return []
    if "min" in settings and value < settings["min"]:
        message = f"Value {value} smaller than min of {settings['min']}"
        return [problem("value_smaller_than_min", message, name, **extra)]
    if "max" in settings and value > settings["max"]:
        message = f"Value {value} bigger than max of {settings['max']}"
        return [problem("value_bigger_than_max", message, name, **extra)]
    if wanted == "COMBO" and "options" in settings and value not in settings["options"]:
        return [_not_in_list(name, value, settings["options"])]
    return []


def _takes_anything(wanted: str) -> bool:
    """Return whether a value that is not linked may have any type: ComfyUI checks none for these."""
    return wanted in ("*", "IMAGECOMPARE") or any(part in CONVERSIONS for part in wanted.split(","))


def _convert(value: Any, wanted: str) -> Any:
    if isinstance(value, (dict, list)) or value is None:
        raise TypeError(f"a {type(value).__name__} is not a {wanted}")
    converted = CONVERSIONS[wanted](value)
    if isinstance(converted, float) and not math.isfinite(converted):
        raise ValueError("give a finite number")
    return converted


def _not_in_list(name: str, value: Any, options: list[Any]) -> dict[str, Any]:
    near = difflib.get_close_matches(short(str(value)), map(str, options), 1)
    shown = f"(list of length {len(options)})" if len(options) > LONG_LIST else str(options)
    hint = f"; did you mean {near[0]}?" if near else ""
    details = f"{name}: {_short(value)} not in {shown}{hint}"
    return problem(
        "value_not_in_list",
        "Value not in list",
        details,
        input_name=name,
        received_value=value,
    )


def _link_problems(prompt: Prompt, name: str, value: list[Any], config: Config, known: Classes) -> list[dict[str, Any]]:
    extra = {"input_name": name, "input_config": config, "received_value": value}
    if not is_link(value):
        message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
        return [problem("bad_linked_input", message, name, **extra)]
    source, slot = value
    if source not in prompt:
        return [problem("bad_linked_input", "Bad linked input, there is no such node", f"{name}: {source}", **extra)]
    outputs = [output.io_type for output in known[prompt[source]["class_type"]].schema.outputs]
    if not 0 <= slot < len(outputs):
        details = f"{name}: output {slot} of {title(prompt, source)}, which has {len(outputs)}"
        return [problem("bad_linked_input", "Bad linked input, there is no such output", details, **extra)]
    wanted = config[1]["template"]["allowed_types"] if config[0] == MATCHING else config[0]
    if outputs[slot] != MATCHING and not connects(wanted, outputs[slot]):
        details = f"{name}, received_type({outputs[slot]}) mismatch input_type({wanted})"
        message = "Return type mismatch between linked nodes"
        return [problem("return_type_mismatch", message, details, **extra, received_type=outputs[slot])]
    return []


def _checked_by_node(cls: type[ComfyNode]) -> set[str]:
    """Return the inputs that the node checks itself."""
    method = getattr(cls, "validate_inputs", None)
    return set(inspect.signature(method).parameters) if method is not None else set()


def _custom_problems(cls: type[ComfyNode], node: Mapping[str, Any], checked: set[str]) -> list[dict[str, Any]]:
    if not checked:
        return []
    values = {name: None if is_link(v) else v for name, v in node["inputs"].items() if name in checked}
    answer = cls.validate_inputs(**values)  # type: ignore[attr-defined]
    if answer is True:
        return []
    details = str(answer) if answer is not False else "the node refuses these values"
    extra = {"input_name": answer.widget} if isinstance(answer, Refusal) else {}
    return [problem("custom_validation_failed", "Custom validation failed for node", details, **extra)]


def _short(value: Any) -> str:
    return short(repr(value), 80)


def connects(one: Any, other: Any) -> bool:
    """Return whether two types of slots go together; one may be several, separated by commas."""
    if one in ("*", "", 0) or other in ("*", "", 0) or one == other:
        return True
    first, second = ({part.strip() for part in str(type).lower().split(",")} for type in (one, other))
    return bool(first & second)
