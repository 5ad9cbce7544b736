from __future__ import annotations

import torch

SCHEDULE = torch.tensor([14.6, 5.0, 1.2, 0.03, 0.0])


def test_the_step_is_the_nearest_place_in_the_schedule() -> None:
    memory: dict = {}
    for sigma, step in ((14.6, 0), (5.0, 1), (1.19, 2), (0.9, 2), (0.03, 3), (0.0, 4)):
        options = {"sigmas": torch.tensor([sigma, sigma]), "sample_sigmas": SCHEDULE}
        assert step_number(options, memory) == step_number(options, memory) == step
    assert step_number({}, {}) == step_number({"sigmas": SCHEDULE}, {}) == 0


def test_draws_come_from_the_step_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first, again, other = (torch.randint(100, (9,), generator=step_generator(step)) for step in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)
