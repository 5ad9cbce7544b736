from __future__ import annotations

import torch
from attention_patchbay.ldm_patched.patches.engine.site import Site
from attention_patchbay.ldm_patched.patches.record.plan import KEY
from attention_patchbay.ldm_patched.patches.record.run import Run

SCHEDULE = torch.tensor([14.6, 5.0, 1.2, 0.03, 0.0])


def test_the_step_is_the_nearest_place_in_the_schedule() -> None:
    run = Run()
    for sigma, step in ((14.6, 1), (5.0, 2), (1.19, 3), (0.9, 3), (0.03, 4), (0.0, 5)):
        options = {"sigmas": torch.tensor([sigma, sigma]), "sample_sigmas": SCHEDULE}
        assert run.step(options) == run.step(options) == step
    assert Run().step({}) == Run().step({"sigmas": SCHEDULE}) == 0


def test_draws_come_from_the_step_and_leave_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()

    def drawn(sigma: float) -> torch.Tensor:
        site = Site({KEY: Run(), "sigmas": torch.tensor([sigma]), "sample_sigmas": SCHEDULE})
        return torch.randint(100, (9,), generator=site.generator())

    first, again, other = drawn(1.2), drawn(1.2), drawn(0.03)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(first, torch.randint(100, (9,), generator=torch.Generator().manual_seed(2)))
    assert torch.equal(torch.random.get_rng_state(), before)
