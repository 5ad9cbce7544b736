"""Patches of attention as values, and the one way to put them on a model.

- `targets`: block addresses (`parse(text) -> Address`, `model_blocks(model)`, `select(address, model)`)
- `block_map`: every block with heads and token size (`block_map(model)`)
- `schedule`: when a patch acts (`Schedule(start_percent, end_percent, curve)`)
- `attention_patch`: elementary changes (`AttentionPatch(slot, operation, value, strength, address, schedule)`)
- `reweighting`, `prompt_to_prompt`, `map_injection`: attention maps of words and pictures, weighted or taken over
- `token_merging`, `tiling`, `downsampling`, `temperature`: fewer tokens, flatter or sharper attention
- `block_scaling`, `block_skip`, `whole_block_skip`: change or leave out blocks; `style_aligned`, `reference`: share
  self-attention across a batch or with another picture
- `capture`: where the words of a prompt draw (`Capture(words, length, address, schedule)`); `point_capture`: what a
  point of the picture looks at; `gathered`: both after the run (`captured(model)`, `heat(sums, size)`)
- `inspector`: everything on a model and what of it is dead (`text(model)`, `rows(model)`)
- `inventory` lists what is on a model, `manage` removes and copies it, `preset` keeps it as text
- `guidance` (by `weak_attention`, `sliding_window`), `self_attention_guidance`, `normalized_guidance`,
  `sparse_attention`, `regions`, `word_mask`: one method each
- `router`: which attention function runs (`Rule(backend, address, schedule)`)
- `rules`: the same as text (`parse_rules(text)`, `attach_rules(model, rules)`)
- `sentinel`: results that are not finite (`Sentinel(mode, address)`)
- `tuning`: the fastest functions of a machine (`tune(call, seconds, check)`, `write_rules(...)`); `tuning_store` keeps
  what was measured
- `attach`: `attach(model, method, host)` and `attach_rule(model, rule)` give a patched clone, `recorder_of(model)` what
  its last run recorded
- `hook`: what a method is made of (`Method`, `Around`, `Listed`, `AfterCfg`), and what it needs of the host (`Host`)
- `report`: what ran (`text(recorder)`, `table(recorder)`)

Below these: `families` and `contracts` know how models other than UNets call patches; `stack` composes patches that
replace an attention, `gate` tells when one acts, `recorder` counts; `grid` has the tokens as a picture, `context` more
prompts for cross-attention.
"""
