// What stands below the rules of a LoRA while they are written: ready-made ones, how they are read, and the first error.
import { chip } from './chip.js'
import { presets } from './lora_presets.js'
import { read } from './lora_rules.js'
import { RuleEditor } from './rule_editor.js'
import { say } from './say.js'

export class LoraEditor extends RuleEditor {
  /**
   * @param {() => string} text gives the rules
   * @param {(text: string) => void} store keeps new ones
   */
  constructor(text, store) {
    super(text, store)
    this.presets = document.createElement('div')
    this.presets.setAttribute('role', 'group')
    this.presets.setAttribute('aria-label', say('Ready-made rules'))
    this.element.prepend(this.presets)
    this.offer()
  }

  /** @param {import('./faults.js').Known | null} model what the rules are for */
  knowModel(model) {
    super.knowModel(model)
    this.offer()
  }

  /** Show the rules that are ready for the model. */
  offer() {
    this.presets.replaceChildren(
      ...presets(this.model?.blocks ?? []).map(({ name, text, means }) => {
        const button = chip(name, () => {
          this.store(text)
          this.refresh()
        })
        button.title = `${means}:\n${text}`
        return button
      })
    )
  }

  rules() {
    const { rules, faults } = read(this.text(), this.model)
    return { rules: rules.map(({ strength, ...rule }) => ({ ...rule, given: String(strength) })), faults }
  }

  possible() {
    return ['0', '0.5', '1']
  }
}
