"""Which step of a run a call of the model belongs to: one definition for reports and for random draws."""

from __future__ import annotations

from torch import Tensor

# Samplers of k-diffusion that call the model once more in a step, at the next step's sigma: the correction of Heun, and
# the midpoint of an ancestral step, which with eta 1 falls on it. By the sigma alone it would count as the next step.
AT_NEXT_SIGMA = frozenset(
    {"heun", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_2s_ancestral_cfg_pp", "exp_heun_2_x0", "exp_heun_2_x0_sde"}
)
ROUNDING = 1e-5  # of the sigmas that a sampler computes


class StepCount:
    """Count the steps of a run, from 1: a call belongs to the last step whose sigma is not below its own.

    `sampler` is the name of the sampler; `end_of_first_call` is to be called when a step has made its first prediction,
    which is when samplers call back.
    """

    def __init__(self, sampler: str = "") -> None:
        self._again = sampler in AT_NEXT_SIGMA
        self._open = False
        self._last: tuple[Tensor, int] | None = None

    def end_of_first_call(self) -> None:
        """Note that the next call still belongs to the step of the last one, if the sampler makes such calls."""
        self._open = self._again

    def of(self, sigmas: Tensor, sigma: float, schedule: Tensor | None) -> int:
        """Return the step of a call at `sigma`; each prediction has a tensor `sigmas` of its own.

        It is 0 where there is no schedule, which holds the falling sigmas of the run.
        """
        if schedule is None:
            return 0
        if self._last is not None and self._last[0] is sigmas:
            return self._last[1]
        if self._open and self._last is not None:
            step = self._last[1]
        else:
            step = max(1, int((schedule >= sigma * (1.0 - ROUNDING)).sum()))
        self._open = False
        self._last = sigmas, step
        return step
