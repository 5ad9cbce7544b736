"""Nodes that make and change noise levels."""

from __future__ import annotations

from .case import T, of

SIGMAS = T((8,), 30, "sigmas")
ENDS = {"sigma_max": (14.6, 80.0), "sigma_min": (0.03, 0.5)}
SCHEDULES = [
    *of("KarrasScheduler", steps=(1, 5, 20), **ENDS, rho=(1.0, 7.0)),
    *of("ExponentialScheduler", steps=(1, 5, 20), **ENDS),
    *of("PolyexponentialScheduler", steps=(1, 5, 20), **ENDS, rho=(0.5, 1.0, 3.0)),
    *of("VPScheduler", steps=(1, 5, 20), beta_d=(19.9, 5.0), beta_min=0.1, eps_s=(0.001, 0.1)),
    *of("AlignYourStepsScheduler", model_type=("SD1", "SDXL", "SVD"), steps=(1, 5, 10, 25), denoise=(0.0, 0.3, 1.0)),
    *of("SplitSigmas", sigmas=SIGMAS, step=(0, 3, 7, 99)),
    *of("SplitSigmasDenoise", sigmas=SIGMAS, denoise=(0.0, 0.3, 1.0)),
    *of("FlipSigmas", sigmas=SIGMAS),
    *of("SetFirstSigma", sigmas=SIGMAS, sigma=(0.0, 99.5)),
    *of(
        "ExtendIntermediateSigmas",
        sigmas=SIGMAS,
        steps=(1, 2, 5),
        start_at_sigma=(-1.0, 8.0),
        end_at_sigma=(0.0, 4.0),
        spacing=("linear", "cosine", "sine"),
    ),
    *of("ManualSigmas", sigmas=("1, 0.5", "14.6,2 .5;0", "-1 1e3", "")),
]
