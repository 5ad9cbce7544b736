"""LoRA hooks as values, and when a run goes from one keyframe to the next."""

from __future__ import annotations

import math

import pytest
from attention_patchbay.ldm_patched.modules.weight_hooks import (
    Cursor,
    Hook,
    Hooks,
    Keyframe,
    Keyframes,
    WeightChange,
)


def change(name: str) -> WeightChange:
    return WeightChange(name, lambda patcher: {}, lambda patcher: {})


def frames(*pairs: tuple[float, float], guaranteed: int = 1) -> Keyframes:
    found = Keyframes()
    for strength, start in pairs:
        found = found.added(Keyframe(strength, start, guaranteed))
    return found


def to_sigma(percent: float) -> float:
    return math.inf if percent <= 0.0 else 10.0 * (1.0 - percent)


def strengths(keyframes: Keyframes, sigmas: list[float]) -> list[float]:
    cursor, found = Cursor(keyframes, to_sigma, sigmas[0]), []
    for sigma in sigmas:
        cursor.move(sigma)
        found.append(cursor.strength)
    return found


def test_keyframes_are_in_the_order_of_their_starts() -> None:
    keyframes = frames((1.0, 0.5), (2.0, 0.0), (3.0, 0.5))
    assert [frame.strength for frame in keyframes.frames] == [2.0, 1.0, 3.0]


def test_without_keyframes_the_strength_is_1() -> None:
    assert strengths(Keyframes(), [9.0, 5.0]) == [1.0, 1.0]


def test_a_run_goes_to_the_keyframe_of_its_sigma() -> None:
    keyframes = frames((0.1, 0.0), (0.5, 0.3), (0.9, 0.6))
    assert strengths(keyframes, [9.9, 8.0, 7.0, 5.0, 4.0, 0.0]) == [0.1, 0.1, 0.5, 0.5, 0.9, 0.9]


def test_the_same_sigma_again_is_the_same_step() -> None:
    keyframes = frames((0.1, 0.1), (0.5, 0.2), guaranteed=2)
    assert strengths(keyframes, [9.5, 9.5, 9.5, 5.0, 4.0]) == [0.1, 0.1, 0.1, 0.1, 0.5]


def test_a_keyframe_stays_for_its_steps_though_the_next_is_due() -> None:
    keyframes = frames((0.1, 0.1), (0.5, 0.2), (0.9, 0.3), guaranteed=2)
    assert strengths(keyframes, [9.5, 5.0, 4.0, 3.0, 2.0]) == [0.1, 0.1, 0.5, 0.5, 0.9]


def test_keyframes_from_before_the_run_are_passed_over() -> None:
    assert strengths(frames((0.1, 0.0), (0.5, 0.1), (0.9, 0.5)), [5.0, 4.0]) == [0.9, 0.9]


def test_each_change_is_in_a_group_once_with_its_first_keyframes() -> None:
    one, two = change("one"), change("two")
    slow = Hook(one, frames((0.5, 0.0)))
    group = Hooks((slow,)).joined(Hooks((Hook(one, Keyframes()), Hook(two, Keyframes()))))
    assert [hook.change for hook in group.hooks] == [one, two] and group.hooks[0] is slow
    assert group == Hooks((slow, group.hooks[1]))


def test_new_keyframes_are_shared_by_a_group_and_by_no_other() -> None:
    given, group = frames((0.5, 0.0)), Hooks((Hook(change("one"), Keyframes()), Hook(change("two"), Keyframes())))
    timed, again = group.with_keyframes(given), group.with_keyframes(given)
    assert len({hook.keyframes for hook in timed.hooks}) == 1
    assert timed != again and timed.hooks[0].keyframes.frames == given.frames


@pytest.mark.parametrize(
    ("keyframes", "expected"),
    [
        (Keyframes(), [(0.0, 1.0, [1.0])]),
        (frames((0.5, 0.0)), [(0.0, 1.0, [0.5])]),
        (frames((0.5, 0.4)), [(0.0, 0.4, [1.0]), (0.4, 1.0, [0.5])]),
        (frames((0.5, 0.0), (0.5, 0.3), (1.5, 0.6)), [(0.0, 0.6, [0.5]), (0.6, 1.0, [1.5])]),
        (frames((0.5, 0.0), (0.7, 0.0), (1.5, 1.0)), [(0.0, 1.0, [0.7])]),
        (frames((0.5, 1.0)), [(0.0, 1.0, [1.0])]),
    ],
)
def test_parts_of_a_run_in_which_no_strength_changes(
    keyframes: Keyframes, expected: list[tuple[float, float, list[float]]]
) -> None:
    assert Hooks((Hook(change("one"), keyframes),)).clip_schedule() == expected


def test_parts_of_a_run_for_several_hooks() -> None:
    hooks = Hooks((Hook(change("one"), frames((0.1, 0.0), (0.2, 0.5))), Hook(change("two"), frames((3.0, 0.25)))))
    assert hooks.clip_schedule() == [(0.0, 0.25, [0.1, 1.0]), (0.25, 0.5, [0.1, 3.0]), (0.5, 1.0, [0.2, 3.0])]
