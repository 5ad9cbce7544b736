"""Patches of attention as values, and the one way to put them on a model.

- `targets`: block addresses (`parse`, `model_blocks`, `select`)
- `schedule`: when a patch acts (`Schedule`)
- `attention_patch`: elementary changes (`AttentionPatch`)
- `router`: which attention function runs (`Rule`)
- `attach`: `attach_patch`, `attach_rule`, `recorder_of`
- `report`: what ran (`text`, `table`)
"""
