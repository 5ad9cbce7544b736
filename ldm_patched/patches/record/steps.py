"""Which step of a run a call of the model belongs to: one definition for reports and for random draws."""

from __future__ import annotations

from torch import Tensor

# Samplers of k-diffusion that call the model again in a step, at the sigmas of the next steps: the corrections of Heun
# and Heun++, and the midpoint of an ancestral step, which with eta 1 falls on one. By the sigma alone such a call would
# count as a later step.
MORE_CALLS = {
    "heun": 1,
    "heunpp2": 2,
    "dpm_2_ancestral": 1,
    "dpmpp_2s_ancestral": 1,
    "dpmpp_2s_ancestral_cfg_pp": 1,
    "exp_heun_2_x0": 1,
    "exp_heun_2_x0_sde": 1,
}
ROUNDING = 1e-5  # of the sigmas that a sampler computes


class StepCount:
    """Count the steps of a run, from 1: a call belongs to the last step whose sigma is not below its own.

    `sampler` is the name of the sampler; `end_of_first_call` is to be called when a step has made its first prediction,
    which is when samplers call back.
    """

    def __init__(self, sampler: str = "") -> None:
        self._more = MORE_CALLS.get(sampler, 0)
        self._made = self._more  # further calls of the step that runs
        self._last: tuple[Tensor, int] | None = None

    def end_of_first_call(self) -> None:
        """Note that the next calls still belong to the step of the last one, if the sampler makes such calls."""
        self._made = 0

    def of(self, sigmas: Tensor, sigma: float, schedule: Tensor | None) -> int:
        """Return the step of a call at `sigma`; each prediction has a tensor `sigmas` of its own.

        It is 0 where there is no schedule, which holds the falling sigmas of the run.
        """
        if schedule is None:
            return 0
        if self._last is not None and self._last[0] is sigmas:
            return self._last[1]
        last = 0 if self._last is None else self._last[1]
        self._made += 1
        # near its end a run has no sigma left for all further calls
        if last and self._made <= self._more and last + self._made < len(schedule):
            step = last
        else:
            step = max(1, int((schedule >= sigma * (1.0 - ROUNDING)).sum()))
        self._last = sigmas, step
        return step
