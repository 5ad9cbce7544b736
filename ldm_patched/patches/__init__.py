"""Patches of attention as values, and the one way to put them on a model.

- `patcher`: what is used of a model patcher
- `addressing`: block addresses, schedules, model families
- `record`: what nodes attached to a model (`Plan`), what a run did (`Run`), and the runs by their latents (`ARCHIVE`)
- `engine`: declarations, the attention call as a method sees it (`Site`), places on a model, `attach(model, method)`
- `methods`: one method a file
- `routing`: which attention function runs: rules, tuning, the NaN guard
- `reading`: report, inspector, maps, presets, and taking patches off again
"""
