"""What a host can do. A host tells it by what it tried; nothing asks for a version."""

from __future__ import annotations

from dataclasses import dataclass

# What wrappers of a call of the model and of a whole sampling get, in this order; more may follow.
CALL = ("x", "t", "c_concat", "c_crossattn", "control", "transformer_options")
SAMPLE = ("noise", "latent_image", "sampler", "sigmas", "denoise_mask", "callback")


@dataclass(frozen=True)
class Capabilities:
    """The answers of one host.

    Args:
        host: its name.
        override: whether attention asks the override of a model, with the function that would run otherwise first.
        containers: whether an override gets q, k and v in the containers that the model made of them.
        preferences: whether the function runs that a checkpoint keeps for a layer.
        compiler: whether there is a memory compiler that can be told to pause.
        functions: the names of its attention functions, those that run on this machine.
        call: what wrappers of a call of the model get.
        sample: what wrappers of a sampling get.
    """

    host: str = "the host without ComfyUI"
    override: bool = True
    containers: bool = False
    preferences: bool = False
    compiler: bool = False
    functions: tuple[str, ...] = ()
    call: tuple[str, ...] = CALL
    sample: tuple[str, ...] = SAMPLE

    def refusal(self, rule: bool) -> str | None:
        """Return why nothing, or no `rule`, can be put on a model of this host; None if it can."""
        for what, given, needed in (("call of a model", self.call, CALL), ("sampling", self.sample, SAMPLE)):
            if given[: len(needed)] != needed:
                return (
                    f"{self.host} hands a wrapper of each {what} ({', '.join(given)}), and Attention Patchbay knows "
                    f"({', '.join(needed)}); update Attention Patchbay"
                )
        if rule and not self.override:
            return f"attention of {self.host} does not ask an override, so no rule can choose it; update ComfyUI"
        return None

    def __str__(self) -> str:
        """Return one line for the report."""
        known = {
            "override": self.override,
            "containers": self.containers,
            "preferences": self.preferences,
            "memory compiler": self.compiler,
        }
        parts = [f"{name} {'yes' if there else 'no'}" for name, there in known.items()]
        return f"On {self.host}: {', '.join(parts)}; functions {', '.join(self.functions) or 'none'}."
